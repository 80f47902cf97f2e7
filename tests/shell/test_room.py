"""Whether there is room for the ranks: who looks at their memory, and when."""

import json
from threading import enumerate as enumerate_threads

import psutil
import pytest

from jobs.finetune import Config
from jobs.shell.room import forecast_room, watch_room
from jobs.shell.settings import load
from jobs.shell.stage import Work
from pipelines.finetune.memory import forecast, question
from pipelines.finetune.memory.question import NoAnswerError

WARNING = "a rank needs at least 3.00 GB, and this machine has 2.00"
NEVER_ANSWERED = "a question"


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


def find_children():
    """Numbers of the processes that never answer."""
    return [each.pid for each in psutil.Process().children() if "tests.shell.endless" in each.cmdline()]


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
    assert asked == [("training", {"num_ranks": 2, "is_local": is_local, "gives_gpus": False, "asker": None})]


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
def test_a_run_warns_where_its_ranks_run_here(asked, master, printed):
    lines = Lines()
    with watch_room(make_config(master), Work(progress=lines, stage="finetune", conf={}), "training"):
        for each in enumerate_threads():
            if each.name == "memory of a rank":
                each.join()
    assert lines.printed == printed


def test_the_estimate_ends_with_the_training(monkeypatch):
    children = []

    def ask(training, *, asker, **arguments):
        children.append(asker)
        try:
            asker.ask(NEVER_ANSWERED)
        except NoAnswerError as error:
            return {"memory": f"not known ({error})"}
        return {"memory warning": "answered"}

    monkeypatch.setattr(forecast, "forecast_memory", ask)
    monkeypatch.setattr(question, "CHILD", "tests.shell.endless")
    lines = Lines()
    with watch_room(make_config("local[2]"), Work(progress=lines, stage="finetune", conf={}), "training"):
        while not find_children():
            pass
    assert find_children() == lines.printed == []
    assert "memory of a rank" not in [each.name for each in enumerate_threads()]
    with pytest.raises(NoAnswerError, match="stopped"):
        children[0].ask(NEVER_ANSWERED)
