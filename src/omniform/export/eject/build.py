"""Building a model so that it remembers what it was made of: numbers with their keys, modules with their arguments."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import torch
from torch import nn

from omniform.architectures.family import Architecture, Family
from omniform.architectures.model import Model
from omniform.core.config import Common, read_common
from omniform.core.state import StatefulModule, mixers, number_mixers
from omniform.export.eject.symbols import Keys, Symbol, SymbolicReader, plain, symbolic_common
from omniform.weights.init import NoInitialising


@dataclass
class Made:
    """How modules were made.

    Attributes:
        arguments: of each module's constructor, by the module's id.
    """

    arguments: dict[int, dict[str, object]] = field(default_factory=dict)
    held: list[object] = field(default_factory=list)


@contextmanager
def noting() -> Iterator[Made]:
    """Note the arguments of every module that is made within."""
    made = Made()

    def look(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or frame.f_code.co_name != "__init__":
            return
        names = frame.f_code.co_varnames
        module = frame.f_locals.get(names[0]) if names else None
        if isinstance(module, nn.Module) and id(module) not in made.arguments:
            count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
            flags = bool(frame.f_code.co_flags & 4) + bool(frame.f_code.co_flags & 8)
            made.arguments[id(module)] = {n: frame.f_locals[n] for n in names[1 : count + flags] if n in frame.f_locals}
            made.held.append(module)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield made
    finally:
        sys.setprofile(before)


@dataclass
class Built:
    """A model on the meta device.

    Attributes:
        raw: the config that it was built of.
        keys: the keys that the config was asked for.
        made: how its modules were made.
        spec: the family's typed config.
        asked: the keys that it was read from.
    """

    model: Model
    raw: Mapping[str, object]
    keys: Keys
    made: Made
    spec: object
    common: Common
    asked: frozenset[str] = frozenset()


def built(family: Family, architecture: Architecture, raw: Mapping[str, object]) -> Built:
    """Build an architecture of numbers that know their keys."""
    keys = Keys()
    reader = SymbolicReader(raw, keys=keys)
    spec = family.read(reader)
    own = frozenset(reader.asked)
    common = symbolic_common(read_common(reader, family.public.labels))
    with noting() as made, torch.device("meta"), NoInitialising():
        model = architecture.build(spec, common)
    if not common.causal:
        for mixer in mixers(model):
            mixer.look_both_ways()
    for module in model.modules():
        if isinstance(module, StatefulModule):
            module.slot = StatefulModule.slot
    for keeper in model.keepers():
        number_mixers(keeper)
    return Built(model, raw, keys, made, spec, common, own)


def explicit(family: Family, raw: Mapping[str, object]) -> tuple[dict[str, object], dict[tuple[str, ...], Symbol]]:
    """A config that says every number that its family's other keys follow from.

    Returns:
        The config, and the values of the keys that were added, as symbols of the others.
    """
    keys = Keys()
    reader = SymbolicReader(raw, keys=keys)
    family.read(reader)
    said = dict(raw)
    added: dict[tuple[str, ...], Symbol] = {}
    for name, value in reader.values.items():
        alias = reader.spellings.get(name, (name,))[0] != name
        if isinstance(value, Symbol) and not alias and raw.get(name) is None and not _is_own(value, name):
            said[name] = plain(value)
            added[name,] = value
    if repr(family.read(SymbolicReader(said, keys=Keys()))) != repr(family.read(SymbolicReader(raw, keys=Keys()))):
        return dict(raw), {}  # saying a number is not the same as leaving it out, here
    return said, added


def _is_own(value: Symbol, name: str) -> bool:
    """Whether a number is the key's own: its default, and not another key's."""
    return vars(value.expression).get("attr") == name
