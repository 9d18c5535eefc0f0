"""Caches of one call of ``generate``: the one it was given to go on from, and the one that it fills.

A caller's batch has columns, padding among them; the engine's rows have tokens only. A cache holds state by column, so
here is written down which column every token stands in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from omniform.architectures.generative import Generative, RowLayout
from omniform.core.caches import Cache, DynamicCache, QuantizedCache, StaticCache
from omniform.core.coded import BITS, Coding
from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.layouts import layout_of
from omniform.core.paired_cache import EncoderDecoderCache
from omniform.core.settings import STATIC_CACHES
from omniform.core.state import DenseState
from omniform.core.stores import too_short
from omniform.engine.handover import Given, Left, Legacy, Source
from omniform.engine.request import NAMELESS, Completion, Prompt
from omniform.engine.settings import Asked

log = logging.getLogger("omniform")

NAME = "past_key_values"
QUANTIZED = ("backend", "nbits", "axis_key", "axis_value", "q_group_size", "residual_length")


def refuse_cache(asked: Asked) -> None:
    """Raise :class:`InputError` where requests are the engine's own, and share what they begin with."""
    if asked.parts.get(NAME) is not None:
        raise InputError(
            "a request of an engine fills no cache of the caller's",
            where=NAME,
            expected="None",
            found=type(asked.parts.get(NAME)).__name__,
            remedy="model.generate takes one; requests to one Engine share what they begin with.",
        )


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What one call does with caches.

    Attributes:
        cache: what the caller gave, to go on from and to be filled; None if nothing.
        fresh: makes one to be given back, told how many tokens it will hold; None where none is wanted.
        past: how many columns the given one has.
        mask: which of these are real, where the call has only the columns behind them. Shape: [B, past].
    """

    cache: DenseState | None
    fresh: Callable[[int], DenseState] | None
    past: int = 0
    mask: Tensor | None = None

    @property
    def wanted(self) -> bool:
        """Whether what rows leave behind is wanted."""
        return self.cache is not None or self.fresh is not None

    @classmethod
    def read(cls, model: Generative, asked: Asked, named: dict[str, object]) -> CacheUse:
        """Understand a call.

        Args:
            named: the model's inputs; a mask that also covers what the cache holds is cut.

        Raises:
            InputError: something that is no cache, another model's, or two caches asked for.
        """
        fresh = _maker(model, asked)
        given = asked.parts.get(NAME)
        for name in ("cache_params", NAME):
            other = named.pop(name, None)
            given = other if given is None else given
        returned = asked.flag("return_dict_in_generate") and asked.known.get("use_cache") is not False
        if given is None:
            return cls(None, fresh if returned else None)
        if not isinstance(given, DenseState):
            raise InputError(
                "this is no cache",
                where=NAME,
                expected="a DynamicCache or another of omniform's, or what a forward gave",
                found=brief(given),
                remedy="DynamicCache.from_legacy_cache makes one of keys and values.",
            )
        kind = asked.values["cache_implementation"]
        if kind is not None and "cache_implementation" in asked.named:
            raise InputError(
                "a cache was given, and another asked for",
                where=f"{NAME}, cache_implementation",
                expected="one of them",
                found=f"{type(given).__name__}, {kind!r}",
            )
        if isinstance(given, Cache):
            given.settle(layout_of(model.decoder))
        return cls(given, None, given.length, _cut_mask(model, named, given.length))

    # -- in ------------------------------------------------------------------------------------------------------------

    def given_to(self, prompts: list[Prompt], each: int, width: int) -> list[Prompt]:
        """Prompts that begin with what the cache holds.

        Args:
            each: rows that are written for each of them.
            width: columns of the call's batch.

        Raises:
            InputError: the cache has other rows, or holds as much as there is to read.
        """
        if self.cache is None or not self.past:
            return prompts
        count = self.cache.rows
        if count not in (len(prompts), len(prompts) * each):
            raise InputError(
                "the cache is of another number of rows",
                where=NAME,
                expected=f"{len(prompts)}, as the prompts" + (f", or {len(prompts) * each}" if each > 1 else ""),
                found=count,
            )
        source, apart = Source(self.cache), 1 if count == len(prompts) else each
        found: list[Prompt] = []
        for number, prompt in enumerate(prompts):
            columns = _columns(prompt, width)
            if self.mask is None:
                own = columns[columns < self.cache.first_missing(number * apart)]
                if len(own) >= len(prompt.tokens):
                    raise self._too_much(width)
                found.append(self._on(replace(prompt, given=Given(source, number * apart, own)), number * apart))
                continue
            own = self.mask[number].nonzero()[:, 0].cpu()
            known = self._on(prompt, number * apart, len(own))
            found.append(
                replace(
                    known,
                    tokens=(NAMELESS,) * len(own) + prompt.tokens,
                    vectors=tuple((start + len(own), vectors) for start, vectors in prompt.vectors),
                    columns=torch.cat((own, columns + self.past)),
                    given=Given(source, number * apart, own),
                )
            )
        return found

    def _on(self, prompt: Prompt, row: int, before: int = 0) -> Prompt:
        """A prompt whose tokens stand where those of the cache's row leave off; what brings items is placed anew."""
        if self.cache is None or self.cache.shift is None or prompt.items or prompt.layout is not None:
            return prompt
        shift = self.cache.shift[row].item()
        return replace(prompt, layout=RowLayout((torch.arange(before + len(prompt.tokens)) + shift)[None], shift))

    def _too_much(self, width: int) -> InputError:
        return InputError(
            "the cache holds all of the prompt, and nothing is left to read",
            where=NAME,
            expected=f"a prompt of more tokens than the cache's {self.past}",
            found=f"{width} tokens",
            remedy="Pass all input_ids, those that the cache holds included; or only the new ones, and an "
            "attention_mask over all of them. cache.crop takes tokens back.",
        )

    def check_room(self, width: int, new: int) -> None:
        """Raise :class:`InputError` if the given cache is too short for the prompt and the answer."""
        most = self.cache.get_max_length() if isinstance(self.cache, Cache) else -1
        needed = (self.past if self.mask is not None else 0) + width + new - 1
        if 0 <= most < needed:
            raise too_short(most, needed)

    # -- out -----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def filled(
        self, model: Generative, prompts: Sequence[Prompt], found: Sequence[Completion], legacies: Sequence[Legacy],
        width: int,
    ) -> DenseState | None:  # fmt: skip
        """The cache that the caller gave, or a new one, with what the rows have left behind; None if none is wanted."""
        if not self.wanted:
            return None
        chosen = (c.prompt_tokens for p, c in zip(prompts, found, strict=True) if not p.tokens)
        width = max(chain(chosen, (width + (self.past if self.mask is not None else 0),)))
        rows: list[tuple[Left, Tensor]] = []
        for prompt, completion, legacy in zip(prompts, found, legacies, strict=True):
            first = _columns(prompt, width, len(prompt.tokens) or completion.prompt_tokens)
            for left in legacy.in_order:
                later = torch.arange(width, width + max(0, left.tokens - len(first)))
                rows.append((left, torch.cat((first, later))[: left.tokens]))
        length = max((int(columns[-1]) + 1 for _, columns in rows if len(columns)), default=0)
        cache = self.cache
        if cache is None:
            assert self.fresh is not None
            cache = self.fresh(length)
        layout = layout_of(model.decoder)
        if isinstance(cache, Cache):
            cache.settle(layout)
        _fill(cache, rows, length, _memory_columns(prompts, legacies))
        cache.note_missing(
            {slot: _gone(slot, rows) for slot, spec in layout.specs.items() if spec.reach is not None},
            [int(columns[-1]) + 1 if len(columns) else 0 for _, columns in rows],
        )
        return cache


