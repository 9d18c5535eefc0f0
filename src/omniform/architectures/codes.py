"""Decoders that write the codes of sounds, several at once: a table and a head for each codebook (MusicGen)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.codec import Codec
from omniform.architectures.decoder import memory_from, state_for
from omniform.architectures.encoder_decoder import EncoderOutputs, encoder_output
from omniform.architectures.generative import Generative
from omniform.architectures.labels import IGNORED, Classes, Targets
from omniform.architectures.model import Model, arrive_masked
from omniform.blocks.embeddings import check_ids
from omniform.blocks.layers import run, surviving
from omniform.blocks.sinusoids import cosines_then_sines
from omniform.core.context import Memory, StepContext, Tapped
from omniform.core.errors import InputError, brief
from omniform.core.host import is_all_true
from omniform.core.layouts import layout_of
from omniform.core.outputs import BaseModelOutput, CausalLMOutput, ModelOutput, Seq2SeqLMOutput
from omniform.core.sound_outputs import CodecEncoderOutput, NothingToPlay
from omniform.core.state import DenseState


class CodeStack(Model):
    """Codes in, hidden states out: the vectors of a frame's codes are added up.

    Args:
        embed_tokens: a table for each codebook.
        layers: called as ``layer(hidden, ctx)``.
        norm: after the last of them.
        dim: width of the hidden states.
        dropout: on what the first layer reads, in training.
        layerdrop: probability of leaving out a layer in training.
    """

    embed_tokens: nn.ModuleList
    layers: nn.ModuleList
    norm: nn.Module
    dim: int
    dropout: float
    layerdrop: float
    max_positions: ClassVar[int | None] = None

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    @property
    def codebooks(self) -> int:
        """How many codes a frame has."""
        return len(self.embed_tokens)

    @property
    def codes(self) -> int:
        """Entries of a codebook's table, the one that stands for nothing among them."""
        return cast(nn.Embedding, self.embed_tokens[0]).num_embeddings

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if (ids is None) == (embeds is None):
            raise InputError("give either input_ids or inputs_embeds", expected="exactly one of them")
        if isinstance(ids, Tensor):
            books, shape = self.codebooks, list(ids.shape)
            if ids.dim() not in (2, 3) or (shape[1] if ids.dim() == 3 else shape[0]) % books or not ids.numel():
                raise InputError(
                    "these are no codes of this decoder",
                    where="input_ids",
                    expected=f"shape [rows * {books}, frames] or [rows, {books}, frames]",
                    found=f"shape {shape}",
                )
            check_ids(ids.flatten(0, -2), self.codes)
        rows, new = self._size(cast(Tensor, embeds if ids is None else ids), coded=ids is not None)
        past = inputs.get("past_key_values")
        kept = 0
        if isinstance(past, DenseState):
            past.admit(layout_of(self), rows, new)
            kept = past.length
        arrive_masked(inputs, rows=rows, new=new, past=kept)

    def _size(self, read: Tensor, *, coded: bool) -> tuple[int, int]:
        return (read.shape[:-1].numel() // self.codebooks, read.shape[-1]) if coded else (read.shape[0], read.shape[1])

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DenseState | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **asked: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of frames.

        Args:
            input_ids: codes. Shape: [B * codebooks, T], those of a row one after another; or [B, codebooks, T].
            attention_mask: Shape: [B, past + T], 1 for real frames.
            encoder_hidden_states: what cross-attention reads. Shape: [B, S, D].
            encoder_attention_mask: Shape: [B, S], 1 for real tokens.
            past_key_values: state of an earlier call to continue from; it is extended in place.
            inputs_embeds: Shape: [B, T, D], instead of codes.
            use_cache: whether to return state; by default in evaluation mode only.

        Raises:
            InputError: other shapes, codes that no table has.
        """
        embeds = self.vectors(input_ids) if inputs_embeds is None else inputs_embeds
        state = state_for(self, past_key_values, use_cache, reads_memory=True)
        ctx = self.step(embeds, asked, attention_mask=attention_mask, state=state)
        memory = memory_from(encoder_hidden_states, encoder_attention_mask, dim=self.dim, readable=True)
        hidden = self.decode(embeds, ctx if memory is None else ctx.with_(memory=memory))
        if state is not None:
            state.advance(embeds.shape[1])
        return BaseModelOutput(
            last_hidden_state=hidden,
            past_key_values=state,
            **ctx.taps.noted(),
            cross_attentions=None if memory is None else ctx.taps.cross_or_none,
        )

    def vectors(self, input_ids: Tensor | None) -> Tensor:
        """The sum of what the tables have of a frame's codes. Shape: [B * K, T] or [B, K, T] to [B, T, D]."""
        assert input_ids is not None, "calls are checked when they arrive"
        codes = input_ids.reshape(-1, self.codebooks, input_ids.shape[-1])
        whole: Tensor = self.embed_tokens[0](codes[:, 0])
        for book in range(1, self.codebooks):
            whole = whole + self.embed_tokens[book](codes[:, book])
        return whole

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        waves = cosines_then_sines(ctx.positions, self.dim).to(embeds_BTD.dtype)
        read = F.dropout(embeds_BTD + waves, self.dropout, self.training)
        return run(surviving(self.layers, self.layerdrop), read, ctx, self.norm)


class CodesWriter(Generative):
    """What writes codes; ``generate`` is a loop of its own over the cached decoder (``engine/playing.py``).

    The engine writes one token a row and step; here a row writes one for each codebook, and what it reads next is all
    of them, each codebook a step behind the one before.
    """

    @property
    def writer(self) -> CodeLM:
        """The decoder and its heads."""
        raise NotImplementedError

    @property
    def decoder(self) -> CodeStack:  # type: ignore[override]
        return self.writer.model

    @property
    def vocabulary(self) -> int | None:
        return self.decoder.codes

    def project(self, hidden: Tensor) -> Tensor:
        """Scores of each codebook's entries. Shape: [..., D] to [K, ..., V]."""
        return torch.stack([head(hidden) for head in self.writer.lm_heads])

    def begin(self, inputs: Mapping[str, object], start: int) -> Beginning:
        """What is written on from.

        Args:
            inputs: of the call.
            start: the code that stands for nothing.
        """
        raise NotImplementedError

    def finish(self, codes_BKT: Tensor, begun: Beginning) -> Tensor:
        """What the caller gets of the codes."""
        return codes_BKT


class Beginning:
    """What is written on from.

    Attributes:
        codes: Shape: [B * K, T].
        memory: what the decoder looks at. Shape: [B, S, D]; None for nothing.
        unguided: the same for those rows that are not told anything; None where ``memory`` has them already.
        mask: of the memory. Shape: [B, S].
        scales: of the sounds that are gone on with.
    """

    def __init__(
        self,
        codes: Tensor,
        memory: Tensor | None = None,
        unguided: Tensor | None = None,
        mask: Tensor | None = None,
        scales: Sequence[Tensor | None] = (None,),
    ) -> None:
        self.codes, self.memory, self.unguided, self.mask, self.scales = codes, memory, unguided, mask, scales


def refuse_gaps(name: str, inputs: Mapping[str, object]) -> None:
    """Raise :class:`InputError` for frames that are to be left out of what is written on from."""
    mask = inputs.get(name)
    if isinstance(mask, Tensor) and not is_all_true(mask):
        told = "codes are written on from rows of one length"
        raise InputError(told, where=name, expected="all ones, or None", found="zeros among them")


class CodeLM(CodesWriter):
    """A stack and a head for each codebook.

    Args:
        model: the stack.
        lm_heads: hidden states to scores of codes.
        channels: of the sound; the codebooks of two stand by turns.
        pad: the code that stands for nothing.
        start: what codes begin with.
    """

    model: CodeStack
    lm_heads: nn.ModuleList
    channels: int
    pad: int | None
    start: int | None

    @property
    def writer(self) -> CodeLM:
        return self

    @property
    def num_codebooks(self) -> int:
        """How many codes a frame has."""
        return self.model.codebooks

    def get_output_embeddings(self) -> nn.Module | None:
        return self.lm_heads

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.model.codes)}

    def shifted(self, labels_BTK: Tensor) -> Tensor:
        """What is read to write given labels. Shape: [B, T, K] to [B, K, T]."""
        for name, code in (("decoder_start_token_id", self.start), ("pad_token_id", self.pad)):
            if code is None:
                raise InputError("labels need a code to begin with", where=f"config.json: {name}", found="null")
        assert self.start is not None and self.pad is not None
        shifted = F.pad(labels_BTK.transpose(1, 2)[..., :-1], (1, 0), value=self.start)
        return shifted.masked_fill(shifted == IGNORED, self.pad)

    def arrive(self, inputs: dict[str, object]) -> None:
        labels = inputs.get("labels")
        if isinstance(labels, Tensor):
            if labels.dim() != 3 or labels.shape[-1] != self.num_codebooks:
                wanted = f"shape [rows, frames, {self.num_codebooks}]"
                raise InputError("these are no codes of this decoder", where="labels", expected=wanted,
                                 found=f"shape {list(labels.shape)}")  # fmt: skip
            if inputs.get("input_ids") is None and inputs.get("inputs_embeds") is None:
                inputs["input_ids"] = self.shifted(labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DenseState | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **asked: Unpack[Tapped],
    ) -> CausalLMOutput:
        """Scores of the next codes; see :meth:`CodeStack.forward` for the inputs.

        Args:
            labels: Shape: [B, T, codebooks], the codes themselves; -100, and the one that stands for nothing, are left
                out. What is read is made of them, if it is not given. The loss is the mean of the codebooks' means.

        Returns:
            ``logits``: Shape: [B * codebooks, T, V].
        """
        out = self.model(
            input_ids,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            inputs_embeds,
            use_cache,
            **asked,
        )
        assert isinstance(out, BaseModelOutput)
        logits_KBTV = self.project(out.last_hidden_state)
        return CausalLMOutput(
            loss=None if labels is None else self.loss(logits_KBTV, labels),
            logits=logits_KBTV.transpose(0, 1).flatten(0, 1),
            past_key_values=out.past_key_values,
            **out.noted(),
            cross_attentions=out.cross_attentions,
        )

    def loss(self, logits_KBTV: Tensor, labels_BTK: Tensor) -> Tensor:
        """How far scores are from codes, the mean over codebooks."""
        scores = logits_KBTV[:, :, -labels_BTK.shape[1] :]
        labels = labels_BTK if self.pad is None else labels_BTK.masked_fill(labels_BTK == self.pad, IGNORED)
        each = [F.cross_entropy(scores[k].flatten(0, 1), labels[..., k].flatten()) for k in range(len(scores))]
        return torch.stack(each).sum() / len(each)

    def begin(self, inputs: Mapping[str, object], start: int) -> Beginning:
        codes = inputs.get("input_ids")
        refuse_gaps("attention_mask", inputs)
        if not isinstance(codes, Tensor):
            raise InputError("there are no codes to write on from", where="input_ids", found=brief(codes))
        memory, mask = inputs.get("encoder_hidden_states"), inputs.get("encoder_attention_mask")
        return Beginning(
            codes.reshape(-1, codes.shape[-1]),
            memory if isinstance(memory, Tensor) else None,
            mask=mask if isinstance(mask, Tensor) else None,
        )

    def build_delay_pattern_mask(self, input_ids: Tensor, pad_token_id: int, max_length: int) -> tuple[Tensor, Tensor]:
        """Codes, each codebook a step behind the one before (https://arxiv.org/abs/2306.05284, section 2.2).

        Args:
            input_ids: what is written on from. Shape: [B * codebooks, T].
            pad_token_id: stands where a codebook has not begun, or is at its end.
            max_length: steps until all are.

        Returns:
            The steps that are known, Shape: [B * codebooks, T']; and all of them, -1 where something is to be written,
            Shape: [B * codebooks, max_length].
        """
        codes = input_ids.reshape(-1, self.num_codebooks, input_ids.shape[-1])
        rows, books, known = codes.shape
        lanes = books // self.channels
        pattern = codes.new_full((rows, books, max_length), -1)
        if max_length < 2 * lanes - 1:
            return codes.flatten(0, 1), pattern.flatten(0, 1)
        for book in range(books):
            lane = book // self.channels
            room = max(0, min(known, max_length - lane))
            pattern[:, book, lane : lane + room] = codes[:, book, :room]
            pattern[:, book, : lane + 1] = pad_token_id
            pattern[:, book, max_length - lanes + lane + 1 :] = pad_token_id
        first = (pattern[:, 0] == -1).nonzero()[:, 1]
        begun = int(first.min()) if len(first) else known
        return pattern[..., :begun].flatten(0, 1), pattern.flatten(0, 1)

    @staticmethod
    def apply_delay_pattern_mask(input_ids: Tensor, decoder_pad_token_mask: Tensor) -> Tensor:
        """Codes, where a pattern says that there is something to be written, and the pattern elsewhere."""
        pattern = decoder_pad_token_mask[..., : input_ids.shape[-1]]
        return torch.where(pattern == -1, input_ids, pattern)


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
        sides = values.split(self.audio_encoder.channels, dim=1)
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
