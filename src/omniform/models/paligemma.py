"""PaliGemma (https://arxiv.org/abs/2407.07726, https://arxiv.org/abs/2412.03555).

Pictures and what is asked of them are read in both directions, the answer behind them is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.family import Builder
from omniform.architectures.fusion import Merged, check_fit, parted_beginning
from omniform.architectures.two_way import TYPES, TwoWay, TwoWayLM
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.composed import Composed
from omniform.blocks.scores import SoftCap
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.llava import NEW_LAYOUT, keys_of, writing_head
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap

VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4096, "num_hidden_layers": 27,
    "num_attention_heads": 16, "patch_size": 14, "image_size": 224, "vision_use_head": False,
}  # fmt: skip
TEXT = {
    "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
    "num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 257152,
}  # fmt: skip
# What the parts' configs say for the whole, and their own families do not know.
OF_THE_WHOLE = frozenset(
    {"num_image_tokens", "projection_dim", "projector_hidden_act", "use_bidirectional_attention", "is_encoder_decoder"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a PaliGemma computes.

    Attributes:
        image_token_id: the placeholder.
        projection: width of a picture's vectors.
        untyped: whether whole rows without types are read in both directions.
        logits_cap: bound of the scores of tokens; None for none.
    """

    vision: Part
    text: Part
    image_token_id: int
    projection: int
    untyped: bool
    logits_cap: float | None
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("ignore_index", "image_seq_length", "num_image_tokens", vocab_size=257152, hidden_size=2048)
    both = r.sub("text_config", TEXT).raw.get("use_bidirectional_attention")
    text = Part.of(r, "text_config", TEXT, beside=OF_THE_WHOLE)
    cap = text.config.get("final_logit_softcapping")
    return Config(
        vision=Part.of(r, "vision_config", VISION, beside=OF_THE_WHOLE),
        text=text,
        image_token_id=r.integer("image_token_index", 256000, also=("image_token_id",), least=0),
        projection=r.integer("projection_dim", 2048),
        untyped=both is not False,
        logits_cap=float(cap) if isinstance(cap, (int, float)) else None,
        tie=r.flag("tie_word_embeddings", True),
    )


class Projection(Composed):
    """The tower's hidden states to the decoder's width.

    Args:
        linear: the projection.
    """

    linear: nn.Linear

    def length(self, features: int) -> int:
        """How many vectors are made of so many features of a picture."""
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., features] to [..., D]."""
        out: Tensor = self.linear(x)
        return out


class PaliGemma(TwoWay):
    """Tower, projector and decoder; tokens of type 0 see one another, those of type 1 what comes before them.

    Args:
        untyped: whether whole rows without types and padding are read in both directions. The ecosystem's kernel does
            so in a plain forward, and only there: what is written from a prompt without types is written as by any
            decoder.
    """

    untyped: bool = True

    BEYOND = 1

    def numbers(self, types_BT: Tensor) -> Tensor:
        return (types_BT == 0).long()

    def both_ways(self, tokens: Tensor, attention_mask: Tensor | None, given: Merged) -> Tensor | None:
        past = given.get("past_key_values")
        begins = past is None or past.length == 0
        if given.get(TYPES) is not None or not begins or not self.untyped or self.attn_backend == "eager":
            return super().both_ways(tokens, attention_mask, given)
        if attention_mask is not None and attention_mask.dim() != 2:
            return None
        every = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        return every if attention_mask is None else every * attention_mask.bool().all()


def build(c: Config) -> PaliGemma:
    """Tower, projector and decoder without a head."""
    tower, decoder = c.vision.build_as(VisionEncoder), c.text.build_as(TextDecoder)
    check_fit("projection_dim", c.projection, "text_config", decoder.width)
    return PaliGemma(
        vision_tower=tower,
        multi_modal_projector=Projection(linear=nn.Linear(tower.width, c.projection)),
        language_model=decoder,
        image_token_id=c.image_token_id,
        untyped=c.untyped,
    )


def causal_lm(c: Config, _: Common) -> TwoWayLM:
    """The model that writes."""
    model = build(c)
    cap = None if c.logits_cap is None else SoftCap(c.logits_cap)
    return TwoWayLM(model=model, lm_head=writing_head(model.language_model, c.tie), adjust=cap)


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return keys_of(c.vision, c.text)


FAMILY = (
    Builder("paligemma", read, keys, prefix="")
    .public(
        config="PaliGemmaConfig",
        tokenizer="GemmaTokenizer",
        image_processor="SiglipImageProcessor",
        processor="PaliGemmaProcessor",
        row="image and text to text",
    )
    .begins(parted_beginning)
    .base("PaliGemmaModel", build)
    .architecture(
        "PaliGemmaForConditionalGeneration",
        ("image-text-to-text", "pre-training"),
        causal_lm,
        lambda c: keys(c).under("model", "") | NEW_LAYOUT,
    )
    .done()
)
