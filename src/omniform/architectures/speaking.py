"""Speech written frame by frame: the loop over a model's steps, for rows that end at different times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from omniform.architectures.frames import FrameWriter, check_voice
from omniform.core.context import Memory
from omniform.core.errors import InputError, brief
from omniform.core.outputs import BaseModelOutput

Spoken = Tensor | tuple[Tensor | list[int], ...]
"""A spectrogram or a wave; with lengths and attentions behind it where they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """When speech ends.

    Attributes:
        threshold: from which sum of a step's probabilities of an end on.
        least: steps before which nothing ends.
        most: steps after which everything does.
    """

    threshold: float
    least: int
    most: int


@dataclass(slots=True)
class Progress:
    """What has been written so far.

    Attributes:
        frames: of each step. Shape: [B, R, bands].
        done: finished spectrograms, by row. Shape: [T, bands].
        seen: cross-attention of each step, all layers one after another. Shape: [layers * B, H, 1, S].
    """

    frames: list[Tensor] = field(default_factory=list)
    done: dict[int, Tensor] = field(default_factory=dict)
    seen: list[Tensor] = field(default_factory=list)


class Speech(TypedDict, total=False):
    """How speech is written; see :meth:`Speaker.speak`."""

    threshold: float
    minlenratio: float
    maxlenratio: float
    vocoder: nn.Module | None
    output_cross_attentions: bool
    return_output_lengths: bool


class Speaker(FrameWriter, ABC):
    """A :class:`FrameWriter` that is asked for speech."""

    @abstractmethod
    def default_voice(self, width: int) -> Tensor:
        """Who speaks where nobody is named. Shape: [1, V]."""

    @torch.no_grad()
    def speak(
        self,
        inputs: Tensor,
        speaker_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        threshold: float = 0.5,
        minlenratio: float = 0.0,
        maxlenratio: float = 20.0,
        vocoder: nn.Module | None = None,
        output_cross_attentions: bool = False,
        return_output_lengths: bool = False,
    ) -> Spoken:
        """Speak.

        Args:
            inputs: text, Shape: [B, S]; or samples of a voice that is to become another, Shape: [B, samples].
            speaker_embeddings: the voice. Shape: [B or 1, V].
            attention_mask: of the inputs; by default 1 for all that is not the padding token.
            threshold: how likely an end must be for speech to end there.
            minlenratio: how long speech is at least, by the length of what the encoder gives.
            maxlenratio: how long it is at most.
            vocoder: makes a wave of a spectrogram; without one the spectrogram is returned.
            output_cross_attentions: whether to return the weights of cross-attention too.
            return_output_lengths: whether to return the length of each row too, and rows also where there is one.

        Returns:
            The wave, Shape: [samples], or the spectrogram, Shape: [T, bands]; of several rows, or with lengths, with an
            axis of rows in front, filled with zeros. Then the lengths, then the weights, Shape: [layers, H, steps, S],
            with an axis of rows in front likewise.

        Raises:
            InputError: no voice, one that does not fit, or inputs that do not.
        """
        voice = self._voice(speaker_embeddings, inputs)
        # Samples that happen to be that number are left out too: so the first implementation reads waves.
        mask = (inputs != self.pad).int() if attention_mask is None else attention_mask
        encoder = self.model.encoder
        encoded = cast(BaseModelOutput, encoder(**{self.main_input: inputs, "attention_mask": mask}))
        memory = encoder.memory_of(encoded, mask)
        length, most = memory.hidden.shape[1], self.longest
        ends = Ends(
            threshold=threshold,
            least=int(length * minlenratio / self.each),
            most=min(int(length * maxlenratio / self.each), most),
        )
        written = self._write(memory, voice, ends, output_cross_attentions)
        rows = [written.done[row] for row in range(len(inputs))]
        spoken = rows[0] if len(rows) == 1 and not return_output_lengths else pad_sequence(rows, batch_first=True)
        wave = spoken if vocoder is None else vocoder(spoken)
        out: tuple[Tensor | list[int], ...] = (wave,)
        if return_output_lengths:
            each = 1 if vocoder is None else wave.shape[1] // max(map(len, rows))
            out = (*out, [len(row) * each for row in rows])
        if output_cross_attentions:
            seen = torch.cat(written.seen, dim=2)
            # All layers of all rows as they came, cut by rows: so the first implementation gives them back.
            many = len(rows) > 1 or return_output_lengths
            out = (*out, seen.view(len(rows), -1, *seen.shape[1:]) if many else seen)
        return out if len(out) > 1 else wave

    @property
    def longest(self) -> int:
        """After how many steps places end."""
        prenet = self.model.decoder.prenet
        assert prenet is not None
        return prenet.places

    def _voice(self, voice: Tensor | None, inputs: Tensor) -> Tensor:
        if not isinstance(inputs, Tensor) or inputs.dim() != 2:
            raise InputError("there is nothing to speak", where=self.main_input, found=brief(inputs))
        prenet = self.model.decoder.prenet
        assert prenet is not None
        voice = self.default_voice(prenet.voice).to(inputs.device) if voice is None else voice
        check_voice(voice, prenet, len(inputs))
        return voice.to(prenet.final_layer.weight.dtype)

    def _write(self, memory: Memory, voice: Tensor, ends: Ends, shows: bool) -> Progress:
        """Step after step until all rows have ended."""
        decoder, written = self.model.decoder, Progress()
        rows, step = memory.hidden.shape[0], 0
        frame = memory.hidden.new_zeros(rows, 1, self.postnet.bands)
        state = decoder.state(None, True)
        while len(written.done) < rows:
            step += 1
            embeds = decoder.vectors(frame, voice, step)
            ctx = decoder.step(embeds, {"output_attentions": shows}, state=state).with_(memory=memory)
            hidden = decoder.decode(embeds, ctx)[:, -1]
            if shows:
                written.seen.append(torch.cat(ctx.taps.cross_attentions))
            frames = self.postnet.feat_out(hidden).view(rows, self.each, -1)
            written.frames.append(frames)
            frame = frames[:, -1:]
            if step >= ends.least or step >= self.longest:
                likely = torch.sigmoid(self.postnet.prob_out(hidden)).sum(-1) >= ends.threshold
                self._end(written, [True] * rows if step >= ends.most else likely.tolist())
        return written

    def _end(self, written: Progress, over: list[bool]) -> None:
        """Finish the rows whose speech ends here."""
        new = [row for row, yes in enumerate(over) if yes and row not in written.done]
        if new:
            whole = torch.stack(written.frames, dim=1).flatten(1, 2)[new]
            written.done.update(zip(new, self.postnet.postnet(whole), strict=True))


