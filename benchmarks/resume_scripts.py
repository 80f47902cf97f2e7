"""Programs of `benchmarks.resume`: one rank of a training that only reads.

Arguments: folder with `ids.npy`, (num_rows, 8) int32 whose first token is the number of the row; folder of
this launch; rank; world size; sequences per global batch; step after which the rank is killed (0 = never);
folder of the launch to resume (- = none). After each step the rank appends [step, rows] to RANK.log. After
step CHECKPOINT it saves the state that the library gives it, as its documentation says.
"""

COMMON = """
import json, os, signal, sys
from pathlib import Path
import numpy as np

folder, here, before = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[7])
rank, world, global_batch, last = map(int, sys.argv[3:7])
CHECKPOINT = 40

def consume(batches, save):
    with open(here / f"{rank}.log", "w", buffering=1) as log:
        for step, rows in enumerate(batches, 1):
            log.write(json.dumps([step, rows]) + "\\n")
            if step == CHECKPOINT and last:
                (here / f"{rank}.state").write_text(json.dumps(save()))
            if step == last:
                os.kill(os.getpid(), signal.SIGKILL)

def read_states():
    return [json.loads(file.read_text()) for file in sorted(before.glob("*.state"))]
"""

OURS = (
    COMMON
    + """
from pipelines.dataset.order import Order, num_steps
from pipelines.dataset.reader import SequenceReader, write_split
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.finetune.prefetch import prefetch
from pipelines.finetune.training import BatchPlan

reader = SequenceReader(folder / "ours")
steps = num_steps(len(reader), global_batch=global_batch, num_epochs=1)
order = Order(reader.lengths, global_batch=global_batch, total_steps=steps, seed=1, window_batches=25)
plan = BatchPlan(global_batch=global_batch, micro_batch=global_batch, num_replicas=world)
first = read_states()[0] if before.is_dir() else 0

def make():
    for step in range(first, steps):
        for part in plan.micro_batches(order.batch(step), rank):
            yield [int(tokens[0]) for tokens in reader.rows(part).input_ids]

with prefetch(make()) as batches:
    consume(batches, lambda: CHECKPOINT)
"""
)

MOSAICML = (
    COMMON
    + """
from streaming import StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

def main():
    if before.is_dir():
        clean_stale_shared_memory()  # on all ranks: they wait for each other in it
    rows = StreamingDataset(
        local=str(folder / "mds"), shuffle=True, shuffle_seed=1, batch_size=global_batch // world
    )
    loader = StreamingDataLoader(rows, batch_size=global_batch // world, num_workers=1)
    if before.is_dir():
        loader.load_state_dict(read_states()[0])
    consume((batch["tokens"][:, 0].tolist() for batch in loader), loader.state_dict)

if __name__ == "__main__":
    main()
"""
)
"""Rank 0's state counts for all ranks."""

LANCEDB = (
    COMMON
    + """
import lancedb
import torch
from lancedb.streaming import StreamingDataLoader, StreamingDataset

def firsts(batch):
    column = batch.column(0)
    return list(torch.from_numpy(np.array(column.flatten())).view(len(column), -1)[:, 0])

def main():
    rows = StreamingDataset(
        lancedb.connect(str(folder / "lancedb")).open_table("rows"), shuffle_seed=1, num_splits=12,
        columns=["tokens"], transform=firsts, rank=rank, world_size=world)
    if before.is_dir():
        rows.load_state_dict(StreamingDataset.merge_state_dicts(read_states()))
    loader = StreamingDataLoader(
        rows, batch_size=global_batch // world, num_workers=1, multiprocessing_context="spawn")
    consume((batch.tolist() for batch in loader), rows.state_dict)

if __name__ == "__main__":
    main()
"""
)

WRITE_MOSAICML = """
import json, sys
from pathlib import Path
import numpy as np
from streaming import MDSWriter

with MDSWriter(out=sys.argv[1] + "/mds", columns={"tokens": "ndarray:int32:8"}) as out:
    for row in np.load(sys.argv[1] + "/ids.npy"):
        out.write({"tokens": row})
print(json.dumps({}))
"""

WRITE_LANCEDB = """
import json, sys
import lancedb, numpy as np, pyarrow as pa

tokens = np.load(sys.argv[1] + "/ids.npy")
flat = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), tokens.shape[1])
lancedb.connect(sys.argv[1] + "/lancedb").create_table("rows", pa.table({"tokens": flat}))
print(json.dumps({}))
"""
