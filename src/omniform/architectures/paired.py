"""Encoder-decoders of two models, each of any family: an encoder that hears, and a language model that reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self, cast

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder, WritingHead
from omniform.architectures.encoder_decoder import (
    OF_THE_CALL,
    EncoderOutputs,
    MemoryEncoder,
    RightShift,
    check_rows,
    encoder_output,
)
from omniform.architectures.generative import Generative
from omniform.architectures.labels import Classes, Targets
from omniform.architectures.losses import scored, token_loss
from omniform.architectures.model import Model
from omniform.architectures.packing import NAMES
from omniform.architectures.stages import PageEncoder
from omniform.architectures.vision import VisionEncoder
from omniform.architectures.waves import WaveModel
from omniform.core.config import ModelConfig
from omniform.core.context import Memory, Tapped
from omniform.core.errors import InputError, MissingPartError, check_arguments
from omniform.core.outputs import BaseModelOutput, CausalLMOutput, Seq2SeqLMOutput
from omniform.core.state import DenseState
from omniform.core.upstairs import upstairs

if TYPE_CHECKING:
    from omniform.architectures.named import PreTrainedModel

SIDE = "decoder_"
"""What the names of the decoder's inputs begin with."""


def as_decoder(config: ModelConfig) -> ModelConfig:
    """The config of a model that writes and looks at an encoder."""
    return config.replace(is_decoder=True, add_cross_attention=True)


