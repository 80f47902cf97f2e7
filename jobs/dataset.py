"""Stage 2: the documents table to the sequences table, with every token traced to its document."""

from dataclasses import asdict, replace
from typing import Annotated

import typer
from pydantic import AfterValidator

from jobs.shell.command import Outcome, Plan, command, working
from jobs.shell.plan import planned, required, unchanged
from jobs.shell.settings import Section
from pipelines.dataset.build import build_sequences
from pipelines.dataset.documents import choose_tokenizer, summarize_documents
from pipelines.dataset.examples.table import EXAMPLES, require_task
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer import tokenizer_identity, write_tokenizer
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.pin import Pin, fingerprint
from pipelines.spark import session
from pipelines.storage import absolute
from pipelines.tables import DOCUMENTS, SEQUENCES

REVISION = 3
"""Raised when equal documents give other sequences than before."""


class Config(Section):
    documents: str
    sequences: str
    tokenizers: str
    task: Annotated[str, AfterValidator(require_task)]
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
        summary = summarize_documents(
            documents, max_bytes=config.tokenizer.max_bytes, with_labels=EXAMPLES[config.task].has_labels
        )
        chosen = choose_tokenizer(documents, config.tokenizer, summary)
        work.say("packing documents into sequences")
        with build_sequences(documents, chosen, config.packing, task=config.task, summary=summary) as built:
            facts = {
                "task": config.task,
                "labels": summary.labels,
                "tokenizer": write_tokenizer(chosen.tokenizer, config.tokenizers),
                "end_token_id": built.end_token_id,
                "splits": built.counts,
                "sequence_length": config.packing.sequence_length,
                "documents": {**asdict(pinned), "facts": {}},
            }
            work.say("writing sequences")
            pin = SEQUENCES.overwrite(
                built.rows, absolute(config.sequences), fingerprint=planned.fingerprint, facts=facts
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
