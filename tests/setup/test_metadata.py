"""What the package asks of a platform that brings Spark, torch and MLflow itself."""

import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipelines.machine import canonical_name, read_pins

CHECKOUT = Path(__file__).resolve().parents[2]
PLATFORM = {"pyspark", "delta-spark", "torch", "mlflow", "pandas", "pyarrow"}
"""What Databricks brings; installing distributary there must leave it alone."""
DATABRICKS = {
    "18 LTS": {"pyspark": "4.1.0", "mlflow": "3.8.1"},
    "19": {"pyspark": "4.2.0", "mlflow": "3.12.0"},
}


@pytest.fixture(scope="module")
def requirements(tmp_path_factory):
    """The requirements of the wheel that this checkout gives."""
    folder = tmp_path_factory.mktemp("metadata")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(CHECKOUT / name, folder)
    build = "from setuptools.build_meta import *; print(prepare_metadata_for_build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True, timeout=120)
    (made,) = folder.glob("*.dist-info")
    return [Requirement(line) for line in PathDistribution(made).requires]


def asked(requirements, extra):
    """Package -> its range, for an installation with `extra`."""
    return {
        each.name: each.specifier
        for each in requirements
        if each.marker is None or each.marker.evaluate({"extra": extra})
    }


def test_a_plain_installation_asks_for_nothing_of_the_platform(requirements):
    plain = asked(requirements, "")
    assert {"deltalake", "transformers", "typer"} <= set(plain)
    assert not PLATFORM & set(plain)


def test_no_package_of_the_platform_is_pinned(requirements):
    local = asked(requirements, "local")
    assert set(local) >= PLATFORM
    exact = {name for name in PLATFORM if any(each.operator in ("==", "===") for each in local[name])}
    assert exact == set()


@pytest.mark.parametrize("runtime", DATABRICKS)
def test_the_ranges_hold_what_databricks_brings(requirements, runtime):
    local = asked(requirements, "local")
    for package, version in DATABRICKS[runtime].items():
        assert local[package].contains(version), package


@pytest.mark.parametrize("extra", ["", "local", "connect", "demo", "test"])
def test_the_tested_set_lies_within_all_ranges(requirements, extra):
    pins = {name: min(versions) for name, versions in read_pins(CHECKOUT / "constraints.txt").items()}
    ranges = {canonical_name(name): versions for name, versions in asked(requirements, extra).items()}
    outside = {name: pins[name] for name, versions in ranges.items() if not versions.contains(pins[name])}
    assert outside == {}
