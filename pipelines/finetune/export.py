"""What a finished training leaves in its run folder beside the result: the model folder, and the sample text
of a task that writes one."""

import hashlib
import tempfile
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from pipelines.dataset.rows import Rows
from pipelines.finetune.models.architecture import ModelSpec
from pipelines.finetune.models.folder import save_model
from pipelines.finetune.tasks.task import Task
from pipelines.storage import Folder


def export_model(
    run: Folder, model: nn.Module, task: Task, tokenizer: Tokenizer, spec: ModelSpec, rows: Rows
) -> str:
    """Write `model/`, and `sample.txt` from the beginnings of `rows`; sha256 of the weights."""
    digest = ""
    with tempfile.TemporaryDirectory() as scratch:
        save_model(model, tokenizer.to_str(), spec, Path(scratch))
        for file in sorted(Path(scratch).iterdir()):
            content = file.read_bytes()
            if file.name == "model.safetensors":
                digest = hashlib.sha256(content).hexdigest()
            run.write(f"model/{file.name}", content)
    sample = task.sample_text(model, tokenizer, rows)
    if sample is not None:
        run.write("sample.txt", sample.encode())
    return digest
