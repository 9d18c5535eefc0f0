"""Several adapters in one step: each row of an engine computes with its own, or with none.

A request may name an adapter of the model's (``adapter="law"``; ``"__base__"`` for none, as in PEFT). Rows that name
none compute with whatever the model does; or, where a model has adapters for what a prompt may hold
(:attr:`~omniform.architectures.generative.Generative.ADAPTERS`), with the one for that. In a step of rows that differ,
the layers are told for every token whose adapters it has (:class:`~omniform.transforms.lora_layers.Mix`); keys and
features are kept by adapter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Final, Protocol

from torch import Tensor, nn

from omniform.architectures.generative import Generative
from omniform.architectures.surface import Surface
from omniform.core.batch import Item
from omniform.core.errors import InputError, brief, nearest
from omniform.engine.parts import Parts
from omniform.hub.adapting import CHOSEN, delete_adapter, load_beside
from omniform.transforms.lora import adapter_names, layers_of, mix_of, refuse_others

NONE: Final = "__base__"
"""What stands for the model without adapters."""

Names = tuple[str, ...]


class Asks(Protocol):
    """A request, as far as it says whose adapter it wants."""

    adapter: str | None


class Share(Protocol):
    """A row's part in a step."""

    @property
    def request(self) -> Asks: ...

    @property
    def count(self) -> int: ...


def parts_of_each(parts: Parts, rows: int) -> list[Parts]:
    """A call's objects for each of its prompts: ``adapter_names`` has one name for each.

    Raises:
        InputError: another number of names.
    """
    names = parts.get("adapter_names")
    if names is None:
        return [parts] * rows
    if not isinstance(names, (list, tuple)) or len(names) != rows:
        raise InputError("not one adapter per row", where="adapter_names", expected=f"{rows} names", found=brief(names))
    return [Parts({**parts.given, "adapter": name}, parts.made) for name in names]


class Adapters:
    """The adapters of a model that is stepped.

    Args:
        model: its layers are looked at anew for each request, so that adapters may come and go.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def asked(self, parts: Parts, items: Sequence[Item] = ()) -> str | None:
        """Which adapter a call names, or is the model's own for such items; None for what the model computes with.

        Args:
            items: of the prompt.

        Raises:
            InputError: an adapter that the model does not have, or PEFT's layers, which cannot be told apart by rows.
        """
        name = parts.get("adapter")
        if name is None:
            return self._own(items)
        refuse_others(self._model)
        known = adapter_names(self._model)
        if not isinstance(name, str) or name not in (*known, NONE):
            remedy = nearest(name, known) if isinstance(name, str) else None
            raise InputError("there is no such adapter", where="adapter", found=brief(name), remedy=remedy)
        return name

    def _own(self, items: Sequence[Item]) -> str | None:
        """The adapter that was trained for such items, where the model has those for all kinds, and nobody chose."""
        model = self._model
        if not isinstance(model, Generative) or not model.ADAPTERS or vars(model).get(CHOSEN):
            return None
        names = adapter_names(model)
        own = {kind: next((n for n in names if n.startswith(word)), None) for kind, word in model.ADAPTERS.items()}
        if None in own.values():
            return None
        kinds = {item.modality for item in items}
        return next((name for kind, name in own.items() if kind in kinds), NONE)

    def load(self, source: str | os.PathLike[str], name: str, where: Mapping[str, object]) -> None:
        """Put an adapter beside those that are there; see :meth:`Engine.load_adapter`."""
        load_beside(self._surface(), source, name, **where)

    def unload(self, name: str, requests: Sequence[Asks]) -> None:
        """Take one out.

        Raises:
            InputError: there is none of this name, or a request computes with it.
        """
        if any(request.adapter == name for request in requests):
            raise InputError("requests compute with this adapter", where="adapter_name", found=repr(name))
        delete_adapter(self._surface(), name)

    def _surface(self) -> Surface:
        assert isinstance(self._model, Surface)
        return self._model

    def names(self, request: Asks) -> Names:
        """The adapters that a request is computed with."""
        if request.adapter is not None:
            return () if request.adapter == NONE else (request.adapter,)
        return tuple(dict.fromkeys(name for layer in layers_of(self._model) for name in layer.active_adapters))

    @contextmanager
    def step(self, chunks: Sequence[Share], wanted: Sequence[int], scored: Sequence[int]) -> Iterator[None]:
        """Tell the layers whose tokens a step is of.

        Args:
            wanted: of how many of each chunk's tokens the last layer is asked.
            scored: of how many of those there are scores.
        """
        if all(chunk.request.adapter is None for chunk in chunks):
            yield
            return
        each = [self.names(chunk.request) for chunk in chunks]
        tokens = [names for names, chunk in zip(each, chunks, strict=True) for _ in range(chunk.count)]
        last = [names for names, count in zip(each, wanted, strict=True) for _ in range(count)] or tokens[-1:]
        told = [names for names, count in zip(each, scored, strict=True) for _ in range(count)] or last
        with mix_of(self._model).of(tokens, last, told):
            yield

    def within(self, request: Asks, project: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """What makes scores of a request's hidden states, once its step is over."""
        if request.adapter is None:
            return project

        def projected(hidden: Tensor) -> Tensor:
            with self.whole(request):
                return project(hidden)

        return projected

    @contextmanager
    def whole(self, request: Asks) -> Iterator[None]:
        """Have everything computed with one request's adapter: what its encoders read."""
        if request.adapter is None:
            with nullcontext():
                yield
            return
        with mix_of(self._model).all(self.names(request)):
            yield
