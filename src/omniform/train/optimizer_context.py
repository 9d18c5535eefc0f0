"""What makers of optimizers are given: the training's arguments, the model, and the words of ``optim_args``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from omniform.core.errors import InputError, UnknownArgumentError, brief, nearest
from omniform.train.argument_kinds import Flag, Number, Whole

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments

Made = tuple[Any, dict[str, Any]]
"""An optimizer's class (or what makes one of a model) and its arguments."""


@dataclass
class Options:
    """The arguments in ``optim_args``; whoever takes one says what it is."""

    texts: dict[str, str] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, text: str | None) -> Options:
        """Of ``"rank=64, scale=0.5"``.

        Raises:
            InputError: it is no list of names and values.
        """
        options = cls()
        for pair in (text or "").replace(" ", "").split(","):
            name, equals, value = pair.partition("=")
            if equals and name:
                options.texts[name] = value
            elif pair:
                raise InputError(
                    "cannot be this", where="optim_args", expected="name=value,name=value", found=brief(text)
                )
        return options

    def _take(self, name: str) -> str | None:
        self.known.add(name)
        return self.texts.get(name)

    def number(self, name: str, default: float) -> float:
        """A number."""
        value = self._take(name)
        return default if value is None else float(cast(float, Number().read(f"optim_args: {name}", value)))

    def whole(self, name: str, default: int) -> int:
        """A whole number."""
        value = self._take(name)
        return default if value is None else cast(int, Whole().read(f"optim_args: {name}", value))

    def flag(self, name: str, default: bool) -> bool:
        """True or False."""
        value = self._take(name)
        return default if value is None else bool(Flag().read(f"optim_args: {name}", value))

    def text(self, name: str, default: str) -> str:
        """A text."""
        value = self._take(name)
        return default if value is None else value

    def given(self, **kinds: type[float] | type[bool] | type[int]) -> dict[str, Any]:
        """Those of these that are given."""
        made: dict[str, Any] = {}
        for name, kind in kinds.items():
            if self._take(name) is not None:
                reader = self.flag if kind is bool else self.whole if kind is int else self.number
                made[name] = cast("Callable[[str, Any], object]", reader)(name, None)
        return made

    def check(self, optimizer: str) -> None:
        """Raise UnknownArgumentError for what nobody took."""
        for name in self.texts:
            if name not in self.known:
                raise UnknownArgumentError(
                    f"optim_args: {optimizer} has no argument {name!r}", remedy=nearest(name, self.known)
                )


@dataclass
class OptimizerContext:
    """What a maker is given.

    Args:
        args: the training's arguments.
        model: the model, if it is there.
        optimizer_kwargs: the rate, for every optimizer.
        adam_kwargs: betas and epsilon, for those like Adam.
        optim_args: further arguments.
    """

    args: TrainingArguments
    model: nn.Module | None
    optimizer_kwargs: dict[str, Any]
    adam_kwargs: dict[str, Any]
    optim_args: Options


Maker = Callable[[OptimizerContext], Made]
