"""Which of many prepared inputs go through a model together, how they become one batch, and how its answers part again.

Inputs of like length share a batch, so that little is padded; none is padded that says nothing of its padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.core.outputs import ModelOutput
from omniform.inputs.text.tokenizer import Tokenizer

Inputs = Mapping[str, object]
"""What a pipeline prepares of one input: tensors of one row, and whatever else its steps hand on."""

BatchSize = int | Literal["auto"]
"""How many inputs go through the model at once; ``"auto"``: as many as keep it busy."""

MOST_TOKENS = {"cpu": 1024}
"""The most tokens, padding included, of a batch where nobody says how many (``benchmarks/pipelines.yaml``). On a CPU
more of them make no matmul faster, and an eighth of them is as fast by the token."""

MOST_ELSEWHERE = 16384

LIKE = 15 / 16
"""How long a row is beside the longest of its batch, at least, once there are enough of them."""

_FEATURES = ("input_values", "pixel_values", "input_features")
_ONES = ("p_mask", "special_tokens_mask")


@runtime_checkable
class Pads(Protocol):
    """A feature extractor that says how sounds are padded."""

    @property
    def padding_value(self) -> float: ...

    @property
    def padding_side(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Padding:
    """What is written after (or before) the end of rows that are shorter than others.

    Attributes:
        token: the padding token; None where the tokenizer has none, so that only rows of one length share a batch.
        value: what features are padded with.
        side: ``"right"`` or ``"left"``.
    """

    token: int | None = None
    value: float | None = None
    side: str = "right"

    @classmethod
    def of(cls, tokenizer: object, extractor: object) -> Padding:
        """That of a pipeline's parts."""
        token, value, side = None, None, "right"
        if isinstance(tokenizer, Tokenizer):
            token, side = tokenizer.pad_token_id, tokenizer.padding_side
        if isinstance(extractor, Pads):
            value, side = extractor.padding_value, extractor.padding_side
        return cls(token, value, side)

    def filler(self, name: str) -> float | None:
        """What the tensor of this name is padded with; None if nothing may be."""
        if name == "input_ids":
            return self.value if self.token is None else self.token
        return self.value if name in _FEATURES else 1 if name in _ONES else 0


def groups(items: Sequence[Inputs], size: BatchSize, padding: Padding, device: str = "cpu") -> list[list[int]]:
    """The places of inputs that share a batch, batch by batch; what is alike stands together, the longest first.

    Args:
        size: how many share one.
        device: the type of the one that computes.
    """
    most = MOST_TOKENS.get(device, MOST_ELSEWHERE)
    measured = [(_kind(item, padding), _length(item)) for item in items]
    order = sorted(range(len(items)), key=lambda at: (measured[at][0], -measured[at][1]))
    found: list[list[int]] = []
    for at in order:
        kind, _ = measured[at]
        last = found[-1] if found else []
        if (
            last
            and measured[last[0]][0] == kind
            and _has_room(len(last), measured[last[0]][1], measured[at][1], size, most)
        ):
            last.append(at)
        else:
            found.append([at])
    return found


def in_order(count: int, size: int) -> list[list[int]]:
    """The places of so many inputs that share a batch, as they come. For models that hear padding (norms over time):
    company matters, and whoever asks for batches of a size is to get the ecosystem's answers."""
    return [[*range(count)[at : at + size]] for at in range(0, count, size)]


def _has_room(rows: int, longest: int, length: int, size: BatchSize, most: int) -> bool:
    if size == "auto":  # a batch that is large enough takes only what adds hardly any padding
        small = rows * longest < most // 8
        return (rows + 1) * max(longest, 8) <= most and (small or length >= longest * LIKE)
    return rows < size


