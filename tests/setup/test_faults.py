"""The list of planted faults: every text is still in its file, and a fault that survives is reported."""

import time
from pathlib import Path

import pytest

from tools import faults as faults_module
from tools.faults import LIST, Fault, find_lost, plant, read_faults

CHECKOUT = Path(__file__).resolve().parents[2]


def test_every_fault_can_still_be_planted():
    faults = read_faults((CHECKOUT / LIST).read_text(encoding="utf-8"))
    assert len(faults) >= 30
    assert len({fault.name for fault in faults}) == len(faults)
    assert find_lost(faults, CHECKOUT) == []
    for fault in faults:
        assert fault.old != fault.new
        for word in fault.tests.split():
            assert not word.startswith("tests/") or (CHECKOUT / word).exists(), fault


def test_a_text_that_is_gone_or_there_twice_is_named(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    fault = Fault("twice", "a.py", "x = 1", "x = 2", "tests")
    assert find_lost([fault], tmp_path) == [f"twice: the old text is 2 times in a.py; correct {LIST}"]
    assert find_lost([fault._replace(old="y")], tmp_path) == [
        f"twice: the old text is 0 times in a.py; correct {LIST}"
    ]
    with pytest.raises(ValueError, match="lacks file, old, new, tests"):
        read_faults("name: alone\n")


def test_values_of_several_lines_keep_their_spaces():
    (fault,) = read_faults("# head\nname: n\nfile: f\nold: |  if a:\n|\n|    b\nnew: |\ntests: t -k 'x y'\n")
    assert fault == Fault("n", "f", "  if a:\n\n    b", "", "t -k 'x y'")


def test_a_fault_is_caught_or_survives_and_the_file_is_put_back(tmp_path):
    (tmp_path / "code.py").write_text("ANSWER = 42\n")
    (tmp_path / "test_code.py").write_text(
        "from code import ANSWER\n\ndef test_it():\n    assert ANSWER > 40\n"
    )
    caught = Fault("c", "code.py", "42", "4", "test_code.py")
    assert plant(caught, tmp_path) is True
    assert plant(caught._replace(new="43"), tmp_path) is False
    assert (tmp_path / "code.py").read_text() == "ANSWER = 42\n"
    with pytest.raises(RuntimeError, match="c: pytest ended with status 4"):
        plant(caught._replace(tests="test_gone.py"), tmp_path)


HANGING = """
import subprocess, time
from pathlib import Path
from code import ANSWER

def test_it():
    child = subprocess.Popen(["sleep", "600"])
    Path("child").write_text(str(child.pid))
    time.sleep(ANSWER)
"""


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_processes_of_a_hanging_test_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(faults_module, "LIMIT_SECONDS", 10)  # for the start of pytest beside other work
    (tmp_path / "code.py").write_text("ANSWER = 0\n")
    (tmp_path / "test_code.py").write_text(HANGING)
    assert plant(Fault("hang", "code.py", "0", "600", "test_code.py"), tmp_path) is True
    pid = (tmp_path / "child").read_text()
    deadline = time.monotonic() + 10
    while not has_ended(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert has_ended(pid)
