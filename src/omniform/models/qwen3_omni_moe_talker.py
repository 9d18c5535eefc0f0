"""Qwen3-Omni's talker (https://arxiv.org/abs/2509.17765): a decoder of experts, and what predicts a frame's codes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.axes import AxesDecoder
from omniform.architectures.decoder import tied
from omniform.architectures.family import Builder
from omniform.architectures.packed_family import InterleavedText
from omniform.architectures.parts import GatedText, read_windows
from omniform.architectures.routed import Routing, expert_keys
from omniform.architectures.talker import CodePredictor, CodePredictorStack, Resizer, Talker
from omniform.blocks.frequencies import FULL, SLIDING
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.moe import Experts, RoutedPreNorm, SharedMoE, SoftmaxTop
from omniform.blocks.norms import RMSNorm
from omniform.blocks.rotary import Rotary
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(InterleavedText):
    """What the talker's decoder computes.

    Attributes:
        hidden: width of an expert, and of the one that every token goes through.
        normed: whether the chosen experts' shares sum to one.
    """

    routing: Routing
    hidden: tuple[int, int]
    normed: bool


def read_text(r: ConfigReader) -> Text:
    """Read a decoder's config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=3072, dim=1024, hidden=2048, layers=20, heads=16, kv_heads=2, max_positions=32768, bos=None,
        eos=None,
    )  # fmt: skip
    # Every layer sees all there is and has experts, whatever is said.
    r.inert(sliding_window=None, decoder_sparse_step=1, mlp_only_layers=[], use_sliding_window=False)
    r.inert("max_window_layers")
    return Text.of(
        r,
        text,
        routing=Routing.read(r, experts=128, top=8, names=("num_local_experts", "num_experts")),
        hidden=(r.integer("moe_intermediate_size", 384), r.integer("shared_expert_intermediate_size", 768)),
        normed=r.flag("norm_topk_prob", False),
    )


def build_text(c: Text) -> AxesDecoder:
    """The decoder without a head."""
    t, how, (hidden, shared) = c.text, c.routing, c.hidden

    def layer(_: int) -> nn.Module:
        mlp = SharedMoE(
            gate=nn.Linear(t.dim, how.experts, bias=False),
            choose=SoftmaxTop(how.top, c.normed),
            experts=Experts(how.experts, t.dim, hidden, t.act),
            shared_expert=GatedMLP(t.dim, shared, t.act),
            shared_expert_gate=nn.Linear(t.dim, 1, bias=False),
        )
        return RoutedPreNorm.of(t.norm, self_attn=c.attention(), mlp=mlp)

    decoder = t.decoder(layer, kind=AxesDecoder)
    decoder.routes_unasked = how.unasked
    return decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """What writes the other codes of a frame.

    Attributes:
        groups: codes of a frame, the first among them.
    """

    text: GatedText
    attention_bias: bool
    rules: tuple[Rule, ...]
    groups: int


