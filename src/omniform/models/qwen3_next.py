"""Qwen3-Next (https://qwenlm.github.io/blog/qwen3-next): gated delta rules, gated attention, many small experts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import ZeroCentredText
from omniform.architectures.routed import Routing, expert_keys, read_sparse, routed_writer
from omniform.architectures.state_space import plain_conv
from omniform.blocks.attention import Attention
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.moe import Experts, RoutedPreNorm, SharedMoE, SoftmaxTop
from omniform.blocks.norms import ZeroCentredRMSNorm
from omniform.blocks.recurrent import GatedDeltaNet
from omniform.blocks.rotary import Rotary
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import interleaved

LINEAR, FULL = "linear_attention", "full_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Qwen3-Next computes.

    Attributes:
        kinds: what mixes the tokens of each layer, :data:`LINEAR` or :data:`FULL`.
        sparse: which layers have experts.
        delta: heads of keys and of values and their widths, and tokens that the convolution sees, of linear layers.
        experts: their width, and that of the shared one.
    """

    text: ZeroCentredText
    attention_bias: bool
    kinds: tuple[str, ...]
    sparse: tuple[bool, ...]
    delta: tuple[int, int, int, int, int]
    routing: Routing
    experts: tuple[int, int]
    normed: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = ZeroCentredText.read(
        r, vocab_size=151936, dim=2048, hidden=5632, layers=48, heads=16, kv_heads=2, head_dim=256, max_positions=32768,
        partial=0.25, bos=None, eos=None,
    )  # fmt: skip
    interval = r.integer("full_attention_interval", 4)
    kinds = r.texts("layer_types", tuple(LINEAR if (i + 1) % interval else FULL for i in range(text.layers)))
    if len(kinds) != text.layers or not {LINEAR, FULL} >= set(kinds):
        raise r.fail("layer_types", f"{text.layers} (num_hidden_layers) times {LINEAR} or {FULL}", list(kinds))
    routing = Routing.read(r, experts=512, top=10, least=0)
    r.only("use_sliding_window", False)
    key_heads, heads = r.integer("linear_num_key_heads", 16), r.integer("linear_num_value_heads", 32)
    dk, dv = r.integer("linear_key_head_dim", 128), r.integer("linear_value_head_dim", 128)
    if heads % key_heads:
        raise r.fail("linear_num_value_heads", f"a multiple of {key_heads} (linear_num_key_heads)", heads)
    return Config(
        text=text,
        attention_bias=r.flag("attention_bias", False),
        kinds=kinds,
        sparse=read_sparse(r, text.layers, routing.experts),
        delta=(key_heads, heads, dk, dv, r.integer("linear_conv_kernel_dim", 4)),
        routing=routing,
        experts=(r.integer("moe_intermediate_size", 512), r.integer("shared_expert_intermediate_size", 512)),
        normed=r.flag("norm_topk_prob", True),
    )


class GatedAttention(Attention):
    """Attention whose heads' outputs pass gates that the input opens."""

    def __init__(self, c: Config) -> None:
        t, heads = c.text, c.text.heads
        super().__init__(
            t.dim, heads.queries, kv_heads=heads.kv, head_dim=heads.dim, rule=Causal(), positions=Rotary(t.frequencies),
            q_norm=ZeroCentredRMSNorm(heads.dim, t.eps), k_norm=ZeroCentredRMSNorm(heads.dim, t.eps),
            biases="qkvo" if c.attention_bias else "", dropout=t.attention_dropout,
        )  # fmt: skip
        self.g_proj = nn.Linear(t.dim, heads.queries * heads.dim, bias=c.attention_bias)

    def output(self, mixed_BTE: Tensor, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        return super().output(mixed_BTE * self.g_proj(ctx.only_wanted(x_BTD)).sigmoid(), x_BTD, ctx)


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, count, (hidden, shared) = c.text, c.routing.experts, c.experts

    def layer(i: int) -> nn.Module:
        mixer = GatedAttention(c) if c.kinds[i] == FULL else GatedDeltaNet(t.dim, *c.delta, act=t.act, eps=t.eps)
        if not c.sparse[i]:
            return t.prenorm(mixer)
        mlp = SharedMoE(
            gate=nn.Linear(t.dim, count, bias=False),
            experts=Experts(count, t.dim, hidden, t.act),
            shared_expert=GatedMLP(t.dim, shared, t.act),
            shared_expert_gate=nn.Linear(t.dim, 1, bias=False),
            choose=SoftmaxTop(c.routing.top, c.normed),
        )
        return RoutedPreNorm.of(t.norm, self_attn=mixer, mlp=mlp)

    return c.routing.told(t.decoder(layer))


def keys(c: Config) -> KeyMap:
    """Queries with their gates, and all that a delta rule reads, lie head by head in one matrix; experts one by one."""
    key_heads, heads, dk, dv, _ = c.delta
    values, rules = heads // key_heads, dict[str, Rule]()
    for i, kind in enumerate(c.kinds):
        ours, theirs = f"layers.{i}.self_attn", f"layers.{i}.{'self' if kind == FULL else 'linear'}_attn"
        rules[ours] = theirs
        if kind == FULL:
            parts = {f"{ours}.q_proj": c.text.heads.dim, f"{ours}.g_proj": c.text.heads.dim}
            rules |= interleaved(f"{theirs}.q_proj", c.text.heads.queries, parts)
        else:
            widths = {"q_proj": dk, "k_proj": dk, "v_proj": values * dv, "z_proj": values * dv}
            rules |= interleaved(f"{theirs}.in_proj_qkvz", key_heads, {f"{ours}.{n}": w for n, w in widths.items()})
            rules |= interleaved(f"{theirs}.in_proj_ba", key_heads, {f"{ours}.{n}_proj": values for n in "ba"})
    return KeyMap(rules, ignored=(r"^mtp\.",)) | expert_keys(c.routing.experts)


FAMILY = (
    decoder_family("qwen3_next", "Qwen3Next", read, build, keys, answers="transformer", causal_lm=routed_writer(build))
    .begins(plain_conv)
    .done()
)
