"""Predictions by several adapters on one base: each row by the adapter that it names."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.dataset.examples.example import Document
from pipelines.finetune.models.bundle import load_bundle
from pipelines.finetune.tasks.task import Prediction
from pipelines.scoring.predict import Precision, Predictor, set_threads


class BundlePredictor:
    """A Predictor for each adapter of a bundle; the weights of the base are in memory once."""

    def __init__(self, predictors: Mapping[str, Predictor]) -> None:
        self.predictors = dict(predictors)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        num_threads: int | None = None,
        device: str | None = None,
        precision: Precision = "auto",
    ) -> "BundlePredictor":
        """From the folder of a bundle; for the rest see `Predictor.load`."""
        set_threads(num_threads)
        return cls(
            {
                name: Predictor(model, device=device, precision=precision)
                for name, model in load_bundle(Path(folder)).items()
            }
        )

    @property
    def model_seconds(self) -> float:
        """Time spent in the models since they were loaded."""
        return sum(each.model_seconds for each in self.predictors.values())

    def predict(
        self,
        texts: Sequence[str | Document],
        adapters: Sequence[str | None],
        *,
        batch_size: int = 32,
        generate: bool = True,
    ) -> list[Prediction]:
        """One prediction per text in the order given, each by the adapter at its place. A text that names
        none, or one that is not there, gets an empty prediction of score 0 that says so in `problem`.

        The texts of one adapter share batches with each other, as if they were given to its Predictor alone.
        """
        rows_of = defaultdict[str | None, list[int]](list)
        for row, name in enumerate(adapters):
            rows_of[name].append(row)
        predictions = [Prediction("", 0.0)] * len(texts)
        for name, rows in rows_of.items():
            predictor = self.predictors.get(name) if name is not None else None
            if predictor is None:
                problem = self.explain(name)
                found = [Prediction("", 0.0, problem=problem)] * len(rows)
            else:
                mine = [texts[row] for row in rows]
                found = predictor.predict(mine, batch_size=batch_size, generate=generate)
            for row, prediction in zip(rows, found, strict=True):
                predictions[row] = prediction
        return predictions

    def explain(self, name: str | None) -> str:
        """Why a row with this adapter is not predicted."""
        wanted = "names no adapter" if name is None else f"names the adapter {name!r}, which is not there"
        return f"it {wanted}; the bundle has {', '.join(self.predictors)}"
