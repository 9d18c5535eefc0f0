"""Modules whose class body names their parts: ``print(model)`` is then the diagram, and no ``__init__`` repeats it.

::

    class PreNorm(Layer):
        input_layernorm: nn.Module
        self_attn: nn.Module

``PreNorm(input_layernorm=..., self_attn=...)`` sets both. A part that is missing or of the wrong type is an error of
mypy, and one that is missing a ``TypeError`` when it runs.
"""

from __future__ import annotations

from typing import ClassVar, dataclass_transform

from torch import nn


@dataclass_transform(kw_only_default=True)
class Composed(nn.Module):
    """Base of modules that are made of the parts that their class bodies name.

    A part with a value in the class body may be left out. Parts are given by keyword, and set in the order of the
    bodies, those of base classes first. What else an instance needs is made in :meth:`__post_init__`.
    """

    _PARTS: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        parts = {n: given for base in reversed(cls.__mro__) for n, given in vars(base).get("_PARTS", {}).items()}
        for name, annotation in cls._named_in_body().items():
            if str(annotation).startswith("ClassVar"):
                continue
            parts[name] = vars(cls).get(name, _NONE)
            if name in vars(cls):
                delattr(cls, name)  # or it would hide the module of this name
        cls._PARTS = parts

    @classmethod
    def _named_in_body(cls) -> dict[str, object]:
        """The names that this class's own body annotates."""
        return dict(vars(cls).get("__annotations__", {}))

    def __init__(self, **parts: object) -> None:
        super().__init__()
        known = self._PARTS
        strange, missing = parts.keys() - known.keys(), [n for n, d in known.items() if d is _NONE and n not in parts]
        if strange or missing:
            told = f"misses {', '.join(missing)}" if missing else f"has no part {', '.join(sorted(strange))}"
            raise TypeError(f"{type(self).__name__} {told}")
        for name, default in known.items():
            setattr(self, name, parts.get(name, default))
        self.__post_init__()

    def __post_init__(self) -> None:
        """Make what the parts do not say; called once, when all of them are set."""


_NONE = object()
