"""GreedyLR: a learning rate that grows while a metric improves and shrinks while it does not.

The method is of https://arxiv.org/abs/2512.14527; arguments, attributes and the state's keys are the ecosystem's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from torch.optim import Optimizer

from omniform.core.errors import InputError, brief

_STATE: Final = (
    "factor", "min_lrs", "max_lrs", "patience", "verbose", "cooldown", "warmup", "cooldown_counter", "warmup_counter",
    "mode", "threshold", "threshold_mode", "best", "num_bad_epochs", "num_good_epochs", "eps", "last_epoch", "smooth",
    "window_size", "reset_start", "reset_start_original", "_last_lr", "_init_lrs",
)  # fmt: skip


class StreamingAverage:
    """The mean of the last values.

    Args:
        window_size: of how many.
    """

    def __init__(self, window_size: int) -> None:
        self.window_size = window_size
        self.values: list[float] = []
        self.sum = 0.0

    def streamavg(self, value: float) -> float:
        """Add a value; the mean with it."""
        self.values.append(value)
        self.sum += value
        if len(self.values) > self.window_size:
            self.sum -= self.values.pop(0)
        return self.sum / len(self.values)

    def state_dict(self) -> dict[str, object]:
        """What a resumed training needs."""
        return {"window_size": self.window_size, "values": list(self.values), "sum": self.sum}

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Go on from a state."""
        self.window_size = cast(int, state_dict.get("window_size", self.window_size))
        self.values = list(cast(Sequence[float], state_dict.get("values", ())))
        self.sum = cast(float, state_dict.get("sum", 0.0))


