"""The stages that `benchmarks.growth` measures, each run once in this process into new tables.

Near duplicates: the whole corpus stage once more, with preset PRESET. Scoring: what the job does between
looking up the model and displaying counts, with a classifier of two narrow layers. Time in the model is
recorded apart, so what is left is the data path: choosing, dealing, tokenizing, writing.

The heap has HEAP from the start, for two slots: it is what docs/scale.md gives one slot of an executor.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from benchmarks.samples import Sample, count_bytes, measure_table, watch_memory, watch_size
from pipelines.session_conf import JAVA_OPTIONS, choose_java_options

SLOTS = 2
PRESET = "fineweb"
DATA_STAGES = ("corpus", "dataset", "near_duplicates")
STAGES = (*DATA_STAGES, "scoring")
HEAP = "1g"
_MAX_TOKENS = 128
_LABELS = ("first", "second")
_CLASSIFIER = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": _MAX_TOKENS,
}
CONF = {
    "spark.master": f"local[{SLOTS},4]",
    "spark.driver.memory": "2g",
    "spark.sql.shuffle.partitions": "4",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.eventLog.enabled": "true",
    "spark.eventLog.compress": "false",
}


def run_data_stages(documents: Path, root: Path, log: Path) -> list[Sample]:
    """DATA_STAGES, each with tables below `root`."""
    from jobs import corpus, dataset

    return [
        _measure("corpus", corpus, "documents", _load(documents, root, log), root),
        _measure("dataset", dataset, "sequences", _load(documents, root, log), root),
        _measure_near_duplicates(documents, root / "near", log),
    ]


def run_scoring(root: Path) -> list[Sample]:
    """The documents of the corpus below `root`, all splits, scored by a new classifier."""
    from jobs.shell.plan import require_table
    from pipelines.scoring.batch import score_documents
    from pipelines.scoring.pull import Place
    from pipelines.scoring.select import choose_documents
    from pipelines.spark import session
    from pipelines.tables import DOCUMENTS, PREDICTIONS

    place = Place("folder", str(_save_classifier(root)), None, "accuracy")
    model, path = SimpleNamespace(name="small", version=1, run_id="r"), str(root / "predictions")

    def score() -> None:
        documents = require_table(str(root / "documents"), "documents", "corpus")
        rows = DOCUMENTS.read(session("growth"), documents.path, documents.version)
        with choose_documents(rows, None, model, num_partitions=None) as chosen:
            now, version = datetime.now(UTC), documents.version
            scored = score_documents(chosen.rows, place, model, documents_version=version, scored_at=now)
            PREDICTIONS.append(scored, path, fingerprint="growth", facts={})

    sample = _watch("scoring", score) | measure_table(path, root)
    milliseconds = PREDICTIONS.read_newest(session("growth"), path).agg({"latency_ms": "sum"}).collect()
    return [{**sample, "model_seconds": milliseconds[0][0] / 1_000}]


def _measure_near_duplicates(documents: Path, root: Path, log: Path) -> Sample:
    """The corpus stage with a search; how many pairs it compared, and the bytes of its tables: those that
    stay, and those that are held only while it runs. Members are paired by executors, as those of a large
    corpus are, which the figures are computed for."""
    from jobs import corpus
    from jobs.shell.plan import require_table
    from pipelines.corpus.neardup import find

    prepare = find.prepare_search

    def prepare_large(places: find.TablePlaces, report: Callable[[str], None]) -> find.Search | None:
        prepared = prepare(places, report)
        return prepared and replace(prepared, driver_buckets=0)

    search = ("corpus.near_duplicates.enabled=true", f"corpus.near_duplicates.preset={PRESET}")
    settings = _load(documents, root, log, *search)
    config = settings.section("corpus", corpus.Config)
    evidence = Path(config.duplicates)
    with watch_size(evidence) as size, patch.object(find, "prepare_search", prepare_large):
        sample = _measure("near_duplicates", corpus, "documents", settings, root)
    facts = require_table(config.documents, "documents", "corpus").facts["near_duplicates"]
    kept = (config.signatures, config.similarities, config.duplicates)
    return sample | {
        "pairs": facts["pairs"],
        "near_pairs": facts["near_pairs"],
        "search_bytes": sum(count_bytes(Path(path)) for path in kept),
        "held_bytes": max(0, size["peak_bytes"] - count_bytes(evidence)),
    }


def _measure(name: str, stage: Any, table: str, settings: Any, root: Path) -> Sample:
    config = settings.section(stage.__name__.rpartition(".")[2], stage.Config)
    return _watch(name, lambda: stage.main(config)) | measure_table(getattr(config, table), root)


def _watch(name: str, run: Callable[[], object]) -> Sample:
    started = time.time()
    with watch_memory() as peaks:
        run()
    return {"stage": name, "started": started, "ended": time.time(), **peaks}


def _load(documents: Path, root: Path, log: Path, *overrides: str) -> Any:
    from jobs.shell import settings

    source = f"{{name: s, path: {documents}, format: jsonl, fields: {{text: text}}}}"
    java = f"{choose_java_options(CONF)} -Xms{HEAP} -XX:+AlwaysPreTouch"
    heap = {"spark.driver.memory": HEAP, JAVA_OPTIONS: java}
    conf = {**CONF, **heap, "spark.eventLog.dir": log.as_uri()}
    return settings.load(
        overrides=[
            f"root={root}",
            f"corpus.sources=[{source}]",
            "dataset.task=language_modelling",
            "dataset.packing.method=concatenate",
            "dataset.packing.sequence_length=1024",
            "dataset.tokenizer.max_bytes=5000000",
            "spark={" + ", ".join(f'{key}: "{value}"' for key, value in conf.items()) + "}",
            *overrides,
        ]
    )


def _save_classifier(root: Path) -> Path:
    """A model folder with random weights and the tokenizer of the dataset stage."""
    from pipelines.dataset.tokenizer import read_tokenizer, tokenizer_fingerprint
    from pipelines.finetune.models.architecture import Architecture, ModelSpec
    from pipelines.finetune.models.build import build_model
    from pipelines.finetune.models.folder import save_model

    (kept,) = (root / "tokenizers").glob("*.json")
    tokenizer = read_tokenizer(str(root / "tokenizers"), kept.stem)
    spec = ModelSpec(
        task="classification",
        labels=_LABELS,
        max_tokens=_MAX_TOKENS,
        base="scratch",
        tokenizer=tokenizer_fingerprint(tokenizer),
    )
    built = build_model(Architecture(config=_CLASSIFIER), spec, vocab_size=tokenizer.get_vocab_size(), seed=1)
    folder = root / "model"
    save_model(built, tokenizer.to_str(), spec, folder)
    return folder
