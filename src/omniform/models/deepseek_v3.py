"""DeepSeek-V3 and R1 (https://arxiv.org/abs/2412.19437): latent attention, experts in groups, some of them shared."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.latent import LatentText
from omniform.architectures.parts import GatedText
from omniform.architectures.routed import Routing, UnbalancedCausalLM, expert_keys, routed_writer
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.moe import Experts, OpenSharedMoE, SigmoidGroups, WideRouter
from omniform.blocks.rotary import InterleavedRotary, Rotary
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DeepSeek-V3 computes.

    Attributes:
        paired: whether channels that turn together lie side by side.
        dense: how many layers there are before those with experts.
        groups: how many groups experts are in, and from how many of them a token's are.
        shares: whether the chosen experts' shares sum to one, and what they are multiplied by.
        hidden: width of an expert, and of those that every token goes through.
        ahead: layers that predict the tokens after the next one; they are not loaded.
    """

    latent: LatentText
    paired: bool
    dense: int
    routing: Routing
    groups: tuple[int, int]
    shares: tuple[bool, float]
    hidden: tuple[int, int]
    ahead: int

    @property
    def text(self) -> GatedText:
        """The decoder around the attention."""
        return self.latent.text


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    latent = LatentText.read(
        r, vocab_size=129280, dim=7168, hidden=18432, layers=61, heads=128, kv_heads=128, max_positions=4096, bos=0,
        eos=1,
    )  # fmt: skip
    routing = Routing.read(r, experts=256, top=8, names=("n_routed_experts", "num_local_experts"))
    groups, top_groups = r.integer("n_group", 8), r.integer("topk_group", 4)
    if routing.experts % groups or routing.experts < 2 * groups:
        raise r.fail("n_group", f"{routing.experts} (n_routed_experts) divided by 2 or more", groups)
    if top_groups > groups:
        raise r.fail("topk_group", f"at most {groups} (n_group)", top_groups)
    # What the authors' own code can do besides, and no checkpoint of this type does.
    r.only("scoring_func", "sigmoid")
    r.only("topk_method", "noaux_tc")
    r.only("moe_layer_freq", 1)
    r.inert("ep_size", "aux_loss_alpha", "seq_aux")
    hidden = r.integer("moe_intermediate_size", 2048)
    return Config(
        latent=latent,
        paired=r.flag("rope_interleave", True),
        dense=r.integer("first_k_dense_replace", 3, least=0),
        routing=routing,
        groups=(groups, top_groups),
        shares=(r.flag("norm_topk_prob", True), r.number("routed_scaling_factor", 2.5)),
        hidden=(hidden, hidden * r.integer("n_shared_experts", 1)),
        ahead=r.integer("num_nextn_predict_layers", 1, also=("num_mtp_layers",), least=0),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, count, (hidden, shared), (groups, top_groups), (normed, scale) = (
        c.text, c.routing.experts, c.hidden, c.groups, c.shares,
    )  # fmt: skip

    def moe() -> nn.Module:
        return OpenSharedMoE(
            gate=WideRouter(t.dim, count, bias=False),
            choose=SigmoidGroups(
                count, c.routing.top, groups=groups, top_groups=top_groups, normed=normed, scale=scale
            ),
            experts=Experts(count, t.dim, hidden, t.act),
            shared_experts=GatedMLP(t.dim, shared, t.act),
        )

    return c.routing.told(c.latent.decoder((InterleavedRotary if c.paired else Rotary)(t.frequencies), c.dense, moe))


def keys(c: Config) -> KeyMap:
    """Experts one by one or stacked; behind the last layer may lie those that predict further ahead."""
    further = "|".join(str(c.text.layers + i) for i in range(c.ahead))
    bias = KeyMap({"layers.{i}.mlp.choose": "layers.{i}.mlp.gate"}, ignored=(rf"(^|\.)layers\.({further})\.",))
    return (bias if c.ahead else KeyMap(bias.rules)) | expert_keys(c.routing.experts)


WRITER = routed_writer(build, kind=UnbalancedCausalLM)
FAMILY = decoder_family(
    "deepseek_v3", "DeepseekV3", read, build, keys, tokenizer="PreTrainedTokenizerFast", answers=None, causal_lm=WRITER
).done()
