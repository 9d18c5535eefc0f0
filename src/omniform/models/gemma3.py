"""Gemma 3 (https://arxiv.org/abs/2503.19786): five windows to each layer that sees all, each kind with its rope.

With pictures, their patches are pooled into so many vectors each, which see one another in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import SAME, DecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.heads import LastToken, SequenceClassifier
from omniform.architectures.parts import ZeroCentredText, around, read_windows
from omniform.architectures.two_way import TwoWay, TwoWayLM
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.embeddings import RoundedScaledEmbedding
from omniform.blocks.frequencies import FULL, SLIDING, Frequencies
from omniform.blocks.layers import Sandwich
from omniform.blocks.norms import ZeroCentredRMSNorm
from omniform.blocks.rotary import Rotary
from omniform.blocks.scores import Scores, SoftCap
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Recent, Rule
from omniform.core.spans import numbered
from omniform.models.gemma2 import read_cap
from omniform.models.llava import NEW_LAYOUT, keys_of, writing_head
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Gemma 3 computes.

    Attributes:
        rules: what each layer sees; what follows a token too, in models that embed texts.
        turning: how fast each layer's queries and keys turn.
        scale: factor on dot products, not by a head's width.
        logits_cap: bound of the scores of tokens; None for none.
    """

    text: ZeroCentredText
    attention_bias: bool
    rules: tuple[Rule, ...]
    turning: tuple[Frequencies, ...]
    scale: float
    logits_cap: float | None


BASES = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)}


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = ZeroCentredText.read(
        r, vocab_size=262208, dim=2304, hidden=9216, layers=26, heads=8, kv_heads=4, head_dim=256, max_positions=131072,
        act="gelu_pytorch_tanh", act_key="hidden_activation", bases=BASES, tie=True, bos=2, eos=1, pad=0,
    )  # fmt: skip
    # No release bounds its scores, and the reference would not.
    r.inert("attn_logit_softcapping")
    both = r.flag("use_bidirectional_attention", False)
    window = r.integer_or_null("sliding_window", 4096, least=0 if both else 1)
    if both and window is not None:
        window = window // 2 + 1  # the file counts those on both sides
    every = r.integer("sliding_window_pattern", 6)
    kinds = r.texts("layer_types", tuple(SLIDING if (i + 1) % every else FULL for i in range(text.layers)))
    return Config(
        text=text,
        attention_bias=r.flag("attention_bias", False),
        rules=read_windows(r, text.layers, window, kinds, around if both else recent),
        turning=tuple(text.turning[kind] for kind in kinds),
        scale=r.integer("query_pre_attn_scalar", 256) ** -0.5,
        logits_cap=read_cap(r, "final_logit_softcapping", None),
    )


def recent(window: int | None) -> Rule:
    """What a layer sees: all that came before, or the last ``window`` tokens, also among those of a picture."""
    return Causal() if window is None else Recent.of(window)


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, scores, biases = c.text, Scores(c.scale), "qkvo" if c.attention_bias else ""

    def norm() -> nn.Module:
        return ZeroCentredRMSNorm(text.heads.dim, text.eps)

    def layer(i: int) -> nn.Module:
        attention = text.attention(
            c.rules[i], Rotary(c.turning[i]), biases=biases, scores=scores, q_norm=norm(), k_norm=norm()
        )
        return Sandwich.of(text.norm, self_attn=attention, mlp=text.mlp())

    return text.decoder(layer, embed_tokens=RoundedScaledEmbedding(text.vocab_size, text.dim, text.dim**0.5))


heads = DecoderHeads(build, lambda c: c.text, lambda c: None if c.logits_cap is None else SoftCap(c.logits_cap))


