"""CLAP (https://arxiv.org/abs/2211.06687): its text tower, its audio tower, and both together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from omniform.architectures.counted_family import CountedText
from omniform.architectures.dual_encoder import TextEmbedder
from omniform.architectures.dual_sounds import BentProjection, SoundTextEncoder
from omniform.architectures.encoder_family import STACK_KEYS
from omniform.architectures.family import Builder
from omniform.architectures.sound_stages import (
    Folding,
    FusedPatches,
    PaddedPatching,
    SoundEmbedder,
    SoundPatches,
    StagedSoundEncoder,
)
from omniform.architectures.stack import TextEncoder
from omniform.architectures.staged_family import LAYER_KEYS, Spot, Staged, read_depths
from omniform.architectures.stages import PatchMerging
from omniform.blocks.drop_path import DropPath
from omniform.blocks.embeddings import CountedEmbeddings, PositionTable
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.poolers import ComputedPart, DensePooler
from omniform.blocks.windowed import FittingWindowing, IndexedBias, WindowedAttention, WindowedLayer
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The space that a tower's vectors are projected into.

    Attributes:
        width: of its vectors.
        act: the activation within the projection.
    """

    width: int
    act: str

    @classmethod
    def read(cls, r: ConfigReader) -> Space:
        """The fields under their usual names."""
        r.inert("initializer_factor")
        return cls(width=r.integer("projection_dim", 512), act=r.choice("projection_hidden_act", ACTIVATIONS, "relu"))

    def of(self, dim: int) -> BentProjection:
        """A projection of vectors of so many numbers."""
        return BentProjection(dim, self.width, self.act)


class Notes(ComputedPart):
    """The numbers of all positions, and their usual types: checkpoints hold them, and nothing is read off them.

    Args:
        positions: how many there are.
    """

    def __init__(self, positions: int) -> None:
        super().__init__()
        for name in ("position_ids", "token_type_ids"):
            self.register_buffer(name, torch.zeros(1, positions, dtype=torch.long))
        self.position_ids: Tensor
        self.token_type_ids: Tensor

    def reset(self, std: float) -> None:
        """Count on from 0; all are of the first type."""
        self.position_ids.copy_(torch.arange(self.position_ids.shape[1])[None])
        self.token_type_ids.zero_()


