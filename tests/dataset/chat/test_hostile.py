"""Templates from strangers: nothing is executed, and no template takes all the time or memory there is."""

from datetime import date

import pytest

from pipelines.dataset.examples.sandbox import BoundedEnvironment
from tests.dataset.chat.bombs import TOO_MUCH
from tests.dataset.chat.conversations import build_chat, read_template

TURNS = [("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_template_that_wants_too_much_is_refused(name):
    with pytest.raises(ValueError, match="does not take the messages") as raised:
        build_chat(TOO_MUCH[name], TURNS, date="2026-01-02", end_token_id=2)
    assert "correct it, or let dataset.tokenizer.chat.template name another" in str(raised.value)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception.__globals__['os'] }}",
    "{{ cycler.__init__.__globals__.os.system('id') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ namespace(__class__=1) }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ strftime_now.__globals__['datetime'] }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='assistant') }}",
    "{{ '{0.__class__.__mro__}'.format(1).x.y }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('id') }}",
    "{% extends '/etc/passwd' %}",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_reaches_nothing_outside_of_its_sandbox(escape):
    with pytest.raises(ValueError, match="does not take the messages"):
        build_chat(escape + read_template("chatml"), TURNS, date="2026-01-02")


@pytest.mark.parametrize("attribute", ["__class__", "__init__", "mro", "func_globals", "gi_frame"])
def test_filters_reach_no_private_attribute(attribute):
    environment = BoundedEnvironment(None)
    template, _ = environment.build("{{ [text] | map('attr', name) | first }}{{ text | attr(name) }}")
    assert environment.render(template, {"text": "a", "name": attribute}, num_chars=1) == ""


@pytest.mark.parametrize(
    "broken", ["{% for %}", "{{ " + "[" * 5000 + "]" * 5000 + " }}", "{% if x %}" * 3000, "{{ 'a' | none }}"]
)
def test_a_template_that_cannot_be_read_is_named(broken):
    with pytest.raises(ValueError, match="the chat template cannot be read"):
        build_chat(broken, TURNS)


def test_dates_are_fixed_or_unknown():
    template = (
        "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}"
        "{{ tools is none }}"
    )
    for today, expected in ((date(2026, 1, 2), "02 Jan 2026True"), (None, "26 Jul 2024True")):
        environment = BoundedEnvironment(today)
        compiled, _ = environment.build(template)
        assert environment.render(compiled, {"tools": None}, num_chars=0) == expected
