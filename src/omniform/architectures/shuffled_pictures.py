"""Pictures whose neighbouring patches are put side by side in one vector each (Idefics3, SmolVLM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.fusion import NOTHING, Medium, Merged, Multimodal, MultimodalLM
from omniform.architectures.native_vision import NativeVisionEncoder
from omniform.blocks.composed import Composed
from omniform.core.batch import Facts, Item
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.host import is_fetchable
from omniform.core.outputs import BaseModelOutput, MediaFeatures

PIXELS, MARKS = NAMES = ("pixel_values", "pixel_attention_mask")
_READ_AT_ONCE: Final = 64


class Widening(Composed):
    """The projection of wide vectors.

    Args:
        proj: to the decoder's width.
    """

    proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., wide] to [..., D]."""
        out: Tensor = self.proj(x)
        return out


class Shuffle(Composed):
    """Squares of patches side by side in one vector, projected.

    Args:
        modality_projection: to the decoder's width.
        factor: patches along a square's edge.
    """

    modality_projection: Widening
    factor: int

    def forward(self, features: Tensor) -> Tensor:
        """Shape: [N, rows * rows, E] to [N, (rows / factor) ** 2, D]."""
        count, patches, width = features.shape
        side = int(patches**0.5) // self.factor
        squares = features.view(count, side, self.factor, side, self.factor, width).transpose(2, 3)
        out: Tensor = self.modality_projection(squares.reshape(count, side * side, -1))
        return out


