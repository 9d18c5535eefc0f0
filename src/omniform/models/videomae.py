"""VideoMAE (https://arxiv.org/abs/2203.12602): an encoder of patches that last some frames, and a decoder of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.heads import first_token
from omniform.architectures.losses import divided
from omniform.architectures.model import Model
from omniform.architectures.parts import read_width
from omniform.architectures.tower import Tower
from omniform.architectures.video import TubeletEncoder, VideoClassifier, checked, given, marked, mean_of_all
from omniform.architectures.vision import classes_of
from omniform.architectures.vit_family import LAYER, LAYER_KEYS
from omniform.blocks.composed import Composed
from omniform.blocks.layers import run
from omniform.blocks.patches import MaskToken, read_patching
from omniform.blocks.videos import Tubelets, TubeletStem, waved
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.errors import ConfigError, InputError
from omniform.core.outputs import BaseModelOutput, PixelsOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import unsqueezed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What pixels are taken to have been normalized by (ImageNet's)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a VideoMAE computes."""

    tower: Tower
    decoder: Tower
    tubelets: Tubelets
    qv_bias: bool
    dropout: float
    mean_pooling: bool
    normed: bool

    def stack(self, tower: Tower) -> nn.ModuleList:
        """Layers of the encoder or the decoder; keys never have a bias."""
        return tower.stack(Full(), biases="qvo" if self.qv_bias else "o", dropout=self.dropout)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    tower = Tower.read(
        r, dim=768, hidden=3072, heads=12, act="gelu", eps=1e-12, dropout_key="attention_probs_dropout_prob"
    )
    patching = read_patching(r, patch_size=16)
    tubelets = Tubelets(
        channels=patching.channels,
        image_size=patching.image_size,
        patch_size=patching.patch_size,
        frames=r.integer("num_frames", 16),
        tubelet_size=r.integer("tubelet_size", 2),
    )
    if tubelets.tubelet_size > tubelets.frames:
        raise r.fail("tubelet_size", f"at most {tubelets.frames} (num_frames)", tubelets.tubelet_size)
    dim, heads = read_width(r, "decoder_hidden_size", 384, "decoder_num_attention_heads", 6)
    decoder = replace(
        tower,
        dim=dim,
        hidden=r.integer("decoder_intermediate_size", 1536),
        layers=r.layers("decoder_num_hidden_layers", 4),
        heads=heads,
    )
    return Config(
        tower=tower,
        decoder=decoder,
        tubelets=tubelets,
        qv_bias=r.flag("qkv_bias", r.flag("qv_bias", True)),
        dropout=r.probability("hidden_dropout_prob"),
        mean_pooling=r.flag("use_mean_pooling", True),
        normed=r.flag("norm_pix_loss", True),
    )


class TubeletDecoder(Composed):
    """Draws hidden patches from those that were seen.

    Args:
        embed: the encoder's vectors to the decoder's.
        mask_token: stands for hidden patches.
        pred: a vector to the pixels of a patch.
    """

    embed: nn.Linear
    mask_token: MaskToken
    layers: nn.ModuleList
    norm: nn.Module
    pred: nn.Linear

    def gathered(self, seen_BTD: Tensor, marks_BN: Tensor) -> Tensor:
        """What is seen, and behind it what is hidden, each with where it stands. Shape: [B, N, D]."""
        x_BTD: Tensor = self.embed(seen_BTD)
        places_BND = waved(x_BTD.new_zeros(*marks_BN.shape, x_BTD.shape[2]))
        hidden = self.mask_token.weight + marked(places_BND, marks_BN)
        return torch.cat((x_BTD + marked(places_BND, ~marks_BN), hidden), dim=1)

    def forward(self, x_BND: Tensor, hidden: int, ctx: StepContext) -> Tensor:
        """The pixels of the last ``hidden`` patches. Shape: [B, N, D] to [B, hidden, pixels]."""
        drawn: Tensor = self.pred(self.norm(run(self.layers, x_BND, ctx)[:, -hidden:]))
        return drawn


