"""Selective state spaces: linear recurrences whose tokens say how much of them is kept (https://arxiv.org/abs/2405.21060)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.lowering import Value
from omniform.blocks.mlp import activation
from omniform.blocks.norms import GateFirstRMSNorm, SiLUGate
from omniform.blocks.recurrent import (
    CHUNK,
    PaddedConv,
    Recurrence,
    ShortConv,
    chunks_of,
    emptied,
    forgotten,
    sums_between,
)
from omniform.core.context import StepContext
from omniform.core.state import Recurrent

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder

Gated = GateFirstRMSNorm | SiLUGate
"""What joins a state space's outputs with their gates."""


class StateSpaceDual(Recurrence):
    """The recurrence of Mamba 2, in its dual form for many tokens (sections 3 and 6 there).

    Each head keeps a matrix S of ``size`` rows. A token lets it fade by ``exp(g)``, adds its value x in the direction
    b, and reads it in the direction c::

        S = exp(g) S + b' (dt x);   out = c S

    Within a chunk that is attention without a softmax, whose scores fade with distance. Both are computed in float32.

    Args:
        heads: how many heads, each with a state of its own.
        width: of a head's values.
        size: of its state.
    """

    def __init__(self, heads: int, width: int, size: int) -> None:
        super().__init__()
        self.heads, self.width, self.size = heads, width, size

    def state_spec(self) -> Recurrent:
        return Recurrent((self.heads, self.size, self.width))

    def forward(
        self, x_BTHP: Tensor, b_BTGN: Tensor, c_BTGN: Tensor, dt_BTH: Tensor, g_BTH: Tensor, ctx: StepContext
    ) -> Tensor:
        """One step.

        Args:
            x_BTHP: values.
            b_BTGN: directions that they are added in, where G divides H: each group of H/G heads shares one.
            c_BTGN: directions that the states are read in.
            dt_BTH: how much of each value is added.
            g_BTH: logarithms of how much of the state each token leaves.

        Returns:
            Shape: [B, T, H, P], float32.
        """
        return self.scan(ctx, x_BTHP, b_BTGN, c_BTGN, dt_BTH, g_BTH)

    def lower_heads(self, build: Builder, x: Value, b: Value, c: Value, dt: Value, g: Value) -> Value:
        """The same of values: what a value is added in and read in are a key and a query."""
        build.sure(self, "lower_heads")
        return build.recur(c, b, x, g, dt, self, corrects=False)

    def advance(
        self, state: Tensor, lengths: Tensor | None, *inputs: Tensor, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, b, c, dt, g = (y.float().transpose(1, 2) for y in inputs)
        if lengths is not None:
            # A token that lets nothing fade and adds nothing leaves the state as it is.
            real = (torch.arange(g.shape[2], device=g.device) < lengths[:, None])[:, None]
            dt, g = dt * real, g * real
        g = forgotten(g, place)
        groups, tokens = b.shape[1], x.shape[2]
        x, g = ((y.unflatten(1, (groups, -1))) for y in (x * dt[..., None], g))  # type: ignore[no-untyped-call]
        s = state.unflatten(1, (groups, -1))  # type: ignore[no-untyped-call]
        if tokens == 1:
            out, s = _one_token(x, b[:, :, None], c[:, :, None], g, s)
        else:
            out, s = _in_chunks(x, b[:, :, None], c[:, :, None], g, s, exact=place is not None)
        return out.flatten(1, 2).transpose(1, 2), s.flatten(1, 2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, width={self.width}, size={self.size}"


def _one_token(x: Tensor, b: Tensor, c: Tensor, g: Tensor, s_BGRNP: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is defined; see :func:`_in_chunks` for shapes."""
    s_BGRNP = s_BGRNP * g.exp()[..., None] + b.transpose(-1, -2) * x
    return c @ s_BGRNP, s_BGRNP


def _in_chunks(x: Tensor, b: Tensor, c: Tensor, g: Tensor, s_BGRNP: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    """The same for many tokens.

    Args:
        x: Shape: [B, G, R, T, P], where R heads share a group.
        b: Shape: [B, G, 1, T, N]; ``c`` likewise.
        g: Shape: [B, G, R, T].
        exact: among them are some that forget everything.
    """
    tokens = x.shape[3]
    count, size, short = chunks_of(tokens)
    # What fills the last chunk lets nothing fade and adds nothing.
    x, b, c = (F.pad(y, (0, 0, 0, short)).unflatten(3, (count, size)) for y in (x, b, c))  # type: ignore[no-untyped-call]
    g = F.pad(g, (0, short)).unflatten(3, (count, size))  # type: ignore[no-untyped-call]
    fade = g.cumsum(-1)  # from the chunk's beginning to each token
    # From token to token. Over a long chunk the sums grow so great that their differences would be inexact.
    apart = sums_between(g) if exact or torch.compiler.is_exporting() else fade[..., :, None] - fade[..., None, :]
    within = ((c @ b.transpose(-1, -2)) * apart.tril().exp().tril()) @ x
    read, added = c * fade.exp()[..., None], b * apart[..., -1, :, None].exp()
    left = fade[..., -1:, None].exp()
    outs = []
    for chunk in range(count):
        outs.append(within[:, :, :, chunk] + read[:, :, :, chunk] @ s_BGRNP)
        s_BGRNP = s_BGRNP * left[:, :, :, chunk] + added[:, :, :, chunk].transpose(-1, -2) @ x[:, :, :, chunk]
    return torch.cat(outs, dim=3)[:, :, :, :tokens], s_BGRNP


class StateSpace(Recurrence):
    """The recurrence of Mamba (https://arxiv.org/abs/2312.00752): every channel has a state, and rates, of its own.

    ::

        S = exp(dt A) S + (dt x) b;   out = S c

    The tokens of a step are read one after another: what each lets fade differs by channel and by place of the state,
    so there is no matmul to make of many. Computed in float32.

    Args:
        channels: of the input.
        size: of a channel's state.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(channels, size))

    def reset(self, std: float) -> None:
        """Fresh rates, the same spread for every channel."""
        with torch.no_grad():
            self.A_log.copy_(torch.arange(1, self.A_log.shape[1] + 1).log().expand_as(self.A_log))

    def state_spec(self) -> Recurrent:
        return Recurrent(tuple(self.A_log.shape))

    def forward(self, x_BTD: Tensor, b_BTN: Tensor, c_BTN: Tensor, dt_BTD: Tensor, ctx: StepContext) -> Tensor:
        """One step.

        Args:
            x_BTD: what is added.
            b_BTN: where to.
            c_BTN: where from the states are read.
            dt_BTD: steps of time.

        Returns:
            Shape: [B, T, D], float32.
        """
        return self.scan(ctx, x_BTD, b_BTN, c_BTN, dt_BTD)

    def lower_channels(self, build: Builder, x: Value, b: Value, c: Value, dt: Value) -> Value:
        """The same of values."""
        build.sure(self, "lower_channels")
        return build.scan(x, b, c, dt, -self.A_log.float().exp(), self)

    def advance(
        self, state: Tensor, lengths: Tensor | None, *inputs: Tensor, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, b, c, dt = (y.float() for y in inputs)
        if lengths is not None:
            # A token for which no time passes leaves the state as it is.
            dt = dt * (torch.arange(dt.shape[1], device=dt.device) < lengths[:, None])[..., None]
        a_DN = -self.A_log.float().exp()
        if torch.compiler.is_exporting():
            return _all_pairs(a_DN, x * dt, b, c, dt, state, place)
        goes_on = None if place is None else (place > 0)[..., None, None]
        outs = []
        # Some at a time, or what every token adds to every state would be held at once.
        for some in range(0, x.shape[1], CHUNK):
            x_, b_, c_, dt_ = (y[:, some : some + CHUNK] for y in (x, b, c, dt))
            fade, added = (dt_[..., None] * a_DN).exp(), (dt_ * x_)[..., None] * b_[:, :, None]
            fade = fade if goes_on is None else fade * goes_on[:, some : some + CHUNK]
            states = []
            for token in range(x_.shape[1]):
                state = torch.addcmul(added[:, token], fade[:, token], state)
                states.append(state)
            outs.append((torch.stack(states, dim=1) @ c_[..., None])[..., 0])
        return torch.cat(outs, dim=1), state

    def extra_repr(self) -> str:
        return f"channels={self.A_log.shape[0]}, size={self.A_log.shape[1]}"


def _all_pairs(
    a_DN: Tensor, x: Tensor, b: Tensor, c: Tensor, dt: Tensor, s_BDN: Tensor, place: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same without a loop, for programs that hold for any number of tokens; takes memory for every pair of them."""
    apart = sums_between(dt.transpose(1, 2))[:, :, :, :, None] * a_DN[:, None, None]  # [B, D, T (i), T (j), N]
    within = apart.exp() * torch.ones_like(apart[..., 0]).tril()[..., None]
    if place is not None:  # only tokens of the same text, and nothing of what was before
        index = torch.arange(place.shape[-1], device=place.device)
        within = within * ((index - place)[:, :, None] == (index - place)[:, None])[:, None, ..., None]
        s_BDN = torch.zeros_like(s_BDN)
    added = (x[..., None] * b[:, :, None]).transpose(1, 2)  # [B, D, T, N]
    before = (dt.transpose(1, 2).cumsum(-1)[..., None] * a_DN[:, None]).exp() * s_BDN[:, :, None]
    states = (within * added[:, :, None]).sum(3) + before
    return (states * c[:, None]).sum(-1).transpose(1, 2), states[:, :, -1]


class SelectiveMixer(nn.Module):
    """A layer's state space: a projection, a short convolution, the recurrence, a gate (Mamba).

    Args:
        dim: width of the residual stream.
        inner: channels of the recurrence.
        size: of a channel's state.
        rank: width of what steps of time are made of.
        taps: tokens that the convolution sees.
        act: name of the activation after it.
        norm: what steps and directions pass before they are used.
        bias: whether the projections have biases.
        conv_bias: whether the convolution has one.
    """

    def __init__(
        self,
        dim: int,
        inner: int,
        size: int,
        *,
        rank: int,
        taps: int,
        act: str,
        norm: nn.Module,
        bias: bool = False,
        conv_bias: bool = True,
    ) -> None:
        super().__init__()
        self._widths, self.act, self._act = [rank, size, size], act, activation(act)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=bias)
        self.conv1d = (PaddedConv if bias else ShortConv)(inner, taps, bias=conv_bias)
        self.x_proj = nn.Linear(inner, sum(self._widths), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.recurrence = StateSpace(inner, size)
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, dim, bias=bias)
        self.norm = norm

    def reset(self, std: float) -> None:
        """Fresh values pass through."""
        nn.init.ones_(self.D)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in; out of the tokens that are wanted."""
        x, gate = self.in_proj(emptied(x_BTD, ctx)).chunk(2, dim=-1)
        x = self._act(self.conv1d(x, ctx))
        small, b, c = (self.norm(y) for y in torch.split(self.x_proj(x), self._widths, dim=-1))
        seen = self.recurrence(x, b, c, F.softplus(self.dt_proj(small)), ctx)
        seen = ctx.only_wanted(seen) + ctx.only_wanted(x) * self.D
        out: Tensor = self.out_proj((seen * F.silu(ctx.only_wanted(gate))).to(x.dtype))
        return out

    def lower(self, b: Builder, x: Value) -> Value:
        x, gate = b.of(self.in_proj, x).chunk(2)
        x = b.act(self.act, b.of(self.conv1d, x))
        small, key, query = (b.of(self.norm, y) for y in b.of(self.x_proj, x).split(self._widths))
        steps = b.act("softplus", b.of(self.dt_proj, small))
        seen = b.only_wanted(self.recurrence.lower_channels(b, x, key, query, steps))
        seen = b.add(seen, b.weigh(b.only_wanted(x), self.D, None))
        return b.of(self.out_proj, b.gate("silu", b.only_wanted(gate), seen))


class StateSpaceMixer(nn.Module):
    """A layer's state space: a projection, a short convolution, the recurrence, a gated norm (Mamba 2).

    Args:
        dim: width of the residual stream.
        heads: how many heads.
        width: of a head's values.
        size: of its state.
        groups: how many groups of heads share their directions.
        taps: tokens that the convolution sees.
        act: name of the activation after it.
        norm: what the outputs of all heads pass together with their gates.
        limit: the least and the greatest step of time.
        bias: whether the projection into it has biases.
        conv_bias: whether the convolution has one.
        out_bias: whether the projection out of it has one.

    Attributes:
        widths: of values and of the directions that they are written and read in, all heads side by side.
    """

    READ: ClassVar[frozenset[str]] = frozenset({"projected"})

    def __init__(
        self,
        dim: int,
        heads: int,
        width: int,
        size: int,
        *,
        groups: int,
        taps: int,
        act: str,
        norm: Gated,
        limit: tuple[float, float] = (0.0, math.inf),
        bias: bool = False,
        conv_bias: bool = True,
        out_bias: bool = False,
    ) -> None:
        super().__init__()
        inner = heads * width
        self.widths, self._limit = [inner, groups * size, groups * size], limit
        self.act, self._act = act, activation(act)
        self.in_proj = nn.Linear(dim, inner + sum(self.widths) + heads, bias=bias)
        self.conv1d = (PaddedConv if bias else ShortConv)(sum(self.widths), taps, bias=conv_bias)
        self.recurrence = StateSpaceDual(heads, width, size)
        self.dt_bias, self.A_log, self.D = (nn.Parameter(torch.empty(heads)) for _ in range(3))
        self.norm = norm
        self.out_proj = nn.Linear(inner, dim, bias=out_bias)

    def reset(self, std: float) -> None:
        """Fresh rates: steps of 0.001 to 0.1, a wide spread of fading, and values that pass through."""
        fresh_steps(self.dt_bias)
        with torch.no_grad():
            self.A_log.copy_(torch.arange(1, len(self.A_log) + 1).log())
        nn.init.ones_(self.D)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in; out of the tokens that are wanted."""
        gate, mixed, dt = self.projected(emptied(x_BTD, ctx))
        mixed = self._act(self.conv1d(mixed, ctx))
        x, b, c = torch.split(mixed, self.widths, dim=-1)
        x = x.reshape(*x.shape[:-1], len(self.D), -1)
        b, c = (y.reshape(*y.shape[:-1], -1, self.recurrence.size) for y in (b, c))
        dt = F.softplus(dt + self.dt_bias).clamp(*self._limit).float()
        seen = self.recurrence(x, b, c, dt, dt * -self.A_log.float().exp(), ctx)
        seen = ctx.only_wanted(seen) + ctx.only_wanted(x) * self.D[:, None]
        out: Tensor = self.out_proj(self.norm.gated(seen.flatten(-2), ctx.only_wanted(gate)).to(x.dtype))
        return out

    def lower(self, b: Builder, x: Value) -> Value:
        gate, mixed, dt = b.read(self.projected, x)
        mixed = b.act(self.act, b.of(self.conv1d, mixed))
        x, key, query = mixed.split(self.widths)
        x = x.in_heads(self.recurrence.width)
        key, query = (y.in_heads(self.recurrence.size) for y in (key, query))
        dt = b.act("softplus", b.weigh(dt, None, self.dt_bias)).clamp(*self._limit)
        fading = b.weigh(dt, -self.A_log.float().exp(), None)
        seen = b.only_wanted(self.recurrence.lower_heads(b, x, key, query, dt, fading)).flatten(-2)
        passed = b.weigh(b.only_wanted(x).flatten(-2), self.D.repeat_interleave(self.recurrence.width), None)
        return b.of(self.out_proj, self.norm.lower_gated(b, b.add(seen, passed), b.only_wanted(gate)))

    def projected(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gates; values and directions, as the convolution reads them; steps."""
        gate, mixed, dt = torch.split(self.in_proj(x_BTD), [self.widths[0], sum(self.widths), len(self.D)], dim=-1)
        return gate, mixed, dt


def fresh_steps(bias: Tensor, least: float = 0.001, most: float = 0.1, floor: float = 1e-4) -> None:
    """Biases whose softplus are steps of time between ``least`` and ``most``, evenly over their logarithms."""
    with torch.no_grad():
        steps = (torch.rand_like(bias) * math.log(most / least) + math.log(least)).exp().clamp(min=floor)
        bias.copy_(steps + (-torch.expm1(-steps)).log())
