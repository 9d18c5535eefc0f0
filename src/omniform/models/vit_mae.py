"""ViTMAE (https://arxiv.org/abs/2111.06377): an encoder of a few patches, and a decoder that draws the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.losses import divided
from omniform.architectures.model import Model
from omniform.architectures.parts import read_width
from omniform.architectures.tower import Tower
from omniform.architectures.vision import VisionEncoder
from omniform.architectures.vit_family import LAYER, LAYER_KEYS, PLAIN_KEYS, PlainVision
from omniform.blocks.composed import Composed
from omniform.blocks.layers import run
from omniform.blocks.patches import (
    ClassToken,
    MaskToken,
    Patching,
    PatchStem,
    SineGridPositions,
    SineLinePositions,
    Size,
)
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.outputs import MaskedEncoderOutput, PixelsOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Layout, Rule
from omniform.weights.links import unsqueezed


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a ViTMAE computes."""

    vision: PlainVision
    decoder: Tower
    hidden_share: float
    normed: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    vision = PlainVision.read(r)
    dim, heads = read_width(r, "decoder_hidden_size", 512, "decoder_num_attention_heads", 16)
    for name, width in (("hidden_size", vision.tower.dim), ("decoder_hidden_size", dim)):
        if width % 4:
            raise r.fail(name, "a multiple of 4: rows and columns, and of each a sine and a cosine", width)
    decoder = replace(
        vision.tower,
        dim=dim,
        hidden=r.integer("decoder_intermediate_size", 2048),
        layers=r.layers("decoder_num_hidden_layers", 8),
        heads=heads,
    )
    return Config(
        vision=vision,
        decoder=decoder,
        hidden_share=r.probability("mask_ratio", 0.75),
        normed=r.flag("norm_pix_loss", False),
    )


