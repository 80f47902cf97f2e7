import pyarrow as pa
import pytest

from pipelines.dataset import group
from pipelines.dataset.chat_format import ChatFormat
from pipelines.dataset.group import PackingJob, make_partition_packer
from pipelines.dataset.packing.conservation import TokenCount
from pipelines.dataset.packing.packed import PackedSequence, join_rows, slice_unit
from pipelines.dataset.packing.rules import PackingRules
from pipelines.dataset.packing.table import PACKERS, load_packer
from pipelines.dataset.tokenizer import train_bpe
from pipelines.delta import ContractError
from tests.dataset.units import example, random_examples

TEXTS = ["Where is my card? It has not arrived.", "A longer text about exchange rates, in euros.", "x"]
# Of the columns that packing makes, those that hold the tokens: the whole schema needs Spark to be read.
SCHEMA = pa.schema(
    [
        pa.field("split", pa.string()),
        pa.field("sequence_id", pa.int64()),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("targets", pa.list_(pa.struct([("first_token", pa.int32()), ("num_tokens", pa.int32())]))),
        pa.field("segments", pa.list_(pa.struct([("doc_id", pa.string()), ("num_tokens", pa.int32())]))),
    ]
)


def count_rows(examples, rows) -> TokenCount:
    count = TokenCount()
    list(count.add_examples(examples))
    count.remove_rows(join_rows(rows))
    return count


def require_balance(count: TokenCount) -> None:
    count.require_balance(split="train", group=3, method="concatenate")


@pytest.mark.parametrize("method", ["concatenate", "best_fit"])
def test_packing_methods_keep_the_balance(method):
    examples = [*random_examples(4), example("last", 10**6, 9, cut=5)]
    require_balance(count_rows(examples, list(load_packer(method)(examples, length=8))))


def spoil_lost(pieces):
    (doc_id, unit), *others = pieces
    return [(doc_id, slice_unit(unit, 0, len(unit.input_ids) - 1)), *others]


def spoil_repeated(pieces):
    return [*pieces, pieces[0]]


def spoil_swapped(pieces):
    """As many tokens of each document as before, but one is another token."""
    (doc_id, unit), *others = pieces
    return [(doc_id, unit._replace(input_ids=unit.input_ids + (unit.input_ids == 2))), *others]


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (spoil_lost, r"document a: \+1 tokens left over"),
        (spoil_repeated, r"document a: -4 tokens left over"),
        (spoil_swapped, "document a: other tokens than it had left over"),
    ],
)
def test_a_token_that_is_lost_repeated_or_replaced_is_found(spoil, fault):
    examples = [example("a", 0, 4), example("b", 4, 3)]
    (row,) = load_packer("concatenate")(examples, length=100)
    count = count_rows(examples, [row._replace(pieces=spoil(row.pieces))])
    with pytest.raises(ContractError, match=f"group 3 of train .* {fault}; the packing method concatenate"):
        require_balance(count)


def test_cut_tokens_that_no_row_counts_are_found():
    examples = [example("a", 0, 4, cut=6)]
    (row,) = load_packer("one_per_document")(examples, length=4)
    require_balance(count_rows(examples, [row]))
    with pytest.raises(ContractError, match=r"has \+6 tokens cut off that no sequence counts"):
        require_balance(count_rows(examples, [row._replace(num_cut_tokens=0)]))


def packed_partition(method: str) -> list[pa.RecordBatch]:
    tokenizer = train_bpe(iter(TEXTS * 5), vocab_size=300)
    job = PackingJob(
        task="language_modelling",
        tokenizer_json=tokenizer.to_str(),
        end_token_id=tokenizer.token_to_id("<|end_of_text|>"),
        labels=(),
        rules=PackingRules(method=method, sequence_length=16),
        chat=ChatFormat(),
    )
    columns = {"split": ["train"] * 3, "group": [0, 0, 1], "source": ["s"] * 3}
    columns |= {"doc_id": [letter * 32 for letter in "abc"], "text": TEXTS}
    batch = pa.RecordBatch.from_pydict(columns)
    return list(make_partition_packer(job, SCHEMA)([batch]))


@pytest.mark.parametrize("method", sorted(PACKERS))
def test_a_build_counts_its_tokens(method, monkeypatch):
    assert len(packed_partition(method)) == 2  # groups

    def lose_a_row(examples, *, length):
        first, *others = load_packer(method)(examples, length=length)
        yield from others or [PackedSequence(spoil_lost(first.pieces), num_cut_tokens=first.num_cut_tokens)]

    monkeypatch.setattr(group, "load_packer", lambda name: lose_a_row)
    with pytest.raises(ContractError, match="group 0 of train does not hold every token once"):
        packed_partition(method)
