"""Where the turns of the assistant begin and end in a rendering.

A turn begins at the end of its prompt: the rendering of the messages before it, with the generation prompt.
Where that is no prefix of the rendering, or the template writes no generation prompt, it begins with its
content. It ends in the special tokens that the template writes behind the content wherever the dialogue ends:
a token that only stands there because another message follows, such as the one that opens this message, would
teach a model to write the message itself.

{% generation %} blocks of a template say themselves what the targets are; they are checked.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from pipelines.dataset.examples.marks import GENERATION_START, GENERATION_STOP, Marks, Traced
from pipelines.dataset.examples.special_tokens import Special, SpecialFinder
from pipelines.dataset.examples.template_writer import ASSISTANT, Message, TemplateWriter

MAX_PROMPT_MESSAGES = 250_000
"""Messages that are rendered for the prompts of one conversation: the turns of 1,000 messages have 250,000
before them. That takes seconds, and grows with the square of the turns."""
_WITHOUT_BLOCKS = str.maketrans("", "", GENERATION_START + GENERATION_STOP)


class Trace(NamedTuple):
    """A rendering and how it was traced."""

    messages: Sequence[Message]
    marked: Sequence[Message]
    """The messages with marks."""
    marks: Marks
    written: str
    """What the template wrote for `marked`."""
    traced: Traced

    @property
    def contents(self) -> list[str]:
        return [message.content for message in self.messages]


class TurnFinder:
    """Finds the turns of the assistant in renderings of one template. `eos_id`: the token that variables name
    as eos_token; None = it is no special token."""

    def __init__(self, writer: TemplateWriter, finder: SpecialFinder, eos_id: int | None) -> None:
        self._writer, self._finder, self._eos_id = writer, finder, eos_id

    def find(self, trace: Trace, specials: list[Special]) -> tuple[list[tuple[int, int]], list[int]]:
        """First character and last + 1 of every turn, and where of these a prompt ends. `specials`: of the
        rendering, in order.

        Raises ValueError if the template leaves out a message, or if nothing ends a turn.
        """
        self._require_all_written(trace)
        prompts = self._find_prompts(trace)
        ends = {number: end for number, (end, _) in prompts.items()}
        if self._writer.has_blocks:
            turns = self._read_blocks(trace, specials)
        else:
            stops = self._find_stops(trace, specials)
            turns = [
                (self._find_start(number, trace, prompts.get(number)), stop) for number, stop in stops.items()
            ]
        return turns, sorted({start for start, _ in turns} & set(ends.values()))

    def find_cuts(self, trace: Trace) -> list[int]:
        """Where the prompts of the turns of the assistant end, in a rendering whose last turn is to be
        written.

        Raises ValueError if the template leaves out a message.
        """
        self._require_all_written(trace)
        prompts = self._find_prompts(trace)
        if self._writer.has_blocks:
            starts = {start for start, _ in trace.traced.generated}
        else:
            starts = {self._find_start(number, trace, prompt) for number, prompt in prompts.items()}
        return sorted(starts & {end for end, _ in prompts.values()})

    def find_end_ids(self, trace: Trace, specials: list[Special]) -> set[int]:
        """The special tokens behind the content of the last message."""
        return {each.token_id for each in self._find_ends(len(trace.messages) - 1, trace.traced, specials)}

    def _require_all_written(self, trace: Trace) -> None:
        is_written = set(np.unique(trace.traced.message).tolist())
        for number, message in enumerate(trace.messages):
            if message.content.strip() and number not in is_written:
                raise ValueError(
                    f"{self._writer.name} leaves out message {number + 1}, a turn of the {message.role}; let "
                    "dataset.tokenizer.chat.template name one that writes it, or give the turn another role "
                    "in dataset.tokenizer.chat.roles, such as {developer: system}"
                )

    def _find_prompts(self, trace: Trace) -> dict[int, tuple[int, str]]:
        """Number of a turn of the assistant -> where the prompt for it ends, if it begins the rendering, and
        the prompt as the template wrote it."""
        numbers = [number for number, message in enumerate(trace.messages) if message.role == ASSISTANT]
        if sum(numbers) > MAX_PROMPT_MESSAGES:
            raise ValueError(
                f"the prompts of its {len(numbers):,} turns of the assistant have {sum(numbers):,} messages, "
                f"at most {MAX_PROMPT_MESSAGES:,} are rendered; split the conversation in its source"
            )
        written, found = trace.written.translate(_WITHOUT_BLOCKS), {}
        for number in numbers:
            prompt = self._writer.try_marked(trace.marked[:number], prompts=True)
            prompt = None if prompt is None else prompt.translate(_WITHOUT_BLOCKS)
            if prompt is not None and written.startswith(prompt):
                found[number] = int(trace.traced.ends[len(prompt)]), prompt
        return found

    def _find_start(self, number: int, trace: Trace, prompt: tuple[int, str] | None) -> int:
        """First character of a turn of the assistant."""
        first, last = _find_content(number, trace.traced)
        message = trace.traced.message
        if ((message[first:last] >= 0) & (message[first:last] != number)).any():
            raise ValueError(f"{self._writer.name} writes message {number + 1} in several places")
        before = np.flatnonzero(message[:first] >= 0)
        if prompt is None or not (int(before[-1]) + 1 if len(before) else 0) <= prompt[0] <= first:
            return first
        if not trace.traced.text[prompt[0] : first].strip():
            return prompt[0]
        # Some templates write the generation prompt inside their loop, or not at all: "" begins every
        # rendering, and the header of the turn would be taken for what the model writes.
        plain = self._writer.try_marked(trace.marked[:number])
        is_prompted = plain is None or not plain.translate(_WITHOUT_BLOCKS).startswith(prompt[1])
        return prompt[0] if is_prompted else first

    def _find_stops(self, trace: Trace, specials: list[Special]) -> dict[int, int]:
        """Number of a turn of the assistant -> its last character + 1."""
        numbers = [number for number, message in enumerate(trace.messages) if message.role == ASSISTANT]
        ends = {number: self._find_ends(number, trace.traced, specials) for number in numbers}
        expected = [each.token_id for each in self._find_last_ends(trace, ends[numbers[-1]])]
        if not expected:
            raise ValueError(
                f"{self._writer.name} ends message {numbers[-1] + 1}, a turn of the assistant, in no special "
                "token of the tokenizer where the dialogue ends there, so a model would never learn to stop; "
                "write one behind the content, such as {{ eos_token }}"
            )
        stops = {}
        for number, own in ends.items():
            _, stops[number] = _find_content(number, trace.traced)
            for each, token_id in zip(own, expected, strict=False):
                if each.token_id != token_id:
                    break
                stops[number] = each.own_stop
        return stops

    def _find_last_ends(self, trace: Trace, found: list[Special]) -> list[Special]:
        """What ends the last turn of the assistant where the dialogue ends there; `found` ends it here."""
        number = max(place for place, message in enumerate(trace.messages) if message.role == ASSISTANT)
        if number == len(trace.messages) - 1:
            return found
        written = self._writer.try_marked(trace.marked[: number + 1])
        if written is None:  # it takes no dialogue that ends there
            return found
        traced = trace.marks.put_back(written, trace.contents)
        return self._find_ends(number, traced, self._finder.find(traced.text, traced.message < 0))

    def _find_ends(self, number: int, traced: Traced, specials: list[Special]) -> list[Special]:
        """The special tokens that end a turn: the first behind its content, and those directly behind that as
        far as eos_token, if it is one of them."""
        _, last = _find_content(number, traced)
        others = np.flatnonzero(traced.message[last:] >= 0)
        limit = last + int(others[0]) if len(others) else len(traced.text)
        place = bisect_left(specials, last, key=lambda each: each.own_start)
        found: list[Special] = []
        for each in islice(specials, place, None):
            if each.own_stop > limit or (found and each.own_start != found[-1].own_stop):
                break
            found.append(each)
        ids = [each.token_id for each in found]
        return found[: ids.index(self._eos_id) + 1 if self._eos_id in ids else 1]

    def _read_blocks(self, trace: Trace, specials: list[Special]) -> list[tuple[int, int]]:
        """The {% generation %} blocks that are not empty."""
        blocks = [(start, stop) for start, stop in trace.traced.generated if start < stop]
        if not blocks:
            raise ValueError(f"{self._writer.name} wrote no {{% generation %}} block for these messages")
        for start, stop in blocks:
            own = trace.traced.message[start:stop]
            last_of = {int(number): start + int(np.flatnonzero(own == number)[-1]) + 1 for number in own}
            for number in sorted(last_of.keys() - {-1}):
                role, last = trace.messages[number].role, last_of[number]
                if role != ASSISTANT:
                    raise ValueError(
                        f"{self._writer.name} writes message {number + 1}, a turn of the {role}, in a "
                        "{% generation %} block, so a model would learn to write it; end the block before it"
                    )
                is_whole = not (trace.traced.message[stop:] == number).any()
                if is_whole and not any(
                    last <= each.own_start and each.own_stop <= stop for each in specials
                ):
                    raise ValueError(
                        f"{self._writer.name} ends the {{% generation %}} block of message {number + 1} "
                        "before a special token, so a model would never learn to stop; write the token that "
                        "ends the turn inside the block"
                    )
        return blocks


def _find_content(number: int, traced: Traced) -> tuple[int, int]:
    """First character and last + 1 of what the template wrote of a message; the end of the text if it wrote
    nothing."""
    own = np.flatnonzero(traced.message == number)
    size = len(traced.text)
    return (int(own[0]), int(own[-1]) + 1) if len(own) else (size, size)
