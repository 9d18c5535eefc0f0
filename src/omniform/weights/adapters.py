"""An adapter's tensors as files spell them: by the ecosystem's modules, which may be several of ours in one.

What a low-rank adapter adds to a matrix is ``B @ A``, scaled. Of several matrices that lie in one, the adapters become
one: its ``A`` holds all of theirs, one below the other, and its ``B`` has each one's columns in the rows of its matrix
only. Its rank is the sum of theirs; where they share one ``A``, as after loading such an adapter, it is that one's.
The way back, from one to several, is :func:`divided`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from omniform.core.errors import InputError
from omniform.weights.keymap import KeyMap
from omniform.weights.links import AXES, Index, Link, Shape
from omniform.weights.tensors import modules_of

BASE = "base_layer"
"""The child that PEFT keeps the adapted layer as."""

LOW, HIGH = "lora_A.weight", "lora_B.weight"


@dataclass(frozen=True, slots=True)
class Part:
    """One of our layers, and where it lies in one of the ecosystem's.

    Attributes:
        path: ours.
        link: its place.
        shape: of its weight.
    """

    path: str
    link: Link
    shape: Shape


@dataclass(frozen=True, slots=True)
class Spelled:
    """An adapter as a file holds it.

    Attributes:
        tensors: by the ecosystem's names.
        names: our paths of the layers that it has something for, to the ecosystem's.
        ranks: of the layers that are several of ours, where they became others.
    """

    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    ranks: Mapping[str, int]


def layers_as_spelled(shapes: Mapping[str, Shape], keys: KeyMap) -> dict[str, list[Part]]:
    """The ecosystem's layers, each with those of ours that it is made of.

    Args:
        shapes: of our layers' weights, by path.
    """
    found: dict[str, list[Part]] = {}
    layouts = keys.every_layout()
    for path, shape in shapes.items():
        for key, link in _places(path, layouts):
            found.setdefault(keys.module(key), []).append(Part(path, link, shape))
    return found


def _places(path: str, layouts: Sequence[KeyMap]) -> Iterator[tuple[str, Link]]:
    """Where a layer lies, in the first layout that has one place for it; a stack of experts is a parameter there."""
    for keys in layouts:
        links = keys.places(path)
        if len(links) == 1:
            stacked = keys.places(f"{path}.weight")[0]
            yield (links[0].key if stacked.key.endswith(".weight") else stacked.key), links[0]
            return


def in_their_names(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape], keys: KeyMap) -> Spelled:
    """An adapter's tensors by the ecosystem's names.

    Args:
        tensors: by our paths, without the adapter's own name: ``layers.0.self_attn.q_proj.lora_A.weight``. What belongs
            to no layer keeps its name.
        shapes: of the weights of all of our layers, by path.

    Raises:
        InputError: what several layers have cannot be one layer's.
    """
    held: dict[str, dict[str, Tensor]] = {}
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        path = next((head for head in heads(name) if head in shapes), None)
        if path is None:
            stored[name] = tensor
        else:
            held.setdefault(path, {})[name[len(path) + 1 :]] = tensor
    names: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for key, parts in layers_as_spelled(shapes, keys).items():
        mine = {part.path: held.pop(part.path) for part in parts if part.path in held}
        names.update(dict.fromkeys(mine, key))
        if len(parts) == 1 or all(part.link.renames for part in parts):
            found = next(iter(mine.values()), {})
        elif mine:
            found = _joined(key, parts, mine)
            if LOW in found:
                ranks[key] = found[LOW].shape[0]
        else:
            found = {}
        stored.update((f"{key}.{rest}", tensor) for rest, tensor in found.items())
    stored.update((f"{path}.{rest}", t) for path, each in held.items() for rest, t in each.items())
    return Spelled(_nested(stored, keys), names, ranks)


def _joined(key: str, parts: Sequence[Part], mine: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    kinds = dict.fromkeys(rest for each in mine.values() for rest in each)
    made: dict[str, Tensor] = {}
    if LOW in kinds:
        made[LOW], high = _low_rank({path: (each[LOW], each[HIGH]) for path, each in mine.items()})
        made[HIGH] = _placed(HIGH, parts, high, key)
    for kind in kinds:
        if kind in made:
            continue
        each = {path: held[kind] for path, held in mine.items() if kind in held}
        if len(each) < len(parts) or kind.removeprefix(f"{BASE}.") not in AXES:
            raise InputError(
                "this part of an adapter cannot be joined with those of the layers that lie in the same matrix",
                where=f"{key}: {kind}",
                found=", ".join(each),
                remedy="Adapt all of the layers that lie in that matrix, or none.",
            )
        made[kind] = _placed(kind, parts, each, key)
    return made


def _low_rank(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """One ``A`` for all, and what becomes of each ``B`` beside it. Shape: [R, in]; [out, R] each."""
    lows = [low for low, _ in pairs.values()]
    if all(low.shape == lows[0].shape and torch.equal(low, lows[0]) for low in lows):
        return lows[0], {path: high for path, (_, high) in pairs.items()}
    whole, at = torch.cat(lows), 0
    highs: dict[str, Tensor] = {}
    for path, (low, high) in pairs.items():
        wide = high.new_zeros(high.shape[0], whole.shape[0])
        wide[:, at : at + low.shape[0]] = high
        highs[path], at = wide, at + low.shape[0]
    return whole, highs


def _placed(kind: str, parts: Sequence[Part], each: Mapping[str, Tensor], key: str) -> Tensor:
    """The tensor that holds those of several layers in their places, and zeros for the others."""
    sample, plain = next(iter(each.values())), kind.removeprefix(f"{BASE}.")
    axis = AXES[plain].get("out")
    if axis is None:
        return sample
    links = {part.path: replace(part.link, kind=plain, key=key) for part in parts}
    shape: Shape = ()
    for part in parts:
        own = (*sample.shape[:axis], part.shape[0], *sample.shape[axis + 1 :])
        least = links[part.path].shape(own)
        shape = tuple(map(max, shape, least)) if shape else least
    whole = sample.new_zeros(shape)
    for path, tensor in each.items():
        links[path].of_theirs(whole).copy_(links[path].of_ours(tensor))
    return whole


# -- stacks of experts -------------------------------------------------------------------------------------------------

STACKS = ("gate_up_proj", "down_proj")
"""Of the ecosystem's experts, parameters in the order in which PEFT wraps their module: the first innermost."""


