"""Increments of sequences: after each change of the documents, the table is that of a full build."""

import json
from dataclasses import replace

import pytest
from deltalake import DeltaTable

from jobs.dataset import Config, plan
from jobs.shell.settings import load
from pipelines import delta
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.tokenizer_choice import TokenizerChoice
from pipelines.dataset.write import write_sequences
from pipelines.pin import pin
from tests.conftest import TEST_CONF
from tests.dataset.chat.conversations import END as TURN_END
from tests.dataset.chat.conversations import read_template, special_tokenizer
from tests.dataset.lake import PACKING, Lake, make_document, make_file
from tests.dataset.styles import END, gpt2_style, write_model_folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(
        write_model_folder(tmp_path_factory.mktemp("base"), gpt2_style(), tokenizer_config={"eos_token": END})
    )


@pytest.fixture
def lake(spark, tmp_path, base):
    return Lake(spark, tmp_path, base)


def list_changed(before, after):
    return {group for group in before.keys() | after.keys() if before.get(group) != after.get(group)}


@pytest.mark.slow
def test_five_increments_are_one_full_build(lake):
    batches = [
        [*make_file("web", "a", 12), *make_file("web", "b", 2), *make_file("books", "c", 2)],
        make_file("web", "d", 9),  # groups of its own
        [make_document("web", "b", number) for number in range(2, 8)],  # now large: leaves the shared group
        [
            row for number in range(9) for row in make_file("books", f"small {number}", 2)
        ],  # shared groups double
        make_file("码", "e", 1),  # another source
    ]
    lake.put(batches[0])
    found, words = lake.run()
    assert words.startswith("all ")
    for batch in batches[1:]:
        before = lake.list_files()
        lake.add(batch)
        found, words = lake.run()
        assert " of " in words, words
        changed = list_changed(before, lake.list_files())
        assert words == f"{len(changed)} of {len(lake.list_files())}"
        assert before.keys() - changed, "nothing stayed"
    lake.require_equal_to_full(found)
    assert lake.run()[0] == found
    in_order = Lake(lake.spark, lake.folder / "order", lake.build.tokenizer.base)
    in_order.put([row for batch in batches[::-1] for row in batch])
    assert in_order.run()[0].digest == found.digest


@pytest.mark.slow
def test_a_document_that_goes_or_changes_rewrites_its_group_only(lake):
    rows = [*make_file("web", "a", 24), *make_file("web", "b", 2), *make_file("books", "c", 2)]
    lake.put(rows)
    lake.run()
    for number, change in (
        (3, None),
        (4, {"split": "validation"}),
        (6, {"text": "another text"}),
        (7, {"drop_reason": "too_short"}),
    ):
        before = lake.list_files()
        rows[number] = None if change is None else make_document("web", "a", number, **change)
        lake.put([row for row in rows if row])
        found, words = lake.run()
        assert words.startswith("1 of ")
        assert len(list_changed(before, lake.list_files())) == 1 < len(before)
        lake.require_equal_to_full(found)
    assert set(found.facts["splits"]) == {"train", "test", "validation"}


def test_what_no_sequence_shows_changes_no_file(lake):
    rows = [*make_file("web", "a", 5), make_document("web", "a", 6, drop_reason="too_short")]
    lake.put(rows)
    first, _ = lake.run()
    files = lake.list_files()
    lake.put([{**row, "label": "other", "offset": 7} for row in rows])
    found, words = lake.run()
    assert words.startswith("0 of ")
    assert lake.list_files() == files
    assert (found.version, found.digest) == (first.version + 1, first.digest)
    assert found.facts["documents"]["version"] == pin(lake.documents).version


def test_a_label_rewrites_its_group_and_a_new_class_all(lake):
    rows = make_file("web", "a", 30)
    task = {"task": "classification", "packing": PackingRules(sequence_length=32, group_bytes=6_000)}
    lake.put(rows)
    lake.run(**task)
    rows[3] = make_document("web", "a", 3, label="a")
    lake.put(rows)
    found, words = lake.run(**task)
    assert words.startswith("1 of ")
    lake.require_equal_to_full(found, **task)
    rows[3] = make_document("web", "a", 3, label="0")
    lake.put(rows)
    found, words = lake.run(**task)
    assert words.startswith("all ")
    assert "there are other classes than before" in words
    lake.require_equal_to_full(found, **task)


