"""Pairs and their negatives: which texts become units, where they are in their document, what is left out."""

import numpy as np
import pytest
from tokenizers import normalizers

from pipelines.dataset import group
from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.examples.example import Document, ExampleSettings, Part
from pipelines.dataset.examples.retrieval import RetrievalExamples, read_texts
from pipelines.dataset.packing.conservation import TokenCount
from pipelines.dataset.packing.packed import join_rows
from pipelines.dataset.packing.rules import PackingRules
from tests.dataset.styles import bert_style, gpt2_style

CLS, SEP, THE, CARD, HAS, NOT, ARRIVED = 1, 2, 6, 7, 8, 9, 10


def document(*parts, text=None):
    parts = tuple(Part(*part) for part in parts)
    return Document("d", "\n\n".join(part.text for part in parts) if text is None else text, parts=parts)


PAIR = (("query", "the card"), ("positive", "has not arrived"))


def build(*documents, tokenizer=None, max_tokens=None):
    settings = ExampleSettings(max_tokens=max_tokens)
    return list(RetrievalExamples(tokenizer or bert_style(), settings).build(documents))


def test_a_document_becomes_query_positive_and_negatives_in_this_order():
    given = document(("negative", "arrived"), ("positive", "has not arrived"), ("query", "the card"))
    more = document(*PAIR, ("negative", "not"), ("negative", "the"))
    first, second = build(given, more)
    query, positive = [CLS, THE, CARD, SEP], [CLS, HAS, NOT, ARRIVED, SEP]
    assert [unit.input_ids.tolist() for unit in first.units] == [query, positive, [CLS, ARRIVED, SEP]]
    negatives = [[CLS, NOT, SEP], [CLS, THE, SEP]]
    assert [unit.input_ids.tolist() for unit in second.units] == [query, positive, *negatives]
    assert (first.problem, second.problem) == (None, None)


def test_the_target_is_the_first_candidate_and_no_token():
    (example,) = build(document(*PAIR))
    assert example.label == 0
    assert not any(unit.is_target.any() for unit in example.units)


@pytest.mark.parametrize("make", [bert_style, gpt2_style])
def test_characters_lead_back_to_the_text_of_the_document(make):
    given = document(("negative", "the card"), *PAIR[::-1])
    (example,) = build(given, tokenizer=make())
    for unit, text in zip(example.units, ("the card", "has not arrived", "the card"), strict=True):
        inside = unit.char_start >= 0
        assert given.text[unit.char_start[inside].min() : unit.char_end.max()] == text
        assert unit.num_bytes.sum() == len(text)
    starts = [int(unit.char_start[unit.char_start >= 0].min()) for unit in example.units]
    assert starts == [27, 10, 0]  # the query is last in the text, although it is the first unit


def test_parts_that_are_not_in_the_text_have_no_characters():
    (example,) = build(document(*PAIR, text="a title"))
    assert all((unit.char_start == -1).all() and (unit.char_end == -1).all() for unit in example.units)
    assert [int(unit.num_bytes.sum()) for unit in example.units] == [8, 15]


def test_each_text_is_cut_alone():
    (example,) = build(document(*PAIR, ("negative", "the card has not arrived")), max_tokens=4)
    assert [len(unit.input_ids) for unit in example.units] == [4, 4, 4]
    assert [unit.input_ids[-1] for unit in example.units] == [SEP] * 3
    assert example.num_cut_tokens == 0 + 1 + 3


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (Document("d", "plain"), "it has no part 'query', but task retrieval needs query and positive"),
        (document(PAIR[0]), "it has no part 'positive', but task retrieval needs query and positive"),
        (document(("query", " "), PAIR[1]), "its query is empty; remove it from its source"),
        (document(PAIR[0], ("positive", "")), "its positive is empty; remove it from its source"),
        (document(*PAIR, ("negative", "")), "one of its negatives is empty; remove it"),
        (document(*PAIR, PAIR[1]), "it has 2 parts 'positive', but a document holds one; write a record for"),
        (document(PAIR[0], *PAIR), "it has 2 parts 'query', but a document holds one"),
        (
            document(*PAIR, ("user", "a")),
            "it has a part 'user', but task retrieval knows query, positive, neg",
        ),
    ],
)
def test_what_is_no_pair_is_left_out_with_the_reason(given, problem):
    before, example, after = build(document(*PAIR), given, document(*PAIR))
    assert example.problem is not None
    assert example.problem.startswith(problem)
    assert example.units == []
    assert [len(each.units) for each in (before, after)] == [2, 2]


def test_a_text_without_tokens_is_left_out():
    tokenizer = bert_style()
    tokenizer.post_processor = None  # nothing around a text
    tokenizer.normalizer = normalizers.Replace("the card", "")
    lost, kept = build(document(*PAIR), document(*PAIR[::-1], ("negative", "the")), tokenizer=tokenizer)
    assert lost.problem == "the tokenizer has no token for its query; remove it from its source"
    assert kept.problem == lost.problem
    (other,) = build(document(("query", "arrived"), PAIR[1]), tokenizer=tokenizer)
    assert [unit.input_ids.tolist() for unit in other.units] == [[ARRIVED], [HAS, NOT, ARRIVED]]


def test_a_text_alone_is_read_as_one_to_be_found():
    assert read_texts(Document("d", "plain")) == (None, "plain", ())
    assert read_texts(document(PAIR[0])) == ("the card", None, ())


def test_a_row_holds_the_texts_of_one_document_and_counts_one_target():
    job = group.PackingJob(
        task="retrieval",
        tokenizer_json=bert_style().to_str(),
        end_token_id=None,
        labels=(),
        rules=PackingRules(sequence_length=4),
        chat=ChatFormat(),
    )
    texts = {"a": ["the card", "has not", "arrived"], "b": ["", "x"], "c": ["the", "card has not arrived"]}
    names = ("query", "positive", "negative")
    records = [
        {
            "doc_id": doc_id,
            "text": "\n\n".join(each),
            "parts": [{"name": name, "text": text} for name, text in zip(names, each, strict=False)],
        }
        for doc_id, each in texts.items()
    ]
    assert job.may_leave_out
    found = {doc_id: problem is None for doc_id, problem in group.find_problems(records, job)}
    assert found == {"a": True, "b": False, "c": True}
    count = TokenCount()
    rows = join_rows(list(group.pack_documents(records, job, count)))
    count.remove_rows(rows)
    count.require_balance(split="train", group=0, method="one_per_document")
    assert rows.segment_doc_ids == ["a", "a", "a", "c", "c"]
    assert rows.segment_num_tokens.tolist() == [4, 4, 3, 3, 4]  # rows of 11 and 7 tokens, units of at most 4
    assert rows.labels == [0, 0]
    assert rows.num_targets.tolist() == [1, 1]
    assert rows.num_bytes.tolist() == [8 + 7 + 7, 3 + len("card has")]
    assert rows.num_cut_tokens.tolist() == [0, 2]
    assert np.array_equal(rows.num_segments, [3, 2])
