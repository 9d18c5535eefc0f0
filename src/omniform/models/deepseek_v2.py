"""DeepSeek-V2 (https://arxiv.org/abs/2405.04434): latent attention, experts by likelihood, some of them shared."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.latent import LatentText
from omniform.architectures.parts import GatedText
from omniform.architectures.routed import Routing, UnbalancedCausalLM, expert_keys, routed_writer
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.moe import Experts, OpenSharedMoE, SoftmaxGroups, WideRouter
from omniform.blocks.rotary import InterleavedRotary
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DeepSeek-V2 computes.

    Attributes:
        mlp_bias: whether feed-forwards have biases, those that every token goes through too.
        dense: how many layers there are before those with experts.
        groups: how many groups experts are in, and from how many of them a token's are.
        scale: factor on what the chosen experts count.
        hidden: width of an expert, and of those that every token goes through.
    """

    latent: LatentText
    mlp_bias: bool
    dense: int
    routing: Routing
    groups: tuple[int, int]
    scale: float
    hidden: tuple[int, int]

    @property
    def text(self) -> GatedText:
        """The decoder around the attention."""
        return self.latent.text


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    latent = LatentText.read(
        r, vocab_size=102400, dim=4096, hidden=11008, layers=32, heads=32, kv_heads=None, max_positions=2048, bos=1,
        eos=2,
    )  # fmt: skip
    # The reference has no default of this one, and needs a number: that of the published ones.
    routing = Routing.read(r, experts=64, top=6, names=("n_routed_experts", "num_experts"))
    groups, top_groups = r.maybe_integer("n_group"), r.maybe_integer("topk_group")
    if r.choice("topk_method", ("greedy", "group_limited_greedy"), "greedy") == "greedy":
        groups = top_groups = 1
    if groups is None or routing.experts % groups:
        raise r.fail("n_group", f"a divisor of {routing.experts} (n_routed_experts)", groups)
    if top_groups is None or top_groups > groups:
        raise r.fail("topk_group", f"at most {groups} (n_group)", top_groups)
    # What the authors' own code can do besides, and no checkpoint of this type does.
    r.only("scoring_func", "softmax")
    r.only("moe_layer_freq", 1)
    # The reference reads the first of these, and lets the shares of the chosen experts be.
    r.inert("ep_size", "aux_loss_alpha", "seq_aux", norm_topk_prob=False)
    hidden = r.integer("moe_intermediate_size", 1407)
    return Config(
        latent=latent,
        mlp_bias=r.flag("mlp_bias", False),
        dense=r.integer("first_k_dense_replace", 0, least=0),
        routing=routing,
        groups=(groups, top_groups),
        scale=r.number("routed_scaling_factor", 1.0),
        hidden=(hidden, hidden * r.integer("n_shared_experts", 2)),
    )


class WideInterleavedRotary(InterleavedRotary):
    """Neighbouring channels that are turned in float32, whatever their dtype."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        q, k = super().__call__(q_BTHD.float(), k_BTHD.float(), ctx)
        return q.to(q_BTHD.dtype), k.to(k_BTHD.dtype)

    lower_pair = InterleavedRotary.lower_pair


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, count, (hidden, shared), (groups, top_groups) = c.text, c.routing.experts, c.hidden, c.groups

    def moe() -> nn.Module:
        return OpenSharedMoE(
            gate=WideRouter(t.dim, count, bias=False),
            choose=SoftmaxGroups(top=c.routing.top, groups=groups, top_groups=top_groups, scale=c.scale),
            experts=Experts(count, t.dim, hidden, t.act),
            shared_experts=GatedMLP(t.dim, shared, t.act, bias=c.mlp_bias),
        )

    return c.routing.told(c.latent.decoder(WideInterleavedRotary(t.frequencies), c.dense, moe, mlp_bias=c.mlp_bias))


WRITER = routed_writer(build, kind=UnbalancedCausalLM)
FAMILY = decoder_family(
    "deepseek_v2", "DeepseekV2", read, build, lambda c: expert_keys(c.routing.experts),
    tokenizer="PreTrainedTokenizerFast", classified=["sequence"], answers=None, causal_lm=WRITER,
).done()  # fmt: skip
