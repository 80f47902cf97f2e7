"""Parts of benchmarks that would break unseen: nobody runs an hour of measurements at every commit."""

import re

from benchmarks import encoding
from pipelines.dataset.group import PackingJob, make_partition_packer
from pipelines.dataset.tokenizer import train_bpe
from pipelines.tables import SEQUENCES

TEXTS = [f"text number {number}: the sequences of a book, again and again. " * 40 for number in range(20)]


def test_texts_are_packed_as_a_task_of_the_dataset_stage_packs_them(monkeypatch):
    given = []

    def keep(job: PackingJob, schema):
        given.append((job, schema))
        return make_partition_packer(job, schema)

    monkeypatch.setattr(encoding, "make_partition_packer", keep)
    tokenizer_json = train_bpe(iter(TEXTS), vocab_size=300).to_str()
    batches = encoding.to_batches(TEXTS)
    assert encoding.measure_ours(batches, tokenizer_json) > 0
    ((job, schema),) = given
    columns = re.findall(r"^\s*([a-z_]+)\s+[A-Z]+", SEQUENCES.ddl, re.MULTILINE)
    assert schema.names == columns
    (rows,) = make_partition_packer(job, schema)(batches)
    documents = [segment["doc_id"] for row in rows.to_pylist() for segment in row["segments"]]
    assert sorted(set(documents)) == [f"{number:032x}" for number in range(20)]