def _length(item: Inputs) -> int:
    """So many tokens, or as many as a picture has patches of 16 by 16 pixels."""
    pixels = item.get("pixel_values")
    if isinstance(pixels, Tensor) and pixels.dim() > 3:
        return max(1, pixels.shape[1:].numel() // (3 * 256))
    main = item.get("input_ids")
    if not isinstance(main, Tensor):
        main = next((v for v in item.values() if isinstance(v, Tensor) and v.dim() > 1), None)
    return main.shape[1] if isinstance(main, Tensor) and main.dim() > 1 else 1


def _kind(item: Inputs, padding: Padding) -> tuple[str, ...]:
    """What inputs must have in common to share a batch: names, and all sizes that padding does not make equal."""
    unmasked = "input_ids" in item and "attention_mask" not in item
    kind = []
    for name, value in sorted(item.items()):
        if not isinstance(value, Tensor):
            kind.append(name)
        elif value.dim() < 2 or (value.dim() > 2 and name != "input_features") or value.dim() > 3:
            kind.append(f"{name}{[*value.shape]}")
        else:
            exact = padding.filler(name) is None or (unmasked and name == "input_ids")
            kind.append(f"{name}{[*value.shape[1 if exact else 2 :]]}")
    return tuple(kind)


def collated(items: Sequence[Inputs], padding: Padding) -> Inputs:
    """One batch of several inputs: tensors end to end, padded where they differ; a list of each of the others."""
    batch: dict[str, object] = {}
    for name in items[0]:
        values = [item[name] for item in items]
        rows = [value for value in values if isinstance(value, Tensor)]
        batch[name] = _stacked(rows, padding, name) if len(rows) == len(values) else values
    return Batch(batch)


def _stacked(rows: list[Tensor], padding: Padding, name: str) -> Tensor:
    first = rows[0]
    if first.dim() < 2 or len({row.shape[1:] for row in rows}) == 1:
        return torch.cat(rows)
    filler = padding.filler(name)
    assert filler is not None, "only rows of one length are grouped where nothing pads them"
    # Spectrograms have time last or first; what differs is time.
    sizes = [max(row.shape[axis] for row in rows) for axis in range(1, first.dim())]
    whole = first.new_full((sum(row.shape[0] for row in rows), *sizes), filler)
    at = 0
    for row in rows:
        spans = [
            slice(size - n, size) if padding.side == "left" else slice(n)
            for size, n in zip(sizes, row.shape[1:], strict=True)
        ]
        whole[(slice(at, at + row.shape[0]), *spans)] = row
        at += row.shape[0]
    return whole


def parted(outputs: object, count: int) -> list[object]:
    """What a step made of a batch, row by row, each as a batch of one.

    Raises:
        InputError: it is nothing that has rows, or not so many.
    """
    if isinstance(outputs, Tensor):
        return _rows(outputs, count, "the tensor")
    if isinstance(outputs, ModelOutput):
        named = {k: v for k, v in outputs.items() if k != "past_key_values"}
        entries = {name: _rows(value, count, name) for name, value in named.items()}
        forgotten = {"past_key_values": None} if "past_key_values" in outputs else {}
        return [
            dataclasses.replace(  # type: ignore[type-var]
                outputs, **forgotten, **{name: rows[at] for name, rows in entries.items()}
            )
            for at in range(count)
        ]
    if isinstance(outputs, Mapping):
        entries = {str(k): _rows(v, count, str(k)) for k, v in outputs.items() if k != "past_key_values"}
        alone = [{name: rows[at] for name, rows in entries.items()} for at in range(count)]
        return [Batch(row) for row in alone] if isinstance(outputs, Batch) else list(alone)
    if isinstance(outputs, tuple):
        return [tuple(row) for row in zip(*(_rows(value, count, "a tuple") for value in outputs), strict=True)]
    raise InputError(
        "a batch's outputs cannot be told apart",
        where="_forward",
        expected="a tensor, a mapping or a model's output",
        found=brief(outputs),
        remedy="Call the pipeline with batch_size=1.",
    )


def _rows(value: object, count: int, name: str) -> list[object]:
    if value is None:
        return [None] * count
    if isinstance(value, ModelOutput):
        value = value.to_tuple()
    if isinstance(value, tuple) and value and all(isinstance(v, (Tensor, np.ndarray)) for v in value):
        parts = [_rows(v, count, name) for v in value]
        return [tuple(part[at] for part in parts) for at in range(count)]
    if not isinstance(value, (Tensor, np.ndarray, list, tuple)) or len(value) != count:
        raise InputError(
            "a batch's outputs have not one entry for each input", where=name, expected=count, found=brief(value)
        )
    if isinstance(value, Tensor):
        return [row[None] for row in value]
    if isinstance(value, np.ndarray):
        return [value[at : at + 1] for at in range(count)]
    return list(value)


def moved(value: object, device: torch.device) -> object:
    """The same with every tensor on a device, inside mappings, lists and model outputs too."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, ModelOutput):
        entries = {name: moved(inner, device) for name, inner in value.items() if name != "past_key_values"}
        return dataclasses.replace(value, **entries)  # type: ignore[type-var]
    if isinstance(value, Batch):
        return type(value)({name: moved(inner, device) for name, inner in value.items()})
    if isinstance(value, dict):
        return {name: moved(inner, device) for name, inner in value.items()}
    if isinstance(value, list):
        return [moved(inner, device) for inner in value]
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(moved(inner, device) for inner in value)
    return value


def as_inputs(value: object, where: str) -> Inputs:
    """What a ``preprocess`` gave, which must be a mapping.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, Mapping):
        raise InputError("this step gives no inputs", where=where, expected="a mapping of names", found=brief(value))
    return cast(Inputs, value)
