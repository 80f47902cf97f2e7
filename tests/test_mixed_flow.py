"""A training on a mixture of two sources, from files to the run."""

import csv

import pytest
from mlflow import MlflowClient

from jobs.run import STAGES
from jobs.shell.display import display_plan
from jobs.shell.settings import load
from pipelines.dataset.reader import open_split
from pipelines.pin import pin
from pipelines.registry.lookup import Lookup
from pipelines.registry.runs.current import read_current
from pipelines.registry.runs.trace import RunTrace
from tests.conftest import flow_overrides, write_tickets


def split_tickets(folder):
    """The rows of train.csv in two files: every fifth row is in few.csv."""
    with (folder / "train.csv").open(newline="", encoding="utf-8") as source:
        header, *rows = csv.reader(source)
    for name, part in (("few", rows[::5]), ("many", [row for at, row in enumerate(rows) if at % 5])):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as target:
            csv.writer(target).writerows([header, *part])


@pytest.mark.slow
def test_a_training_on_a_mixture_is_planned_recorded_and_traced(spark, tmp_path, capsys):
    write_tickets(tmp_path / "raw")
    split_tickets(tmp_path / "raw")
    sources = [
        f"{{name: {name}, path: {tmp_path}/raw/{name}.csv, format: csv, "
        f"fields: {{text: text, label: category}}, splits: {splits}}}"
        for name, splits in (
            ("few", "{train: 1.0}"),
            ("many", "{train: 0.9, validation: 0.1}"),
            ("test", "{test: 1.0}"),
        )
    ]
    overrides = [f"corpus.sources=[{', '.join(sources)}]", "finetune.num_ranks=1"]
    mixed = ["finetune.mixture.shares={few: 0.5}", "finetune.curriculum.column=num_tokens"]
    settings = load(overrides=[*flow_overrides(tmp_path), *overrides, *mixed])
    stages = {name: STAGES[name] for name in ("corpus", "dataset", "finetune")}
    configs = {name: settings.section(name, stage.Config) for name, stage in stages.items()}
    for name in ("corpus", "dataset"):
        stages[name].main(configs[name])

    display_plan("finetune", stages["finetune"].plan(configs["finetune"]))
    shown = capsys.readouterr().out
    assert "finetune: would run" in shown
    assert "source few: 50.0" in shown or "source few: 49.9" in shown
    assert "source many: " in shown
    assert "passes over" in shown
    assert pin(configs["finetune"].mixtures) is None  # a plan writes nothing

    assert stages["finetune"].main(configs["finetune"]).ran
    run_id = read_current(configs["finetune"].folder).run_id
    run = MlflowClient().get_run(run_id)
    assert run.data.metrics["mixture/few"] == pytest.approx(0.5, abs=0.02)
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {
        "sequences",
        "mixtures",
        "documents",
    }
    names = {file.path for file in MlflowClient().list_artifacts(run_id)}
    pictures = {file.path for file in MlflowClient().list_artifacts(run_id, "pictures")}
    assert "mixture.csv" in names
    assert "pictures/mixture.png" in pictures

    written = pin(configs["finetune"].mixtures)
    assert written.num_rows == 2
    tracking = configs["finetune"].tracking
    found = RunTrace(Lookup(tracking.uri, tracking.artifacts).read_run_data(run_id), 1)
    assert found.run.mixture["version"] == written.version
    sequences = pin(configs["finetune"].sequences)
    reader = open_split(sequences.path, table_id=sequences.table_id, version=sequences.version, split="train")
    rows = [
        row["row"] for step in range(1, found.total_steps + 1) for row in found.trace_step(step)["sequences"]
    ]
    few = sum(reader.source_names[code] == "few" for code in reader.source_codes[rows].tolist())
    assert few == found._mixture.sources[0].num_planned
    assert not stages["finetune"].main(configs["finetune"]).ran  # nothing is written or trained twice
    assert pin(configs["finetune"].mixtures) == written
