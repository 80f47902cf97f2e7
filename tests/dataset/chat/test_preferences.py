"""Preferences: the two units of a pair, their targets and places, and what is left out or cut."""

import re

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.encoding import packed_schema
from pipelines.dataset.examples.example import Document, ExampleSettings, Part
from pipelines.dataset.examples.preference import PreferenceExamples
from pipelines.dataset.examples.prompt_response import PromptResponseExamples
from pipelines.dataset.group import PackingJob, make_partition_packer
from pipelines.dataset.packing.one_per_document import pack_one_per_document
from pipelines.dataset.packing.packed import join_rows
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.report.decoding import PieceDecoder
from pipelines.dataset.report.samples import make_sample
from tests.dataset.chat.conversations import (
    END,
    decode,
    decode_targets,
    format_of,
    read_template,
    special_tokenizer,
)

TOKENIZER = special_tokenizer()


def settings_of(template=None, max_tokens=None):
    return ExampleSettings(
        end_token_id=TOKENIZER.token_to_id(END), chat=format_of(template), max_tokens=max_tokens
    )


def pair_of(prompt, chosen, rejected, *, system=None, text=None):
    parts = [Part("prompt", prompt), Part("chosen", chosen), Part("rejected", rejected)]
    parts = parts if system is None else [Part("system", system), *parts]
    joined = "\n\n".join(part.text for part in parts if part.text)
    return Document("d", joined if text is None else text, parts=tuple(parts))


def build(*documents, template=None, max_tokens=None):
    return list(PreferenceExamples(TOKENIZER, settings_of(template, max_tokens)).build(documents))


def ids_of(*texts):
    """Each text encoded alone; END as the token that ends a response."""
    return [
        token
        for text in texts
        for token in ([TOKENIZER.token_to_id(END)] if text is END else TOKENIZER.encode(text).ids)
    ]


def test_a_pair_is_two_units_with_the_responses_as_targets():
    (example,) = build(pair_of("Where is it? ", "On its way.", "No idea"))
    chosen, rejected = example.units
    assert chosen.input_ids.tolist() == ids_of("Where is it? ", "On its way.", END)
    assert rejected.input_ids.tolist() == ids_of("Where is it? ", "No idea", END)
    assert decode_targets(TOKENIZER, chosen) == [f"On its way.{END}"]
    assert decode_targets(TOKENIZER, rejected) == [f"No idea{END}"]
    assert int(chosen.num_bytes[chosen.is_target].sum()) == len("On its way.")
    assert int(rejected.num_bytes[rejected.is_target].sum()) == len("No idea")
    assert (example.num_cut_tokens, example.problem, example.label) == (0, None, None)


def test_a_template_writes_both_units():
    (example,) = build(
        pair_of("我的卡？", "在路上。", "不知道", system="Be kind."), template=read_template("chatml")
    )
    written = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n我的卡？<|im_end|>\n"
    for unit, response in zip(example.units, ("在路上。", "不知道"), strict=True):
        turn = f"<|im_start|>assistant\n{response}<|im_end|>\n"
        assert decode(TOKENIZER, unit.input_ids) == written + turn
        assert decode_targets(TOKENIZER, unit) == [f"{response}<|im_end|>"]


@pytest.mark.parametrize("template", [None, "chatml", "llama3"])
def test_each_unit_is_that_of_prompt_and_response(template):
    template = template and read_template(template)
    (example,) = build(pair_of("a b", "c d", "e", system="s"), template=template)
    alone = PromptResponseExamples(TOKENIZER, settings_of(template))
    for unit, response in zip(example.units, ("c d", "e"), strict=True):
        parts = (Part("system", "s"), Part("prompt", "a b"), Part("response", response))
        (expected,) = alone.build([Document("d", f"s\n\na b\n\n{response}", parts=parts)])
        for name in ("input_ids", "is_target", "num_bytes"):
            assert getattr(unit, name).tolist() == getattr(expected.units[0], name).tolist()


def test_tokens_are_found_in_the_text_of_the_document():
    document = pair_of("Where is it?", "On its way.", "No 主意 idea", system="Be kind.")
    (example,) = build(document, template=read_template("chatml"))
    for unit, response in zip(example.units, ("On its way.", "No 主意 idea"), strict=True):
        is_found = unit.char_start >= 0
        starts, ends = unit.char_start[is_found & unit.is_target], unit.char_end[is_found & unit.is_target]
        assert document.text[starts.min() : ends.max()] == response
        assert document.text[: unit.char_end[is_found & ~unit.is_target].max()] == "Be kind.\n\nWhere is it?"
        columns = (values[is_found].tolist() for values in (unit.input_ids, unit.char_start, unit.char_end))
        for number, start, end in zip(*columns, strict=True):
            own = decode(TOKENIZER, [number])
            assert "\ufffd" in own or document.text[start:end] == own


def test_a_text_of_the_source_s_own_has_no_places():
    (example,) = build(pair_of("a", "b", "c", text="another text"))
    assert all((unit.char_start == -1).all() and (unit.char_end == -1).all() for unit in example.units)


def test_both_units_share_a_row_as_two_segments():
    examples = build(pair_of("Where? ", "Here.", "No"))
    chosen, rejected = examples[0].units
    rows = join_rows(list(pack_one_per_document(examples, length=64)))
    sizes = [len(chosen.input_ids), len(rejected.input_ids)]
    assert rows.input_ids.tolist() == [*chosen.input_ids, *rejected.input_ids]
    assert (rows.segment_doc_ids, rows.segment_num_tokens.tolist()) == (["d", "d"], sizes)
    firsts = [int(np.argmax(unit.is_target)) for unit in (chosen, rejected)]
    assert rows.run_first_token.tolist() == [firsts[0], sizes[0] + firsts[1]]
    assert rows.num_targets.tolist() == [chosen.is_target.sum() + rejected.is_target.sum()]
    assert rows.num_bytes.tolist() == [len("Here.") + len("No")]


