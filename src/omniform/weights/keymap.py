"""Where every weight lives in a checkpoint: one finite table between our paths and the Hub's keys.

A :class:`KeyMap` is a few templates over module paths; :meth:`KeyMap.expand` turns it into a :class:`KeyTable` for one
built model. Loading, saving and reports read the table, so whether it is total and free of collisions is a set
comparison, made once, here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.weights.links import AXES, Link, Part

Rule = str | Link | tuple[Link, ...]
"""Where a module lives: a path, a view of another module's, or several views that make it up."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Another way in which whole checkpoints of a family lie.

    Attributes:
        sign: a regular expression that finds one of such a checkpoint's keys, and none of another's.
        rules: what is elsewhere in it, as in a :class:`KeyMap`.
        shape: of what lies under that key, where others call it the same; None where the name tells.
    """

    sign: str
    rules: Mapping[str, Rule]
    shape: tuple[int, ...] | None = None

    def is_of(self, keys: Mapping[str, Sequence[int] | None]) -> bool:
        """Whether a checkpoint with these keys, and these shapes where they are known, lies so."""
        return any(
            re.search(self.sign, key) and (self.shape is None or (shape is not None and tuple(shape) == self.shape))
            for key, shape in keys.items()
        )


class Shaped(Protocol):
    """What a checkpoint tells of a tensor."""

    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class KeyMap:
    """Templates from our module paths to the checkpoint's.

    The longest template that matches the head of a path applies, and what follows it is kept: a rule for
    ``layers.{i}.self_attn.q_proj`` covers ``weight``, ``bias``, ``qweight`` and ``lora_A.weight``. ``{i}`` stands for a
    number. A path that no template matches is the same on both sides.

    Attributes:
        rules: our template to the checkpoint's, or to a :class:`~omniform.weights.links.Link` (or several).
        aliases: regular expressions and replacements for old spellings, read but never written.
        ignored: regular expressions of keys that checkpoints hold and no model needs (stray buffers).
        layouts: other ways in which checkpoints lie as a whole; one that was read in such a way is written so.
        modules: regular expressions and replacements from the checkpoint's paths to those of the ecosystem's modules,
            where it has renamed these and not the checkpoints: files of adapters are spelled by its modules.
        parts: our tensors of which this process holds a part, by path.
        gone: our tensors that other processes hold, by path, with their shapes.
        gone_ties: our paths, in other processes, of tensors that were tied to another one.
        owners: of tensors that were tied to one that is gone: their path to that one's, under whose key they lie.
    """

    rules: Mapping[str, Rule]
    aliases: Sequence[tuple[str, str]] = ()
    ignored: Sequence[str] = ()
    layouts: Sequence[Layout] = ()
    modules: Sequence[tuple[str, str]] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)
    gone: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    gone_ties: frozenset[str] = frozenset()
    owners: Mapping[str, str] = field(default_factory=dict)

    def as_in(self, keys: Iterable[str] | Mapping[str, Shaped]) -> KeyMap:
        """The map for a checkpoint with these keys, in whichever layout it lies."""
        if not self.layouts:
            return self
        told: dict[str, Sequence[int] | None] = (
            {key: held.shape for key, held in keys.items()} if isinstance(keys, Mapping) else dict.fromkeys(keys)
        )
        found = [layout for layout in self.layouts if layout.is_of(told)]
        return replace(self, rules={**self.rules, **found[0].rules}, layouts=()) if found else self

    def under(self, ours: str, theirs: str) -> KeyMap:
        """The same map for the same model placed at ``ours`` in a bigger one, and at ``theirs`` in its checkpoint."""
        rules: dict[str, Rule] = {ours: theirs} if ours != theirs else {}
        rules |= _rules_under(self.rules, ours, theirs)
        aliases = [_moved(pattern, new, theirs) for pattern, new in self.aliases]
        layouts = [replace(layout, rules=_rules_under(layout.rules, ours, theirs)) for layout in self.layouts]
        modules = [_moved(pattern, new, theirs) for pattern, new in self.modules]
        return KeyMap(rules, aliases, self.ignored, layouts, modules)

    def every_layout(self) -> list[KeyMap]:
        """The map for each of the layouts that checkpoints lie in, the usual one first."""
        others = [replace(self, rules={**self.rules, **one.rules}, layouts=()) for one in self.layouts]
        return [replace(self, layouts=()), *others]

    def spelled(self, paths: Iterable[str]) -> dict[str, str]:
        """Our module paths to the checkpoint's."""
        rules = _Rules.of(self.rules)
        return {path: rules.resolve(path)[0].key for path in paths}

    def places(self, path: str) -> tuple[Link, ...]:
        """Where the module, or the tensor, at ``path`` lives: in one place of the checkpoint, or in several."""
        return _Rules.of(self.rules).resolve(path)

    def module(self, key: str) -> str:
        """What the ecosystem calls the module, or the tensor, that checkpoints keep under ``key``."""
        for pattern, new in self.modules:
            key = re.sub(pattern, new, key)
        return key

    def spellings(self, key: str) -> Iterable[str]:
        """A key as it is, and what it would be called now, if it is an old spelling."""
        return _spellings(key, (*OLD_SPELLINGS, *self.aliases))

    def __or__(self, other: KeyMap) -> KeyMap:
        """Both maps; the right one's rules win."""
        return KeyMap(
            {**self.rules, **other.rules},
            (*self.aliases, *other.aliases),
            (*self.ignored, *other.ignored),
            (*self.layouts, *other.layouts),
            (*self.modules, *other.modules),
        )

    def expand(self, shapes: Mapping[str, Sequence[int]], ties: Mapping[str, str] | None = None) -> KeyTable:
        """The finite table for one model.

        Args:
            shapes: the model's tensors by path, tied ones left out.
            ties: for tensors that share memory with another: path to the other's path.

        Raises:
            WeightsError: two of our tensors would live in the same place (a mistake in the map).
        """
        rules = _Rules.of(self.rules)
        links = {path: rules.resolve(self.owners.get(path, path)) for path in shapes}
        if self.parts:
            shapes = {path: self._whole(path, shape) for path, shape in shapes.items()}
        own = dict(shapes)
        gone = {path: shape for path, shape in self.gone.items() if path not in self.owners.values()}
        links |= {path: rules.resolve(path) for path in gone}
        shapes = {**shapes, **gone}
        wanted: dict[str, tuple[int, ...]] = {}
        taken: dict[object, str] = {}
        held: dict[str, int] = {}
        for path, parts in links.items():
            for link in parts:
                other = taken.setdefault((link.key, link.theirs), path)
                if other != path:
                    raise WeightsError(f"{path} and {other} both map to {link.key}", where="key map")
                least = link.shape(shapes[path])
                wanted[link.key] = tuple(map(max, wanted.get(link.key, least), least))
                if link.repeats:
                    continue
                held[link.key] = held.get(link.key, 0) + math.prod(link.part(shapes[path]))
        _check_totality(links, shapes, wanted, held)
        tied = {**(ties or {}), **{path: path for path in self.owners if path in own}}
        copies = {rules.resolve(path)[0].key: path for path in tied}
        copies = {key: path for key, path in copies.items() if key not in wanted}
        duplicates = {key: links[tied[path]][0].key for key, path in copies.items()}
        mine = {path: links[path] for path in own}
        read = {link.key for parts in mine.values() for link in parts}
        elsewhere = wanted.keys() - read | {rules.resolve(path)[0].key for path in self.gone_ties} - read
        wanted = {key: shape for key, shape in wanted.items() if key in read}
        return KeyTable(mine, wanted, own, duplicates, copies, self, frozenset(elsewhere - duplicates.keys()))

    def _whole(self, path: str, shape: Sequence[int]) -> Sequence[int]:
        part = self.parts.get(path)
        return shape if part is None else part.outer(tuple(shape), "weight")


