"""What a model's ``forward`` takes, read off its signature once for each class."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from types import FunctionType, MethodType

from torch import nn


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a class's ``forward`` takes.

    Attributes:
        ordered: names of those that may be given by position.
        unnamed: how many of them cannot be given by name.
        names: of all of them.
        passes_on: whether others are handed to the base model.
        open: whether it takes any name there is.
    """

    ordered: tuple[str, ...]
    unnamed: int
    names: frozenset[str]
    passes_on: bool
    open: bool = False

    @classmethod
    def of(cls, kind: type[nn.Module]) -> Parameters:
        """Read the signature; ``**given: Unpack[Inputs]`` stands for the names in ``Inputs``."""
        parameters = [p for p in inspect.signature(kind.forward).parameters.values() if p.name != "self"]
        ordered = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
        unnamed = sum(p.kind is p.POSITIONAL_ONLY for p in parameters)
        names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        rest = next((p for p in parameters if p.kind is p.VAR_KEYWORD), None)
        told = "" if rest is None else str(rest.annotation)
        home = vars(sys.modules.get(kind.forward.__module__, sys))
        inputs = home.get(told[len("Unpack[") : -1]) if told.startswith("Unpack[") else None
        if isinstance(inputs, type):
            return cls(ordered, unnamed, frozenset(names | inputs.__annotations__.keys()), passes_on=False)
        _, *parents = (
            b for b in kind.__mro__ if "forward" in vars(b) and issubclass(b, nn.Module) and b is not nn.Module
        )
        if rest is None or not parents:
            return cls(ordered, unnamed, frozenset(names), passes_on=rest is not None, open=rest is not None)
        inherited = cls.of(parents[0])  # what a forward hands on to the one it overrides
        return cls(ordered, unnamed, frozenset(names | inherited.names), passes_on=inherited.passes_on)


def patched_names(model: nn.Module) -> frozenset[str]:
    """What a ``forward`` that somebody has put in the place of a model's own takes (TRL's ``fused_lm_head``).

    Such a function often passes for the one that it calls, so that its code is asked, and not its signature.
    """
    function, names = model.__dict__.get("forward"), set[str]()
    while function is not None:
        plain = function.__func__ if isinstance(function, MethodType) else function
        if not isinstance(plain, FunctionType):
            break
        code = plain.__code__
        names.update(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        function = vars(plain).get("__wrapped__")
    return frozenset(names - {"self"})


_PARAMETERS: dict[type[nn.Module], Parameters] = {}


def parameters_of(kind: type[nn.Module]) -> Parameters:
    """What a class's ``forward`` takes; read once."""
    if kind not in _PARAMETERS:
        _PARAMETERS[kind] = Parameters.of(kind)
    return _PARAMETERS[kind]
