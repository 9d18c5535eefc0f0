"""Models that see, and whose decoder reads some stretches of a prompt in both directions (PaliGemma, Gemma 3).

Which tokens these are, the types say that come with them from the processor: the whole of a prompt, or its pictures.
Without types a decoder reads as any other does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.fusion import NOTHING, Among, Medium, Merged, Multimodal, MultimodalLM
from omniform.architectures.generative import RowLayout
from omniform.architectures.vision import VisionEncoder
from omniform.core.batch import Facts
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, MediaFeatures
from omniform.core.spans import runs_of

TYPES: Final = "token_type_ids"


class Projects(Protocol):
    """A projector, as far as this skeleton knows it."""

    def length(self, features: int) -> int:
        """How many vectors are made of so many features of a picture."""
        ...


@dataclass(frozen=True, kw_only=True)
class NormedPictures(Medium):
    """Pictures of one size, of the tower's last normed hidden states.

    Attributes:
        model: whose tower and projector.
    """

    model: TwoWay

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        pixels = inputs["pixel_values"]
        length = self.model.projector.length(self.model.vision_tower.tokens(pixels))
        return [(length,)] * pixels.shape[0]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [length for (length,) in facts]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        return self.model.seen(inputs["pixel_values"])[1].flatten(0, 1)

    def told(self, vectors: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return vectors.view(inputs["pixel_values"].shape[0], -1, vectors.shape[-1])


class TwoWay(Multimodal):
    """A vision tower, a projector and a decoder that is told what to read in both directions; hidden states out.

    Args:
        vision_tower: encodes pictures.
        multi_modal_projector: the tower's hidden states to vectors of the decoder's width.
        language_model: the decoder.
        image_token_id: the placeholder in the text.

    Attributes:
        BEYOND: the type of tokens that no type was given for: what a row wrote.
    """

    vision_tower: VisionEncoder
    multi_modal_projector: nn.Module
    language_model: TextDecoder
    image_token_id: int

    BEYOND: ClassVar[int]

    @abstractmethod
    def numbers(self, types_BT: Tensor) -> Tensor:
        """The stretches read in both directions, numbered from 1, and 0 elsewhere. Shape: [B, T] in and out."""

    @property
    def projector(self) -> Projects:
        """The projector, for what it knows of lengths."""
        return cast(Projects, self.multi_modal_projector)

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        names = ("pixel_values",)
        return (NormedPictures(modality="image", token_id=self.image_token_id, inputs=names, model=self),)

    def accepts(self) -> frozenset[str]:
        return super().accepts() | {TYPES}

    def unpads(self) -> bool:
        return False

    # -- what is read in both directions -----------------------------------------------------------------------------

    @property
    def tokenwise(self) -> frozenset[str]:
        return frozenset({TYPES})

    def told_layout(self, beside: Mapping[str, Sequence[int]]) -> RowLayout:
        found = self.numbers(torch.tensor([beside[TYPES]]))[0].tolist()
        spans = runs_of(found)
        if len(spans) > len(set(found) - {0}):
            raise InputError(
                "a prompt is read in both directions up to one of its tokens",
                where=TYPES,
                expected="0 up to there, and 1 after it",
                found=f"stretches of 0 from {', '.join(str(start) for start, _ in spans)} on",
            )
        return RowLayout(bidirectional=spans)

    def arrive(self, inputs: dict[str, object]) -> None:
        types, tokens = inputs.get(TYPES), inputs.get("input_ids")
        tokens = inputs.get("inputs_embeds") if tokens is None else tokens
        if isinstance(types, Tensor) and isinstance(tokens, Tensor) and (
            types.dim() != 2 or types.is_floating_point() or types.shape[0] != tokens.shape[0]
        ):  # fmt: skip
            raise InputError(
                "types go with tokens", where=TYPES, expected=list(tokens.shape[:2]), found=list(types.shape)
            )
        super().arrive(inputs)

    def both_ways(self, tokens: Tensor, attention_mask: Tensor | None, given: Merged) -> Tensor | None:
        """Which of a call's new tokens see one another in both directions. Shape: [B, T]; None for none.

        Args:
            tokens: Shape: [B, T, ...].
        """
        types, past = given.get(TYPES), given.get("past_key_values")
        goes_on = past is not None and past.length > 0
        if types is None or (goes_on and given.get("pixel_values") is None):
            return None
        new = tokens.shape[1]
        beyond = max(0, new - types.shape[1])
        return self.numbers(F.pad(types, (0, beyond), value=self.BEYOND)[:, -new:])

    # -- pictures ----------------------------------------------------------------------------------------------------

    def seen(self, pixel_values: Tensor, **asked: Unpack[Tapped]) -> tuple[BaseModelOutput, Tensor]:
        """The tower's output on pictures, and the vectors made of it. Shape: [N, length, D]."""
        out = cast(BaseModelOutput, self.vision_tower(pixel_values, **asked))
        vectors: Tensor = self.multi_modal_projector(out.last_hidden_state)
        return out, vectors

    def get_image_features(self, pixel_values: Tensor, **asked: Unpack[Tapped]) -> MediaFeatures:
        """The tower's output on pictures; their vectors, Shape: [N, length, D], in ``pooler_output``.

        Args:
            pixel_values: Shape: [N, channels, height, width].
            asked: see :class:`~omniform.core.context.Tapped`.
        """
        out, vectors = self.seen(pixel_values, **asked)
        return MediaFeatures(last_hidden_state=out.last_hidden_state, pooler_output=vectors, **out.noted())

    # Pictures come before the mask where inputs are given by position, as in the ecosystem.
    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **given: Unpack[Among],
    ) -> BaseModelOutput:
        """Hidden states of text with pictures in it.

        Args:
            input_ids: Shape: [B, T].
            pixel_values: every picture of the batch in reading order. Shape: [N, channels, height, width].
            attention_mask: Shape: [B, past + T], 1 for real tokens.
            given: ``token_type_ids``, Shape: [B, T], say what is read in both directions; and see
                :class:`~omniform.architectures.fusion.Among`.
        """
        tokens = given.get("inputs_embeds") if input_ids is None else input_ids
        assert tokens is not None, "calls are checked when they arrive"
        whole = cast(Merged, {**given, "pixel_values": pixel_values})
        numbers = self.both_ways(tokens, attention_mask, whole)
        whole.pop("token_type_ids", None)
        return self.read(input_ids, attention_mask, whole, bidirectional=numbers)


class TwoWayLM(MultimodalLM):
    """Such a model that writes."""

    model: TwoWay

    def get_image_features(self, pixel_values: Tensor, **asked: Unpack[Tapped]) -> MediaFeatures:
        """See :meth:`TwoWay.get_image_features`."""
        return self.model.get_image_features(pixel_values, **asked)
