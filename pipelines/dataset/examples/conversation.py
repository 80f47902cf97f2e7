"""Conversations to rendered text, with the origin of every character and the targets among them.

The targets of an assistant's turn are what a model has to write there itself (turns.py). Nothing is looked
for in the text of a message: marks.py says how the origin of a character is known. Cost: two renderings, one
for each turn of the assistant, and one or two more where a template is unusual.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.dataset.examples.marks import Marks, Traced
from pipelines.dataset.examples.special_tokens import Special, SpecialFinder
from pipelines.dataset.examples.template_writer import PROBES, Message, TemplateWriter
from pipelines.dataset.examples.turns import Trace, TurnFinder


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

    def __init__(self, writer: TemplateWriter, specials: SpecialFinder, eos_id: int | None) -> None:
        self._writer, self._specials = writer, specials
        self._turns = TurnFinder(writer, specials, eos_id)

    def render(self, messages: Sequence[Message]) -> Rendering:
        """The rendering of messages with a turn of the assistant.

        Raises ValueError if the template refuses them or leaves one out, if the origin of some characters is
        unknown, or if nothing ends a turn of the assistant.
        """
        trace = self._trace(messages)
        specials = self._find_specials(trace)
        turns, cuts = self._turns.find(trace, specials)
        is_target = np.zeros(len(trace.traced.text), dtype=bool)
        for start, stop in turns:
            is_target[start:stop] = True
        return Rendering(trace.traced, specials, is_target, cuts)

    def render_prompt(self, messages: Sequence[Message]) -> Rendering:
        """The rendering of messages with the generation prompt. It has no targets, and the cuts of the turns
        of the assistant are those of training.

        Raises ValueError as `render`.
        """
        trace = self._trace(messages, prompts=True)
        cuts = self._turns.find_cuts(trace)
        is_target = np.zeros(len(trace.traced.text), dtype=bool)
        return Rendering(trace.traced, self._find_specials(trace), is_target, cuts)

    def find_ends(self) -> set[int]:
        """The special tokens that end a turn of the assistant, in dialogues of several kinds."""
        found: set[int] = set()
        for roles in PROBES:
            try:
                trace = self._trace([Message(role, role) for role in roles])
            except ValueError:  # it does not take such a dialogue
                continue
            found.update(self._turns.find_end_ids(trace, self._find_specials(trace)))
        return found

    def _find_specials(self, trace: Trace) -> list[Special]:
        return self._specials.find(trace.traced.text, trace.traced.message < 0)

    def _trace(self, messages: Sequence[Message], *, prompts: bool = False) -> Trace:
        """The rendering of messages with its origins."""
        real = self._writer.write(messages, prompts=prompts)
        contents = [message.content for message in messages]
        kept = {each for each in self._writer.compared if any(each in content for content in contents)}
        ways: list[dict[str, Any]] = [{"trims": False}, {"trims": True}]
        if kept:
            ways.append({"trims": True, "keeps": kept, "forbids": self._specials.is_in})
        for way in ways:
            marks = Marks()
            replaced = marks.replace(contents, **way)
            marked = [Message(old.role, text) for old, text in zip(messages, replaced, strict=True)]
            written = self._writer.try_marked(marked, prompts=prompts)
            if written is None:
                continue
            try:
                traced = marks.put_back(written, contents)
            except ValueError as error:
                raise ValueError(f"{self._writer.name} {error}") from error
            if traced.text == real:
                return Trace(messages, marked, marks, written, traced)
        raise ValueError(
            f"{self._writer.name} changes the text of a message (other than by trimming it), so it is not "
            "known which characters are whose; let dataset.tokenizer.chat.template name one that writes "
            "contents as they are"
        )
