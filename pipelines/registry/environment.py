"""What a run ran on: enough to build the same set-up again, and nothing that names a user, a host or a secret."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "pyspark", "delta-spark", "deltalake", "horovod", "mlflow", "numpy", "pyarrow")
"""Those whose version can change a result; requirements.txt has all."""


def describe() -> tuple[dict[str, Any], str]:
    """(facts for environment.json, requirements.txt of everything installed)."""
    installed = {str(found.metadata["Name"]).lower().replace("_", "-"): str(found.version)
                 for found in importlib.metadata.distributions()}
    facts = {"python": platform.python_version(), "system": platform.platform(), "machine": platform.machine(),
             "num_cpus": os.cpu_count(), "packages": {name: installed[name] for name in PACKAGES if name in installed}}
    return facts, "".join(f"{name}=={version}\n" for name, version in sorted(installed.items()))


def git_tags() -> dict[str, str]:
    """MLflow's tag for the commit of this code, "-dirty" when files differ from it; empty outside of a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--match="]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": described}
