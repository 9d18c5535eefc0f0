"""Decoders that write the codes of sounds, several at once: a table and a head for each codebook (MusicGen)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import memory_from, state_for
from omniform.architectures.generative import Generative
from omniform.architectures.labels import IGNORED, Classes, Targets
from omniform.architectures.model import Model, arrive_masked
from omniform.blocks.embeddings import check_ids
from omniform.blocks.layers import run, surviving
from omniform.blocks.sinusoids import cosines_then_sines
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError, brief
from omniform.core.host import is_all_true
from omniform.core.layouts import layout_of
from omniform.core.outputs import BaseModelOutput, CausalLMOutput
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
