"""Florence-2 (https://arxiv.org/abs/2311.06242): a DaViT's maps stand in the text that an encoder-decoder reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omniform.architectures.davit import Dual
from omniform.architectures.decoder import tied
from omniform.architectures.encoder_decoder import RightShift
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.seeing import SeeingEncoderDecoder, SeeingSeq2SeqLM
from omniform.architectures.sided_family import SidedText
from omniform.blocks.embeddings import check_positions, waves
from omniform.blocks.poolers import ComputedPart
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Florence-2 computes."""

    vision: Dual
    text: SidedText
    text_keys: KeyMap
    image_token_id: int
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = Part.of(r, "text_config", {"model_type": "bart"})
    r.inert("is_encoder_decoder")
    return Config(
        vision=Part.of(r, "vision_config", {"model_type": "florence_vision"}).spec(Dual),
        text=text.spec(SidedText),
        text_keys=text.keys,
        image_token_id=r.integer("image_token_id", 51289, least=0),
        tie=r.flag("tie_word_embeddings", True),
    )


class GridTables(nn.Module):
    """Learned vectors of a map's rows and columns, side by side.

    Args:
        places: as many rows and columns there may be.
        dim: width of both together.
    """

    def __init__(self, places: int, dim: int) -> None:
        super().__init__()
        self.row_embeddings = nn.Embedding(places, dim // 2)
        self.column_embeddings = nn.Embedding(places, dim - dim // 2)

    def forward(self, height: int, width: int) -> Tensor:
        """Shape: [height, width, dim].

        Raises:
            InputError: there are not as many rows or columns.
        """
        check_positions(max(height, width), self.row_embeddings.num_embeddings, "pixel_values")
        down, across = self.row_embeddings.weight[:height], self.column_embeddings.weight[:width]
        return torch.cat((across.expand(height, -1, -1), down[:, None].expand(-1, width, -1)), dim=-1)


class FrameSines(ComputedPart):
    """What tells a film's frames apart; a picture is the first.

    Args:
        frames: as many there may be.
        dim: width of the vectors.
    """

    def __init__(self, frames: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("pos_idx_to_embed", torch.zeros(frames, dim))
        self.pos_idx_to_embed: Tensor

    def reset(self, std: float) -> None:
        """Sines and cosines by turns."""
        self.pos_idx_to_embed.copy_(waves(*self.pos_idx_to_embed.shape))


class Projector(nn.Module):
    """A map to vectors of the encoder's width: the mean of all places, then one for each place."""

    def __init__(self, c: Dual) -> None:
        super().__init__()
        dim = c.stems[-1].dim
        self.image_projection = nn.Linear(dim, c.projection, bias=False)
        self.image_proj_norm = nn.LayerNorm(c.projection)
        self.image_position_embed = GridTables(c.positions, dim)
        self.visual_temporal_embed = FrameSines(c.frames, dim)

    def length(self, height: int, width: int) -> int:
        """How many vectors stand for a map."""
        return height * width + 1

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, H * W + 1, D]."""
        placed = x_BCHW.permute(0, 2, 3, 1) + self.image_position_embed(*x_BCHW.shape[2:])
        x_BTC = placed.flatten(1, 2) + self.visual_temporal_embed.pos_idx_to_embed[0]
        both = torch.cat((x_BTC.mean(dim=1, keepdim=True), x_BTC), dim=1)
        out: Tensor = self.image_proj_norm(self.image_projection(both))
        return out


def build(c: Config) -> SeeingEncoderDecoder:
    """Tower, projector and both sides of the text model, without a head."""
    language = c.text.model()
    language.reread = None
    return SeeingEncoderDecoder(
        vision_tower=c.vision.model(),
        multi_modal_projector=Projector(c.vision),
        language_model=language,
        image_token_id=c.image_token_id,
        start=c.text.shift.start,
    )


def writer(c: Config, _: Common) -> SeeingSeq2SeqLM:
    """The model that writes."""
    model = build(c)
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    head = tied(nn.Linear(c.text.dim, c.text.vocab_size, bias=False), table, c.tie)
    return SeeingSeq2SeqLM(model=model, lm_head=head, shift=RightShift(c.text.shift.start, c.text.shift.pad))


def _block(ours: str, attention: str) -> dict[str, Rule]:
    here = f"blocks.{{i}}.{{j}}.{ours}"
    return {
        **shares(f"{here}.self_attn", f"{here}.{attention}.qkv", "qkv"),
        f"{here}.self_attn.o_proj": f"{here}.{attention}.proj",
        f"{here}.mlp": f"{here}.ffn",
    }


VISION_KEYS = KeyMap({**_block("spatial_block", "window_attn"), **_block("channel_block", "channel_attn")})


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return VISION_KEYS.under("vision_tower", "vision_tower") | c.text_keys.under("language_model", "language_model")


VISION = (
    Builder("florence_vision", Dual.read, VISION_KEYS, prefix="model")
    .public(config="Florence2VisionConfig", image_processor="CLIPImageProcessor")
    .base("Florence2VisionBackbone", Dual.model)
    .done()
)
FAMILY = (
    Builder("florence2", read, keys, prefix="model")
    .public(
        config="Florence2Config",
        tokenizer="BartTokenizer",
        image_processor="CLIPImageProcessor",
        processor="Florence2Processor",
        row="captions, detection, grounding, segmentation and OCR by prompts",
        usual={"is_encoder_decoder": True},
    )
    .begins(parted_beginning)
    .base("Florence2Model", build)
    .head("Florence2ForConditionalGeneration", ("image-text-to-text", "multimodal-lm"), writer)
    .done()
)
