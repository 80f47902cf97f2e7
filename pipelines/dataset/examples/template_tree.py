"""The tree of a parsed Jinja template, changed so that the work of a rendering is counted (sandbox.py)."""

from collections.abc import Iterator

from jinja2 import TemplateSyntaxError, nodes

STEP, ITERATE, JOIN, WEIGH, MADE = "count a step", "count items", "join texts", "weigh", "made"
SLICED, WRITTEN, CONTAINS = "sliced", "written", "contains"
"""Names of the filters that count: no template can spell them."""


def find_compared(tree: nodes.Template) -> Iterator[str]:
    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter, nodes.Test)):
        for constant in node.find_all(nodes.Const):
            if isinstance(constant.value, str) and constant.value.strip():
                yield constant.value


def count_work(tree: nodes.Template) -> None:
    """Make every part of a parsed template that can repeat or grow take units of the budget.

    Raises TemplateSyntaxError for `in` within a chain of comparisons.
    """
    for node in list(
        tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.Block))
    ):
        size = sum(1 for _ in node.find_all(nodes.Node))
        step = _filtered(nodes.Const(size), STEP, node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))  # type: ignore[attr-defined]
    _wrap_expressions(tree)
    for output in list(tree.find_all(nodes.Output)):
        size = sum(len(node.data) for node in output.nodes if isinstance(node, nodes.TemplateData))
        if size:
            output.nodes.insert(0, _filtered(nodes.Const(size), WRITTEN, output.lineno))


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
        return _filtered(child, SLICED, child.lineno)
    if isinstance(child, nodes.Compare) and any(operand.op in ("in", "notin") for operand in child.ops):
        return _wrap_contains(child)
    is_compared = isinstance(parent, (nodes.Compare, nodes.Operand)) and field == "expr"
    is_hashed = isinstance(parent, nodes.Pair) and field == "key"
    if (is_compared or is_hashed) and isinstance(child, nodes.Expr) and not isinstance(child, nodes.Const):
        return _filtered(child, WEIGH, child.lineno)
    return child


def _wrap_contains(node: nodes.Compare) -> nodes.Expr:
    """A filter in place of `in`: what a search costs depends on both sides."""
    if len(node.ops) > 1:
        raise TemplateSyntaxError("`in` stands within a chain of comparisons; use `and`", node.lineno)
    (operand,) = node.ops
    found = _filtered(node.expr, CONTAINS, node.lineno, operand.expr)
    return found if operand.op == "in" else nodes.Not(found, lineno=node.lineno)


def _filtered(value: nodes.Expr, name: str, line: int, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(arguments), [], None, None, lineno=line)
