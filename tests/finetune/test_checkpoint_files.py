"""Files of checkpoints: in the format of safetensors, in chunks, and what is said of damaged ones."""

import json
from hashlib import sha256

import pytest
import safetensors.torch
import torch
from torch import nn

from pipelines.finetune.checkpoint import tensor_file
from pipelines.finetune.checkpoint.format import (
    DamagedCheckpointError,
    Piece,
    TrainState,
    complete_steps,
    read_record,
)
from pipelines.finetune.checkpoint.part import Part
from pipelines.finetune.checkpoint.reading import load_weights, read_pieces
from pipelines.finetune.checkpoint.snapshot import Snapshot
from pipelines.finetune.checkpoint.tensor_file import Target, TensorFile, read_tensors, write_image
from pipelines.storage import Folder
from tests.finetune.checkpoints import write_part, write_parts

TENSORS = {
    "a.weight": torch.arange(12.0, dtype=torch.float64).view(3, 4).t(),  # not contiguous
    "halves": torch.linspace(-1, 1, 9).to(torch.bfloat16),
    "step": torch.tensor(7.0),
    "flags": torch.tensor([True, False, True]),
    "numbers": torch.arange(5),
    "nothing": torch.zeros(0, 3),
    "large": torch.arange(1001.0),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "CHUNK_BYTES", 64)  # of "large" 63 chunks
    return Folder(str(tmp_path))


def read_all(folder, name, digest, num_bytes=None):
    found = {}

    def place(stored):
        found[stored.name] = torch.zeros(stored.shape, dtype=stored.dtype)
        yield Target(0, found[stored.name].view(-1))

    read_tensors(folder, name, place, sha256=digest, num_bytes=num_bytes)
    return found


def assert_same(found):
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("is_copied", [False, True])
def test_the_library_reads_what_we_write(folder, tmp_path, is_copied):
    image = TensorFile(TENSORS)
    if is_copied:
        image = Snapshot(torch.device("cpu")).take({"it": image})["it"]
    written = write_image(folder, "it", image)
    content = (tmp_path / "it").read_bytes()
    assert written == (sha256(content).hexdigest(), len(content))
    assert_same(safetensors.torch.load(content))
    assert_same(read_all(folder, "it", *written))


def test_we_read_what_the_library_writes(folder):
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    content = safetensors.torch.save(contiguous, metadata={"format": "pt"})
    folder.write("it", content)
    assert_same(read_all(folder, "it", sha256(content).hexdigest()))


def test_a_part_of_a_tensor_goes_where_it_is_wanted(folder):
    written = write_image(folder, "it", TensorFile(TENSORS))
    first, second = torch.zeros(20), torch.zeros(100, dtype=torch.float64)

    def place(stored):
        return [Target(10, first), Target(901, second)] if stored.name == "large" else []

    read_tensors(folder, "it", place, sha256=written.sha256)
    assert first.tolist() == list(range(10, 30))
    assert second.tolist() == list(range(901, 1001))


def test_a_type_that_the_format_lacks_is_refused():
    with pytest.raises(ValueError, match=r"phase has type torch.complex64, which no checkpoint can hold"):
        TensorFile({"phase": torch.zeros(2, dtype=torch.complex64)})


@pytest.mark.parametrize("place", [0, 5, 9, 40, -1])
def test_one_damaged_byte_is_noticed_wherever_it_is(folder, tmp_path, place):
    written = write_image(folder, "it", TensorFile(TENSORS))
    content = bytearray((tmp_path / "it").read_bytes())
    content[place] ^= 1
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(
        DamagedCheckpointError, match=r"/it (does not match its sha256|is no safetensors file)"
    ):
        read_all(folder, "it", *written)


def test_a_cut_file_is_named_with_its_size(folder, tmp_path):
    written = write_image(folder, "it", TensorFile(TENSORS))
    content = (tmp_path / "it").read_bytes()
    (tmp_path / "it").write_bytes(content[:-4])
    with pytest.raises(DamagedCheckpointError, match=rf"/it has .* bytes, {len(content):,} were written"):
        read_all(folder, "it", *written)
    with pytest.raises(DamagedCheckpointError, match="its tensors end at byte"):
        read_all(folder, "it", written.sha256)  # as of an earlier version, which kept no size


