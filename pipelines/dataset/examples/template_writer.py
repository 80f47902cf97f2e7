"""What a chat template writes for messages, with marks (marks.py) in place of their contents or without."""

from collections.abc import Iterator, Sequence
from datetime import date
from itertools import pairwise
from typing import Any, NamedTuple

from jinja2.exceptions import UndefinedError

from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.examples.marks import Marks, find_reserved
from pipelines.dataset.examples.sandbox import BoundedEnvironment
from pipelines.dataset.examples.template_globals import BudgetError

ASSISTANT = "assistant"
PROBES = (
    ("system", "user", ASSISTANT, "user", ASSISTANT),
    ("user", ASSISTANT, "tool", ASSISTANT),
    ("developer", "user", ASSISTANT),
    ("user", ASSISTANT),
)
"""Roles of dialogues that show which tokens a template writes; not every template takes every one."""


class Message(NamedTuple):
    role: str
    content: str


class TemplateWriter:
    """Renders messages with one template."""

    def __init__(self, template: str, chat: ChatFormat) -> None:
        self.name, self._variables = chat.name, dict(chat.variables)
        self._environment = BoundedEnvironment(date.fromisoformat(chat.date) if chat.date else None)
        for text in (template, *self._variables.values()):
            if (character := find_reserved(text)) is not None:
                raise ValueError(f"{self.name} has the private character U+{ord(character):X}; remove it")
        try:
            self._compiled, self.compared = self._environment.build(template)
            self.has_blocks = _has_blocks(self._environment, template)
        except Exception as error:  # a stranger's code: anything may happen
            raise self._refuse(error, "cannot be read") from error

    def write(self, messages: Sequence[Message], *, prompts: bool = False) -> str:
        """The rendering of messages, perhaps with the generation prompt. Raises ValueError if the template
        refuses them."""
        try:
            return self._write(messages, has_marks=False, prompts=prompts)
        except Exception as error:
            raise self._refuse(error, "does not take the messages") from error

    def try_marked(self, marked: Sequence[Message], *, prompts: bool = False) -> str | None:
        """The rendering of messages with marks, perhaps with the generation prompt; None = the template does
        not take them: it took a mark for something else, or refuses a beginning, such as one without a user.

        Raises ValueError if the budget is spent.
        """
        try:
            return self._write(marked, has_marks=True, prompts=prompts)
        except BudgetError as error:
            raise self._refuse(error, "does not take the messages") from error
        except Exception:
            return None

    def probe(self) -> Iterator[str]:
        """Texts that the template writes around contents, in dialogues of several kinds.

        Raises ValueError if the budget is spent on them: it would be on every document.
        """
        for roles in PROBES:
            messages = [Message(role, text) for role, text in zip(roles, Marks().hide(roles), strict=True)]
            written = self.try_marked(messages)
            if written is not None:
                yield written

    def _write(self, messages: Sequence[Message], *, has_marks: bool, prompts: bool) -> str:
        variables: dict[str, Any] = {
            **self._variables,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": prompts,
        }
        num_chars = sum(len(message.role) + len(message.content) for message in messages)
        return self._environment.render(self._compiled, variables, num_chars=num_chars, has_marks=has_marks)

    def _refuse(self, error: Exception, does: str) -> ValueError:
        name, detail = type(error).__name__, str(error)[:200]
        line = getattr(error, "lineno", None)
        at = f" in line {line}" if line else ""
        remedy = "correct it, or let dataset.tokenizer.chat.template name another"
        if isinstance(error, UndefinedError) and "strftime_now" in detail:
            remedy = "it writes the date: set dataset.tokenizer.chat.date=YYYY-MM-DD, the same for every run"
        return ValueError(f"{self.name} {does}{at} ({name}: {detail}); {remedy}")


def _has_blocks(environment: BoundedEnvironment, template: str) -> bool:
    """Whether a template has a {% generation %} block, as Jinja reads it: none in a comment or {% raw %}."""
    tokens = [(kind, text) for _, kind, text in environment.lex(template) if kind != "whitespace"]
    return any(
        kind == "block_begin" and following == ("name", "generation")
        for (kind, _), following in pairwise(tokens)
    )