def read_predictor(r: ConfigReader) -> Predictor:
    """Read a predictor's config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=2048, dim=1024, hidden=3072, layers=5, heads=16, kv_heads=8, head_dim=128, max_positions=32768,
        bos=None, eos=None,
    )  # fmt: skip
    window, first = r.maybe_integer("sliding_window"), r.integer("max_window_layers", 28, least=0)
    r.inert("use_sliding_window")
    kinds = tuple(SLIDING if window is not None and i >= first else FULL for i in range(text.layers))
    return Predictor(
        text=text,
        attention_bias=r.flag("attention_bias", False),
        rules=read_windows(r, text.layers, window, kinds),
        groups=r.integer("num_code_groups", 32, least=2),
    )


def build_stack(c: Predictor) -> CodePredictorStack:
    """The predictor without heads."""
    t, rotary, biases = c.text, Rotary(c.text.frequencies), "qkvo" if c.attention_bias else ""

    def norm() -> RMSNorm:
        return RMSNorm(t.heads.dim, t.eps)

    def layer(i: int) -> nn.Module:
        return t.prenorm(t.attention(c.rules[i], rotary, biases=biases, q_norm=norm(), k_norm=norm()))

    return CodePredictorStack(
        layers=nn.ModuleList(layer(i) for i in range(t.layers)),
        norm=t.norm(),
        width=t.dim,
        keeps=True,
        codec_embedding=nn.ModuleList(nn.Embedding(t.vocab_size, t.dim) for _ in range(c.groups - 1)),
    )


def build_predictor(c: Predictor, _: Common | None = None) -> CodePredictor:
    """The predictor."""
    heads = (nn.Linear(c.text.dim, c.text.vocab_size, bias=False) for _ in range(c.groups - 1))
    return CodePredictor(model=build_stack(c), lm_head=nn.ModuleList(heads))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a talker computes.

    Attributes:
        inside: width of the thinker's vectors.
        groups: codes of a frame.
    """

    text: Part
    predictor: Part
    inside: int
    groups: int
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a talker's config; every key is used, declared inert or refused."""
    text = Part.of(r, "text_config", {"model_type": "qwen3_omni_moe_talker_text"})
    predictor = Part.of(r, "code_predictor_config", {"model_type": "qwen3_omni_moe_talker_code_predictor"})
    # Read by whoever makes the talker's prompt (``engine/talking.py``), and by its positions.
    r.inert(
        codec_eos_token_id=4198, accept_hidden_layer=18, codec_nothink_id=4203, codec_think_bos_id=4204,
        codec_think_eos_id=4205, codec_pad_id=4196, codec_bos_id=4197, audio_token_id=151646, image_token_id=151655,
        video_token_id=151656, vision_start_token_id=151652, position_id_per_seconds=25, audio_start_token_id=151669,
        speaker_id=None, spatial_merge_size=2,
    )  # fmt: skip
    # Published files have more that nobody reads.
    r.inert("audio_end_token_id", "vision_end_token_id", "output_router_logits", "seconds_per_chunk", "user_token_id")
    dims = text.spec(Text).text.dim, predictor.spec(Predictor).text.dim
    if dims[0] != dims[1]:
        raise r.fail("code_predictor_config: hidden_size", f"{dims[0]}, as text_config's", dims[1])
    groups = r.integer("num_code_groups", 32, least=2)
    if groups > predictor.spec(Predictor).groups:
        raise r.fail("num_code_groups", f"at most {predictor.spec(Predictor).groups}, the predictor's", groups)
    return Config(
        text=text,
        predictor=predictor,
        inside=r.integer("thinker_hidden_size", 2048),
        groups=groups,
        tie=r.flag("tie_word_embeddings", False),
    )


def build(c: Config) -> Talker:
    """The talker."""
    spec = c.text.spec(Text)
    t, how, model = spec.text, spec.routing, c.text.build_as(AxesDecoder)

    def resizer() -> Resizer:
        return Resizer(c.inside, t.hidden, t.dim, t.act)

    predictor = c.predictor.model(PREDICTOR.architectures[f"{NAME}TalkerCodePredictorModelForConditionalGeneration"])
    assert isinstance(predictor, CodePredictor)
    return Talker(
        model=model,
        lm_head=tied(nn.Linear(t.dim, t.vocab_size, bias=False), model.embed_tokens, c.tie),
        text_projection=resizer(),
        hidden_projection=resizer(),
        code_predictor=predictor,
        groups=c.groups,
        top=how.top,
        unasked=False,
        coefficient=how.coefficient,
    )


def text_keys(c: Text) -> KeyMap:
    """Experts lie one by one, or stacked."""
    return expert_keys(c.routing.experts) | KeyMap({"embed_tokens": "codec_embedding"})


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return text_keys(c.text.spec(Text)).under("model", "model") | KeyMap({"lm_head": "codec_head"})


NAME = "Qwen3OmniMoe"
SAME = KeyMap({})
TEXT = (
    Builder("qwen3_omni_moe_talker_text", read_text, text_keys, prefix="talker.model")
    .public(config=f"{NAME}TalkerTextConfig")
    .base(f"{NAME}TalkerModel", build_text)
    .done()
)
PREDICTOR = (
    Builder("qwen3_omni_moe_talker_code_predictor", read_predictor, SAME, prefix="model")
    .public(config=f"{NAME}TalkerCodePredictorConfig")
    .base(f"{NAME}TalkerCodePredictorModel", build_stack)
    .head(f"{NAME}TalkerCodePredictorModelForConditionalGeneration", (), build_predictor)
    .done()
)
FAMILY = (
    Builder("qwen3_omni_moe_talker", read, keys, prefix="talker")
    .public(config=f"{NAME}TalkerConfig")
    .base(f"{NAME}TalkerForConditionalGeneration", build)
    .done()
)