def _nested(stored: Mapping[str, Tensor], keys: KeyMap) -> dict[str, Tensor]:
    """PEFT names what it adds to a parameter after the module that holds it, and after its own wrappers around that."""
    there = {key.partition(f".{name}.lora_")[0] for key in stored for name in STACKS[1:] if f".{name}.lora_" in key}
    made: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        for name in STACKS:
            home, found, rest = key.partition(f".{name}.lora_")
            if found and home.endswith(".experts"):
                inner = f".{BASE}" if name == STACKS[0] and home in there else ""
                key = f"{home}{inner}.lora_{rest}"
        made[key] = tensor
    return made


def unnested(given: Mapping[str, Tensor], targeted: Sequence[str]) -> dict[str, Tensor]:
    """The same tensors by the parameters that they belong to.

    Args:
        targeted: the ends of the parameters that the adapter is for: ``"down_proj"``.
    """
    both = all(any(one.endswith(name) for one in targeted) for name in STACKS)
    alone = STACKS[0] if any(one.endswith(STACKS[0]) for one in targeted) and not both else STACKS[1]
    made: dict[str, Tensor] = {}
    for key, tensor in given.items():
        home, found, rest = key.partition(".experts.lora_")
        inner, below, end = key.partition(f".experts.{BASE}.lora_")
        if below:
            key = f"{inner}.experts.{STACKS[0]}.lora_{end}"
        elif found:
            key = f"{home}.experts.{alone}.lora_{rest}"
        made[key] = tensor
    return made


# -- whose a tensor is -----------------------------------------------------------------------------------------------


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
        plain = ".".join(part for part in parts if part not in AROUND)
        found.setdefault(plain, tuple(weight.shape))
    return found


