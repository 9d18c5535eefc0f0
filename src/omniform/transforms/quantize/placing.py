"""Where the tensors of quantized layers live: the key table's rules for them, from those for plain weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from omniform.core.errors import ConfigError, WeightsError
from omniform.transforms.quantize.layers import QuantLinear
from omniform.weights.formats.base import Format, Part
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import Copy, Groups, Link, Rows, Share, Transposed, View

Chooses = Callable[[str, nn.Linear], "Format | None"]
"""How a layer is quantized, by the name of its module in the checkpoint (``model.layers.0.mlp.up_proj``)."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A layer that is to be quantized.

    Attributes:
        path: where it is in the model.
        layer: the plain layer.
        format: how it is to be quantized.
        place: where its weight lives.
        name: the checkpoint's module, as the checkpoint spells it.
    """

    path: str
    layer: nn.Linear
    format: Format
    place: Link
    name: str


def chosen(
    model: nn.Module, keys: KeyMap, choose: Chooses, holds: Container[str] | None = None, prefixes: Sequence[str] = ()
) -> list[Chosen]:
    """The layers of a model that are quantized.

    Args:
        keys: where its weights live.
        choose: says how each is.
        holds: the keys of a checkpoint that is quantized already, which settles it; None for one that is not.
        prefixes: what its keys may lack at their beginning, or have too many of.

    Raises:
        ConfigError: a layer cannot be quantized so; it is named.
        WeightsError: its tensors in the checkpoint do not fit; likewise.
    """
    found: list[Chosen] = []
    for path, layer in model.named_modules():
        if type(layer) is not nn.Linear:
            continue
        links = keys.places(f"{path}.weight")
        if len(links) > 1 or not all(isinstance(view, Groups) for view in links[0].ours):
            continue
        name = links[0].key.removesuffix(".weight")
        with named(name):
            format = choose(name, layer)
            if format is None:
                continue
            parts = format.parts(layer.out_features, layer.in_features)
        if holds is not None:
            first = next(key_of(n, p) for n, p in parts.items() if not p.optional)
            name = next((one for one in spellings(name, prefixes) if f"{one}.{first}" in holds), "")
        if name:
            found.append(Chosen(path, layer, format, links[0], name))
    return found


@contextmanager
def named(layer: str) -> Iterator[None]:
    """Have what is wrong with a layer say which it is, where it does not yet."""
    try:
        yield
    except (ConfigError, WeightsError) as error:
        if error.where is None:
            error.where = layer
        elif layer not in error.where:
            error.where = f"{error.where} of {layer}"
        raise


def placed(
    model: nn.Module,
    layers: Sequence[Chosen],
    holds: Container[str] | None,
    dtype: torch.dtype,
    used: Counter[str] | None = None,
) -> KeyMap:
    """Put quantized layers in the places of plain ones, on the device that is torch's default now.

    Args:
        used: how many layers share each key so far, where they are placed in several calls; counted on.

    Returns:
        Where their tensors live.

    Raises:
        ConfigError: a matrix is part of a fused one that cannot be parted there.
    """
    rules: dict[str, Rule] = {}
    used = Counter() if used is None else used
    for one in layers:
        rules |= _placed(model, one, holds, dtype, used)
    return KeyMap(rules)


def _placed(
    model: nn.Module, one: Chosen, holds: Container[str] | None, dtype: torch.dtype, used: Counter[str]
) -> dict[str, Rule]:
    layer, format = one.layer, one.format
    parts = format.parts(layer.out_features, layer.in_features)
    there = {n: p for n, p in parts.items() if not p.optional or (holds and f"{one.name}.{key_of(n, p)}" in holds)}
    # Tools of old gave every layer a bias, of noughts where the model has none.
    more = layer.bias is None and holds is not None and f"{one.name}.bias" in holds
    new = QuantLinear(
        layer.in_features,
        layer.out_features,
        format,
        bias=layer.bias is not None or more,
        without=frozenset(parts) - frozenset(there),
        dtype=dtype if layer.bias is None else layer.bias.dtype,
    )
    if layer.bias is not None:
        new.bias = layer.bias
    new.has_own_bias = not more
    parent, _, own = one.path.rpartition(".")
    setattr(model.get_submodule(parent), own, new.train(layer.training))
    module = one.place.key.removesuffix(".weight")
    rules: dict[str, Rule] = {}
    for name, part in there.items():
        key = f"{module}.{key_of(name, part)}"
        link = translated(one.place, part, key, where=one.path)
        if one.place.theirs and not any(isinstance(view, Rows | Share | Groups) for view in link.theirs):
            fused = any(isinstance(view, Rows | Share | Groups) for view in one.place.theirs)
            link = replace(link, theirs=(Copy(used[key]),)) if fused else link
            used[key] += 1
        rules[f"{one.path}.{name}"] = link
    return rules


def key_of(name: str, part: Part) -> str:
    """What a file calls a tensor, within its module."""
    return part.key or name


def translated(link: Link, part: Part, key: str, where: str = "") -> Link:
    """Where one of a quantized matrix's tensors lives, given where the plain matrix would.

    Raises:
        ConfigError: a fused matrix would have to be parted within an element of the tensor.
    """
    return Link(key, _views(link.theirs, part, key, where), _views(link.ours, part, key, where))


def _views(views: Sequence[View], part: Part, key: str, where: str) -> tuple[View, ...]:
    """Views of a matrix as views of one of its tensors; what all share is not parted."""
    made: list[View] = []
    grouped = False
    for view in views:
        if isinstance(view, Transposed):
            continue  # files of every format keep their own order of axes
        if not isinstance(view, Rows | Share | Groups):
            raise ConfigError("a quantized matrix cannot lie so", where=where, found=type(view).__name__)
        along = part.into if view.axis == "in" else part.out
        if along is None:
            continue
        axis, each = along
        if isinstance(view, Groups):
            grouped = True
            if part.shape[axis] % view.count:
                raise ConfigError(
                    "a fused matrix is quantized in pieces that belong to several layers",
                    where=where,
                    expected=f"{key} in {view.count} equal pieces",
                    found=part.shape[axis],
                    remedy="Load a checkpoint of this model that is not quantized.",
                )
            made.append(Groups(view.count, axis))
        elif isinstance(view, Share):
            made.append(Share(view.part, view.parts, axis + grouped))
        elif view.start % each or view.stop % each:
            raise ConfigError(
                "a fused matrix is quantized in pieces that belong to several layers",
                where=where,
                expected=f"outputs in multiples of {each.numerator}",
                found=f"{view.start} to {view.stop} of {key}",
                remedy="Load a checkpoint of this model that is not quantized.",
            )
        else:
            made.append(Rows(int(view.start // each), int(view.stop // each), axis + grouped))
    return tuple(made)


def is_fused(place: Link) -> bool:
    """Whether a layer is a part of a larger matrix in a file."""
    return any(isinstance(view, Rows | Share | Groups) for view in place.theirs)


def own_views(place: Link) -> Link:
    """A place in a file that keeps its own order of axes."""
    return replace(place, theirs=tuple(view for view in place.theirs if not isinstance(view, Transposed)))


def fused_weight(group: Sequence[Chosen], skips: str) -> Tensor:
    """The matrix that a file holds some layers in. Shape: [out, in].

    Args:
        skips: which setting names layers that are left out.

    Raises:
        ConfigError: some of it is not quantized.
    """
    links = [own_views(one.place) for one in group]
    shapes = [link.shape(one.layer.weight.shape) for one, link in zip(group, links, strict=True)]
    shape = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
    given = sum(one.layer.weight.numel() for one in group)
    if math.prod(shape) != given:
        raise ConfigError(
            "a fused matrix is quantized as a whole, or not at all",
            where=group[0].name,
            expected=f"all of its {math.prod(shape)} numbers",
            found=f"{given} of them",
            remedy=f"Name it, or none of its layers, in {skips}.",
        )
    whole = torch.empty(shape, dtype=group[0].layer.weight.dtype)
    for one, link in zip(group, links, strict=True):
        link.of_theirs(whole).copy_(link.of_ours(one.layer.weight.detach()))
    return whole


def spellings(name: str, prefixes: Sequence[str]) -> Iterator[str]:
    """A name as it is, and with or without what keys may lack or have too many of."""
    yield name
    for prefix in prefixes:
        yield f"{prefix}.{name}"
        yield name.removeprefix(f"{prefix}.")
