"""Texts that look at pictures, by cross-attention: captions, answers, and whether the two belong together (BLIP).

One kind of stack reads both ways where it encodes and from left to right where it writes
(https://arxiv.org/abs/2201.12086).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import ClassVar, Self, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder, memory_from
from omniform.architectures.encoder import TextWriter
from omniform.architectures.generative import Generative
from omniform.architectures.labels import IGNORED, Classes, Targets
from omniform.architectures.losses import Items, contrastive_loss, next_token_loss, scored
from omniform.architectures.model import Model
from omniform.architectures.stack import Stepped
from omniform.architectures.vision import VisionEncoder
from omniform.core.context import Mask, Memory, StepContext, Tapped
from omniform.core.errors import InputError, brief
from omniform.core.outputs import BaseModelOutput, CausalLMOutput, DualEncoderOutput, ModelOutput
from omniform.core.picture_outputs import PictureMatchOutput, PictureTextOutput
from omniform.core.rules import Rule, both_ways

_FIELDS = tuple(f.name for f in fields(StepContext) if f.name != "_memo")


class BothWays(StepContext):
    """A step in which tokens see those that follow them too, whatever the rules of the layers say."""

    @classmethod
    def of(cls, ctx: StepContext) -> Self:
        """The same step otherwise."""
        return cls(**{name: getattr(ctx, name) for name in _FIELDS})

    def mask(self, rule: Rule, queries: int, device: torch.device) -> Mask:
        return StepContext.mask(self, both_ways(rule), queries, device)


class LookingText(TextDecoder):
    """A text that looks at pictures. It reads both ways, unless a call says that it is to write.

    It looks at all that it is given: a mask of it has never been read, and the published weights were used without.

    Args:
        memory_dim: width of what it looks at.
    """

    memory_dim: int

    @property
    def memory_width(self) -> int:
        return self.memory_dim

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *more: Tensor | None,
        is_decoder: bool | None = None,
        **given: Unpack[Stepped],
    ) -> BaseModelOutput:
        """Hidden states of a padded batch; see :meth:`TextDecoder.forward` for the inputs.

        Args:
            is_decoder: read from left to right, and keep state where asked to; else both ways, in one step.
        """
        given["encoder_attention_mask"] = None
        if is_decoder:
            return super().forward(input_ids, attention_mask, *more, **given)
        self.named(more, given)
        embeds = self.vectors(input_ids, given)
        texts = self.texts(embeds, given, attention_mask)
        places = self.begun_anew(self.places(input_ids, embeds, given, attention_mask), texts, given)
        ctx = self.step(embeds, given, attention_mask=attention_mask, position_ids=places, texts=texts)
        states = given.get("encoder_hidden_states")
        memory = memory_from(states, None, dim=self.memory_width, readable=self.reads_memory)
        return self.outputs(embeds, BothWays.of(ctx.with_(memory=memory)), input_ids)


class LookingWriter(TextWriter):
    """One that writes.

    Args:
        smoothing: what part of each label is spread over all tokens in the loss.
    """

    SHIFT: ClassVar[int | None] = None  # a smoothed loss reads all scores

    model: LookingText
    smoothing: float = 0.0

    def loss(self, logits_BTV: Tensor, labels_BT: Tensor, items: Items) -> Tensor:
        return next_token_loss(logits_BTV, labels_BT, items, smoothing=self.smoothing)

    def forward(self, *args: Tensor | None, is_decoder: bool | None = True, **inputs: object) -> CausalLMOutput:  # type: ignore[override]
        """Next-token scores; see :meth:`WritingHead.forward`, and :meth:`LookingText.forward` for ``is_decoder``."""
        return super().forward(*args, is_decoder=is_decoder, **inputs)  # type: ignore[arg-type]


class PictureTextPair(Model):
    """Pictures and texts in one space, each encoded for itself; or a text that looks at its picture.

    Args:
        start: what the logarithm of the factor on similarities starts from.
    """

    vision_model: VisionEncoder
    text_model: LookingText
    visual_projection: nn.Linear
    text_projection: nn.Linear
    start: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.logit_scale = nn.Parameter(torch.tensor(self.start))

    def reset(self, std: float) -> None:
        """Start the factor from the config's value."""
        nn.init.constant_(self.logit_scale, self.start)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.embed_tokens

    def get_image_features(self, pixel_values: Tensor, **inputs: object) -> BaseModelOutput:
        """The vision encoder's output, its ``pooler_output`` projected. Shape: [B, E]."""
        out = cast(BaseModelOutput, self.vision_model(pixel_values, **inputs))
        out.pooler_output = self.visual_projection(out.pooler_output)
        return out

    def get_text_features(self, input_ids: Tensor, **inputs: object) -> BaseModelOutput:
        """The text's output, its ``pooler_output`` projected. Shape: [B, E]."""
        out = cast(BaseModelOutput, self.text_model(input_ids, **inputs))
        out.pooler_output = self.text_projection(out.pooler_output)
        return out

    def get_multimodal_features(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Tensor:
        """Texts that look at their pictures, one vector each. Shape: [B, E]."""
        seen = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        image = cast(BaseModelOutput, seen).last_hidden_state
        read = self.text_model(input_ids, attention_mask=attention_mask, encoder_hidden_states=image)
        projected: Tensor = self.text_projection(cast(BaseModelOutput, read).pooler_output)
        return projected

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
        """Similarities of every picture with every text; see :meth:`DualEncoder.forward` for the inputs.

        The encoders' own outputs are told as they are, not projected.
        """
        if input_ids is None or pixel_values is None:
            lacking = "input_ids" if input_ids is None else "pixel_values"
            raise InputError("pictures are compared with texts: both are needed", where=lacking, found="None")
        image = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **given)
        text = self.text_model(input_ids, attention_mask=attention_mask, position_ids=position_ids, **given)
        image, text = cast(BaseModelOutput, image), cast(BaseModelOutput, text)
        image_embeds = F.normalize(self.visual_projection(image.pooler_output), dim=-1)
        text_embeds = F.normalize(self.text_projection(text.pooler_output), dim=-1)
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


