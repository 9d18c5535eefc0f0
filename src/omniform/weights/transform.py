"""Transforms: edits of a model between its being built and its being used, in a list, each in a file of its own.

A quantizer, an adapter, a shard, another layout of the matrices, weights that visit from the disk: each is written once
for all families, and they compose in the order of the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

from omniform.weights.keymap import KeyMap


@runtime_checkable
class KeepsDtypes(Protocol):
    """A module some of whose tensors are never converted, whatever dtype a model is loaded as: scales, codebooks.

    Attributes:
        KEPT: their names.
    """

    KEPT: ClassVar[frozenset[str]]


def kept_dtypes(model: nn.Module) -> frozenset[str]:
    """The paths of a model's tensors that keep the dtype they are stored in."""
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, KeepsDtypes)
        for name in module.KEPT
    )


class Transform:
    """One edit of a model. Each of the three moments may be left as it is."""

    def prepare(self, model: nn.Module, keys: KeyMap) -> KeyMap:
        """Replace modules while the model lies on the meta device, before anything is loaded.

        Args:
            model: its tensors have shapes and dtypes, and no memory.
            keys: where its weights live in the checkpoint, as the transforms before left it.

        Returns:
            The same map, or one that tells where the new modules' tensors live.
        """
        return keys

    def finish(self, model: nn.Module) -> None:
        """Change the model once its weights are loaded."""

    def takes(self, model: nn.Module) -> Mapping[str, int]:
        """Bytes that tensors take in memory in the end, by path, where these are others than they are loaded with.

        Args:
            model: as it is prepared, on the meta device.
        """
        return {}

    def belongs_to(self, owner: object) -> bool:
        """Whether this is an object's doing, which may take it back."""
        return False

    def written(self, config: Mapping[str, object]) -> Mapping[str, object]:
        """What ``config.json`` has to say of it, so that what is saved can be loaded again.

        Args:
            config: as it would be written without this transform.
        """
        return config


def prepared(model: nn.Module, keys: KeyMap, transforms: Sequence[Transform]) -> KeyMap:
    """Have each transform prepare a model on the meta device, in order; returns where its weights live then."""
    with torch.device("meta"):
        for transform in transforms:
            keys = transform.prepare(model, keys)
    return keys
