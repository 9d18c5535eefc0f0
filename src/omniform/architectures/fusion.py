"""Models that read pictures and text with one decoder: embed, encode, merge, then the very same decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import CausalLM, LanguageModel, TextDecoder
from omniform.architectures.stack import Stepped
from omniform.architectures.vision import VisionEncoder
from omniform.core.batch import Item, Span
from omniform.core.config import Beginning, ModelConfig
from omniform.core.errors import InputError
from omniform.core.host import is_readable
from omniform.core.outputs import BaseModelOutput
from omniform.core.spans import find_spans


def merge(embeds_BTD: Tensor, features: Sequence[Tensor], spans: Sequence[Span]) -> Tensor:
    """Put each item's features in the place of its placeholder tokens.

    Args:
        embeds_BTD: token vectors. Shape: [B, T, D].
        features: one tensor per item, Shape: [its length, D].
        spans: where each item goes; they were checked against the features' lengths when they were found.

    Returns:
        Shape: [B, T, D]; the input is unchanged.
    """
    if not spans:
        return embeds_BTD
    device = embeds_BTD.device
    rows = torch.cat([torch.full((s.length,), s.row) for s in spans]).to(device)
    columns = torch.cat([torch.arange(s.start, s.start + s.length) for s in spans]).to(device)
    values = torch.cat([features[s.item] for s in spans]).to(embeds_BTD)
    return embeds_BTD.index_put((rows, columns), values)


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
        states = tower.hidden_at(pixel_values, self.layers)
        return torch.cat([state[:, self.skip :] for state in states], dim=-1)

    def length(self, tower: VisionEncoder, pixel_values: Tensor) -> int:
        """How many features each of some pictures has. Shape: [N, channels, height, width]."""
        return tower.tokens(pixel_values) - self.skip


def parted_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Each part begins as its own family's models do."""
    inner = path.removeprefix("model.")
    parts = {"language_model.": "text_config", "lm_head.": "text_config", "vision_tower.": "vision_config"}
    found = next(((key, start) for start, key in parts.items() if inner.startswith(start)), None)
    if found is None and "initializer_range" in config.raw:
        return None
    part = config.get(found[0] if found is not None else "text_config")
    assert isinstance(part, ModelConfig)
    if found is None:
        return part.common.initializer_range
    rest = inner if inner.startswith("lm_head.") else inner.removeprefix(found[1])
    how = part.beginning(rest)
    return part.common.initializer_range if how is None else how


class VisionLanguage(LanguageModel):
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

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Pictures to vectors of the decoder's width. Shape: [N, channels, height, width] to [N, length, D]."""
        features: Tensor = self.multi_modal_projector(self.select(self.vision_tower, pixel_values))
        return features

    @property
    def decoder(self) -> TextDecoder:
        return self.language_model

    @property
    def reads_items(self) -> bool:
        return True

    @property
    def placeholders(self) -> frozenset[int]:
        return frozenset({self.image_token_id})

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        pictures = features.get("pixel_values")
        others = sorted(features.keys() - {"pixel_values"})
        if others:
            raise InputError("this model reads pictures and text only", where=", ".join(others))
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows])
        lengths = self._lengths(pictures)
        own: list[list[Item]] = [[] for _ in rows]
        for span in find_spans(ids, self.image_token_id, lengths, "image"):
            assert pictures is not None
            own[span.row].append(Item("image", {"pixel_values": pictures[span.item, None]}))
        return own

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        return list(self.get_image_features(torch.cat([item.inputs["pixel_values"] for item in items])))

    def spans(self, row: Sequence[int], items: Sequence[Item], lengths: Sequence[int]) -> list[Span]:
        return find_spans(torch.tensor([row]), self.image_token_id, lengths, "image")

    def unpads(self) -> bool:
        return self.language_model.unpads()

    def arrive(self, inputs: dict[str, object]) -> None:
        if inputs.get("pixel_values") is not None and inputs.get("input_ids") is None:
            raise InputError("pictures need the text's ids to find their places", where="input_ids", found="none")
        self.language_model.arrive(inputs)
        ids, pictures = inputs.get("input_ids"), inputs.get("pixel_values")
        if not isinstance(ids, Tensor) or inputs.get("inputs_embeds") is not None:
            return
        lengths = self._lengths(pictures)
        # On an accelerator placeholders are counted where there are pictures: too few of them would end its work.
        if is_readable(ids) or (lengths and ids.device.type not in ("cpu", "meta")):
            find_spans(ids, self.image_token_id, lengths, "image")

    def _lengths(self, pictures: object) -> list[int]:
        """How many features each picture has, where there are any."""
        if not isinstance(pictures, Tensor):
            return []
        return [self.select.length(self.vision_tower, pictures)] * pictures.shape[0]

    def _merged(self, input_ids: Tensor, pixel_values: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Token vectors with the pictures in their places, and the pictures' features, one after another."""
        embeds = self.language_model.embed(input_ids)
        if pixel_values is None:
            return embeds, None
        features = self.get_image_features(pixel_values)
        marked = (input_ids == self.image_token_id)[..., None]
        return embeds.masked_scatter(marked, features.to(embeds)), features.flatten(0, 1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **given: Unpack[Stepped],
    ) -> BaseModelOutput:
        """Hidden states of text with pictures in it.

        Args:
            pixel_values: every picture of the batch in reading order. Shape: [N, channels, height, width].
            given: see :class:`~omniform.architectures.stack.Stepped`.
        """
        features = None
        if input_ids is not None and given.get("inputs_embeds") is None:
            given["inputs_embeds"], features = self._merged(input_ids, pixel_values)
        out = self.language_model.forward(None, attention_mask, **given)
        out.image_hidden_states = features
        return out


class VisionLanguageLM(CausalLM):
    """A vision-language model that writes."""

    model: VisionLanguage

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """See :meth:`VisionLanguage.get_image_features`."""
        return self.model.get_image_features(pixel_values)
