"""How much memory the stages of a run take, for whoever asks (``skip_memory_metrics=False``)."""

from __future__ import annotations

import gc
import resource
import sys
from dataclasses import dataclass, field

import torch

UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in which the system counts a process's greatest memory."""


@dataclass
class TrainerMemoryTracker:
    """Compares memory before and after a stage.

    Attributes:
        skip_memory_metrics: do nothing at all.
    """

    skip_memory_metrics: bool = True
    _begun: list[tuple[int, int]] = field(default_factory=list)

    def start(self) -> None:
        """A stage begins."""
        if not self.skip_memory_metrics:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self._begun.append((_host(), _device()))

    def stop_and_update_metrics(self, metrics: dict[str, float] | None = None, stage: str = "train") -> None:
        """A stage ends; what it took is added to ``metrics``, in bytes."""
        if self.skip_memory_metrics or not self._begun:
            return
        host, device = self._begun.pop()
        if metrics is None:
            return
        metrics[f"{stage}_mem_cpu_peaked_delta"] = _host() - host
        if torch.cuda.is_available():
            metrics[f"{stage}_mem_gpu_alloc_delta"] = _device() - device
            metrics[f"{stage}_mem_gpu_peaked_delta"] = torch.cuda.max_memory_allocated() - device


def _host() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def _device() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


__all__ = ["TrainerMemoryTracker"]