def _check_totality(
    links: Mapping[str, Sequence[Link]],
    shapes: Mapping[str, Sequence[int]],
    wanted: Mapping[str, Sequence[int]],
    held: Mapping[str, int],
) -> None:
    """Every number of either side has exactly one place on the other."""
    for path, parts in links.items():
        covered = sum(math.prod(link.part(shapes[path])) for link in parts)
        if covered != math.prod(shapes[path]):
            raise WeightsError(f"{path}: links cover {covered} of {math.prod(shapes[path])} numbers", where="key map")
    for key, shape in wanted.items():
        if held[key] != math.prod(shape):
            raise WeightsError(f"{key}: links cover {held[key]} of {math.prod(shape)} numbers", where="key map")


@dataclass(frozen=True, slots=True)
class KeyTable:
    """One model's tensors and where each is in the checkpoint.

    Attributes:
        links: our path to its place, or to the places of its parts.
        shapes: every key the checkpoint must hold, with its shape.
        ours: our tensors' shapes.
        duplicates: keys that some checkpoints hold a second copy under, to the key that counts (tied weights).
        copies: the same keys, to our path that is tied.
        elsewhere: keys that other processes read.
    """

    links: Mapping[str, Sequence[Link]]
    shapes: Mapping[str, tuple[int, ...]]
    ours: Mapping[str, Sequence[int]]
    duplicates: Mapping[str, str]
    copies: Mapping[str, str]
    keymap: KeyMap
    elsewhere: frozenset[str] = frozenset()

    def key(self, path: str) -> str:
        """The checkpoint's key for our tensor at ``path``, or for the first part of it."""
        return self.links[path][0].key

    def is_view(self, path: str) -> bool:
        """Whether our tensor is a view of one of the checkpoint's, and nothing need be copied."""
        parts = self.links[path]
        return len(parts) == 1 and parts[0].whole

    def read(self, path: str, held: Callable[[str], Tensor]) -> Tensor:
        """Our tensor: a view of the checkpoint's where it can be, assembled where not.

        Args:
            held: the checkpoint's tensor for one of the table's keys.
        """
        parts, mine = self.links[path], self.keymap.parts.get(path)
        if self.is_view(path):
            whole = parts[0].of_theirs(held(parts[0].key))
            return whole if mine is None else mine.of(whole, "weight")
        if mine is not None:
            return self._read_part(path, held, mine)
        theirs = [link.of_theirs(held(link.key)) for link in parts]
        made = torch.empty(tuple(self.ours[path]), dtype=theirs[0].dtype)
        for link, part in zip(parts, theirs, strict=True):
            link.of_ours(made).copy_(part)
        return made

    def _read_part(self, path: str, held: Callable[[str], Tensor], mine: Part) -> Tensor:
        """A part of a tensor that is assembled: nothing is read of what other processes hold."""
        made: Tensor | None = None
        for link in self.links[path]:
            theirs = link.of_theirs(held(link.key))
            if made is None:
                made = torch.empty(tuple(self.ours[path]), dtype=theirs.dtype)
            needed = mine.needed(link, theirs, made)
            if needed is not None:
                needed[1].copy_(needed[0])
        assert made is not None
        return mine.of(made, "weight").clone(memory_format=torch.contiguous_format)

    def write(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The checkpoint's tensors, from ours by path: the inverse of reading."""
        stored: dict[str, Tensor] = {}
        for path, parts in self.links.items():
            ours = tensors[path]
            for link in parts:
                if not link.theirs:
                    stored[link.key] = link.of_ours(ours)
                    continue
                if link.key not in stored:
                    stored[link.key] = torch.empty(self.shapes[link.key], dtype=ours.dtype, device=ours.device)
                link.of_theirs(stored[link.key]).copy_(link.of_ours(ours))
        return stored

    def is_ignored(self, key: str) -> bool:
        """Whether ``key`` is a known stray that no model needs."""
        return any(re.search(pattern, key) for pattern in (*STRAYS, *self.keymap.ignored))

    def is_left_out(self, key: str) -> bool:
        """Whether ``key`` holds what the family trains beside the model, and the model leaves out."""
        return any(re.search(pattern, key) for pattern in self.keymap.ignored)

    def canonical(self, key: str, prefixes: Iterable[str] = ()) -> str | None:
        """The table's key that ``key`` means, in whatever old spelling; None if it means none.

        Args:
            key: a key of a checkpoint.
            prefixes: prefixes (without the dot) that old files lack or have too many of.
        """
        for candidate in self._meant(key, prefixes):
            if candidate in self.shapes or candidate in self.duplicates:
                return candidate
        return None

    def is_elsewhere(self, key: str, prefixes: Iterable[str] = ()) -> bool:
        """Whether other processes read what ``key`` means; see :meth:`canonical`."""
        return bool(self.elsewhere) and any(one in self.elsewhere for one in self._meant(key, prefixes))

    def _meant(self, key: str, prefixes: Iterable[str]) -> Iterable[str]:
        for spelling in self.keymap.spellings(key):
            yield spelling
            yield from _with_and_without(spelling, prefixes)


WRAPPED = r"^(_orig_mod|module)\."
"""What stands before keys that were written while compiled or data-parallel."""

OLD_SPELLINGS: Sequence[tuple[str, str]] = (
    (WRAPPED, ""),
    # TensorFlow's names for a layer norm's parameters, in the first BERT conversions.
    (r"(LayerNorm|layer_norm|layernorm)\.gamma$", r"\1.weight"),
    (r"(LayerNorm|layer_norm|layernorm)\.beta$", r"\1.bias"),
    # torch's weight norm before parametrizations.
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)

STRAYS: Sequence[str] = (
    r"(^|\.)position_ids$",
    r"rotary_emb\.inv_freq$",
    r"(^|\.)num_batches_tracked$",
)


def is_unwrapped(key: str) -> bool:
    """Whether ``key`` is a model's own, and not that of something around it, which is not there any more."""
    return not re.search(WRAPPED, key)


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


class _Rules:
    """Rules in the order in which they are asked: the longest first, those without numbers in them by their names.

    Quantized experts have a rule for every tensor: to try each on each would take minutes.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._given, self._count = rules, len(rules)
        self._exact = {mine: target for mine, target in rules.items() if "{" not in mine}
        self._depths: dict[int, list[tuple[re.Pattern[str], Rule]]] = {}
        for mine, target in sorted(rules.items(), key=lambda rule: rule[0]):
            if "{" in mine:
                self._depths.setdefault(_depth(mine), []).append((_matcher(mine), target))
        self._order = sorted({*self._depths, *map(_depth, self._exact)}, reverse=True)

    _last: ClassVar[_Rules | None] = None

    @classmethod
    def of(cls, rules: Mapping[str, Rule]) -> _Rules:
        """Those of a map; the last one's are kept, since the same is asked for many paths one by one."""
        last = cls._last
        if last is None or last._given is not rules or last._count != len(rules):
            last = cls._last = cls(rules)
        return last

    def resolve(self, path: str) -> tuple[Link, ...]:
        """Where a path lives."""
        names = path.split(".")
        for depth in self._order:
            if depth > len(names):
                continue
            mine = ".".join(names[:depth])
            if mine in self._exact:
                return _resolved(self._exact[mine], {}, path[len(mine) :].lstrip("."))
            for matcher, target in self._depths.get(depth, ()):
                found = matcher.fullmatch(path)
                if found:
                    groups = found.groupdict()
                    rest = (groups.pop("rest") or "").lstrip(".")
                    return _resolved(target, groups, rest)
        return (Link(path),)


def _depth(template: str) -> int:
    """How many names it has."""
    return template.count(".") + 1 if template else 0


def _resolved(target: Rule, groups: Mapping[str, str], rest: str) -> tuple[Link, ...]:
    return tuple(
        replace(link, key=_join(_named(link.key, groups), rest), kind=_kind(rest))
        for one in _links(target)
        for link in one.expanded()
    )


@lru_cache(maxsize=4096)
def _matcher(template: str) -> re.Pattern[str]:
    body = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(template))
    return re.compile(body + r"(?P<rest>\..+)?")


