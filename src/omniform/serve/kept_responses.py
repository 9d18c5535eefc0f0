"""Responses that later ones go on from: kept in memory, for whoever asked for them, as many as there is room for."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omniform.serve.errors import APIError

MOST = 4096
"""Responses that are kept; the oldest go first."""

MOST_BYTES = 256 << 20
"""What they may take together, as JSON."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A response.

    Attributes:
        told: as its client reads it.
        items: the whole conversation up to its end.
        nbytes: of both.
    """

    told: Mapping[str, object]
    items: Sequence[dict[str, object]]
    nbytes: int


class Responses:
    """Responses by their names, each key's by themselves."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        self._bytes = 0

    def keep(self, key: str, told: Mapping[str, object], items: Sequence[dict[str, object]]) -> None:
        """Keep a response; one that is larger than all room is not."""
        nbytes = len(json.dumps([told, items]))
        if nbytes > self._most_bytes:
            return
        self._kept[key, str(told["id"])] = Kept(told, items, nbytes)
        self._bytes += nbytes
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= gone.nbytes

    def get(self, key: str, ident: str, param: str | None = None) -> Kept:
        """A response.

        Raises:
            APIError: there is none of this name, or it is somebody else's, in the same words.
        """
        found = self._kept.get((key, ident))
        if found is None:
            code = "response_not_found" if param is None else "previous_response_not_found"
            raise APIError(404, f"there is no response {ident!r:.100}", param=param, code=code)
        return found

    def drop(self, key: str, ident: str) -> None:
        """Forget a response.

        Raises:
            APIError: there is none of this name.
        """
        self._bytes -= self.get(key, ident).nbytes
        del self._kept[key, ident]
