"""Music by a text: what reads the text, what writes codes by it, and the codec that plays them (MusicGen)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.codec import Codec
from omniform.architectures.codes import Beginning, CodeLM, CodeStack, CodesWriter, refuse_gaps
from omniform.architectures.encoder_decoder import EncoderOutputs, encoder_output
from omniform.architectures.labels import Targets
from omniform.architectures.model import Model
from omniform.core.context import Memory, Tapped
from omniform.core.errors import InputError, brief
from omniform.core.outputs import BaseModelOutput, CausalLMOutput, ModelOutput, Seq2SeqLMOutput
from omniform.core.sound_outputs import CodecEncoderOutput, NothingToPlay
from omniform.core.state import DenseState


class Composer(CodesWriter):
    """A text, what writes codes by it, and the codec that plays them.

    Args:
        text_encoder: reads texts.
        audio_encoder: the codec.
        codes: what writes.
        enc_to_dec_proj: the text's hidden states to the writer's width; None where they are as wide.
    """

    main_input = "input_ids"
    encoder_inputs = frozenset({"input_ids", "attention_mask", "encoder_outputs"})

    text_encoder: Model
    audio_encoder: Codec
    codes: CodeLM
    enc_to_dec_proj: nn.Linear | None

    @property
    def writer(self) -> CodeLM:
        return self.codes

    def keeper(self) -> CodeStack:
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.codes.lm_heads

    def targets(self) -> Mapping[str, Targets]:
        return self.codes.targets()

    def freeze_audio_encoder(self) -> None:
        """Keep the codec out of training."""
        self.audio_encoder.requires_grad_(False)

    def freeze_text_encoder(self) -> None:
        """Keep the text's encoder out of training."""
        self.text_encoder.requires_grad_(False)

    def memory_of(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """What the writer looks at of a text's hidden states; padding is zeros. Shape: [B, S, D] to [B, S, D']."""
        seen = hidden if self.enc_to_dec_proj is None else self.enc_to_dec_proj(hidden)
        return seen if attention_mask is None else seen * attention_mask[..., None]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        padding_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        past_key_values: DenseState | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **asked: Unpack[Tapped],
    ) -> Seq2SeqLMOutput:
        """Scores of the next codes.

        Args:
            input_ids: of a text. Shape: [B, S]; or ``inputs_embeds``, Shape: [B, S, D].
            attention_mask: Shape: [B, S], 1 for real tokens.
            input_values: a sound whose codes are read. Shape: [B, channels, samples].
            padding_mask: of the sound.
            decoder_input_ids: codes, instead. Shape: [B * codebooks, T].
            decoder_attention_mask: Shape: [B, T].
            encoder_outputs: of an earlier call, instead of a text.
            past_key_values: state to continue from.
            decoder_inputs_embeds: vectors instead of codes. Shape: [B, T, D].
            labels: Shape: [B, T, codebooks]; see :meth:`CodeLM.forward`.
            use_cache: whether to return state.

        Raises:
            InputError: shapes that do not fit, a sound that the codec cuts into chunks.
        """
        if encoder_outputs is None:
            read = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
            encoded = cast(BaseModelOutput, self.text_encoder(attention_mask=attention_mask, **read, **asked))
        else:
            encoded = encoder_output(encoder_outputs)
        given = decoder_input_ids is not None or decoder_inputs_embeds is not None
        if labels is None and not given:
            decoder_input_ids, _ = self.codes_of(input_values, padding_mask)
        out = self.codes(
            decoder_input_ids,
            decoder_attention_mask,
            self.memory_of(encoded.last_hidden_state, attention_mask),
            attention_mask,
            past_key_values,
            decoder_inputs_embeds,
            labels,
            use_cache,
            **asked,
        )
        assert isinstance(out, CausalLMOutput)
        return Seq2SeqLMOutput(
            loss=out.loss,
            logits=out.logits,
            past_key_values=out.past_key_values,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )

    def codes_of(self, values: Tensor | None, padding_mask: Tensor | None) -> tuple[Tensor, Sequence[Tensor | None]]:
        """A sound as the writer reads it, and how loud it is. Shape: [B, channels, samples] to [B * codebooks, T]."""
        if not isinstance(values, Tensor) or values.dim() != 3:
            raise InputError(
                "the decoder needs a beginning",
                where="decoder_input_ids",
                expected="decoder_input_ids, decoder_inputs_embeds, input_values or labels",
                found="none" if values is None else brief(values),
            )
        sides = values.chunk(max(1, values.shape[1] // self.audio_encoder.channels), dim=1)
        made = [cast(CodecEncoderOutput, self.audio_encoder.encode(side, padding_mask)) for side in sides]
        codes = [cast(Tensor, one.audio_codes) for one in made]
        if len(codes[0]) != 1:
            raise InputError(
                "the codec cuts sounds into chunks, which nothing can be written on from",
                where="audio_encoder: chunk_length_s",
                expected="null",
                found=f"{len(codes[0])} chunks",
            )
        if len(codes) < self.codes.channels and codes[0].shape[2] * self.codes.channels == self.codes.num_codebooks:
            codes *= self.codes.channels
        whole = torch.stack([one[0] for one in codes], dim=2).flatten(1, 2)
        if whole.shape[1] != self.codes.num_codebooks:
            raise InputError(
                "the codec gives other codes than the decoder reads",
                where="input_values",
                expected=f"{self.codes.num_codebooks} a frame",
                found=whole.shape[1],
            )
        return whole.flatten(0, 1), cast("Sequence[Tensor | None]", made[0].audio_scales)

    def begin(self, inputs: Mapping[str, object], start: int) -> Beginning:
        refuse_gaps("decoder_attention_mask", inputs)
        mask, ids, known = inputs.get("attention_mask"), inputs.get("input_ids"), inputs.get("encoder_outputs")
        masked = mask if isinstance(mask, Tensor) else None
        if known is None:
            if not isinstance(ids, Tensor):
                raise InputError("there is no text", where="input_ids", found=brief(ids))
            masked = torch.ones_like(ids) if masked is None else masked  # codes have a padding code, texts a mask
            encoded = cast(BaseModelOutput, self.text_encoder(input_ids=ids, attention_mask=masked))
        else:
            encoded = encoder_output(cast(EncoderOutputs, known))
        hidden = encoded.last_hidden_state
        zeros = torch.zeros_like(hidden)
        nothing = None if masked is None else torch.zeros_like(masked)
        begun = Beginning(
            self._opened(inputs, len(hidden), start),
            self.memory_of(hidden, masked),
            self.memory_of(zeros, nothing),
            masked,
        )
        if inputs.get("decoder_input_ids") is None and inputs.get("input_values") is not None:
            values, padding = inputs.get("input_values"), inputs.get("padding_mask")
            _, begun.scales = self.codes_of(cast(Tensor, values), cast("Tensor | None", padding))
        return begun

    def _opened(self, inputs: Mapping[str, object], rows: int, start: int) -> Tensor:
        first = torch.full((rows * self.codes.num_codebooks, 1), start, device=self.device)
        codes = inputs.get("decoder_input_ids")
        if codes is None and inputs.get("input_values") is not None:
            padding = cast("Tensor | None", inputs.get("padding_mask"))
            codes, _ = self.codes_of(cast(Tensor, inputs["input_values"]), padding)
        if not isinstance(codes, Tensor):
            return first
        codes = codes.reshape(-1, codes.shape[-1])
        return codes if not bool((codes[:, 0] != start).all()) else torch.cat((first, codes), dim=1)

    def finish(self, codes_BKT: Tensor, begun: Beginning) -> Tensor:
        """The sound of codes. Shape: [B, K, T] to [B, channels, samples]."""
        heard = [
            cast(Tensor, self.audio_encoder.decode(codes_BKT[None, :, side :: self.codes.channels], begun.scales)[0])
            for side in range(self.codes.channels)
        ]
        return torch.cat(heard, dim=1)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the writer reads to write given labels. Shape: [B, T, K] to [B, K, T]."""
        return self.codes.shifted(labels)

    def get_unconditional_inputs(self, num_samples: int = 1) -> ModelOutput:
        """Inputs of ``generate`` for sounds that no text asks for."""
        width = self.text_encoder.config.get("hidden_size")
        hidden = torch.zeros(num_samples, 1, cast(int, width), device=self.device, dtype=self.dtype)
        mask = torch.zeros(num_samples, 1, dtype=torch.long, device=self.device)
        return NothingToPlay(encoder_outputs=(hidden,), attention_mask=mask, guidance_scale=1.0)

    def encode(self, **inputs: Tensor) -> Memory | None:
        begun = self.begin(inputs, 0)
        return None if begun.memory is None else Memory(begun.memory, begun.mask)
