"""The corpora of the recipes of web pages, from the shipped samples."""

import json
import re
from pathlib import Path

import pytest

from jobs import corpus
from jobs.shell import settings as configuration
from pipelines.pin import pin
from tests.conftest import TEST_CONF

DATA = Path(__file__).parent.parent.parent / "data"


def read_counts(recipe):
    """Outcome -> documents, from the table of the README of the sample."""
    text = (DATA / recipe / "README.md").read_text(encoding="utf-8")
    return {
        name: int(count) for name, count in re.findall(r"^\| `?([\w@/]+)`? \| (\d+) \|$", text, re.MULTILINE)
    }


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["web_english", "web_chinese"])
def test_a_recipe_gives_the_counts_of_its_readme(spark, tmp_path, recipe):
    conf = [f"spark={json.dumps(TEST_CONF)}", f"root={tmp_path}"]
    config = configuration.load(recipe=recipe, overrides=conf).section("corpus", corpus.Config)
    corpus.main(config)
    facts = pin(config.documents).facts
    found = {"kept": sum(facts["kept"].values()), **facts["dropped"]}
    expected = read_counts(recipe)
    assert found | {"quarantine": facts["quarantined"]} == expected
    assert facts["kept"].keys() == {"train", "validation", "test"}
    page = re.sub(
        "<wbr>", "", (tmp_path / "report.html").read_text(encoding="utf-8")
    )  # a line may break there
    for name, count in expected.items():
        assert not count or name.split("/")[0] in page
    assert f"Corpus report: {recipe}" in page
