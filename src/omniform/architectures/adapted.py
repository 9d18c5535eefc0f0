"""Models that PEFT puts adapters into: it finds their layers, and the places of its tensors, by the Hub's names.

PEFT looks for the layers that it is to adapt among the names of :meth:`~torch.nn.Module.named_modules`, by their ends,
and puts a module with a child ``base_layer`` in the place of each. What it adds beside that child is the adapter. A
file of adapters spells the layers as the model does that it was trained on; PEFT asks the model it loads them into how
its paths are to be renamed (``_checkpoint_conversion_mapping``), and hands them to ``load_state_dict``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from omniform.core.errors import InputError
from omniform.core.upstairs import upstairs
from omniform.weights.adapters import BASE, layers_as_spelled
from omniform.weights.keymap import KeyMap, KeyTable
from omniform.weights.links import AXES, Index, Link, Shape
from omniform.weights.tensors import modules_of

_MET: set[str] = set()


def meet_peft() -> None:
    """Have PEFT know our models, once it is there; see :mod:`omniform.hub.peft_names`."""
    if not _MET and "peft.peft_model" in sys.modules:
        _MET.add("peft")
        upstairs("hub.peft_names:meet")()


class ModuleName(str):
    """Our path of a module, which ends with what checkpoints call the module as well.

    ``name.endswith(".query")`` is true of BERT's ``...self_attn.q_proj``, and ``name.endswith(".c_attn")`` of each of
    the three that GPT-2's checkpoints keep in one. In all else it is the path, a plain text.

    Args:
        path: ours.
        others: the checkpoint's, asked for when they are needed.
    """

    _others: Callable[[], Sequence[str]]

    def __new__(cls, path: str, others: Callable[[], Sequence[str]]) -> ModuleName:
        made = super().__new__(cls, path)
        made._others = others
        return made

    def endswith(self, suffix: str | tuple[str, ...], *within: SupportsIndex | None) -> bool:
        """Whether our path, or (asked of the whole) one of the checkpoint's, ends like this."""
        if str(self).endswith(suffix, *within):
            return True
        return not within and any(f".{other}".endswith(suffix) for other in self._others())

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def adapted(model: nn.Module) -> Iterator[str]:
    """Our paths of the layers that have adapters."""
    seen: set[int] = set()
    for path, module in modules_of(model):
        if BASE in module._modules and id(module) not in seen:
            seen.add(id(module))
            yield path


def layer_shapes(model: nn.Module) -> dict[str, Shape]:
    """The shapes of the weights of all layers, by our paths, whatever was put around them."""
    found: dict[str, Shape] = {}
    for path, module in modules_of(model):
        weight = module._parameters.get("weight")
        parts = path.split(".")
        if weight is None or _ADDED.intersection(parts) or any(part.startswith("lora_") for part in parts):
            continue
        plain = ".".join(part for part in parts if part not in _AROUND)
        found.setdefault(plain, tuple(weight.shape))
    return found


_AROUND = frozenset({BASE, "original_module", "token_adapter", "parametrizations"})
"""Children that PEFT's wrappers keep a layer as."""

_ADDED = frozenset({"modules_to_save"})


def others_of(path: str, keys: KeyMap) -> list[str]:
    """What the ecosystem calls one of our modules, or one that is a part of its: in files and in its own models."""
    found = [link.key for keys_ in keys.every_layout() for link in keys_.places(path) if not _is_one_of_many(link)]
    return list(dict.fromkeys([*found, *map(keys.module, found)]))


def _is_one_of_many(link: Link) -> bool:
    """Whether the checkpoint keeps one expert there, of those that are one module of ours."""
    return any(isinstance(view, Index) for view in link.ours)


def within_adapters(keys: KeyMap, shapes: Mapping[str, Shape], ties: Mapping[str, str]) -> KeyTable:
    """The table for a model with adapters, whose layers' tensors live where they did before.

    Args:
        shapes: by our paths, those of an adapted layer under its ``base_layer``.
        ties: likewise.
    """
    plain = {path: path.replace(f".{BASE}.", ".") for path in (*shapes, *ties)}
    table = keys.expand(
        {plain[path]: shape for path, shape in shapes.items()},
        {plain[path]: owner.replace(f".{BASE}.", ".") for path, owner in ties.items()},
    )
    now = {old: path for path, old in plain.items()}
    return replace(
        table,
        links={now[path]: links for path, links in table.links.items()},
        ours={now[path]: shape for path, shape in table.ours.items()},
        copies={key: now[path] for key, path in table.copies.items()},
    )


