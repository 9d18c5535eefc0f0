"""Work with a model that is no writing: done in a thread, one piece after another, for as long as a client waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from omniform.inputs.text.tokenizer import Tokenizer
from omniform.serve.desk import Use
from omniform.serve.errors import APIError
from omniform.serve.wire import harmless

T = TypeVar("T")


async def done(use: Use, work: Callable[[], T]) -> T:
    """What some work with a model gives.

    Raises:
        APIError: the client asks for an adapter, which belongs to what is written.
    """
    if use.adapter is not None:
        raise APIError(
            400, f"the adapter {use.adapter!r} writes text, and does nothing else", param="model",
            code="model_not_supported",
        )  # fmt: skip
    return await use.loaded.crafts.done(work)


def tokens_of(tokenizer: Tokenizer | None, value: object) -> int:
    """Tokens of all texts in a value, as far as there is a tokenizer: what it costs to read or to write them."""
    if tokenizer is None:
        return 0
    texts: list[str] = []
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str) and one:
            texts.append(one)
        elif isinstance(one, Mapping):
            left += one.values()
        elif isinstance(one, (list, tuple)):
            left += one
    rows = tokenizer(texts, truncation=False)["input_ids"] if texts else []
    return sum(len(row) for row in cast("list[list[int]]", rows))


def ignored(names: list[str]) -> dict[str, str]:
    """The header that names fields that nobody here knows."""
    return {"x-omniform-ignored": ", ".join(harmless(names))} if names else {}
