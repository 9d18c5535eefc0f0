"""What a model takes, written out: ``inspect.signature(model.forward)`` names every input.

Heads hand on to their base what they do not read, so that their own ``forward`` names little of it. Those who ask a
model what it takes (export, which matches dynamic shapes by name; training loops, which leave out other columns) ask
its signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter, Signature
from types import FunctionType
from typing import cast

from omniform.architectures.model import Model

_SPELLED: dict[type[Model], tuple[Callable[..., object], frozenset[str]]] = {}


def spell_out(model: Model) -> None:
    """Give a model's class a ``forward`` of the same code whose signature names all that the model accepts.

    A ``forward`` that somebody else has put there is left alone.
    """
    kind, names = type(model), model.accepts()
    spelled, known = _SPELLED.get(kind, (None, frozenset()))
    made_of = vars(kind).get("made_of")
    ours = (None, spelled, made_of and made_of[1].forward)
    if names <= known or vars(kind).get("forward") not in ours:
        return
    own = cast(FunctionType, spelled or kind.forward)
    if not isinstance(own, FunctionType):
        return
    copy = FunctionType(own.__code__, own.__globals__, own.__name__, own.__defaults__, own.__closure__)
    copy.__kwdefaults__, copy.__doc__, copy.__qualname__ = own.__kwdefaults__, own.__doc__, own.__qualname__
    copy.__annotations__ = dict(own.__annotations__)
    copy.__signature__ = _signature(own, model, names)  # type: ignore[attr-defined]
    _SPELLED[kind] = (copy, names | known)
    kind.forward = copy


def _signature(forward: Callable[..., object], model: Model, names: frozenset[str]) -> Signature:
    written = list(inspect.signature(forward).parameters.values())
    there = {p.name for p in written}
    self, *rest = written
    first = [self]
    if rest and rest[0].kind is Parameter.VAR_POSITIONAL and model.base_model is not model:
        # What comes by position is the base's.
        _, *base = inspect.signature(type(model.base_model).forward).parameters.values()
        by_place = [p for p in base if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
        if base[0].kind is Parameter.POSITIONAL_ONLY:  # it goes by the name of what the model reads
            by_place.insert(0, base[0].replace(name=model.main_input, kind=Parameter.POSITIONAL_OR_KEYWORD))
        first += [p for p in by_place if p.name not in there and p.name in names]
        there |= {p.name for p in first}
    more = [Parameter(n, Parameter.KEYWORD_ONLY, default=None) for n in sorted(names - there)]
    last = [p for p in rest if p.kind is Parameter.VAR_KEYWORD]
    return Signature([*first, *(p for p in rest if p not in last), *more, *last])
