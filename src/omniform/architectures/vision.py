"""Encoders that read pictures: patches in, hidden states and one vector per picture out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Unpack, cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.heads import Pool, SequenceClassifier
from omniform.architectures.losses import masked_pixel_loss
from omniform.architectures.model import Model
from omniform.blocks.grid_rotary import GridContext, PatchPlaces
from omniform.blocks.layers import passed, run
from omniform.blocks.patches import ClassToken, GridPositions, MaskToken, PatchStem, RegisterTokens, Size
from omniform.core.config import Common
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, MaskedImageModelingOutput


class VisionEncoder(Model):
    """A transformer over the patches of a picture.

    Args:
        patches: pixels to patch vectors.
        positions: learned positions, added to them; None where the layers know places otherwise.
        layers: called as ``layer(hidden, ctx)``.
        class_token: vectors in front of the patches, and behind them.
        mask_token: what stands in for hidden patches.
        register_tokens: vectors without positions, behind the class token.
        pre_norm: applied before the first layer.
        norm: applied after the last layer.
        pooler: hidden states to one vector per picture.
        dropout: on the embeddings, in training.

    Attributes:
        ANY_SIZE: whether pictures of any size are read without being asked for.
    """

    ANY_SIZE: ClassVar[bool] = False
    main_input = "pixel_values"

    patches: PatchStem
    positions: GridPositions | None = None
    layers: nn.ModuleList
    class_token: ClassToken | None = None
    mask_token: MaskToken | None = None
    register_tokens: RegisterTokens | None = None
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
        self.patches.check(pixel_values, self.ANY_SIZE)
        rows, columns = self.grid_of(pixel_values)
        return self.first_patch + rows * columns + (0 if self.class_token is None else self.class_token.after)

    @property
    def first_patch(self) -> int:
        """How many tokens stand before the patches."""
        registers = 0 if self.register_tokens is None else self.register_tokens.count
        return registers + (0 if self.class_token is None else self.class_token.before)

    def grid_of(self, pixel_values: Tensor) -> Size:
        """Rows and columns of patches. Shape: [B, channels, height, width]."""
        height, width = pixel_values.shape[2:]
        return self.patches.patching.grid_of(height, width)

    def map_of(self, hidden_BTD: Tensor, grid: Size) -> Tensor:
        """The hidden states of patches as a map. Shape: [B, T, D] to [B, D, rows, columns]."""
        patches_BND = hidden_BTD[:, self.first_patch : self.first_patch + grid[0] * grid[1]]
        return patches_BND.transpose(1, 2).reshape(patches_BND.shape[0], -1, *grid)

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
        patches = self.patches(pixel_values, any_size=interpolate or self.ANY_SIZE)
        return self.placed(patches, self.grid_of(pixel_values), masked)

    def placed(self, patches_BND: Tensor, grid: Size, masked: Tensor | None = None) -> Tensor:
        """Patches, the tokens around them and where they stand. Shape: [B, N, D] to [B, T, D]; see :meth:`embed`."""
        x_BTD = patches_BND if masked is None else self._mask(patches_BND, masked)
        if self.class_token is not None:
            x_BTD = self.class_token(x_BTD)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(grid)
        if self.register_tokens is not None:
            x_BTD = self.register_tokens(x_BTD)
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
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

    def context(
        self, embeds_BTD: Tensor, grid: Size, asked: Tapped | None = None, attention_mask: Tensor | None = None
    ) -> StepContext:
        """The context of one step over the patches of a grid; see :meth:`~omniform.architectures.model.Model.step`."""
        return self.step(embeds_BTD, asked, attention_mask=attention_mask)

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
        wanted = self.wanted(indices)
        embeds = self.embed(pixel_values, interpolate=interpolate)
        hidden = self.states(embeds, self.context(embeds, self.grid_of(pixel_values)), max(wanted, default=0))
        return [hidden[index] for index in wanted]

    def wanted(self, indices: Sequence[int]) -> list[int]:
        """The hidden states that :meth:`hidden_at` is asked for, counted from the first.

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
        return [index % states for index in indices]

    def states(self, embeds_BTD: Tensor, ctx: StepContext, last: int) -> list[Tensor]:
        """What enters the first layer, and what each of the first ``last`` layers gives. Shape: [B, T, D] each."""
        hidden = [embeds_BTD]
        ctx.taps.hidden(embeds_BTD)
        for number, layer in enumerate(self.layers[:last]):
            hidden.append(passed(layer, number, hidden[-1], ctx))
            ctx.taps.hidden(hidden[-1])
        return hidden

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
        ctx = self.context(embeds, self.grid_of(pixel_values), given, attention_mask)
        hidden = self.encode(embeds, ctx)
        return BaseModelOutput(
            last_hidden_state=hidden,
            pooler_output=None if self.pooler is None else self.pooler(hidden),
            **ctx.taps.noted(),
        )


class FreeVisionEncoder(VisionEncoder):
    """An encoder that reads pictures of any size without being asked."""

    ANY_SIZE: ClassVar[bool] = True


class GridVisionEncoder(FreeVisionEncoder):
    """An encoder whose layers are told of the grid that they read."""

    def context(
        self, embeds_BTD: Tensor, grid: Size, asked: Tapped | None = None, attention_mask: Tensor | None = None
    ) -> StepContext:
        return GridContext.of(super().context(embeds_BTD, grid, asked, attention_mask), grid)


class RotaryVisionEncoder(FreeVisionEncoder):
    """An encoder whose layers turn queries and keys by the places of the patches.

    Args:
        places: where the patches of a grid are.
    """

    places: PatchPlaces

    def context(
        self, embeds_BTD: Tensor, grid: Size, asked: Tapped | None = None, attention_mask: Tensor | None = None
    ) -> StepContext:
        places = self.places(grid, embeds_BTD.device)
        return GridContext.of(super().context(embeds_BTD, grid, asked, attention_mask), grid, places)


def image_classifier(model: VisionEncoder, pool: Pool, common: Common, width: int | None = None) -> SequenceClassifier:
    """One class per picture; with no labels there is nothing to score, and the pooled vector itself comes out.

    Args:
        width: of what is pooled, if not the model's.
    """
    scores = classes_of(model.width if width is None else width, common)
    return SequenceClassifier(model=model, pool=pool, classifier=scores, common=common)


def classes_of(width: int, common: Common) -> nn.Module:
    """A vector to class scores; itself, where there are no classes."""
    return nn.Linear(width, common.num_labels) if common.num_labels else nn.Identity()


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
        grid = self.model.grid_of(pixel_values)
        drawn = self.decoder(self.model.map_of(out.last_hidden_state, grid))
        loss = None
        if bool_masked_pos is not None:
            loss = masked_pixel_loss(drawn, pixel_values, bool_masked_pos.view(-1, *grid), num_items_in_batch)
        return MaskedImageModelingOutput(loss=loss, reconstruction=drawn, **out.noted())
