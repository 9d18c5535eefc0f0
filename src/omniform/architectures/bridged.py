"""A tower of words and one of pictures, whose last layers lead into layers that let the two look at one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.heads import Head
from omniform.architectures.labels import Classes, Targets
from omniform.architectures.losses import row_loss, scored, token_loss
from omniform.architectures.model import Model
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.stack import TextStack
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.composed import Composed
from omniform.blocks.embeddings import table_rows
from omniform.blocks.layers import passed
from omniform.blocks.poolers import DensePooler
from omniform.core.context import Memory, StepContext, Tapped, Taps
from omniform.core.errors import InputError
from omniform.core.fused_outputs import BridgeContrastOutput, BridgeModelOutput, BridgeScores


class AddedBridge(Composed):
    """``norm(x + seen)``: what a tower says next, beside what was seen so far."""

    norm: nn.Module

    def forward(self, x_BTD: Tensor, seen_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] each, in and out."""
        joined: Tensor = self.norm(x_BTD + seen_BTD)
        return joined


class ScaledBridge(AddedBridge):
    """``norm(factor * x + seen)``, with a learned factor."""

    def __post_init__(self) -> None:
        self.scaled_factor = nn.Parameter(torch.tensor(1.0))

    def reset(self, std: float) -> None:
        """The factor begins as 1."""
        nn.init.ones_(self.scaled_factor)

    def forward(self, x_BTD: Tensor, seen_BTD: Tensor) -> Tensor:
        return super().forward(x_BTD * self.scaled_factor, seen_BTD)


class InterpolatedBridge(AddedBridge):
    """``norm((1 - beta) * x + beta * seen)``, with a learned share."""

    def __post_init__(self) -> None:
        self.beta = nn.Parameter(torch.tensor(0.5))

    def reset(self, std: float) -> None:
        """Half of each."""
        nn.init.constant_(self.beta, 0.5)

    def forward(self, x_BTD: Tensor, seen_BTD: Tensor) -> Tensor:
        return super().forward(x_BTD * (1 - self.beta), seen_BTD * self.beta)


class BridgedVision(VisionEncoder):
    """The tower of pictures.

    Args:
        separate_norms: norms for each layer, which checkpoints may hold and only the tower alone would use.
    """

    separate_norms: nn.ModuleList | None = None


Steps = tuple[StepContext, StepContext, StepContext, StepContext]
PASSED: Tapped = {"output_hidden_states": True}
SHOWN: Tapped = {"output_hidden_states": True, "output_attentions": True}
"""What is noted of the towers, and of the layers between them."""

OF_TEXT = ("input_ids", "inputs_embeds", "attention_mask")
"""What the tower of words is given."""


def nth(parts: nn.Module, number: int) -> nn.Module:
    """The part of a layer between the towers: one of many, or the one that all share."""
    return parts[number] if isinstance(parts, nn.ModuleList) else parts