class GreedyLR:
    """Divides the rate by ``factor`` after ``patience`` improvements in a row, multiplies it after as many failures.

    Args:
        optimizer: whose rate is set.
        mode: ``min``: less of the metric is better; ``max``: more is.
        factor: below 1.
        patience: so many steps of one kind are let pass.
        threshold: what counts as better than the best.
        threshold_mode: ``abs``: by so much; ``rel``: by such a share.
        cooldown: steps that are not counted after the rate fell.
        warmup: steps that are not counted after it rose.
        min_lr: the lowest rate, or one for each group.
        max_lr: the highest.
        eps: smaller changes are left out.
        verbose: tell each change.
        smooth: look at the mean of the last metrics.
        window_size: of how many.
        reset_start: steps at the lowest rate after which all begins anew.

    Raises:
        InputError: an argument cannot be this.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: str = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: float | list[float] = 1e-3,
        max_lr: float | list[float] = 1.0,
        eps: float = 1e-8,
        verbose: bool = False,
        smooth: bool = False,
        window_size: int = 50,
        reset_start: int = 500,
    ) -> None:
        if factor >= 1.0:
            raise InputError("the rate would never fall", where="factor", expected="less than 1", found=factor)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{brief(optimizer)} is no optimizer")
        for name, word, words in (("mode", mode, ("min", "max")), ("threshold_mode", threshold_mode, ("rel", "abs"))):
            if word not in words:
                raise InputError("cannot be this", where=name, expected=f"one of {words}", found=brief(word))
        self.optimizer = optimizer
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode, self.eps = threshold, threshold_mode, eps
        self.cooldown, self.warmup, self.verbose = cooldown, warmup, verbose
        self.smooth, self.window_size = smooth, window_size
        self.reset_start = self.reset_start_original = reset_start
        self.min_lrs = self._per_group("min_lr", min_lr)
        self.max_lrs = self._per_group("max_lr", max_lr)
        self.last_epoch = 0
        self._init_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self._last_lr = list(self._init_lrs)
        self._streaming_avg: StreamingAverage | None = None
        self._forget()

    def _per_group(self, name: str, value: float | Sequence[float]) -> list[float]:
        groups = len(self.optimizer.param_groups)
        if not isinstance(value, list | tuple):
            return [cast(float, value)] * groups
        if len(value) != groups:
            raise InputError("one rate for each group", where=name, expected=groups, found=len(value))
        return list(value)

    def _forget(self) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf
        self.num_bad_epochs = self.num_good_epochs = self.cooldown_counter = self.warmup_counter = 0
        self.reset_start = self.reset_start_original
        self._streaming_avg = StreamingAverage(self.window_size) if self.smooth else None

    def step(self, metrics: float, epoch: int | None = None) -> None:
        """Look at a metric, and set the rate.

        Args:
            metrics: the metric.
            epoch: when it was measured; by default one after the last.
        """
        current = float(metrics)
        if self._streaming_avg is not None:
            current = self._streaming_avg.streamavg(current)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.cooldown_counter > 0 or self.warmup_counter > 0:
            if self.cooldown_counter > 0:
                self.cooldown_counter -= 1
            else:
                self.warmup_counter -= 1
            self.num_bad_epochs = self.num_good_epochs = 0
        else:
            self._judge(current)
        self._last_lr = [float(group["lr"]) for group in self.optimizer.param_groups]

    def _judge(self, current: float) -> None:
        if self.is_better(current, self.best):
            self.best = current
            self.num_good_epochs, self.num_bad_epochs = self.num_good_epochs + 1, 0
        else:
            self.num_good_epochs, self.num_bad_epochs = 0, self.num_bad_epochs + 1
        if self.num_good_epochs > self.patience:
            self._increase_lr()
            self.warmup_counter = self.warmup
            self.num_good_epochs = 0
        elif self.num_bad_epochs > self.patience:
            self._reduce_lr()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def is_better(self, current: float, best: float) -> bool:
        """Whether a metric is better than the best, by the threshold."""
        down = self.mode == "min"
        if self.threshold_mode == "rel":
            bound = best * (1.0 - self.threshold if down else 1.0 + self.threshold)
        else:
            bound = best - self.threshold if down else best + self.threshold
        return current < bound if down else current > bound

    def _move(self, group: dict[str, Any], rate: float, word: str) -> None:
        group["lr"] = rate
        if self.verbose:
            print(f"Epoch {self.last_epoch}: {word} a learning rate to {rate:.4e}.")

    def _reduce_lr(self) -> None:
        lowest = True
        for group, low in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
            rate = max(float(group["lr"]) * self.factor, low)
            if float(group["lr"]) - rate > self.eps:
                self._move(group, rate, "lowers")
            lowest = lowest and group["lr"] <= low
        if lowest:
            self.reset_start -= 1
            if self.reset_start <= 0:
                self._reset()

    def _increase_lr(self) -> None:
        for group, top in zip(self.optimizer.param_groups, self.max_lrs, strict=True):
            rate = min(float(group["lr"]) / self.factor, top)
            if rate - float(group["lr"]) > self.eps:
                self._move(group, rate, "raises")
        self.reset_start = self.reset_start_original

    def _reset(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._init_lrs, strict=True):
            group["lr"] = rate
        self._forget()
        if self.verbose:
            print("The learning rate begins anew.")

    def get_last_lr(self) -> list[float]:
        """The rates of all groups after the last step."""
        return self._last_lr

    def state_dict(self) -> dict[str, object]:
        """What a resumed training needs."""
        state: dict[str, object] = {name: vars(self)[name] for name in _STATE}
        if self._streaming_avg is not None:
            state["_streaming_avg"] = self._streaming_avg.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Go on from a state; the optimizer's rates are set to what they were."""
        for name in _STATE:
            if name in state_dict:
                setattr(self, name, state_dict[name])
        if "_streaming_avg" in state_dict:
            self._streaming_avg = self._streaming_avg or StreamingAverage(self.window_size)
            self._streaming_avg.load_state_dict(cast(Mapping[str, object], state_dict["_streaming_avg"]))
        if "_last_lr" in state_dict:
            for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=False):
                group["lr"] = rate


__all__ = ["GreedyLR", "StreamingAverage"]
