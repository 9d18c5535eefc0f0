"""What torch's own tools (export, DDP, vmap) take apart into tensors and put together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from torch.utils._pytree import MappingKey, register_pytree_node

T = TypeVar("T")

Tree = tuple[list[object], list[str]]
"""The parts of a value, and their names; a name is all that is needed to put a part back in its place."""


def register_tree(
    kind: type[T], apart: Callable[[T], Tree], together: Callable[[type[T], list[object], list[str]], T]
) -> None:
    """Make a class a tree.

    Args:
        kind: the class; its subclasses are not.
        apart: a value's parts by name.
        together: a value of the class, from those.
    """

    def apart_with_keys(value: T) -> tuple[list[tuple[MappingKey[str, object], object]], list[str]]:
        parts, names = apart(value)
        return [(MappingKey(name), part) for name, part in zip(names, parts, strict=True)], names

    register_pytree_node(
        kind,
        apart,
        lambda parts, names: together(kind, list(parts), cast("list[str]", names)),
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        flatten_with_keys_fn=apart_with_keys,  # type: ignore[arg-type]
    )