TEXT = (
    Builder("gemma3_text", read, SAME, prefix="model")
    .public(
        config="Gemma3TextConfig",
        tokenizer="GemmaTokenizer",
        usual={"attn_logit_softcapping": None},
        row="causal LM, sequence classification, text embeddings",
    )
    .base("Gemma3TextModel", build)
    .head("Gemma3ForCausalLM", "causal-lm", heads.causal_lm)
    .head(
        "Gemma3TextForSequenceClassification",
        "sequence-classification",
        heads.sequence_classifier,
        {"classifier": "score"},
    )
    .done()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeing:
    """What a Gemma 3 with pictures computes.

    Attributes:
        image_token_id: the placeholder.
        side: vectors along a picture's edge.
    """

    vision: Part
    text: Part
    image_token_id: int
    side: int
    tie: bool


def read_seeing(r: ConfigReader) -> Seeing:
    """Read a config; every key is used, declared inert or refused."""
    # What stands around a picture is text.
    r.maybe_integer("boi_token_index", 255999, also=("boi_token_id",), least=0)
    r.maybe_integer("eoi_token_index", 256000, also=("eoi_token_id",), least=0)
    return Seeing(
        vision=Part.of(r, "vision_config", {"model_type": "siglip_vision_model"}),
        text=Part.of(r, "text_config", {"model_type": "gemma3_text"}),
        image_token_id=r.integer("image_token_index", 262144, also=("image_token_id",), least=0),
        side=int(r.integer("mm_tokens_per_image", 256) ** 0.5),
        tie=r.flag("tie_word_embeddings", True),
    )


class Projector(nn.Module):
    """Patches, pooled in squares and normed, to the decoder's width.

    Args:
        grid: patches along a picture's edge.
        pool: patches along a square's.
        features: width of the patches.
        dim: of the decoder.
        eps: of the norm.
    """

    def __init__(self, grid: int, pool: int, features: int, dim: int, eps: float) -> None:
        super().__init__()
        self.mm_input_projection_weight = nn.Parameter(torch.zeros(features, dim))
        self.mm_soft_emb_norm = ZeroCentredRMSNorm(features, eps)
        self._grid, self._pool = grid, pool

    def reset(self, std: float) -> None:
        """Start with pictures that say nothing."""
        nn.init.zeros_(self.mm_input_projection_weight)

    def length(self, features: int) -> int:
        """How many vectors are made of the patches of a picture."""
        return (self._grid // self._pool) ** 2

    def forward(self, patches_NLE: Tensor) -> Tensor:
        """Shape: [N, patches, E] to [N, length, D]."""
        maps = patches_NLE.transpose(1, 2).reshape(patches_NLE.shape[0], -1, self._grid, self._grid)
        pooled = F.avg_pool2d(maps, self._pool).flatten(2).transpose(1, 2)
        return torch.matmul(self.mm_soft_emb_norm(pooled), self.mm_input_projection_weight).type_as(patches_NLE)


class SeeingGemma(TwoWay):
    """Tower, projector and decoder; the tokens of a picture, of type 1, see one another."""

    BEYOND = 0

    def numbers(self, types_BT: Tensor) -> Tensor:
        return numbered(types_BT == 1)


def build_seeing(c: Seeing) -> SeeingGemma:
    """Tower, projector and decoder without a head."""
    tower, decoder = c.vision.build_as(VisionEncoder), c.text.build_as(TextDecoder)
    rows, columns = tower.patches.patching.grid
    if rows != columns or not 0 < c.side <= rows:
        raise ConfigError(
            "a picture's patches do not make so many vectors",
            where="config.json: mm_tokens_per_image",
            expected=f"a square of at most {rows} x {columns} patches",
            found=c.side**2,
        )
    eps = c.vision.config.get("layer_norm_eps")
    assert isinstance(eps, (int, float)), "every vision tower has norms"
    return SeeingGemma(
        vision_tower=tower,
        multi_modal_projector=Projector(rows, rows // c.side, tower.width, decoder.width, float(eps)),
        language_model=decoder,
        image_token_id=c.image_token_id,
    )


def seeing_lm(c: Seeing, _: Common) -> TwoWayLM:
    """The model that writes; its scores have no bound."""
    model = build_seeing(c)
    return TwoWayLM(model=model, lm_head=writing_head(model.language_model, c.tie))


def seeing_classifier(c: Seeing, common: Common) -> SequenceClassifier:
    """One class per row, told from its last token."""
    model = build_seeing(c)
    return SequenceClassifier(
        model=model,
        pool=LastToken(c.text.config.common.pad_token_id),
        classifier=nn.Linear(model.language_model.width, common.num_labels, bias=False),
        dropout=0.0,
        common=common,
    )


def keys_seeing(c: Seeing) -> KeyMap:
    """Each part's own map, at its place."""
    return keys_of(c.vision, c.text)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Each part begins as its own family's models do, heads as the whole."""
    return None if path.startswith(("lm_head.", "classifier.")) else parted_beginning(config, path)


FAMILY = (
    Builder("gemma3", read_seeing, keys_seeing, prefix="")
    .public(
        config="Gemma3Config",
        tokenizer="GemmaTokenizer",
        image_processor="Gemma3ImageProcessor",
        processor="Gemma3Processor",
        row="image and text to text, causal LM, sequence classification",
    )
    .begins(beginning)
    .base("Gemma3Model", build_seeing)
    .architecture(
        "Gemma3ForConditionalGeneration",
        ("image-text-to-text", "causal-lm", "pre-training"),
        seeing_lm,
        lambda c: keys_seeing(c).under("model", "") | NEW_LAYOUT,
    )
    .architecture(
        "Gemma3ForSequenceClassification",
        ("sequence-classification",),
        seeing_classifier,
        lambda c: keys_seeing(c).under("model", "") | NEW_LAYOUT | KeyMap({"classifier": "score"}),
    )
    .done()
)
