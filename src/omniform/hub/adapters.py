"""Saving the adapters of a model, in PEFT's layout and the ecosystem's names, without the model."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from torch import Tensor

from omniform.architectures.model import Model
from omniform.architectures.surface import Surface
from omniform.core.errors import InputError
from omniform.hub.adapter_folders import CONFIG, PREFIXES, config_changes, respell, spelled_adapter
from omniform.transforms.lora import adapter_names, layers_of, tensors_of
from omniform.transforms.lora_config import LoraConfig

PREFIX = PREFIXES[0]


class AdapterConfig(Protocol):
    """PEFT's description of one adapter."""

    base_model_name_or_path: str | None
    inference_mode: bool

    def save_pretrained(self, save_directory: str) -> object: ...


def peft_or_none() -> ModuleType | None:
    """The package PEFT, where it is installed."""
    try:
        return import_module("peft")
    except ImportError:
        return None


def ours_of(model: Model) -> list[str]:
    """The names of the adapters that omniform's own layers hold; none where PEFT's do, or nobody's."""
    return adapter_names(model)


def adapter_of(model: Model) -> str | None:
    """The name of the adapter that a model computes with, which is what is saved of it; None where it has none.

    Raises:
        InputError: it computes with several at once.
    """
    configs = vars(model).get("peft_config")
    layers = list(layers_of(model))
    if not layers or not isinstance(configs, Mapping) or not configs:
        return None
    active = {name for layer in layers for name in layer.active_adapters}
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
    """What a file holds of an adapter, by our paths of the layers.

    Args:
        state_dict: the model's tensors, if not its own.
        prefix: goes before each key.
    """
    if name in ours_of(model):
        found = tensors_of(model, name)
    else:
        peft = vars(import_module("peft"))
        given = None if state_dict is None else dict(state_dict)
        found = cast("dict[str, Tensor]", peft["get_peft_model_state_dict"](model, state_dict=given, adapter_name=name))
        found = {key: tensor for key, tensor in found.items() if ".base_layer." not in key}
    return {prefix + key: tensor.detach().contiguous() for key, tensor in found.items()}


def save_adapter_config(model: Model, name: str, folder: Path) -> None:
    """Write ``adapter_config.json``: for use, and naming the model that it is for."""
    given = vars(model)["peft_config"][name]
    if not isinstance(given, LoraConfig):
        config = cast("AdapterConfig", copy.copy(given))
        config.inference_mode = True
        if config.base_model_name_or_path is None:
            config.base_model_name_or_path = model.name_or_path or None
        config.save_pretrained(str(folder))
        return
    raw = given.to_dict()
    if not given.raw:
        raw["base_model_name_or_path"] = model.name_or_path or None
        surface = cast(Surface, model)
        raw |= config_changes(surface, name, raw, spelled_adapter(surface, tensors_of(model, name)))
    (folder / CONFIG).write_text(json.dumps(raw, indent=2, sort_keys=True), encoding="utf-8")


def respelled(model: Model, name: str, folder: Path, prefix: str) -> None:
    """Give what was written by our paths the ecosystem's."""
    respell(
        cast(Surface, model), name, folder, prefix, config=not isinstance(vars(model)["peft_config"][name], LoraConfig)
    )
