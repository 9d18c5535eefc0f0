"""Words for what goes through a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor
from torch.utils.data import Dataset

Examples: TypeAlias = Dataset[object] | Sequence[object] | Iterable[object]
"""A dataset: of torch, of ``datasets``, or whatever a ``DataLoader`` reads."""

Inputs: TypeAlias = dict[str, object]
"""A batch: tensors by the names of what the model takes."""

Collator: TypeAlias = Callable[[list[object]], Mapping[str, object]]
"""Makes a batch of examples."""

Items: TypeAlias = Tensor | int | None
"""How many scored things (tokens, rows) the loss of a step is the mean over; None where nobody can tell."""

Loss: TypeAlias = Tensor | tuple[Tensor, object]
"""A loss, or with ``return_outputs`` a loss and the outputs it was computed from."""

Trial: TypeAlias = object
"""A trial of a hyperparameter search: the backend's own object, None outside of one."""


class Schedule(NamedTuple):
    """How much there is to do; the order is that of the ecosystem's ``set_initial_training_values``.

    Attributes:
        num_train_epochs: passes over the data, the last one perhaps in part.
        num_update_steps_per_epoch: steps of the optimizer in one of them.
        num_examples: examples in one of them.
        num_train_samples: examples in all of them.
        total_train_batch_size: examples in a step, over all processes.
        steps_in_epoch: batches in an epoch.
        max_steps: steps in all.
    """

    num_train_epochs: int
    num_update_steps_per_epoch: int
    num_examples: int
    num_train_samples: float
    total_train_batch_size: int
    steps_in_epoch: int
    max_steps: int
