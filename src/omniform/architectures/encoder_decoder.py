"""Encoder-decoders: an encoder reads text or sound, its output is the memory that a decoder writes from.

The decoder is a :class:`~omniform.architectures.decoder.TextDecoder`, its layers with cross-attention. What reads is
any :class:`MemoryEncoder`; for text it is :class:`ReadingEncoder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import CausalLM, TextDecoder
from omniform.architectures.generative import Generative
from omniform.architectures.labels import IGNORED, Classes, Targets
from omniform.architectures.lean import LossOnly, loss_at, places_of
from omniform.architectures.losses import Items, scored, token_loss
from omniform.architectures.model import Model
from omniform.architectures.packing import NAMES, refuse_packed
from omniform.architectures.stack import Encoded, TextEncoder
from omniform.architectures.unpadded import leave_out_padding
from omniform.blocks.embeddings import check_ids, table_rows
from omniform.core.context import Memory, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.host import is_all_true
from omniform.core.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    HeardOutput,
    ModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from omniform.core.state import DenseState

EncoderOutputs = ModelOutput | Sequence[object]
"""What an encoder gave in an earlier call: its output, or the same as a tuple."""


OF_THE_CALL = {"output_hidden_states", "output_attentions", "first_only", "row_lengths"}
"""Inputs of an encoder that say what is wanted of a call, and not what is read."""


class MemoryEncoder(Model, ABC):
    """Base of the encoders whose output a decoder reads; ``forward`` returns a :class:`BaseModelOutput`."""

    @abstractmethod
    def memory(self, hidden: Tensor, attention_mask: Tensor | None) -> Memory:
        """What cross-attention may see of this encoder's output.

        Args:
            hidden: the encoder's last hidden state. Shape: [B, S, D].
            attention_mask: the mask of the encoder's inputs.
        """

    def memory_of(self, out: BaseModelOutput, attention_mask: Tensor | None) -> Memory:
        """The same of all that this encoder gave, which may know better than a mask of its inputs."""
        return self.memory(out.last_hidden_state, attention_mask)

    def encode(self, **inputs: Tensor) -> Memory:
        """The memory of one request, from the encoder's inputs."""
        return self.memory_of(cast(BaseModelOutput, self(**inputs)), inputs.get("attention_mask"))


class ReadingEncoder(TextEncoder, MemoryEncoder):
    """An encoder of text whose output a decoder reads."""

    def accepts(self) -> frozenset[str]:
        return super().accepts() - ({"position_ids"} if self.embeddings.positions is None else frozenset())

    def memory(self, hidden: Tensor, attention_mask: Tensor | None) -> Memory:
        if attention_mask is None:
            return Memory(hidden)
        problem = "the mask does not cover the encoder's output"
        check_shape(problem, attention_mask.shape, hidden.shape[:2], where="attention_mask")
        return Memory(hidden, attention_mask.bool())


class EncoderDecoder(Model):
    """An encoder and the decoder that reads its output, without a head.

    Args:
        encoder: reads the inputs.
        decoder: reads the encoder's output, and what comes before each token.
        reread: where a caller gives the decoder nothing, it reads the encoder's text, shifted by this; None to refuse.
    """

    encoder: MemoryEncoder
    decoder: TextDecoder
    reread: RightShift | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.main_input = self.encoder.main_input

    def keeper(self) -> TextDecoder:
        return self.decoder

    def accepts(self) -> frozenset[str]:
        return super().accepts() | self.encoder.accepts() - NAMES

    def unpads(self) -> bool:
        return self.encoder.unpads()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed_tokens

    def forward(
        self,
        features: Tensor | None = None,
        /,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        past_key_values: DenseState | None = None,
        *,
        decoder_inputs_embeds: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **inputs: object,
    ) -> Seq2SeqModelOutput:
        """The decoder's hidden states for a padded batch, and the encoder's.

        Args:
            features: the encoder's main input, by position; by keyword it goes by the encoder's name for it.
            attention_mask: of the encoder's inputs. Shape: [B, S], 1 for real tokens.
            decoder_input_ids: Shape: [B, T].
            decoder_attention_mask: Shape: [B, past + T], 1 for real tokens.
            encoder_outputs: of an earlier call, instead of the encoder's inputs.
            past_key_values: state of an earlier call to continue from; it is extended in place.
            decoder_inputs_embeds: Shape: [B, T, D], instead of ``decoder_input_ids``.
            decoder_position_ids: Shape: [B, T]; 0, 1, 2... after ``past_key_values`` by default.
            use_cache: whether to return state; by default in evaluation mode only.
            inputs: the encoder's other inputs.

        Raises:
            InputError: ids outside the vocabulary, too long a row, inputs that do not fit.
        """
        if features is not None:
            inputs[self.main_input] = features
        asked: Tapped = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        if encoder_outputs is not None:
            encoded = encoder_output(encoder_outputs)
        else:
            encoded = cast(BaseModelOutput, self.encoder(attention_mask=attention_mask, **asked, **inputs))
        if self.reread is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.reread(cast(Tensor, inputs[self.main_input]))
        given: Encoded = {"inputs_embeds": decoder_inputs_embeds, "position_ids": decoder_position_ids}
        embeds = self.decoder.vectors(decoder_input_ids, given)
        state = self.decoder.state_for(past_key_values, use_cache)
        past = 0 if state is None else state.length
        ctx = self.decoder.step(
            embeds,
            asked,
            attention_mask=decoder_attention_mask,
            position_ids=self.decoder.places(decoder_input_ids, embeds, given, decoder_attention_mask, past),
            state=state,
        )
        memory = self.encoder.memory_of(encoded, attention_mask)
        check_rows(memory.hidden, embeds)
        out = self.decoder.outputs(embeds, ctx.with_(memory=memory))
        return _both(encoded, out)

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, embeds = inputs.get("decoder_input_ids"), inputs.get("decoder_inputs_embeds")
        mask, read = inputs.get("attention_mask"), inputs.get(self.main_input, inputs.get("features"))
        if ids is None and embeds is None and self.reread is not None and read is not None:
            check_ids(cast(Tensor, read), table_rows(self.decoder.embed_tokens))
            ids = inputs["decoder_input_ids"] = self.reread(cast(Tensor, read))
        if (ids is None) == (embeds is None):
            raise InputError(
                "the decoder needs a beginning",
                where="decoder_input_ids",
                expected="exactly one of decoder_input_ids and decoder_inputs_embeds",
                found="neither" if ids is None else "both",
            )
        if ids is not None:
            check_ids(cast(Tensor, ids), table_rows(self.decoder.embed_tokens), "decoder_input_ids")
        names = {"decoder_attention_mask": "attention_mask", "decoder_position_ids": "position_ids"}
        own = {names.get(n, n.removeprefix("decoder_")): v for n, v in inputs.items() if n.startswith("decoder_")}
        own["past_key_values"] = inputs.get("past_key_values")
        self.decoder.arrive(own)
        refuse_packed(own, "decoder_position_ids")
        if "attention_mask" in own:
            inputs["decoder_attention_mask"] = own["attention_mask"]
        if isinstance(mask, Tensor) and isinstance(read, Tensor) and mask.shape == read.shape[:2] and is_all_true(mask):
            inputs["attention_mask"] = None


