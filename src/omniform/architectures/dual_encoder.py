"""Two encoders, one of pictures and one of texts, that meet in one space (https://arxiv.org/abs/2103.00020)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from omniform.architectures.losses import contrastive_loss
from omniform.architectures.model import Model
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.embeddings import PositionTable, check_ids, check_positions
from omniform.blocks.layers import run
from omniform.core.context import StepContext
from omniform.core.errors import InputError, check_arguments
from omniform.core.outputs import (
    BaseModelOutputWithPooling,
    DualEncoderOutput,
    ImageEmbeddingOutput,
    TextEmbeddingOutput,
)

PoolText = Callable[[Tensor, Tensor], Tensor]
"""Hidden states and token ids to one vector per text: Shape [B, T, D] and [B, T] to [B, D]."""


@dataclass(frozen=True, slots=True)
class AtFirst:
    """Picks the hidden state of a row's first token that is one of some; of its first token if none is.

    Attributes:
        token_ids: those tokens.
    """

    token_ids: tuple[int, ...]

    def __call__(self, hidden_BTD: Tensor, input_ids: Tensor) -> Tensor:
        """Shape: [B, D]."""
        found = torch.isin(input_ids, torch.tensor(self.token_ids, device=input_ids.device))
        return _picked(hidden_BTD, found.int().argmax(-1))


def at_first(*token_ids: int) -> PoolText:
    """The hidden state of a row's first token that is one of ``token_ids``; see :class:`AtFirst`."""
    return AtFirst(token_ids)


def at_highest_id(hidden_BTD: Tensor, input_ids: Tensor) -> Tensor:
    """The hidden state of a row's highest token id, where the end of text is the vocabulary's last token."""
    return _picked(hidden_BTD, input_ids.argmax(-1))


def _picked(hidden_BTD: Tensor, index_B: Tensor) -> Tensor:
    return hidden_BTD[torch.arange(hidden_BTD.shape[0], device=hidden_BTD.device), index_B.to(hidden_BTD.device)]


class TextTower(Model):
    """An encoder of texts that gives one vector per text.

    Args:
        embed_tokens: the table of token vectors.
        embed_positions: learned positions, added to them.
        layers: called as ``layer(hidden, ctx)``.
        norm: applied after the last layer.
        pool: picks the vector that stands for a text.
    """

    def __init__(
        self,
        *,
        embed_tokens: nn.Embedding,
        embed_positions: PositionTable,
        layers: Iterable[nn.Module],
        norm: nn.Module,
        pool: PoolText,
    ) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.embed_positions = embed_positions
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.pool = pool

    @property
    def max_positions(self) -> int:
        """The longest text the model can make sense of, in tokens."""
        return self.embed_positions.num_embeddings

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors. Shape: [B, T] to [B, T, D]."""
        vectors: Tensor = self.embed_tokens(input_ids)
        return vectors

    def encode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        hidden: Tensor = self.norm(run(self.layers, embeds_BTD + self.embed_positions(ctx.positions), ctx))
        return hidden

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Hidden states of texts, and one vector per text.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens.
            position_ids: Shape: [B, T]; 0, 1, 2... by default.

        Raises:
            InputError: no texts, ids outside the vocabulary, a text that is too long, a mask that does not fit.
        """
        if input_ids is None:
            raise InputError("there are no texts", where="input_ids", expected="a tensor", found="None")
        check_ids(input_ids, self.embed_tokens.num_embeddings)
        check_positions(input_ids.shape[1], self.max_positions)
        embeds = self.embed(input_ids)
        ctx = self.step(
            embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            hidden_states=output_hidden_states,
            attentions=output_attentions,
        )
        self.embed_positions.check(ctx.positions)
        hidden = self.encode(embeds, ctx)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=self.pool(hidden, input_ids),
            hidden_states=ctx.taps.hidden_or_none,
            attentions=ctx.taps.attentions_or_none,
        )


