"""A small training without Spark, Delta or MLflow: the reader's arrays, a tokenizer made by hand, a tiny
encoder.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from pipelines.dataset.arrays import FORMAT
from pipelines.dataset.reader import write_split
from pipelines.dataset.rows import LABEL_SET, NO_LABEL, Rows
from pipelines.dataset.tokenizer import write_tokenizer
from pipelines.finetune.models.architecture import Architecture, ModelSpec, RetrievalRules
from pipelines.finetune.optimization import Optimization
from pipelines.finetune.training import Cadence, Data, Execution, Schedule, Training
from tests.conftest import TINY_ENCODER

TABLE_ID, VERSION = "00000000-0000-4000-8000-000000000000", 3
NUM_ROWS = {"train": 160, "validation": 40, "test": 40}
VOCABULARY, NUM_LABELS, MAX_TOKENS = 64, 4, 32
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make_tokenizer() -> Tokenizer:
    """Words w0 .. w63; nothing is trained."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def classification_rows(num_rows: int, seed: int) -> Rows:
    """Rows of 3 to 23 tokens; about 40 % of a row's tokens are the number of its class plus one."""
    random = np.random.default_rng(seed)
    lengths, labels = random.integers(3, 24, num_rows), random.integers(0, NUM_LABELS, num_rows)
    tokens = [
        np.where(
            random.random(length) < 0.4, label + 1, random.integers(NUM_LABELS + 1, VOCABULARY, length)
        ).astype(np.int32)
        for length, label in zip(lengths, labels, strict=True)
    ]
    return Rows(
        input_ids=tokens,
        is_target=[np.zeros(len(each), dtype=bool) for each in tokens],
        segment_lengths=[np.array([len(each)], dtype=np.int32) for each in tokens],
        labels=labels.astype(np.int64),
        num_targets=np.ones(num_rows, dtype=np.int64),
        num_bytes=3 * lengths.astype(np.int64),
    )


def text_rows(num_rows: int, seed: int) -> Rows:
    """Rows of one document that counts upwards from a random token."""
    random = np.random.default_rng(seed)
    lengths = random.integers(6, 24, num_rows)
    tokens = [
        ((first + np.arange(length)) % VOCABULARY).astype(np.int32)
        for first, length in zip(random.integers(0, VOCABULARY, num_rows), lengths, strict=True)
    ]
    return Rows(
        input_ids=tokens,
        is_target=[np.arange(len(each)) > 0 for each in tokens],
        segment_lengths=[np.array([len(each)], dtype=np.int32) for each in tokens],
        labels=np.full(num_rows, NO_LABEL, dtype=np.int64),
        num_targets=lengths - 1,
        num_bytes=3 * (lengths - 1),
    )


def label_set_rows(num_rows: int, seed: int) -> Rows:
    """Rows of 4 to 23 tokens with none to all of the classes; every fifth row has none. Its first tokens are
    the numbers of its classes plus one, and so are about a seventh of the others for each class."""
    random = np.random.default_rng(seed)
    lengths = random.integers(NUM_LABELS, 24, num_rows)
    tokens, label_sets = [], []
    for number, length in enumerate(lengths):
        classes = np.flatnonzero(random.random(NUM_LABELS) < (0.4 if number % 5 else 0))
        others = random.integers(NUM_LABELS + 1, VOCABULARY, length)
        repeated = classes[random.integers(0, len(classes), length)] + 1 if len(classes) else others
        row = np.where(random.random(length) < len(classes) / 7, repeated, others)
        row[: len(classes)] = classes + 1
        tokens.append(row.astype(np.int32))
        label_sets.append(classes.astype(np.int32))
    return Rows(
        input_ids=tokens,
        is_target=[np.zeros(len(each), dtype=bool) for each in tokens],
        segment_lengths=[np.array([len(each)], dtype=np.int32) for each in tokens],
        labels=np.full(num_rows, LABEL_SET, dtype=np.int64),
        num_targets=np.ones(num_rows, dtype=np.int64),
        num_bytes=3 * lengths.astype(np.int64),
        label_sets=label_sets,
    )