def encoder_output(given: EncoderOutputs) -> BaseModelOutput:
    """An encoder's output, from whatever a caller hands over as ``encoder_outputs``."""
    entries = given.to_tuple() if isinstance(given, ModelOutput) else _entries(given)
    if not entries or not isinstance(entries[0], Tensor) or entries[0].dim() != 3:
        raise InputError(
            "this is no encoder's output",
            where="encoder_outputs",
            expected="hidden states of shape [batch, tokens, width] first",
            found=type(given).__name__,
        )
    if isinstance(given, BaseModelOutput):
        return given
    layers = [entry for entry in entries[1:] if not isinstance(entry, Tensor)]
    rest = cast("list[tuple[Tensor, ...] | None]", [*layers[:2], None, None])
    seen: BaseModelOutput = BaseModelOutput(last_hidden_state=entries[0], hidden_states=rest[0], attentions=rest[1])
    mask = given.get("attention_mask") if isinstance(given, Mapping) else None
    return seen if mask is None else HeardOutput(**seen.noted(), last_hidden_state=entries[0], attention_mask=mask)


def _entries(given: object) -> tuple[object, ...]:
    # Outputs of other libraries are mappings in order.
    if isinstance(given, Mapping):
        return tuple(given.values())
    return tuple(given) if isinstance(given, (tuple, list)) else ()


def _both(encoded: BaseModelOutput, out: BaseModelOutput) -> Seq2SeqModelOutput:
    """What an encoder gave, and the decoder that read it."""
    return Seq2SeqModelOutput(
        last_hidden_state=out.last_hidden_state,
        past_key_values=out.past_key_values,
        decoder_hidden_states=out.hidden_states,
        decoder_attentions=out.attentions,
        cross_attentions=out.cross_attentions,
        encoder_last_hidden_state=encoded.last_hidden_state,
        encoder_hidden_states=encoded.hidden_states,
        encoder_attentions=encoded.attentions,
    )


def check_rows(memory: Tensor, embeds: Tensor) -> None:
    """Raise :class:`InputError` unless a decoder has as many rows as its memory."""
    if memory.shape[0] != embeds.shape[0]:
        raise InputError(
            "encoder and decoder have different numbers of rows",
            where="decoder_input_ids",
            expected=f"{memory.shape[0]} rows, as the encoder's",
            found=f"{embeds.shape[0]} rows",
        )


def no_token(name: str) -> InputError:
    """The error of labels that need a token which the config does not name.

    Args:
        name: its key in the config.
    """
    return InputError(
        "labels cannot be turned into the decoder's inputs",
        where=f"config.json: {name}",
        expected="a token id",
        found="null",
        remedy=f"Load with {name}=..., or pass decoder_input_ids.",
    )