class BridgedTowers(Model):
    """BridgeTower (https://arxiv.org/abs/2206.08657).

    The first layers of both towers run alone. Then each layer more of a tower goes over a bridge into the next layer
    between the towers, where words look at patches and patches at words.

    Args:
        text_model: the tower of words.
        vision_model: the tower of pictures.
        token_type_embeddings: marks words and pictures.
        cross_modal_text_transform: words into the layers between; one for each of these, or one for all.
        cross_modal_image_transform: pictures likewise.
        cross_modal_text_layers: where words look at words, then at patches.
        cross_modal_image_layers: where patches look at patches, then at words.
        cross_modal_text_pooler: a row's words to one vector.
        cross_modal_image_pooler: its picture to one vector.
        cross_modal_text_layernorm: before the first layer between.
        cross_modal_image_layernorm: likewise.
        cross_modal_text_link_tower: the bridges, one fewer than layers between; or one for all.
        cross_modal_image_link_tower: likewise.
    """

    text_model: TextStack
    vision_model: BridgedVision
    token_type_embeddings: nn.Embedding
    cross_modal_text_transform: nn.Module
    cross_modal_image_transform: nn.Module
    cross_modal_text_layers: nn.ModuleList
    cross_modal_image_layers: nn.ModuleList
    cross_modal_text_pooler: DensePooler
    cross_modal_image_pooler: DensePooler
    cross_modal_text_layernorm: nn.Module
    cross_modal_image_layernorm: nn.Module
    cross_modal_text_link_tower: nn.Module
    cross_modal_image_link_tower: nn.Module

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.embed_tokens

    def arrive(self, inputs: dict[str, object]) -> None:
        text: dict[str, object] = {k: v for k, v in inputs.items() if k in OF_TEXT}
        self.text_model.arrive(text)
        inputs.update(text)
        mask = inputs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() != 2:
            found = f"shape {list(mask.shape)}"
            raise InputError("words are masked one by one", where="attention_mask", expected="[B, T]", found=found)
        rows = cast(Tensor, inputs.get("input_ids", inputs.get("inputs_embeds"))).shape[0]
        check_seen(inputs, rows)

    def mark(self, kind: int, device: torch.device) -> Tensor:
        """What marks words (0) and pictures (1). Shape: [D]."""
        mark: Tensor = self.token_type_embeddings(torch.tensor(kind, device=device))
        return mark

    def patches(self, image_BPD: Tensor, number: int, mark: Tensor) -> Tensor:
        """A picture's hidden states as a layer between the towers reads them. Shape: [B, P, D] in and out."""
        assert self.vision_model.norm is not None
        moved: Tensor = nth(self.cross_modal_image_transform, number)(self.vision_model.norm(image_BPD))
        return moved + mark

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        image_token_type_idx: int | None = None,
        interpolate_pos_encoding: bool = False,
        **given: Unpack[Tapped],
    ) -> BridgeModelOutput:
        """Words and pictures that have looked at one another.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens.
            token_type_ids: not read: all tokens are of the first type.
            pixel_values: Shape: [B, channels, height, width].
            pixel_mask: not read: pictures are looked at whole.
            inputs_embeds: Shape: [B, T, D], instead of ``input_ids``.
            image_embeds: Shape: [B, P, D], what enters the pictures' layers, instead of ``pixel_values``.
            image_token_type_idx: what marks pictures; 1 by default, and for 0 too.
            interpolate_pos_encoding: take pictures of another size, resampling the learned positions.
            given: see :class:`~omniform.core.context.Tapped`. Hidden states and attentions are always there, as in the
                reference; ``output_attentions`` adds ``cross_attentions``.

        Raises:
            InputError: ids outside the vocabulary, no pictures, or not one for each row of words.
        """
        embeds = self.text_model.vectors(input_ids, {"inputs_embeds": inputs_embeds})
        places = self.text_model.places(input_ids, embeds, {}, attention_mask)
        of_text = self.text_model.step(embeds, attention_mask=attention_mask, position_ids=places)
        if image_embeds is None:
            assert pixel_values is not None, "calls are checked when they arrive"
            image_embeds = self.vision_model.embed(pixel_values, interpolate=interpolate_pos_encoding)
        of_image = self.vision_model.step(image_embeds)
        # Whatever is asked for, hidden states and attentions are shown, as the reference shows them.
        of_text, of_image = of_text.with_(taps=Taps(PASSED)), of_image.with_(taps=Taps(PASSED))
        at_image, at_text = of_text.with_(taps=Taps(SHOWN)), of_image.with_(taps=Taps(SHOWN))
        text = self.text_model.embeddings(embeds, of_text)
        steps = (of_text, of_image, at_image, at_text)
        text, image = self.crossed(text, image_embeds, steps, image_token_type_idx or 1)
        words, patches, met_text, met_image = of_text.taps, of_image.taps, at_image.taps, at_text.taps
        looks = zip(met_text.cross_attentions, met_image.cross_attentions, strict=True)
        pooled = torch.cat((self.cross_modal_text_pooler(text), self.cross_modal_image_pooler(image)), dim=-1)
        return BridgeModelOutput(
            text_features=text,
            image_features=image,
            pooler_output=pooled,
            hidden_states=(
                tuple(words.hidden_states),
                tuple(x.transpose(0, 1) for x in patches.hidden_states),
                tuple(zip(met_text.hidden_states, met_image.hidden_states, strict=True)),
            ),
            attentions=tuple(zip(met_text.attentions, met_image.attentions, strict=True)),
            cross_attentions=tuple(looks) if given.get("output_attentions") else None,
        )

    def crossed(self, text: Tensor, image: Tensor, steps: Steps, kind: int) -> tuple[Tensor, Tensor]:
        """Both towers and the layers between them.

        Args:
            text: Shape: [B, T, D].
            image: Shape: [B, P, D].
            steps: of the words' tower, of the pictures', and of either side between them; their taps note what passes.
            kind: what marks pictures.

        Returns:
            Shape: [B, T, D] and [B, P, D].
        """
        of_text, of_image, at_image, at_text = steps
        of_text.taps.hidden(text)
        of_image.taps.hidden(image)
        words, pictures = self.mark(0, text.device), self.mark(kind, text.device)
        text_layers, image_layers = list(self.text_model.layers), list(self.vision_model.layers)
        last = len(self.cross_modal_text_layers) - 1
        alone = len(text_layers) - last
        seen_text = seen_image = text  # replaced by the first layer between
        for number in range(last + 1):
            for i in range(alone) if number == 0 else (alone + number - 1,):
                text, image = passed(text_layers[i], i, text, of_text), passed(image_layers[i], i, image, of_image)
                of_text.taps.hidden(text)
                of_image.taps.hidden(image)
            asking = nth(self.cross_modal_text_transform, number)(text) + words
            looking = self.patches(image, number, pictures)
            if number == 0:
                asking = self.cross_modal_text_layernorm(asking)
                looking = self.cross_modal_image_layernorm(looking)
            else:
                asking = nth(self.cross_modal_text_link_tower, number - 1)(asking, seen_text)
                looking = nth(self.cross_modal_image_link_tower, number - 1)(looking, seen_image)
            both = at_image.with_(memory=Memory(looking)), at_text.with_(memory=Memory(asking, of_text.padding))
            seen_text = passed(self.cross_modal_text_layers[number], number, asking, both[0])
            seen_image = passed(self.cross_modal_image_layers[number], number, looking, both[1])
            at_image.taps.hidden(seen_text)
            at_text.taps.hidden(seen_image)
        return seen_text, seen_image


