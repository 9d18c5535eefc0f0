"""What is logged, as tools take it: numbers, texts, and what is neither; and under which names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch

from omniform.core.errors import brief

Number: TypeAlias = int | float

SUMMARY: Final = frozenset(
    ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")
)
"""What is known once, at the end of a training: a tool shows it as a fact, not as a curve."""

_PREFIXES: Final = (("eval_", "eval/"), ("test_", "test/"))


def rewrite_logs(d: Mapping[str, object]) -> dict[str, object]:
    """The names that tools show: ``eval_loss`` is ``eval/loss``, ``test_loss`` ``test/loss``, others ``train/...``."""
    return {_shown_as(name): value for name, value in d.items()}


def _shown_as(name: str) -> str:
    for ours, theirs in _PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return f"train/{name}"


def number(value: object) -> Number | None:
    """A number as Python has it: tensors and arrays of one number, numpy's and other libraries'; None for all else."""
    if isinstance(value, torch.Tensor):
        known = value.numel() == 1 and not value.is_complex() and not value.is_meta
        return number(value.detach().item()) if known else None
    if isinstance(value, (np.ndarray, np.generic)):
        return number(value.item()) if value.size == 1 and value.dtype.kind in "biuf" else None
    if isinstance(value, (int, float)):
        return value
    # Fractions and the like; other libraries' numbers say that they are real.
    return float(value) if isinstance(value, (Real, Decimal)) else None


def flat(logs: Mapping[str, object], between: str = "/") -> dict[str, object]:
    """A mapping without mappings in it: ``{"f1": {"cat": 1}}`` is ``{"f1/cat": 1}``; an empty one is left out."""
    found: dict[str, object] = {}
    for name, value in logs.items():
        if isinstance(value, Mapping):
            inner = flat({str(key): item for key, item in value.items()}, between)
            found.update({f"{name}{between}{key}": item for key, item in inner.items()})
        else:
            found[name] = value
    return found


@dataclass(frozen=True, slots=True)
class Sorted:
    """Logs by kind.

    Attributes:
        numbers: what can be drawn as a curve.
        texts: what can be read.
        others: what no tool but one with kinds of its own can show.
    """

    numbers: dict[str, Number] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    others: dict[str, object] = field(default_factory=dict)


def sort(logs: Mapping[str, object]) -> Sorted:
    """Flatten logs and part them by kind."""
    found = Sorted()
    for name, value in flat(logs).items():
        known = number(value)
        if known is not None:
            found.numbers[name] = known
        elif isinstance(value, str):
            found.texts[name] = value
        else:
            found.others[name] = value
    return found


def with_numbers(value: object) -> object:
    """The same value, mappings with all in them, where what is a number in disguise is one."""
    if isinstance(value, Mapping):
        return {str(key): with_numbers(item) for key, item in value.items()}
    known = number(value)
    return value if known is None else known


# -- what a training is made of ----------------------------------------------------------------------------------------


@runtime_checkable
class _ToDict(Protocol):
    def to_dict(self) -> dict[str, object]: ...


@runtime_checkable
class _ToJson(Protocol):
    def to_json_string(self) -> str: ...


@runtime_checkable
class _Configured(Protocol):
    config: object


@runtime_checkable
class _Adapted(Protocol):
    peft_config: object


@runtime_checkable
class _Counted(Protocol):
    def num_parameters(self) -> int: ...


def config_of(model: object) -> dict[str, object] | None:
    """A model's config as a mapping; None where it has none (or one that cannot be told)."""
    config = model.config if isinstance(model, _Configured) else None
    if isinstance(config, Mapping):
        return dict(config)
    return config.to_dict() if isinstance(config, _ToDict) else None


def config_text(model: object) -> str | None:
    """A model's config as it would be written into ``config.json``; None where it has none."""
    if isinstance(model, _Configured) and isinstance(model.config, _ToJson):
        return model.config.to_json_string()
    config = config_of(model)
    return None if config is None else json.dumps(config, indent=2, sort_keys=True, default=brief) + "\n"


def adapters_of(model: object) -> dict[str, object] | None:
    """PEFT's configs by the adapters' names; None for a model without adapters."""
    found = model.peft_config if isinstance(model, _Adapted) else None
    if not isinstance(found, Mapping):
        return None
    return {
        str(name): told(config.to_dict()) if isinstance(config, _ToDict) else brief(config)
        for name, config in found.items()
    }


def parameters_of(model: object) -> int | None:
    """How many numbers a model holds; None where it cannot say."""
    if isinstance(model, _Counted):
        return model.num_parameters()
    return sum(one.numel() for one in model.parameters()) if isinstance(model, torch.nn.Module) else None


def told(value: object) -> object:
    """A value of a config in JSON's kinds: sets are lists, enums their values, objects their ``repr``."""
    if isinstance(value, Mapping):
        return {str(key): told(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [told(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float)) else brief(value)


def settings(arguments: Mapping[str, object], model: object) -> dict[str, object]:
    """All that a run was made with, in one mapping: the adapters', the model's config, the training's arguments."""
    adapters = adapters_of(model)
    return {
        **({} if adapters is None else {"peft_config": adapters}),
        **(config_of(model) or {}),
        **arguments,
    }


def kinds(values: Mapping[str, object]) -> str:
    """Names and the types of their values: ``'matrix' (list), 'picture' (Image)``."""
    return ", ".join(f"{name!r} ({type(value).__name__})" for name, value in _first(values.items()))


def _first(items: Iterable[tuple[str, object]], most: int = 10) -> list[tuple[str, object]]:
    return list(items)[:most]