def pair_rows(num_rows: int, seed: int) -> Rows:
    """Rows of a query, a positive about the same of 30 topics, and up to two negatives about others. A topic
    has one token in queries and another one in the other texts. Some rows share their query or their positive
    with the row before."""
    random = np.random.default_rng(seed)

    def write(token: int, length: int) -> np.ndarray:
        """Two of three tokens are this one."""
        others = random.integers(0, 4, length)
        return np.where(random.random(length) < 2 / 3, token, others).astype(np.int32)

    rows: list[list[np.ndarray]] = []
    for number in range(num_rows):
        topic = random.integers(0, 30)
        query, positive = 4 + 2 * topic, 5 + 2 * topic
        texts = [write(query, random.integers(2, 7)), write(positive, random.integers(4, 12))]
        for other in (topic + random.integers(1, 30, random.integers(0, 3))) % 30:
            texts.append(write(5 + 2 * other, random.integers(4, 12)))
        if number % 7 == 3:
            texts[number % 2] = rows[-1][number % 2]
        rows.append(texts)
    lengths = [np.array([len(text) for text in texts], dtype=np.int32) for texts in rows]
    tokens = [np.concatenate(texts) for texts in rows]
    return Rows(
        input_ids=tokens,
        is_target=[np.zeros(len(each), dtype=bool) for each in tokens],
        segment_lengths=lengths,
        labels=np.zeros(num_rows, dtype=np.int64),
        num_targets=np.ones(num_rows, dtype=np.int64),
        num_bytes=np.array([3 * len(each) for each in tokens]),
    )


def write_sequences(cache: Path, make_rows=classification_rows) -> None:
    """The copies of all splits where `open_split` looks for them, so that it needs no table."""
    for seed, (split, num_rows) in enumerate(NUM_ROWS.items()):
        folder = cache / "sequences" / f"{TABLE_ID}-{VERSION}-{split}-{FORMAT}"
        folder.mkdir(parents=True)
        write_split(folder, make_rows(num_rows, seed))


def make_training(root: Path, **changes) -> Training:
    """30 steps of 16 rows with a tiny encoder. `changes`: fields of Training, or of any of its parts."""
    tokenizers = str(root / "tokenizers")
    parts = {
        "data": Data(
            sequences="/no/table",
            tokenizers=tokenizers,
            table_id=TABLE_ID,
            version=VERSION,
            evaluation_split="validation",
            final_split="test",
        ),
        "optimization": Optimization(learning_rate=0.003),
        "schedule": Schedule(num_epochs=3.0, global_batch=16, window_batches=5, seed=0),
        "cadence": Cadence(evaluate_every_steps=10, checkpoint_every_steps=7, log_every_steps=1),
        "execution": Execution(micro_batch=8, num_threads=1),
    }
    task = changes.pop("task", "classification")
    masking = {"mask_token_id": 0, "vocab_size": VOCABULARY, "mask_fraction": 0.15}
    config = {**TINY_ENCODER, **changes.pop("config", {})}
    for name, part in parts.items():
        mine = {field: changes.pop(field) for field in list(changes) if field in part.__dataclass_fields__}
        parts[name] = replace(part, **mine)
    return Training(
        fingerprint="tests",
        folder=changes.pop("folder", str(root / "run")),
        spec=ModelSpec(
            task=task,
            labels=tuple("abcd"),
            max_tokens=MAX_TOKENS,
            base="scratch",
            tokenizer=write_tokenizer(make_tokenizer(), tokenizers),
            preference=changes.pop("preference", None),
            **(masking if task == "masked_language_modelling" else {}),
            retrieval=RetrievalRules() if task == "retrieval" else None,
            label_threshold=0.5 if task == "multi_label_classification" else None,
        ),
        architecture=changes.pop("architecture", Architecture(config=config)),
        **{**parts, **changes},
    )
