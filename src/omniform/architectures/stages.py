"""Encoders of pictures whose maps grow coarser from stage to stage (Swin)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Unpack, cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.heads import SequenceClassifier, pooled
from omniform.architectures.losses import masked_pixel_loss
from omniform.architectures.model import Model
from omniform.blocks.composed import Composed
from omniform.blocks.layers import passed
from omniform.blocks.patches import GridPositions, MaskToken, Patching, Size, check_pictures
from omniform.blocks.windowed import FixedWindowsContext
from omniform.core.config import Common
from omniform.core.context import StepContext, Tapped, Taps
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, ClassifierOutput, Layers, MaskedImageModelingOutput, Noted


class StagedNoted(Noted):
    """What was noted of stages, as a head's output carries it on."""

    reshaped_hidden_states: Layers | None


@dataclass(slots=True, kw_only=True)
class StagedModelOutput(BaseModelOutput):
    """Hidden states of an encoder of stages.

    Attributes:
        hidden_states: what enters the first stage and what each stage hands on, Shape: [B, H * W, C] each.
        attentions: the weights of each stage's last layer, Shape: [B * squares, heads, T, T] each.
        reshaped_hidden_states: the same maps, Shape: [B, C, H, W] each; before they were made coarser, if asked so.
    """

    reshaped_hidden_states: Layers | None = None

    def noted(self) -> StagedNoted:
        """What a head's output repeats of this one."""
        return {
            "hidden_states": self.hidden_states,
            "attentions": self.attentions,
            "reshaped_hidden_states": self.reshaped_hidden_states,
        }


@dataclass(slots=True, kw_only=True)
class StagedClassifierOutput(ClassifierOutput):
    """Class scores of pictures, and the maps below them."""

    reshaped_hidden_states: Layers | None = None


@dataclass(slots=True, kw_only=True)
class StagedImageModelingOutput(MaskedImageModelingOutput):
    """Pictures filled in, and the maps below them."""

    reshaped_hidden_states: Layers | None = None


class PatchMap(nn.Module):
    """Cuts pictures of any size into patches and projects each to a vector.

    What the last row and column of patches lack is filled with zeros.

    Args:
        patching: the sizes.
        dim: width of a vector.
    """

    def __init__(self, patching: Patching, dim: int) -> None:
        super().__init__()
        size = patching.patch_size
        self.projection = nn.Conv2d(patching.channels, dim, kernel_size=size, stride=size)
        self.patching = patching

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Shape: [B, channels, height, width] to [B, H, W, C].

        Raises:
            InputError: these are no pictures of so many channels.
        """
        check_pictures(pixel_values, self.patching.channels)
        below, beside = (-n % side for n, side in zip(pixel_values.shape[2:], self.patching.patch_size, strict=True))
        if below or beside:
            pixel_values = F.pad(pixel_values, (0, beside, 0, below))
        vectors: Tensor = self.projection(pixel_values.to(self.projection.weight.dtype))
        return vectors.permute(0, 2, 3, 1)


class PatchMerging(nn.Module):
    """Makes of four neighbours one vector, twice as wide; norms what it reads (Swin).

    Args:
        dim: width of the vectors that it reads.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(self.normed(dim))
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def normed(self, dim: int) -> int:
        """Width of what is normed."""
        return 4 * dim

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Shape: [B, H, W, C] to [B, H / 2, W / 2, 2 * C], rounded up."""
        out: Tensor = self.reduction(self.norm(self.neighbours(x_BHWC)))
        return out

    def neighbours(self, x_BHWC: Tensor) -> Tensor:
        """Four neighbours side by side, column by column. Shape: [B, H, W, C] to [B, H / 2, W / 2, 4 * C]."""
        below, beside = x_BHWC.shape[1] % 2, x_BHWC.shape[2] % 2
        if below or beside:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, beside, 0, below))
        batch, height, width, channels = x_BHWC.shape
        squares = x_BHWC.reshape(batch, height // 2, 2, width // 2, 2, channels)
        return squares.permute(0, 1, 3, 4, 2, 5).flatten(3)


class NormedPatchMerging(PatchMerging):
    """One that norms what it gives (Swin v2)."""

    def normed(self, dim: int) -> int:
        return 2 * dim

    def forward(self, x_BHWC: Tensor) -> Tensor:
        out: Tensor = self.norm(self.reduction(self.neighbours(x_BHWC)))
        return out


Passage = tuple[Tensor, Tensor]
"""What a stage gives: its map, and that map made coarser for the next stage (itself, in the last).