def test_blocks_stay_for_the_next_copy():
    snapshot = Snapshot(torch.device("cpu"))
    first = torch.ones(1000)
    images = snapshot.take({"a": TensorFile({"x": first}), "b": TensorFile({"x": first * 2})})
    first.fill_(5)
    assert [b"".join(images[name])[-4:] for name in "ab"] == [b"\0\0\x80\x3f", b"\0\0\0\x40"]  # 1, 2
    blocks = [block.data_ptr() for block in snapshot._blocks]
    snapshot.take({"a": TensorFile({"x": torch.zeros(2000)})})
    assert [block.data_ptr() for block in snapshot._blocks] == blocks
    snapshot.take({"a": TensorFile({"x": torch.zeros(2001)})})
    assert [len(block) for block in snapshot._blocks] == [8000, 4]


def test_a_damaged_record_is_noticed(folder, tmp_path):
    write_part(folder, Part(weights=TENSORS), TrainState(step=3, best_value=0.25))
    file = tmp_path / "step-00000003" / "complete.json"
    assert read_record(folder, 3).state.best_value == 0.25
    file.write_text(file.read_text().replace("0.25", "0.75"))
    with pytest.raises(DamagedCheckpointError, match=r"complete\.json does not match its sha256"):
        read_record(folder, 3)
    file.write_text("[1]")
    with pytest.raises(DamagedCheckpointError, match=r"complete\.json cannot be read"):
        read_record(folder, 3)


def test_a_checkpoint_of_format_3_is_read(folder, tmp_path):
    """As the version before wrote it: files by the library, no sizes, no digest of the record."""
    model = nn.Linear(2, 2)
    moments = {"weight@0:4/step": torch.tensor(3.0), "weight@0:4/exp_avg": torch.arange(4.0)}
    files = {
        "model.safetensors": safetensors.torch.save({k: v.detach() for k, v in model.state_dict().items()}),
        "optimizer-00000-of-00001.safetensors": safetensors.torch.save(moments),
    }
    for name, content in files.items():
        folder.write(f"step-00000003/{name}", content)
    record = {
        "format": 3,
        "state": {"step": 3, "best_step": -1},
        "sha256": {name: sha256(content).hexdigest() for name, content in files.items()},
        "pieces": {"optimizer-00000-of-00001.safetensors": [["weight", 0, 4], ["bias", 0, 2]]},
        "base": None,
    }
    folder.write("step-00000003/complete.json", json.dumps(record).encode())
    assert complete_steps(folder) == [3]
    found, other = read_record(folder, 3), nn.Linear(2, 2)
    load_weights(folder, found, other)
    assert torch.equal(other.weight, model.weight)
    wanted = [Piece("weight", 0, 4), Piece("bias", 0, 2)]
    states = read_pieces(folder, found, wanted)
    assert states[wanted[0]]["exp_avg"].tolist() == [0, 1, 2, 3]
    assert states[wanted[1]] == {}


def test_each_rank_reads_its_own_state(folder):
    piece = Piece("w", 0, 2)
    parts = [
        Part(
            weights={} if rank == 0 else None,
            states={piece: {"exp_avg": torch.full((2,), float(rank))}},
            is_private=True,
            number=rank,
            num_parts=2,
        )
        for rank in range(2)
    ]
    assert write_parts(folder, parts, TrainState(step=1)) == [None, None]
    record = read_record(folder, 1)
    for rank, expected in [(0, [0, 0]), (1, [1, 1])]:
        assert read_pieces(folder, record, [piece], rank=rank)[piece]["exp_avg"].tolist() == expected
    assert read_pieces(folder, record, [piece], rank=2) == {piece: {}}
    with pytest.raises(ValueError, match=r"has an optimizer for each rank; continue with .*local_sgd"):
        read_pieces(folder, record, [piece])


def test_pieces_of_the_weights_make_a_whole_model(folder):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    flat, bias = model.weight.detach().view(-1), model.bias.detach()
    pieces = [{Piece("weight", 0, 4): flat[:4]}, {Piece("weight", 4, 6): flat[4:], Piece("bias", 0, 2): bias}]
    parts = [Part(weight_pieces=each, number=rank, num_parts=2) for rank, each in enumerate(pieces)]
    assert write_parts(folder, parts, TrainState(step=1)) == [None, None]
    load_weights(folder, read_record(folder, 1), other)
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(other.bias, model.bias)
    with pytest.raises(ValueError, match=r"missing \['2.weight'\], unexpected \['bias', 'weight'\]"):
        load_weights(
            folder, read_record(folder, 1), nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Linear(3, 2, bias=False))
        )
