"""The script that MLflow runs to load a registered model ("models from code"): no pickle, and the same
Predictor.

It travels inside the model version together with the `pipelines` package, so it works where Distributary is
not installed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pandas.api.types import is_list_like

AS_PARTS = {
    "preference": {"user": "prompt", "assistant": "chosen"},
    "prompt_response": {"user": "prompt", "assistant": "response"},
}
"""Task -> the names of its parts by role, where they are others."""


class TextModel(PythonModel):
    """In: column `text`, or a plain list of texts. A model of conversations also reads column `messages`, a
    list of {role, content} per row; a row without messages is the text of a user, and a row has one of the
    two. Out: columns `prediction` and `score`, one row per input in the order given; of a retrieval model
    also `embedding`, the vector of the text, a list of numbers of length 1; of a model of several labels
    also `labels`, a list of {label, probability}, likeliest first.

    A bundle also needs column `adapter`, the name of the adapter that predicts the row. Of the columns above
    it gives those of the adapters that a request names, null in the rows of others.

    A dialogue is answered where a turn of the assistant that ends it begins, else where it ends. It is scored
    by the turns of the assistant that it has (bits per byte; 0 = it has none).
    """

    def load_context(self, context: PythonModelContext) -> None:
        # Not above: MLflow runs this script when a model is registered too, and a driver needs no torch.
        from pipelines.finetune.models.architecture import is_bundle
        from pipelines.scoring.bundle import BundlePredictor
        from pipelines.scoring.predict import Predictor

        folder = Path(context.artifacts["model"])
        self.adapters = BundlePredictor.load(folder).predictors if is_bundle(folder) else {}
        self.predictor = None if self.adapters else Predictor.load(folder)

    # This type hint and no other. Without one MLflow warns at every load; from list[str] it would derive the
    # signature, and its server would then refuse data frames.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        model_input = _read_columns(model_input)
        if self.predictor is not None:
            return _predict(self.predictor, model_input)
        known = ", ".join(self.adapters)
        if not isinstance(model_input, pd.DataFrame) or "adapter" not in model_input.columns:
            raise MlflowException.invalid_parameter_value(
                f"the model needs column 'adapter', which names one of {known}"
            )
        parts = []
        rows = model_input.reset_index(drop=True)
        for name, part in rows.groupby("adapter", sort=False, dropna=False):
            if name not in self.adapters:
                raise MlflowException.invalid_parameter_value(
                    f"row {part.index[0]}: there is no adapter {name!r}; take one of {known}"
                )
            try:
                parts.append(_predict(self.adapters[name], part).set_index(part.index))
            except MlflowException as error:
                raise MlflowException.invalid_parameter_value(
                    f"of the rows of adapter {name!r}, {error.message}"
                ) from None
        return _join(parts)


def _join(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Parts of one answer, rows in the order of their index. A column that a part lacks is null in its rows,
    which pandas would make NaN: that is no JSON."""
    if not parts:
        return _to_frame([])
    for name in dict.fromkeys(name for part in parts for name in part.columns):
        for part in parts:
            if name not in part.columns:
                part[name] = pd.Series([None] * len(part), index=part.index, dtype=object)
    return pd.concat(parts).sort_index()


def _to_frame(predictions: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prediction": pd.Series([each.prediction for each in predictions], dtype=object),
            "score": pd.Series([each.score for each in predictions], dtype="float64"),
        }
    )


def _predict(predictor: Any, model_input: Any) -> pd.DataFrame:
    spec = predictor.spec
    roles = None if spec.chat is None else AS_PARTS.get(spec.task, {})
    predictions = predictor.predict(_read_inputs(model_input, roles))
    for row, each in enumerate(predictions):
        if each.problem is not None:
            raise MlflowException.invalid_parameter_value(f"row {row}: {each.problem}")
    columns = _to_frame(predictions)
    if spec.retrieval is not None:
        columns["embedding"] = pd.Series([each.embedding for each in predictions], dtype=object)
    if spec.label_threshold is not None:
        columns["labels"] = pd.Series([_to_objects(each.labels or []) for each in predictions], dtype=object)
    return columns


def _read_columns(model_input: Any) -> Any:
    """A request of columns as a frame; a list of texts stays one."""
    if not isinstance(model_input, dict):
        return model_input
    columns = {name: rows if is_list_like(rows) else [rows] for name, rows in model_input.items()}
    return pd.DataFrame({name: pd.Series(list(rows), dtype=object) for name, rows in columns.items()})


def _to_objects(labels: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"label": label, "probability": probability} for label, probability in labels]


def _read_inputs(model_input: Any, roles: Mapping[str, str] | None) -> list[Any]:
    """The texts or dialogues of a request. `roles`: role -> the part that it is, if it has another name; None
    = the model reads no dialogues. Raises MlflowException, the only kind whose message MLflow's
    server passes on to the caller (as status 400).
    """
    model_input = _read_columns(model_input)
    if not isinstance(model_input, pd.DataFrame):
        return [_require_text(row, text) for row, text in enumerate(model_input)]
    known = ["text"] if roles is None else ["messages", "text"]
    found = [name for name in known if name in model_input.columns]
    if not found:
        given = ", ".join(map(str, model_input.columns)) or "none"
        raise MlflowException.invalid_parameter_value(
            f"the model needs column {' or '.join(map(repr, known))}, got {given}; rename the column that "
            "holds the texts"
        )
    has_messages = model_input["messages"].notna() if "messages" in found else [False] * len(model_input)
    return [
        _read_turns(row, values, roles or {}) if is_given else _require_text(row, values.get("text"))
        for row, (values, is_given) in enumerate(
            zip(model_input[found].to_dict("records"), has_messages, strict=True)
        )
    ]


def _read_turns(row: int, values: Mapping[str, Any], roles: Mapping[str, str]) -> Any:
    """A dialogue as the documents table has it."""
    from pipelines.dataset.examples.example import Document, Part

    if isinstance(values.get("text"), str):
        raise MlflowException.invalid_parameter_value(
            f"row {row} has messages and text; give one, and null for the other"
        )
    try:
        turns = tuple(
            Part(roles.get(turn["role"], turn["role"]), turn["content"]) for turn in values["messages"]
        )
    except (KeyError, TypeError):
        turns = ()
    if not turns or not all(isinstance(text, str) for turn in turns for text in turn):
        raise MlflowException.invalid_parameter_value(
            f"row {row}: messages must be a list of {{role, content}}, both strings"
        )
    return Document("", "", parts=turns)


def _require_text(row: int, text: Any) -> str:
    if not isinstance(text, str):
        raise MlflowException.invalid_parameter_value(
            f"row {row}: text must be a string, got {type(text).__name__}; replace missing texts by ''"
        )
    return text


mlflow.models.set_model(TextModel())
