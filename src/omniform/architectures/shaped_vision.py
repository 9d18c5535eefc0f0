"""Encoders of pictures of any shape that come as rows of patches, each with learned positions resampled to its own
shape (SigLIP 2, https://arxiv.org/abs/2502.14786)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack, cast

from torch import Tensor, nn

from omniform.architectures.dual_encoder import SigmoidDualEncoder
from omniform.architectures.heads import Hidden, SequenceClassifier, mean_of_real
from omniform.architectures.model import Model
from omniform.blocks.fractions import ResampledPositions
from omniform.blocks.layers import run
from omniform.blocks.poolers import ProbePooler
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError, brief, check_shape
from omniform.core.host import bounds_of, is_all_true, is_readable
from omniform.core.outputs import BaseModelOutput, DualEncoderOutput


class ShapedVisionEncoder(Model):
    """A transformer over the patches of pictures that come cut up, each as a row padded at its end.

    Args:
        projection: the numbers of a patch to a vector.
        positions: resampled to the shape of each picture.
        layers: called as ``layer(hidden, ctx)``.
        norm: applied after the last layer.
        pooler: hidden states to one vector per picture; None for none.
    """

    main_input = "pixel_values"

    projection: nn.Linear
    positions: ResampledPositions
    layers: nn.ModuleList
    norm: nn.Module
    pooler: ProbePooler | None = None

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.projection.out_features

    def get_input_embeddings(self) -> nn.Module:
        return self.projection

    def arrive(self, inputs: dict[str, object]) -> None:
        pixels, marks = inputs.get("pixel_values"), inputs.get("pixel_attention_mask")
        if not isinstance(pixels, Tensor):
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        numbers = self.projection.in_features
        if pixels.dim() != 3 or pixels.shape[-1] != numbers or not pixels.is_floating_point():
            raise InputError(
                "the patches do not fit the model",
                where="pixel_values",
                expected=f"floating-point numbers of shape [pictures, patches, {numbers}]",
                found=f"{pixels.dtype} of shape {list(pixels.shape)}",
            )
        shapes = _shapes(inputs.get("spatial_shapes"), pixels)
        inputs["spatial_shapes"] = shapes
        if isinstance(marks, Tensor):
            check_shape(
                "the marks do not cover the patches", marks.shape, pixels.shape[:2], where="pixel_attention_mask"
            )
            if is_all_true(marks):
                inputs["pixel_attention_mask"] = None

    def forward(
        self,
        pixel_values: Tensor,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of pictures, and one vector per picture if the model pools.

        Args:
            pixel_values: patches, row by row of a picture; of each its pixels row by row, the channels of a pixel
                beside one another. Shape: [B, N, numbers of a patch].
            pixel_attention_mask: 1 for patches of the picture. Shape: [B, N].
            spatial_shapes: rows and columns of patches. Shape: [B, 2].
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no pictures or no shapes, or they do not fit.
        """
        if spatial_shapes is None:
            raise InputError("there are no shapes of pictures", where="spatial_shapes", found="None")
        patches = self.projection(pixel_values.to(self.projection.weight.dtype))
        embeds = patches + self.positions(spatial_shapes, pixel_values.shape[1])
        ctx: StepContext = self.step(embeds, given, attention_mask=pixel_attention_mask)
        hidden = self.norm(run(self.layers, embeds, ctx))
        pooled = None if self.pooler is None else self.pooler(hidden, real_BT=ctx.padding)
        return BaseModelOutput(last_hidden_state=hidden, pooler_output=pooled, **ctx.taps.noted())


def _shapes(value: object, pixel_values: Tensor) -> Tensor:
    """Rows and columns of patches as a caller gives them, as a tensor; see :meth:`ShapedVisionEncoder.forward`.

    Raises:
        InputError: they are no such numbers, or as many patches as they say are not there.
    """
    pictures, length = pixel_values.shape[:2]
    whole = isinstance(value, Tensor) and not value.is_floating_point() and tuple(value.shape) == (pictures, 2)
    shapes = cast(Tensor, value)
    if not whole or not _is_room(shapes, length):
        raise InputError(
            "shapes and patches do not fit",
            where="spatial_shapes",
            expected=f"whole numbers of shape [{pictures}, 2]: rows and columns, of 1 to {length} patches",
            found=brief(value) if not isinstance(value, Tensor) or whole else f"{value.dtype}, {list(value.shape)}",
            remedy="Let the checkpoint's own processor prepare pictures.",
        )
    return shapes


def _is_room(shapes_B2: Tensor, length: int) -> bool:
    """Whether pictures of these shapes have patches, and not more than so many, as far as the host can see."""
    if not is_readable(shapes_B2):
        return True
    least, counts = bounds_of(shapes_B2)[0], bounds_of(shapes_B2.prod(1))
    return least > 0 and counts[1] <= length


class ShapedClassifier(SequenceClassifier):
    """One class per picture, told from the mean of the patches that are the picture's."""

    def vector(self, out: Hidden, args: tuple[Tensor | None, ...], inputs: Mapping[str, object]) -> Tensor:
        marks = args[1] if len(args) > 1 else cast("Tensor | None", inputs.get("pixel_attention_mask"))
        return mean_of_real(out, marks)


class ShapedDualEncoder(SigmoidDualEncoder):
    """Pictures of any shape compared with texts, every pair by itself."""

    vision_model: ShapedVisionEncoder  # type: ignore[assignment] # of another kind than of pictures that are whole

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        **given: Unpack[Tapped],
    ) -> DualEncoderOutput:
        """Similarities of every picture with every text.

        Args:
            input_ids: Shape: [texts, T].
            pixel_values: Shape: [pictures, N, numbers of a patch].
            pixel_attention_mask: Shape: [pictures, N], 1 for patches of the picture.
            spatial_shapes: Shape: [pictures, 2], rows and columns of patches.
            attention_mask: Shape: [texts, T], 1 for real tokens.
            position_ids: Shape: [texts, T].
            return_loss: compute the loss of picture ``i`` belonging to text ``i``.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        ids, pixels = self.both(input_ids, pixel_values)
        image = self.get_image_features(
            pixels, pixel_attention_mask=pixel_attention_mask, spatial_shapes=spatial_shapes, **given
        )
        text = self.get_text_features(ids, attention_mask=attention_mask, position_ids=position_ids, **given)
        return self.compared(image, text, return_loss)
