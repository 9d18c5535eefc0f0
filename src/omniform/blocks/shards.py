"""What a block has to know so that several processes can compute it together, each with a part of its weights.

A block names the layers and tensors that are cut, and along which axis (:attr:`Shards.SHARDS`): layers whose
*outputs* are cut give a part of the channels, layers whose *inputs* are cut a part of a sum, which all ranks add up.
How wide the parts are it says itself, since only it knows what must stay together (a head, the queries of its keys).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from torch import nn

from omniform.core.ranks import Ranks
from omniform.weights.links import Axis


@runtime_checkable
class Shards(Protocol):
    """A block that can be computed in parts.

    Attributes:
        SHARDS: the names of its layers and tensors that are cut, and their axes. A subclass says it again: whoever
            adds something to a block decides anew whether that may be cut.
    """

    SHARDS: ClassVar[Mapping[str, Axis]]

    def shard(self, ranks: Ranks) -> Mapping[str, range] | None:
        """Become one rank's part of the block, as far as numbers of its own go; the caller cuts the tensors.

        Returns:
            What this rank keeps of each of :attr:`SHARDS` that is there; None for a block that every rank computes
            whole, which was not changed.

        Raises:
            InputError: it cannot be divided among so many.
        """
        ...


@runtime_checkable
class Sums(Protocol):
    """A block each of whose parts gives a part of the sum that it gives: experts that lie on several ranks.

    Attributes:
        SUMS: always True.
    """

    SUMS: ClassVar[bool]


def is_shared_out(module: nn.Module) -> bool:
    """Whether a module's own class says how it is cut."""
    return "SHARDS" in vars(type(module)) and isinstance(module, Shards)
