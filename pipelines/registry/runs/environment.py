"""The environment of a run's driver: enough to build the same set-up again, without names of users, hosts or
secrets.

Executors may be other machines with other packages, which the driver cannot see.
"""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "pyspark",
    "delta-spark",
    "deltalake",
    "horovod",
    "mlflow",
    "numpy",
    "pyarrow",
)
"""Packages whose version can change a result; requirements.txt lists all packages."""
CHECKOUT = Path(__file__).resolve().parents[3]


def describe_driver() -> tuple[dict[str, Any], str]:
    """(facts for environment.json, text of requirements.txt with every installed package)."""
    # Reversed, so that of two copies the first on sys.path stays: the one that Python imports. A notebook's
    # own packages come before those of its platform.
    installed = {
        str(found.metadata["Name"]).lower().replace("_", "-"): str(found.version)
        for found in reversed(list(importlib.metadata.distributions()))
    }
    facts = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "num_cpus": os.cpu_count(),
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
    }
    return facts, "".join(f"{name}=={version}\n" for name, version in sorted(installed.items()))


def read_git_tags(checkout: Path = CHECKOUT) -> dict[str, str]:
    """MLflow's tag for the commit of this code, with "-dirty" if files differ from it; empty outside of its
    git checkout."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty", "--match="]
    # If distributary is installed in ~/project/.venv, git would find the user's project: its commit is not
    # ours.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(checkout.parent)}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        env.pop(name, None)
    try:
        described = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=env
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": described}