@pytest.mark.parametrize(
    ("chosen", "rejected", "max_tokens", "kept"),
    [
        (30, 30, 72, (36, 36)),  # 5 of the prompt, 30, and the end: both fit
        (30, 30, 71, (35, 35)),
        (30, 30, 40, (20, 20)),
        (30, 3, 30, (21, 9)),  # the short one is whole, and the long one gets the rest
        (3, 30, 31, (9, 22)),
        (3, 30, 45, (9, 36)),
    ],
)
def test_what_is_too_long_is_cut_at_the_ends_of_both_responses(chosen, rejected, max_tokens, kept):
    document = pair_of("12345", "x" * chosen, "y" * rejected)  # a token for each character
    (whole,), (cut,) = build(document), build(document, max_tokens=max_tokens)
    sizes = [len(unit.input_ids) for unit in whole.units]
    assert sizes == [5 + chosen + 1, 5 + rejected + 1]
    assert [len(unit.input_ids) for unit in cut.units] == list(kept)
    assert cut.num_cut_tokens == sum(sizes) - sum(kept)
    for short, long in zip(cut.units, whole.units, strict=True):
        for one, other in zip(short, long, strict=True):
            assert one.tolist() == other[: len(one)].tolist()


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (Document("d", "a"), r"has parts \[\], but task preference needs prompt, chosen and rejected"),
        (
            Document("d", "a", parts=(Part("prompt", "a"), Part("chosen", "b"))),
            r"parts \['prompt', 'chosen'\]",
        ),
        (pair_of(" ", "b", "c"), "its prompt is empty; remove it from its source"),
        (pair_of("a", "", "c"), "its chosen is empty"),
        (pair_of("a", "b", " \n"), "its rejected is empty"),
        (pair_of("a", "b", "b"), "its chosen and rejected are equal; remove it from its source"),
        (pair_of("a", "x" * 50 + "1", "x" * 50 + "2"), "are equal; .*raise dataset.packing.sequence_length"),
        (pair_of("a" * 40, "b", "c"), r"leaves no room .*raise dataset.packing.sequence_length \(now 60 "),
    ],
)
def test_a_pair_that_tells_nothing_is_left_out_with_the_reason(document, problem):
    good = pair_of("Where? ", "Here.", "No")
    before, example, after = build(good, document, good, max_tokens=60)
    assert (example.doc_id, example.units) == ("d", [])
    assert re.search(problem, example.problem)
    for neighbour in (before, after):
        expected = [ids_of("Where? ", response, END) for response in ("Here.", "No")]
        assert [unit.input_ids.tolist() for unit in neighbour.units] == expected


def test_white_space_that_the_template_trims_makes_no_difference():
    (example,) = build(pair_of("a", "b", " b\n"), template=read_template("llama3"))
    assert "are equal" in example.problem
    (example,) = build(pair_of("a", "b", " b\n"))
    assert example.problem is None


def test_a_prompt_is_written_without_the_responses():
    builder = PreferenceExamples(TOKENIZER, settings_of(read_template("chatml")))
    one_answer = Document("d", "", parts=(Part("prompt", "a"), Part("chosen", "b")))
    wrong = Document("d", "", parts=(Part("question", "a"),))
    documents = [pair_of("a", "b", "c"), Document("d", "a"), one_answer, wrong]
    *prompts, refused = builder.build_prompts(documents)
    expected = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert [decode(TOKENIZER, prompt.input_ids) for prompt in prompts] == [expected] * 3
    assert refused.input_ids == []
    assert "has parts ['question']" in refused.problem
    assert builder.count_answer_bytes(pair_of("a", "在", "c")) == 4


def test_a_group_of_pairs_becomes_rows_that_hold_every_token_once():
    """The task of the dataset stage without Spark; it counts the tokens itself, before packing and after."""
    pairs = [("Where? ", "Here.", "No"), ("a", "b", "b"), ("Why?", "x" * 90, "y")]
    documents = [
        {
            "doc_id": f"{number:032x}",
            "split": "train",
            "group": 7,
            "source": "s",
            "text": "\n\n".join(pair),
            "parts": [
                {"name": name, "text": text}
                for name, text in zip(("prompt", "chosen", "rejected"), pair, strict=True)
            ],
        }
        for number, pair in enumerate(pairs)
    ]
    job = PackingJob(
        task="preference",
        tokenizer_json=TOKENIZER.to_str(),
        end_token_id=TOKENIZER.token_to_id(END),
        labels=(),
        rules=PackingRules(sequence_length=48),
        chat=format_of(None),
    )
    pack = make_partition_packer(job, packed_schema())
    rows = [row for batch in pack([pa.RecordBatch.from_pylist(documents)]) for row in batch.to_pylist()]
    assert [row["segments"][0]["doc_id"][-1] for row in rows] == ["0", "2"]  # equal responses are left out
    assert [(len(row["segments"]), len(row["doc_keys"]), len(row["targets"])) for row in rows] == [
        (2, 2, 2)
    ] * 2
    long = len(ids_of("Why?", "x" * 90, END)) + len(ids_of("Why?", "y", END))
    assert [row["num_tokens"] + row["num_cut_tokens"] for row in rows][1] == long
    assert rows[1]["num_tokens"] == 48
    sample = make_sample(rows[0], PieceDecoder(TOKENIZER), ())
    shown = ["".join(piece.text for piece in segment.pieces) for segment in sample.segments]
    assert shown == [f"Where? Here.{END}", f"Where? No{END}"]
