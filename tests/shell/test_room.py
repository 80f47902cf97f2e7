"""Whether there is room for the ranks: who looks at their memory, and when."""

import json

import pytest

from jobs.finetune import Config
from jobs.shell.room import forecast_room, require_room
from jobs.shell.settings import load
from jobs.shell.stage import Work
from pipelines.finetune import driver
from pipelines.finetune.memory import forecast

WARNING = "a rank needs at least 3.00 GB, and this machine has 2.00"


class Lines:
    """What was printed."""

    def __init__(self):
        self.printed, self.phases = [], []
        self.print, self.phase = self.printed.append, self.phases.append


def make_config(master, *overrides, **spark):
    conf = {"spark.master": master, **spark}
    return load(overrides=[f"spark={json.dumps(conf)}", "finetune.num_ranks=2", *overrides]).section(
        "finetune", Config
    )


@pytest.fixture
def asked(monkeypatch):
    """Arguments of the questions for the memory, all answered with a warning."""
    questions = []

    def answer(training, **arguments):
        questions.append((training, arguments))
        return {"memory": "3.00 GB", "memory warning": WARNING}

    monkeypatch.setattr(forecast, "forecast_memory", answer)
    return questions


@pytest.mark.parametrize(("master", "is_local"), [("local[2]", True), ("spark://one:7077", False)])
def test_a_dry_run_looks_at_the_memory_wherever_the_ranks_run(asked, master, is_local):
    notes = forecast_room(make_config(master), "training")
    assert asked == []  # a plan alone takes no seconds
    assert notes() == {"memory": "3.00 GB", "memory warning": WARNING}
    assert asked == [("training", {"num_ranks": 2, "is_local": is_local, "gives_gpus": False})]


@pytest.mark.parametrize(
    ("overrides", "conf", "master", "gives_gpus"),
    [
        (["finetune.gpus_per_rank=1"], {}, "yarn", True),
        (["finetune.gpus_per_rank=1"], {}, "local[2]", True),
        ([], {"spark.task.resource.gpu.amount": 0.5}, "yarn", True),
        ([], {"spark.task.resource.gpu.amount": 0.5}, "local[2]", False),
    ],
)
def test_ranks_use_the_gpus_that_spark_gives(asked, overrides, conf, master, gives_gpus):
    forecast_room(make_config(master, *overrides, **conf), "training")()
    assert asked[0][1]["gives_gpus"] is gives_gpus


@pytest.mark.parametrize(("master", "printed"), [("local[2]", [f"memory: {WARNING}"]), ("yarn", [])])
def test_a_run_warns_where_its_ranks_run_here(asked, monkeypatch, master, printed):
    monkeypatch.setattr(driver, "require_room", lambda *arguments, **named: None)
    monkeypatch.setattr(Work, "spark", "a session")
    lines = Lines()
    require_room(make_config(master), Work(progress=lines, stage="finetune", conf={}), "training")
    assert lines.printed == printed
