"""What a finished training leaves in its run folder beside the result: the model folder, and the sample text
of a task that writes one."""

import hashlib
import tempfile
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from pipelines.dataset.rows import Rows
from pipelines.finetune.models.architecture import WEIGHTS_FILE, ModelSpec
from pipelines.finetune.models.folder import save_model
from pipelines.finetune.tasks.task import Task
from pipelines.storage import Folder


def export_model(
    run: Folder, model: nn.Module, task: Task, tokenizer: Tokenizer, spec: ModelSpec, rows: Rows
) -> str:
    """Write `model/`, and `sample.txt` from the beginnings of `rows`. An adapter that is to be merged is
    merged in `model`.

    Returns the sha256 of the weights, 64 hex digits: of the file of whole weights, or over those of the
    adapter and the head.
    """
    digests: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        save_model(model, tokenizer.to_str(), spec, Path(scratch))
        for file in sorted(each for each in Path(scratch).rglob("*") if each.is_file()):
            name, content = file.relative_to(scratch).as_posix(), file.read_bytes()
            if file.suffix == ".safetensors":
                digests[name] = hashlib.sha256(content).hexdigest()
            run.write(f"model/{name}", content)
    sample = task.sample_text(model, tokenizer, rows)
    if sample is not None:
        run.write("sample.txt", sample.encode())
    return digests.get(WEIGHTS_FILE) or hashlib.sha256(" ".join(digests.values()).encode()).hexdigest()
