"""What the driver of a run ran on: enough to build the same set-up again, and nothing that names a user, a host or a secret.

Executors may be other machines with other packages; the driver cannot see them.
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
"""Those whose version can change a result; requirements.txt has all."""
CHECKOUT = Path(__file__).resolve().parents[3]


def describe_driver() -> tuple[dict[str, Any], str]:
    """(facts of the driver for environment.json, requirements.txt of everything installed there)."""
    installed = {
        str(found.metadata["Name"]).lower().replace("_", "-"): str(found.version)
        for found in importlib.metadata.distributions()
    }
    facts = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "num_cpus": os.cpu_count(),
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
    }
    return facts, "".join(f"{name}=={version}\n" for name, version in sorted(installed.items()))


def git_tags(checkout: Path = CHECKOUT) -> dict[str, str]:
    """MLflow's tag for the commit of this code, "-dirty" when files differ from it; empty outside of a git checkout of it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty", "--match="]
    # Installed in ~/project/.venv, the code is in a folder of the user's checkout; that one's commit is not ours.
    ours = {**os.environ, "GIT_CEILING_DIRECTORIES": str(checkout.parent)}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        ours.pop(name, None)
    try:
        described = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=ours
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": described}