class PictureReader(Generative):
    """Base of what writes about pictures.

    Args:
        start: the token that a text begins with.
        end: the token that ends it.
        pad: fills rows that ended before others.
    """

    main_input = "pixel_values"

    vision_model: VisionEncoder
    text_decoder: LookingWriter
    start: int | None
    end: int | None
    pad: int | None

    @property
    def decoder(self) -> LookingText:
        return self.text_decoder.model

    @property
    def start_token_id(self) -> int | None:
        return self.start

    @property
    def fixed_settings(self) -> Mapping[str, object]:
        return {"eos_token_id": self.end, "pad_token_id": self.pad}

    @property
    def shows_encoder(self) -> bool:
        return False

    def get_output_embeddings(self) -> nn.Module | None:
        return self.text_decoder.get_output_embeddings()

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.vocabulary)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        return scored(labels[..., 1:]) if isinstance(labels, Tensor) else None

    def project(self, hidden: Tensor) -> Tensor:
        return self.text_decoder.project(hidden)

    def read_inputs(self, named: Mapping[str, object]) -> dict[str, object]:
        found = dict(named)
        pictures = found.get("pixel_values")
        if isinstance(pictures, Tensor) and not found.pop("interpolate_pos_encoding", None):
            self.vision_model.patches.check(pictures)
        return found

    def seen(self, pixel_values: Tensor) -> Tensor:
        """The hidden states of pictures of any size. Shape: [B, channels, height, width] to [B, S, D]."""
        out = self.vision_model(pixel_values, interpolate_pos_encoding=True)
        return cast(BaseModelOutput, out).last_hidden_state

    def replayed(self, **inputs: object) -> ModelOutput:
        asked = {name: inputs.pop(name) for name in ("output_hidden_states", "output_attentions") if name in inputs}
        rows, mask = (inputs.pop(name, None) for name in ("decoder_input_ids", "decoder_attention_mask"))
        inputs.pop("use_cache", None)
        memory = self.encode(**cast("Mapping[str, Tensor]", inputs))
        assert memory is not None
        out = self.text_decoder(
            rows, attention_mask=mask, encoder_hidden_states=memory.hidden, use_cache=False, **asked
        )
        cast(CausalLMOutput, out).cross_attentions = None
        return out


