"""The options of a tokenizer call, and what they come to once the tokenizer's own settings are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypedDict, TypeVar

from omniform.core.errors import InputError, check_arguments
from omniform.inputs.text.ids import as_number, shown
from omniform.inputs.text.settings import Side

Kind = TypeVar("Kind")

_LONGEST_PADDING = 10**7
"""Rows are not padded beyond this: what asks for it is a mistake, and memory would end first."""

LARGEST_LENGTH = 10**20
"""A ``model_max_length`` above this means that the tokenizer knows no limit."""

PADDINGS = ("longest", "max_length", "do_not_pad")
TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")


class EncodeOptions(TypedDict, total=False):
    """What a tokenizer call can be asked for; an option that is left out has the default named first.

    Attributes:
        add_special_tokens: ``True``: frame each text with the model's special tokens.
        padding: ``False`` or ``"do_not_pad"``; ``True`` or ``"longest"`` to the longest row; ``"max_length"``.
        truncation: ``False`` or ``"do_not_truncate"``; ``True`` or ``"longest_first"`` takes from the longer text of a
            pair; ``"only_first"``, ``"only_second"``. Left out, a ``max_length`` without padding truncates.
        max_length: in tokens, special ones included; by default the tokenizer's ``model_max_length``.
        stride: 0: how many tokens overflowing rows share with the row before.
        is_split_into_words: ``False``: each text is a list of words.
        pad_to_multiple_of: pad on until the length is a multiple of this.
        padding_side: ``"left"`` or ``"right"``; by default the tokenizer's own.
        return_tensors: ``None`` for lists, ``"pt"`` or ``"np"``.
        return_token_type_ids: by default whether the model takes them.
        return_attention_mask: by default whether the model takes it.
        return_overflowing_tokens: ``False``: give what was cut off as further rows.
        return_special_tokens_mask: ``False``: 1 at every special token.
        return_offsets_mapping: ``False``: the characters of each token, as (start, end).
        return_length: ``False``: the tokens of each row.
        split_special_tokens: ``False``: read special tokens in a text as plain text.
    """

    add_special_tokens: bool
    padding: bool | str
    truncation: bool | str | None
    max_length: int | None
    stride: int
    is_split_into_words: bool
    pad_to_multiple_of: int | None
    padding_side: str | None
    return_tensors: str | None
    return_token_type_ids: bool | None
    return_attention_mask: bool | None
    return_overflowing_tokens: bool
    return_special_tokens_mask: bool
    return_offsets_mapping: bool
    return_length: bool
    split_special_tokens: bool | None


@dataclass(frozen=True, slots=True)
class Limits:
    """How rows are padded and truncated.

    Attributes:
        padding: ``"longest"``, ``"max_length"`` or ``None``.
        truncation: ``"longest_first"``, ``"only_first"``, ``"only_second"`` or ``None``.
        max_length: in tokens; ``None`` where neither needs it.
        stride: tokens that overflowing rows share.
        multiple: lengths are padded up to a multiple of this.
        side: where padding goes.
    """

    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    multiple: int | None
    side: Side


def check_options(callee: str, options: Mapping[str, object]) -> None:
    """Refuse an option that does not exist, or a boolean one that is no boolean.

    Raises:
        UnknownArgumentError: there is no such option; the nearest one is named.
        InputError: a value has the wrong type.
    """
    check_arguments(callee, options, EncodeOptions.__annotations__)
    for name, value in options.items():
        is_flag = name.startswith(("return_", "add_", "is_", "split_")) and name != "return_tensors"
        if is_flag and value is not None and not isinstance(value, bool):
            raise InputError("the option is true or false", where=name, found=shown(value))


def read_limits(options: EncodeOptions, *, model_max_length: int, padding_side: Side, has_pad_token: bool) -> Limits:
    """Settle how rows are padded and truncated.

    Args:
        options: the options of the call.
        model_max_length: the tokenizer's own limit.
        padding_side: the tokenizer's own side.
        has_pad_token: whether there is something to pad with.

    Raises:
        InputError: an option has a wrong value, or padding is asked for and there is no token for it.
    """
    max_length = _count(options.get("max_length"), "max_length", 0)
    multiple = _count(options.get("pad_to_multiple_of"), "pad_to_multiple_of", 1)
    stride = _count(options.get("stride", 0), "stride", 0) or 0
    asked = options.get("padding", False)
    padding = _strategy(asked, "padding", PADDINGS)
    truncation_asked = options.get("truncation")
    if truncation_asked is None and max_length is not None and asked is False:
        truncation_asked = True
    truncation = _strategy(truncation_asked, "truncation", TRUNCATIONS)
    if max_length is None and (truncation or padding == "max_length"):
        if model_max_length > LARGEST_LENGTH:
            truncation, padding = None, None if padding == "max_length" else padding
        else:
            max_length = model_max_length
    if padding and not has_pad_token:
        raise InputError(
            "the tokenizer has no token to pad with",
            where="padding",
            remedy="Set one, for instance tokenizer.pad_token = tokenizer.eos_token.",
        )
    if truncation and padding and multiple and max_length is not None and max_length % multiple:
        raise InputError(
            "rows cannot be cut to max_length and padded to a multiple of another number",
            where="pad_to_multiple_of",
            expected=f"a divisor of {max_length}",
            found=multiple,
        )
    if max(multiple or 0, (max_length or 0) if padding == "max_length" else 0) > _LONGEST_PADDING:
        raise InputError(
            "rows are not padded to such a length",
            where="max_length",
            expected=f"up to {_LONGEST_PADDING}",
            found=max_length if padding == "max_length" else multiple,
            remedy="padding=True pads to the longest row.",
        )
    side = options.get("padding_side")
    return Limits(padding, truncation, max_length, stride, multiple, padding_side if side is None else read_side(side))


class Checked(Generic[Kind]):
    """An attribute whose value is checked when it is set.

    Args:
        read: gives the value, from what was set and the attribute's name; or raises an error.
    """

    def __init__(self, read: Callable[[object, str], Kind]) -> None:
        self.read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> Kind:
        if instance is None:
            raise AttributeError(f"{self.name} is an attribute of a tokenizer, not of its class")
        value: Kind = vars(instance)[self.name]
        return value

    def __set__(self, instance: object, value: object) -> None:
        vars(instance)[self.name] = self.read(value, self.name)


def read_flag(value: object, where: str) -> bool:
    """True or false.

    Raises:
        InputError: it is anything else.
    """
    value = as_number(value)
    if not isinstance(value, bool):
        raise InputError("this is true or false", where=where, found=shown(value))
    return value


def read_limit(value: object, where: str) -> int:
    """A number of tokens, however large; a float that is whole (``1e30``) counts.

    Raises:
        InputError: it is anything else.
    """
    value = as_number(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError("this is a number of tokens", where=where, expected="a whole number", found=shown(value))
    return value


def read_names(value: object, where: str) -> list[str]:
    """A list of names, of at least one.

    Raises:
        InputError: it is anything else.
    """
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(name, str) for name in value):
        raise InputError("these are no names", where=where, expected="a list of strings", found=shown(value))
    return list(value)


def read_side(value: object, where: str = "padding_side") -> Side:
    """``"left"`` or ``"right"``.

    Raises:
        InputError: it is anything else.
    """
    if isinstance(value, str) and value in ("left", "right"):
        return "left" if value == "left" else "right"
    raise InputError("there are two sides", where=where, expected="'left' or 'right'", found=shown(value))


def _count(value: object, name: str, least: int) -> int | None:
    if value is None:
        return None
    value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 62:
        raise InputError(
            "the option is a count", where=name, expected=f"a whole number from {least}", found=shown(value)
        )
    return value


def _strategy(value: object, name: str, known: tuple[str, ...]) -> str | None:
    if value is None or value is False:
        return None
    if value is True:
        return known[0]
    if not isinstance(value, str) or value not in known:
        raise InputError("unknown strategy", where=name, expected=f"True, False or one of {known}", found=shown(value))
    return None if value.startswith("do_not") else value
