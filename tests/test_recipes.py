"""The recipes of classification on a part of their data: financial headlines, and requests in Chinese."""

from types import SimpleNamespace

import pytest

from pipelines.pin import pin
from pipelines.tables import DOCUMENTS, PREDICTIONS
from tests.recipe_runs import read_rows, run_recipe

pytestmark = pytest.mark.slow

INTENTS = ("alarm_set", "play_music", "weather_query")


@pytest.fixture(scope="module")
def sentiment(spark, tmp_path_factory):
    """Every 12th headline, with all its entities."""

    def keep(row):
        return int(row["id"].split("-")[0]) % 12 == 0

    folder = tmp_path_factory.mktemp("sentiment")
    return run_recipe("financial_sentiment", folder, keep, ["finetune.num_epochs=1.0"])


@pytest.fixture(scope="module")
def requests(spark, tmp_path_factory):
    """Three intents."""
    folder = tmp_path_factory.mktemp("requests")
    keep, changes = is_chosen, ["finetune.num_epochs=5.0", "dataset.tokenizer.vocab_size=1024"]
    return SimpleNamespace(folder=folder, **vars(run_recipe("customer_service_zh", folder, keep, changes)))


def is_chosen(row):
    return row["intent"] in INTENTS


def test_a_headline_is_a_document_for_each_entity_in_the_split_of_the_file(spark, sentiment):
    (source,) = sentiment.sources
    expected = {
        (f"{row['entity']}\n\n{row['headline']}", row["sentiment"], row["split"])
        for row in read_rows(source["path"])
    }
    documents = DOCUMENTS.read(spark, sentiment.configs["corpus"].documents).collect()
    assert {(row["text"], row["label"], row["split"]) for row in documents} == expected
    headlines = [dict(row["parts"])["headline"] for row in documents]
    assert len(set(headlines)) < len(headlines)  # some have several entities


def test_sentiment_is_learned_and_every_test_document_is_scored(spark, sentiment):
    assert sentiment.result["after"]["accuracy"] > 0.5  # three classes, of which the largest has 0.37
    predictions = PREDICTIONS.read(spark, sentiment.configs["scoring"].predictions)
    kept = pin(sentiment.configs["corpus"].documents).facts["kept"]
    assert predictions.count() == kept["test"] > 80
    assert predictions.select("prediction").distinct().count() == 3


def test_repeated_requests_stay_in_the_official_splits(requests):
    facts = pin(requests.configs["corpus"].documents).facts
    rows = [read_rows(source["path"]) for source in requests.sources]
    assert facts["dropped"] == {}
    assert facts["kept"] == dict(zip(("train", "validation", "test"), map(len, rows), strict=True))
    train, _, test = ({row["text"] for row in part} for part in rows)
    assert train & test


def test_intents_in_chinese_are_learned_from_scratch(requests):
    assert requests.result["after"]["accuracy"] > 0.9
    assert requests.result["before"]["accuracy"] < 0.6


def test_the_same_data_takes_an_encoder_by_its_path(requests):
    """The encoder is that of the model above; its head is new."""
    changes = [f"dataset.tokenizer.base={requests.model}", "finetune.num_epochs=3.0"]
    stages = ("corpus", "dataset", "finetune")
    run = run_recipe("customer_service_zh_encoder", requests.folder, is_chosen, changes, stages)
    tokenizers = [pin(each.configs["dataset"].sequences).facts["tokenizer"] for each in (requests, run)]
    assert tokenizers[0] == tokenizers[1]
    assert run.result["before"]["accuracy"] < 0.6
    assert run.result["after"]["accuracy"] > 0.9