def check_seen(inputs: Mapping[str, object], rows: int) -> None:
    """Raise :class:`InputError` unless there is one picture for each of so many rows, as pixels or as vectors."""
    pixels, embeds = inputs.get("pixel_values"), inputs.get("image_embeds")
    if (pixels is None) == (embeds is None):
        raise InputError(
            "give either pixel_values or image_embeds",
            where="pixel_values",
            expected="exactly one of them",
            found="neither" if pixels is None else "both",
        )
    seen = pixels if embeds is None else embeds
    if isinstance(seen, Tensor) and seen.dim() and seen.shape[0] != rows:
        name = "pixel_values" if embeds is None else "image_embeds"
        found = f"{seen.shape[0]} pictures"
        raise InputError("there is not one picture for each text", where=name, expected=f"{rows} pictures", found=found)


class BridgedMaskedLM(Head):
    """Masked words filled in by who sees the picture."""

    model: BridgedTowers
    lm_head: ScoringHead

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(table_rows(self.model.text_model.embed_tokens))}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> BridgeScores:
        """Scores of every token at every place; see :meth:`BridgedTowers.forward` for the inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own labels.
        """
        out = cast(BridgeModelOutput, self.model(*args, **inputs))
        logits = self.lm_head(out.text_features)
        loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return BridgeScores(loss=loss, logits=logits, **out.noted())


class BridgedMatcher(Head):
    """Whether a text belongs to a picture."""

    model: BridgedTowers
    itm_score: nn.Linear

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(2)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> BridgeScores:
        """Scores of ``no`` and ``yes``, Shape: [B, 2]; see :meth:`BridgedTowers.forward` for the inputs.

        Args:
            labels: Shape: [B] or [B, 1], 1 where they belong together; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own rows.
        """
        out = cast(BridgeModelOutput, self.model(*args, **inputs))
        logits = self.itm_score(out.pooler_output)
        loss = None if labels is None else row_loss(logits, labels, items=num_items_in_batch)
        return BridgeScores(loss=loss, logits=logits, **out.noted())


class BridgedContrast(Head):
    """Words, pictures and both together in one space.

    Args:
        itc_text_head: from the words' tower into the space.
        itc_image_head: from the pictures' tower.
        itc_cross_modal_head: from what both say together.
        start: what the logarithm of the factor on similarities starts from.
    """

    model: BridgedTowers
    itc_text_head: nn.Linear
    itc_image_head: nn.Linear
    itc_cross_modal_head: nn.Linear
    start: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.logit_scale = nn.Parameter(torch.tensor(self.start))

    def reset(self, std: float) -> None:
        """Start the factor from the config's value."""
        nn.init.constant_(self.logit_scale, self.start)

    def forward(self, *args: Tensor | None, return_loss: bool | None = None, **inputs: object) -> BridgeContrastOutput:
        """Vectors of length 1; see :meth:`BridgedTowers.forward` for the inputs.

        Args:
            return_loss: compute the contrastive loss of text ``i`` belonging to picture ``i``: the mean of texts
                against pictures, of texts against both together, and of pictures against both together.
        """
        out = cast(BridgeModelOutput, self.model(*args, **inputs))
        assert out.hidden_states is not None
        of_text, of_image, _ = out.hidden_states
        first = self.model.patches(of_image[-1][:1].transpose(0, 1), 0, self.model.mark(1, of_image[-1].device))
        text = F.normalize(self.itc_text_head(of_text[-1][:, 0]), dim=-1)
        image = F.normalize(self.itc_image_head(first[:, 0]), dim=-1)
        both = F.normalize(self.itc_cross_modal_head(out.pooler_output), dim=-1)
        loss = None
        if return_loss:
            factor, same = self.logit_scale.exp(), torch.arange(text.shape[0], device=text.device)
            pairs = ((text, image), (text, both), (image, both))
            loss = torch.stack([F.cross_entropy(a @ b.t() * factor, same) for a, b in pairs]).sum() / 3
        return BridgeContrastOutput(
            loss=loss,
            logits=torch.stack((text, image, both), dim=-2),
            text_embeds=text,
            image_embeds=image,
            cross_embeds=both,
            **out.noted(),
        )
