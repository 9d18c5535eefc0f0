"""Donut's processor: pages and what is to be written of them, and what was written as an object."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TypeAlias

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.clip import CLIPProcessor

Json: TypeAlias = "dict[str, Json] | list[Json] | str"
"""What a page says, by the names of its fields."""

SEPARATOR = "<sep/>"


class DonutProcessor(CLIPProcessor):
    """Pages, and prompts of a task, whose tokens are written out (``<s_docvqa><s_question>...``)."""

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "labels"]

    def __call__(  # type: ignore[override]
        self, images: ImageInput | None = None, text: str | Sequence[str] | None = None, **options: object
    ) -> Batch:
        """Turn texts, pictures or both into the model's inputs; see :meth:`CLIPProcessor.__call__`.

        Returns:
            As there; of texts beside pictures also ``labels``, which are their ids. They get no special tokens unless
            ``add_special_tokens`` is asked for.
        """
        if images is not None and text is not None:
            options.setdefault("add_special_tokens", False)
        batch = super().__call__(images, text, **options)
        if images is not None and text is not None:
            batch["labels"] = batch["input_ids"]
        return batch

    def token2json(self, tokens: str, is_inner_value: bool = False, added_vocab: Collection[str] | None = None) -> Json:
        """What was written, as an object: ``<s_menu><s_nm>Tea</s_nm></s_menu>`` is ``{"menu": {"nm": "Tea"}}``.

        Args:
            tokens: the text, with its special tokens.
            is_inner_value: whether a list of objects is wanted, as a field holds it.
            added_vocab: the tokens that stand for a value by themselves (``<yes/>``), by default the tokenizer's own.

        Returns:
            Fields by name; one that was never closed is left out. Several values, parted by ``<sep/>``, are a list.
            A text without fields is ``{"text_sequence": ...}``.

        Raises:
            InputError: this is no text.
        """
        if not isinstance(tokens, str):
            raise InputError("this is no text", where="tokens", expected="a string", found=brief(tokens))
        values = self.tokenizer.get_added_vocab() if added_vocab is None else added_vocab
        if is_inner_value:
            return [*_objects(tokens, values)]
        found, rest, more = _fields(tokens, values)
        if more is not None:
            return [found, *_objects(more, values)]
        return found or {"text_sequence": rest}


def _objects(tokens: str, values: Collection[str]) -> list[Json]:
    """The objects that separators part; one without fields at the end is none."""
    found: list[Json] = []
    more: str | None = tokens
    while more is not None:
        fields, _, more = _fields(more, values)
        if fields or more is not None:
            found.append(fields)
    return found


def _fields(tokens: str, values: Collection[str]) -> tuple[dict[str, Json], str, str | None]:
    """The fields of one object, what is left of the text, and what follows a separator, if there is one."""
    fields: dict[str, Json] = {}
    while begun := re.search(r"<s_[^>]*>", tokens, re.IGNORECASE):
        name = begun.group()[len("<s_") : -1]
        ended = re.search(re.escape(f"</s_{name}>"), tokens, re.IGNORECASE)
        if ended is None:
            tokens = tokens.replace(begun.group(), "")
            continue
        inside = re.compile(f"{re.escape(begun.group())}(.*?){re.escape(ended.group())}", re.IGNORECASE | re.DOTALL)
        held = inside.search(tokens)
        if held is not None:
            value = _value(held.group(1).strip(), values)
            if value is not None:
                fields[name] = value
        tokens = tokens[ended.end() :].strip()
        if tokens.startswith(SEPARATOR):
            return fields, tokens, tokens[len(SEPARATOR) :]
    return fields, tokens, None


def _value(text: str, values: Collection[str]) -> Json | None:
    """What a field holds; None for fields in it that come to nothing."""
    if "<s_" in text and "</s_" in text:
        objects = _objects(text, values)
        return (objects[0] if len(objects) == 1 else objects) if objects else None
    leaves: list[Json] = [_leaf(leaf.strip(), values) for leaf in text.split(SEPARATOR)]
    return leaves[0] if len(leaves) == 1 else leaves


def _leaf(leaf: str, values: Collection[str]) -> str:
    return leaf[1:-2] if leaf in values and leaf.startswith("<") and leaf.endswith("/>") else leaf
