"""OLMoE (https://arxiv.org/abs/2409.02060): many small experts, norms on the queries and keys of all heads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText
from omniform.architectures.routed import Routing, expert_keys, routed_writer
from omniform.blocks.attention import Attention
from omniform.blocks.joint import outputs_of
from omniform.blocks.moe import Experts, MoE, RoutedPreNorm, SoftmaxTop
from omniform.blocks.norms import AllHeadsNorm
from omniform.blocks.rotary import Rotary
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an OLMoE computes.

    Attributes:
        bound: of queries, keys and values once they are normed; None for none.
        normed: whether the chosen experts' shares sum to one.
    """

    text: GatedText
    routing: Routing
    attention_bias: bool
    bound: float | None
    normed: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    bound = r.maybe_number("clip_qkv")
    if bound is not None and bound <= 0:
        raise r.fail("clip_qkv", "a number above 0, or null for no bound", bound)
    return Config(
        text=GatedText.read(
            r, vocab_size=50304, dim=2048, hidden=2048, layers=16, heads=16, eps=1e-5, max_positions=4096, bos=None,
            eos=50279, pad=1,
        ),
        routing=Routing.read(r, experts=64, top=8, coefficient=0.01),
        attention_bias=r.flag("attention_bias", False),
        bound=bound,
        normed=r.flag("norm_topk_prob", False),
    )  # fmt: skip


class NormedAttention(Attention):
    """Attention with norms over all heads, after which nothing is greater than a bound."""

    SHARDS = Attention.SHARDS

    def __init__(self, c: Config) -> None:
        t, heads = c.text, c.text.heads
        q_norm, k_norm = (AllHeadsNorm(n * heads.dim, t.eps) for n in (heads.queries, heads.kv))
        super().__init__(
            t.dim, heads.queries, kv_heads=heads.kv, head_dim=heads.dim, rule=Causal(), q_norm=q_norm, k_norm=k_norm,
            positions=Rotary(t.frequencies), biases="qkvo" if c.attention_bias else "", dropout=t.attention_dropout,
        )  # fmt: skip
        self._bound = float("inf") if c.bound is None else c.bound

    def queries_keys_values(self, x_BTD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = map(self.split, outputs_of(x_BTD, self.q_proj, self.k_proj, self.v_proj))
        assert self.q_norm is not None and self.k_norm is not None
        q, k, v = (x.clamp(-self._bound, self._bound) for x in (self.q_norm(q), self.k_norm(k), v))
        return *self.positions(q, k, ctx), v


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, how = c.text, c.routing

    def layer(_: int) -> nn.Module:
        gate, experts = nn.Linear(t.dim, how.experts, bias=False), Experts(how.experts, t.dim, t.hidden, t.act)
        mlp = MoE(gate=gate, choose=SoftmaxTop(how.top, c.normed), experts=experts)
        return RoutedPreNorm.of(t.norm, self_attn=NormedAttention(c), mlp=mlp)

    return how.told(t.decoder(layer))


def keys(c: Config) -> KeyMap:
    """Experts lie one by one, or stacked."""
    return expert_keys(c.routing.experts)


FAMILY = decoder_family(
    "olmoe", "Olmoe", read, build, keys, tokenizer="GPTNeoXTokenizer", classified=[], answers=None,
    causal_lm=routed_writer(build),
).done()  # fmt: skip
