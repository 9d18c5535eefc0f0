"""What a model is under what other libraries put around it."""

from __future__ import annotations

import inspect
import sys
from typing import Protocol, cast, runtime_checkable

import torch
from torch import nn

from omniform.architectures.surface import Surface

POSITIONS = ("start_positions", "end_positions")
"""What an answer's span is trained on; all other labels say so in their names."""


@runtime_checkable
class NamesInput(Protocol):
    """A model that says what it is mainly given."""

    main_input_name: str


@runtime_checkable
class Pads(Protocol):
    """A tokenizer, which may have a token that fills rows up."""

    pad_token_id: int | None


def main_input(model: nn.Module) -> str:
    """The name of what a model is mainly given: token ids, where it does not say."""
    inner = without_adapters(model)
    # What is ours is asked first: looking for attributes takes a tenth of a millisecond, several times a step.
    named = isinstance(inner, (Surface, NamesInput))
    return cast(NamesInput, inner).main_input_name if named else "input_ids"


def padding_token(processing_class: object) -> int | None:
    """The token that a tokenizer fills rows up with; None without a tokenizer, or without such a token."""
    return processing_class.pad_token_id if isinstance(processing_class, Pads) else None


def is_peft(model: object) -> bool:
    """Whether PEFT stands around it; if nobody has imported PEFT, it does not."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, (peft.PeftModel, peft.PeftMixedModel))


def without_adapters(model: nn.Module) -> nn.Module:
    """The model that PEFT was put around; the model itself, where it was not."""
    if not is_peft(model):
        return model
    base = cast(nn.Module, model.base_model)
    tuner = vars(sys.modules["peft.tuners.tuners_utils"])["BaseTuner"]
    # Prompts that are learned stand before the model itself; all else is put into it, by an object around it.
    return cast(nn.Module, vars(base)["_modules"]["model"]) if isinstance(base, tuner) else base


def forward_names(model: nn.Module) -> list[str]:
    """The names of what its ``forward`` takes, adapters aside; none of ``**kwargs``."""
    parameters = inspect.signature(without_adapters(model).forward).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def find_labels(model_class: type[nn.Module]) -> list[str]:
    """The inputs of a class's ``forward`` that its loss is computed against, in the order of its signature."""
    return [name for name in inspect.signature(model_class.forward).parameters if "label" in name or name in POSITIONS]


def can_return_loss(model_class: type[nn.Module]) -> bool:
    """Whether it computes a loss without being given labels, unless it is told not to."""
    asked = inspect.signature(model_class.forward).parameters.get("return_loss")
    return asked is not None and asked.default is True


def is_placed(model: nn.Module, device: torch.device) -> bool:
    """Whether it was put, when it was loaded, into several places, onto disk, or onto another accelerator."""
    places = {str(place) for place in vars(model).get("hf_device_map", {}).values()}
    return len(places) > 1 or not places <= {"cpu", str(device), str(device.index)}


__all__ = ["can_return_loss", "find_labels"]