class TextSpeaker(Speaker):
    """Text to speech."""

    def default_voice(self, width: int) -> Tensor:
        raise InputError(
            "somebody must speak",
            where="speaker_embeddings",
            expected=f"the vector of a voice, shape [1, {width}]",
            found="none",
            remedy="Speaker encoders (x-vectors) make one of a recording; zeros are a voice too.",
        )

    def generate_speech(
        self,
        input_ids: Tensor,
        speaker_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **how: Unpack[Speech],
    ) -> Spoken:
        """Say a text; see :meth:`Speaker.speak`."""
        return self.speak(input_ids, speaker_embeddings, attention_mask, **how)

    def generate(self, inputs: object = None, *given: object, **kwargs: object) -> object:
        """The same by the name under which models write; the text may be ``input_ids``.

        Args:
            given: by position, as in the ecosystem: the mask, the voice, the threshold.
        """
        kwargs.update(zip(("attention_mask", "speaker_embeddings", "threshold"), given, strict=False))
        text = kwargs.pop("input_ids", None) if inputs is None else inputs
        speak: Callable[..., object] = self.speak
        return speak(text, **kwargs)


class VoiceChanger(Speaker):
    """Speech in another voice."""

    LEARNS: ClassVar[bool] = False

    def default_voice(self, width: int) -> Tensor:
        return torch.zeros(1, width)

    def generate_speech(
        self,
        input_values: Tensor,
        speaker_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **how: Unpack[Speech],
    ) -> Spoken:
        """Say what was said; see :meth:`Speaker.speak`."""
        return self.speak(input_values, speaker_embeddings, attention_mask, **how)
