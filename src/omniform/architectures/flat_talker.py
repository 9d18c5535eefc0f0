"""Talkers that write one code at a time: a decoder that reads a thinker's answer beside what it has spoken.

What it reads is as wide as the thinker's vectors, and is brought to its own width first (Qwen2.5-Omni,
https://arxiv.org/abs/2503.20215, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.axes import AxesDecoder
from omniform.architectures.decoder import CausalLM
from omniform.architectures.omni_places import Clock, Heard, walked
from omniform.core.context import Tapped
from omniform.core.outputs import BaseModelOutput, CausalLMOutput
from omniform.core.state import DenseState


class SpeechDecoder(AxesDecoder):
    """A decoder whose table is of another width than its layers."""

    @property
    def width(self) -> int:
        return cast(Tensor, cast(nn.Module, self.norm).weight).shape[0]

    @property
    def read_width(self) -> int:
        return self.width


@dataclass(slots=True)
class ReplyOutput(CausalLMOutput):
    """Scores of the next code.

    Attributes:
        thinker_reply_part: what is still to be added to codes. Shape: [B, pieces, E].
    """

    thinker_reply_part: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Codes that are none of a sound, and tokens that are read where there is no text.

    Attributes:
        mask, pad, begin, end: the codes.
        text_pad, text_end: the tokens.
    """

    mask: int
    pad: int
    begin: int
    end: int
    text_pad: int
    text_end: int


class FlatTalker(CausalLM):
    """Writes codes of speech.

    Args:
        model: reads vectors; its table is that of codes.
        lm_head: hidden states to scores of codes.
        thinker_to_talker_proj: vectors of the thinker's width to its own.
        clock: where the tokens of a thinker's prompt stand.
        marks: codes and tokens around what is spoken.
    """

    model: SpeechDecoder
    thinker_to_talker_proj: nn.Linear
    clock: Clock
    marks: Marks

    def embed(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.thinker_to_talker_proj(self.model.embed_tokens(input_ids))
        return out

    def with_opening(self, vectors_ND: Tensor) -> Tensor:
        """What a talker begins with, the codes that open speech added to its last two. Shape: [..., n, E]."""
        codes = torch.tensor([self.marks.pad, self.marks.begin], device=vectors_ND.device)
        added = torch.zeros_like(vectors_ND)
        added[..., -2:, :] = self.model.embed_tokens(codes)
        return vectors_ND + added

    def get_rope_index(
        self,
        input_ids: Tensor,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_audio_in_video: bool | None = False,
        audio_seqlens: Tensor | None = None,
        second_per_grids: Tensor | Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Where the tokens of rows stand, [3, B, T], and how far what follows lies beyond its index, [B, 1]."""
        images, videos = (
            [] if grids is None else [(int(t), int(h), int(w)) for t, h, w in grids.tolist()]
            for grids in (image_grid_thw, video_grid_thw)
        )
        seconds = [1.0] * len(videos) if second_per_grids is None else [float(s) for s in second_per_grids]
        frames = [] if audio_seqlens is None else [int(n) for n in audio_seqlens]
        audios = [((n - 1) // 2 + 1) // 2 for n in frames]
        films = list(zip(videos, seconds, strict=True))
        heard = Heard(images=images, videos=films, audios=audios, aligned=bool(use_audio_in_video))
        places, shifts = walked(self.clock, input_ids, attention_mask, heard)
        return places.long(), shifts.long()

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DenseState | None = None,
        thinker_reply_part: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        input_text_ids: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        use_audio_in_video: bool | None = None,
        audio_feature_lengths: Tensor | None = None,
        video_second_per_grid: Tensor | None = None,
        **asked: Unpack[Tapped],
    ) -> ReplyOutput:
        """Scores of the next code.

        Args:
            input_ids: codes, where no vectors are given. Shape: [B, T].
            attention_mask: Shape: [B, past + T], 1 for what is real. With it and without positions, what a row begins
                with is opened: see :meth:`with_opening`.
            position_ids: Shape: [B, T], or [3, B, T].
            past_key_values: state of an earlier call to continue from; it is extended in place.
            thinker_reply_part: what is added to codes, a piece at a time. Shape: [B, pieces, E].
            inputs_embeds: of the thinker's width. Shape: [B, T, E].
            use_cache: whether to return state.
            input_text_ids: the thinker's prompt, by which positions are counted. Shape: [B, T].
            image_grid_thw, video_grid_thw, use_audio_in_video, audio_feature_lengths, video_second_per_grid: likewise.
        """
        fresh = past_key_values is None or past_key_values.length == 0
        if attention_mask is not None and position_ids is None and fresh:
            if image_grid_thw is not None or video_grid_thw is not None:
                assert input_text_ids is not None
                position_ids, _ = self.get_rope_index(
                    input_text_ids, image_grid_thw, video_grid_thw, attention_mask, use_audio_in_video,
                    audio_feature_lengths, video_second_per_grid,
                )  # fmt: skip
            if inputs_embeds is not None:
                inputs_embeds = self.with_opening(inputs_embeds)
        if inputs_embeds is None:
            inputs_embeds = cast(Tensor, self.model.embed_tokens(input_ids))
            if thinker_reply_part is not None:
                inputs_embeds = inputs_embeds + thinker_reply_part[:, :1]
                thinker_reply_part = (
                    thinker_reply_part[:, 1:] if thinker_reply_part.shape[1] > 1 else thinker_reply_part
                )
        out = cast(
            BaseModelOutput,
            self.model(
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=self.thinker_to_talker_proj(inputs_embeds),
                use_cache=use_cache,
                **asked,
            ),
        )
        return ReplyOutput(
            logits=self.lm_head(out.last_hidden_state).float(),
            past_key_values=out.past_key_values,
            **out.noted(),
            thinker_reply_part=thinker_reply_part,
        )
