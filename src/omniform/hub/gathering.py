"""Weights of a model that several processes hold, on their way to the first, which writes them.

Processes tell one another what they hold; then whatever belongs to one tensor of the checkpoint is handed over, put
together, written and let go of, so that none has more of the others' than that at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.errors import RepoError
from omniform.core.ranks import Ranks
from omniform.hub.load import keymap_of
from omniform.transforms.stage import Stage
from omniform.weights.keymap import KeyTable
from omniform.weights.links import Part

Note = tuple[str, list[int], list[int] | None]
"""What is told of a tensor: its dtype, its shape with the others' parts, and which part of it there is."""


class Gathering:
    """What the processes of a model hold, known to all of them.

    In the first process a context in which it is written: whatever happens there, the others are let go, and learn
    whether it went well.

    Args:
        model: this process's part of it.
        among: the processes.
        tensors: what is written of what this one holds, by path.
        ties: paths that are tied to one of these.
    """

    def __init__(self, model: Model, among: Ranks, tensors: Mapping[str, Tensor], ties: Mapping[str, str]) -> None:
        self._among = among
        keys = keymap_of(model)
        self._own = {keys.owners.get(path, path): tensor for path, tensor in tensors.items()}
        notes: dict[str, Note] = {}
        for path, tensor in tensors.items():
            part = keys.parts.get(path)
            whole = tuple(tensor.shape) if part is None else part.outer(tuple(tensor.shape), "weight")
            axis = None if part is None else [part.start, part.stop, cast(int, part.axis), part.whole]
            notes[keys.owners.get(path, path)] = str(tensor.dtype).removeprefix("torch."), [*whole], axis
        told = cast("list[list[dict[str, object]]]", among.heard([notes, dict(ties), dict(model.spelling)]))
        self._notes = [cast("dict[str, Note]", one) for one, _, _ in told]
        self._spelling = {key: str(found) for _, _, names in told for key, found in names.items()}
        places = {path: at for at, path in enumerate(_order(model, tensors))}
        shapes = {path: tuple(note[1]) for one in reversed(self._notes) for path, note in one.items()}
        paths = sorted(shapes, key=lambda path: places.get(path, len(places)))
        whole_keys = replace(keys, parts={}, gone={}, gone_ties=frozenset(), owners={})
        tied = {path: str(owner) for _, one, _ in told for path, owner in one.items() if owner in shapes}
        self._table = whole_keys.expand({path: shapes[path] for path in paths}, tied)
        # The first process says what comes after what, so that none waits for another tensor than it is given.
        self._groups = cast("list[list[str]]", among.heard(_groups(self._table) if among.rank == 0 else [])[0])
        self._coming: Iterator[tuple[str, Tensor]] | None = None

    def _givers(self, path: str) -> list[tuple[int, Part | None]]:
        """Who hands over which part of a tensor; parts that several hold come from the first of these."""
        found: dict[tuple[int, ...], tuple[int, Part | None]] = {}
        for rank, notes in enumerate(self._notes):
            if path in notes:
                own = notes[path][2]
                found.setdefault(tuple(own or ()), (rank, None if own is None else Part(*own)))
        return list(found.values())

    def _dtype(self, path: str) -> torch.dtype:
        name = next(notes[path][0] for notes in self._notes if path in notes)
        return cast(torch.dtype, getattr(torch, name))

    def shapes(self) -> dict[str, Tensor]:
        """The checkpoint's tensors by key, without what is in them."""
        found: dict[str, Tensor] = {}
        for path, links in self._table.links.items():
            for link in links:
                name = self._spelling.get(link.key, link.key)
                found[name] = torch.empty(self._table.shapes[link.key], dtype=self._dtype(path), device="meta")
        return found

    def give(self) -> None:
        """Hand over what this process holds, as it is its turn.

        Raises:
            RepoError: the first process could not write it.
        """
        for path in (path for group in self._groups for path in group):
            if any(rank == self._among.rank for rank, _ in self._givers(path)):
                self._among.give(_raw(self._own[path]).to(self._among.device), 0)
        failed = self._among.heard("")[0]
        if failed:
            raise RepoError("the first process could not save the model", where="save_pretrained", found=str(failed))

    def pieces(self) -> Iterator[tuple[str, Tensor]]:
        """The checkpoint's tensors, one after another."""
        if self._coming is None:
            self._coming = self._pieces()
        return self._coming

    def _pieces(self) -> Iterator[tuple[str, Tensor]]:
        for group in self._groups:
            some = replace(self._table, links={path: self._table.links[path] for path in group})
            for key, tensor in some.write({path: self._whole(path) for path in group}).items():
                yield self._spelling.get(key, key), tensor

    def _whole(self, path: str) -> Tensor:
        givers = self._givers(path)
        if givers == [(0, None)]:
            return self._own[path].detach()
        _, shape, _ = next(notes[path] for notes in self._notes if path in notes)
        whole = torch.empty(shape, dtype=self._dtype(path))
        for rank, part in givers:
            place = whole if part is None else part.of(whole, "weight")
            if rank == self._among.rank:
                place.copy_(self._own[path].detach())
            else:
                given = self._among.take(rank, self._among.device)
                place.copy_(given.cpu().view(whole.dtype).reshape(place.shape))
        return whole

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._let_go("")
            return
        with contextlib.suppress(Exception):  # the first error counts
            self._let_go(f"{type(error).__name__}: {error}"[:500])

    def _let_go(self, failed: str) -> None:
        for _ in self.pieces():
            pass
        self._among.heard(failed)


def _order(model: Model, tensors: Mapping[str, Tensor]) -> list[str]:
    """The paths of a model's tensors in the order of one process, which holds all of it."""
    return next((one.order for one in model.transforms if isinstance(one, Stage)), list(tensors))


def _groups(table: KeyTable) -> list[list[str]]:
    """Our paths, those together that share one of the checkpoint's tensors."""
    at: dict[str, list[str]] = {}
    groups: list[list[str]] = []
    for path, links in table.links.items():
        group = [path]
        for key in {link.key for link in links}:
            other = at.get(key)
            if other is not None and other is not group:
                group = other + group
                groups.remove(other)
            at |= dict.fromkeys([link.key for one in group for link in table.links[one]], group)
        at |= dict.fromkeys([link.key for one in group for link in table.links[one]], group)
        groups.append(group)
    return groups


def _raw(x: Tensor) -> Tensor:
    """The bytes of numbers, whatever they are."""
    return x.detach().contiguous().reshape(-1).view(torch.uint8)
