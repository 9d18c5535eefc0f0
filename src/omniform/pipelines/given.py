"""Reading what pipelines of text are given: arguments, settings of a tokenizer, tensors of an output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief, check_arguments, nearest
from omniform.core.outputs import ModelOutput
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.tokenizer import Tokenizer

Kind = TypeVar("Kind", bound=StrEnum)


class PipelineException(InputError):  # noqa: N818  the ecosystem's name
    """A pipeline cannot do its task with this text or this model."""


class MissingEntryError(InputError, KeyError):
    """A mapping that was handed over lacks an entry."""

    __str__ = InputError.__str__  # KeyError prints the repr of its argument; ours is a sentence


class WrongTypeError(InputError, TypeError):
    """What was handed over is of a type that cannot be meant."""


ENCODING: frozenset[str] = frozenset(EncodeOptions.__annotations__) - {"return_tensors"}
"""The options of a tokenizer that a pipeline hands on; it chooses the kind of tensors itself."""


def count(value: object, name: str, least: int = 1) -> int:
    """A whole number from ``least`` on.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError("no such number", where=name, expected=f"a whole number from {least}", found=brief(value))
    return value


def flag(value: object, name: str) -> bool:
    """A boolean.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, bool):
        raise InputError("the option is true or false", where=name, found=brief(value))
    return value


def one_of(kind: type[Kind], value: object, name: str) -> Kind:
    """A member of an enumeration, by itself or by its name in any letters.

    Raises:
        InputError: there is none of that name.
    """
    if isinstance(value, kind):
        return value
    names = [member.value for member in kind]
    word = value.lower() if isinstance(value, str) else None
    if word not in names:
        remedy = nearest(word or "", names)
        raise InputError("no such choice", where=name, expected=", ".join(names), found=brief(value), remedy=remedy)
    return kind(word)


def encoding_options(value: object, name: str) -> dict[str, object]:
    """Options for the tokenizer, as a mapping.

    Raises:
        InputError: this is no mapping.
        UnknownArgumentError: the tokenizer has no such option, or the pipeline sets it.
    """
    if not isinstance(value, Mapping):
        raise InputError("not a mapping of options", where=name, found=brief(value))
    check_arguments(name, value, ENCODING)
    return dict(value)


def refuse_twice(first: Iterable[str], second: Iterable[str], name: str) -> None:
    """Raise :class:`InputError` for a name that is given both by keyword and in the mapping ``name``."""
    both = sorted({*first} & {*second})
    if both:
        raise InputError(f"{both[0]} is given twice", where=name, remedy="Give it by keyword or in the mapping.")


def scores_of(output: ModelOutput, axes: str, name: str = "logits") -> Tensor:
    """An entry of what a model returned, in float32.

    Args:
        axes: what its axes are, a letter for each: ``"BTC"``.

    Raises:
        InputError: this model gives none, so it is of another task.
    """
    found = output.get(name)
    if not isinstance(found, Tensor) or found.dim() != len(axes):
        shape = f"shape {list(found.shape)}" if isinstance(found, Tensor) else ", ".join(output.keys())
        raise InputError("the model is of another task", where=name, expected=f"shape [{', '.join(axes)}]", found=shape)
    return found.float()


def needed(tokenizer: Tokenizer | None) -> Tokenizer:
    """A pipeline's tokenizer.

    Raises:
        InputError: it has none.
    """
    if tokenizer is None:
        raise InputError("the pipeline has no tokenizer", where="tokenizer", remedy="Pass it beside the model.")
    return tokenizer


def inputs_for_model(entries: Mapping[str, object], names: Iterable[str]) -> dict[str, object]:
    """Those entries of a batch that the model reads, by the tokenizer's ``model_input_names``."""
    return {name: entries[name] for name in names if name in entries}


def row_of(encoded: BatchEncoding, index: int, tokenizer: Tokenizer) -> dict[str, object]:
    """What a model reads of one row of encoded texts. Shape: [1, T] each."""
    columns = {name: cast("list[list[int]]", encoded[name]) for name in tokenizer.model_input_names if name in encoded}
    return {name: torch.tensor([column[index]], dtype=torch.int64) for name, column in columns.items()}


def tensor(outputs: object, name: str) -> Tensor:
    """A tensor that the pipeline's own ``_forward`` gave."""
    return cast("Mapping[str, Tensor]", outputs)[name]
