"""A decoder that reads tiles of pictures, and sounds of which company decides how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures import projected_sounds, tiled_pictures
from omniform.architectures.decoder import TextDecoder
from omniform.architectures.fusion import NOTHING, Medium, Merged, Multimodal, MultimodalLM
from omniform.architectures.projected_sounds import ProjectedSounds, SoundReader, alike, in_company
from omniform.architectures.stack import Stepped
from omniform.architectures.tiled_pictures import TiledPictures, TileReader
from omniform.blocks.composed import Composed
from omniform.core.batch import Facts, Item, Modality
from omniform.core.outputs import BaseModelOutput, MediaFeatures


class Extension(Composed):
    """What reads pictures and sounds.

    Args:
        image_embed: reads pictures.
        audio_embed: reads sounds.
    """

    image_embed: TileReader
    audio_embed: SoundReader


class Extended(Stepped, total=False):
    """What may come with tokens, pictures and sounds.

    Attributes:
        image_pixel_values: tiles. Shape: [pictures, tiles, channels, height, width].
        image_sizes: of what was cut into tiles, height and width. Shape: [pictures, 2].
        image_attention_mask: 1 for patches of the picture. Shape: [pictures, tiles, rows, columns].
        audio_input_features: frames of sounds. Shape: [sounds, frames, bands].
        audio_embed_sizes: how many tokens stand for each. Shape: [sounds].
        audio_attention_mask: 1 for frames of the sound. Shape: [sounds, frames].
        media_facts: what is known of them on the host, by modality.
    """

    image_pixel_values: Tensor | None
    image_sizes: Tensor | None
    image_attention_mask: Tensor | None
    audio_input_features: Tensor | None
    audio_embed_sizes: Tensor | None
    audio_attention_mask: Tensor | None
    media_facts: Mapping[Modality, Sequence[Facts]] | None


class SeeingHearing(Multimodal):
    """Pictures and sounds among the tokens of one decoder; hidden states out.

    Args:
        language_model: the decoder.
        embed_tokens_extend: makes vectors of pictures and sounds.
        image_token_id, audio_token_id: the placeholders in the text.
        dropout: on tokens' vectors once pictures or sounds are among them, in training.
    """

    language_model: TextDecoder
    embed_tokens_extend: Extension
    image_token_id: int
    audio_token_id: int
    dropout: float

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        seen, heard = self.embed_tokens_extend.image_embed, self.embed_tokens_extend.audio_embed
        beside = options.get(tiled_pictures.PIXELS) is not None
        image, audio = self.image_token_id, self.audio_token_id
        return (
            TiledPictures(modality="image", token_id=image, inputs=tiled_pictures.NAMES, reader=seen),
            ProjectedSounds(
                modality="audio", token_id=audio, inputs=projected_sounds.NAMES, reader=heard, beside_pictures=beside
            ),
        )

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        # As in one forward over all rows, where a picture in any of them counts.
        beside = tiled_pictures.PIXELS in features
        return [[in_company(item, beside) for item in row] for row in super().items(rows, features)]

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        if items[0].modality == "image":
            return super().encode_items(items)
        found: dict[int, Tensor] = {}
        for group in alike(items):
            found |= dict(zip(group, super().encode_items([items[number] for number in group]), strict=True))
        return [found[number] for number in range(len(items))]

    def merged(self, input_ids: Tensor, given: Merged) -> tuple[Tensor, dict[Modality, Tensor]]:
        embeds, vectors = super().merged(input_ids, given)
        if not self.training or not self.dropout or not vectors:
            return embeds, vectors
        # Drawn once for the pictures and once for the sounds; where both are, each counts in its own places.
        dropped = [F.dropout(embeds, self.dropout, training=True) for _ in vectors]
        if len(dropped) == 1:
            return dropped[0], vectors
        seen, heard = dropped
        return torch.where((input_ids == self.image_token_id)[..., None], seen, heard), vectors

    def get_image_features(
        self, image_pixel_values: Tensor, image_sizes: Tensor, image_attention_mask: Tensor | None = None
    ) -> MediaFeatures:
        """Each picture's vectors as the decoder reads them, in ``pooler_output``; see :class:`Extended`."""
        given = {
            tiled_pictures.PIXELS: image_pixel_values,
            tiled_pictures.SIZES: image_sizes,
            tiled_pictures.MARKS: image_attention_mask,
        }
        return self._features("image", given)

    def get_audio_features(
        self,
        audio_input_features: Tensor,
        audio_embed_sizes: Tensor | None = None,
        audio_attention_mask: Tensor | None = None,
        *,
        beside_pictures: bool = False,
    ) -> MediaFeatures:
        """Each sound's vectors as the decoder reads them, in ``pooler_output``; see :class:`Extended`.

        Args:
            beside_pictures: as those of a call that holds pictures.
        """
        given = {
            projected_sounds.FRAMES: audio_input_features,
            projected_sounds.COUNTS: audio_embed_sizes,
            projected_sounds.MARKS: audio_attention_mask,
        }
        options = {tiled_pictures.PIXELS: True} if beside_pictures else {}
        return self._features("audio", given, options)

    def _features(
        self, modality: Modality, given: Mapping[str, Tensor | None], options: Mapping[str, object] = NOTHING
    ) -> MediaFeatures:
        medium = self.medium(modality, options)
        inputs = {name: value for name, value in given.items() if value is not None}
        facts = medium.facts(inputs)
        made = torch.split(medium.encode(inputs, facts), medium.lengths(facts))
        return MediaFeatures(pooler_output=tuple(made))

    def forward(  # type: ignore[override] # what it reads is called otherwise
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **given: Unpack[Extended]
    ) -> BaseModelOutput:
        """Hidden states of text with pictures and sounds in it.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, past + T], 1 for real tokens.
            given: the pictures and sounds of all rows, in reading order; see :class:`Extended`.
        """
        out = self.read(input_ids, attention_mask, cast(Merged, given))
        out.image_hidden_states = out.audio_hidden_states = None
        return out


class SeeingHearingLM(MultimodalLM):
    """Such a decoder that writes."""

    model: SeeingHearing
    ADAPTERS: ClassVar[Mapping[Modality, str]] = {"image": "vision", "audio": "speech"}

    def alone(self, items: Sequence[Item]) -> tuple[Item, ...]:
        beside = any(item.modality == "image" for item in items)
        return tuple(in_company(item, beside) for item in items)

    def get_image_features(self, image_pixel_values: Tensor, image_sizes: Tensor, **given: Tensor) -> MediaFeatures:
        """See :meth:`SeeingHearing.get_image_features`."""
        return self.model.get_image_features(image_pixel_values, image_sizes, **given)

    def get_audio_features(self, audio_input_features: Tensor, **given: object) -> MediaFeatures:
        """See :meth:`SeeingHearing.get_audio_features`."""
        return self.model.get_audio_features(audio_input_features, **given)  # type: ignore[arg-type]
