"""Splits. The expected ones come from a twin in plain Python."""

from pipelines.corpus.split import label_splits
from tests.corpus.reading import make_source
from tests.corpus.test_build import sha


def test_splits_follow_shares_and_hash(spark):
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    hashes = [sha(str(number)) for number in range(10_000)]
    rows = spark.createDataFrame(
        [("s", h, None) for h in hashes], "source STRING, content_hash STRING, split STRING"
    )
    found = {
        row.content_hash: row.split for row in label_splits(rows, [make_source(splits=shares)]).collect()
    }

    def twin(content_hash):
        position = int(sha("split", content_hash)[:13], 16) / 16**13
        return "train" if position < 0.8 else "validation" if position < 0.9 else "test"

    assert found == {content_hash: twin(content_hash) for content_hash in hashes}
    counts = [sum(split == name for split in found.values()) for name in shares]
    # 5 standard deviations of a binomial: 5 * sqrt(10,000 * p * (1 - p)) = 200 for p = 0.8, 150 for p = 0.1
    assert abs(counts[0] - 8_000) < 200
    assert abs(counts[1] - 1_000) < 150
    assert abs(counts[2] - 1_000) < 150


def test_given_split_wins_over_shares_of_its_source(spark):
    rows = [("s", sha("a"), "test"), ("s", sha("a"), None), ("t", sha("a"), None)]
    given = spark.createDataFrame(rows, "source STRING, content_hash STRING, split STRING")
    labelled = label_splits(
        given, [make_source(splits={"validation": 1.0, "train": 0.0}), make_source(name="t")]
    )
    assert sorted((row.source, row.split) for row in labelled.collect()) == [
        ("s", "test"),
        ("s", "validation"),
        ("t", "train"),
    ]
