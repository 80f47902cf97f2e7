"""One training = one MLflow run: what it read, how it went, which model version it became, and which version
is champion.

store      where runs and models are kept       runs/  the run of a training: metrics, inputs, environment
versions/  model versions: upload, aliases      gate/  is the new version better than the champion?

MLflow reads the variables below once, while it is imported. Python runs this file before every module of this
package, so each of them may import mlflow as it likes.
"""

import os

MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
    # With "true", a uv.lock in the working directory would replace our requirements.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
    # We write models from code only. A pickled model that someone put into the registry is refused.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
"""Used unless the user's environment has another value."""

for _name, _value in MLFLOW_DEFAULTS.items():
    os.environ.setdefault(_name, _value)
