"""Parts of benchmarks that would break unseen: nobody runs an hour of measurements at every commit."""

import re
from itertools import pairwise

import pytest

from benchmarks import encoding, resume
from benchmarks.checkpoint import list_pieces, read_shard, write_shard
from benchmarks.increment_dataset import require_kept
from benchmarks.reader import BATCH, LENGTH, WARM_UP, require_tokens
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


def test_a_reader_must_give_every_token_and_a_peer_all_but_a_part_of_its_last_batch():
    facts, last = {"tokens": 10_000_123, "peer_tokens": 9_000 * LENGTH}, BATCH * LENGTH
    counted = (9_000 - WARM_UP * BATCH) * LENGTH
    for name, number in {"ours, ids": 10_000_123, "Arrow": 10_000_123, "lancedb": counted - last}.items():
        require_tokens(name, number, facts)
    for name, number in {
        "ours, ids": 10_000_122,
        "Arrow": 9_000 * LENGTH,
        "mosaicml": counted - last - 1,
    }.items():
        with pytest.raises(RuntimeError, match=f"{name} gave {number:,} tokens, and an epoch has "):
            require_tokens(name, number, facts)


def test_an_increment_must_keep_the_files_of_other_groups():
    before = {0: {"a"}, 1: {"b", "c"}, 2: {"d"}, 3: {"e"}}
    assert require_kept(before, before, "0 of 4") == 4
    assert require_kept(before, {0: {"a"}, 1: {"b", "x"}, 2: {"d"}, 4: {"y"}}, "3 of 4; the tokenizer") == 2
    with pytest.raises(RuntimeError, match=r"1 groups were built, .* these have changed: \[1, 2\]"):
        require_kept(before, {**before, 1: {"b"}, 2: {"x"}}, "1 of 4")
    with pytest.raises(RuntimeError, match="all groups were built: 4"):
        require_kept(before, before, "4")


def test_entries_of_other_programs_in_shared_memory_are_no_litter(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SHARED", tmp_path)
    litter = {"000000_barrier", "psm_1f2e3d4c", "torch_4711_2_0", "sem.mp-q1w2e3r4"}
    for name in litter | {"PostgreSQL.1216170016", "pulse-shm-1", "sem.haveged_sem", "hsperfdata"}:
        (tmp_path / name).touch()
    assert {entry.name for entry in resume.list_litter()} == litter


def test_shards_are_written_and_read_in_bounded_memory(tmp_path):
    """Of 200 MB. A chunk of 16 MiB and what the allocator keeps are beside the state; a copy is as large."""
    num_parameters = 2**24
    assert sum(piece.stop - piece.start for piece in list_pieces(num_parameters, 0, 1)) == num_parameters
    copied, num_bytes = write_shard(tmp_path, num_parameters, 0, 1, in_background=True)
    assert num_bytes == 12 * num_parameters
    assert 0.9 < copied < 1.2
    assert write_shard(tmp_path, num_parameters, 0, 1, in_background=False)[0] < 0.2
    assert read_shard(tmp_path, num_parameters, 0, 1)[0] < 0.2


def test_parameters_are_cut_into_shards_without_overlap():
    shards = [list_pieces(50_000_000, rank, 3) for rank in range(3)]
    for name in {piece.name for shard in shards for piece in shard}:
        spans = sorted((piece.start, piece.stop) for shard in shards for piece in shard if piece.name == name)
        assert spans[0][0] == 0
        assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert sum(piece.stop - piece.start for shard in shards for piece in shard) == 50_000_000
