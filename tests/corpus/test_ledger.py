"""The ledger and the intake that follows from it. Real files and Delta tables; no JVM."""

import json
import os
import shutil
from types import SimpleNamespace

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from pipelines.corpus.intake import FullRunNeededError, plan_intake
from pipelines.corpus.ledger import compare_files, make_entries, restore_manifest
from pipelines.corpus.manifest import list_sources
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.source import Source
from pipelines.digest import Totals
from pipelines.pin import transaction_name, version_of

NAMES = ("s", "t")
TOTALS = Totals(num_rows=1, xor=5, sum=7).encode()


def identify(digest):
    return f"settings/{digest}"


def make_file(folder, name, text="1", time=1):
    path = folder / "raw" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time, time))
    return path


def make_sources(folder):
    return [Source(name=name, path=f"{folder}/raw/{name}", format="lines") for name in NAMES]


def commit(path, made_from, rows, totals=TOTALS):
    """One commit as a stage makes it."""
    record = {"table": "rows", "digest": "d", "num_rows": 1, "fingerprint": made_from, "facts": {}}
    record |= {} if totals is None else {"totals": totals}
    named = [Transaction(transaction_name(made_from), 1 + version_of(path))]
    metadata = {"userMetadata": json.dumps({"distributary": record})}
    properties = CommitProperties(custom_metadata=metadata, app_transactions=named)
    write_deltalake(path, rows, mode="overwrite", commit_properties=properties)


def write_tables(folder, manifest, *, made_from=None, totals=TOTALS):
    """The tables of a run that read the files of a manifest."""
    made_from = made_from or identify(manifest.digest)
    for name in ("documents", "quarantine"):
        commit(f"{folder}/{name}", made_from, pa.table({"a": [1]}), totals)
    commit(f"{folder}/ledger", made_from, make_entries(manifest, NAMES))


def make_places(folder, **changed):
    tables = {name: f"{folder}/{name}" for name in ("documents", "quarantine", "ledger")}
    knobs = {"measured": [], "evidence": [], "changed_files": "stop", "paragraphs": Paragraphs(), **changed}
    return SimpleNamespace(**{**tables, **knobs})


@pytest.fixture
def ingested(tmp_path):
    """Three files of two sources that a run has read."""
    for name in ("s/b", "s/é", "t/a"):
        make_file(tmp_path, name)
    write_tables(tmp_path, list_sources(make_sources(tmp_path)))
    return tmp_path


def plan(folder, identify=identify, **changed):
    sources = make_sources(folder)
    return plan_intake(list_sources(sources), sources, make_places(folder, **changed), identify)


def list_files(manifest):
    return [(row["source"], row["file"]) for row in manifest.files.to_pylist()]


def test_a_ledger_gives_its_manifest_back(ingested):
    manifest = list_sources(make_sources(ingested))
    entries = make_entries(manifest, NAMES).take([2, 0, 1])  # a table has no order
    restored = restore_manifest(entries, make_sources(ingested))
    assert (restored.digest, restored.num_files) == (manifest.digest, {"s": 2, "t": 1})
    assert list_files(restored) == [(0, "b"), (0, "é"), (1, "a")]
    assert restore_manifest(entries, make_sources(ingested)[1:]) is None


def test_new_changed_and_deleted_files_are_told_apart(ingested):
    sources = make_sources(ingested)
    before = list_sources(sources)
    make_file(ingested, "s/a")  # another source has a file of that name
    make_file(ingested, "s/b", "22")
    make_file(ingested, "t/a", "2", time=2)
    (ingested / "raw" / "s" / "é").unlink()
    changes = compare_files(before, list_sources(sources), sources)
    found = [part.select(["source", "file"]).to_pylist() for part in (changes.new, changes.changed)]
    assert found[0] == [{"source": 0, "file": "a"}]
    assert found[1] == [{"source": 0, "file": "b"}, {"source": 1, "file": "a"}]
    assert changes.describe() == "2 files changed (s: b, t: a); 1 file disappeared (s: é)"
    assert not changes.keep_documents


