"""Where every weight lives in a checkpoint: one finite table between our paths and the Hub's keys.

A :class:`KeyMap` is a few templates over module paths; :meth:`KeyMap.expand` turns it into a :class:`KeyTable` for one
built model. Loading, saving and reports read the table, so whether it is total and free of collisions is a set
comparison, made once, here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from omniform.core.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Piece:
    """A checkpoint tensor, or an equal share of one.

    Attributes:
        key: the checkpoint's key.
        part: which of ``of`` equal parts along the last axis.
        transposed: matrices are stored the other way round (GPT-2's ``Conv1D``).
        leading: how many axes of length 1 the checkpoint's tensor has in front (ViT's class token).
    """

    key: str
    part: int = 0
    of: int = 1
    transposed: bool = False
    leading: int = 0

    def read(self, whole: Tensor) -> Tensor:
        """Our tensor, as a view of the checkpoint's."""
        if self.of > 1:
            width = whole.shape[-1] // self.of
            whole = whole.narrow(-1, self.part * width, width)
        if self.leading:
            whole = whole.reshape(whole.shape[self.leading :])
        return whole.t() if self.transposed and whole.dim() == 2 else whole

    def shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """The checkpoint tensor's shape, given ours."""
        theirs = list(reversed(ours)) if self.transposed and len(ours) == 2 else list(ours)
        if self.of > 1:
            theirs[-1] *= self.of
        return (1,) * self.leading + tuple(theirs)

    def write(self, ours: Tensor) -> Tensor:
        """The share of the checkpoint's tensor that ours makes up."""
        if self.leading:
            ours = ours.reshape((1,) * self.leading + ours.shape)
        return ours.t() if self.transposed and ours.dim() == 2 else ours


def split(key: str, part: int, of: int, *, transposed: bool = False) -> Piece:
    """The ``part``-th of ``of`` equal parts of ``key`` along its last axis."""
    return Piece(key, part, of, transposed)


def unsqueezed(key: str, axes: int) -> Piece:
    """``key``, stored with so many axes of length 1 in front."""
    return Piece(key, leading=axes)


def transposed(key: str) -> Piece:
    """``key``, its matrices stored the other way round."""
    return Piece(key, transposed=True)


@dataclass(frozen=True, slots=True)
class KeyMap:
    """Templates from our module paths to the checkpoint's.

    The longest template that matches the head of a path applies, and what follows it is kept: a rule for
    ``layers.{i}.self_attn.q_proj`` covers ``weight``, ``bias``, ``qweight`` and ``lora_A.weight``. ``{i}`` stands for a
    number. A path that no template matches is the same on both sides.

    Attributes:
        rules: our template to the checkpoint's, or to a :class:`Piece` of it.
        aliases: regular expressions and replacements for old spellings, read but never written.
        ignored: regular expressions of keys that checkpoints hold and no model needs (stray buffers).
    """

    rules: Mapping[str, str | Piece]
    aliases: Sequence[tuple[str, str]] = ()
    ignored: Sequence[str] = ()

    def under(self, ours: str, theirs: str) -> KeyMap:
        """The same map for the same model placed at ``ours`` in a bigger one, and at ``theirs`` in its checkpoint."""
        rules: dict[str, str | Piece] = {ours: theirs} if ours != theirs else {}
        for mine, target in self.rules.items():
            rules[_join(ours, mine)] = _prefixed(target, theirs)
        aliases = [_moved(pattern, new, theirs) for pattern, new in self.aliases]
        return KeyMap(rules, aliases, self.ignored)

    def spelled(self, paths: Iterable[str]) -> dict[str, str]:
        """Our module paths to the checkpoint's."""
        matchers = [(_matcher(mine), target) for mine, target in sorted(self.rules.items(), key=_longest_first)]
        return {path: _resolve(path, matchers).key for path in paths}

    def __or__(self, other: KeyMap) -> KeyMap:
        """Both maps; the right one's rules win."""
        return KeyMap({**self.rules, **other.rules}, (*self.aliases, *other.aliases), (*self.ignored, *other.ignored))

    def expand(self, shapes: Mapping[str, Sequence[int]], ties: Mapping[str, str] | None = None) -> KeyTable:
        """The finite table for one model.

        Args:
            shapes: the model's tensors by path, tied ones left out.
            ties: for tensors that share memory with another: path to the other's path.

        Raises:
            WeightsError: two of our tensors would live in the same place (a mistake in the map).
        """
        matchers = [(_matcher(mine), target) for mine, target in sorted(self.rules.items(), key=_longest_first)]
        pieces = {path: _resolve(path, matchers) for path in shapes}
        taken: dict[tuple[str, int], str] = {}
        for path, piece in pieces.items():
            other = taken.setdefault((piece.key, piece.part), path)
            if other != path:
                raise WeightsError(f"{path} and {other} both map to {piece.key}", where="key map")
        wanted = {piece.key: piece.shape(shapes[path]) for path, piece in pieces.items()}
        copies = {_resolve(path, matchers).key: path for path in ties or {}}
        copies = {key: path for key, path in copies.items() if key not in wanted}
        duplicates = {key: pieces[(ties or {})[path]].key for key, path in copies.items()}
        return KeyTable(pieces, wanted, duplicates, copies, self)