Shape: [B, H, W, C] each.
"""


class Stage(Composed):
    """Layers on maps of one size, and what makes the map coarser for the next stage.

    Args:
        blocks: called as ``layer(map, ctx)``.
        downsample: None in the last stage.
    """

    blocks: nn.ModuleList
    downsample: PatchMerging | None

    def forward(self, x_BHWC: Tensor, ctx: StepContext) -> Passage:
        """Shape: [B, H, W, C] in; of the layers' attention weights those of the last one stay noted."""
        noted = len(ctx.taps.attentions)
        for number in range(len(self.blocks)):
            x_BHWC = self.block(number, x_BHWC, ctx)
        del ctx.taps.attentions[noted:-1]
        return x_BHWC, x_BHWC if self.downsample is None else self.downsample(x_BHWC)

    def block(self, number: int, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        """What one of its layers gives. Shape: [B, H, W, C] in and out."""
        return passed(self.blocks[number], number, x_BHWC, ctx)


class MeanPooler(nn.Module):
    """The mean of all hidden states."""

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] to [B, D]."""
        return hidden_BTD.mean(dim=1)


def rows_of(x_BHWC: Tensor) -> Tensor:
    """A map as a row of tokens. Shape: [B, H, W, C] to [B, H * W, C]."""
    return x_BHWC.flatten(1, 2)


def picture_of(x_BHWC: Tensor) -> Tensor:
    """A map with its channels in front. Shape: [B, H, W, C] to [B, C, H, W]."""
    return x_BHWC.permute(0, 3, 1, 2).contiguous()


class Told(Tapped, total=False):
    """What a caller may ask of stages.

    Attributes:
        always_partition: whether squares keep their size on maps that are smaller.
        output_hidden_states_before_downsampling: whether ``reshaped_hidden_states`` are the maps of the stages, and not
            what they hand on.
    """

    always_partition: bool | None
    output_hidden_states_before_downsampling: bool | None


class StagedEncoder(Model):
    """A transformer whose maps grow coarser from stage to stage.

    Args:
        patches: pixels to patch vectors.
        patch_norm: of these.
        stages: from fine to coarse.
        positions: learned positions, added to them.
        mask_token: what stands in for hidden patches.
        norm: applied after the last stage; None where only maps are wanted.
        pooler: hidden states to one vector per picture.
        dropout: on the embeddings, in training.
    """

    main_input = "pixel_values"

    patches: PatchMap
    patch_norm: nn.Module
    stages: nn.ModuleList
    positions: GridPositions | None = None
    mask_token: MaskToken | None = None
    norm: nn.LayerNorm | None
    pooler: nn.Module | None = None
    dropout: float = 0.0

    @property
    def width(self) -> int:
        """Width of the last stage's vectors."""
        return cast(nn.LayerNorm, self.norm).normalized_shape[0]

    def get_input_embeddings(self) -> nn.Module:
        return self.patches

    def embed(self, pixel_values: Tensor, *, masked: Tensor | None = None, interpolate: bool = False) -> Tensor:
        """Pictures to the map that the first stage reads.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            masked: Shape: [B, patches], true for patches to hide.
            interpolate: resample the learned positions for pictures of another size.

        Returns:
            Shape: [B, H, W, C].

        Raises:
            InputError: no pictures of so many channels; patches to hide where there is no mask token; pictures of a
                size that has no positions.
        """
        x_BHWC: Tensor = self.patch_norm(self.patches(pixel_values))
        grid = (x_BHWC.shape[1], x_BHWC.shape[2])
        if masked is not None:
            if self.mask_token is None:
                raise InputError(
                    "this model has no mask token",
                    where="bool_masked_pos",
                    remedy="AutoModelForMaskedImageModeling loads the checkpoint with one, if it has one.",
                )
            x_BHWC = self.mask_token(rows_of(x_BHWC), masked).view(x_BHWC.shape)
        if self.positions is not None:
            x_BHWC = x_BHWC + self._places(grid, pixel_values, interpolate)
        return F.dropout(x_BHWC, self.dropout, self.training)

    def _places(self, grid: Size, pixel_values: Tensor, interpolate: bool) -> Tensor:
        assert self.positions is not None
        if not interpolate and grid != self.positions.grid:
            check_pictures(pixel_values, self.patches.patching.channels, self.patches.patching.image_size)
        places: Tensor = self.positions(grid)
        return places.view(*grid, -1)

    def passages(self, x_BHWC: Tensor, ctx: StepContext) -> Iterator[Passage]:
        """What each stage gives, computed when it is asked for. Shape: [B, H, W, C] in."""
        for stage in self.stages:
            passage = cast(Passage, stage(x_BHWC, ctx))
            x_BHWC = passage[1]
            yield passage

    def forward(
        self,
        pixel_values: Tensor | None = None,
        *,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **given: Unpack[Told],
    ) -> StagedModelOutput:
        """Hidden states of pictures, and one vector per picture if the model pools.

        Args:
            pixel_values: Shape: [B, channels, height, width]; of any size.
            bool_masked_pos: Shape: [B, patches], true for patches to hide behind the mask token.
            interpolate_pos_encoding: resample learned positions, where there are some, for pictures of another size.
            given: see :class:`Told`.

        Raises:
            InputError: no pictures, or pictures of the wrong shape.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        x_BHWC = self.embed(pixel_values, masked=bool_masked_pos, interpolate=bool(interpolate_pos_encoding))
        ctx = self.step(rows_of(x_BHWC), given)
        if given.get("always_partition"):
            ctx = FixedWindowsContext.of(ctx)
        before = bool(given.get("output_hidden_states_before_downsampling"))
        reshaped = [x_BHWC]
        ctx.taps.hidden(rows_of(x_BHWC))
        for passage in self.passages(x_BHWC, ctx):
            x_BHWC = passage[1]
            ctx.taps.hidden(rows_of(x_BHWC))
            reshaped.append(passage[0] if before else x_BHWC)
        hidden = rows_of(x_BHWC) if self.norm is None else self.norm(rows_of(x_BHWC))
        return StagedModelOutput(
            last_hidden_state=hidden,
            pooler_output=None if self.pooler is None else self.pooler(hidden),
            reshaped_hidden_states=tuple(map(picture_of, reshaped)) if ctx.taps.wants_hidden else None,
            **ctx.taps.noted(),
        )


class PageEncoder(StagedEncoder):
    """Stages with no norm behind them, which read pages (Donut). What is written of a page begins with a task's token.

    Args:
        dim: width of the last stage's vectors.
    """

    dim: int

    @property
    def width(self) -> int:
        return self.dim


class StagedClassifier(SequenceClassifier):
    """One class per picture, told from the mean of its vectors."""

    OUTPUT: ClassVar[type[ClassifierOutput]] = StagedClassifierOutput


def staged_classifier(model: StagedEncoder, common: Common) -> StagedClassifier:
    """The classifier; with no labels there is nothing to score, and the pooled vector itself comes out."""
    scores = nn.Linear(model.width, common.num_labels) if common.num_labels else nn.Identity()
    return StagedClassifier(model=model, pool=pooled, classifier=scores, common=common)


class StagedImageModeler(Model):
    """Fills in the pixels of hidden patches (SimMIM, https://arxiv.org/abs/2111.09886).

    Args:
        model: the encoder; it has a mask token.
        stride: side of the square of pixels that is drawn for each vector of the last stage.
    """

    main_input = "pixel_values"

    model: StagedEncoder
    stride: int

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = self.model.patches.patching.channels
        drawn = nn.Conv2d(self.model.width, self.stride**2 * channels, kernel_size=1)
        self.decoder = nn.Sequential(drawn, nn.PixelShuffle(self.stride))

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        hidden = inputs.get("bool_masked_pos")
        height, width = self.model.patches.patching.patch_size
        return hidden.sum() * height * width if isinstance(hidden, Tensor) else None

    def forward(
        self,
        pixel_values: Tensor,
        *,
        bool_masked_pos: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> StagedImageModelingOutput:
        """Pictures with their hidden patches filled in; see :meth:`StagedEncoder.forward` for the other inputs.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            bool_masked_pos: Shape: [B, patches], true for patches to hide; gives a loss.
            num_items_in_batch: how many pixels are hidden in all batches of a step, if not in this one.

        Raises:
            InputError: patches are hidden and the model does not draw as many pixels as the pictures have.
        """
        out = cast(StagedModelOutput, self.model(pixel_values, bool_masked_pos=bool_masked_pos, **inputs))
        patching = self.model.patches.patching
        height, width = pixel_values.shape[2:]
        grid = (-(-height // patching.patch_size[0]), -(-width // patching.patch_size[1]))
        coarse = grid
        for _ in range(len(self.model.stages) - 1):
            coarse = (-(-coarse[0] // 2), -(-coarse[1] // 2))
        last = out.last_hidden_state
        drawn = self.decoder(last.transpose(1, 2).reshape(last.shape[0], -1, *coarse))
        loss = None
        if bool_masked_pos is not None:
            loss = masked_pixel_loss(drawn, pixel_values, bool_masked_pos.view(-1, *grid), num_items_in_batch)
        return StagedImageModelingOutput(loss=loss, reconstruction=drawn, **out.noted())


class StagedBackbone(Backbone):
    """An encoder of stages as a backbone: the maps of its stages before they are made coarser.

    Args:
        model: the encoder; no stage beyond the last one that is wanted is computed.
        hidden_states_norms: of the maps that it gives, by their stages' names; None for none.
    """

    model: StagedEncoder
    hidden_states_norms: nn.Module | None = None

    def get_input_embeddings(self) -> nn.Module:
        return self.model.patches

    def maps(self, pixel_values: Tensor, taps: Taps | None = None) -> tuple[Tensor, ...]:
        x_BHWC = self.model.embed(pixel_values)
        ctx: StepContext = FixedWindowsContext.of(self.model.step(rows_of(x_BHWC)))
        told = taps is not None and (taps.wants_hidden or taps.wants_attentions)
        if taps is not None:
            ctx = ctx.with_(taps=taps)
        last = len(self.names) - 1 if told else self.outputs[-1]
        maps = [x_BHWC]
        self.note(x_BHWC, 0, ctx.taps)
        for stage, passage in zip(range(1, last + 1), self.model.passages(x_BHWC, ctx), strict=False):
            self.note(passage[0], stage, ctx.taps)
            maps.append(passage[0])
        return tuple(picture_of(self.normed(maps[i], i)) for i in self.outputs)

    def note(self, x_BHWC: Tensor, stage: int, taps: Taps) -> None:
        """Note a stage's map, or the stem's, if hidden states were asked for."""
        if taps.wants_hidden:
            taps.hidden(picture_of(x_BHWC))

    def normed(self, x_BHWC: Tensor, stage: int) -> Tensor:
        """A stage's map as it is given. Shape: [B, H, W, C] in and out."""
        if self.hidden_states_norms is None:
            return x_BHWC
        out: Tensor = cast(nn.ModuleDict, self.hidden_states_norms)[self.names[stage]](x_BHWC)
        return out


class RowsBackbone(StagedBackbone):
    """One whose hidden states are rows of tokens (Swin v2)."""

    def note(self, x_BHWC: Tensor, stage: int, taps: Taps) -> None:
        taps.hidden(rows_of(x_BHWC))