@dataclass(frozen=True, kw_only=True)
class PaddedPictures(Medium):
    """Pictures of rows that hold several each; what fills a row up is black all over.

    Of each is known: which of the batch it is, its vectors, and whether it fills its frame.

    Attributes:
        model: whose tower and connector.
    """

    model: Shuffled

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        pixels, marks = inputs[PIXELS], inputs.get(MARKS)
        if pixels.dim() != 5:
            expected = "shape [rows, pictures, channels, height, width]"
            raise InputError("these are no rows of pictures", where=PIXELS, expected=expected, found=list(pixels.shape))
        tower, factor = self.model.vision_model, self.model.connector.factor
        tower.patches.check(pixels.flatten(0, 1), True)
        rows, columns = tower.grid_of(pixels)
        if rows != columns or rows % factor:
            raise InputError(
                "pictures are squares of whole squares of patches",
                where=PIXELS,
                expected=f"a square of a multiple of {factor} (scale_factor) patches",
                found=f"{rows} x {columns} patches",
            )
        if marks is not None and marks.shape != (*pixels.shape[:2], *pixels.shape[3:]):
            expected = f"shape {[*pixels.shape[:2], *pixels.shape[3:]]}"
            raise InputError("marks cover the pictures", where=MARKS, expected=expected, found=list(marks.shape))
        length = (rows // factor) ** 2
        flat = pixels.flatten(0, 1)
        if not is_fetchable(pixels):
            return [(place, length, 1) for place in range(len(flat))]
        seen = torch.cat([(part != 0).flatten(1).any(1) for part in torch.split(flat, _READ_AT_ONCE)]).cpu().numpy()
        whole = [True] * len(flat) if marks is None else (marks != 0).flatten(0, 1).flatten(1).all(1).cpu().numpy()
        return [(place, length, int(whole[place])) for place in seen.nonzero()[0].tolist()]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [length for _, length, _ in facts]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        _, hidden = self.model.seen(*self.real(inputs, facts))
        return hidden.flatten(0, 1)

    def real(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> tuple[Tensor, Tensor | None]:
        """The pictures, without what fills rows up; and marks of their patches, None where they fill their frames."""
        pixels, marks = inputs[PIXELS], inputs.get(MARKS)
        if facts is None and not is_fetchable(pixels):
            return pixels.flatten(0, 1), None if marks is None else self._patches(marks.flatten(0, 1))
        facts = self.known(inputs, facts)
        if pixels.dim() == 5:
            pixels, marks = pixels.flatten(0, 1), None if marks is None else marks.flatten(0, 1)
            if len(facts) < len(pixels):
                places = torch.tensor([place for place, *_ in facts], device=pixels.device)
                pixels, marks = pixels[places], None if marks is None else marks[places]
        if marks is None or all(whole for *_, whole in facts):
            return pixels, None
        return pixels, self._patches(marks)

    def _patches(self, marks_BHW: Tensor) -> Tensor:
        """Which patches are of the picture: those of which any pixel is. Shape: [B, H, W] to [B, rows, columns]."""
        rows, columns = self.model.vision_model.grid_of(marks_BHW)
        down, across = self.model.vision_model.patches.patching.patch_size
        cut = marks_BHW[:, : rows * down, : columns * across] != 0
        return cut.reshape(-1, rows, down, columns, across).any(4).any(2)

    def cut(self, inputs: Mapping[str, Tensor]) -> list[Item]:
        facts = self.facts(inputs)
        flat = {name: x.flatten(0, 1) for name, x in inputs.items()}
        return [
            Item(self.modality, {name: x[own[0], None] for name, x in flat.items()}, (0, *own[1:])) for own in facts
        ]


class Padded(Merged, total=False):
    """What may come with the tokens of such a model.

    Attributes:
        pixel_attention_mask: 1 for pixels of the picture. Shape: [rows, pictures, height, width].
    """

    pixel_attention_mask: Tensor | None


class Shuffled(Multimodal):
    """A tower of pictures in native shapes, a connector that shuffles, and a decoder; hidden states out.

    Args:
        vision_model: encodes pictures.
        connector: makes vectors of the decoder's width of its hidden states.
        language_model: the decoder.
        image_token_id: the placeholder in the text.
    """

    vision_model: NativeVisionEncoder
    connector: Shuffle
    language_model: TextDecoder
    image_token_id: int

    @property
    def text_model(self) -> TextDecoder:
        """The decoder, by the ecosystem's name."""
        return self.language_model

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        return (self._pictures(),)

    def _pictures(self) -> PaddedPictures:
        return PaddedPictures(modality="image", token_id=self.image_token_id, inputs=NAMES, model=self)

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        groups: dict[object, list[int]] = {}
        for number, item in enumerate(items):
            kind = tuple((name, x.shape) for name, x in item.inputs.items())
            groups.setdefault(kind, []).append(number)
        found: dict[int, Tensor] = {}
        for group in groups.values():
            found |= dict(zip(group, super().encode_items([items[number] for number in group]), strict=True))
        return [found[number] for number in range(len(items))]

    def seen(self, pixels: Tensor, marks: Tensor | None, **asked: Unpack[Tapped]) -> tuple[BaseModelOutput, Tensor]:
        """The tower's output on pictures, and the vectors made of it. Shape: [N, length, D]."""
        out = cast(BaseModelOutput, self.vision_model(pixels, marks, **asked))
        vectors: Tensor = self.connector(out.last_hidden_state)
        return out, vectors

    def get_image_features(
        self, pixel_values: Tensor, pixel_attention_mask: Tensor | None = None, **asked: Unpack[Tapped]
    ) -> MediaFeatures:
        """The tower's output on all pictures, and each row's vectors in ``pooler_output``.

        Args:
            pixel_values: Shape: [rows, pictures, channels, height, width].
            pixel_attention_mask: Shape: [rows, pictures, height, width].
        """
        given = {PIXELS: pixel_values, MARKS: pixel_attention_mask}
        inputs = {name: value for name, value in given.items() if value is not None}
        medium = self._pictures()
        facts = medium.facts(inputs)
        out, vectors = self.seen(*medium.real(inputs, facts), **asked)
        each = pixel_values.shape[1]
        counts = [sum(place // each == row for place, *_ in facts) for row in range(pixel_values.shape[0])]
        return MediaFeatures(
            last_hidden_state=out.last_hidden_state,
            pooler_output=tuple(own.flatten(0, 1) for own in torch.split(vectors, counts)),
            **out.noted(),
        )

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **given: Unpack[Padded]
    ) -> BaseModelOutput:
        """Hidden states of text with pictures in it.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, past + T], 1 for real tokens.
            given: the pictures; see :class:`Padded`.
        """
        return self.read(input_ids, attention_mask, given)


class ShuffledLM(MultimodalLM):
    """Such a model that writes."""

    model: Shuffled

    def get_image_features(self, pixel_values: Tensor, *args: Tensor | None, **given: object) -> MediaFeatures:
        """See :meth:`Shuffled.get_image_features`."""
        return self.model.get_image_features(pixel_values, *args, **given)  # type: ignore[arg-type]
