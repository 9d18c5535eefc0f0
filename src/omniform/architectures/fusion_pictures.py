"""Models that see: a vision tower, a projector, and a decoder that reads what they make among its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.fusion import NOTHING, Among, Medium, Merged, Multimodal, MultimodalLM
from omniform.architectures.vision import VisionEncoder
from omniform.core.batch import Facts
from omniform.core.context import Tapped
from omniform.core.errors import InputError, brief
from omniform.core.outputs import BaseModelOutput, MediaFeatures

STRATEGIES = ("default", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFeatures:
    """Picks a vision encoder's features: the hidden states of some layers, with or without the class token.

    Attributes:
        layers: which hidden states; several are concatenated along the channels.
        skip: how many leading tokens to leave out.
    """

    layers: tuple[int, ...]
    skip: int

    def __call__(self, tower: VisionEncoder, pixel_values: Tensor) -> Tensor:
        """Pictures to features. Shape: [N, channels, height, width] to [N, length, D]."""
        return self.of(tower.hidden_at(pixel_values, self.layers))

    def of(self, states: Sequence[Tensor]) -> Tensor:
        """The features among the hidden states of :attr:`layers`. Shape: [N, T, D] each, to [N, length, D]."""
        return torch.cat([state[:, self.skip :] for state in states], dim=-1)

    def length(self, tower: VisionEncoder, pixel_values: Tensor) -> int:
        """How many features each of some pictures has. Shape: [N, channels, height, width]."""
        return tower.tokens(pixel_values) - self.skip

    def asked(self, options: Mapping[str, object]) -> LayerFeatures:
        """The same, where a call does not ask for others (``vision_feature_layer``, ``..._select_strategy``).

        Raises:
            InputError: no layers, or no such strategy.
        """
        layers, strategy = options.get("vision_feature_layer"), options.get("vision_feature_select_strategy")
        if layers is None and strategy is None:
            return self
        return self._others(layers, strategy)

    def _others(self, layers: object, strategy: object) -> LayerFeatures:
        """The same of other layers, or by another strategy."""
        found = self
        if layers is not None:
            wanted: Sequence[object] = layers if isinstance(layers, (list, tuple)) else [layers]
            numbers = tuple(one for one in wanted if isinstance(one, int))
            if not numbers or len(numbers) < len(wanted):
                raise InputError("layers are numbers", where="vision_feature_layer", found=brief(layers))
            found = replace(found, layers=numbers)
        if strategy is not None:
            if strategy not in STRATEGIES:
                raise InputError(
                    "there is no such strategy",
                    where="vision_feature_select_strategy",
                    expected=" or ".join(STRATEGIES),
                    found=brief(strategy),
                )
            found = replace(found, skip=int(strategy == "default"))
        return found


@dataclass(frozen=True, kw_only=True)
class Pictures(Medium):
    """Pictures of one size, each as many vectors as the tower gives features.

    Attributes:
        model: whose tower and projector.
        select: which of the tower's features.
    """

    model: VisionLanguage
    select: LayerFeatures

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        pixels = inputs["pixel_values"]
        return [(self.select.length(self.model.vision_tower, pixels),)] * pixels.shape[0]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [length for (length,) in facts]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        features = self.model.project_features(self.select(self.model.vision_tower, inputs["pixel_values"]))
        return features.flatten(0, 1)


class VisionLanguage(Multimodal):
    """A vision tower, a projector and a decoder; hidden states out.

    Args:
        vision_tower: encodes pictures.
        select: picks the tower's features.
        multi_modal_projector: features to the decoder's width.
        language_model: the decoder.
        image_token_id: the placeholder in the text.
    """

    vision_tower: VisionEncoder
    select: LayerFeatures
    multi_modal_projector: nn.Module
    language_model: TextDecoder
    image_token_id: int

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"vision_feature_layer", "vision_feature_select_strategy"})
    PICTURES: ClassVar[type[Pictures]] = Pictures

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        return (
            self.PICTURES(
                modality="image",
                token_id=self.image_token_id,
                inputs=("pixel_values",),
                model=self,
                select=self.select.asked(options),
            ),
        )

    def project_features(self, features: Tensor) -> Tensor:
        """The tower's features to vectors of the decoder's width. Shape: [..., features] to [..., D]."""
        vectors: Tensor = self.multi_modal_projector(features)
        return vectors

    def seen(self, pixel_values: Tensor, select: LayerFeatures, asked: Tapped) -> tuple[MediaFeatures, Tensor]:
        """The whole tower's output, and the vectors made of the features. Shape: [N, length, D]."""
        every: Tapped = {**asked, "output_hidden_states": True}
        out = cast(BaseModelOutput, self.vision_tower(pixel_values, **every))
        assert out.hidden_states is not None
        vectors = self.project_features(select.of([out.hidden_states[layer] for layer in select.layers]))
        told = MediaFeatures(
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states if asked.get("output_hidden_states") else None,
            attentions=out.attentions,
        )
        return told, vectors

    def get_image_features(
        self,
        pixel_values: Tensor,
        vision_feature_layer: int | Sequence[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **asked: Unpack[Tapped],
    ) -> MediaFeatures:
        """The tower's output on pictures, and each picture's vectors as the decoder reads them, in ``pooler_output``.

        Args:
            pixel_values: Shape: [N, channels, height, width].
            vision_feature_layer: which hidden states, if not those that the config says.
            vision_feature_select_strategy: whether the class token is left out, likewise.
            asked: see :class:`~omniform.core.context.Tapped`.
        """
        options = {
            "vision_feature_layer": vision_feature_layer,
            "vision_feature_select_strategy": vision_feature_select_strategy,
        }
        out, vectors = self.seen(pixel_values, self.select.asked(options), asked)
        out.pooler_output = tuple(vectors)
        return out

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
            pixel_values: every picture of the batch in reading order. Shape: [N, channels, height, width].
            given: see :class:`~omniform.architectures.fusion.Among`.
        """
        return self.read(input_ids, attention_mask, cast(Merged, {**given, "pixel_values": pixel_values}))


class VisionLanguageLM(MultimodalLM):
    """A vision-language model that writes."""

    model: VisionLanguage

    def get_image_features(self, pixel_values: Tensor, *args: object, **given: object) -> MediaFeatures:
        """See :meth:`VisionLanguage.get_image_features`."""
        return self.model.get_image_features(pixel_values, *args, **given)  # type: ignore[arg-type]
