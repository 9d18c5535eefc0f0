"""Shards: one model in several processes, each of which holds and computes its part of every layer.

The plan follows from the blocks (:class:`~omniform.blocks.shards.Shards`); families say nothing. Before loading, every
block that can be cut becomes one rank's part of itself, and the key map notes which part of each tensor that is, so
that nothing else is read. After loading, hooks add up what the ranks' parts give: one sum behind an attention's output,
one behind a feed-forward's, one behind experts. What cannot be cut is computed whole by every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.blocks.moe import Stacked
from omniform.blocks.shards import Shards, Sums, is_shared_out
from omniform.core.errors import InputError, OmniformError
from omniform.core.layouts import HasOutput
from omniform.core.ranks import Ranks
from omniform.weights.keymap import KeyMap
from omniform.weights.links import Axis, Part, axis_of
from omniform.weights.tensors import assign, named_tensors, tensors_and_ties
from omniform.weights.transform import Transform


@runtime_checkable
class Writes(Protocol):
    """A model that writes with a decoder, which may read what an encoder gave."""

    encoder_inputs: frozenset[str]

    @property
    def decoder(self) -> object: ...


@runtime_checkable
class Transformed(Protocol):
    """A model that knows the edits that were made to it."""

    transforms: tuple[Transform, ...]


class Divided(Transform):
    """An edit that leaves a process its share of a model.

    Args:
        ranks: the processes that share what is divided, and which this one is.
        among: all that hold the model together; those, if they are not said.
    """

    def __init__(self, ranks: Ranks, among: Ranks | None = None) -> None:
        self.ranks = ranks
        self.among = ranks if among is None else among


class Shard(Divided):
    """Leaves a model one rank's part of itself.

    Attributes:
        whole: the blocks that know how they are cut and are computed whole by every rank all the same.
    """

    def __init__(self, ranks: Ranks, among: Ranks | None = None) -> None:
        super().__init__(ranks, among)
        self.whole: list[str] = []
        self._summed: list[nn.Module] = []
        self._head: tuple[nn.Module, list[int]] | None = None

    def prepare(self, model: nn.Module, keys: KeyMap) -> KeyMap:
        owners = _owners(model)
        cuts: dict[str, tuple[int, range]] = {}
        for path, module in _within(model):
            if not is_shared_out(module):
                continue
            block = cast(Shards, module)
            try:
                kept = block.shard(self.ranks)
                if kept is None:
                    self.whole.append(path)
                    continue
                for name, own in kept.items():
                    cuts |= _cuts(path, module, name, block.SHARDS[name], own, owners)
            except OmniformError as error:
                error.where = f"tp_plan: {path}"
                raise
            self._summed += [module] if isinstance(module, Sums) else []
            self._summed += [module.get_submodule(name) for name in kept if block.SHARDS[name] == "in"]
        if not cuts:
            raise InputError(
                f"a {type(model).__name__} has no layers that can be divided among processes",
                where="tp_plan",
                remedy="Load it without tp_plan.",
            )
        cuts |= self._cut_head(model, owners)
        return replace(keys, parts={**keys.parts, **_cut(model, cuts)})

    def _cut_head(self, model: nn.Module, owners: Mapping[int, str]) -> dict[str, tuple[int, range]]:
        """The projection onto the vocabulary, unless the table of tokens is the same matrix."""
        head = model.get_output_embeddings() if isinstance(model, HasOutput) else None
        if type(head) is not nn.Linear or owners[id(head.weight)] != _path_of(model, head, "weight"):
            return {}
        parts = self.ranks.parts(head.out_features)
        self._head = head, [len(part) for part in parts]
        return _cuts("", model, _path_of(model, head), "out", parts[self.ranks.rank], owners)

    def finish(self, model: nn.Module) -> None:
        for module in self._summed:
            bias = module._parameters.get("bias")
            if bias is not None and self.ranks.rank and not isinstance(module, Sums):
                module._parameters["bias"] = nn.Parameter(torch.zeros_like(bias), requires_grad=False)  # added once
            module.register_forward_hook(partial(_total, self.ranks))
        if self._head is not None:
            head, widths = self._head
            head.register_forward_hook(partial(_joined, self.ranks, widths), prepend=True)  # the whole is handed on
        model.requires_grad_(False)


def ranks_of(model: nn.Module) -> Ranks | None:
    """The processes that hold a model together; None for a model of one."""
    transforms = model.transforms if isinstance(model, Transformed) else ()
    return next((one.among for one in transforms if isinstance(one, Divided)), None)


def _total(ranks: Ranks, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return ranks.total(output)


def _joined(ranks: Ranks, widths: list[int], module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return ranks.joined(output, widths)


def _within(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Where blocks are cut: in the decoder of a model that writes, and in an encoder that belongs to it alone."""
    root: object = model.decoder if isinstance(model, Writes) and not model.encoder_inputs else model
    assert isinstance(root, nn.Module)
    inside = {id(module) for module in root.modules()}
    for path, module in model.named_modules():
        if id(module) in inside:
            yield str(path), module


def _owners(model: nn.Module) -> dict[int, str]:
    """The first path of each tensor."""
    first: dict[int, str] = {}
    for path, tensor in named_tensors(model):
        first.setdefault(id(tensor), path)
    return first


def _path_of(model: nn.Module, module: nn.Module, name: str = "") -> str:
    path = next(str(path) for path, other in model.named_modules() if other is module)
    return f"{path}.{name}" if name else path


def _cuts(
    path: str, block: nn.Module, name: str, axis: Axis, own: range, owners: Mapping[int, str]
) -> dict[str, tuple[int, range]]:
    """Which part of which tensors a rank keeps of one of a block's layers, or of a tensor of its own."""
    held = block._parameters.get(name)
    if held is not None:
        assert isinstance(axis, int)
        return {owners[id(held)]: (axis, own)}
    layer = block.get_submodule(name)
    if not isinstance(layer, (Stacked, nn.Linear)) or layer._parameters.get("weight") is None:
        raise InputError(
            "a layer whose matrix is kept in this form is not divided among processes",
            where="tp_plan",
            expected="matrices of floats, or dtype='int8' and 'int4', which are made of them",
            found=f"{path}.{name}: {type(layer).__name__}",
            remedy="Load it with pp_plan='auto' instead, which cuts no matrix, or with dequantize=True.",
        )
    found: dict[str, tuple[int, range]] = {}
    for kind, tensor in layer._parameters.items():
        along = None if tensor is None else axis_of(axis, kind, tensor.dim())
        if along is not None:
            found[owners[id(tensor)]] = along, own
    if isinstance(layer, nn.Linear):
        if axis == "in":
            layer.in_features = len(own)
        else:
            layer.out_features = len(own)
    return found


def _cut(model: nn.Module, cuts: Mapping[str, tuple[int, range]]) -> dict[str, Part]:
    """Make tensors on the meta device as long as the parts of them that are kept; what is tied stays so."""
    tensors, ties = tensors_and_ties(model)
    parts: dict[str, Part] = {}
    for path, (axis, own) in cuts.items():
        whole = tensors[path]
        parts[path] = part = Part(own.start, own.stop, axis, whole.shape[axis])
        made = torch.empty(part.inner(tuple(whole.shape), "weight"), dtype=whole.dtype, device="meta")
        assign(model, path, nn.Parameter(made, requires_grad=whole.requires_grad))
        again = [other for other, owner in ties.items() if owner == path]
        new = model.get_parameter(path)
        for other in again:
            assign(model, other, new)
    return parts