def test_only_the_first_files_are_named(tmp_path):
    for number in range(9):
        make_file(tmp_path, f"s/{number}")
    make_file(tmp_path, "t/a")
    sources = make_sources(tmp_path)
    before = list_sources(sources)
    for number in range(8):
        (tmp_path / "raw" / "s" / str(number)).unlink()
    found = compare_files(before, list_sources(sources), sources).describe()
    assert found == "8 files disappeared (s: 0, s: 1, s: 2, s: 3, s: 4 and 3 more)"


def test_without_documents_all_files_are_read(tmp_path):
    make_file(tmp_path, "s/a")
    make_file(tmp_path, "t/a")
    intake = plan(tmp_path)
    assert (intake.earlier, intake.why) == (None, "")
    assert intake.part is intake.whole


def test_new_files_alone_are_read(ingested):
    make_file(ingested, "s/a")
    intake = plan(ingested)
    assert list_files(intake.part) == [(0, "a")]
    assert list_files(intake.whole) == [(0, "a"), (0, "b"), (0, "é"), (1, "a")]
    assert intake.part.files["path"].to_pylist() == [f"{ingested}/raw/s/a"]
    # The tables get the name of a full run over all files.
    assert intake.fingerprint == identify(list_sources(make_sources(ingested)).digest)
    assert intake.earlier.version == 0
    assert intake.why == "1 new file since documents version 0"


def test_a_reason_for_a_full_run_reads_all_files(ingested):
    make_file(ingested, "s/a")
    intake = plan(ingested)
    full = intake.replan(FullRunNeededError("a key repeats"))
    assert (full.earlier, full.why, full.fingerprint) == (None, "a key repeats", intake.fingerprint)
    assert list_files(full.part) == list_files(intake.whole)


def test_changed_files_stop_the_stage_with_the_choice(ingested):
    make_file(ingested, "s/b", "22")
    make_file(ingested, "s/new")
    with pytest.raises(
        ValueError, match=r"1 file changed \(s: b\) since documents version 0 .*=rebuild.*=keep"
    ):
        plan(ingested)


def test_rebuild_reads_all_files_as_they_are(ingested):
    make_file(ingested, "s/b", "22")
    intake = plan(ingested, changed_files="rebuild")
    assert (intake.earlier, intake.why) == (None, "1 file changed (s: b) since version 0")
    assert intake.part.digest == list_sources(make_sources(ingested)).digest


def test_keep_adds_new_files_to_the_old_state(ingested):
    before = list_sources(make_sources(ingested))
    make_file(ingested, "s/b", "22")
    (ingested / "raw" / "s" / "é").unlink()
    assert plan(ingested, changed_files="keep").fingerprint == identify(before.digest)  # nothing to do
    make_file(ingested, "s/new")
    intake = plan(ingested, changed_files="keep")
    assert list_files(intake.part) == [(0, "new")]
    assert {row["file"]: row["size"] for row in intake.whole.files.to_pylist() if row["source"] == 0} == {
        "b": 1,
        "new": 1,
        "é": 1,
    }
    assert intake.why.endswith("1 file changed (s: b); 1 file disappeared (s: é): their documents are kept")
    with pytest.raises(ValueError, match=r"a key repeats, which takes a full run, but .*=rebuild"):
        intake.replan(FullRunNeededError("a key repeats"))


def test_other_settings_read_all_files(ingested):
    make_file(ingested, "s/new")
    assert plan(ingested, identify="other/{}".format).earlier is None
    make_file(ingested, "s/b", "22")
    assert plan(ingested, identify="other/{}".format).earlier is None  # all files are read as they are now
    with pytest.raises(ValueError, match=r"the settings changed.*1 file changed \(s: b\).*=rebuild"):
        plan(ingested, identify="other/{}".format, changed_files="keep")


def test_a_missing_ledger_reads_all_files(ingested):
    make_file(ingested, "s/new")
    commit(f"{ingested}/documents", "another run", pa.table({"a": [1]}))
    assert plan(ingested).earlier is None
    with pytest.raises(ValueError, match=r"no ledger .* version 1, .*=keep says .*=rebuild"):
        plan(ingested, changed_files="keep")  # it cannot be said which documents would go