def _links(rule: Rule) -> tuple[Link, ...]:
    return (Link(rule),) if isinstance(rule, str) else (rule,) if isinstance(rule, Link) else rule


def _named(template: str, groups: Mapping[str, str]) -> str:
    for name, number in groups.items():
        template = template.replace("{" + name + "}", number)
    return template


def _kind(rest: str) -> str:
    """The end of a parameter's path that tells its axes; ``"weight"`` for what has no name of its own."""
    known = (kind for kind in sorted(AXES, key=len, reverse=True) if rest == kind or rest.endswith("." + kind))
    return next(known, rest or "weight")


def _join(prefix: str, path: str) -> str:
    return f"{prefix}.{path}" if prefix and path else prefix or path


def _rules_under(rules: Mapping[str, Rule], ours: str, theirs: str) -> dict[str, Rule]:
    return {_join(ours, mine): _prefixed(target, theirs) for mine, target in rules.items()}


def _prefixed(target: Rule, prefix: str) -> Rule:
    if isinstance(target, str):
        return _join(prefix, target)
    moved = tuple(replace(link, key=_join(prefix, link.key)) for link in _links(target))
    return moved if isinstance(target, tuple) else moved[0]


def _moved(pattern: str, new: str, prefix: str) -> tuple[str, str]:
    # Only what is anchored stood at the head of a key; the rest is replaced wherever it stands.
    if not prefix or not pattern.startswith("^"):
        return pattern, new
    return rf"^{re.escape(prefix)}\.{pattern[1:]}", _join(prefix, new)
