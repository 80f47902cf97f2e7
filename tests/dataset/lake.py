"""Documents and sequences in a folder, for increments: what a build does was foreseen by a dry run."""

import hashlib
from dataclasses import replace

from deltalake import DeltaTable

from pipelines.dataset.earlier import Inputs
from pipelines.dataset.forecast import forecast_build
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.dataset.write import SequenceBuild, write_sequences
from pipelines.pin import fingerprint, pin
from pipelines.tables import DOCUMENTS, SEQUENCES

PACKING = PackingRules(method="best_fit", sequence_length=32, group_bytes=6_000)
"""A file from 1,500 bytes has groups of its own; a document takes 512 bytes and its text."""
COLUMNS = ["doc_id", "source", "text", "label", "parts", "metadata", "content_hash", "num_chars", "num_bytes"]
COLUMNS += ["duplicate_of", "drop_reason", "split", "file", "offset"]


def make_document(source, file, number, **changes):
    text = f"Text {number} of {file}. " + "Where is my card, 我的卡? " * (number % 7)
    name = hashlib.sha256(f"{source} {file} {number}".encode()).hexdigest()[:32]
    row = dict.fromkeys(COLUMNS) | {"doc_id": name, "source": source, "file": file, "text": text, "offset": 0}
    row |= {"split": "test" if number % 5 == 0 else "train", "label": "ab"[number % 2], **changes}
    text = row["text"]
    content = f"{text}{row['parts'] or ''}"
    row |= {"num_chars": len(text), "num_bytes": len(text.encode())}
    return row | {"content_hash": hashlib.sha256(content.encode()).hexdigest()[:32]}


def make_file(source, file, num_documents):
    return [make_document(source, file, number) for number in range(num_documents)]


def require_foreseen(forecast, words):
    """What a dry run says is what the build does, for the same reason; the forecast."""
    built, _, reason = words.partition("; ")
    if built.startswith("all "):
        assert forecast.startswith("all will be built, because ")
        assert reason in forecast
    else:
        assert forecast.startswith(f"{built} will be built again; ")
    return forecast


class Lake:
    """Tables of documents and sequences in a folder."""

    def __init__(self, spark, folder, base, **changes):
        self.spark, self.folder, self.words, self.forecasts = spark, folder, [], []
        self.documents = str(folder / "documents")
        self.build = SequenceBuild(
            task="language_modelling",
            tokenizer=TokenizerChoice(base=base, vocab_size=300),
            packing=PACKING,
            sequences=str(folder / "sequences"),
            tokenizers=str(folder / "tokenizers"),
            fingerprint="",
        )
        self.build = replace(self.build, **changes)

    def _frame(self, rows):
        return self.spark.createDataFrame(
            [tuple(row[name] for name in COLUMNS) for row in rows], DOCUMENTS.schema
        )

    def put(self, rows):
        """All rows of the documents anew, in other files."""
        made_from = fingerprint([sorted(row.items(), key=str) for row in rows])
        DOCUMENTS.overwrite(self._frame(rows), self.documents, fingerprint=made_from, facts={})

    def add(self, rows):
        """More rows, in files of their own."""
        base = pin(self.documents).fingerprint
        made_from = fingerprint(base, [row["doc_id"] for row in rows])
        DOCUMENTS.extend(self._frame(rows), self.documents, base=base, fingerprint=made_from, facts={})

    def run(self, place=None, **changes):
        """(pin, what was built in words) of the stage."""
        build = replace(self.build, **changes)
        documents = pin(self.documents)
        settings = fingerprint(build.task, str(build.packing), str(build.tokenizer.base))
        made_from = fingerprint(settings, documents.identity())
        build = replace(build, sequences=place or build.sequences, fingerprint=made_from)
        inputs = Inputs(documents, settings)
        forecast = forecast_build(inputs, build)["groups"]
        found, words = write_sequences(self.spark, inputs, build, phase=self.words.append)
        self.forecasts.append(require_foreseen(forecast, words))
        return found, words

    def require_equal_to_full(self, found, **changes):
        """The table is that of a full build now, with its counts and its rows."""
        place = f"{self.folder}/full{found.version}"
        full, words = self.run(place, **changes)
        assert words.startswith("all ")
        assert (found.digest, found.num_rows) == (full.digest, full.num_rows)
        facts = [
            {name: each.facts[name] for name in each.facts if name != "documents"} for each in (found, full)
        ]
        assert facts[0] == facts[1]
        rows = [sorted(SEQUENCES.read(self.spark, each).collect()) for each in (found.path, place)]
        assert rows[0] == rows[1]
        assert SEQUENCES.digest(SEQUENCES.read(self.spark, found.path)) == (found.digest, found.num_rows)

    def list_files(self):
        """group -> files of the sequences."""
        files = DeltaTable(self.build.sequences).get_add_actions(flatten=True)
        found = {}
        for path, lowest in zip(files["path"].to_pylist(), files["min.sequence_id"].to_pylist(), strict=True):
            found.setdefault(lowest >> 32, set()).add(path)
        return found
