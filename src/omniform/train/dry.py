"""What a training would take, before it begins: steps, examples, and memory, counted on a model without weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from omniform.train.data import Table, has_length, is_table

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

STATES: Final[Mapping[str, int]] = {
    "adamw": 2, "lion": 1, "sgd": 0, "adagrad": 1, "rmsprop": 1, "adafactor": 0, "ademamix": 3, "lamb": 2,
}  # fmt: skip
"""Numbers that an optimizer keeps for each trained weight; Adafactor's are few."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a training would take.

    Attributes:
        steps: optimizer steps.
        examples: in the training set; None where nobody knows.
        batch: examples of one step, over all micro-batches and processes.
        parameters: numbers in the model.
        trained: those that are learned.
        weights: bytes of the model.
        gradients: bytes of them.
        optimizer: bytes of what the optimizer keeps.
        activations: bytes that one micro-batch keeps for its backward pass: that of the longest examples; None where
            the loss looks at numbers, which a model without weights does not have (detection).
        micro_batch: the shapes of that batch.
    """

    steps: int
    examples: int | None
    batch: int
    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    micro_batch: Mapping[str, tuple[int, ...]]

    @property
    def total(self) -> int:
        """Bytes at the height of a step, without what kernels need for a moment."""
        return self.weights + self.gradients + self.optimizer + (self.activations or 0)


def forecast(trainer: Trainer) -> Forecast:
    """Count a training's steps and memory; nothing is computed.

    Args:
        trainer: ready to train.
    """
    args, model = trainer.args, trainer.model
    loader = trainer.get_train_dataloader()
    plan = trainer.set_initial_training_values(args, loader)
    batch = longest_batch(trainer)
    trained = [p for p in model.parameters() if p.requires_grad]
    each = next((n for name, n in STATES.items() if name in str(args.optim).lower()), 2)
    size = 1 if any(word in str(args.optim) for word in ("8bit", "4bit")) else 4
    half = args.bf16 or args.fp16
    return Forecast(
        steps=plan.max_steps,
        examples=plan.num_examples,
        batch=plan.total_train_batch_size,
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in trained),
        weights=sum(t.nbytes for t in (*model.parameters(), *model.buffers())),
        gradients=sum(p.nbytes for p in trained),
        optimizer=sum(p.numel() for p in trained) * each * size,
        activations=_activations(model, batch, torch.bfloat16 if half else None, trainer.label_names),
        micro_batch={name: tuple(x.shape) for name, x in batch.items() if isinstance(x, Tensor)},
    )


def _activations(
    model: nn.Module, batch: Mapping[str, object], half: torch.dtype | None, labels: Sequence[str]
) -> int | None:
    try:
        return kept_for_backward(model, batch, half, labels)
    except (RuntimeError, NotImplementedError, ValueError):  # what torch and numpy say of tensors without numbers
        return None


LOOKED_AT: Final = 2000
"""Examples among which the longest are looked for."""


def longest_batch(trainer: Trainer) -> Mapping[str, object]:
    """The micro-batch that takes most memory: the longest of the first examples; of a stream its first batch."""
    dataset = trainer.train_dataset
    if not has_length(dataset):
        return cast("Mapping[str, object]", next(iter(trainer.get_train_dataloader())))
    table = cast("Sequence[object]", dataset)
    if is_table(dataset):
        table = cast("Sequence[object]", trainer._remove_unused_columns(cast(Table, dataset), "training"))
    examples = [table[i] for i in range(min(len(table), LOOKED_AT))]
    examples.sort(key=_size, reverse=True)
    return trainer._get_collator_with_removed_columns(trainer.data_collator, "training")(
        examples[: trainer._train_batch_size]
    )


def _size(example: object) -> int:
    """How many numbers an example holds."""
    if isinstance(example, Mapping):
        return sum(_size(value) for value in example.values())
    if isinstance(example, Tensor | np.ndarray):
        return int(np.prod(example.shape))
    return len(example) if isinstance(example, list | tuple | str) else 1


def kept_for_backward(
    model: nn.Module,
    batch: Mapping[str, object],
    half: torch.dtype | None = None,
    labels: Sequence[str] = ("labels",),
) -> int:
    """Bytes that a forward keeps for its backward pass, each storage once and the weights not counted.

    Args:
        model: a copy of it without numbers runs, on torch's meta device.
        batch: its inputs, labels among them.
        half: the type that it is computed in under mixed precision.
        labels: the inputs that only a loss is made of.
    """
    empty = _emptied(model)
    own = {t.untyped_storage()._cdata for t in (*empty.parameters(), *empty.buffers())}
    given = tree_map_only(Tensor, lambda x: x.to("meta"), dict(batch))
    precision = torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None)
    try:
        with _counted(own) as kept, precision:
            empty.train()(**given)
    except NotImplementedError:
        # A loss that must see numbers (DETR's, which matches boxes with queries): what it keeps itself is little.
        with _counted(own) as kept, precision:
            empty(**{name: value for name, value in given.items() if name not in labels})
    return sum(kept.values())


def _emptied(model: nn.Module) -> nn.Module:
    """A copy of a model whose tensors have no numbers."""
    memo: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        shape = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape
    return copy.deepcopy(model, memo)


@contextmanager
def _counted(own: set[int]) -> Iterator[dict[int, int]]:
    """Count the storages that autograd keeps meanwhile, except for ``own``."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage's name is given twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def told(found: Forecast, free: int | None) -> list[str]:
    """The forecast in lines that people read.

    Args:
        free: bytes of memory that there are.
    """
    of = "" if found.examples is None else f" over {found.examples:,} examples"
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in found.micro_batch.items())
    kept = found.activations
    share = found.trained / max(found.parameters, 1)
    lines = [
        f"steps         {found.steps:,} of {found.batch} examples{of}",
        f"parameters    {found.parameters:,}, {found.trained:,} of them trained ({share:.1%})",
        f"micro-batch   {shapes}",
        f"weights       {readable(found.weights)}",
        f"gradients     {readable(found.gradients)}",
        f"optimizer     {readable(found.optimizer)}",
        f"activations   {'not known: the loss looks at numbers' if kept is None else readable(kept)}",
        f"together      {readable(found.total)}",
    ]
    if free is not None:
        fits = "fits" if found.total < free else "DOES NOT FIT"
        lines.append(f"free memory   {readable(free)}: it {fits}")
    return lines


def readable(count: int) -> str:
    """Bytes as people read them."""
    power = 0 if count < 1024 else min(int(math.log(count, 1024)), 4)
    return f"{count / 1024**power:.{0 if power == 0 else 1}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
