"""From files to a model: choose the architecture, build it on the meta device, fill it from the mapped weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from omniform.architectures.family import Architecture, Family
from omniform.architectures.model import Model, Origin
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, WeightsError
from omniform.core.state import number_mixers
from omniform.hub.weights import WeightFiles
from omniform.weights.init import NoInitialising, initialise
from omniform.weights.keymap import KeyTable, is_current

log = logging.getLogger("omniform")


@dataclass(slots=True)
class LoadReport:
    """What loading found.

    Attributes:
        missing: tensors of the model that the checkpoint lacks, with their shapes.
        unexpected: keys of the checkpoint that the model has no place for, with their shapes.
        mismatched: keys whose shape differs: expected, found.
        fresh: tensors that were newly made because they belong to a new task head.
        unused: keys left out because they belong to another head of the same checkpoint.
    """

    missing: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unexpected: dict[str, tuple[int, ...]] = field(default_factory=dict)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def check(self, where: str) -> None:
        """Raise :class:`WeightsError`, naming every offending tensor, unless all is well."""
        lines = [f"missing {key}, shape {list(shape)}" for key, shape in self.missing.items()]
        lines += [f"unexpected {key}, shape {list(shape)}" for key, shape in self.unexpected.items()]
        lines += [
            f"{key} has the wrong shape: expected {list(want)}, found {list(got)}"
            for key, (want, got) in self.mismatched.items()
        ]
        if not lines:
            return
        shown = lines[:20] + ([f"... and {len(lines) - 20} more"] if len(lines) > 20 else [])
        remedy = "Does config.json belong to these weights?"
        if self.mismatched and not self.missing and not self.unexpected:
            remedy = "For a new head pass ignore_mismatched_sizes=True."
        raise WeightsError(
            "the weights do not fit the model:\n  " + "\n  ".join(shown) + "\n", where=where, remedy=remedy
        )


class Shaped(Protocol):
    """A tensor, or a header's word for one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def build_on_meta(config: ModelConfig, family: Family, architecture: Architecture, name: str = "") -> Model:
    """The model's modules, holding no memory."""
    try:
        with torch.device("meta"), NoInitialising():
            model = architecture.build(config.spec, config.common)
    except (RuntimeError, OverflowError, MemoryError) as error:  # torch's way to say that a size is too big to count
        raise ConfigError(
            "no model can have these sizes", where=name or config.model_type, found=str(error).split("\n")[0][:200]
        ) from error
    number_mixers(model)
    return model.bind(Origin(config, family, architecture, name))


def table_of(model: Model) -> KeyTable:
    """Where each of a model's tensors lives in a checkpoint."""
    shapes, ties = tensors_and_ties(model)
    origin = model.origin
    return origin.architecture.keys(origin.config.spec).expand({p: tuple(t.shape) for p, t in shapes.items()}, ties)