@pytest.mark.parametrize("killed", ["before", "after"])
def test_a_build_that_was_killed_is_done_once(lake, monkeypatch, killed):
    lake.put(make_file("web", "a", 12))
    lake.run()
    lake.add(make_file("web", "b", 5))
    real = delta.commit_shards

    def kill(*args, **options):
        if killed == "after":
            real(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(delta, "commit_shards", kill)
        with pytest.raises(KeyboardInterrupt):
            lake.run()
    version = pin(lake.build.sequences).version
    found, _ = lake.run()
    assert found.version == version + (killed == "before")
    lake.require_equal_to_full(found)


@pytest.mark.slow
def test_what_an_increment_cannot_do_is_built_whole_with_the_reason(lake, spark):
    lake.put([*make_file("web", "a", 12), *make_file("web", "b", 12)])
    lake.run()
    lake.add(make_file("web", "c", 5))
    packing = replace(PACKING, sequence_length=48)
    found, words = lake.run(packing=packing)
    assert words.split(";") == [f"all {len(lake.list_files())}"]  # other settings
    lake.add(make_file("web", "d", 5))
    spark.sql(f"OPTIMIZE delta.`{lake.build.sequences}`")
    found, words = lake.run(packing=packing)
    assert "another program has moved sequences of several groups into one file" in words
    lake.require_equal_to_full(found, packing=packing)
    lake.put(make_file("web", "a", 12))
    DeltaTable(lake.documents).vacuum(0, enforce_retention_duration=False, dry_run=False)
    found, words = lake.run(packing=packing)
    assert "files of documents version" in words
    assert "were deleted, such as" in words
    lake.require_equal_to_full(found, packing=packing)


def test_a_trained_tokenizer_is_kept_until_it_is_trained_anew(lake):
    trained = TokenizerChoice(vocab_size=300)
    lake.put(make_file("web", "a", 12))
    first, _ = lake.run(tokenizer=trained)
    lake.add([make_document("web", "b", number, text="zebra zoo " * 9) for number in range(4)])
    found, words = lake.run(tokenizer=trained)
    assert words.endswith(f"; the tokenizer is that of version {first.version}")
    assert found.facts["tokenizer"] == first.facts["tokenizer"]
    lake.add(make_file("web", "c", 4))
    found, words = lake.run(tokenizer=replace(trained, keep_trained=False))
    assert words.startswith("all ")
    assert found.facts["tokenizer"] != first.facts["tokenizer"]


def test_a_lost_tokenizer_that_cannot_be_trained_again_is_named(lake):
    trained = TokenizerChoice(vocab_size=300)
    lake.put(make_file("web", "a", 12))
    lake.run(tokenizer=trained)
    lake.add([make_document("web", "b", number, text="zebra zoo " * 9) for number in range(4)])
    found, _ = lake.run(tokenizer=trained)
    for file in (lake.folder / "tokenizers").iterdir():
        file.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"no tokenizer {found.facts['tokenizer']} .* delete the seq"
    ):
        lake.run(tokenizer=trained)
    lake.add(make_file("web", "c", 4))
    again, words = lake.run(tokenizer=trained)
    assert words == f"all {len(lake.list_files())}; the tokenizer of version {found.version} is gone"
    lake.require_equal_to_full(again, tokenizer=trained)


GOOD = [("user", "Where is my card?"), ("assistant", "On its way.")]
BAD = [("narrator", "Once"), ("assistant", "upon a time")]


def write_chat_folder(folder):
    folder.mkdir()
    special_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"eos_token": TURN_END, "chat_template": read_template("chatml")}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def make_dialogues(file, *bad, num_documents=6):
    return [
        make_document("web", file, number, parts=BAD if number in bad else GOOD)
        for number in range(num_documents)
    ]


def test_documents_that_were_left_out_before_stay_named(spark, tmp_path):
    base = write_chat_folder(tmp_path / "base")
    lake = Lake(spark, tmp_path, base, task="chat", max_left_out_fraction=0.2)
    settings = load(
        overrides=[
            f"root={tmp_path}/lake",
            f"dataset.documents={lake.documents}",
            f"dataset.sequences={lake.build.sequences}",
            f"dataset.tokenizers={lake.build.tokenizers}",
            "dataset.task=chat",
            f"dataset.tokenizer.base={base}",
            "dataset.packing.method=one_per_document",
            "dataset.packing.group_bytes=6000",
            "dataset.max_left_out_fraction=0.2",
            f"spark={json.dumps(TEST_CONF)}",
        ]
    )
    config = settings.section("dataset", Config)
    lake.build = replace(lake.build, packing=config.packing)

    def build():
        """What was built, what the commit keeps, and what the plan shows after it."""
        planned = plan(config)
        found, words = write_sequences(
            spark,
            planned.inputs,
            replace(lake.build, fingerprint=planned.fingerprint),
            phase=lake.words.append,
        )
        after = plan(config)
        assert after.up_to_date
        return words, found.facts["left_out"], after.facts.get("documents left out", "")

    a, b = make_dialogues("a", 3), make_dialogues("b")
    lake.put([*a, *b])
    words, left_out, shown = build()
    assert words == "all 2"
    assert [left_out["documents"], *(each["doc_id"] for each in left_out["first"])] == [1, a[3]["doc_id"]]
    assert shown.startswith(f"1; first {a[3]['doc_id']}: turn 1 has role 'narrator")
    lake.add(make_dialogues("c"))
    assert build() == ("1 of 3", left_out, shown)
    d = make_dialogues("d", 1)
    lake.add(d)
    words, both, _ = build()
    names = sorted([a[3]["doc_id"], d[1]["doc_id"]])
    assert (words, both["documents"], [each["doc_id"] for each in both["first"]]) == ("1 of 4", 2, names)
    lake.put([*make_dialogues("a"), *b, *d])  # repaired in one file, and another one is gone
    words, left_out, _ = build()
    assert (words, [each["doc_id"] for each in left_out["first"]]) == ("2 of 3", [d[1]["doc_id"]])
    lake.put([*make_dialogues("a"), *b])
    assert build() == ("1 of 2", {"documents": 0, "first": []}, "")