def coding_asked(asked: Asked) -> Coding | None:
    """How a call's engine keeps keys and values: in few bits where a quantized cache is asked for, in eight or in four.

    The ecosystem's quantized caches keep the newest tokens whole and pack the others together, so that a token's
    numbers depend on how many came after it. Here each is coded alone, when it is written; groups, axes and
    ``residual_length`` say how the cache is packed that is given back.
    """
    if asked.values["cache_implementation"] != "quantized" or asked.parts.get(NAME) is not None:
        return None
    how = asked.values["cache_config"]
    bits = how.get("nbits", 4) if isinstance(how, Mapping) else 4
    eight = bits == 8 or (isinstance(how, Mapping) and how.get("backend") == "fp8")
    found = BITS["int8" if eight else "int4"]
    if bits not in (4, 8):
        log.info("cache_implementation='quantized' with nbits=%s: the engine itself keeps %s", bits, found.name)
    return found


def _maker(model: Generative, asked: Asked) -> Callable[[int], DenseState]:
    """How the cache is made that a call gives back; settings that cannot be are refused here."""
    kind, how, most = (asked.values[name] for name in ("cache_implementation", "cache_config", "max_cache_len"))
    if kind in STATIC_CACHES[2:] and "cache_implementation" not in asked.named:
        kind = None  # files of older models say so; the model itself knows its windows
    options = dict(how) if isinstance(how, Mapping) else {}
    options.pop("config", None)

    def make(length: int) -> Cache:
        offloading = str(kind).startswith("offloaded")
        if kind in STATIC_CACHES:
            room = max(length, most) if isinstance(most, int) else length
            return StaticCache(model.config, max_cache_len=max(room, 1), offloading=offloading)
        return QuantizedCache(**options) if kind == "quantized" else DynamicCache(offloading=offloading)

    if kind == "quantized":
        check_arguments("cache_config", options, QUANTIZED)
        make(1)
    if not model.encoder_inputs:
        return make
    return lambda length: EncoderDecoderCache(make(length), DynamicCache())


