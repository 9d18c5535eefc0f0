"""Micro-batches of different sizes and equal cost, over processes and steps of accumulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import ClassVar

import torch
from torch.utils.data import Sampler

from omniform.core.errors import InputError

Item = tuple[int, int]
"""An example: its index, and its length."""


class BatchRebalanceSampler(Sampler[list[int]]):
    """Of each step's examples as many micro-batches as processes times accumulation, at about one cost each.

    A step's examples are sorted by length and cut into groups; what the costliest group can spare goes to the cheapest,
    one example at a time, until nothing gets better. The costliest groups come first, one for each process. All
    processes compute the same, and each yields its own; nothing is exchanged.

    Cost of ``n`` examples, the longest of ``L`` tokens: ``n * L + 0.001 * n * L ** 2`` (matrices, padding, attention).

    Args:
        lengths: tokens of each example.
        effective_batch_size: examples of a step, over all processes and micro-batches.
        dp_size: the number of processes.
        grad_accum: micro-batches of a step.
        shuffle: draw another order in each epoch.
        seed: of the order; the epoch is added.
        rank: which process this is.
        drop_last: leave out the examples that do not fill a step.

    Raises:
        InputError: a step has fewer examples than micro-batches.
    """

    QUADRATIC_COST_COEF: ClassVar[float] = 0.001

    def __init__(
        self,
        lengths: Sequence[int],
        effective_batch_size: int,
        dp_size: int,
        grad_accum: int,
        shuffle: bool = True,
        seed: int = 42,
        rank: int = 0,
        drop_last: bool = True,
    ) -> None:
        if dp_size < 1 or grad_accum < 1 or effective_batch_size < dp_size * grad_accum:
            raise _TooFewError(
                "a step has too few examples for its micro-batches",
                where="effective_batch_size",
                expected=f"at least dp_size * grad_accum = {dp_size} * {grad_accum}",
                found=effective_batch_size,
            )
        self.lengths = list(lengths)
        self.effective_batch_size = effective_batch_size
        self.dp_size = dp_size
        self.grad_accum = grad_accum
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.drop_last = drop_last
        self.epoch = 0
        self.num_full_batches, self.remainder = divmod(len(self.lengths), effective_batch_size)
        self.has_tail = not drop_last and self.remainder > 0
        self.num_global_batches = self.num_full_batches + self.has_tail

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_global_batches * self.grad_accum

    def __iter__(self) -> Iterator[list[int]]:
        count, groups = len(self.lengths), self.dp_size * self.grad_accum
        order: list[int] = [*range(count)]
        if self.shuffle:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        for step in range(self.num_global_batches):
            chosen = order[step * self.effective_batch_size : (step + 1) * self.effective_batch_size]
            # The last step may have fewer examples than groups: some come twice.
            chosen += [order[at % count] for at in range(groups - len(chosen))]
            yield from self._dealt(chosen)

    def _dealt(self, chosen: list[int]) -> list[list[int]]:
        """This process's micro-batches of a step."""
        items = sorted(((index, self.lengths[index]) for index in chosen), key=lambda item: item[1], reverse=True)
        groups = _Cut(items, self.dp_size, self.dp_size * self.grad_accum, self._cost).balanced(
            self.effective_batch_size
        )
        ranked = sorted(groups, key=lambda group: self._cost(len(group), group[0][1]), reverse=True)
        return [[index for index, _ in group] for group in ranked[self.rank :: self.dp_size]]

    def _cost(self, count: int, longest: int) -> float:
        return count * longest + self.QUADRATIC_COST_COEF * count * longest * longest


class _TooFewError(InputError, AssertionError):
    """A step has fewer examples than micro-batches."""


class _Cut:
    """A step's examples, the longest first, cut into groups of neighbours.

    Args:
        items: the examples.
        dp_size: the number of processes: so many groups are computed at one time.
        size: the number of groups.
        cost: of a group, by its count and its longest example.
    """

    def __init__(self, items: list[Item], dp_size: int, size: int, cost: Callable[[int, int], float]) -> None:
        self.items = items
        self.dp_size = dp_size
        self.cost = cost
        each, more = divmod(len(items), size)
        self.counts = [each + (group < more) for group in range(size)]
        self.frozen: set[int] = set()

    def balanced(self, steps: int) -> list[list[Item]]:
        """The groups, after at most so many moves of one example (or thirty for each group)."""
        best, best_spread = list(self.counts), math.inf
        seen: set[tuple[int, ...]] = set()
        for _ in range(max(30 * len(self.counts), steps)):
            state = tuple(self.counts)
            active = [group for group in range(len(self.counts)) if group not in self.frozen]
            if state in seen or len(active) <= 1:
                break
            seen.add(state)
            costs = self._costs()
            high, low = max(active, key=lambda group: costs[group]), min(active, key=lambda group: costs[group])
            if costs[high] - costs[low] < best_spread:
                best, best_spread = list(self.counts), costs[high] - costs[low]
            if costs[high] == costs[low]:
                break
            if self.counts[high] > 1:
                self.counts[high] -= 1
                self.counts[low] += 1
            else:
                self._settle(high, costs)
        ends = [*accumulate(best)]
        return [self.items[end - count : end] for end, count in zip(ends, best, strict=True)]

    def _costs(self) -> list[float]:
        begins = [0, *accumulate(self.counts)]
        return [self.cost(count, self.items[begin][1]) for count, begin in zip(self.counts, begins, strict=False)]

    def _settle(self, high: int, costs: list[float]) -> None:
        """Leave out of the search a group of one example, and those that are computed beside it.

        These have time until it is done: they take what they can of the cheapest others first.
        """
        ranked = sorted(range(len(costs)), key=lambda group: costs[group], reverse=True)
        begin = ranked.index(high) // self.dp_size * self.dp_size
        beside = set(ranked[begin : begin + self.dp_size])
        for group in beside:  # in the set's own order, as the ecosystem takes them
            while group != high and group not in self.frozen:
                longest = self.items[sum(self.counts[:group])][1]
                if self.cost(self.counts[group] + 1, longest) > costs[high]:
                    break
                givers = [
                    other
                    for other, count in enumerate(self.counts)
                    if other not in self.frozen and other not in beside and count > 1
                ]
                if not givers:
                    break
                now = self._costs()
                giver = min(givers, key=now.__getitem__)
                self.counts[group] += 1
                self.counts[giver] -= 1
        self.frozen |= beside
