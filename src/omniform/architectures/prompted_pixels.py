"""Pixels that a text names, or that look like another picture (CLIPSeg, https://arxiv.org/abs/2112.10003).

Both towers of a CLIP stay as they are; a few narrow layers look at some of the vision tower's hidden states, under the
condition of one vector of the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.dual_encoder import DualEncoder
from omniform.architectures.labels import Chances, Targets
from omniform.architectures.losses import chance_loss
from omniform.architectures.model import Model
from omniform.core.context import Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.outputs import BaseModelOutput, Layers, ModelOutput


@dataclass(slots=True)
class PixelScores(ModelOutput):
    """What the narrow layers gave. ``logits``: Shape: [B, height, width]."""

    logits: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class PromptedPixelsOutput(ModelOutput):
    """Scores of pixels.

    Attributes:
        logits: Shape: [B, height, width].
        conditional_embeddings: what was asked for. Shape: [B, E].
        pooled_output: the pictures in the shared space. Shape: [B, E].
        vision_model_output: the vision tower's output for them.
        decoder_output: what the narrow layers gave.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    conditional_embeddings: Tensor | None = None
    pooled_output: Tensor | None = None
    vision_model_output: BaseModelOutput | None = None
    decoder_output: PixelScores | None = None

    def to_tuple(self) -> tuple[object, ...]:
        """The entries that are there, in order, outputs as tuples too."""
        return tuple(e.to_tuple() if isinstance(e, ModelOutput) else e for e in map(self.__getitem__, self.keys()))


class PixelDecoder(Model):
    """Narrow layers over some of a vision tower's hidden states, the deepest first.

    Args:
        reduces: hidden states to the layers' width, one for each layer.
        layers: called as ``layer(hidden, ctx)``.
        film_mul: what a condition multiplies hidden states with.
        film_add: what it adds to them.
        transposed_convolution: patches to pixels.
        conditioned: in front of which layer that is done.
    """

    reduces: nn.ModuleList
    layers: nn.ModuleList
    film_mul: nn.Linear
    film_add: nn.Linear
    transposed_convolution: nn.Module
    conditioned: int

    def forward(
        self, hidden_states: list[Tensor], conditional_embeddings: Tensor, **given: Unpack[Tapped]
    ) -> PixelScores:
        """Scores of pixels.

        Args:
            hidden_states: in the order of the tower. Shape: [B, 1 + patches, D] each; patches make a square.
            conditional_embeddings: Shape: [B, E].
            given: see :class:`~omniform.core.context.Tapped`.
        """
        ctx = self.step(hidden_states[0], given)
        x_BTD: Tensor | None = None
        parts = zip(hidden_states[::-1], self.reduces, self.layers, strict=True)
        for number, (state, reduce, layer) in enumerate(parts):
            narrow: Tensor = reduce(state)
            x_BTD = narrow if x_BTD is None else narrow + x_BTD
            if number == self.conditioned:
                scale, shift = self.film_mul(conditional_embeddings), self.film_add(conditional_embeddings)
                x_BTD = scale[:, None] * x_BTD + shift[:, None]
            if not number:
                ctx.taps.hidden(x_BTD)
            x_BTD = cast(Tensor, layer(x_BTD, ctx))
            ctx.taps.hidden(x_BTD)
        assert x_BTD is not None, "there is a layer at least"
        edge = int((x_BTD.shape[1] - 1) ** 0.5)
        x_BDHW = x_BTD[:, 1:].transpose(1, 2).unflatten(2, (edge, edge))  # type: ignore[no-untyped-call]
        logits: Tensor = self.transposed_convolution(x_BDHW)
        return PixelScores(logits.squeeze(1), **ctx.taps.noted())


class PromptedSegmenter(Model):
    """Finds the pixels that a text names, or that look like another picture.

    Args:
        model: both towers, which learn nothing.
        decoder: the narrow layers.
        extract_layers: whose hidden states they look at.
    """

    main_input = "pixel_values"

    model: DualEncoder
    decoder: PixelDecoder
    extract_layers: tuple[int, ...]

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def accepts(self) -> frozenset[str]:
        return super().accepts() - {"return_loss"}

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Chances()}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        return labels.numel() if isinstance(labels, Tensor) else None

    @torch.no_grad()
    def get_conditional_embeddings(
        self,
        batch_size: int | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        conditional_pixel_values: Tensor | None = None,
    ) -> Tensor:
        """What is asked for, in the shared space. Shape: [B, E].

        Args:
            batch_size: how many pictures are looked at.
            input_ids: a text for each of them. Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens.
            position_ids: Shape: [B, T].
            conditional_pixel_values: or a picture for each. Shape: [B, channels, height, width].

        Raises:
            InputError: neither, or not one for each.
        """
        given = conditional_pixel_values if input_ids is None else input_ids
        name = "conditional_pixel_values" if input_ids is None else "input_ids"
        if given is None or given.shape[0] != batch_size:
            raise InputError(
                "every picture is searched for one thing",
                where=name if given is not None else "input_ids",
                expected=f"{batch_size} texts or pictures, or conditional_embeddings",
                found="none" if given is None else given.shape[0],
            )
        if input_ids is None:
            out = self.model.get_image_features(given)
        else:
            out = self.model.get_text_features(given, attention_mask=attention_mask, position_ids=position_ids)
        return cast(Tensor, out.pooler_output)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        conditional_pixel_values: Tensor | None = None,
        conditional_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = True,
        num_items_in_batch: Tensor | int | None = None,
        **given: Unpack[Tapped],
    ) -> PromptedPixelsOutput:
        """Scores of pixels.

        Args:
            pixel_values: square pictures. Shape: [B, channels, height, width].
            input_ids: a text for each of them. Shape: [B, T]; or
            conditional_pixel_values: a picture for each. Shape: [B, channels, height, width]; or
            conditional_embeddings: a vector of the shared space for each. Shape: [B, E].
            attention_mask: Shape: [B, T], 1 for real tokens.
            position_ids: Shape: [B, T].
            labels: Shape: [B, height, width], in [0, 1].
            interpolate_pos_encoding: take pictures of another size than the model's own.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own pixels.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        wanted: Tapped = {**given, "output_hidden_states": True}
        with torch.no_grad():
            sized = {"interpolate_pos_encoding": interpolate_pos_encoding}
            seen = self.model.get_image_features(pixel_values, **sized, **wanted)
            assert seen.hidden_states is not None
            states = [seen.hidden_states[layer + 1] for layer in self.extract_layers]
        if conditional_embeddings is None:
            prompt = (input_ids, attention_mask, position_ids, conditional_pixel_values)
            conditional_embeddings = self.get_conditional_embeddings(pixel_values.shape[0], *prompt)
        expected = (pixel_values.shape[0], self.model.visual_projection.out_features)
        problem = "the conditions do not fit the pictures"
        check_shape(problem, conditional_embeddings.shape, expected, where="conditional_embeddings")
        drawn = cast(PixelScores, self.decoder(states, conditional_embeddings, **given))
        scores = cast(Tensor, drawn.logits)
        loss = None if labels is None else chance_loss(scores, labels, items=num_items_in_batch)
        if not given.get("output_hidden_states"):
            seen.hidden_states = None
        return PromptedPixelsOutput(
            loss=loss,
            logits=scores,
            conditional_embeddings=conditional_embeddings,
            pooled_output=seen.pooler_output,
            vision_model_output=seen,
            decoder_output=drawn,
        )