def test_a_maintained_ledger_is_read_in_its_newest_version(ingested):
    for row in range(3):  # three shards, then one
        entries = make_entries(list_sources(make_sources(ingested)), NAMES)
        write_deltalake(f"{ingested}/small", entries.slice(row, 1), mode="append")
    made_from = identify(list_sources(make_sources(ingested)).digest)
    small = DeltaTable(f"{ingested}/small")
    commit(f"{ingested}/small", made_from, small.to_pyarrow_table())
    small.update_incremental()
    small.optimize.z_order(["file"])
    small.vacuum(0, dry_run=False, enforce_retention_duration=False)
    make_file(ingested, "s/new")
    assert list_files(plan(ingested, ledger=f"{ingested}/small").part) == [(0, "new")]


def test_a_table_that_was_compacted_cannot_keep_documents(tmp_path):
    for text in ("one", "two"):
        write_deltalake(f"{tmp_path}/raw", pa.table({"text": [text]}), mode="append")
    sources = [Source(name="s", path=f"{tmp_path}/raw", format="delta", fields={"text": "text"})]
    write_tables(tmp_path, list_sources(sources))
    DeltaTable(f"{tmp_path}/raw").optimize.compact()
    places = make_places(tmp_path, changed_files="keep")
    with pytest.raises(ValueError, match=r"source s is a table that wrote earlier rows.*2 files disappeared"):
        plan_intake(list_sources(sources), sources, places, identify)
    places = make_places(tmp_path, changed_files="rebuild")
    assert plan_intake(list_sources(sources), sources, places, identify).earlier is None


def test_a_source_may_lose_all_its_files_if_documents_are_kept(ingested):
    (ingested / "raw" / "t" / "a").unlink()
    make_file(ingested, "s/new")
    sources = make_sources(ingested)
    with pytest.raises(FileNotFoundError, match="source 't'"):
        list_sources(sources)
    manifest = list_sources(sources, may_be_empty=True)
    intake = plan_intake(manifest, sources, make_places(ingested, changed_files="keep"), identify)
    assert (list_files(intake.part), intake.whole.num_files) == ([(0, "new")], {"s": 3, "t": 1})


def test_a_table_that_is_gone_is_an_obstacle_without_new_files_too(ingested):
    (ingested / "raw" / "t" / "a").unlink()
    shutil.rmtree(ingested / "quarantine")
    sources = make_sources(ingested)
    manifest = list_sources(sources, may_be_empty=True)
    intake = plan_intake(manifest, sources, make_places(ingested, changed_files="keep"), identify)
    assert "quarantine has no version of the same run" in intake.obstacle
    with pytest.raises(ValueError, match=r"quarantine has no version .*changed_files=rebuild"):
        intake.replan(FullRunNeededError(intake.obstacle))


@pytest.mark.parametrize("totals", [None, TOTALS])
def test_tables_that_cannot_be_extended_are_written_again(ingested, totals):
    made_from = identify(list_sources(make_sources(ingested)).digest)
    make_file(ingested, "s/new")
    commit(f"{ingested}/quarantine", made_from, pa.table({"a": [1]}), totals)
    intake = plan(ingested)
    assert (intake.earlier is None) == (totals is None)
    assert ("quarantine has no version of the same run" in intake.why) == (totals is None)


def test_tables_of_a_catalog_read_all_files(ingested):
    make_file(ingested, "s/new")
    named = {"quarantine": "lake.quarantine", "changed_files": "keep"}
    assert "lake.quarantine belongs to a catalog" in plan(ingested, **named).why
    (ingested / "raw" / "s" / "é").unlink()  # its documents shall stay, so they cannot be written again
    with pytest.raises(ValueError, match=r"to a catalog.* 1 file disappeared \(s: é\).*=keep says"):
        plan(ingested, **named)


def test_totals_add_up_and_come_back():
    one, other = Totals(num_rows=2, xor=6, sum=-9), Totals(num_rows=1, xor=-3, sum=2**70)
    assert one.add(other) == Totals(num_rows=3, xor=6 ^ -3, sum=2**70 - 9)
    assert one.add(other).remove(other) == one
    assert Totals.decode(json.loads(json.dumps(other.encode()))) == other
    # A table without rows has one digest, however it became empty.
    assert one.remove(one).digest == Totals().digest != one.digest
