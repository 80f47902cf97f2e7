"""The tree of a parsed Jinja template, changed so that the work of a rendering is counted (sandbox.py)."""

from collections.abc import Iterator

from jinja2 import nodes

STEP, ITERATE, JOIN, WEIGH, MADE = "count a step", "count items", "join texts", "weigh", "made"
"""Names of the filters that count: no template can spell them."""


def find_compared(tree: nodes.Template) -> Iterator[str]:
    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter, nodes.Test)):
        for constant in node.find_all(nodes.Const):
            if isinstance(constant.value, str) and constant.value.strip():
                yield constant.value


def count_work(tree: nodes.Template) -> None:
    """Make every part of a parsed template that can repeat or grow take units of the budget."""
    for node in list(
        tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.Block))
    ):
        step = _filtered(nodes.Const(0), STEP, node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))  # type: ignore[attr-defined]
    _wrap_expressions(tree)


def _wrap_expressions(node: nodes.Node) -> None:
    """Replace expressions below `node` by the same ones with their cost."""
    for name, value in list(node.iter_fields()):
        children = value if isinstance(value, list) else [value]
        for place, child in enumerate(children):
            if not isinstance(child, nodes.Node):
                continue
            _wrap_expressions(child)
            wrapped = _wrap(child, node, name)
            if isinstance(value, list):
                value[place] = wrapped
            else:
                setattr(node, name, wrapped)


def _wrap(child: nodes.Node, parent: nodes.Node, field: str) -> nodes.Node:
    if isinstance(child, nodes.Concat):
        return _filtered(nodes.List(child.nodes, lineno=child.lineno), JOIN, child.lineno)
    if isinstance(parent, nodes.For) and field == "iter" and isinstance(child, nodes.Expr):
        return _filtered(child, ITERATE, child.lineno)
    is_loaded = getattr(child, "ctx", "load") == "load"
    if isinstance(child, (nodes.List, nodes.Dict, nodes.Tuple)) and is_loaded:
        return _filtered(child, MADE, child.lineno)
    if isinstance(child, nodes.Getitem) and isinstance(child.arg, nodes.Slice):
        return _filtered(child, MADE, child.lineno)
    is_compared = isinstance(parent, (nodes.Compare, nodes.Operand)) and field == "expr"
    if is_compared and isinstance(child, nodes.Expr) and not isinstance(child, nodes.Const):
        return _filtered(child, WEIGH, child.lineno)
    return child


def _filtered(value: nodes.Expr, name: str, line: int) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=line)