class ImageEmbedder(Model):
    """An encoder of pictures and its projection into the shared space."""

    main_input = "pixel_values"

    def __init__(self, model: VisionEncoder, projection: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.projection = projection

    def forward(self, *args: Tensor, **inputs: object) -> ImageEmbeddingOutput:
        """``image_embeds``, not normalised; see :meth:`VisionEncoder.forward` for the inputs."""
        out = cast(BaseModelOutputWithPooling, self.model(*args, **inputs))
        return ImageEmbeddingOutput(
            image_embeds=self.projection(out.pooler_output),
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


class TextEmbedder(Model):
    """An encoder of texts and its projection into the shared space."""

    def __init__(self, model: TextTower, projection: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.projection = projection

    def forward(self, *args: Tensor, **inputs: object) -> TextEmbeddingOutput:
        """``text_embeds``, not normalised; see :meth:`TextTower.forward` for the inputs."""
        out = cast(BaseModelOutputWithPooling, self.model(*args, **inputs))
        return TextEmbeddingOutput(
            text_embeds=self.projection(out.pooler_output),
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


class DualEncoder(Model):
    """Compares pictures with texts.

    Args:
        vision_model: pictures to vectors.
        text_model: texts to vectors.
        visual_projection: a picture's vector into the shared space.
        text_projection: a text's vector into the shared space.
        logit_scale: what the logarithm of the factor on similarities starts from.
    """

    def __init__(
        self,
        *,
        vision_model: VisionEncoder,
        text_model: TextTower,
        visual_projection: nn.Linear,
        text_projection: nn.Linear,
        logit_scale: float = math.log(1 / 0.07),
    ) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.text_model = text_model
        self.visual_projection = visual_projection
        self.text_projection = text_projection
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))
        self._start = logit_scale

    def reset(self, std: float) -> None:
        """Start the factor from the config's value."""
        nn.init.constant_(self.logit_scale, self._start)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.embed_tokens

    def get_image_features(self, pixel_values: Tensor, **inputs: object) -> BaseModelOutputWithPooling:
        """The vision encoder's output, its ``pooler_output`` projected into the shared space: Shape [B, E].

        Args:
            inputs: see :meth:`VisionEncoder.forward`.
        """
        check_arguments("get_image_features", inputs, self.vision_model.accepts())
        out = cast(BaseModelOutputWithPooling, self.vision_model(pixel_values, **inputs))
        out.pooler_output = self.visual_projection(out.pooler_output)
        return out

    def get_text_features(self, input_ids: Tensor, **inputs: object) -> BaseModelOutputWithPooling:
        """The text encoder's output, its ``pooler_output`` projected into the shared space: Shape [B, E].

        Args:
            inputs: see :meth:`TextTower.forward`.
        """
        check_arguments("get_text_features", inputs, self.text_model.accepts())
        out = cast(BaseModelOutputWithPooling, self.text_model(input_ids, **inputs))
        out.pooler_output = self.text_projection(out.pooler_output)
        return out

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> DualEncoderOutput:
        """Similarities of every picture with every text.

        Args:
            input_ids: Shape: [texts, T].
            pixel_values: Shape: [pictures, channels, height, width].
            attention_mask: Shape: [texts, T], 1 for real tokens.
            position_ids: Shape: [texts, T].
            return_loss: compute the contrastive loss of picture ``i`` belonging to text ``i``.
            interpolate_pos_encoding: take pictures of another size than the model's own.
        """
        if input_ids is None or pixel_values is None:
            lacking = "input_ids" if input_ids is None else "pixel_values"
            raise InputError(
                "pictures are compared with texts: both are needed",
                where=lacking,
                found="None",
                remedy="For one of them use get_text_features or get_image_features.",
            )
        taps = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        image = self.get_image_features(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **taps)
        text = self.get_text_features(input_ids, attention_mask=attention_mask, position_ids=position_ids, **taps)
        image_embeds, text_embeds = _unit(image.pooler_output), _unit(text.pooler_output)
        per_text = text_embeds @ image_embeds.t() * self.logit_scale.exp()
        return DualEncoderOutput(
            loss=contrastive_loss(per_text) if return_loss else None,
            logits_per_image=per_text.t(),
            logits_per_text=per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=image,
        )


def _unit(x_BE: Tensor | None) -> Tensor:
    assert x_BE is not None, "a tower without a pooler cannot be compared"
    return x_BE / x_BE.square().sum(-1, keepdim=True).sqrt()
