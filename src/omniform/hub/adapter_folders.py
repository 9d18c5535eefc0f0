"""The folder of an adapter, in the ecosystem's names: what PEFT, or we, have written of one of our models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor

from omniform.architectures.surface import Surface
from omniform.core.errors import ConfigError
from omniform.hub.files import Source, read_json
from omniform.transforms.lora_config import LoraConfig
from omniform.weights.adapters import Spelled, adapted, in_their_names, layer_shapes, layers_as_spelled

WEIGHTS: Final = "adapter_model.safetensors"
PICKLE: Final = "adapter_model.bin"
CONFIG: Final = "adapter_config.json"
PREFIXES: Final = ("base_model.model.", "base_model.")
"""What PEFT's keys begin with: its wrapper, and the model in it; a learned prompt has no more than the wrapper."""


def respell(model: Surface, name: str, folder: Path, prefix: str, *, config: bool = True) -> None:
    """Rewrite what was written of one of our models, by our paths.

    Args:
        name: of the adapter.
        prefix: what stands before our paths.
        config: whether ``adapter_config.json`` speaks of our paths too.
    """
    from safetensors.torch import load_file, save_file

    weights, pickle = folder / WEIGHTS, folder / PICKLE
    if weights.exists():
        tensors = load_file(weights)
    elif pickle.exists():
        tensors = torch.load(pickle, weights_only=True)
    else:
        return
    mine = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}
    spelled = spelled_adapter(model, mine)
    written = {**rest, **{prefix + key: tensor.contiguous() for key, tensor in spelled.tensors.items()}}
    if weights.exists():
        save_file(written, weights, {"format": "pt"})
    else:
        torch.save(written, pickle)
    path = folder / CONFIG
    if config and path.exists():
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw.update(config_changes(model, name, raw, spelled))
        path.write_text(json.dumps(raw, indent=2, sort_keys=True), encoding="utf-8")


def spelled_adapter(model: Surface, tensors: Mapping[str, Tensor]) -> Spelled:
    """An adapter's tensors, which are by our paths, by the ecosystem's."""
    return in_their_names(tensors, layer_shapes(model), model.key_map())


def config_changes(model: Surface, name: str, raw: Mapping[str, object], spelled: Spelled) -> dict[str, object]:
    """What ``adapter_config.json`` has to say otherwise, so that it means the same layers of the ecosystem's model.

    Args:
        raw: as PEFT writes it.
    """
    layers, stacks = _reached(model, name, spelled.names)
    everything = [key.removesuffix(".weight") for key in layers_as_spelled(layer_shapes(model), model.key_map())]
    made: dict[str, object] = {}
    if layers and _meant(raw, everything) != set(layers):
        ends = {key.rpartition(".")[2] for key in layers}
        alike = {key for key in everything if key.rpartition(".")[2] in ends}
        made["target_modules"] = sorted(ends if alike == set(layers) else layers)
        made |= {key: None for key in ("layers_to_transform", "layers_pattern", "exclude_modules") if key in raw}
    wanted = raw.get("target_parameters")
    if stacks and isinstance(wanted, list):
        made["target_parameters"] = sorted({key.rpartition(".experts.")[2] or key for key in stacks} | _gates(wanted))
    if raw.get("peft_type") == "LORA" and layers:
        made |= _ranks(raw, {**layers, **stacks}, spelled.ranks)
    return made


def _gates(wanted: Iterable[str]) -> set[str]:
    return {one for one in wanted if one.endswith(".weight") and ".experts." not in one and "_proj" not in one}


def _reached(
    model: Surface, name: str, names: Mapping[str, str]
) -> tuple[dict[str, tuple[int, float]], dict[str, tuple[int, float]]]:
    """The ecosystem's names of the layers that an adapter reaches, and of its stacks, each with rank and alpha."""
    layers: dict[str, tuple[int, float]] = {}
    stacks: dict[str, tuple[int, float]] = {}
    for path in adapted(model):
        held = vars(model.get_submodule(path))
        if path not in names or name not in held.get("r", {name: 0}):
            continue
        is_parameter = "parameter_name" in held
        found = (int(held.get("r", {}).get(name, 0)), float(held.get("lora_alpha", {}).get(name, 0)))
        (stacks if is_parameter else layers)[names[path]] = found
    return layers, stacks


def _meant(raw: Mapping[str, object], names: Iterable[str]) -> set[str]:
    """Which of the ecosystem's layers a config means."""
    known = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
    config = LoraConfig.read({name: raw[name] for name in known if name in raw})
    return {name for name in names if config.means([name])}


def _ranks(
    raw: Mapping[str, object], layers: Mapping[str, tuple[int, float]], ranks: Mapping[str, int]
) -> dict[str, object]:
    """Ranks and alphas of the layers, where they are others than the config says; the scale of each stays."""
    root = bool(raw.get("use_rslora"))
    true: dict[str, tuple[int, float]] = {}
    for key, (rank, alpha) in layers.items():
        wide = ranks.get(key, rank)
        true[key] = (wide, alpha * (wide / rank) ** (0.5 if root else 1.0)) if rank else (wide, alpha)
    said = {
        key: (_pattern(raw, "rank_pattern", key, "r"), _pattern(raw, "alpha_pattern", key, "lora_alpha"))
        for key in true
    }
    if all(said[key] == true[key] for key in true):
        return {}
    usual = max(true.values(), key=list(true.values()).count)
    others = {key: found for key, found in true.items() if found != usual}
    return {
        "r": usual[0],
        "lora_alpha": _whole(usual[1]),
        "rank_pattern": {key: rank for key, (rank, _) in others.items() if rank != usual[0]},
        "alpha_pattern": {key: _whole(alpha) for key, (_, alpha) in others.items() if alpha != usual[1]},
    }


def _whole(alpha: float) -> int | float:
    return int(alpha) if alpha == int(alpha) else alpha


def _pattern(raw: Mapping[str, object], table: str, key: str, usual: str) -> object:
    patterns = cast("Mapping[str, object]", raw.get(table) or {})
    found = (value for one, value in patterns.items() if re.match(rf"(.*\.)?({one})$", key))
    return next(found, raw.get(usual))


def base_of(source: Source) -> tuple[str, str | None] | None:
    """The base model that an adapter names, and its revision; None where the source is no adapter.

    Raises:
        ConfigError: an adapter that names none.
    """
    path = source.find(CONFIG)
    if path is None:
        return None
    raw = read_json(path)
    base, revision = raw.get("base_model_name_or_path"), raw.get("revision")
    if not isinstance(base, str) or not base:
        raise ConfigError(
            "the adapter names no base model",
            where=f"{source.name}: {CONFIG}",
            expected="base_model_name_or_path",
            found=repr(base),
            remedy="Load the model that it was trained on, then model.load_adapter(...).",
        )
    return base, revision if isinstance(revision, str) else None