class Captioner(PictureReader):
    """Writes what a picture shows, from nothing or on from a text."""

    encoder_inputs = frozenset({"pixel_values"})

    def get_input_embeddings(self) -> nn.Module:
        return self.text_decoder.get_input_embeddings()

    def read_inputs(self, named: Mapping[str, object]) -> dict[str, object]:
        """A text's first token is the one that all begin with, and its last one, which ended it, is left out."""
        found = super().read_inputs(named)
        ids, mask = found.pop("input_ids", None), found.pop("attention_mask", None)
        if ids is None:
            return found
        if isinstance(ids, Tensor) and ids.dim() == 2:
            opened = ids.clone()
            opened[:, 0] = cast(int, self.start)
            found["decoder_input_ids"] = opened[:, :-1] if ids.shape[1] > 1 else opened
            if isinstance(mask, Tensor):
                found["decoder_attention_mask"] = mask[:, : opened.shape[1] - 1] if ids.shape[1] > 1 else mask
            return found
        if not isinstance(ids, (list, tuple)) or not all(isinstance(row, (list, tuple)) and row for row in ids):
            raise InputError("prompts are rows of token ids", where="input_ids", found=brief(ids))
        found["decoder_input_ids"] = [[self.start, *row[1 : max(1, len(row) - 1)]] for row in ids]
        return found

    def encode(self, **inputs: Tensor) -> Memory:
        return Memory(self.seen(inputs["pixel_values"]))

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        logits_to_keep: Tensor | int = 0,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **given: Unpack[Stepped],
    ) -> PictureTextOutput:
        """Next-token scores of texts about pictures.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens.
            labels: Shape: [B, T], the tokens themselves (they are shifted here), ``-100`` to leave out.
            interpolate_pos_encoding: take pictures of another size than the model's own.
            logits_to_keep: see :meth:`WritingHead.scores`.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
            given: of the text; see :class:`~omniform.architectures.stack.Stepped`. Hidden states and attentions that
                are asked for are the pictures'.
        """
        tapped: Tapped = {
            "output_hidden_states": given.pop("output_hidden_states", None),
            "output_attentions": given.pop("output_attentions", None),
        }
        seen = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **tapped)
        image = cast(BaseModelOutput, seen)
        given["encoder_hidden_states"] = image.last_hidden_state
        out = self.text_decoder(
            input_ids,
            attention_mask=attention_mask,
            labels=labels,
            logits_to_keep=logits_to_keep,
            num_items_in_batch=num_items_in_batch,
            **given,
        )
        written = cast(CausalLMOutput, out)
        return PictureTextOutput(
            loss=written.loss,
            logits=written.logits,
            image_embeds=image.last_hidden_state,
            last_hidden_state=image.last_hidden_state,
            **image.noted(),
        )


