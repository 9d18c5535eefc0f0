"""What the loss of a step is the mean over.

A step's batch is cut into micro-batches and spread over processes, and its loss shall not depend on how. So whatever is
scored in all of them is counted before the first is computed, and every one divides its sum by that number. A loss
that nobody can count is weighed by its rows instead.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.architectures.named import PreTrainedModel
from omniform.train.model_files import plain
from omniform.train.values import Items
from omniform.train.wrapped import without_adapters

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

IGNORED = -100
COUNT = "num_items_in_batch"


@runtime_checkable
class CountsLoss(Protocol):
    """A model that can say what its loss is the mean over."""

    def loss_items(self, inputs: Mapping[str, object]) -> Items:
        """How many things of a batch are scored; None for a loss that does not divide."""
        ...


@runtime_checkable
class NamesItsLoss(Protocol):
    """A model of another library that calls its loss by a name."""

    loss_type: str | None


SHIFTING = ("ForCausalLM", "ForConditionalGeneration")
"""Losses of that library in which a row's first token is never scored."""


@runtime_checkable
class SaysDivides(Protocol):
    """A model that says whether it divides its loss by ``num_items_in_batch``."""

    accepts_loss_kwargs: bool


def divides(model: nn.Module) -> bool:
    """Whether its ``forward`` divides its loss by a ``num_items_in_batch`` that it is given.

    Ours name it; others say it (``accepts_loss_kwargs``), or do something with it, or with their ``**kwargs``.
    """
    inner = without_adapters(model)
    if isinstance(inner, SaysDivides):
        return bool(inner.accepts_loss_kwargs)
    if isinstance(inner, Model) and not (isinstance(inner, PreTrainedModel) and type(inner).place is None):
        return COUNT in inner.accepts()
    parameters = inspect.signature(inner.forward).parameters.values()
    return any((p.kind is p.VAR_KEYWORD or p.name == COUNT) and reads(inner.forward, p.name) for p in parameters)


def count_items(trainer: Trainer, batches: Sequence[Mapping[str, object]], device: torch.device) -> Items:
    """What the loss of these batches together is the mean over, other processes' batches included.

    None where nobody can tell, or nobody would divide by it.
    """
    if not batches or not (trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None):
        return None
    model = without_adapters(plain(trainer))
    told = [_items_of(model, batch) for batch in batches]
    counts = [count for count in told if count is not None]
    if len(counts) < len(told):
        return None
    # A loss that is the sum of two means has two counts.
    own = [0 if batch is trainer._idle else 1 for batch in batches]
    total = torch.stack([torch.as_tensor(n, device=device) * one for n, one in zip(counts, own, strict=True)]).sum(0)
    if trainer.args.average_tokens_across_devices and trainer.args.world_size > 1:
        total = trainer.accelerator.gather(total[None]).sum(0)
    replicas = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
    return total if replicas == 1 else total / replicas


def _items_of(model: nn.Module, batch: Mapping[str, object]) -> Items:
    if issubclass(type(model), CountsLoss):  # asked of classes, it is remembered
        return cast(CountsLoss, model).loss_items(batch)
    shifted, labels = batch.get("shift_labels"), batch.get("labels")
    if isinstance(shifted, Tensor):
        return shifted.ne(IGNORED).sum()
    if not isinstance(labels, Tensor):
        return None
    return (labels[..., 1:] if shifts(model) else labels).ne(IGNORED).sum()


def shifts(model: nn.Module) -> bool:
    """Whether a model's scores are for the labels one to the right, so that a row's first is never scored."""
    inner = without_adapters(model)
    if isinstance(inner, Model):
        return inner.can_generate() and not inner.config.is_encoder_decoder
    config = vars(inner).get("config")
    reads_first = config is not None and bool(vars(config).get("is_encoder_decoder"))
    return isinstance(inner, NamesItsLoss) and inner.loss_type in SHIFTING and not reads_first


def shares_of(trainer: Trainer, batches: Sequence[Mapping[str, object]], items: Items) -> list[float]:
    """How much the mean of each batch counts for in the mean of all: by its rows.

    Where nobody counts what is scored, the rows of all processes are counted.
    """
    rows = [0 if batch is trainer._idle else rows_of(batch) for batch in batches]
    total, processes = float(sum(rows)), trainer.args.world_size
    if items is None and processes > 1:
        here = torch.tensor([total], device=trainer.args.device)
        total = cast(Tensor, trainer.accelerator.gather(here)).sum().item() / processes
    return [count / total if total else 1 / len(batches) for count in rows]


def rows_of(batch: object) -> int:
    """The first dimension of the first tensor of a batch, however it is nested; 0 where there is none."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else 0
    inner = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return next((rows for rows in map(rows_of, inner) if rows), 0)


def reads(function: Callable[..., object], name: str = COUNT) -> bool:
    """Whether a function does anything with its argument of that name; True where that cannot be seen.

    A loss of the user's own that never looks at the count cannot have divided by it, whatever its signature says.
    """
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if inspect.ismethod(function):
        function = function.__func__
    elif not inspect.isfunction(function):  # an object that can be called
        function = vars(type(function)).get("__call__", function)
    return not inspect.isfunction(function) or _loads(function.__code__, name)


def _loads(code: CodeType, name: str) -> bool:
    if name in code.co_consts or name in code.co_cellvars:  # out of **kwargs, or in a function within
        return True
    for step in dis.get_instructions(code):
        named = step.argval if isinstance(step.argval, tuple) else (step.argval,)
        if step.opname.startswith("LOAD") and name in named:
            return True
    return False
