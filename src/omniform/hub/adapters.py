"""Saving the adapters that PEFT put into a model, in its layout, without the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol, cast, runtime_checkable

from torch import Tensor

from omniform.architectures.adapted import adapted
from omniform.architectures.model import Model
from omniform.core.errors import InputError
from omniform.weights.adapters import BASE

WEIGHTS: Final = "adapter_model.safetensors"
PREFIX: Final = "base_model.model."
"""What PEFT's keys begin with: its wrapper, and the model in it."""


class AdapterConfig(Protocol):
    """PEFT's description of one adapter."""

    base_model_name_or_path: str | None
    inference_mode: bool

    def save_pretrained(self, save_directory: str) -> object: ...


@runtime_checkable
class AdapterLayer(Protocol):
    """A layer that PEFT adapted."""

    @property
    def active_adapters(self) -> list[str]: ...


def adapter_of(model: Model) -> str | None:
    """The name of the adapter that a model computes with, which is what is saved of it; None where it has none.

    Raises:
        InputError: it computes with several at once.
    """
    configs = vars(model).get("peft_config")
    layers = [model.get_submodule(path) for path in adapted(model)]
    if not layers or not isinstance(configs, Mapping) or not configs:
        return None
    active = {name for layer in layers if isinstance(layer, AdapterLayer) for name in layer.active_adapters}
    names = sorted(active) or [str(name) for name in configs]
    if len(names) > 1 or names[0] not in configs:
        raise InputError(
            "the model has several adapters, and one is saved at a time",
            where=type(model).__name__,
            found=", ".join(names),
            remedy="Choose one with set_adapter(name), and save each into a folder of its own.",
        )
    return names[0]


def adapter_tensors(model: Model, name: str, state_dict: Mapping[str, Tensor] | None, prefix: str) -> dict[str, Tensor]:
    """What PEFT writes of an adapter, by our paths of the layers.

    Args:
        state_dict: the model's tensors, if not its own.
        prefix: goes before each key.
    """
    from peft import get_peft_model_state_dict

    given = None if state_dict is None else dict(state_dict)
    found = cast("dict[str, Tensor]", get_peft_model_state_dict(model, state_dict=given, adapter_name=name))
    return {prefix + key: tensor.detach().contiguous() for key, tensor in found.items() if f".{BASE}." not in key}


def save_adapter_config(model: Model, name: str, folder: Path) -> None:
    """Write ``adapter_config.json``: for use, and naming the model that it is for."""
    config = cast("AdapterConfig", copy.copy(vars(model)["peft_config"][name]))
    config.inference_mode = True
    if config.base_model_name_or_path is None:
        config.base_model_name_or_path = model.name_or_path or None
    config.save_pretrained(str(folder))
