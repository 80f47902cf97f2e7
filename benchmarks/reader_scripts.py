"""Programs of `benchmarks.reader`, each run in a process of its own: tokens of all sequences as batches of 8.

Arguments: folder with `tokens.npy`, (num_rows, length) int32; number of the round, which seeds the shuffle.
Each prints one line of JSON: tokens, and seconds of one epoch by the clock and of the processor, after a few
batches that are not counted. The first call of a peer writes its format.
"""

OURS = """
import json, sys, time
from pathlib import Path
import numpy as np
import torch
from pipelines.dataset.order import Order, num_steps
from pipelines.dataset.reader import open_split
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.models.padding import pad
from pipelines.finetune.prefetch import prefetch
from pipelines.finetune.tasks.language_modelling import LanguageModelling

place = json.loads(Path(sys.argv[1], "pin.json").read_text())
seed, way, share = int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
spec = ModelSpec(task="language_modelling", labels=(), max_tokens=1024, base="scratch", tokenizer="")
task, cpu_device = LanguageModelling(spec), torch.device("cpu")
begun = time.perf_counter()
reader = open_split(**place, split="train", copies=Path(sys.argv[1], "copies"))
steps = num_steps(len(reader), global_batch=8, num_epochs=1)
order = Order(reader.lengths, global_batch=8, total_steps=steps, seed=seed, window_batches=25)

def make(first):
    for step in range(first, steps):
        rows = reader.rows(order.batch(step))
        yield pad(rows.input_ids, cpu_device)[0] if way == "ids" else task.collate(rows, cpu_device)

if way == "restart":
    with prefetch(make(int(share * steps))) as batches:
        shape = next(batches).targets.shape
    print(json.dumps({"seconds": time.perf_counter() - begun, "tokens": shape[0] * shape[1]}))
else:
    for _, _ in zip(range(50), make(0)):
        pass
    begun, spent = time.perf_counter(), time.process_time()
    if way == "thread":
        with prefetch(make(0)) as batches:
            for batch in batches:
                pass
    else:
        for batch in make(0):
            pass
    seconds, cpu = time.perf_counter() - begun, time.process_time() - spent
    print(json.dumps({"seconds": seconds, "cpu": cpu, "tokens": int(reader.lengths.sum())}))
"""
"""Two more arguments: way (ids: padded ids and their mask; batches: with targets, positions and segments;
thread: batches made ahead by the thread of a training; restart: the first batch only), and the share of the
epoch at which `restart` begins."""

ARROW = """
import json, sys, time
from pathlib import Path
import pyarrow.compute as pc
from deltalake import DeltaTable

place = json.loads(Path(sys.argv[1], "pin.json").read_text())
files = DeltaTable(place["path"], version=place["version"]).to_pyarrow_dataset()
for number in range(2):  # the first time, threads start
    begun, spent = time.perf_counter(), time.process_time()
    batches = files.to_batches(columns=["input_ids"])
    tokens = sum(pc.sum(pc.list_value_length(batch["input_ids"])).as_py() or 0 for batch in batches)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - spent
print(json.dumps({"seconds": seconds, "cpu": cpu, "tokens": tokens}))
"""

MOSAICML = """
import json, sys, time
from pathlib import Path
import numpy as np
import torch

def main(folder, seed):
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
    files = folder / "mds"
    if not files.exists():
        with MDSWriter(out=str(files), columns={"tokens": "ndarray:int32:1024"}) as out:
            for row in np.load(folder / "tokens.npy", mmap_mode="r"):
                out.write({"tokens": np.ascontiguousarray(row)})
    rows = StreamingDataset(local=str(files), shuffle=True, shuffle_seed=seed, batch_size=8)
    batches = StreamingDataLoader(rows, batch_size=8)
    it = iter(batches)
    for _ in range(50):
        next(it)
    tokens, begun, spent = 0, time.perf_counter(), time.process_time()
    for batch in it:
        assert isinstance(batch["tokens"], torch.Tensor)
        tokens += batch["tokens"].numel()
    print(json.dumps({
        "seconds": time.perf_counter() - begun, "cpu": time.process_time() - spent, "tokens": tokens}))

if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
"""

HUGGINGFACE = """
import json, sys, time
from pathlib import Path
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value, load_from_disk

folder, seed, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
files = folder / "huggingface"
if not files.exists():
    tokens = np.load(folder / "tokens.npy")
    flat = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), tokens.shape[1])
    Dataset(pa.table({"tokens": flat})).save_to_disk(files)
rows = load_from_disk(files).shuffle(seed=seed).with_format("torch")
batches = (
    rows.iter(batch_size=8) if way == "iter" else torch.utils.data.DataLoader(rows, batch_size=8)
)
it = iter(batches)
for _ in range(50):
    next(it)
tokens, begun, spent = 0, time.perf_counter(), time.process_time()
for batch in it:
    assert batch["tokens"].shape[1] == 1024 and isinstance(batch["tokens"], torch.Tensor)
    tokens += batch["tokens"].numel()
print(json.dumps({
    "seconds": time.perf_counter() - begun, "cpu": time.process_time() - spent, "tokens": tokens}))
"""
"""One more argument: iter or loader."""

LANCEDB = """
import json, sys, time
from pathlib import Path
import numpy as np
import pyarrow as pa
import torch

def tensors(batch):
    column = batch.column(0)
    return list(torch.from_numpy(np.array(column.flatten())).view(len(column), -1))

def main(folder, seed):
    import lancedb
    from lancedb.streaming import StreamingDataLoader, StreamingDataset
    store = lancedb.connect(str(folder / "lancedb"))
    if not (folder / "lancedb").exists() or not (folder / "lancedb" / "rows.lance").exists():
        tokens = np.load(folder / "tokens.npy")
        flat = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), tokens.shape[1])
        store.create_table("rows", pa.table({"tokens": flat}))
    table = store.open_table("rows")
    rows = StreamingDataset(table, shuffle_seed=seed, columns=["tokens"], transform=tensors)
    it = iter(StreamingDataLoader(rows, batch_size=8))
    for _ in range(50):
        next(it)
    tokens, begun, spent = 0, time.perf_counter(), time.process_time()
    for batch in it:
        assert isinstance(batch, torch.Tensor)
        tokens += batch.numel()
    print(json.dumps({
        "seconds": time.perf_counter() - begun, "cpu": time.process_time() - spent, "tokens": tokens}))

if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
"""
