"""Encoders that read pictures: patches in, hidden states and one vector per picture out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack, cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.heads import Pool, SequenceClassifier
from omniform.architectures.losses import masked_pixel_loss
from omniform.architectures.model import Model
from omniform.blocks.layers import passed, run
from omniform.blocks.patches import ClassToken, GridPositions, MaskToken, PatchStem
from omniform.core.config import Common
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, MaskedImageModelingOutput


class VisionEncoder(Model):
    """A transformer over the patches of a picture.

    Args:
        patches: pixels to patch vectors.
        positions: learned positions, added to them.
        layers: called as ``layer(hidden, ctx)``.
        class_token: a vector in front of the patches.
        mask_token: what stands in for hidden patches.
        pre_norm: applied before the first layer.
        norm: applied after the last layer.
        pooler: hidden states to one vector per picture.
        dropout: on the embeddings, in training.
    """

    main_input = "pixel_values"

    patches: PatchStem
    positions: GridPositions
    layers: nn.ModuleList
    class_token: ClassToken | None = None
    mask_token: MaskToken | None = None
    pre_norm: nn.Module | None = None
    norm: nn.Module | None = None
    pooler: nn.Module | None = None
    dropout: float = 0.0

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.patches.projection.out_channels

    def tokens(self, pixel_values: Tensor) -> int:
        """How many hidden states each of some pictures has, the class token included.

        Args:
            pixel_values: Shape: [B, channels, height, width].

        Raises:
            InputError: pictures of the wrong shape.
        """
        self.patches.check(pixel_values)
        rows, columns = self.patches.patching.grid_of(*pixel_values.shape[2:])
        return rows * columns + (self.class_token is not None)

    def embed(self, pixel_values: Tensor, *, masked: Tensor | None = None, interpolate: bool = False) -> Tensor:
        """Pictures to the vectors that the layers start from.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            masked: Shape: [B, patches], true for patches to hide.
            interpolate: resample the learned positions for pictures of another size.

        Returns:
            Shape: [B, T, D], the class token (if there is one) first, then the patches row by row.

        Raises:
            InputError: pictures of the wrong shape; patches to hide where the model has no mask token.
        """
        x_BTD = self.patches(pixel_values, any_size=interpolate)
        if masked is not None:
            x_BTD = self._mask(x_BTD, masked)
        if self.class_token is not None:
            x_BTD = self.class_token(x_BTD)
        height, width = pixel_values.shape[2:]
        x_BTD = F.dropout(
            x_BTD + self.positions(self.patches.patching.grid_of(height, width)), self.dropout, self.training
        )
        return x_BTD if self.pre_norm is None else self.pre_norm(x_BTD)

    def _mask(self, patches_BND: Tensor, masked_BN: Tensor) -> Tensor:
        if self.mask_token is None:
            raise InputError(
                "this model has no mask token",
                where="bool_masked_pos",
                remedy="AutoModelForMaskedImageModeling loads the checkpoint with one, if it has one.",
            )
        hidden: Tensor = self.mask_token(patches_BND, masked_BN)
        return hidden

    def encode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        hidden = run(self.layers, embeds_BTD, ctx)
        return hidden if self.norm is None else self.norm(hidden)

    def hidden_at(self, pixel_values: Tensor, indices: Sequence[int], *, interpolate: bool = False) -> list[Tensor]:
        """Some of the hidden states that :meth:`forward` reports; no layer above the last of them is computed.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            indices: 0 for what enters the first layer, ``i`` for what layer ``i`` gives; negative ones count from
                the end, so that -1 is the last layer's (without the final norm).

        Returns:
            In the order of ``indices``; Shape: [B, T, D] each.

        Raises:
            InputError: there is no such layer.
        """
        states = len(self.layers) + 1
        for index in indices:
            if not -states <= index < states:
                raise InputError(
                    "the vision encoder has no such hidden state",
                    where="layer",
                    expected=f"{-states} to {states - 1}",
                    found=index,
                )
        wanted = [index % states for index in indices]
        embeds = self.embed(pixel_values, interpolate=interpolate)
        ctx, hidden = self.step(embeds), [embeds]
        for number, layer in enumerate(self.layers[: max(wanted, default=0)]):
            hidden.append(passed(layer, number, hidden[-1], ctx))
        return [hidden[index] for index in wanted]

    def get_input_embeddings(self) -> nn.Module:
        return self.patches

    def forward(
        self,
        pixel_values: Tensor | None = None,
        *,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of pictures, and one vector per picture if the model pools.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            bool_masked_pos: Shape: [B, patches], true for patches to hide behind the mask token.
            interpolate_pos_encoding: take pictures of another size, resampling the learned positions.
            attention_mask: Shape: [B, T], 0 for tokens that nobody may look at.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no pictures, or pictures of the wrong shape.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        embeds = self.embed(pixel_values, masked=bool_masked_pos, interpolate=bool(interpolate_pos_encoding))
        ctx = self.step(embeds, given, attention_mask=attention_mask)
        hidden = self.encode(embeds, ctx)
        return BaseModelOutput(
            last_hidden_state=hidden,
            pooler_output=None if self.pooler is None else self.pooler(hidden),
            **ctx.taps.noted(),
        )


def image_classifier(model: VisionEncoder, pool: Pool, common: Common) -> SequenceClassifier:
    """One class per picture; with no labels there is nothing to score, and the pooled vector itself comes out."""
    scores = nn.Linear(model.width, common.num_labels) if common.num_labels else nn.Identity()
    return SequenceClassifier(model=model, pool=pool, classifier=scores, common=common)


class MaskedImageModeler(Model):
    """Fills in the pixels of hidden patches (SimMIM, https://arxiv.org/abs/2111.09886).

    Args:
        model: the encoder; it has a class token and a mask token.
        stride: side of the square of pixels that is drawn for each patch.
    """

    main_input = "pixel_values"

    model: VisionEncoder
    stride: int

    def __post_init__(self) -> None:
        super().__post_init__()
        drawn = nn.Conv2d(self.model.width, self.stride**2 * self.model.patches.patching.channels, kernel_size=1)
        self.decoder = nn.Sequential(drawn, nn.PixelShuffle(self.stride))

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        hidden = inputs.get("bool_masked_pos")
        return hidden.sum() * self.stride**2 if isinstance(hidden, Tensor) else None

    def forward(
        self,
        pixel_values: Tensor,
        *,
        bool_masked_pos: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> MaskedImageModelingOutput:
        """Pictures with their hidden patches filled in; see :meth:`VisionEncoder.forward` for the other inputs.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            bool_masked_pos: Shape: [B, patches], true for patches to hide; gives a loss.
            num_items_in_batch: how many pixels are hidden in all batches of a step, if not in this one.

        Raises:
            InputError: patches are hidden and the model does not draw as many pixels as a patch has.
        """
        patching = self.model.patches.patching
        if bool_masked_pos is not None and patching.patch_size != (self.stride, self.stride):
            raise InputError(
                "a loss needs as many pixels drawn as a patch has",
                where="config.json: encoder_stride",
                expected=f"{list(patching.patch_size)} (patch_size)",
                found=self.stride,
            )
        out = cast(BaseModelOutput, self.model(pixel_values, bool_masked_pos=bool_masked_pos, **inputs))
        height, width = pixel_values.shape[2:]
        grid = patching.grid_of(height, width)
        patches_BDN = out.last_hidden_state[:, 1:].transpose(1, 2)
        drawn = self.decoder(patches_BDN.reshape(*patches_BDN.shape[:2], *grid))
        loss = None
        if bool_masked_pos is not None:
            loss = masked_pixel_loss(drawn, pixel_values, bool_masked_pos.view(-1, *grid), num_items_in_batch)
        return MaskedImageModelingOutput(loss=loss, reconstruction=drawn, **out.noted())
