"""Runs of the shipped recipes on a part of their data."""

import csv
import gzip
import json
from pathlib import Path
from types import SimpleNamespace

from jobs.run import STAGES
from jobs.shell.settings import load
from pipelines.finetune.results import read_result
from pipelines.registry.runs.current import read_current
from tests.conftest import TEST_CONF

CHECKOUT = Path(__file__).parent.parent


def read_rows(path):
    """The records of a CSV or JSON Lines file."""
    path = Path(path)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file))


def cut_file(path, target, keep):
    """The records that are kept, in a file of the same name, without .gz."""
    rows = [row for row in read_rows(path) if keep(row)]
    target.mkdir(parents=True, exist_ok=True)
    cut = target / path.name.removesuffix(".gz")
    with cut.open("w", newline="", encoding="utf-8") as file:
        if cut.suffix == ".csv":
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(cut)


def run_recipe(recipe, folder, keep, changes, stages=tuple(STAGES)):
    """The stages of a recipe on the rows that `keep` takes; everything else as the recipe says."""
    name = f"recipe={recipe}"  # load(recipe=...) sets it too
    sources = load(recipe=recipe, overrides=[name, *changes]).tree["corpus"]["sources"]
    for source in sources:
        source["path"] = cut_file(CHECKOUT / source["path"], folder / "raw", keep)
    settings = load(
        recipe=recipe,
        overrides=[
            f"root={folder}/{recipe}",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"tracking.artifacts={folder}/artifacts",
            f"spark={json.dumps(TEST_CONF)}",
            f"corpus.sources={json.dumps(sources)}",
            "finetune.num_ranks=1",
            *changes,
        ],
    )
    configs = {name: settings.section(name, STAGES[name].Config) for name in stages}
    for name, config in configs.items():
        STAGES[name].main(config)
    run = read_current(configs["finetune"].folder).folder
    return SimpleNamespace(configs=configs, result=read_result(run), model=f"{run}/model", sources=sources)
