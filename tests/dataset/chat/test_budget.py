"""The budget of a template: what it refuses, that real templates stay within it, and that they stay right."""

import json
import tracemalloc
from datetime import date

import pytest

from pipelines.dataset.examples.sandbox import BASE_UNITS, UNITS_PER_CHAR, BoundedEnvironment
from tests.dataset.chat.bombs import TOO_MUCH
from tests.dataset.chat.conversations import build_chat, read_template

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"a": {"type": "string"}}}}] * 3
BOMBS = (
    *("product", "power", "joined", "text of the template", "nested namespaces", "nested views", "indent"),
    *("many fields", "many fields from a map", "many directives", "many directives by a filter"),
    *("replace by name", "replace in a list", "indent of other lines", "tabs by name", "separators of JSON"),
    *("indent of deep JSON", "digits", "nested cyclers", "arguments of a macro", "search from behind"),
)


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_be_large_is_refused_before_it_is_made(name):
    environment = BoundedEnvironment(None)
    template, _ = environment.build(TOO_MUCH[name])
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match=r"it wants more work|has more than 4096 bits|tojson takes"):
            environment.render(template, {"messages": []}, num_chars=0)
        assert tracemalloc.get_traced_memory()[1] < 16_000_000  # bytes; the budget is 2,000,000 units
    finally:
        tracemalloc.stop()


DIALOGUES = {
    "two turns": [("user", "hi"), ("assistant", "yes")],
    "many short turns": [("user", "a"), ("assistant", "b")] * 5_000,
    "200 turns": [("user", "where is it?"), ("assistant", "It is on the way. " * 30)] * 100,
    "long contents": [
        ("user", "where\n" * 16_000),
        ("assistant", "<think>\na\n</think>\n\n" + "你" * 100_000),
    ],
    "200 calls of tools": [
        ("user", "go"),
        *[("assistant", '{"a": 1}'), ("tool", "[" * 500)] * 99,
        ("assistant", "b"),
    ],
}


@pytest.mark.parametrize("dialogue", DIALOGUES)
@pytest.mark.parametrize("name", ["chatml", "llama3", "generation", "thoughts", "tools"])
def test_templates_of_real_models_stay_far_within_the_budget(name, dialogue):
    environment = BoundedEnvironment(date(2026, 1, 2))
    template, _ = environment.build(read_template(name))
    messages = [{"role": role, "content": content} for role, content in DIALOGUES[dialogue]]
    variables = {"messages": messages, "tools": TOOLS, "bos_token": "<s>", "add_generation_prompt": True}
    num_chars = sum(len(text) for message in messages for text in message.values())
    written = environment.render(template, variables, num_chars=num_chars)
    assert all(message["content"].strip() in written for message in messages if message["role"] == "user")
    assert environment.budget.left > (BASE_UNITS + UNITS_PER_CHAR * num_chars) / 2


def test_long_conversations_are_within_the_budget():
    turns = [("user", "where is it?"), ("assistant", "你" * 200)] * 100
    assert build_chat(read_template("llama3"), turns).is_target.sum() > 20_000


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{{ '%s: %2d%%' % ('a', 7) }}{{ 'In 20245: {}, {b:>3}'.format(1, b='c') }}",
            "a:  7%In 20245: 1,   c",
        ),
        ("{{ 'a\nb' | indent }}{{ 'a\nb' | indent(1, first=true) }}", "a\n    b a\n b"),
        ("{{ [1, 2] | tojson(indent=2) }}{{ {'b': 'é', 'a': 1} | tojson(sort_keys=true) }}", None),
        ("{{ ['b', 'a'] | sort | join(', ') }}{{ ','.join(['a'] | map('upper')) }}", "a, bA"),
        ("{{ 1.25 | round(1) }}{{ 'a,b'.split(',')[-1] }}{{ 'xax'.strip('x') }}", "1.2ba"),
        ("{{ 'a' in 'ab' }}{{ 'c' not in ['a'] }}{{ not 'a' in {'a': 1} }}", "TrueTrueFalse"),
        ("{{ [1, 2, 3][1:] | list }}{{ [1, 2] | first }}{{ [3] | last }}{{ [] | length }}", "[2, 3]130"),
        ("{{ ([{'a': 1}, {'a': 2}] | selectattr('a', 'equalto', 2) | list)[0].a }}", "2"),
        ("{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}", "2"),
        ("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}", "ab"),
        ("{% for k, v in {'a': 1} | items %}{{ k }}{{ v }}{{ loop.cycle('x', 'y') }}{% endfor %}", "a1x"),
    ],
)
def test_what_is_counted_is_still_right(template, expected):
    environment = BoundedEnvironment(None)
    compiled, _ = environment.build(template)
    if expected is None:
        expected = json.dumps([1, 2], indent=2) + '{"a": 1, "b": "é"}'
    assert environment.render(compiled, {}, num_chars=0) == expected
