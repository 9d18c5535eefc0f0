"""What a loss may be given: every head says it of its labels, and they are looked at where they arrive.

A kernel that is given a class which does not exist ends the process of an accelerator, or reads memory of others; a
forward never looks at values. So a head names its labels in :meth:`~omniform.architectures.model.Model.targets`, and
each call is checked against that before anything is computed. Shapes are checked by the losses themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omniform.core.config import Common
from omniform.core.errors import InputError
from omniform.core.host import is_readable

IGNORED = -100
"""Labels of this value are left out of the mean."""

_SHOWN = 5


class Targets(ABC):
    """What one input that a loss is computed against may be."""

    @abstractmethod
    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        """Raise :class:`InputError` unless it is that.

        Args:
            name: of the input.
            labels: as they came.
            inputs: all of the call, by name.
        """


@dataclass(frozen=True, slots=True)
class Classes(Targets):
    """Indices of classes, in any shape.

    Attributes:
        count: how many classes there are; None where nobody knows.
        ignored: the label that leaves one out.
    """

    count: int | None
    ignored: int = IGNORED

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        check_whole(name, labels)
        if self.count is not None:
            check_range(name, labels, self.count, self.ignored)


@dataclass(frozen=True, slots=True)
class Choices(Targets):
    """Indices of choices, of which there are as many as rows belong together in the inputs."""

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        check_whole(name, labels)
        for tokens, axis in (("input_ids", -2), ("inputs_embeds", -3)):
            given = inputs.get(tokens)
            if isinstance(given, Tensor) and given.dim() >= -axis:
                check_range(name, labels, given.shape[axis])


@dataclass(frozen=True, slots=True)
class Places(Targets):
    """Places of tokens, one per row. Those past the row's end are left out of the loss."""

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        check_whole(name, labels)
        if is_readable(labels):
            values = labels.detach().numpy()
            if (values < 0).any():
                _refuse(name, "a place lies before the row", values, values < 0, "0 or more (past the end: left out)")


@dataclass(frozen=True, slots=True)
class Chances(Targets):
    """Numbers from 0 to 1, of any dtype."""

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        if is_readable(labels) and labels.numel():
            values = labels.detach().float().numpy()
            wrong = (values < 0) | (values > 1)
            if wrong.any():
                _refuse(name, "a label is no chance", values, wrong, "0 to 1")


@dataclass(frozen=True, slots=True)
class Problem(Targets):
    """What a row classifier is told: numbers, one class, or many, as :func:`problem_of` says.

    Attributes:
        common: number of labels and problem type.
    """

    common: Common

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        if problem_of(self.common.problem_type, self.common.num_labels, labels) == "single_label_classification":
            Classes(self.common.num_labels).check(name, labels, inputs)


@dataclass(frozen=True, slots=True)
class Graded(Targets):
    """The same where no type of problem is said: shares of the classes, or classes, negative ones to leave rows out."""

    common: Common

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        classes = self.common.num_labels
        if self.common.problem_type is not None or classes == 1:
            Problem(self.common).check(name, labels, inputs)
        elif is_readable(labels) and (labels.dim() < 2 or labels.shape[-1] == 1):
            values = labels.detach().float().numpy()
            if (values >= classes).any():
                expected = f"0 to {classes - 1} ({classes} classes), or below 0 to leave out"
                _refuse(name, "a label lies outside the classes", values, values >= classes, expected)


def problem_of(said: str | None, classes: int, labels: Tensor) -> str:
    """Which loss a row classifier has: what the config says or, without it, what number and kind of labels mean."""
    if said is not None:
        return said
    if classes == 1:
        return "regression"
    whole = not labels.is_floating_point() and labels.dtype is not torch.bool
    return "single_label_classification" if whole else "multi_label_classification"


def check_targets(rules: Mapping[str, Targets], inputs: dict[str, object]) -> None:
    """Look at all labels of a call; whole numbers of fewer bits are widened to what cross-entropies read.

    Args:
        rules: what each may be, by name.
        inputs: of the call, by name; changed in place.

    Raises:
        InputError: labels that are no tensors, of another kind than numbers of classes, or outside of them.
    """
    for name, rule in rules.items():
        labels = inputs.get(name)
        if labels is None:
            continue
        if not isinstance(labels, Tensor):
            raise InputError("labels must be a tensor", where=name, expected="a tensor", found=type(labels).__name__)
        if labels.dtype in _NARROW:
            labels = inputs[name] = labels.long()
        rule.check(name, labels, inputs)


_NARROW = frozenset({torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32})


def check_whole(name: str, labels: Tensor) -> None:
    """Raise :class:`InputError` unless labels are what cross-entropies read."""
    if labels.dtype is not torch.int64:
        raise InputError("labels must be whole numbers", where=name, expected="torch.int64", found=str(labels.dtype))


def check_range(name: str, labels: Tensor, classes: int, ignored: int = IGNORED) -> None:
    """Raise :class:`InputError` unless labels are classes, or the one to leave out; on the host's own memory."""
    if not is_readable(labels) or not labels.numel():
        return
    values = labels.detach().numpy()
    wrong = (values != ignored) & ((values < 0) | (values >= classes))
    if wrong.any():
        expected = f"0 to {classes - 1} ({classes} classes), or {ignored} to leave out"
        _refuse(name, "a label lies outside the classes", values, wrong, expected)


def check_each(name: str, labels: Tensor, wrong: np.ndarray, expected: str) -> None:
    """Raise :class:`InputError` that names the labels which are wrong, if some are; Shape: that of the labels."""
    if wrong.any():
        _refuse(name, "a label lies outside the classes", labels.detach().numpy(), wrong, expected)


def _refuse(name: str, what: str, values: np.ndarray, wrong: np.ndarray, expected: str) -> None:
    found = values[wrong].ravel()
    shown = ", ".join(str(number) for number in found[:_SHOWN].tolist()) + (", ..." if len(found) > _SHOWN else "")
    first = zip(("row", "position"), (int(axis[0]) for axis in wrong.nonzero()), strict=False) if values.ndim else ()
    place = "".join(f", {axis} {number}" for axis, number in first)
    raise InputError(what, where=f"{name}{place}", expected=expected, found=shown)
