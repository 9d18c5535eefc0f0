"""What all collators share: a call that gives torch's tensors or numpy's arrays, and the reading of examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, MissingPartError, brief

Kind = Literal["pt", "np"]
"""torch's tensors, or numpy's arrays."""

Example = Mapping[str, object]
"""One example of a dataset: its columns by name."""

InputDataClass = object
"""One example, as annotations of the ecosystem call it."""

DataCollator = Callable[[list[InputDataClass]], dict[str, object]]
"""What makes a batch of examples."""


class DataCollatorMixin:
    """Base of collators: the call goes to :meth:`torch_call` or :meth:`numpy_call`.

    Attributes:
        return_tensors: ``"pt"`` or ``"np"``.
    """

    return_tensors: str = "pt"

    def __call__(self, features: Sequence[object], return_tensors: str | None = None) -> dict[str, object]:
        """A batch of examples.

        Args:
            features: the examples.
            return_tensors: ``"pt"`` or ``"np"``; by default as the collator was made.

        Raises:
            InputError: there are no examples, they do not make a batch, or the kind of tensor is unknown.
        """
        kind = read_kind(self.return_tensors if return_tensors is None else return_tensors)
        check_some(features)
        return self.torch_call(features) if kind == "pt" else self.numpy_call(features)

    def torch_call(self, features: Sequence[object]) -> dict[str, object]:
        """The batch as torch's tensors."""
        raise MissingPartError(f"{type(self).__name__} makes no torch tensors", where="torch_call")

    def numpy_call(self, features: Sequence[object]) -> dict[str, object]:
        """The batch as numpy's arrays."""
        raise MissingPartError(f"{type(self).__name__} makes no numpy arrays", where="numpy_call")


def read_kind(value: object) -> Kind:
    """``"pt"`` or ``"np"``.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, str) and str(value) in ("pt", "np"):
        return cast(Kind, str(value))
    raise InputError("unknown kind of tensor", where="return_tensors", expected="'pt' or 'np'", found=brief(value))


def check_some(features: Sequence[object]) -> None:
    """Raise :class:`InputError` where there is no example to make a batch of."""
    if len(features) == 0:
        raise InputError(
            "there is no example in this batch",
            where="data collator",
            expected="at least one",
            remedy="Look at what the sampler or batch_sampler of the data loader yields: it gave an empty list.",
        )


def read_examples(features: Sequence[object]) -> list[Example]:
    """Examples as mappings; the attributes of objects count as columns.

    Raises:
        InputError: there is none, or one of them is neither.
    """
    check_some(features)
    return [_example(index, feature) for index, feature in enumerate(features)]


def _example(index: int, feature: object) -> Example:
    if isinstance(feature, Mapping):
        return feature
    if is_dataclass(feature) and not isinstance(feature, type):
        return {field.name: getattr(feature, field.name) for field in fields(feature)}
    if not isinstance(feature, (Tensor, np.ndarray)):
        try:
            return vars(feature)
        except TypeError:  # an object without attributes: a number, a list, a text
            pass
    raise InputError(
        "an example is a mapping of columns",
        where=f"example {index} of the batch",
        found=brief(feature),
        remedy="Let the dataset's __getitem__ give a dict, or pass a data_collator of your own.",
    )


def as_kind(array: np.ndarray, kind: Kind) -> Tensor | np.ndarray:
    """An array as torch's tensor (of the same memory) or as it is."""
    return torch.from_numpy(array) if kind == "pt" else array


def to_numpy(value: object) -> np.ndarray:
    """A tensor, an array or lists of numbers as an array."""
    if isinstance(value, np.ndarray):
        return value
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.array(value)