AROUND = frozenset({BASE, "original_module", "token_adapter", "parametrizations"})
"""Children that PEFT's wrappers keep a layer as."""

_ADDED = frozenset({"modules_to_save"})


def others_of(path: str, keys: KeyMap) -> list[str]:
    """What the ecosystem calls one of our modules, or one that is a part of its: in files and in its own models."""
    found = [link.key for keys_ in keys.every_layout() for link in keys_.places(path) if not _is_one_of_many(link)]
    return list(dict.fromkeys([*found, *map(keys.module, found)]))


def _is_one_of_many(link: Link) -> bool:
    """Whether the checkpoint keeps one expert there, of those that are one module of ours."""
    return any(isinstance(view, Index) for view in link.ours)


def _places_by_name(shapes: Mapping[str, Shape], keys: KeyMap) -> dict[str, list[tuple[str, Link]]]:
    places: dict[str, list[tuple[str, Link]]] = {}
    for spelled, parts in layers_as_spelled(shapes, keys).items():
        for part in parts:
            for key in {spelled, part.link.key}:
                places.setdefault(key, []).append((part.path, part.link))
    return places


def _found(key: str, places: Mapping[str, object], keys: KeyMap) -> tuple[str, str]:
    """The layer that a tensor belongs to, and what it is of it; nothing and the key, if it is of none."""
    for name in keys.spellings(key):
        for head in heads(name):
            if head in places:
                return head, name[len(head) + 1 :]
    return "", key


def divided(given: Mapping[str, Tensor], shapes: Mapping[str, Shape], keys: KeyMap) -> dict[str, dict[str, Tensor]]:
    """A file's tensors, by our layers, before these have adapters.

    Args:
        given: by the ecosystem's names, or ours.
        shapes: of the weights of all of our layers, by path.

    Raises:
        InputError: one belongs to no layer, or cannot be divided among those that lie in one matrix.
    """
    places = _places_by_name(shapes, keys)
    made: dict[str, dict[str, Tensor]] = {}
    for key, tensor in given.items():
        layer, rest = _found(key, places, keys)
        found = places.get(layer, [])
        if not found:
            own = next((head for head in heads(key) if head in shapes), "")
            if not own:
                raise InputError("the adapter is for a layer that this model does not have", where=key)
            made.setdefault(own, {})[key[len(own) + 1 :]] = tensor
        axis = AXES.get(rest, {}).get("out")
        for path, link in found:
            wide = tuple(tensor.shape)
            own_shape = wide if axis is None else (*wide[:axis], shapes[path][0], *wide[axis + 1 :])
            made.setdefault(path, {})[rest] = _part(key, tensor, link, rest, own_shape)
    return made


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
    places = _places_by_name(shapes, keys)
    ends: dict[str, list[str]] = {}
    for name in own:
        layer = next((head for head in heads(name) if head in shapes), "")
        if layer and not name.startswith(f"{layer}.{BASE}."):
            for end in {name, f"{layer}.{nameless(name[len(layer) + 1 :])}"}:
                ends.setdefault(end, []).append(name)
    made: dict[str, Tensor] = {}
    read: set[str] = set()
    for key, tensor in given.items():
        layer, rest = _found(key, places, keys)
        if not layer or key in own:
            continue
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
                made[name] = _part(key, tensor, link, nameless(rest), tuple(own[name].shape))
                read.add(key)
    return made, read


def nameless(rest: str) -> str:
    """A tensor of an adapter below its layer, without the adapter's name: ``lora_A.weight``."""
    parts = rest.split(".")
    if len(parts) == 3:
        return f"{parts[0]}.{parts[2]}"
    return parts[0] if len(parts) == 2 and parts[1] not in ("weight", "bias") else rest


def _part(key: str, tensor: Tensor, link: Link, kind: str, own: Shape) -> Tensor:
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
    made = tensor.new_empty(own)
    theirs, ours = view.of_theirs(tensor), view.of_ours(made)
    if theirs.shape != ours.shape:
        return theirs  # torch names both shapes
    ours.copy_(theirs)
    return made


def heads(key: str) -> Iterator[str]:
    """The paths above a tensor, the longest first."""
    parts = key.split(".")
    return (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
