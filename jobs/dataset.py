"""Stage 2: the documents table to the sequences table: tokenized, packed, every token traced to its document."""

from dataclasses import asdict, replace
from typing import Literal

import typer

from jobs.shell.command import Outcome, Plan, command, working
from jobs.shell.plan import planned, required, unchanged
from jobs.shell.settings import Section
from pipelines.dataset.build import (
    PackingRules,
    built_sequences,
    choose_tokenizer,
    count_by_split,
    in_order,
    label_names,
)
from pipelines.dataset.tokenizer import TokenizerChoice, tokenizer_identity, write_tokenizer
from pipelines.pin import Pin, fingerprint
from pipelines.spark import session
from pipelines.storage import absolute
from pipelines.tables import DOCUMENTS, SEQUENCES

REVISION = 2
"""Raised when equal documents give other sequences than before."""


class Config(Section):
    documents: str
    sequences: str
    tokenizers: str
    task: Literal["classification", "language_modelling"]
    tokenizer: TokenizerChoice
    packing: PackingRules


def plan(config: Config) -> Plan:
    documents = required(absolute(config.documents), "documents", "corpus")
    settings = config.model_dump(mode="json", include={"task", "tokenizer", "packing"})
    made_from = fingerprint(
        "dataset", REVISION, settings, documents.identity(), tokenizer_identity(config.tokenizer)
    )
    return planned(made_from, [absolute(config.sequences)])


def main(config: Config) -> Outcome:
    planned = plan(config)
    if planned.up_to_date:
        return unchanged("dataset", planned, absolute(config.sequences), told)
    pinned = required(absolute(config.documents), "documents", "corpus")
    with working("dataset") as work:
        work.say("starting Spark")
        spark = session("distributary dataset", config.spark)
        documents = DOCUMENTS.read(spark, pinned.path, pinned.version)
        if (
            not pinned.digest
        ):  # changed by somebody else, which is their right: what they left is what is learnt
            digest, num_rows = DOCUMENTS.digest(documents)
            pinned = replace(pinned, digest=digest, num_rows=num_rows)
        work.say("reading the tokenizer" if config.tokenizer.base else "training the tokenizer")
        tokenizer = choose_tokenizer(documents, config.tokenizer)
        labels = label_names(documents) if config.task == "classification" else ()
        work.say("packing documents into sequences")
        with built_sequences(documents, tokenizer, config.packing, labels=labels) as packed:
            facts = {
                "task": config.task,
                "labels": labels,
                "tokenizer": write_tokenizer(tokenizer, config.tokenizers),
                "splits": count_by_split(packed),
                "sequence_length": config.packing.sequence_length,
                "documents": {**asdict(pinned), "facts": {}},
            }
            work.say("writing sequences")
            pin = SEQUENCES.overwrite(
                in_order(packed), absolute(config.sequences), fingerprint=planned.fingerprint, facts=facts
            )
    return Outcome(stage="dataset", ran=True, why=planned.why, facts=told(pin))


def told(pin: Pin) -> dict[str, str]:
    """The counts for a person."""
    facts = pin.facts
    sequences = ", ".join(f"{split} {counts['sequences']:,}" for split, counts in facts["splits"].items())
    tokens, cut = (
        sum(counts[name] for counts in facts["splits"].values()) for name in ("tokens", "cut_tokens")
    )
    return {"sequences": sequences, "tokens": f"{tokens:,}", "tokens cut off": f"{cut:,}"}


if __name__ == "__main__":
    typer.run(command("dataset", Config, main, plan))
