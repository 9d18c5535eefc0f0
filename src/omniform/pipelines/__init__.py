"""Pipelines: from raw inputs to answers in one call. ``pipeline("text-classification", model)("a text")``.

A task is one file here; its classes (``TextClassificationPipeline``) are found when they are asked for.
"""

from __future__ import annotations

from omniform.pipelines.base import ChunkPipeline as ChunkPipeline
from omniform.pipelines.base import Pipeline as Pipeline
from omniform.pipelines.chats import Chat as Chat
from omniform.pipelines.factory import check_task as check_task
from omniform.pipelines.factory import get_supported_tasks as get_supported_tasks
from omniform.pipelines.factory import get_task as get_task
from omniform.pipelines.factory import pipeline as pipeline
from omniform.pipelines.pt_utils import KeyDataset as KeyDataset
from omniform.pipelines.pt_utils import KeyPairDataset as KeyPairDataset
from omniform.pipelines.registry import PIPELINE_REGISTRY as PIPELINE_REGISTRY
from omniform.pipelines.registry import PipelineRegistry as PipelineRegistry
from omniform.pipelines.registry import task_files as _task_files


def __getattr__(name: str) -> object:
    if name == "SUPPORTED_TASKS":
        return PIPELINE_REGISTRY.supported_tasks
    if name == "TASK_ALIASES":
        return PIPELINE_REGISTRY.task_aliases
    if name[:1].isupper():
        for file in _task_files():
            if name in file and str(file["__name__"]).startswith(f"{__name__}."):
                value = file[name]
                # Only what a file itself defines: what it imports has a home of its own.
                if isinstance(value, type) and value.__module__ == file["__name__"]:
                    globals()[name] = value
                    return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
