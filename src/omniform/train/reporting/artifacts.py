"""A model as it would be saved, for tools that keep models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from safetensors.torch import save_model
from torch import nn

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerState


@runtime_checkable
class _Saves(Protocol):
    def save_pretrained(self, save_directory: str) -> object: ...


def save_whole(model: nn.Module, processing_class: object, args: TrainingArguments, folder: Path) -> None:
    """Write a model, its tokenizer or processor and the arguments, under the names of a checkpoint's files."""
    if isinstance(model, _Saves):
        model.save_pretrained(str(folder))
    else:
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    if isinstance(processing_class, _Saves):
        processing_class.save_pretrained(str(folder))
    torch.save(args, folder / "training_args.bin")


def output(args: TrainingArguments) -> str:
    """The folder that a training writes to."""
    return str(args.output_dir or "trainer_output")


def checkpoint(args: TrainingArguments, state: TrainerState) -> str:
    """The folder of the checkpoint that was just written."""
    return os.path.join(output(args), f"checkpoint-{state.global_step}")