class MaskedEncoder(VisionEncoder):
    """An encoder that sees some of the patches only.

    Args:
        hidden_share: the part of the patches that it does not see.
    """

    hidden_share: float

    def kept(self, patches: int) -> int:
        """How many of so many patches it sees."""
        return int(patches * (1 - self.hidden_share))

    def hide(self, embeds_BTD: Tensor, noise_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Leave patches out.

        Args:
            embeds_BTD: the class token and all patches.
            noise_BN: the patches with the smallest numbers are kept; drawn, if None.

        Returns:
            What is seen, Shape: [B, 1 + kept, D]; 1 for hidden patches, Shape: [B, N]; where each patch stands
            among the kept and, behind them, the hidden ones, Shape: [B, N].

        Raises:
            InputError: there is not one number per patch.
        """
        rows, patches = embeds_BTD.shape[0], embeds_BTD.shape[1] - 1
        if noise_BN is None:
            noise_BN = torch.rand(rows, patches, device=embeds_BTD.device)
        check_shape("there is not one number per patch", noise_BN.shape, (rows, patches), where="noise")
        order = noise_BN.argsort(dim=1)
        places = order.argsort(dim=1)
        kept = self.kept(patches)
        seen = order[:, :kept, None].expand(-1, -1, embeds_BTD.shape[2])
        mask = (places >= kept).to(torch.float32)
        return torch.cat((embeds_BTD[:, :1], embeds_BTD[:, 1:].gather(1, seen)), dim=1), mask, places

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> MaskedEncoderOutput:
        """Hidden states of the patches that are seen.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            noise: which patches are kept, those with the smallest numbers; drawn by default. Shape: [B, patches].
            interpolate_pos_encoding: take pictures of another size, resampling the positions.
            attention_mask: Shape: [B, 1 + kept], 0 for tokens that nobody may look at.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no pictures, or pictures or noise of the wrong shape.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        embeds = self.embed(pixel_values, interpolate=bool(interpolate_pos_encoding))
        seen, mask, places = self.hide(embeds, noise)
        ctx = self.context(seen, self.grid_of(pixel_values), given, attention_mask)
        hidden = self.encode(seen, ctx)
        return MaskedEncoderOutput(last_hidden_state=hidden, mask=mask, ids_restore=places, **ctx.taps.noted())


class PixelDecoder(Composed):
    """Draws all patches from those that were seen.

    Args:
        embed: the encoder's vectors to the decoder's.
        mask_token: stands for hidden patches.
        positions: of all patches, and of the class token.
        pred: a vector to the pixels of a patch.
    """

    embed: nn.Linear
    mask_token: MaskToken
    positions: SineLinePositions
    layers: nn.ModuleList
    norm: nn.Module
    pred: nn.Linear

    def gathered(self, seen_BTD: Tensor, places_BN: Tensor, grid: Size) -> Tensor:
        """All patches of a grid where they stand, behind the class token. Shape: [B, 1 + N, D]."""
        x_BTD: Tensor = self.embed(seen_BTD)
        rows, tokens, dim = x_BTD.shape
        patches = places_BN.shape[1]
        hidden = self.mask_token.weight.expand(rows, patches + 1 - tokens, -1)
        all_BND = torch.cat((x_BTD[:, 1:], hidden), dim=1).gather(1, places_BN[..., None].expand(-1, -1, dim))
        placed: Tensor = torch.cat((x_BTD[:, :1], all_BND), dim=1) + self.positions(grid)
        return placed

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """The pixels of every patch. Shape: [B, 1 + N, D] to [B, N, pixels]."""
        patches_BND = run(self.layers, x_BTD, ctx, self.norm)[:, 1:]
        drawn: Tensor = self.pred(patches_BND)
        return drawn


def cut(pixel_values: Tensor, patching: Patching) -> Tensor:
    """Pictures as the pixels of their patches; what is left over at the edges is cut off.

    Returns:
        Shape: [B, patches, patch height * patch width * channels].
    """
    whole_height, whole_width = pixel_values.shape[2:]
    (rows, columns), (height, width) = patching.grid_of(whole_height, whole_width), patching.patch_size
    whole = pixel_values[:, :, : rows * height, : columns * width]
    apart = whole.reshape(*whole.shape[:2], rows, height, columns, width)
    return apart.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class MaskedAutoencoder(Model):
    """Draws the patches that it was not shown.

    Args:
        model: the encoder.
        decoder: draws.
        normed: whether each patch is drawn with mean 0 and variance 1.
    """

    main_input = "pixel_values"

    model: MaskedEncoder
    decoder: PixelDecoder
    normed: bool

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        pixels = inputs.get("pixel_values")
        if not isinstance(pixels, Tensor):
            return None
        rows, columns = self.model.grid_of(pixels)
        return len(pixels) * (rows * columns - self.model.kept(rows * columns))

    def patchify(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Pictures as pixels of patches. Shape: [B, C, H, W] to [B, patches, patch height * patch width * C].

        Raises:
            InputError: pictures of another size than the model's own, unless ``interpolate_pos_encoding``.
        """
        self.model.patches.check(pixel_values, interpolate_pos_encoding)
        return cut(pixel_values, self.model.patches.patching)

    def unpatchify(self, patchified_pixel_values: Tensor, original_image_size: Size | None = None) -> Tensor:
        """The way back; ``original_image_size``: of the pictures, if not the model's own.

        Raises:
            InputError: a picture of this size has another number of patches.
        """
        patching = self.model.patches.patching
        height, width = original_image_size or patching.image_size
        rows, columns = patching.grid_of(height, width)
        problem = "a picture of this size has another number of patches"
        check_shape(problem, patchified_pixel_values.shape[1:2], (rows * columns,), where="patchified_pixel_values")
        apart = patchified_pixel_values.reshape(-1, rows, columns, *patching.patch_size, patching.channels)
        return apart.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

    def forward(
        self,
        pixel_values: Tensor,
        *,
        interpolate_pos_encoding: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> PixelsOutput:
        """Pixels of all patches, and how far those of the hidden ones are off; see :meth:`MaskedEncoder.forward`.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            interpolate_pos_encoding: take pictures of another size, resampling the positions.
            num_items_in_batch: how many patches are hidden in all batches of a step, if not in this one.
        """
        given = {"interpolate_pos_encoding": interpolate_pos_encoding, **inputs}
        out = cast(MaskedEncoderOutput, self.model(pixel_values, **given))
        mask, places = cast(Tensor, out.mask), cast(Tensor, out.ids_restore)
        tokens = self.decoder.gathered(out.last_hidden_state, places, self.model.grid_of(pixel_values))
        drawn = self.decoder(tokens, self.step(tokens))
        wanted = cut(pixel_values, self.model.patches.patching)
        if self.normed:
            wanted = (wanted - wanted.mean(-1, keepdim=True)) / (wanted.var(-1, keepdim=True) + 1e-6) ** 0.5
        errors = ((drawn - wanted) ** 2).mean(-1) * mask
        items = mask.sum() if num_items_in_batch is None else num_items_in_batch
        return PixelsOutput(
            loss=divided(errors.sum(), items),
            logits=drawn,
            mask=mask,
            ids_restore=places,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


def build(c: Config) -> MaskedEncoder:
    """The encoder."""
    vision, dim = c.vision, c.vision.tower.dim
    return MaskedEncoder(
        patches=PatchStem(vision.patching, dim),
        positions=SineGridPositions(vision.patching.grid, dim, before=1),
        class_token=ClassToken(dim),
        layers=vision.stack(),
        norm=vision.tower.norm(),
        hidden_share=c.hidden_share,
    )


def autoencoder(c: Config, _: Common) -> MaskedAutoencoder:
    """The encoder, and a decoder that draws."""
    patching, tower = c.vision.patching, c.decoder
    pixels = patching.patch_size[0] * patching.patch_size[1] * patching.channels
    decoder = PixelDecoder(
        embed=nn.Linear(c.vision.tower.dim, tower.dim),
        mask_token=MaskToken(tower.dim),
        positions=SineLinePositions(patching.grid, tower.dim, before=1),
        layers=tower.stack(Full(), biases=c.vision.biases, dropout=c.vision.dropout, head_dim=c.vision.head_dim),
        norm=tower.norm(),
        pred=nn.Linear(tower.dim, pixels),
    )
    return MaskedAutoencoder(model=build(c), decoder=decoder, normed=c.normed)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """The projection of patches begins as that of a plain layer."""
    if path.endswith("patches.projection.weight"):
        return lambda x: nn.init.xavier_uniform_(x.flatten(1))
    return None


def decoder_rules(layer: str) -> dict[str, Rule]:
    """Where the decoder's layers live, by the template of one of them."""
    return {
        f"decoder.{ours}": cast(str, theirs).replace(LAYER, f"decoder.{layer}") for ours, theirs in LAYER_KEYS.items()
    }


OLD, NEW = r"decoder\.decoder_layers\.", r"decoder\.decoder_encoder\.layer\."
MODULES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""What the reference calls a layer's modules in its memory, and in checkpoints."""

DECODER_KEYS = KeyMap(
    {
        "decoder.embed": "decoder.decoder_embed",
        "decoder.mask_token.weight": unsqueezed("decoder.mask_token", 2),
        "decoder.positions.weight": unsqueezed("decoder.decoder_pos_embed", 1),
        "decoder.norm": "decoder.decoder_norm",
        "decoder.pred": "decoder.decoder_pred",
        **decoder_rules("decoder_layers.{i}"),
    },
    aliases=(
        *(
            (rf"{OLD}(\d+)\.{re.escape(ours)}\.", rf"decoder.decoder_layers.\1.{theirs}.")
            for ours, theirs in MODULES.items()
        ),
        (OLD, "decoder.decoder_encoder.layer."),
    ),
    # Today's release of the reference writes them by a name that older ones never had.
    layouts=(Layout(NEW, decoder_rules("decoder_encoder.layer.{i}")),),
    modules=(
        (NEW, "decoder.decoder_layers."),
        *(
            (rf"{OLD}(\d+)\.{re.escape(theirs)}", rf"decoder.decoder_layers.\1.{ours}")
            for ours, theirs in MODULES.items()
        ),
    ),
)

FAMILY = (
    Builder("vit_mae", read, PLAIN_KEYS, prefix="vit")
    .public(config="ViTMAEConfig", image_processor="ViTImageProcessor", row="image features, pretraining")
    .begins(beginning)
    .base("ViTMAEModel", build)
    .head("ViTMAEForPreTraining", "pre-training", autoencoder, DECODER_KEYS)
    .done()
)
