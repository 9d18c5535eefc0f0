"""Adafactor: an optimizer whose memory for second moments is that of a row and a column (arXiv:1804.04235)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from omniform.core.errors import InputError


class Adafactor(Optimizer):
    """Adafactor, by the paper's algorithms 4 to 6.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate; None: ``relative_step`` makes one.
        eps: what is added to squares of gradients, and the least size of a parameter.
        clip_threshold: updates whose root mean square is above this are scaled down to it.
        decay_rate: the power of the step with which the memory of squares fades.
        beta1: memory of updates; None: there is none.
        weight_decay: decay of weights, in multiples of the rate.
        scale_parameter: multiply the rate by the parameter's root mean square.
        relative_step: the rate is one over the root of the step, at most 1e-2.
        warmup_init: that most is 1e-6 times the step instead.

    Raises:
        InputError: arguments contradict each other.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
    ) -> None:
        if lr is not None and relative_step:
            raise InputError("lr and relative_step=True contradict each other", where="Adafactor", found=f"lr={lr}")
        if warmup_init and not relative_step:
            raise InputError("warmup_init=True and relative_step=False contradict each other", where="Adafactor")
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta1": beta1,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
            "relative_step": relative_step,
            "warmup_init": warmup_init,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step.

        Args:
            closure: computes the loss anew.

        Returns:
            what the closure gives.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(group, parameter, parameter.grad)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, in the precision in which it was kept.

        (torch's own rounds it to the parameters' dtype, after which a training in bfloat16 would go on otherwise.)
        """
        super().load_state_dict(state_dict)
        for held, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for key, parameter in zip(held["params"], group["params"], strict=True):
                for name, value in state_dict["state"].get(key, {}).items():
                    if isinstance(value, Tensor):
                        self.state[parameter][name] = value.detach().to(parameter.device, copy=True)

    def _update(self, group: Mapping[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        if gradient.is_sparse:
            raise InputError("Adafactor needs dense gradients", found="a sparse one")
        gradient = gradient.float() if gradient.dtype in (torch.float16, torch.bfloat16) else gradient
        wide = parameter.float() if parameter.dtype in (torch.float16, torch.bfloat16) else parameter
        state = self.state[parameter]
        if not state:
            self._begin(group, state, gradient)
        state["step"] += 1
        state["RMS"] = self._rms(wide)
        rate = self._get_lr(group, state)
        update = self._direction(group, state, gradient)
        update.div_((self._rms(update) / group["clip_threshold"]).clamp_(min=1.0)).mul_(rate)
        if group["beta1"] is not None:
            state["exp_avg"] = state["exp_avg"].to(gradient)
            update = state["exp_avg"].mul_(group["beta1"]).add_(update, alpha=1 - group["beta1"])
        if group["weight_decay"] != 0:
            wide.add_(wide, alpha=-group["weight_decay"] * rate)
        wide.sub_(update)
        if wide is not parameter:
            parameter.copy_(wide)

    @staticmethod
    def _begin(group: Mapping[str, Any], state: dict[str, Any], gradient: Tensor) -> None:
        state["step"] = 0
        if group["beta1"] is not None:
            state["exp_avg"] = torch.zeros_like(gradient)
        if gradient.dim() >= 2:
            state["exp_avg_sq_row"] = gradient.new_zeros(gradient.shape[:-1])
            state["exp_avg_sq_col"] = gradient.new_zeros(gradient.shape[:-2] + gradient.shape[-1:])
        else:
            state["exp_avg_sq"] = torch.zeros_like(gradient)
        state["RMS"] = 0

    @staticmethod
    def _direction(group: Mapping[str, Any], state: dict[str, Any], gradient: Tensor) -> Tensor:
        """The gradient over the root of its remembered square."""
        kept = 1.0 - math.pow(state["step"], group["decay_rate"])
        square = gradient**2 + group["eps"][0]
        if gradient.dim() < 2:
            remembered = state["exp_avg_sq"] = state["exp_avg_sq"].to(gradient)
            remembered.mul_(kept).add_(square, alpha=1.0 - kept)
            return cast(Tensor, remembered.rsqrt().mul_(gradient))
        # The square of an element is about its row's mean times its column's, over the mean of all.
        rows = state["exp_avg_sq_row"] = state["exp_avg_sq_row"].to(gradient)
        columns = state["exp_avg_sq_col"] = state["exp_avg_sq_col"].to(gradient)
        rows.mul_(kept).add_(square.mean(dim=-1), alpha=1.0 - kept)
        columns.mul_(kept).add_(square.mean(dim=-2), alpha=1.0 - kept)
        by_row = (rows / rows.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
        return torch.mul(by_row, columns.unsqueeze(-2).rsqrt()).mul_(gradient)

    @staticmethod
    def _rms(tensor: Tensor) -> Tensor:
        return cast(Tensor, torch.linalg.vector_norm(tensor) / (tensor.numel() ** 0.5))

    @staticmethod
    def _get_lr(param_group: Mapping[str, Any], param_state: Mapping[str, Any]) -> Any:
        rate = param_group["lr"]
        if param_group["relative_step"]:
            most = 1e-6 * param_state["step"] if param_group["warmup_init"] else 1e-2
            rate = min(most, 1.0 / math.sqrt(param_state["step"]))
        size = max(param_group["eps"][1], param_state["RMS"]) if param_group["scale_parameter"] else 1.0
        return size * rate


class AdafactorSchedule(LambdaLR):
    """Tells the rates that :class:`Adafactor` makes itself, for loops that ask a scheduler.

    Args:
        optimizer: an Adafactor with ``relative_step``.
        initial_lr: what is told before the first step.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float = 0.0) -> None:
        for group in optimizer.param_groups:
            group["initial_lr"] = initial_lr
        super().__init__(optimizer, lambda _: initial_lr)
        for group in optimizer.param_groups:
            del group["initial_lr"]

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group's first parameter; the first rates before there was a step."""
        optimizer = self.optimizer
        rates = [
            cast(Adafactor, optimizer)._get_lr(group, optimizer.state[group["params"][0]])
            for group in optimizer.param_groups
            if group["params"][0].grad is not None
        ]
        return rates or list(self.base_lrs)


def get_adafactor_schedule(optimizer: Optimizer, initial_lr: float = 0.0) -> AdafactorSchedule:
    """An :class:`AdafactorSchedule`."""
    return AdafactorSchedule(optimizer, initial_lr)


__all__ = ["Adafactor", "AdafactorSchedule", "get_adafactor_schedule"]
