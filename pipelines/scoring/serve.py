"""The script that MLflow runs to load a registered model ("models from code"): no pickle, and the same
Predictor.

It travels inside the model version together with the `pipelines` package, so it works where Distributary is
not installed.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class TextModel(PythonModel):
    """In: column `text`, or a plain list of texts. Out: columns `prediction` and `score`, one row per text in
    the order given.
    """

    def load_context(self, context: PythonModelContext) -> None:
        # Not above: MLflow runs this script when a model is registered too, and a driver needs no torch.
        from pipelines.scoring.predict import Predictor

        self.predictor = Predictor.load(context.artifacts["model"])

    # This type hint and no other. Without one MLflow warns at every load; from list[str] it would derive the
    # signature, and its server would then refuse data frames.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        predictions = self.predictor.predict(_read_texts(model_input))
        return pd.DataFrame(
            {
                "prediction": pd.Series([each.prediction for each in predictions], dtype=object),
                "score": pd.Series([each.score for each in predictions], dtype="float64"),
            }
        )


def _read_texts(model_input: Any) -> list[str]:
    """The texts of a request. Raises MlflowException, the only kind whose message MLflow's server passes on
    to the caller (as status 400).
    """
    if isinstance(model_input, dict):
        model_input = pd.DataFrame(
            {name: np.atleast_1d(np.asarray(texts, dtype=object)) for name, texts in model_input.items()}
        )
    if isinstance(model_input, pd.DataFrame):
        if "text" not in model_input.columns:
            columns = ", ".join(map(str, model_input.columns)) or "none"
            raise MlflowException.invalid_parameter_value(
                f"the model needs column 'text', got {columns}; rename the column that holds the texts"
            )
        model_input = model_input["text"]
    texts = list(model_input)
    wrong = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise MlflowException.invalid_parameter_value(
            f"row {wrong}: text must be a string, got {type(texts[wrong]).__name__}; "
            "replace missing texts by ''"
        )
    return texts


mlflow.models.set_model(TextModel())
