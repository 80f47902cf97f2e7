"""Tables of documents made of a few texts, and the sequences that the stage makes of them."""

from pipelines.dataset.build import build_sequences, count_splits
from pipelines.dataset.documents import choose_tokenizer, summarize_documents
from pipelines.dataset.examples.table import load_builder
from pipelines.dataset.layout import lay_out_groups
from pipelines.tables import DOCUMENTS

TEXTS = [
    "Where is my card? It has not arrived.",
    "我的卡还没有到。",
    "A third and rather longer text about exchange rates, in euros.",
    "x",
]


PARTS = {
    "chat": ["user", "assistant"],
    "preference": ["prompt", "chosen", "rejected"],
    "prompt_response": ["prompt", "response"],
    "retrieval": ["query", "positive", "negative"],
}


def documents_of(spark, texts, *, labels=None, splits=None, dropped=(), parts=(), sources="s", files="f"):
    """Rows of DOCUMENTS; columns that do not matter here get a value by their type."""
    filler = {"string": "s", "int": 0, "bigint": 0}
    rows = []
    for number, text in enumerate(texts):
        row = {c.name: None if c.nullable else filler[c.dataType.simpleString()] for c in DOCUMENTS.schema}
        row |= {
            "doc_id": f"{number:032x}",
            "text": text,
            "num_chars": len(text),
            "num_bytes": len(text.encode()),
        }
        row["label"] = labels[number % len(labels)] if labels else None
        row["drop_reason"] = "too_short" if number in dropped else None
        row["parts"] = [(name, text[::-1] if name == "rejected" else text) for name in parts] or None
        row["split"] = splits[number % len(splits)] if splits else "train"
        row["source"], row["file"] = sources[number % len(sources)], files[number % len(files)]
        rows.append(tuple(row.values()))
    return spark.createDataFrame(rows, DOCUMENTS.schema)


def summary_of(documents, task="language_modelling", max_bytes=10**9, group_bytes=10**6):
    builder = load_builder(task)
    return summarize_documents(
        documents,
        max_bytes=max_bytes,
        group_bytes=group_bytes,
        with_labels=builder.has_labels,
        with_label_sets=builder.has_label_sets,
    )


def tokenizer_for(documents, choice):
    return choose_tokenizer(
        documents, choice, summary_of(documents, max_bytes=choice.max_bytes), task="language_modelling"
    )


def build(documents, chosen, rules, task="language_modelling"):
    summary = summary_of(documents, task, group_bytes=rules.group_bytes)
    layout = lay_out_groups(summary.place_bytes, rules.group_bytes)
    return build_sequences(documents, chosen, rules, task=task, labels=summary.labels, layout=layout)


def collect_sequences(documents, chosen, rules, task="language_modelling"):
    """Rows of SEQUENCES by split and sequence_id, and the counts of the splits."""
    sequences = build(documents, chosen, rules, task).rows
    rows = [row.asDict(recursive=True) for row in sequences.collect()]
    return sorted(rows, key=lambda row: (row["split"], row["sequence_id"])), count_splits(sequences)
