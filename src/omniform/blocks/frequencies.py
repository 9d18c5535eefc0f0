"""How fast each pair of channels turns, for rotary positions (https://arxiv.org/abs/2104.09864), read from a config.

A :class:`Frequencies` object is the plain way; its subclasses are the ways of stretching it for longer rows.
:mod:`~omniform.blocks.rotary` turns queries and keys by them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.host import kept_unless_traced
from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequencies:
    """Plain rotary frequencies, ``theta ** (-2i / dim)`` radians per position.

    Attributes:
        dim: how many channels of a head turn.
        theta: the base.
    """

    dim: int
    theta: float

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        return 1.0

    @property
    def by_length(self) -> bool:
        """Whether tokens turn by other angles in longer rows."""
        return False

    def regime(self, length: int) -> Hashable:
        """Equal for lengths of a row at which tokens turn by the same angles: keys may be shared between such rows."""
        return None

    @property
    def renews(self) -> bool:
        """Whether the keys of a row that is being written are computed anew when it passes into another regime."""
        return False

    def longest_row(self, max_positions: int) -> int | None:
        """The longest row that these frequencies make sense for, where the config names one; None for no limit."""
        return max_positions

    def inverse(self, device: torch.device, length: Tensor) -> Tensor:
        """Radians per position of each channel pair.

        Args:
            length: how long the row is: a scalar for all tokens of the step, or Shape: [1, N, 1].

        Returns:
            Shape: [dim / 2], or [1, N, dim / 2] where it depends on the length; float32.
        """
        return _plain(self.dim, self.theta, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Frequencies):
    """All frequencies divided by one factor (https://arxiv.org/abs/2306.15595)."""

    factor: float

    def longest_row(self, max_positions: int) -> int | None:
        # The config names the length before stretching.
        return max(max_positions, round(max_positions * self.factor))

    def inverse(self, device: torch.device, length: Tensor) -> Tensor:
        return _plain(self.dim, self.theta, device) / self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicNTK(Frequencies):
    """The base grows with the length once it passes the trained one ("NTK-aware" scaling, by u/emozilla)."""

    factor: float
    trained: int

    @property
    def by_length(self) -> bool:
        return True

    def regime(self, length: int) -> Hashable:
        return max(length, self.trained)

    def longest_row(self, max_positions: int) -> int | None:
        # Dynamic scaling is there to go beyond the trained length.
        return None

    def inverse(self, device: torch.device, length: Tensor) -> Tensor:
        longest = length.to(device=device, dtype=torch.float32).clamp(min=self.trained)
        stretch = self.factor * longest / self.trained - (self.factor - 1)
        theta = self.theta * stretch ** (self.dim / (self.dim - 2))
        return 1.0 / theta ** _exponents(self.dim, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Yarn(Frequencies):
    """YaRN (https://arxiv.org/abs/2309.00071): fast channels keep their speed, slow ones are slowed by ``factor``."""

    factor: float
    trained: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float
    truncate: bool = True

    @property
    def magnitude(self) -> float:
        return self.attention_factor

    def longest_row(self, max_positions: int) -> int | None:
        # Some configs name the stretched length, some that of before.
        return max(max_positions, round(self.trained * self.factor))

    def inverse(self, device: torch.device, length: Tensor) -> Tensor:
        low, high = self._turns(self.beta_fast), self._turns(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        span = high - low if high != low else 0.001
        slowed = ((torch.arange(self.dim // 2, dtype=torch.float32, device=device) - low) / span).clamp(0, 1)
        plain = _plain(self.dim, self.theta, device)
        return plain / self.factor * slowed + plain * (1 - slowed)

    def _turns(self, rotations: float) -> float:
        # The channel that makes this many full turns over the trained length.
        return self.dim * math.log(self.trained / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRope(Frequencies):
    """LongRoPE (https://arxiv.org/abs/2402.13753): one divisor per channel, another set beyond the trained length."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    trained: int
    attention_factor: float

    @property
    def magnitude(self) -> float:
        return self.attention_factor

    @property
    def by_length(self) -> bool:
        return True

    def regime(self, length: int) -> Hashable:
        return length > self.trained

    def inverse(self, device: torch.device, length: Tensor) -> Tensor:
        short, long = _listed(self.short, device), _listed(self.long, device)
        divisor = torch.where(length.to(device) > self.trained, long, short)
        return 1.0 / (divisor * self.theta ** _exponents(self.dim, device))


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewedLongRope(LongRope):
    """LongRoPE whose rows never mix the two sets: a row that outgrows the short one is computed anew (Phi-3)."""

    @property
    def renews(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3(Frequencies):
    """Llama 3.1: long waves are stretched by ``factor``, short ones kept, those between blended smoothly."""

    factor: float
    low: float
    high: float
    trained: int

    def inverse(self, device: torch.device, length: Tensor) -> Tensor:
        plain = _plain(self.dim, self.theta, device)
        turns = self.trained * plain / (2 * math.pi)
        blend = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return plain / self.factor * (1 - blend) + plain * blend


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportional(Frequencies):
    """The fastest channels turn as in a head of the same width, the others stay; all slowed by ``factor`` (Gemma 4).

    Attributes:
        pairs: how many channel pairs turn.
    """

    pairs: int
    factor: float

    def inverse(self, device: torch.device, length: Tensor) -> Tensor:
        plain = _plain(self.dim, self.theta, device)
        return torch.cat((plain[: self.pairs], torch.zeros_like(plain[self.pairs :]))) / self.factor


ROPE = ("rope_parameters", "rope_scaling")
"""Today's name of the rotary settings, and that of older files."""

FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of layers that may have rotary settings of their own: those that see all, and those with a window."""


def read_frequencies(
    r: ConfigReader,
    *,
    head_dim: int,
    max_positions: int,
    theta: float = 10000.0,
    partial: float | None = None,
    trained: int | None = None,
    usual: Mapping[str, object] | None = None,
) -> Frequencies:
    """Read the rotary settings of a config: ``rope_parameters``, or the older ``rope_theta`` and ``rope_scaling``.

    Args:
        head_dim: width of a head.
        max_positions: ``max_position_embeddings``, which some scalings refer to.
        theta: the family's default base.
        partial: the part of each head that rotates by default; None for families that rotate whole heads.
        trained: ``original_max_position_embeddings`` of the config itself, by default.
        usual: the settings of a config that has none.

    Raises:
        ConfigError: an unknown ``rope_type``, one that lacks a setting, or a part of each head that is to rotate.
    """
    top_theta = r.number("rope_theta", theta)
    scaling = r.mapping("rope_scaling") or r.mapping("rope_parameters") or usual or {}
    for name in ROPE:
        r.spellings[name] = ROPE
    trained_above = r.maybe_integer("original_max_position_embeddings", trained)
    s = r.within(scaling, "rope_parameters")
    kind = s.text("rope_type", "default", also=("type",))
    if kind in ("su", "yarn") and "short_factor" in scaling:
        kind = "longrope"  # as the first releases of Phi-3 call it
    if kind == "mrope" and "mrope_section" in scaling:
        kind = "default"  # as the first releases of Qwen2-VL call it: which axis a channel turns by is not asked here
    base = s.number("rope_theta", top_theta)
    share = s.number("partial_rotary_factor", r.number("partial_rotary_factor", 1.0 if partial is None else partial))
    if kind != "proportional":
        if partial is None and share != 1.0:  # the reference ignores it here, or fails in its midst, by rope_type
            raise r.fail("partial_rotary_factor", "1: this family rotates whole heads", share)
        head_dim = head_dim if share == 1.0 else int(head_dim * share)
    before = trained_above or s.integer("original_max_position_embeddings", max_positions)
    told = {**scaling, "rope_theta": base, "rope_type": kind}
    told |= {} if partial is None else {"partial_rotary_factor": share}
    told |= {"original_max_position_embeddings": before} if kind in RETRAINED else {}
    r.values.update(dict.fromkeys(ROPE, told))
    return _read_kind(s, kind, head_dim, base, before, max_positions, share)


RETRAINED = ("llama3", "yarn", "longrope")
"""Kinds of scaling that refer to the length a model was first trained for."""


Bases = Mapping[str, tuple[str | None, float]]
"""By the kind of layer, what older files call its rotary base (None if nothing), and its default."""


def read_layer_frequencies(
    r: ConfigReader,
    bases: Bases,
    *,
    head_dim: int,
    max_positions: int,
    scaled: Collection[str],
) -> Mapping[str, Frequencies]:
    """Read rotary settings that differ between kinds of layers: ``rope_parameters`` holds some of each kind.

    Args:
        bases: of each kind of layer.
        head_dim: width of a head.
        max_positions: ``max_position_embeddings``, which some scalings refer to.
        scaled: kinds of layers that the ``rope_scaling`` of older files is about.

    Returns:
        By the kind of layer.

    Raises:
        ConfigError: as :func:`read_frequencies`.
    """
    nested, scaling = r.mapping("rope_parameters") or {}, r.mapping("rope_scaling") or {}
    if strays := nested.keys() - bases.keys():
        raise r.fail("rope_parameters", f"an object each for {' and '.join(bases)}", ", ".join(sorted(strays)))
    found, told = {}, {}
    for layers, (key, default) in bases.items():
        own = nested.get(layers) or {}
        if not isinstance(own, Mapping):
            raise r.fail("rope_parameters", f"an object of settings for {layers}", own)
        settings = {**own, **(scaling if layers in scaled else {})}
        s = r.within(settings, "rope_parameters", layers)
        kind, share = s.text("rope_type", "default", also=("type",)), r.number("partial_rotary_factor", 1.0)
        base = s.number("rope_theta", default if key is None else r.number(key, default))
        share = s.number("partial_rotary_factor", share)
        if share != 1.0 and kind != "proportional":
            raise s.fail("partial_rotary_factor", "1: this family rotates whole heads", settings)
        before = s.integer("original_max_position_embeddings", max_positions)
        found[layers] = _read_kind(s, kind, head_dim, base, before, max_positions, share)
        told[layers] = {**settings, "rope_theta": base, "rope_type": kind}
        told[layers] |= {"original_max_position_embeddings": before} if kind in RETRAINED else {}
    r.values.update(dict.fromkeys(ROPE, told))
    r.spellings |= dict.fromkeys(ROPE, ROPE)
    return found


def _read_kind(
    s: ConfigReader, kind: str, dim: int, theta: float, trained: int, max_positions: int, share: float
) -> Frequencies:
    """The frequencies of one ``rope_type``, with the settings in ``s``; ``share``: of channels, if the type minds."""
    match kind:
        case "default":
            return Frequencies(dim=dim, theta=theta)
        case "linear":
            return Linear(dim=dim, theta=theta, factor=s.number("factor"))
        case "dynamic":
            return DynamicNTK(dim=dim, theta=theta, factor=s.number("factor"), trained=max_positions)
        case "llama3":
            low, high = s.number("low_freq_factor"), s.number("high_freq_factor")
            return Llama3(dim=dim, theta=theta, factor=s.number("factor"), low=low, high=high, trained=trained)
        case "yarn":
            return _read_yarn(s, dim, theta, trained, max_positions)
        case "longrope":
            return _read_longrope(s, dim, theta, trained, max_positions)
        case "proportional":
            return Proportional(dim=dim, theta=theta, pairs=int(share * dim // 2), factor=s.number("factor", 1.0))
        case _:
            raise s.fail("rope_type", "default, linear, dynamic, llama3, yarn, longrope or proportional", repr(kind))


def _read_yarn(s: ConfigReader, dim: int, theta: float, trained: int, max_positions: int) -> Yarn:
    factor = s.maybe_number("factor") or max_positions / trained
    mscale, mscale_all = s.maybe_number("mscale"), s.maybe_number("mscale_all_dim")
    if mscale and mscale_all:
        inferred = _yarn_magnitude(factor, mscale) / _yarn_magnitude(factor, mscale_all)
    else:
        inferred = _yarn_magnitude(factor, 1.0)
    magnitude = s.maybe_number("attention_factor")
    return Yarn(
        dim=dim,
        theta=theta,
        factor=factor,
        trained=trained,
        beta_fast=s.maybe_number("beta_fast") or 32.0,
        beta_slow=s.maybe_number("beta_slow") or 1.0,
        attention_factor=inferred if magnitude is None else magnitude,
        truncate=s.flag("truncate", True),
    )


def _yarn_magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _read_longrope(s: ConfigReader, dim: int, theta: float, trained: int, max_positions: int) -> LongRope:
    short, long = s.numbers("short_factor"), s.numbers("long_factor")
    for name, factors in (("short_factor", short), ("long_factor", long)):
        if len(factors) != dim // 2:
            raise s.fail(name, f"{dim // 2} numbers, one per channel pair", f"{len(factors)}")
    factor = s.maybe_number("factor") or max_positions / trained
    magnitude = s.maybe_number("attention_factor")
    if magnitude is None:
        magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))
    return LongRope(dim=dim, theta=theta, short=short, long=long, trained=trained, attention_factor=magnitude)


@kept_unless_traced(64)
def _exponents(dim: int, device: torch.device) -> Tensor:
    return torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim


@kept_unless_traced(16)
def _listed(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=device)


@kept_unless_traced(64)
def _plain(dim: int, theta: float, device: torch.device) -> Tensor:
    return 1.0 / theta ** _exponents(dim, device)