@dataclass(frozen=True, slots=True)
class KeyTable:
    """One model's tensors and where each is in the checkpoint.

    Attributes:
        pieces: our path to its place.
        shapes: every key the checkpoint must hold, with its shape.
        duplicates: keys that some checkpoints hold a second copy under, to the key that counts (tied weights).
        copies: the same keys, to our path that is tied.
    """

    pieces: Mapping[str, Piece]
    shapes: Mapping[str, tuple[int, ...]]
    duplicates: Mapping[str, str]
    copies: Mapping[str, str]
    keymap: KeyMap

    def write(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The checkpoint's tensors, from ours by path: the inverse of reading."""
        shares: dict[str, dict[int, Tensor]] = {}
        for path, piece in self.pieces.items():
            shares.setdefault(piece.key, {})[piece.part] = piece.write(tensors[path])
        return {
            key: parts[0] if len(parts) == 1 else torch.cat([parts[i] for i in sorted(parts)], dim=-1)
            for key, parts in shares.items()
        }

    def is_ignored(self, key: str) -> bool:
        """Whether ``key`` is a known stray that no model needs."""
        return any(re.search(pattern, key) for pattern in (*STRAYS, *self.keymap.ignored))

    def canonical(self, key: str, prefixes: Iterable[str] = ()) -> str | None:
        """The table's key that ``key`` means, in whatever old spelling; None if it means none.

        Args:
            key: a key of a checkpoint.
            prefixes: prefixes (without the dot) that old files lack or have too many of.
        """
        for spelling in _spellings(key, (*self.keymap.aliases, *OLD_SPELLINGS)):
            for candidate in (spelling, *_with_and_without(spelling, prefixes)):
                if candidate in self.shapes:
                    return candidate
                if candidate in self.duplicates:
                    return candidate
        return None


OLD_SPELLINGS: Sequence[tuple[str, str]] = (
    # TensorFlow's names for a layer norm's parameters, in the first BERT conversions.
    (r"(LayerNorm|layer_norm|layernorm)\.gamma$", r"\1.weight"),
    (r"(LayerNorm|layer_norm|layernorm)\.beta$", r"\1.bias"),
    # torch's weight norm before parametrizations.
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    # Files written while compiled or data-parallel.
    (r"^(_orig_mod|module)\.", ""),
)

STRAYS: Sequence[str] = (
    r"(^|\.)position_ids$",
    r"rotary_emb\.inv_freq$",
    r"(^|\.)num_batches_tracked$",
)


def is_current(key: str) -> bool:
    """Whether ``key`` is free of the old spellings that nobody writes any more."""
    return not any(re.search(pattern, key) for pattern, _ in OLD_SPELLINGS)


def _spellings(key: str, aliases: Sequence[tuple[str, str]]) -> Iterable[str]:
    yield key
    renewed = key
    for pattern, new in aliases:
        renewed = re.sub(pattern, new, renewed)
        if renewed != key:
            yield renewed


def _with_and_without(key: str, prefixes: Iterable[str]) -> Iterable[str]:
    for prefix in prefixes:
        yield f"{prefix}.{key}"
        if key.startswith(prefix + "."):
            yield key[len(prefix) + 1 :]


def _longest_first(rule: tuple[str, object]) -> tuple[int, str]:
    return -rule[0].count(".") if rule[0] else 1, rule[0]


@lru_cache(maxsize=4096)
def _matcher(template: str) -> re.Pattern[str]:
    if not template:
        return re.compile(r"(?P<rest>.*)")
    body = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(template))
    return re.compile(body + r"(?P<rest>\..+)?")


def _resolve(path: str, matchers: Sequence[tuple[re.Pattern[str], str | Piece]]) -> Piece:
    for matcher, target in matchers:
        found = matcher.fullmatch(path)
        if found:
            piece = target if isinstance(target, Piece) else Piece(target)
            groups = found.groupdict()
            rest = groups.pop("rest") or ""
            return replace(piece, key=_join(piece.key.format(**groups), rest.lstrip(".")))
    return Piece(path)


def _join(prefix: str, path: str) -> str:
    return f"{prefix}.{path}" if prefix and path else prefix or path


def _prefixed(target: str | Piece, prefix: str) -> str | Piece:
    if isinstance(target, Piece):
        return replace(target, key=_join(prefix, target.key))
    return _join(prefix, target)


def _moved(pattern: str, new: str, prefix: str) -> tuple[str, str]:
    # Only what is anchored stood at the head of a key; the rest is replaced wherever it stands.
    if not prefix or not pattern.startswith("^"):
        return pattern, new
    return rf"^{re.escape(prefix)}\.{pattern[1:]}", _join(prefix, new)
