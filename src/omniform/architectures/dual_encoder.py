"""Two encoders, one of pictures and one of texts, that meet in one space (https://arxiv.org/abs/2103.00020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.heads import Head
from omniform.architectures.losses import contrastive_loss, pairwise_loss
from omniform.architectures.model import Model
from omniform.architectures.stack import TextEncoder
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.composed import Composed
from omniform.blocks.layers import run
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError, check_arguments
from omniform.core.outputs import BaseModelOutput, DualEncoderOutput, ImageEmbeddingOutput, TextEmbeddingOutput


@dataclass(frozen=True, slots=True)
class FirstOf:
    """The hidden state of a row's first token that is one of some; of its first token if none is."""

    token_ids: tuple[int, ...]

    def __call__(self, hidden_BTD: Tensor, input_ids: Tensor | None) -> Tensor:
        ids = _needed(input_ids)
        found = torch.isin(ids, torch.tensor(self.token_ids, device=ids.device))
        return _picked(hidden_BTD, found.int().argmax(-1))


@dataclass(frozen=True, slots=True)
class HighestId:
    """The hidden state of a row's highest token id, where the end of text is the vocabulary's last token."""

    def __call__(self, hidden_BTD: Tensor, input_ids: Tensor | None) -> Tensor:
        return _picked(hidden_BTD, _needed(input_ids).argmax(-1))