def renamings(paths: Iterable[str], keys: KeyMap) -> dict[str, str]:
    """Regular expressions for the checkpoint's paths of layers, to ours, where each is one layer under two names.

    Args:
        paths: ours, of all layers.
    """
    general: dict[str, str] = {}
    single: dict[str, str] = {}
    found_at = {path: keys.places(path) for path in paths}
    # What holds other layers there, and none of them here, is no prefix of theirs.
    holders = {head[:-1] for places in found_at.values() for link in places for head in _heads(link.key)}
    for path, places in found_at.items():
        if len(places) != 1 or not places[0].renames or places[0].key == path or places[0].key in holders:
            continue
        theirs, ours = re.split(r"(?<=\.)(\d+)(?=\.)", places[0].key), re.split(r"(?<=\.)(\d+)(?=\.)", path)
        shared = theirs[1::2][: len(ours) // 2] == ours[1::2]
        # Numbers of ours that theirs begin with are any numbers: the layers of a stack are alike.
        count = len(ours) // 2 if shared else 0
        found = "".join(
            r"(\d+)" if index % 2 and index < 2 * count else re.escape(part) for index, part in enumerate(theirs)
        )
        made = "".join(rf"\g<{index // 2 + 1}>" if index % 2 and count else part for index, part in enumerate(ours))
        if general.setdefault(rf"^{found}(?=\.)", made) != made:
            single[rf"^{re.escape(places[0].key)}(?=\.)"] = path
    # The first that matches counts: a part before what holds it.
    return dict(sorted([*single.items(), *general.items()], key=_deepest_first))


def _deepest_first(renaming: tuple[str, str]) -> int:
    return -renaming[0].count(r"\.")


def adapters_by_our_names(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], shapes: Mapping[str, Shape], keys: KeyMap
) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors of adapters, by our paths of the layers, and the names that they came by.

    An adapter of a matrix that checkpoints keep several layers in becomes one of each: they share what it makes of
    their input, and each has its part of the outputs.

    Args:
        given: a state dict, in which an adapter's own name may be left out.
        own: the model's tensors by our paths.
        shapes: of the weights of the layers that have adapters, by our paths.

    Raises:
        InputError: a tensor of such a matrix's adapter that cannot be divided among the layers; a layer has several
            adapters, and the name of one is left out.
    """
    places: dict[str, list[tuple[str, Link]]] = {}
    for spelled, parts in layers_as_spelled(shapes, keys).items():
        for part in parts:
            for key in {spelled, part.link.key}:
                places.setdefault(f"{key}.", []).append((part.path, part.link))
    layers = {f"{path}." for path in shapes}
    ends: dict[str, list[str]] = {}
    for name in own:
        layer = next((head for head in _heads(name) if head in layers), "")
        if layer and not name.startswith(f"{layer}{BASE}."):
            for end in {name, layer + _nameless(name[len(layer) :])}:
                ends.setdefault(end, []).append(name)
    made: dict[str, Tensor] = {}
    read: set[str] = set()
    for key, tensor in given.items():
        known = ((head, name) for name in keys.spellings(key) for head in _heads(name) if head in places)
        layer, name = next(known, ("", key))
        if not layer or key in own:
            continue
        rest = name[len(layer) :]
        for path, link in places[layer]:
            names = ends.get(f"{path}.{rest}", [])
            if len(names) > 1:
                raise InputError(
                    "this layer has several adapters, and the tensor does not say whose it is",
                    where=key,
                    found=", ".join(names)[:300],
                    remedy="Load it into a model that has none yet, save it from there, and load what was saved.",
                )
            for name in names:
                made[name] = _part(key, tensor, link, _nameless(rest), own[name])
                read.add(key)
    return made, read


def _nameless(rest: str) -> str:
    """A tensor of an adapter below its layer, without the adapter's name: ``lora_A.weight``."""
    parts = rest.split(".")
    if len(parts) == 3:
        return f"{parts[0]}.{parts[2]}"
    return parts[0] if len(parts) == 2 and parts[1] not in ("weight", "bias") else rest


def _heads(key: str) -> Iterator[str]:
    """The paths above a tensor, each with its dot, the longest first."""
    parts = key.split(".")
    return (".".join(parts[:count]) + "." for count in range(len(parts) - 1, 0, -1))


def _part(key: str, tensor: Tensor, link: Link, kind: str, own: Tensor) -> Tensor:
    if link.renames or ("out" not in AXES.get(kind, ("out",)) and not link.splits_inputs):
        return tensor
    if kind not in AXES:
        raise InputError(
            "this part of an adapter cannot be divided among the layers that the checkpoint keeps in one matrix",
            where=key,
            expected="LoRA or DoRA",
            found=kind,
            remedy="Train an adapter of this kind with omniform's own names of the layers.",
        )
    view = replace(link, kind=kind)
    made = torch.empty_like(own, dtype=tensor.dtype, device=tensor.device)
    theirs, ours = view.of_theirs(tensor), view.of_ours(made)
    if theirs.shape != ours.shape:
        return theirs  # torch names both shapes
    ours.copy_(theirs)
    return made
