"""What stands in for an optimizer where every parameter is stepped as soon as its gradient is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class LayerWiseDummyOptimizer(Optimizer):
    """An optimizer that does nothing: hooks on the parameters have done the step (GaLore and APOLLO, layer by layer).

    Args:
        optimizer_dict: the optimizer of each parameter.
        kwargs: ``lr``, for whoever asks for the rate.
    """

    def __init__(self, optimizer_dict: Mapping[Tensor, Optimizer] | None = None, **kwargs: object) -> None:
        self.optimizer_dict = dict(optimizer_dict or {})
        super().__init__([torch.zeros(1, 1)], {"lr": kwargs.get("lr", 1e-3)})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: the hooks did it."""

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Nothing: the hooks did it."""


class LayerWiseDummyScheduler(LRScheduler):
    """A schedule that does nothing, and tells the rates of all parameters' optimizers.

    Args:
        kwargs: ``optimizer_dict`` and ``lr``, as for :class:`LayerWiseDummyOptimizer`.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        inner = kwargs.get("optimizer_dict")
        self._inner = list(inner.values()) if isinstance(inner, Mapping) else []
        self.default_lr = kwargs["lr"]
        super().__init__(LayerWiseDummyOptimizer(lr=self.default_lr), -1)

    def step(self, epoch: int | None = None) -> None:
        """Count a step; the parameters' own schedules have set the rates."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._last_lr = self.get_lr()

    def get_lr(self) -> list[float | Tensor]:
        """The rates of all groups of all optimizers."""
        return [group["lr"] for optimizer in self._inner for group in optimizer.param_groups] or [
            group["lr"] for group in self.optimizer.param_groups
        ]


__all__ = ["LayerWiseDummyOptimizer", "LayerWiseDummyScheduler"]