class NotedEmbeddings(CountedEmbeddings):
    """RoBERTa's, with such notes."""

    notes: Notes


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSide:
    """What the text tower computes: a RoBERTa."""

    counted: CountedText
    space: Space

    @classmethod
    def read(cls, r: ConfigReader) -> TextSide:
        """Read the text tower's config."""
        counted = CountedText.read(r, vocab_size=50265, token_types=1, max_positions=514)
        r.inert("fusion_hidden_size", "fusion_num_hidden_layers", "projection_hidden_size")
        # It reads both ways, whatever the file says.
        text = replace(counted.text, causal=False, cross_attention=False)
        return cls(counted=replace(counted, text=text), space=Space.read(r))

    def model(self) -> TextEncoder:
        """The text tower."""
        text, padding = self.counted.text, self.counted.padding
        embeddings = NotedEmbeddings(
            embed_positions=PositionTable(text.max_positions, text.dim, padding=padding),
            embed_token_types=nn.Embedding(text.token_types, text.dim),
            norm=text.first(),
            dropout=text.dropout,
            padding=padding,
            notes=Notes(text.max_positions),
        )
        return cast(TextEncoder, text.stack(embeddings, DensePooler(text.dim, text.dim)))

    def projection(self) -> BentProjection:
        """Its projection."""
        return self.space.of(self.counted.text.dim)

    def embedder(self, _: Common) -> TextEmbedder:
        """The text tower and its projection."""
        return TextEmbedder(model=self.model(), projection=self.projection())


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSide:
    """What the audio tower computes."""

    staged: Staged
    patching: PaddedPatching
    folding: Folding
    normed: bool
    inner: int | None
    dim: int
    space: Space

    @classmethod
    def read(cls, r: ConfigReader) -> AudioSide:
        """Read the audio tower's config."""
        r.inert("num_classes", "enable_patch_fusion", "fusion_num_hidden_layers", "projection_hidden_size")
        r.layers("num_hidden_layers", 4)  # says how weights begin, and nothing of depths
        r.only("flatten_patch_embeds", True, why="layers read rows of patches")
        folding, channels = _folding(r), r.integer("patch_embed_input_channels", 1)
        patching = PaddedPatching(
            channels=channels,
            image_size=(folding.side, folding.side),
            patch_size=r.pair("patch_size", (4, 4)),
            stride=r.pair("patch_stride", (4, 4)),
        )
        if r.raw.get("patch_stride") is None:
            r.values["patch_stride"] = patching.stride  # the ecosystem's is two numbers, where the patch is one
        if not patching.fits or min(patching.grid) < 1:
            raise r.fail(
                "patch_size", "patches of which each step has one, as 4 with patch_stride 4", patching.patch_size
            )
        fuses, kind = r.flag("enable_fusion", False), r.maybe_text("fusion_type")
        ratio, dim = r.integer("aff_block_r", 4), r.integer("patch_embeds_hidden_size", 96)
        if fuses and (kind == "channel_map" or channels != 1):
            name, found = ("fusion_type", kind) if kind == "channel_map" else ("patch_embed_input_channels", channels)
            raise r.fail(name, "one view that is fused with others, of one channel (aff_2d)", found)
        if fuses and dim < ratio:
            raise r.fail("aff_block_r", f"at most {dim} (patch_embeds_hidden_size)", ratio)
        stages = read_depths(r, dim, "num_attention_heads", (4, 8, 16, 32))
        _check_halving(r, patching, folding, len(stages[0]))
        return cls(
            staged=Staged.over(r, patching, dim, stages, window=8, drop_path=0.0, dropout=0.1),
            patching=patching,
            folding=folding,
            normed=r.flag("enable_patch_layer_norm", True),
            inner=dim // ratio if fuses else None,
            dim=r.integer("hidden_size", 768),
            space=Space.read(r),
        )

    def layer(self, at: Spot) -> WindowedLayer:
        """One layer."""
        s = self.staged
        attention = WindowedAttention(
            at.dim,
            at.heads,
            windowing=FittingWindowing(s.window, s.window // 2 if at.shift else 0),
            distance_bias=IndexedBias(s.window, at.heads),
            biases="qkvo" if s.qkv_bias else "o",
            dropout=s.attention_dropout,
            output_dropout=s.attention_dropout,
        )
        path = DropPath(at.drop_path)
        return WindowedLayer.of(
            lambda: s.norm(at.dim), self_attn=attention, mlp=s.mlp(at.dim), drop_path=path, dropout=s.dropout
        )

    def model(self) -> StagedSoundEncoder:
        """The audio tower."""
        s, grid = self.staged, self.patching
        return StagedSoundEncoder(
            patches=SoundPatches(grid, s.dim) if self.inner is None else FusedPatches(grid, s.dim, self.inner),
            patch_norm=nn.LayerNorm(s.dim) if self.normed else nn.Identity(),
            stages=s.stages(self.layer, PatchMerging),
            norm=nn.LayerNorm(s.widths[-1]),
            batch_norm=nn.BatchNorm2d(self.folding.bands),
            folding=self.folding,
        )

    def projection(self) -> BentProjection:
        """Its projection.

        Raises:
            ConfigError: it reads vectors of another width than the tower's.
        """
        if self.dim != self.staged.widths[-1]:
            raise ConfigError(
                "the projection does not fit the tower",
                where="hidden_size",
                expected=f"{self.staged.widths[-1]} (patch_embeds_hidden_size, doubled from stage to stage)",
                found=self.dim,
            )
        return self.space.of(self.dim)

    def embedder(self, _: Common) -> SoundEmbedder:
        """The audio tower and its projection."""
        return SoundEmbedder(model=self.model(), projection=self.projection())


def _folding(r: ConfigReader) -> Folding:
    folding = Folding(r.integer("spec_size", 256), r.integer("num_mel_bins", 64))
    if folding.pieces < 1 or folding.side % folding.pieces:
        raise r.fail("num_mel_bins", f"at most {folding.side} (spec_size), and pieces that fill it", folding.bands)
    return folding


def _check_halving(r: ConfigReader, patching: PaddedPatching, folding: Folding, stages: int) -> None:
    """Refuse maps that cannot be halved as often as there are stages, or be unfolded after the last of them."""
    parts = 2 ** (stages - 1)
    rows = patching.grid[0] // parts
    pieces = rows // folding.pieces
    if any(n % parts for n in patching.grid) or not pieces or rows % pieces:
        raise r.fail("spec_size", f"a side that {stages} stages can halve, and unfold after the last", folding.side)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What both towers compute together."""

    text: TextSide
    audio: AudioSide
    start: float


def read(r: ConfigReader) -> Config:
    """Read the config of both, which says of both towers what space they meet in."""
    r.inert("hidden_size", "num_hidden_layers", "fusion_num_hidden_layers")
    space, start = Space.read(r), r.number("logit_scale_init_value", 1 / 0.07)
    if start <= 0:
        raise r.fail("logit_scale_init_value", "a positive number", start)

    def part(name: str, kind: str) -> Part:
        said = {"projection_dim": space.width, "projection_hidden_act": space.act}
        made = Part(r.within({**r.sub(name, {}).raw, **said}, name), kind)
        r.values[name] = made.config
        return made

    text, audio = part("text_config", "clap_text_model"), part("audio_config", "clap_audio_model")
    made = Config(text=text.spec(TextSide), audio=audio.spec(AudioSide), start=math.log(start))
    r.values["hidden_size"] = made.text.counted.text.dim
    r.values["num_hidden_layers"] = made.text.counted.text.layers + len(made.audio.staged.depths)
    return made


def both_towers(c: Config) -> SoundTextEncoder:
    """Sounds compared with texts."""
    return SoundTextEncoder(
        audio_model=c.audio.model(),
        text_model=c.text.model(),
        audio_projection=c.audio.projection(),
        text_projection=c.text.projection(),
        start=c.start,
    )


TABLES = ("embed_tokens", "embed_positions", "embed_token_types")
MATRICES = (
    "q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "dense", "projection", "parts", "down", "up", "reduction",
    "linear1", "linear2",
)  # fmt: skip


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Tables alike; matrices by the width of their tower and its number of layers."""
    names = {"text_model.": "text_config", "audio_model.": "audio_config"}
    name = next((name for start, name in names.items() if path.startswith(start)), None)
    part = config.get(name) if name is not None and config.model_type == "clap" else config
    assert isinstance(part, ModelConfig)
    module, _, tensor = path.rpartition(".")
    last = module.rpartition(".")[2]
    factor = float(str(part.get("initializer_factor", 1.0)))
    if tensor != "weight" or last not in (*TABLES, *MATRICES):
        return None
    if last in TABLES:
        return 0.02 * factor
    width, layers = (int(str(part.get(key))) for key in ("hidden_size", "num_hidden_layers"))
    return float(width**-0.5 * (2 * layers) ** -0.5 * factor)


_LAYER = "stages.{i}.blocks.{j}", "audio_encoder.layers.{i}.blocks.{j}"
LAYERS = {
    **LAYER_KEYS,
    "input_layernorm": "layernorm_before",
    "post_attention_layernorm": "layernorm_after",
    "self_attn.distance_bias.weight": "attention.self.relative_position_bias_table",
    "self_attn.distance_bias.index.places": "attention.self.relative_position_index",
}
FUSION = {"local": ("local_att", (0, 1, 3, 4)), "whole": ("global_att", (1, 2, 4, 5))}
"""Where the parts of the fusion's branches stand among what they are made of."""

AUDIO_KEYS = KeyMap(
    {
        "batch_norm": "audio_encoder.batch_norm",
        "norm": "audio_encoder.norm",
        "patches.projection": "audio_encoder.patch_embed.proj",
        "patches.parts": "audio_encoder.patch_embed.mel_conv2d",
        "patch_norm": "audio_encoder.patch_embed.norm",
        **{
            f"patches.fusion.{ours}.{part}": f"audio_encoder.patch_embed.fusion_model.{theirs}.{place}"
            for ours, (theirs, places) in FUSION.items()
            for part, place in zip(("down", "down_norm", "up", "up_norm"), places, strict=True)
        },
        "stages.{i}": "audio_encoder.layers.{i}",
        **{f"{_LAYER[0]}.{ours}": f"{_LAYER[1]}.{theirs}" for ours, theirs in LAYERS.items()},
    },
    aliases=((r"^audio_model\.(\w)", r"\1"),),
)
TEXT_KEYS = KeyMap({**STACK_KEYS, "embeddings.notes": "embeddings"}, aliases=((r"^text_model\.(\w)", r"\1"),))
BOTH_KEYS = TEXT_KEYS.under("text_model", "text_model") | AUDIO_KEYS.under("audio_model", "audio_model")

# A tower can be loaded from a file that holds both.
NO_TEXT = KeyMap({}, ignored=(r"^(text_model|text_projection)\.", r"^logit_scale_[at]$"))
NO_AUDIO = KeyMap({}, ignored=(r"^(audio_model|audio_projection)\.", r"^logit_scale_[at]$"))

USUAL = {"initializer_factor": 1.0}
TEXT = (
    Builder("clap_text_model", TextSide.read, TEXT_KEYS | NO_AUDIO, prefix="text_model")
    .public(config="ClapTextConfig", tokenizer="RobertaTokenizer", usual=USUAL)
    .begins(beginning)
    .base("ClapTextModel", TextSide.model)
    .head("ClapTextModelWithProjection", "text-embedding", TextSide.embedder, {"projection": "text_projection"})
    .done()
)
AUDIO = (
    Builder("clap_audio_model", AudioSide.read, AUDIO_KEYS | NO_TEXT, prefix="audio_model")
    .public(
        config="ClapAudioConfig",
        feature_extractor="ClapFeatureExtractor",
        usual={**USUAL, "flatten_patch_embeds": True, "num_classes": 527},
    )
    .begins(beginning)
    .base("ClapAudioModel", AudioSide.model)
    .head("ClapAudioModelWithProjection", "audio-embedding", AudioSide.embedder, {"projection": "audio_projection"})
    .done()
)
FAMILY = (
    Builder("clap", read, BOTH_KEYS, prefix="clap")
    .public(
        config="ClapConfig",
        tokenizer="RobertaTokenizer",
        feature_extractor="ClapFeatureExtractor",
        processor="ClapProcessor",
        row="both towers, fused or not, zero-shot audio classification, projections",
        usual=USUAL,
    )
    .begins(beginning)
    .base("ClapModel", both_towers)
    .done()
)