class PictureAnswerer(PictureReader):
    """Writes the answer to a question about a picture: a text reads the question, looking at the picture, another one
    writes, looking at the question.

    Args:
        text_encoder: reads questions.
    """

    encoder_inputs = frozenset({"input_ids", "pixel_values", "question_mask"})

    text_encoder: LookingText

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.embed_tokens

    def token_tables(self) -> list[nn.Embedding]:
        return [self.text_encoder.embed_tokens, self.decoder.embed_tokens]

    def read_inputs(self, named: Mapping[str, object]) -> dict[str, object]:
        """A question's padding is not looked at while it is read, and answers look at all of what was read then."""
        found = super().read_inputs(named)
        ids, mask = found.get("input_ids"), found.pop("attention_mask", None)
        if isinstance(ids, (list, tuple)):
            try:
                found["input_ids"] = torch.tensor(ids)
            except (TypeError, ValueError, RuntimeError):
                raise InputError("questions are rows of one length", where="input_ids", found=brief(ids)) from None
        if mask is not None:
            found["question_mask"] = mask
        if ids is None or found.get("pixel_values") is None:
            lacking = "input_ids" if ids is None else "pixel_values"
            raise InputError("a question is asked about a picture: both are needed", where=lacking, found="None")
        return found

    def encode(self, **inputs: Tensor) -> Memory:
        out = self.text_encoder(
            inputs["input_ids"],
            attention_mask=inputs.get("question_mask"),
            encoder_hidden_states=self.seen(inputs["pixel_values"]),
        )
        return Memory(cast(BaseModelOutput, out).last_hidden_state)

    def arrive(self, inputs: dict[str, object]) -> None:
        if inputs.get("labels") is None and inputs.get("decoder_input_ids") is None:
            raise InputError(
                "the answer needs a beginning",
                where="decoder_input_ids",
                expected="decoder_input_ids or labels",
                found="neither",
                remedy="To have it written, call generate.",
            )

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **given: Unpack[Tapped],
    ) -> PictureTextOutput:
        """The loss of answers, and the pictures' hidden states.

        Args:
            input_ids: of the questions. Shape: [B, T].
            pixel_values: Shape: [B, channels, height, width].
            decoder_input_ids: of the answers; the labels by default. Shape: [B, A].
            decoder_attention_mask: Shape: [B, A], 1 for real tokens.
            attention_mask: of the questions. Shape: [B, T].
            labels: Shape: [B, A], the answers themselves (they are shifted here), ``-100`` to leave out.
            interpolate_pos_encoding: take pictures of another size than the model's own.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
            given: see :class:`~omniform.core.context.Tapped`; of the pictures.
        """
        seen = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **given)
        image = cast(BaseModelOutput, seen)
        question = self.text_encoder(
            input_ids, attention_mask=attention_mask, encoder_hidden_states=image.last_hidden_state
        )
        if labels is not None and decoder_input_ids is None:
            decoder_input_ids = labels.masked_fill(labels == IGNORED, 0 if self.pad is None else self.pad)
        out = self.text_decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=cast(BaseModelOutput, question).last_hidden_state,
            labels=labels,
            num_items_in_batch=num_items_in_batch,
            use_cache=False,
        )
        return PictureTextOutput(
            loss=cast(CausalLMOutput, out).loss,
            image_embeds=image.last_hidden_state,
            last_hidden_state=image.last_hidden_state,
            **image.noted(),
        )


class PictureMatcher(Model):
    """Whether texts belong to pictures: told by a text that looks at its picture, or by two vectors.

    Args:
        text_encoder: reads texts.
        vision_proj: a picture's first hidden state into the shared space.
        text_proj: a text's likewise.
        itm_head: the hidden state of a text that has looked, to scores of "no" and "yes".
    """

    vision_model: VisionEncoder
    text_encoder: LookingText
    vision_proj: nn.Linear
    text_proj: nn.Linear
    itm_head: nn.Linear

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.embed_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        use_itm_head: bool | None = True,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **given: Unpack[Tapped],
    ) -> PictureMatchOutput:
        """Scores of texts and pictures.

        Args:
            input_ids: Shape: [B, T].
            pixel_values: Shape: [B, channels, height, width].
            use_itm_head: whether to tell of each pair if it matches; else similarities of every picture with every
                text.
            attention_mask: Shape: [B, T], 1 for real tokens.
            interpolate_pos_encoding: take pictures of another size than the model's own.
            given: see :class:`~omniform.core.context.Tapped`; of the pictures.
        """
        seen = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **given)
        image = cast(BaseModelOutput, seen)
        looked = image.last_hidden_state if use_itm_head else None
        read = self.text_encoder(input_ids, attention_mask=attention_mask, encoder_hidden_states=looked)
        text = cast(BaseModelOutput, read).last_hidden_state
        if use_itm_head:
            score = self.itm_head(text[:, 0])
        else:
            pictures = F.normalize(self.vision_proj(image.last_hidden_state[:, 0]), dim=-1)
            score = pictures @ F.normalize(self.text_proj(text[:, 0]), dim=-1).t()
        return PictureMatchOutput(
            itm_score=score, last_hidden_state=image.last_hidden_state, **image.noted(), question_embeds=text
        )
