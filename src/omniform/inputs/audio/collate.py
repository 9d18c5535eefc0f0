"""Examples of different lengths become one batch: what a data loader's collate function asks of an extractor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.inputs.audio.pad import PaddingRule, Side, round_up

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

_MASK = "attention_mask"


def collate(
    features: object,
    *,
    name: str,
    rule: PaddingRule,
    max_length: int | None,
    truncate: bool,
    multiple: int | None,
    mask: bool,
    value: float,
    side: Side,
    kind: str | None,
) -> Batch:
    """Cut and pad the entry ``name`` of every example, and its mask, to one length; stack all entries.

    Args:
        features: a mapping of names to one value for each example, or a sequence of mappings.
        name: the entry whose first dimension is time.
        rule: pad to the longest example, to ``max_length``, or not at all.
        max_length: time steps to pad to, and with ``truncate`` to cut to.
        truncate: cut examples that are longer.
        multiple: round every target length up to a multiple of this.
        mask: add a mask where there is none.
        value: what padding holds.
        side: where padding goes.
        kind: ``"pt"``, ``"np"``, or None for what came in.

    Raises:
        InputError: as :meth:`~omniform.inputs.audio.extractor.FeatureExtractor.pad`.
    """
    if max_length is None and (truncate or rule == "max_length"):
        raise InputError(
            "a length to cut or pad to is needed", where="max_length", remedy="Pass max_length, or padding='longest'."
        )
    columns = _columns(features, name)
    if not len(columns[name]):
        return Batch({**columns, **({_MASK: []} if mask else {})})
    if kind is None:
        kind = "pt" if _first_is_tensor(columns[name]) else "np"
    rows = {key: [_array(one, f"{key}[{i}]") for i, one in enumerate(column)] for key, column in columns.items()}
    _check_several(name, rows[name])
    limit = None if max_length is None else round_up(max_length, multiple)
    if truncate:
        for key in {name, _MASK} & set(rows):
            rows[key] = [row[:limit] for row in rows[key]]
    if mask and _MASK not in rows:
        rows[_MASK] = [_ones(len(row)) for row in rows[name]]
    longest = round_up(max(len(row) for row in rows[name]), multiple)
    target = {"longest": longest, "max_length": limit or 0}.get(rule, 0)
    padded = {name: value, _MASK: 0.0} if mask else {name: value}
    for key, filler in padded.items():
        rows[key] = [_pad(row, target - len(row), filler, side) for row in rows[key]]
    return Batch({key: _stack(key, row) for key, row in rows.items()}).as_tensors(kind)


def _columns(features: object, name: str) -> dict[str, Sequence[object]]:
    """The features by name, each a sequence over the examples."""
    if isinstance(features, (list, tuple)) and features:
        for i, one in enumerate(features):
            if not isinstance(one, Mapping):
                raise InputError("an example is a mapping", where=f"features[{i}]", found=brief(one))
            if set(one) != set(features[0]):
                raise InputError(
                    "the examples have different entries",
                    where=f"features[{i}]",
                    expected=brief(sorted(map(str, features[0]))),
                    found=brief(sorted(map(str, one))),
                )
        features = {key: [one[key] for one in features] for key in features[0]}
    if not isinstance(features, Mapping) or name not in features:
        raise InputError(
            "there are no features to pad",
            where="features",
            expected=f"a mapping with {name!r}, or a list of such mappings",
            found=brief(sorted(map(str, features))) if isinstance(features, Mapping) else brief(features),
        )
    if not _is_column(features[name]):
        raise InputError("this holds no examples", where=name, found=brief(features[name]))
    for key, column in features.items():
        if not _is_column(column):
            raise InputError("this holds no examples", where=str(key), found=brief(column))
        if len(column) != len(features[name]):
            raise InputError(
                "every entry needs one value for each example",
                where=str(key),
                expected=len(features[name]),
                found=len(column),
            )
    return dict(features)


def _is_column(value: object) -> bool:
    import numpy as np

    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _first_is_tensor(column: Sequence[object]) -> bool:
    if isinstance(column, Tensor):
        return True
    first = column[0]
    return isinstance(first, Tensor) or (
        isinstance(first, (list, tuple)) and bool(first) and isinstance(first[0], Tensor)
    )


def _array(value: object, where: str) -> Array:
    """One example's value as an array; float64 becomes float32."""
    import numpy as np

    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        kind = array.dtype.kind
    except Exception:  # rows of different lengths, sparse tensors, foreign objects
        kind = "O"
    if kind not in "buif":
        raise InputError("these are no numbers", where=where, expected="an array of numbers", found=brief(value))
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _check_several(name: str, rows: Sequence[Array]) -> None:
    if any(not row.ndim for row in rows):
        raise InputError(
            "these are the features of a single example",
            where=name,
            expected="a list of examples",
            remedy="Put it into a list.",
        )


def _ones(length: int) -> Array:
    import numpy as np

    return np.ones(length, dtype=np.int32)


def _pad(row: Array, missing: int, value: float, side: Side) -> Array:
    import numpy as np

    if missing <= 0:
        return row
    edges = (0, missing) if side == "right" else (missing, 0)
    return np.pad(row, [edges, *[(0, 0)] * (row.ndim - 1)], constant_values=value)


def _stack(name: str, rows: Sequence[Array]) -> Tensor:
    shapes = sorted({row.shape for row in rows})
    if len(shapes) > 1:
        raise InputError(
            "examples of different shapes do not make one tensor",
            where=name,
            found=", ".join(map(str, shapes[:8])),
            remedy="Ask for padding=True (and truncation=True).",
        )
    import numpy as np

    stacked = np.stack(rows)
    return torch.from_numpy(np.array(stacked, dtype=stacked.dtype.newbyteorder("=")))