class VideoAutoencoder(Model):
    """Draws the patches that it was not shown.

    Args:
        model: the encoder.
        decoder: draws.
        normed: whether each patch is drawn with mean 0 and variance 1, channel by channel.
    """

    main_input = "pixel_values"

    model: TubeletEncoder
    decoder: TubeletDecoder
    normed: bool

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        marks = inputs.get("bool_masked_pos")
        return marks.sum() if isinstance(marks, Tensor) else None

    def wanted(self, pixel_values: Tensor) -> Tensor:
        """What is to be drawn of every patch. Shape: [B, T, C, H, W] to [B, N, pixels]."""
        frames = pixel_values
        if frames.shape[2] == len(MEAN):
            mean, std = (frames.new_tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
            frames = frames * std + mean
        patches_BNPC = self.model.patches.tubelets.cut(frames)
        if self.normed:
            spread = patches_BNPC.var(dim=-2, keepdim=True).sqrt() + 1e-6
            patches_BNPC = (patches_BNPC - patches_BNPC.mean(dim=-2, keepdim=True)) / spread
        return patches_BNPC.flatten(2)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> PixelsOutput:
        """Pixels of the hidden patches, and how far off they are; see :meth:`TubeletEncoder.forward`.

        Args:
            pixel_values: Shape: [B, frames, channels, height, width].
            bool_masked_pos: true for patches to hide, as many in every video. Shape: [B, patches].
            num_items_in_batch: how many patches are hidden in all batches of a step, if not in this one.

        Raises:
            InputError: videos of the wrong shape, or marks that do not fit them, or none.
        """
        if bool_masked_pos is None:
            raise InputError("nobody says what is hidden", where="bool_masked_pos", expected="a tensor", found="None")
        out = cast(BaseModelOutput, self.model(pixel_values, bool_masked_pos=bool_masked_pos, **inputs))
        with torch.no_grad():
            wanted = self.wanted(given(pixel_values))
        marks = checked(bool_masked_pos, wanted)
        wanted = marked(wanted, marks)
        tokens = self.decoder.gathered(out.last_hidden_state, marks)
        drawn = self.decoder(tokens, wanted.shape[1], self.step(tokens))
        errors = ((drawn - wanted) ** 2).mean(-1)
        items = errors.numel() if num_items_in_batch is None else num_items_in_batch
        return PixelsOutput(loss=divided(errors.sum(), items), logits=drawn, **out.noted())


def build(c: Config) -> TubeletEncoder:
    """The encoder; where a mean of its vectors is classified, the head norms that."""
    norm = None if c.mean_pooling else c.tower.norm()
    return TubeletEncoder(patches=TubeletStem(c.tubelets, c.tower.dim), layers=c.stack(c.tower), norm=norm)


def autoencoder(c: Config, _: Common) -> VideoAutoencoder:
    """The encoder, and a decoder that draws."""
    tubelets, dim = c.tubelets, c.decoder.dim
    if tubelets.channels != len(MEAN) and not c.normed:
        raise ConfigError(
            "pixels as they were are known of three channels only",
            where="config.json: norm_pix_loss",
            expected="true",
            found=f"false, with {tubelets.channels} channels (num_channels)",
        )
    pixels = tubelets.tubelet_size * tubelets.patch_size[0] * tubelets.patch_size[1] * tubelets.channels
    decoder = TubeletDecoder(
        embed=nn.Linear(c.tower.dim, dim, bias=False),
        mask_token=MaskToken(dim),
        layers=c.stack(c.decoder),
        norm=nn.LayerNorm(dim),
        pred=nn.Linear(dim, pixels),
    )
    return VideoAutoencoder(model=build(c), decoder=decoder, normed=c.normed)


def classifier(c: Config, common: Common) -> VideoClassifier:
    """One class per video, told from the mean of all patches, or from the first."""
    return VideoClassifier(
        model=build(c),
        pool=mean_of_all if c.mean_pooling else first_token,
        fc_norm=nn.LayerNorm(c.tower.dim) if c.mean_pooling else None,
        classifier=classes_of(c.tower.dim, common),
        common=common,
    )


KEYS = KeyMap(
    {"patches": "embeddings.patch_embeddings", **LAYER_KEYS, "norm": "layernorm"},
    # As the first releases wrote them, and all that was published.
    aliases=(
        (r"attention\.attention\.q_bias$", "attention.attention.query.bias"),
        (r"attention\.attention\.v_bias$", "attention.attention.value.bias"),
    ),
)

DECODER_LAYERS: dict[str, Rule] = {
    f"decoder.{ours}": cast(str, theirs).replace(LAYER, "decoder.decoder_layers.{i}")
    for ours, theirs in LAYER_KEYS.items()
}
DECODER_KEYS = KeyMap(
    {
        "decoder.embed": "encoder_to_decoder",
        "decoder.mask_token.weight": unsqueezed("mask_token", 2),
        **DECODER_LAYERS,
        "decoder.norm": "decoder.norm",
        "decoder.pred": "decoder.head",
    }
)

FAMILY = (
    Builder("videomae", read, KEYS, prefix="videomae")
    .public(
        config="VideoMAEConfig",
        image_processor="VideoMAEImageProcessor",
        video_processor="VideoMAEVideoProcessor",
        row="video classification, pretraining",
    )
    .base("VideoMAEModel", build)
    .head("VideoMAEForPreTraining", "pre-training", autoencoder, DECODER_KEYS)
    .head("VideoMAEForVideoClassification", "video-classification", classifier)
    .done()
)
