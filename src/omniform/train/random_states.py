"""The states of all generators of random numbers that a training draws from.

Besides the global ones (Python's, NumPy's, torch's, those of accelerators) there are generators that a dataset, a
collator or a sampler keeps for itself. They are found by looking into these objects, and named by their path there.
"""

from __future__ import annotations

import random
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

States: TypeAlias = dict[str, object]
"""States by the names of their generators; nothing but numbers, texts, tensors and arrays."""

Generator: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

_ACCELERATORS: Final = ("cuda", "xpu", "npu", "mps")
_DEEPEST: Final = 6
_WIDEST: Final = 64
"""Longer lists and mappings are data, and no generators are looked for in them."""

_FOREIGN: Final = ("torch.", "numpy.", "pyarrow.", "pandas.", "PIL.", "multiprocessing.", "threading", "logging")
"""Whatever is of these modules holds no generator of a user's (wrappers of torch.utils.data are looked into)."""


def global_states(*, everywhere: bool = False) -> States:
    """The global generators' states, by the names that ``rng_state.pth`` has for them.

    Args:
        everywhere: of all devices of this machine, as lists, and not of the current one alone.
    """
    found: States = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.get_rng_state(),
    }
    for kind, module in _devices():
        if kind == "mps" or not everywhere:
            found[kind] = module.get_rng_state()
        else:
            found[kind] = module.get_rng_state_all()
    return found


def set_global_states(states: Mapping[str, object]) -> list[str]:
    """Give the global generators states from :func:`global_states`, of this process or another.

    Returns:
        The accelerators whose states are missing, or are those of another number of devices.
    """
    random.setstate(_as_python(states["python"]))
    np.random.set_state(_as_numpy(states["numpy"]))
    torch.set_rng_state(_as_bytes(states["cpu"]))
    left = []
    for kind, module in _devices():
        given = states.get(kind)
        if isinstance(given, Tensor):
            module.set_rng_state(_as_bytes(given))
        elif isinstance(given, list | tuple) and len(given) == module.device_count():
            module.set_rng_state_all([_as_bytes(one) for one in given])
        else:
            left.append(kind)
    return left


def _devices() -> Iterator[tuple[str, types.ModuleType]]:
    for kind in _ACCELERATORS:
        module = vars(torch).get(kind)
        # One that was not used yet has no state, and asking for it would start the device in processes that fork.
        if isinstance(module, types.ModuleType) and module.is_available() and _is_used(module):
            yield kind, module


def _is_used(module: types.ModuleType) -> bool:
    started = vars(module).get("is_initialized")
    return bool(started()) if callable(started) else True


def _as_python(state: object) -> tuple[object, ...]:
    assert isinstance(state, list | tuple)
    version, numbers, gauss = state
    return version, tuple(numbers), gauss


def _as_numpy(state: object) -> tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.uint32]], int, int, float]:
    assert isinstance(state, list | tuple)
    name, numbers, place, has_gauss, gauss = state
    return name, np.asarray(numbers, dtype=np.uint32), place, has_gauss, gauss


def _as_bytes(state: object) -> Tensor:
    assert isinstance(state, Tensor)
    return state.to(device="cpu", dtype=torch.uint8)


@dataclass(frozen=True, slots=True)
class Watched:
    """Generators that objects keep, by their paths (``"collator.generator"``)."""

    generators: Mapping[str, Generator]

    def states(self) -> States:
        """Their states, and those of the global ones."""
        own: States = {path: _state_of(one) for path, one in self.generators.items()}
        return {"global": global_states(), "own": own}

    def restore(self, states: Mapping[str, object]) -> None:
        """Set all of them back; generators that were not there then are left as they are."""
        own, shared = states["own"], states["global"]
        assert isinstance(own, Mapping) and isinstance(shared, Mapping)
        for path, generator in self.generators.items():
            if path in own:
                _set_state(generator, own[path])
        set_global_states(shared)


def watch(**roots: object) -> Watched:
    """Find the generators in objects, which are named by the keywords."""
    found: dict[str, Generator] = {}
    seen: set[int] = set()
    for name, root in roots.items():
        for path, generator in _inside(root, name, 0, seen):
            found[path] = generator
    return Watched(found)


def _inside(value: object, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Generator]]:
    if depth > _DEEPEST or value is None or isinstance(value, str | bytes | int | float | Tensor | np.ndarray):
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState | random.Random):
        yield path, value
        return
    for name, part in _parts(value):
        yield from _inside(part, f"{path}.{name}", depth + 1, seen)


def _parts(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, list | tuple):
        if len(value) <= _WIDEST:
            yield from enumerate(value)
    elif type(value) is dict:
        if len(value) <= _WIDEST:
            yield from value.items()
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
        yield "function", value.__func__
    elif isinstance(value, partial):
        yield "function", value.func
        yield "args", value.args
        yield "keywords", value.keywords
    elif not isinstance(value, type | types.ModuleType) and not _is_foreign(value):
        yield from _attributes(value)
        called = vars(type(value)).get("__call__")
        if isinstance(called, types.FunctionType):  # what it reads from its module
            yield "call", called


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member = vars(kind).get(name)
            if isinstance(member, types.MemberDescriptorType):
                try:
                    yield name, member.__get__(value)
                except AttributeError:  # not set yet
                    continue
    try:
        own = vars(value)
    except TypeError:
        return
    yield from list(own.items())


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield "defaults", function.__defaults__
    for name in code.co_names:
        value = function.__globals__.get(name)
        if not isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
            yield name, value


def _is_foreign(value: object) -> bool:
    if isinstance(value, nn.Module):
        # A module draws from the global generators; but a torchvision-like transform may be one, with its own.
        return len(list(value.parameters())) > 0
    module = type(value).__module__
    return module.startswith(_FOREIGN) and not module.startswith("torch.utils.data")


def _state_of(generator: Generator) -> object:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    return generator.getstate()


def _set_state(generator: Generator, state: object) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(_as_bytes(state))
    elif isinstance(generator, np.random.Generator):
        assert isinstance(state, Mapping)
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_as_numpy(state))
    else:
        generator.setstate(_as_python(state))
