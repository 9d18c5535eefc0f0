"""Qwen3-VL-MoE (https://arxiv.org/abs/2511.21631): a Qwen3-VL whose decoder's feed-forwards are many small experts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.axes import DeepDecoder
from omniform.architectures.deep_vision import DEEP_KEYS, DeepTower
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.packed_family import InterleavedText
from omniform.architectures.packed_fusion import RoutedSeesLM
from omniform.architectures.parts import GatedText
from omniform.architectures.routed import STACKED_KEYS, Routing, read_sparse
from omniform.blocks.moe import Experts, MoE, RoutedPreNorm, SoftmaxTop
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.seeing import SeeingConfig, parts_keys
from omniform.weights.keymap import KeyMap, Layout
from omniform.weights.links import Link, TransposedEach


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedText(InterleavedText):
    """What the decoder computes.

    Attributes:
        sparse: which layers have experts.
        hidden: width of an expert.
    """

    routing: Routing
    sparse: tuple[bool, ...]
    hidden: int

    @classmethod
    def read(cls, r: ConfigReader) -> RoutedText:
        """Read its config; every key is used, declared inert or refused."""
        text = GatedText.read(
            r, vocab_size=151936, dim=2048, hidden=5632, layers=24, heads=16, kv_heads=16, max_positions=128000,
            theta=500000.0, tie=True, bos=None, eos=None,
        )  # fmt: skip
        r.inert(sliding_window=None)  # null in all files, and never read
        routing = Routing.read(r, experts=60, top=4, least=0)
        sparse, hidden = read_sparse(r, text.layers, routing.experts), r.integer("moe_intermediate_size", 1408)
        return cls.of(r, text, routing=routing, sparse=sparse, hidden=hidden)

    def layer(self, number: int) -> nn.Module:
        """One layer."""
        t, how = self.text, self.routing
        if not self.sparse[number]:
            return t.prenorm(self.attention())
        experts = Experts(how.experts, t.dim, self.hidden, t.act)
        mlp = MoE(
            gate=nn.Linear(t.dim, how.experts, bias=False), choose=SoftmaxTop(how.top, normed=True), experts=experts
        )
        return RoutedPreNorm.of(t.norm, self_attn=self.attention(), mlp=mlp)

    def build(self) -> DeepDecoder:
        """The decoder."""
        decoder = self.text.decoder(self.layer, kind=DeepDecoder)
        decoder.routes_unasked = self.routing.unasked
        return decoder

    def keys(self) -> KeyMap:
        """Experts lie in stacks: as they are multiplied, or each the other way round, as in the published files."""
        out, way = (self.routing.experts, self.text.dim, 2 * self.hidden), (TransposedEach(),)
        turned = {path: Link(str(key), way) if ".experts." in path else key for path, key in STACKED_KEYS.items()}
        ours = (out[0], out[2], out[1])
        layouts = () if out == ours else (Layout(r"\.mlp\.experts\.gate_up_proj$", turned, out),)
        return KeyMap(STACKED_KEYS, layouts=layouts)


def build_text(c: RoutedText) -> DeepDecoder:
    """The decoder."""
    return c.build()


def read(r: ConfigReader) -> SeeingConfig:
    """Read a config; every key is used, declared inert or refused."""
    return SeeingConfig.read(r, "qwen3_vl_moe")


def causal_lm(c: SeeingConfig, _: Common) -> RoutedSeesLM:
    """The model that writes."""
    model, how = c.deep(), c.text.spec(RoutedText).routing
    return RoutedSeesLM(
        model=model, lm_head=c.head(model), top=how.top, unasked=how.unasked, coefficient=how.coefficient
    )


VISION = (
    Builder("qwen3_vl_moe_vision", DeepTower.read, DEEP_KEYS, prefix="visual")
    .public(config="Qwen3VLMoeVisionConfig")
    .base("Qwen3VLMoeVisionModel", DeepTower.build)
    .done()
)
TEXT = (
    Builder("qwen3_vl_moe_text", RoutedText.read, RoutedText.keys, prefix="language_model")
    .public(config="Qwen3VLMoeTextConfig", tokenizer="Qwen2Tokenizer")
    .base("Qwen3VLMoeTextModel", build_text)
    .done()
)
FAMILY = (
    Builder("qwen3_vl_moe", read, parts_keys, prefix="model")
    .public(
        config="Qwen3VLMoeConfig",
        tokenizer="Qwen2Tokenizer",
        image_processor="Qwen2VLImageProcessor",
        video_processor="Qwen3VLVideoProcessor",
        processor="Qwen3VLProcessor",
        row="image, video and text to text",
    )
    .begins(parted_beginning)
    .base("Qwen3VLMoeModel", SeeingConfig.deep)
    .head("Qwen3VLMoeForConditionalGeneration", "image-text-to-text", causal_lm)
    .done()
)