class LastProjected(Composed):
    """A row's last hidden state, of padding too, projected into the shared space (SigLIP)."""

    head: nn.Linear

    def forward(self, hidden_BTD: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Shape: [B, T, D] to [B, E]."""
        pooled: Tensor = self.head(hidden_BTD[:, -1])
        return pooled


def _needed(input_ids: Tensor | None) -> Tensor:
    if input_ids is None:
        raise InputError("the end of a text is found by its ids", where="input_ids", expected="a tensor", found="None")
    return input_ids


def _picked(hidden_BTD: Tensor, index_B: Tensor) -> Tensor:
    return hidden_BTD[torch.arange(hidden_BTD.shape[0], device=hidden_BTD.device), index_B.to(hidden_BTD.device)]


class TextTower(TextEncoder):
    """An encoder of texts, one vector for each, that is asked about whole texts only."""

    def arrive(self, inputs: dict[str, object]) -> None:
        if inputs.get("input_ids") is None:
            raise InputError("there are no texts", where="input_ids", expected="a tensor", found="None")
        super().arrive(inputs)

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        # The hidden states that it reports are those before the norm.
        hidden = run(self.layers, self.embeddings(embeds_BTD, ctx), ctx)
        return hidden if self.norm is None else cast(Tensor, self.norm(hidden))


class ImageEmbedder(Head):
    """An encoder of pictures and its projection into the shared space."""

    projection: nn.Linear

    def forward(self, *args: Tensor, **inputs: object) -> ImageEmbeddingOutput:
        """``image_embeds``, not normalised; see :meth:`VisionEncoder.forward` for the inputs."""
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        return ImageEmbeddingOutput(
            image_embeds=self.projection(out.pooler_output), last_hidden_state=out.last_hidden_state, **out.noted()
        )


class TextEmbedder(Head):
    """An encoder of texts and its projection into the shared space."""

    projection: nn.Module

    def forward(self, *args: Tensor, **inputs: object) -> TextEmbeddingOutput:
        """``text_embeds``, not normalised; see :meth:`TextTower.forward` for the inputs."""
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        return TextEmbeddingOutput(
            text_embeds=self.projection(out.pooler_output), last_hidden_state=out.last_hidden_state, **out.noted()
        )


class TwoTowers(Model):
    """Compares pictures with texts; each tower's pooled vector lies in the shared space.

    Args:
        vision_model: pictures to vectors.
        text_model: texts to vectors.
    """

    vision_model: VisionEncoder
    text_model: TextTower

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.embed_tokens

    def get_image_features(self, pixel_values: Tensor, **inputs: object) -> BaseModelOutput:
        """The vision encoder's output, its ``pooler_output`` in the shared space: Shape [B, E].

        Args:
            inputs: see :meth:`VisionEncoder.forward`.
        """
        check_arguments("get_image_features", inputs, self.vision_model.accepts())
        return cast(BaseModelOutput, self.vision_model(pixel_values, **inputs))

    def get_text_features(self, input_ids: Tensor, **inputs: object) -> BaseModelOutput:
        """The text encoder's output, its ``pooler_output`` in the shared space: Shape [B, E].

        Args:
            inputs: see :meth:`TextTower.forward`.
        """
        check_arguments("get_text_features", inputs, self.text_model.accepts())
        return cast(BaseModelOutput, self.text_model(input_ids, **inputs))

    def text_length(self) -> int | None:
        """The length that texts are padded to, as they were in training; None: as long as the longest of a batch."""
        return None

    def chances(self, scores_IT: Tensor) -> Tensor:
        """How likely each text is for a picture, by its scores: beside the others. Shape: [pictures, texts]."""
        return scores_IT.softmax(dim=-1)

    def scores(self, similarity_TI: Tensor) -> Tensor:
        """Cosines of texts and pictures to scores. Shape: [texts, pictures] in and out."""
        raise NotImplementedError

    def loss_of(self, scores_TI: Tensor) -> Tensor:
        """The loss of text ``i`` belonging to picture ``i``. Shape: [N, N]."""
        return contrastive_loss(scores_TI)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **given: Unpack[Tapped],
    ) -> DualEncoderOutput:
        """Similarities of every picture with every text.

        Args:
            input_ids: Shape: [texts, T].
            pixel_values: Shape: [pictures, channels, height, width].
            attention_mask: Shape: [texts, T], 1 for real tokens.
            position_ids: Shape: [texts, T].
            return_loss: compute the loss of picture ``i`` belonging to text ``i``.
            interpolate_pos_encoding: take pictures of another size than the model's own.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        ids, pixels = self.both(input_ids, pixel_values)
        image = self.get_image_features(pixels, interpolate_pos_encoding=interpolate_pos_encoding, **given)
        text = self.get_text_features(ids, attention_mask=attention_mask, position_ids=position_ids, **given)
        return self.compared(image, text, return_loss)

    def both(self, input_ids: Tensor | None, pixel_values: Tensor | None) -> tuple[Tensor, Tensor]:
        """Texts and pictures of a call.

        Raises:
            InputError: one of them is missing.
        """
        if input_ids is None or pixel_values is None:
            lacking = "input_ids" if input_ids is None else "pixel_values"
            raise InputError(
                "pictures are compared with texts: both are needed",
                where=lacking,
                found="None",
                remedy="For one of them use get_text_features or get_image_features.",
            )
        return input_ids, pixel_values

    def compared(self, image: BaseModelOutput, text: BaseModelOutput, graded: bool | None) -> DualEncoderOutput:
        """Both towers' outputs, and how near their vectors are; ``graded``: whether there is a loss."""
        image_embeds, text_embeds = unit(image.pooler_output), unit(text.pooler_output)
        per_text = self.scores(text_embeds @ image_embeds.t())
        return DualEncoderOutput(
            loss=self.loss_of(per_text) if graded else None,
            logits_per_image=per_text.t(),
            logits_per_text=per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=image,
        )


class DualEncoder(TwoTowers):
    """Two towers that are projected into the shared space, and told apart in a batch (CLIP).

    Args:
        visual_projection: a picture's vector into the shared space.
        text_projection: a text's vector into the shared space.
        start: what the logarithm of the factor on similarities starts from.
    """

    visual_projection: nn.Linear
    text_projection: nn.Linear
    start: float = math.log(1 / 0.07)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.logit_scale = nn.Parameter(torch.tensor(self.start))

    def reset(self, std: float) -> None:
        """Start the factor from the config's value."""
        nn.init.constant_(self.logit_scale, self.start)

    def get_image_features(self, pixel_values: Tensor, **inputs: object) -> BaseModelOutput:
        out = super().get_image_features(pixel_values, **inputs)
        out.pooler_output = self.visual_projection(out.pooler_output)
        return out

    def get_text_features(self, input_ids: Tensor, **inputs: object) -> BaseModelOutput:
        out = super().get_text_features(input_ids, **inputs)
        out.pooler_output = self.text_projection(out.pooler_output)
        return out

    def scores(self, similarity_TI: Tensor) -> Tensor:
        return similarity_TI * self.logit_scale.exp()


class SigmoidDualEncoder(TwoTowers):
    """Two towers whose every pair is judged by itself: a score is the logarithm of the odds that text and picture
    belong together (https://arxiv.org/abs/2303.15343)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.logit_bias = nn.Parameter(torch.zeros(1))

    def reset(self, std: float) -> None:
        """Start from cosines as they are."""
        nn.init.zeros_(self.logit_scale)
        nn.init.zeros_(self.logit_bias)

    def text_length(self) -> int | None:
        return self.text_model.max_positions

    def chances(self, scores_IT: Tensor) -> Tensor:
        """How likely each text is for a picture, by its scores: whatever the others are. Shape: [pictures, texts]."""
        return scores_IT.sigmoid()

    def scores(self, similarity_TI: Tensor) -> Tensor:
        return similarity_TI * self.logit_scale.exp() + self.logit_bias

    def loss_of(self, scores_TI: Tensor) -> Tensor:
        return pairwise_loss(scores_TI)


def unit(x_BE: Tensor | None) -> Tensor:
    """Vectors of length 1 in the directions of these. Shape: [B, E] in and out.

    Raises:
        InputError: there are none, since the tower does not pool.
    """
    if x_BE is None:
        raise InputError(
            "the vision tower has no pooling head, so that its pictures cannot be compared with texts",
            where="config.json: vision_config.vision_use_head",
            expected="true",
            found="false",
        )
    return x_BE / x_BE.square().sum(-1, keepdim=True).sqrt()