class PairedWriter(Generative):
    """A language model that writes what an encoder has heard.

    Args:
        encoder: reads sounds.
        writer: reads what the encoder gives, by cross-attention, and writes.
        enc_to_dec_proj: the encoder's hidden states to the writer's width; None where they are as wide.
        shift: makes the writer's inputs of labels.
    """

    encoder: Model
    writer: WritingHead
    enc_to_dec_proj: nn.Linear | None
    shift: RightShift

    def __post_init__(self) -> None:
        super().__post_init__()
        self.main_input = self.encoder.main_input
        self.encoder_inputs = self.encoder.accepts() - NAMES - OF_THE_CALL

    @classmethod
    def around(cls, config: ModelConfig | None, parts: Mapping[str, Model]) -> ModelConfig:
        check_arguments(cls.__name__, parts, ("encoder", "decoder"))
        encoder, decoder = parts.get("encoder"), parts.get("decoder")
        if encoder is None or decoder is None:
            raise InputError(
                "a pair is made of a config, or of two models",
                where=cls.__name__,
                expected="config, or encoder and decoder",
                found=", ".join(sorted(parts)) or "none",
            )
        if encoder.get_output_embeddings() is not None:
            raise InputError(
                "the encoder must be a model without a head", where="encoder", found=type(encoder).__name__
            )
        both = {"encoder": encoder.config, "decoder": as_decoder(decoder.config)}
        named = cast("type[PreTrainedModel]", cls)
        return named.config_class(**both) if config is None else config.replace(**both)

    def take_in(self, parts: Mapping[str, Model]) -> None:
        if parts:
            self._modules.update(encoder=parts["encoder"], writer=parts["decoder"])

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        decoder_pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        **kwargs: object,
    ) -> Self:
        """A pair of two checkpoints; see :func:`omniform.hub.pairing.load_both`.

        Args:
            kwargs: those that begin with ``encoder_`` or ``decoder_`` are for loading that one (``encoder_model`` is
                one that is there already); the others change the config of both.
        """
        names = encoder_pretrained_model_name_or_path, decoder_pretrained_model_name_or_path
        return cast(Self, upstairs("hub.pairing:load_both")(cls, *names, **kwargs))

    def accepts(self) -> frozenset[str]:
        own = self.writer.accepts() & {"position_ids", "token_type_ids"}
        return super().accepts() | self.encoder_inputs | {SIDE + name for name in own}

    @property
    def decoder(self) -> TextDecoder:
        stack = self.writer.decoder
        assert isinstance(stack, TextDecoder), "whoever builds it sees to that"
        return stack

    @property
    def start_token_id(self) -> int | None:
        if self.shift.start is not None or self._origin is None:
            return self.shift.start
        return self.config.common.bos_token_id

    def get_input_embeddings(self) -> nn.Module:
        return self.writer.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.writer.get_output_embeddings()

    def freeze_feature_encoder(self) -> None:
        """Keep the encoder's convolutions out of training.

        Raises:
            MissingPartError: it has none.
        """
        if not isinstance(self.encoder, WaveModel):
            raise MissingPartError(f"{type(self.encoder).__name__} has no convolutions over samples")
        self.encoder.freeze_feature_encoder()

    def stand(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        return self.writer.stand(input_ids, positions)

    def project(self, hidden: Tensor) -> Tensor:
        return self.writer.project(hidden)

    def encode(self, **inputs: Tensor) -> Memory:
        if "encoder_outputs" in inputs:
            return self.heard(BaseModelOutput(inputs["encoder_outputs"]), inputs.get("attention_mask"))
        return self.heard(cast(BaseModelOutput, self.encoder(**inputs)), inputs.get("attention_mask"))

    def heard(self, out: BaseModelOutput, attention_mask: Tensor | None) -> Memory:
        """What the writer reads of what the encoder gave.

        Args:
            attention_mask: of the encoder's inputs.

        Raises:
            InputError: a mask, of an encoder that cannot say which of its hidden states are masked.
        """
        hidden = out.last_hidden_state
        padding = None
        if isinstance(self.encoder, MemoryEncoder):
            padding = self.encoder.memory_of(out, attention_mask).padding
        elif attention_mask is not None:
            raise InputError(
                "this encoder does not say which of its hidden states are masked",
                where="attention_mask",
                remedy="Pass no mask, or encoder_outputs.",
            )
        return Memory(hidden if self.enc_to_dec_proj is None else self.enc_to_dec_proj(hidden), padding)

    def last_of(self, encoded: BaseModelOutput, memory: Memory) -> Tensor:
        """Which hidden states an output tells as the encoder's last: those that the writer looks at."""
        return memory.hidden

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.vocabulary)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the writer reads to write given labels. Shape: [B, T] in and out."""
        return self.shift(labels)

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, embeds = inputs.get("decoder_input_ids"), inputs.get("decoder_inputs_embeds")
        given = [one for one in (ids, embeds) if one is not None]
        if len(given) > 1 or (not given and inputs.get("labels") is None):
            raise InputError(
                "the decoder needs a beginning",
                where="decoder_input_ids",
                expected="one of decoder_input_ids, decoder_inputs_embeds and labels",
                found="both" if given else "none",
            )

    def forward(
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        past_key_values: DenseState | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **given: object,
    ) -> Seq2SeqLMOutput:
        """Next-token scores.

        Args:
            inputs: the encoder's main input, which may go by the encoder's name for it.
            attention_mask: of the encoder's inputs. Shape: [B, S], 1 for real ones.
            decoder_input_ids: Shape: [B, T].
            decoder_attention_mask: Shape: [B, past + T], 1 for real tokens.
            encoder_outputs: of an earlier call, instead of the encoder's inputs.
            past_key_values: state of an earlier call to continue from; it is extended in place.
            decoder_inputs_embeds: Shape: [B, T, D], instead of ``decoder_input_ids``.
            labels: Shape: [B, T], the answer, ``-100`` to leave out; the decoder's inputs are made of them.
            use_cache: whether to return state; by default in evaluation mode only.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
            given: other inputs of the encoder, and of the decoder, whose names begin with ``decoder_``.

        Raises:
            InputError: no sounds, no beginning, ids outside the vocabulary, inputs that do not fit.
        """
        asked: Tapped = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        its = {name.removeprefix(SIDE): value for name, value in given.items() if name.startswith(SIDE)}
        if encoder_outputs is not None:
            encoded = encoder_output(encoder_outputs)
        else:
            read = {name: value for name, value in given.items() if not name.startswith(SIDE)}
            if inputs is not None:
                read[self.main_input] = inputs
            if attention_mask is not None:
                read["attention_mask"] = attention_mask
            encoded = cast(BaseModelOutput, self.encoder(**asked, **read))
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.shift(labels)
        memory = self.heard(encoded, attention_mask)
        begun = decoder_inputs_embeds if decoder_input_ids is None else decoder_input_ids
        if begun is not None:
            check_rows(memory.hidden, begun)
        out = self.writer(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=memory.hidden,
            encoder_attention_mask=memory.padding,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **asked,
            **its,
        )
        written = cast(CausalLMOutput, out)
        assert written.logits is not None
        return Seq2SeqLMOutput(
            loss=None if labels is None else token_loss(written.logits, labels, num_items_in_batch),
            logits=written.logits,
            past_key_values=written.past_key_values,
            decoder_hidden_states=written.hidden_states,
            decoder_attentions=written.attentions,
            cross_attentions=written.cross_attentions,
            encoder_last_hidden_state=self.last_of(encoded, memory),
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


class PictureWriter(PairedWriter):
    """A language model that writes what an encoder has seen."""

    def last_of(self, encoded: BaseModelOutput, memory: Memory) -> Tensor:
        return encoded.last_hidden_state

    def read_inputs(self, named: Mapping[str, object]) -> dict[str, object]:
        """Pictures of any size are read where the call says so; a switch is none of the engine's inputs."""
        found = dict(named)
        anyhow = found.pop("interpolate_pos_encoding", None)
        pictures = found.get(self.main_input)
        if isinstance(self.encoder, VisionEncoder) and isinstance(pictures, Tensor) and not anyhow:
            self.encoder.patches.check(pictures, self.encoder.ANY_SIZE)
        return found

    def opened(self, beginnings: Sequence[Sequence[int]], starts: Sequence[object]) -> list[list[int]]:
        """As there; the tokens of a page's task stand for themselves."""
        if isinstance(self.encoder, PageEncoder):
            return [list(row) for row in beginnings]
        return super().opened(beginnings, starts)

    def encode(self, **inputs: Tensor) -> Memory:
        if "encoder_outputs" in inputs or "interpolate_pos_encoding" not in self.encoder.accepts():
            return super().encode(**inputs)
        return self.heard(cast(BaseModelOutput, self.encoder(**inputs, interpolate_pos_encoding=True)), None)

    def forward(  # type: ignore[override] # in the ecosystem's order
        self,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        past_key_values: DenseState | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **given: object,
    ) -> Seq2SeqLMOutput:
        """Next-token scores; see :meth:`PairedWriter.forward`, whose main input are pictures here.

        Args:
            pixel_values: Shape: [B, channels, height, width].
        """
        return super().forward(
            pixel_values,
            None,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            past_key_values,
            decoder_inputs_embeds,
            labels,
            use_cache,
            output_attentions,
            output_hidden_states,
            num_items_in_batch=num_items_in_batch,
            **given,
        )
