"""Models that see pictures of any sizes: a batch's patches end to end in one row, and each picture sees itself only.

Pictures of a batch are padded to one size; ``image_sizes`` says how much of each is picture. The vectors of a picture
stand row by row in its text, often with other tokens between the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.fusion import NOTHING, Medium
from omniform.architectures.fusion_pictures import LayerFeatures, VisionLanguage
from omniform.architectures.vision import FreeVisionEncoder
from omniform.blocks.packed_patches import PatchContext, alike, plan_of
from omniform.blocks.patches import Size
from omniform.core.batch import Facts, Item
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.host import is_fetchable
from omniform.core.outputs import BaseModelOutput, MediaFeatures

PIXELS, SIZES = NAMES = ("pixel_values", "image_sizes")
Grids = tuple[Size, ...]


class SizedVisionEncoder(FreeVisionEncoder):
    """An encoder of pictures that fill the upper left of what they are padded to; the padding is never read."""

    def grids(self, pixel_values: Tensor, image_sizes: Tensor | None) -> Grids:
        """Rows and columns of patches of each picture, on the host.

        Args:
            pixel_values: Shape: [N, channels, height, width].
            image_sizes: heights and widths in pixels. Shape: [N, 2]; None where pictures are not padded.

        Raises:
            InputError: these are no sizes of these pictures.
        """
        self.patches.check(pixel_values, True)
        height, width = pixel_values.shape[2:]
        if image_sizes is not None and (image_sizes.dim() != 2 or image_sizes.shape[1] != 2):
            raise _no_sizes(f"shape [{len(pixel_values)}, 2]", f"shape {list(image_sizes.shape)}")
        if image_sizes is None or not is_fetchable(image_sizes):
            return (self.whole_of(pixel_values),) * pixel_values.shape[0]
        sizes = image_sizes.tolist()
        found = tuple(self.patches.patching.grid_of(int(tall), int(wide)) for tall, wide in sizes)
        if len(found) != len(pixel_values):
            raise _no_sizes(f"one for each of {len(pixel_values)} picture(s)", len(found))
        for (tall, wide), grid in zip(sizes, found, strict=True):
            if tall > height or wide > width or min(grid) < 1:
                raise _no_sizes(
                    f"{list(self.patches.patching.patch_size)} (patch_size) to {height} x {width} pixels, "
                    f"as there are in {PIXELS}",
                    f"{tall} x {wide}",
                )
        return found

    def whole_of(self, pixel_values: Tensor) -> Size:
        """Rows and columns of patches of pictures without padding: plain numbers, in a trace too."""
        rows, columns = self.grid_of(pixel_values)
        return int(rows), int(columns)

    def begun(self, pixel_values: Tensor, grids: Grids, asked: Tapped | None = None) -> tuple[Tensor, PatchContext]:
        """What enters the first layer, and the step over it.

        Returns:
            Shape: [1, patches of all, D]; or [N, patches, D] of pictures without padding, if nobody asked to see more
            than the result.
        """
        patches_BND, whole = self.patches(pixel_values, any_size=True), self.whole_of(pixel_values)
        shown = asked is not None and (asked.get("output_hidden_states") or asked.get("output_attentions"))
        if set(grids) == {whole} and not shown:  # of any number of pictures, in a trace
            x_BND = self._normed(patches_BND)
            return x_BND, PatchContext.of(self.step(x_BND, asked), alike((1, *whole), x_BND.device))
        maps = patches_BND.unflatten(1, whole)
        cut = [own[:rows, :columns].flatten(0, 1) for own, (rows, columns) in zip(maps, grids, strict=True)]
        x_1ND = self._normed(torch.cat(cut)[None])
        plan = plan_of(tuple((1, *grid) for grid in grids), 1, None, x_1ND.device)
        return x_1ND, PatchContext.of(self.step(x_1ND, asked), plan)

    def _normed(self, x: Tensor) -> Tensor:
        return x if self.pre_norm is None else self.pre_norm(x)

    def sized_at(self, pixel_values: Tensor, grids: Grids, indices: Sequence[int]) -> list[Tensor]:
        """Some of the hidden states of pictures; see :meth:`hidden_at`, and :meth:`begun` for their shapes."""
        wanted = self.wanted(indices)
        x, ctx = self.begun(pixel_values, grids)
        hidden = self.states(x, ctx, max(wanted, default=0))
        return [hidden[index] for index in wanted]

    def hidden_at(self, pixel_values: Tensor, indices: Sequence[int], *, interpolate: bool = False) -> list[Tensor]:
        states = self.sized_at(pixel_values, self.grids(pixel_values, None), indices)
        return [state.flatten(0, 1)[None] for state in states]

    def arrive(self, inputs: dict[str, object]) -> None:
        pixels, sizes = inputs.get(PIXELS), inputs.get(SIZES)
        if isinstance(pixels, Tensor) and not isinstance(sizes, tuple):
            inputs[SIZES] = self.grids(pixels, sizes_of(sizes))

    def forward(  # type: ignore[override] # there are no hidden patches, and sizes are not optional for padded pictures
        self,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | Grids | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of the patches of all pictures.

        Args:
            pixel_values: Shape: [N, channels, height, width].
            image_sizes: heights and widths of the pictures in it. Shape: [N, 2]; all of it, if nothing is said.
            given: see :class:`~omniform.core.context.Tapped`.

        Returns:
            ``last_hidden_state``, Shape: [1, patches of all, D].

        Raises:
            InputError: no pictures, or sizes that are not theirs.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where=PIXELS, expected="a tensor", found="None")
        grids = image_sizes if isinstance(image_sizes, tuple) else self.grids(pixel_values, image_sizes)
        x, ctx = self.begun(pixel_values, grids, given)
        hidden = self.encode(x, ctx).flatten(0, 1)[None]
        return BaseModelOutput(last_hidden_state=hidden, **ctx.taps.noted())


def sizes_of(value: object) -> Tensor | None:
    """Sizes as a caller gives them: a tensor, or numbers."""
    if value is None or isinstance(value, Tensor):
        return value
    try:
        return torch.tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise _no_sizes("numbers, a height and a width for each picture", type(value).__name__) from None


def _no_sizes(expected: str, found: object) -> InputError:
    return InputError("these are no sizes of the pictures", where=SIZES, expected=expected, found=found)


@dataclass(frozen=True, kw_only=True)
class SizedPictures(Medium):
    """Pictures of any sizes; of each is known how many rows and columns of patches it has.

    Attributes:
        model: whose tower and projector.
        select: which of the tower's features.
    """

    model: SizedVisionLanguage
    select: LayerFeatures

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        if self.select.skip:
            raise InputError(
                "this tower has no class token that could be left out",
                where="vision_feature_select_strategy",
                expected="full",
                found="default",
            )
        return [*self.model.vision_tower.grids(inputs[PIXELS], inputs.get(SIZES))]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [self.model.vectors_of((rows, columns)) for rows, columns in facts]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        tower, sizes = self.model.vision_tower, inputs.get(SIZES)
        if facts is None and (sizes is None or not is_fetchable(sizes)):
            grids: Grids = (tower.whole_of(inputs[PIXELS]),)  # nobody can look: of any number of whole pictures
        else:
            grids = cast(Grids, tuple(self.known(inputs, facts)))
        states = tower.sized_at(inputs[PIXELS], grids, self.select.layers)
        return self.model.connected(self.select.of(states).flatten(0, 1), grids)

    def cut(self, inputs: Mapping[str, Tensor]) -> list[Item]:
        # Without what brings all pictures of a batch to one size.
        down, across = self.model.vision_tower.patches.patching.patch_size
        return [
            Item(
                self.modality,
                {**item.inputs, PIXELS: item.inputs[PIXELS][..., : item.facts[0] * down, : item.facts[1] * across]},
                item.facts,
            )
            for item in super().cut(inputs)
        ]

    def join(self, items: Sequence[Item]) -> dict[str, Tensor]:
        pixels = [item.inputs[PIXELS] for item in items]
        tall, wide = (max(own.shape[axis] for own in pixels) for axis in (2, 3))
        padded = [F.pad(own, (0, wide - own.shape[3], 0, tall - own.shape[2])) for own in pixels]
        return {PIXELS: torch.cat(padded)}


class SizedVisionLanguage(VisionLanguage):
    """A model whose tower reads pictures of any sizes."""

    vision_tower: SizedVisionEncoder

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        return (self.pictures(options),)

    def pictures(self, options: Mapping[str, object] = NOTHING) -> SizedPictures:
        """How it reads pictures."""
        select = self.select.asked(options)
        return SizedPictures(modality="image", token_id=self.image_token_id, inputs=NAMES, model=self, select=select)

    def vectors_of(self, grid: Size) -> int:
        """How many vectors a picture of so many rows and columns of patches becomes."""
        return grid[0] * grid[1]

    def connected(self, features_ND: Tensor, grids: Grids) -> Tensor:
        """The features of all pictures as the decoder reads them. Shape: [patches of all, features] to [N, D]."""
        return self.project_features(features_ND)

    def get_image_features(
        self,
        pixel_values: Tensor,
        vision_feature_layer: int | Sequence[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        image_sizes: Tensor | None = None,
        **asked: Unpack[Tapped],
    ) -> MediaFeatures:
        """The tower's output on pictures, and each picture's vectors as the decoder reads them, in ``pooler_output``;
        those of all in one, where no sizes are told.

        Args:
            pixel_values: Shape: [N, channels, height, width].
            vision_feature_layer: which hidden states, if not those that the config says.
            vision_feature_select_strategy: ``"full"``.
            image_sizes: heights and widths. Shape: [N, 2].
            asked: see :class:`~omniform.core.context.Tapped`.
        """
        options = {
            "vision_feature_layer": vision_feature_layer,
            "vision_feature_select_strategy": vision_feature_select_strategy,
        }
        return self._features(pixel_values, sizes_of(image_sizes), options, asked)

    def _features(
        self, pixels: Tensor, sizes: Tensor | None, options: Mapping[str, object], asked: Tapped
    ) -> MediaFeatures:
        medium = self.pictures(options)
        facts = medium.facts({PIXELS: pixels} if sizes is None else {PIXELS: pixels, SIZES: sizes})
        grids, every = cast(Grids, tuple(facts)), cast(Tapped, {**asked, "output_hidden_states": True})
        out = cast(BaseModelOutput, self.vision_tower(pixels, grids, **every))
        assert out.hidden_states is not None
        states = [out.hidden_states[layer] for layer in medium.select.layers]
        vectors = self.connected(medium.select.of(states).flatten(0, 1), grids)
        return MediaFeatures(
            last_hidden_state=out.last_hidden_state,
            pooler_output=(vectors,) if sizes is None else torch.split(vectors, medium.lengths(facts)),
            hidden_states=out.hidden_states if asked.get("output_hidden_states") else None,
            attentions=out.attentions,
        )
