"""The script MLflow runs to load a registered model (models from code): no pickle, and the same Predictor as everywhere.

It travels inside the model version together with the `pipelines` package, so it works where Distributary is not installed.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from pipelines.scoring.predict import Predictor


class TextModel(PythonModel):
    """Column `text`, or a plain list of texts, in; columns `prediction` and `score` out, one row a text, in the order given."""

    def load_context(self, context: PythonModelContext) -> None:
        self.predictor = Predictor.load(context.artifacts["model"])

    # This hint and no other: without one MLflow warns at every load, and from list[str] it would derive the signature, after
    # which its server refuses data frames.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        predictions = self.predictor.predict(_texts(model_input))
        return pd.DataFrame(
            {
                "prediction": pd.Series([p.prediction for p in predictions], dtype=object),
                "score": pd.Series([p.score for p in predictions], dtype="float64"),
            }
        )


def _texts(model_input: Any) -> list[str]:
    """Raises MlflowException, the one kind whose message MLflow's server passes on to the caller (as status 400)."""
    if isinstance(model_input, dict):
        model_input = pd.DataFrame(
            {name: np.atleast_1d(np.asarray(texts, dtype=object)) for name, texts in model_input.items()}
        )
    if isinstance(model_input, pd.DataFrame):
        if "text" not in model_input.columns:
            raise MlflowException.invalid_parameter_value(
                f"the model needs column 'text', got {', '.join(map(str, model_input.columns)) or 'none'}"
            )
        model_input = model_input["text"]
    texts = list(model_input)
    wrong = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise MlflowException.invalid_parameter_value(
            f"row {wrong}: text must be a string, got {type(texts[wrong]).__name__}; replace missing texts by ''"
        )
    return texts


mlflow.models.set_model(TextModel())
