"""The Makefile: its help lists every target, and its paths are those of conf/base.yaml."""

import re
import subprocess
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
MAKEFILE = (CHECKOUT / "Makefile").read_text(encoding="utf-8")


def test_help_names_every_target_and_no_other():
    shown = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=CHECKOUT, text=True)
    targets = set(re.findall(r"^([a-z]+):.*##", MAKEFILE, re.MULTILINE)) - {"help"}
    assert len(targets) == 13
    assert set(re.findall(r"^  make ([a-z]+)  ", shown, re.MULTILINE)) == targets


def test_ui_shows_the_default_tracking_store():
    tracking = yaml.safe_load((CHECKOUT / "conf" / "base.yaml").read_text(encoding="utf-8"))["tracking"]
    assert f"--backend-store-uri {tracking['uri']}\n" in MAKEFILE
    assert f"test -f {tracking['uri'].removeprefix('sqlite:///')} " in MAKEFILE
