"""A model that shares its backbone with others, each with an adapter of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from pipelines.finetune.models.adapter_files import activate_adapter


class SharingModule(nn.Module):
    """A model that shares its backbone with others: one of them runs at a time."""

    def __init__(self, module: nn.Module, adapter: str, active: list[str], lock: threading.Lock) -> None:
        """`active` and `lock` are of the backbone: the name of its active adapter, and who may change it."""
        super().__init__()
        self.module, self._adapter, self._active, self._lock = module, adapter, active, lock

    @property
    def config(self) -> PreTrainedConfig:
        config: Any = self.module.config
        return config

    @contextmanager
    def using(self) -> Iterator[nn.Module]:
        """The model itself, with its own adapter; others wait until the context ends. Call what it gives and
        not this module, which would wait for itself."""
        with self._lock:
            if self._active != [self._adapter]:
                activate_adapter(self.module, self._adapter)
                self._active[:] = [self._adapter]
            yield self.module

    def forward(self, **inputs: Any) -> Any:
        """The outputs of the model with its own adapter."""
        with self.using() as module:
            return module(**inputs)