def tensors_and_ties(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's parameters and persistent buffers by path, and the paths that are second names of one of them."""
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    for path, tensor in model.state_dict(keep_vars=True).items():
        owner = first.setdefault(id(tensor), path)
        if owner == path:
            tensors[path] = tensor
        else:
            ties[path] = owner
    return tensors, ties


def from_scratch(config: ModelConfig, family: Family, architecture: Architecture, dtype: torch.dtype) -> Model:
    """A model with fresh weights."""
    model = build_on_meta(config, family, architecture)
    _fill(model, {}, dtype, "cpu")
    initialise(model, config.common.initializer_range)
    return model


def load_weights(
    model: Model,
    files: WeightFiles,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str,
    ignore_mismatched_sizes: bool = False,
) -> LoadReport:
    """Fill a model that was built on the meta device.

    Args:
        dtype: dtype of the floating-point tensors; None keeps the files' own.
        device: where the tensors go.
        ignore_mismatched_sizes: make tensors of the wrong shape anew instead of refusing them.

    Raises:
        WeightsError: tensors are missing, unexpected or mis-shaped; nothing was filled.
    """
    where = model.name_or_path
    held = files.tensors()
    untie_what_differs(model, held)
    table = table_of(model)
    keys, report = match(model, table, held, ignore_mismatched_sizes)
    report.check(where)
    tensors, _ = tensors_and_ties(model)
    filled = {
        path: _placed(piece.read(_numbers(held, keys[piece.key], tensors[path], where)), dtype, device)
        for path, piece in table.pieces.items()
        if piece.key in keys
    }
    report.fresh = _fill(model, filled, dtype or model.config.common.dtype or torch.float32, device)
    if model.origin.architecture.name in model.config.common.architectures:
        # Saved again, the weights keep the layout that they came in; only words of the past are renewed.
        model.spelling = {key: found for key, found in keys.items() if found != key and is_current(found)}
    if report.fresh:
        initialise(model, model.config.common.initializer_range, set(report.fresh))
        log.warning("%s: newly made, to be trained: %s", where, ", ".join(report.fresh))
    if report.unused:
        log.info("%s: not used by %s: %s", where, model.origin.architecture.name, ", ".join(report.unused))
    return report


def untie_what_differs(model: Model, held: Mapping[str, Tensor]) -> None:
    """Give a tied tensor its own memory where the checkpoint holds it beside its owner, with other values.

    The weights tell better than the config whether they were trained apart (T5 1.1 and its kin).
    """
    table = table_of(model)
    if not table.duplicates:
        return
    prefixes = model.origin.family.prefixes
    spelled = {meant: key for key in held if (meant := table.canonical(key, prefixes)) is not None}
    tensors = model.state_dict(keep_vars=True)
    for copy, owner in table.duplicates.items():
        if copy in spelled and owner in spelled and not torch.equal(held[spelled[copy]], held[spelled[owner]]):
            path = table.copies[copy]
            _assign(model, path, torch.empty_like(tensors[path]))
            log.warning("%s: %s differs from %s, which it is usually tied to", model.name_or_path, copy, owner)


def match(
    model: Model, table: KeyTable, held: Mapping[str, Shaped], ignore_mismatched_sizes: bool
) -> tuple[dict[str, str], LoadReport]:
    """Which of a checkpoint's keys fills which of the table's.

    Returns:
        The table's key to the checkpoint's, and what did not match.
    """
    report = LoadReport()
    origin = model.origin
    prefixes = origin.family.prefixes
    keys, strangers = _spelled(table, held, prefixes)
    anew: set[str] = set()
    for key in list(keys):
        want, got = table.shapes[key], tuple(held[keys[key]].shape)
        if want != got and ignore_mismatched_sizes:
            anew.add(key)
            del keys[key]
        elif want != got:
            report.mismatched[key] = (want, got)
    absent = {key: shape for key, shape in table.shapes.items() if key not in keys and key not in anew}
    if strangers or absent:
        # What belongs to another head than the one asked for may be left out; what its writer lacked is made anew.
        writers = other_architectures(origin)
        relatives = [
            a for a in origin.family.architectures.values() if a is not origin.architecture and a not in writers
        ]
        tables = [table_of(build_on_meta(origin.config, origin.family, a)) for a in writers]
        report.missing = {k: s for k, s in absent.items() if all(t.canonical(k, prefixes) for t in tables)}
        unknown = _unplaced(strangers, tables, prefixes)
        for relative in relatives:
            if not unknown:
                break
            unknown = _unplaced(unknown, [table_of(build_on_meta(origin.config, origin.family, relative))], prefixes)
        report.unused = sorted(set(strangers) - set(unknown))
        report.unexpected = {k: tuple(held[k].shape) for k in unknown}
    return keys, report


def _unplaced(keys: list[str], tables: list[KeyTable], prefixes: tuple[str, ...]) -> list[str]:
    return [k for k in keys if not any(t.canonical(k, prefixes) or t.is_ignored(k) for t in tables)]


def _spelled(
    table: KeyTable, held: Mapping[str, Shaped], prefixes: tuple[str, ...]
) -> tuple[dict[str, str], list[str]]:
    keys: dict[str, str] = {}
    copies: dict[str, str] = {}
    strangers = []
    for key in held:
        meant = table.canonical(key, prefixes)
        if meant is None:
            if not table.is_ignored(key):
                strangers.append(key)
        elif meant in table.duplicates:
            copies.setdefault(table.duplicates[meant], key)
        elif key == meant or meant not in keys:
            keys[meant] = key
    for meant, key in copies.items():
        keys.setdefault(meant, key)
    return keys, strangers


def other_architectures(origin: Origin) -> list[Architecture]:
    """The architectures that the checkpoint may have been written by, if not the one that is asked for."""
    family = origin.family
    named = [family.architectures[n] for n in origin.config.common.architectures if n in family.architectures]
    if origin.architecture in named:
        return []
    return named or [a for a in family.architectures.values() if a is not origin.architecture]


def _fill(model: Model, filled: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str) -> list[str]:
    """Put tensors into a model built on meta, allocate the others, tie; returns the paths of the others."""
    tensors, ties = tensors_and_ties(model)
    fresh = [path for path in tensors if path not in filled]
    for path, tensor in tensors.items():
        if path in filled:
            _assign(model, path, filled[path])
        else:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            _assign(model, path, torch.empty(tensor.shape, dtype=kind, device=device))
    for path, owner in ties.items():
        _tie(model, path, owner)
    return fresh


def _numbers(held: Mapping[str, Tensor], key: str, ours: Tensor, where: str) -> Tensor:
    found = held[key]
    if ours.is_floating_point() and not found.is_floating_point():
        raise WeightsError(
            f"{key} does not hold weights as they are computed with",
            where=where,
            expected="floating-point numbers",
            found=str(found.dtype).removeprefix("torch."),
            remedy="Is this a quantized checkpoint?",
        )
    return found


def _placed(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str) -> Tensor:
    # ``to`` returns the very same tensor when dtype and device already fit: a view of the mapped file.
    if dtype is None or not tensor.is_floating_point():
        return tensor.to(device)
    return tensor.to(device=device, dtype=dtype)


def _assign(model: nn.Module, path: str, tensor: Tensor) -> None:
    owner, name = _owner(model, path)
    if name in owner._parameters:
        old = owner._parameters[name]
        trains = tensor.is_floating_point() and (old is None or old.requires_grad)
        fits = isinstance(tensor, nn.Parameter)
        owner._parameters[name] = tensor if fits else nn.Parameter(tensor, requires_grad=trains)  # type: ignore[assignment]
    else:
        owner._buffers[name] = tensor


def _tie(model: nn.Module, path: str, owner: str) -> None:
    module, name = _owner(model, owner)
    source = module._parameters.get(name)
    assert source is not None
    _assign(model, path, source)


def _owner(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, name = path.rpartition(".")
    return model.get_submodule(parent), name
