"""Mixers that remember a state of fixed size: causal convolutions, and the gated delta rule.

A :class:`Recurrence` says what one step makes of a state and some tokens, for rows of equally many tokens; how rows are
laid out (padded on any side, or packed, each of its own length) and where states are kept is no concern of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.joint import outputs_of
from omniform.blocks.lowering import Value
from omniform.blocks.mlp import activation
from omniform.blocks.norms import GatedRMSNorm
from omniform.core.context import StepContext
from omniform.core.errors import InputError
from omniform.core.packed import PackedContext
from omniform.core.state import Conv, FixedView, Recurrent, StatefulModule, StateSpec

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder

CHUNK = 64
"""Tokens that a recurrence reads at once."""


class Recurrence(StatefulModule):
    """Base of mixers that take a state of fixed size from token to token.

    A family that brings a recurrence of its own writes :meth:`state_spec` and :meth:`advance`, and calls :meth:`scan`.
    """

    @abstractmethod
    def state_spec(self) -> StateSpec:
        """What must be kept: a spec whose one shape is that of a row's state."""

    @abstractmethod
    def advance(
        self, state: Tensor, lengths: Tensor | None, *inputs: Tensor, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read some tokens of each row.

        Args:
            state: before them. Shape: [B, *shape].
            lengths: how many tokens each row really has; those behind are padding, which must leave the state as it
                is. Shape: [B]; None where all are real.
            inputs: Shape: [B, T, ...] each.
            place: how many tokens of its text come before each, in rows of several texts: at 0 nothing is known of what
                came before. Shape: [B or 1, T]; None where every row goes on with its text.

        Returns:
            What becomes of the tokens, Shape: [B, T, ...], and the state after them. What it says of padding is
            replaced by zeros.
        """

    def scan(self, ctx: StepContext, *inputs: Tensor) -> Tensor:
        """Read the tokens of a step, every row from its own state on.

        Args:
            inputs: Shape: [B, T, ...] each; in a packed step [1, N, ...].

        Returns:
            Shape: [B, T, ...].

        Raises:
            InputError: a mask of shape [B, 1, T, S], which a recurrence cannot follow.
        """
        kept = None if ctx.state is None else ctx.state.fixed(self.slot)
        if isinstance(ctx, PackedContext):
            assert kept is not None, "a packed step has a state"
            return self._packed(ctx, kept, inputs)
        if ctx.allowed is not None:
            raise InputError(
                "a recurrence reads every token in turn, and cannot leave some out for others",
                where="attention_mask",
                expected="shape [batch, tokens], 1 for real tokens",
                found=f"shape {list(ctx.allowed.shape)}",
            )
        return self._padded(ctx, kept, inputs)

    def _packed(self, ctx: PackedContext, kept: FixedView, inputs: tuple[Tensor, ...]) -> Tensor:
        groups, out = ctx.alike(), None
        for group in groups:
            own = [x[0, group.tokens].reshape(-1, group.count, *x.shape[2:]) for x in inputs]
            made, state = self.advance(self._begun(kept.read(group.rows), own[0]), None, *own)
            kept.write(group.rows, state)
            if len(groups) == 1:
                return made.flatten(0, 1)[None]
            out = made.new_empty(inputs[0].shape[1], *made.shape[2:]) if out is None else out
            out[group.tokens] = made.flatten(0, 1)
        assert out is not None, "a step has rows"
        return out[None]

    def _padded(self, ctx: StepContext, kept: FixedView | None, inputs: tuple[Tensor, ...]) -> Tensor:
        everyone = slice(None)
        state = self._begun(None if kept is None else kept.read(everyone), inputs[0])
        place = ctx.place()
        if ctx.padding is None:
            made, state = self.advance(state, None, *inputs, place=place)
        else:
            # Real tokens come first, so that what lies between and before them is behind all of them.
            real = ctx.padding[:, -inputs[0].shape[1] :]
            order, back = ctx.once("real tokens first", lambda: _real_first(real))
            place = None if place is None else _taken(place.expand_as(order), order)
            made, state = self.advance(state, real.sum(1), *(_taken(x, order) for x in inputs), place=place)
            # A padding token is made of nothing, as if its input were zero.
            made = _taken(made, back).masked_fill(~real.view(*real.shape, *(1,) * (made.dim() - 2)), 0)
        if kept is not None:
            kept.write(everyone, state)
        return made

    def _begun(self, state: Tensor | None, x_BT: Tensor) -> Tensor:
        if state is not None:
            return state
        spec = self.state_spec()
        return x_BT.new_zeros(x_BT.shape[0], *spec.shapes[0], dtype=spec.stored_as(x_BT.dtype))


def _real_first(real_BT: Tensor) -> tuple[Tensor, Tensor]:
    """An order of each row's tokens, the real ones first, and the way back."""
    order = real_BT.int().argsort(dim=1, descending=True, stable=True)
    return order, order.argsort(dim=1)


def _taken(x_BT: Tensor, order_BT: Tensor) -> Tensor:
    """Each row's tokens in another order. Shape: [B, T, ...]."""
    return x_BT[torch.arange(order_BT.shape[0], device=order_BT.device)[:, None], order_BT]


class ShortConv(Recurrence):
    """A causal convolution of every channel by itself, over the last few tokens (https://arxiv.org/abs/2312.00752).

    Args:
        channels: of the input and the output.
        width: how many tokens it sees, its own included.
        bias: whether each channel has one.
    """

    def __init__(self, channels: int, width: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))  # the Hub's shape, that of a convolution in groups
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def reset(self, std: float) -> None:
        """Fresh weights, as torch's convolutions begin."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def state_spec(self) -> Conv:
        return Conv(self.weight.shape[0], self.weight.shape[2])

    def forward(self, x_BTC: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, C] in and out."""
        return self.scan(ctx, x_BTC)

    def lower(self, b: Builder, x: Value) -> Value:
        return b.convolve(x, self.weight[:, 0], self.bias, self)

    def advance(
        self, state: Tensor, lengths: Tensor | None, *inputs: Tensor, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        (x_BTC,) = inputs
        seen, before = torch.cat([state.to(x_BTC.dtype), x_BTC], dim=1), state.shape[1]
        # Sums are made in float32, as a matmul's are.
        wide, taps_WC = seen.float(), self.weight[:, 0].t().float()
        out = _own(wide[:, : x_BTC.shape[1]], before, place) * taps_WC[0]
        for tap in range(1, before + 1):  # in the order of torch's own convolution, to its last bit
            out = torch.addcmul(out, _own(wide[:, tap : tap + x_BTC.shape[1]], before - tap, place), taps_WC[tap])
        out = (out if self.bias is None else out + self.bias).to(x_BTC.dtype)
        if lengths is None:
            return out, seen[:, seen.shape[1] - before :].clone()  # a view would keep the whole prompt alive
        last = lengths[:, None] + torch.arange(before, device=lengths.device)
        return out, _taken(seen, last)

    def extra_repr(self) -> str:
        channels, _, width = self.weight.shape
        return f"{channels}, width={width}, bias={self.bias is not None}"


def _own(seen_BTC: Tensor, back: int, place: Tensor | None) -> Tensor:
    """What tokens see so many places back, where that is of their own text; zeros elsewhere. Shape: [B, T, C]."""
    return seen_BTC if place is None or back == 0 else seen_BTC * (place >= back)[..., None]


class PaddedConv(ShortConv):
    """A convolution that sees padding as it is, and makes nothing of it.

    The reference's state spaces hand their convolutions what a projection with biases makes of zeros there. A row that
    has padding before it is then another than the row alone.
    """

    def forward(self, x_BTC: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, C] in and out."""
        return emptied(self.scan(ctx.with_(padding=None), x_BTC), ctx)

    def lower(self, b: Builder, x: Value) -> Value:
        return b.convolve(x, self.weight[:, 0], self.bias, self, unpadded=True)


def emptied(x_BTC: Tensor, ctx: StepContext) -> Tensor:
    """Zeros for padding. Shape: [B, T, C] in and out."""
    return x_BTC if ctx.padding is None else x_BTC * ctx.padding[:, -x_BTC.shape[1] :, None]


class GatedDeltaRule(Recurrence):
    """Linear attention that corrects what it remembers (https://arxiv.org/abs/2412.06464).

    Each head keeps a matrix S of what its keys stand for. A token lets it fade by ``exp(g)``, replaces the share
    ``beta`` of what S says of its key k by its value v, and asks it with its query q::

        S = exp(g) S;   S = S + k (beta (v - S' k))';   out = S' q

    A prompt is read in chunks, within which these updates are one triangular system (section 3.3 there); a single
    token as it is written above. Both are computed in float32.

    Args:
        heads: how many value heads, each with a state of its own.
        dk: width of a query and a key.
        dv: width of a value.
    """

    def __init__(self, heads: int, dk: int, dv: int) -> None:
        super().__init__()
        self.heads, self.dk, self.dv = heads, dk, dv

    def state_spec(self) -> Recurrent:
        return Recurrent((self.heads, self.dk, self.dv))

    def forward(
        self, q_BTGK: Tensor, k_BTGK: Tensor, v_BTHV: Tensor, g_BTH: Tensor, beta_BTH: Tensor, ctx: StepContext
    ) -> Tensor:
        """One step.

        Args:
            q_BTGK: queries, where G divides H: each group of H/G heads shares one. They and the keys are brought to
                length one here, and the queries divided by the root of their width.
            k_BTGK: keys likewise.
            v_BTHV: values.
            g_BTH: logarithms of how much of the state each token leaves.
            beta_BTH: how much of what a key stands for is replaced, 0 to 1.

        Returns:
            Shape: [B, T, H, V], in the dtype of the values.
        """
        return self.scan(ctx, q_BTGK, k_BTGK, v_BTHV, g_BTH, beta_BTH)

    def lower_heads(self, b: Builder, q: Value, k: Value, v: Value, g: Value, beta: Value) -> Value:
        """The same of values."""
        b.sure(self, "lower_heads")
        # Length one is a root mean square of one over the root of the width.
        eps, part = 1e-6 / self.dk, self.dk**-0.5
        q = b.rms(q, torch.full((self.dk,), part * part, device="cpu"), eps)
        k = b.rms(k, torch.full((self.dk,), part, device="cpu"), eps)
        return b.recur(q, k, v, g, beta, self, corrects=True)

    def advance(
        self, state: Tensor, lengths: Tensor | None, *inputs: Tensor, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        q, k, v, g, beta = (x.float().transpose(1, 2) for x in inputs)
        q, k = _unit(q) * self.dk**-0.5, _unit(k)
        if q.shape[1] != self.heads:
            q, k = (x.repeat_interleave(self.heads // x.shape[1], dim=1) for x in (q, k))
        if lengths is not None:
            # A token that lets nothing fade and replaces nothing leaves the state as it is.
            real = (torch.arange(g.shape[2], device=g.device) < lengths[:, None])[:, None]
            g, beta = g * real, beta * real
        g = forgotten(g, place)
        if q.shape[2] == 1:
            out, state = _one_token(q, k, v, g, beta, state)
        else:
            out, state = _in_chunks(q, k, v, g, beta, state, exact=place is not None)
        return out.transpose(1, 2).to(inputs[2].dtype), state

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dk={self.dk}, dv={self.dv}"


class GatedDeltaNet(nn.Module):
    """Linear attention of a layer: a short convolution, the gated delta rule, a gated norm (Qwen3-Next, Qwen3.5).

    Args:
        dim: width of the residual stream.
        key_heads: heads of queries and keys; a divisor of ``heads``.
        heads: heads of values, each with a state of its own.
        dk: width of a query and a key.
        dv: width of a value.
        width: tokens that the convolution sees.
        act: name of the activation after it.
        eps: of the norm.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_proj", "k_proj", "v_proj", "z_proj", "b_proj", "a_proj"),)

    def __init__(
        self, dim: int, key_heads: int, heads: int, dk: int, dv: int, width: int, *, act: str, eps: float
    ) -> None:
        super().__init__()
        self.q_proj, self.k_proj = (nn.Linear(dim, key_heads * dk, bias=False) for _ in range(2))
        self.v_proj, self.z_proj = (nn.Linear(dim, heads * dv, bias=False) for _ in range(2))
        self.b_proj, self.a_proj = (nn.Linear(dim, heads, bias=False) for _ in range(2))
        self.conv1d = ShortConv(2 * key_heads * dk + heads * dv, width)
        self.rule = GatedDeltaRule(heads, dk, dv)
        self.dt_bias, self.A_log = nn.Parameter(torch.empty(heads)), nn.Parameter(torch.empty(heads))
        self.norm = GatedRMSNorm(dv, eps)
        self.out_proj = nn.Linear(heads * dv, dim, bias=False)
        self.act, self._act = act, activation(act)

    def reset(self, std: float) -> None:
        """Fresh rates of fading: a wide spread of them."""
        nn.init.ones_(self.dt_bias)
        nn.init.uniform_(self.A_log, 0.01, 16).log_()

    def lower(self, b: Builder, x: Value) -> Value:
        inputs = (self.q_proj, self.k_proj, self.v_proj, self.z_proj, self.b_proj, self.a_proj)
        q, k, v, z, beta, a = b.linear(x, *inputs)
        mixed = b.act(self.act, b.of(self.conv1d, q.beside(k, v)))
        q, k, v = mixed.split([q.place.width, k.place.width, v.place.width])
        q, k = (y.in_heads(self.rule.dk) for y in (q, k))
        v, z = (y.in_heads(self.rule.dv) for y in (v, z))
        g = b.weigh(b.act("softplus", b.weigh(a, None, self.dt_bias)), -self.A_log.float().exp(), None)
        seen = b.only_wanted(self.rule.lower_heads(b, q, k, v, g, b.act("sigmoid", beta)))
        return b.of(self.out_proj, self.norm.lower_gated(b, seen, b.only_wanted(z)).flatten(-2))

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in; out of the tokens that are wanted."""
        inputs = (self.q_proj, self.k_proj, self.v_proj, self.z_proj, self.b_proj, self.a_proj)
        *qkv, z, b, a = outputs_of(x_BTD, *inputs)
        mixed: Tensor = self._act(self.conv1d(torch.cat(qkv, dim=-1), ctx))
        q, k, v = torch.split(mixed, [x.shape[-1] for x in qkv], dim=-1)
        q, k = (x.reshape(*x.shape[:-1], -1, self.rule.dk) for x in (q, k))
        v, z = (x.reshape(*x.shape[:-1], -1, self.rule.dv) for x in (v, z))
        g = -self.A_log.float().exp() * F.softplus(a.float() + self.dt_bias)
        seen = ctx.only_wanted(self.rule(q, k, v, g, b.sigmoid(), ctx))
        out: Tensor = self.out_proj(self.norm.gated(seen, ctx.only_wanted(z)).flatten(-2))
        return out


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _one_token(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, s_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """The rule as it is defined. Shape: [B, H, 1, ...] each."""
    s_BHKV = s_BHKV * g.exp()[..., None]
    change = (v - k @ s_BHKV) * beta[..., None]
    s_BHKV = s_BHKV + k.transpose(-1, -2) * change
    return q @ s_BHKV, s_BHKV


def sums_between(g: Tensor) -> Tensor:
    """What is added up after token j until token i. Shape: [..., T] to [..., T (i), T (j)]; 0 where j is not before."""
    return g[..., :, None].expand(*g.shape, g.shape[-1]).tril(-1).cumsum(-2)


GONE = -200.0
"""A logarithm of what is left of a state, of which nothing is: its exponential is 0, and sums with it are finite."""


def forgotten(g_BHT: Tensor, place: Tensor | None) -> Tensor:
    """Logarithms of what tokens leave of a state, where the first of each text leaves nothing. Shape: [B, H, T]."""
    return g_BHT if place is None else g_BHT.masked_fill((place == 0)[:, None], GONE)


def chunks_of(tokens: int) -> tuple[int, int, int]:
    """How many chunks tokens are read in, how long each is, and how many tokens the last one lacks."""
    if torch.compiler.is_exporting():
        # How often a loop runs is written into a program: one chunk of all tokens holds for every length.
        return 1, tokens, 0
    # By eights, as vectors are: the sums of a short prompt are then, bit by bit, those of a whole chunk.
    size = min(CHUNK, tokens + -tokens % 8)
    short = -tokens % size
    return (tokens + short) // size, size, short


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, s_BHKV: Tensor, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """The same for many tokens. Shape: [B, H, T, ...] each; ``exact``: among them are some that forget everything."""
    tokens, exact = q.shape[2], exact or torch.compiler.is_exporting()
    count, size, short = chunks_of(tokens)
    # What fills the last chunk lets nothing fade and replaces nothing.
    q, k, v = (F.pad(x, (0, 0, 0, short)).reshape(*x.shape[:2], count, size, x.shape[3]) for x in (q, k, v))
    g, beta = (F.pad(x, (0, short)).reshape(*x.shape[:2], count, size) for x in (g, beta))
    fade = g.cumsum(-1)  # from the chunk's beginning to each token
    # From token to token. Over a long chunk the sums grow so great that their differences would be inexact.
    apart = sums_between(g) if exact else fade[..., :, None] - fade[..., None, :]
    between = apart.tril().exp().tril()
    # What each token replaces depends on what the tokens before it replaced: a triangular system.
    k_beta = k * beta[..., None]
    system = (k_beta @ k.transpose(-1, -2)) * between
    told = torch.cat([v * beta[..., None], k_beta * fade.exp()[..., None]], dim=-1)
    solved = torch.linalg.solve_triangular(system, told, upper=False, unitriangular=True)
    fresh, stale = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    inner = (q @ k.transpose(-1, -2)) * between
    q_faded, left = q * fade.exp()[..., None], fade[..., -1:]
    k_faded = (k * apart[..., -1, :, None].exp()).transpose(-1, -2)
    outs = []
    for chunk in range(count):
        change = fresh[:, :, chunk] - stale[:, :, chunk] @ s_BHKV
        outs.append(q_faded[:, :, chunk] @ s_BHKV + inner[:, :, chunk] @ change)
        s_BHKV = s_BHKV * left[:, :, chunk, :, None].exp() + k_faded[:, :, chunk] @ change
    return torch.cat(outs, dim=2)[:, :, :tokens], s_BHKV