def _cut_mask(model: Generative, named: dict[str, object], past: int) -> Tensor | None:
    """Cut a mask over cached and new tokens to the new ones; returns the rest, or None where all tokens are given."""
    mask_name, ids_name = ("attention_mask", "input_ids")
    if model.encoder_inputs:
        mask_name, ids_name = "decoder_attention_mask", "decoder_input_ids"
    mask, ids = named.get(mask_name), named.get(ids_name)
    if not past or not isinstance(mask, Tensor) or not isinstance(ids, Tensor) or mask.dim() != 2 or ids.dim() != 2:
        return None
    if mask.shape[1] != past + ids.shape[1]:
        return None
    named[mask_name] = mask[:, past:]
    return mask[:, :past] != 0


def _columns(prompt: Prompt, width: int, tokens: int | None = None) -> Tensor:
    """Which columns a prompt's tokens stand in: where the caller put them, or at the right edge. Shape: [n]."""
    if prompt.columns is not None:
        return prompt.columns
    count = len(prompt.tokens) if tokens is None else tokens
    return torch.arange(max(0, width - count), max(width, count))


def width_of(prompts: Sequence[Prompt], given: Tensor | None) -> int:
    """How many columns the prompts of a call have."""
    if given is not None:
        return given.shape[1]
    ends = (len(p.tokens) if p.columns is None else int(p.columns[-1]) + 1 for p in prompts)
    return max(chain(ends, (0,)))


def _memory_columns(prompts: Sequence[Prompt], legacies: Sequence[Legacy]) -> tuple[list[Tensor], int]:
    """Which columns of the encoder's batch the tokens of each row's memory stand in, and how many there are."""
    columns: list[Tensor] = []
    width = 0
    for prompt, legacy in zip(prompts, legacies, strict=True):
        for left in legacy.in_order:
            length = next((parts[0].shape[1] for parts in left.memory.values()), 0)
            own, mask = torch.arange(length), prompt.encoder.get("attention_mask")
            if mask is not None and mask.dim() == 2 and int((mask[0] != 0).sum()) == length:
                own, width = (mask[0] != 0).nonzero()[:, 0].cpu(), max(width, mask.shape[1])
            columns.append(own)
            width = max(width, length)
    return columns, width


def _fill(
    cache: DenseState, rows: Sequence[tuple[Left, Tensor]], length: int, memory: tuple[list[Tensor], int]
) -> None:
    """Put what rows have left behind into a cache, in the place of all that it holds."""
    tokens: dict[int, tuple[Tensor, ...]] = {}
    fixed: dict[int, Tensor] = {}
    for slot, parts in rows[0][0].parts.items() if rows else ():
        if slot not in rows[0][0].gone:
            fixed[slot] = torch.stack([left.parts[slot][0] for left, _ in rows])
            continue
        tokens[slot] = tuple(
            _spread([(left.parts[slot][i], columns[left.gone[slot] :]) for left, columns in rows], length)
            for i in range(len(parts))
        )
    cross = {
        slot: tuple(
            _spread(
                [(left.memory[slot][i], own) for (left, _), own in zip(rows, memory[0], strict=True)], memory[1]
            )
            for i in range(2)
        )
        for slot in (rows[0][0].memory if rows else ())
    }  # fmt: skip
    cache.refill(tokens, fixed, cross, length)
    shifts = [left.shift for left, _ in rows]
    if any(shifts):
        device = next((part.device for part, *_ in tokens.values()), None)
        cache.shift = torch.tensor(shifts, device=device)[:, None]


def _spread(rows: Sequence[tuple[Tensor, Tensor]], length: int) -> Tensor:
    """Rows at their columns, zeros between them. Shape: [G, n, D] and [n] each, to [B, G, length, D]."""
    first = rows[0][0]
    whole = first.new_zeros(len(rows), first.shape[0], length, first.shape[2])
    for row, (part, columns) in zip(whole, rows, strict=True):
        row.index_copy_(1, columns.to(row.device), part)
    return whole


def _gone(slot: int, rows: Sequence[tuple[Left, Tensor]]) -> int:
    """Before which column some row no longer has what a window has passed."""
    return max(
        (int(columns[left.gone[slot]]) for left, columns in rows if 0 < left.gone.get(slot, 0) < len(columns)),
        default=0,
    )