@dataclass(frozen=True, slots=True)
class RightShift:
    """What a decoder reads to write given labels: the start token, then all labels but the last.

    Attributes:
        start: the token that an answer begins with.
        pad: what stands in for labels that are left out (``-100``).
    """

    start: int | None
    pad: int | None

    def __call__(self, labels_BT: Tensor) -> Tensor:
        """Shape: [B, T] in and out."""
        for name, token in (("decoder_start_token_id", self.start), ("pad_token_id", self.pad)):
            if token is None:
                raise no_token(name)
        assert self.start is not None and self.pad is not None
        shifted = F.pad(labels_BT[:, :-1], (1, 0), value=self.start)
        return shifted.masked_fill(shifted == IGNORED, self.pad)


class Seq2SeqLM(Generative):
    """An encoder-decoder and its projection onto the vocabulary.

    Args:
        model: the encoder-decoder.
        lm_head: hidden states to scores of tokens.
        shift: makes the decoder's inputs of labels.
        scale: factor on the hidden states before ``lm_head``.
        adjust: what is done to the scores (a bias); None for nothing.
    """

    model: EncoderDecoder
    lm_head: nn.Linear
    shift: RightShift
    scale: float = 1.0
    adjust: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.main_input = self.model.main_input
        self.encoder_inputs = self.model.encoder.accepts() - NAMES - OF_THE_CALL

    @property
    def decoder(self) -> TextDecoder:
        return self.model.decoder

    @property
    def start_token_id(self) -> int | None:
        if self.shift.start is not None or self._origin is None:
            return self.shift.start
        return self.config.common.bos_token_id  # as the ecosystem: an mBART that is not fine-tuned to one language

    def stand(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        return self.decoder.embeddings.stand(input_ids, positions)

    def encode(self, **inputs: Tensor) -> Memory:
        if "encoder_outputs" in inputs:
            return self.model.encoder.memory(inputs["encoder_outputs"], inputs.get("attention_mask"))
        return self.model.encoder.encode(**inputs)

    def arrive(self, inputs: dict[str, object]) -> None:
        labels, limit = inputs.get("labels"), self.max_positions
        if isinstance(labels, Tensor) and limit is not None and labels.shape[-1] > limit:
            raise InputError(
                "the answer is longer than the decoder's positions",
                where="labels",
                expected=f"at most {limit} tokens",
                found=f"{labels.shape[-1]} tokens",
            )

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.lm_head.out_features)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads to write given labels, as :meth:`forward` makes it; collators ask for it.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out.
        """
        return self.shift(labels)

    def project(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.lm_head(hidden if self.scale == 1.0 else hidden * self.scale)
        return scores if self.adjust is None else self.adjust(scores)

    def forward(
        self,
        features: Tensor | None = None,
        /,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        loss_only: LossOnly | bool | None = None,
        **inputs: object,
    ) -> Seq2SeqLMOutput:
        """Next-token scores; see :meth:`EncoderDecoder.forward` for the inputs.

        Args:
            labels: Shape: [B, T], the answer, ``-100`` to leave out; the decoder's inputs are made of them.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
            loss_only: that nobody looks at the scores.
        """
        if labels is not None and decoder_input_ids is None and inputs.get("decoder_inputs_embeds") is None:
            decoder_input_ids = self.shift(labels)
        if features is not None:
            inputs[self.main_input] = features
        # All by name: a model may read its main input by another place than an encoder-decoder does.
        out = self.model(attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, **inputs)
        out = cast(Seq2SeqModelOutput, out)
        loss = logits = None
        if labels is not None and isinstance(loss_only, LossOnly):
            loss = self.lean_loss(out.last_hidden_state, labels, loss_only, num_items_in_batch)
        else:
            logits = self.project(out.last_hidden_state)
            loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            **out.noted(),
        )

    def lean_loss(self, hidden: Tensor, labels: Tensor, lean: LossOnly, items: Items) -> Tensor:
        """The same loss of the places that have labels alone. Shape: [B, T, D] and [B, T] to []."""
        hidden = hidden if self.scale == 1.0 else hidden * self.scale
        return loss_at(hidden, labels, lean.places, self.lm_head, self.adjust, items)

    def lighten(self, inputs: dict[str, object]) -> None:
        leave_out_padding(self, inputs)
        if inputs.get("labels") is not None:
            inputs["loss_only"] = LossOnly(places_of(inputs["labels"], 0))


class MemoryCausalLM(CausalLM):
    """The decoder of an encoder-decoder with its projection, alone: another model's encoder supplies the memory."""

    SHIFT = 0

    def loss(self, logits_BTV: Tensor, labels_BT: Tensor, items: Items) -> Tensor:
        return token_loss(logits_BTV, labels_BT, items)

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | Tensor | None = None,
        **inputs: object,
    ) -> CausalLMOutput:
        """Next-token scores; see :meth:`WritingHead.forward`, but ``labels`` are each token's next, *not* shifted here.

        Args:
            encoder_outputs: what an encoder gave, or its last hidden state. Shape: [B, S, D]. Without it there is no
                cross-attention.
        """
        if encoder_outputs is not None:
            found = (encoder_outputs,) if isinstance(encoder_outputs, Tensor) else encoder_outputs
            inputs["encoder_hidden_states"] = encoder_output(found).last_hidden_state
        return super().forward(input_ids, attention_mask, **inputs)  # type: ignore[arg-type]
