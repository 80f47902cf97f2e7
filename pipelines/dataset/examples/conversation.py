"""Conversations to rendered text, with the origin of every character and the targets among them.

The targets of an assistant's turn are what a model has to write there itself: from the end of the prompt (the
rendering of the messages before, with the generation prompt) to the end of the first special token behind the
content, which ends the turn. Where the prompt is no prefix of the rendering, the turn begins with its
content. A template with {% generation %} blocks says itself what the targets are.

Nothing is looked for in the text of a message: marks.py says how the origin of a character is known. Cost:
two renderings, and one for each turn of the assistant.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import numpy as np

from pipelines.dataset.chat_template import ChatFormat
from pipelines.dataset.examples.marks import GENERATION_START, GENERATION_STOP, Marks, Traced, find_reserved
from pipelines.dataset.examples.sandbox import BoundedEnvironment, GenerationBlocks
from pipelines.dataset.examples.special_tokens import Special, SpecialFinder

ASSISTANT = "assistant"
_WITHOUT_BLOCKS = str.maketrans("", "", GENERATION_START + GENERATION_STOP)


class Message(NamedTuple):
    role: str
    content: str


class Rendering(NamedTuple):
    """A conversation as a template writes it."""

    traced: Traced
    specials: list[Special]
    """In order."""
    is_target: np.ndarray
    """(num_chars,) bool"""
    cuts: list[int]
    """Characters before which a prompt ends: no token may go across."""


class ConversationRenderer:
    """Renders conversations with one template."""

    def __init__(self, template: str, chat: ChatFormat, specials: SpecialFinder) -> None:
        self._name, self._variables, self._specials = chat.name, dict(chat.variables), specials
        self._environment = BoundedEnvironment(date.fromisoformat(chat.date) if chat.date else None)
        for text in (template, *self._variables.values()):
            if (character := find_reserved(text)) is not None:
                raise ValueError(f"{self._name} has the private character U+{ord(character):X}; remove it")
        try:
            self._compiled, self._compared = self._environment.build(template)
        except Exception as error:  # a stranger's code: anything may happen
            raise self._refuse(error, "cannot be read") from error
        self._has_blocks = GenerationBlocks.are_in(template)

    def render(self, messages: Sequence[Message]) -> Rendering:
        """The rendering of messages with a turn of the assistant.

        Raises ValueError if the template refuses them, if the origin of some characters is unknown, or if
        nothing ends a turn of the assistant.
        """
        contents = [message.content for message in messages]
        try:
            real = self._write(messages, has_marks=False)
        except Exception as error:
            raise self._refuse(error, "does not take the messages") from error
        traced, marked, written = self._trace(messages, contents, real)
        is_template = traced.message < 0
        specials = self._specials.find(traced.text, is_template)
        prompt_ends = self._find_prompt_ends(messages, marked, written, traced)
        if self._has_blocks:
            turns = traced.generated
            if not any(stop > start for start, stop in turns):
                raise ValueError(f"{self._name} wrote no {{% generation %}} block for these messages")
        else:
            turns = [
                self._find_turn(number, traced, specials, prompt_ends.get(number))
                for number, message in enumerate(messages)
                if message.role == ASSISTANT
            ]
        is_target = np.zeros(len(traced.text), dtype=bool)
        for start, stop in turns:
            is_target[start:stop] = True
        starts = {start for start, _ in turns}
        return Rendering(traced, specials, is_target, sorted(starts & set(prompt_ends.values())))

    def _write(self, messages: Sequence[Message], *, has_marks: bool, prompts: bool = False) -> str:
        variables: dict[str, Any] = {
            **self._variables,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": prompts,
        }
        num_chars = sum(len(message.role) + len(message.content) for message in messages)
        return self._environment.render(self._compiled, variables, num_chars=num_chars, has_marks=has_marks)

    def _trace(
        self, messages: Sequence[Message], contents: list[str], real: str
    ) -> tuple[Traced, list[Message], str]:
        """The rendering with its origins, the messages with marks, and what the template wrote for them."""
        kept = {each for each in self._compared if any(each in content for content in contents)}
        kept_is_safe = not any(self._specials.is_in(content) for content in contents)
        ways: list[dict[str, Any]] = [{"trims": False}, {"trims": True}]
        if kept and kept_is_safe:
            ways.append({"trims": True, "keeps": kept})
        for way in ways:
            marks = Marks()
            replaced = marks.replace(contents, **way)
            marked = [Message(old.role, text) for old, text in zip(messages, replaced, strict=True)]
            try:
                written = self._write(marked, has_marks=True)
            except Exception:  # noqa: S112 - it took a mark for something else
                continue
            traced = marks.put_back(written, contents)
            if traced.text == real:
                return traced, marked, written
        raise ValueError(
            f"{self._name} changes the text of a message (other than by trimming it), so it is not known "
            "which characters are whose; let dataset.tokenizer.chat.template name one that writes contents "
            "as they are"
        )

    def _find_prompt_ends(
        self, messages: Sequence[Message], marked: list[Message], written: str, traced: Traced
    ) -> dict[int, int]:
        """Number of a turn of the assistant -> where the prompt for it ends, if it begins the rendering."""
        written, found = written.translate(_WITHOUT_BLOCKS), {}
        for number, message in enumerate(messages):
            if message.role != ASSISTANT:
                continue
            try:
                prompt = self._write(marked[:number], has_marks=True, prompts=True)
            except Exception:  # noqa: S112 - templates may refuse a beginning, such as one without a user
                continue
            prompt = prompt.translate(_WITHOUT_BLOCKS)
            if written.startswith(prompt):
                found[number] = int(traced.ends[len(prompt)])
        return found

    def _find_turn(
        self, number: int, traced: Traced, specials: list[Special], prompt_end: int | None
    ) -> tuple[int, int]:
        """First character and last + 1 of a turn of the assistant."""
        own = np.flatnonzero(traced.message == number)
        if not len(own):
            raise ValueError(f"{self._name} leaves out message {number + 1}, a turn of the assistant")
        first, last = int(own[0]), int(own[-1]) + 1
        inside = traced.message[first:last]
        others = np.flatnonzero((traced.message >= 0) & (traced.message != number))
        before, behind = others[others < first], others[others >= last]
        if ((inside >= 0) & (inside != number)).any():
            raise ValueError(f"{self._name} writes message {number + 1} in several places")
        start = first
        if prompt_end is not None and (int(before[-1]) + 1 if len(before) else 0) <= prompt_end <= first:
            start = prompt_end
        limit = int(behind[0]) if len(behind) else len(traced.text)
        stop = next((each.stop for each in specials if last <= each.start and each.stop <= limit), None)
        if stop is None:
            raise ValueError(
                f"{self._name} ends message {number + 1}, a turn of the assistant, in no special "
                "token of the tokenizer, so a model would never learn to stop; write one behind the content, "
                "such as {{ eos_token }}"
            )
        return start, stop

    def _refuse(self, error: Exception, does: str) -> ValueError:
        name, detail = type(error).__name__, str(error)[:200]
        line = getattr(error, "lineno", None)
        at = f" in line {line}" if line else ""
        return ValueError(
            f"{self._name} {does}{at} ({name}: {detail}); correct it, or let "
            "dataset.tokenizer.chat.template name another"
        )
