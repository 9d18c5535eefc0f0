"""A session: sounds that are heard window by window, side by side.

In each round, the next window of every sound that is not over is heard; those that do not convince are heard again, at
a higher temperature. Sounds that have nothing to do with one another have sessions of their own, so that none waits for
another; a session holds more than one where their draws, lengths or outputs hang together, as in the ecosystem.
Source: section 4.5 of https://arxiv.org/abs/2212.04356
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor

from omniform.architectures.speech import SpeechToText
from omniform.core.context import Memory
from omniform.core.errors import InputError
from omniform.engine.generate_output import GenerateOutput
from omniform.engine.hearing.alignment import token_times
from omniform.engine.hearing.asked import Hearing
from omniform.engine.hearing.results import Part, parts_of
from omniform.engine.hearing.segments import (
    Clock,
    Segment,
    compression_ratio,
    mean_logprob,
    past_of,
    spoken,
    without_padding,
)
from omniform.engine.hearing.takes import Caller, Take, Window

_COLD = 0.5
"""Text that was drawn at this temperature or a higher one is nothing to go on from."""


class Sound(Protocol):
    """A sound, window by window."""

    @property
    def frames(self) -> int:
        """Frames of its spectrogram."""
        ...

    @property
    def held(self) -> int:
        """Frames that are there, with what a batch has behind the sound: a language is heard in all of them."""
        ...

    def window(self, first: int, frames: int) -> Mapping[str, Tensor]:
        """What the encoder reads of the window that begins with a frame, as a batch of one.

        Args:
            frames: how many of the window's frames are real; the rest is zero.
        """
        ...


@dataclass(slots=True, eq=False)
class Ear:
    """One sound, and what was understood of it.

    Attributes:
        sound: it.
        opening: the tokens that each window's answer begins with.
        lead: the tokens of a prompt that stands before what was said; None without one.
        conditioned: whether the next window is told what was said before.
        known: frames that are known to be sound, for the times of tokens; None where nobody says.
        seek: the frame that the next window begins with.
        segments: what was said.
    """

    sound: Sound
    opening: tuple[int, ...]
    lead: Tensor | None
    conditioned: bool
    known: int | None = None
    seek: int = 0
    segments: list[Segment] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether all of it was heard."""
        return self.seek >= self.sound.frames

    def past(self) -> list[Tensor]:
        """The tokens of a prompt and of the segments so far."""
        return [*([] if self.lead is None else [self.lead]), *(segment.tokens for segment in self.segments)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was written for one window.

    Attributes:
        tokens: without the end. Shape: [T].
        part: all of it, by the names of an output's entries; ``result``: as segments are told.
        times: when each token was said, where that was asked for.
        silent: nobody speaks, most likely.
        attempt: which of the temperatures convinced.
    """

    tokens: Tensor
    part: Part
    result: object
    times: Tensor | None
    silent: bool
    attempt: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How long answers may be, and what ends and fills them.

    Attributes:
        new: tokens of a window's answer; None where ``whole`` says.
        whole: tokens of prompt and answer together, at first: every window adds its prompt.
        positions: of the decoder.
        pad: fills rows that ended before others.
        ends: tokens that end a row.
        beams: how many are followed, as long as nothing was drawn.
        padded: whether prompts that tell what was said before are all filled to the greatest length (static caches).
    """

    new: int | None
    whole: int
    positions: int
    pad: int
    ends: tuple[int, ...]
    beams: int = 1
    padded: bool = False


class Session:
    """Hears sounds side by side.

    Args:
        model: what hears.
        caller: puts windows into the engine.
        how: what is asked for.
        ears: the sounds.
        limits: how long answers may be.
        long: whether there may be several windows.
        seed: what draws begin from; None for torch's global generator.
        start: what the decoder reads first of the first window, where the caller says so.

    Attributes:
        last: what was written for the windows of the last round, and in which kind of output.
        lengths: of the longest result of each round and attempt; ``results``: which segments are of it.
    """

    def __init__(
        self,
        model: SpeechToText,
        caller: Caller,
        how: Hearing,
        ears: Sequence[Ear],
        limits: Limits,
        *,
        long: bool,
        seed: int | None = None,
        start: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.ears = ears
        self.last: tuple[list[Part], type[GenerateOutput]] | None = None
        self.lengths: dict[tuple[int, int], int] = {}
        self.results: list[tuple[tuple[int, int], Segment]] = []
        self._model, self._caller, self._how, self._limits = model, caller, how, limits
        self._long, self._seed, self._start = long, seed, start
        self._whole, self._beams, self._round = limits.whole, limits.beams, 0
        self._clock = Clock(how.first_stamp, how.precision, how.frame_precision, model.listener.stride)
        self._found: list[Answer | None] = []

    def run(self) -> Iterator[Take | None]:
        """Hear everything: yields what has to be done before it goes on, and None after each round."""
        while not all(ear.over for ear in self.ears):
            if self._how.progress is not None:
                self._how.progress(torch.tensor([[ear.seek, ear.sound.frames] for ear in self.ears]))
            yield from self._hear([ear for ear in self.ears if not ear.over])
            self._round += 1
            yield None
            if self._how.whole:
                return

    # -- one round -----------------------------------------------------------------------------------------------------

    def _hear(self, active: list[Ear]) -> Iterator[Take]:
        """Hear the next window of each sound, and say where its next one begins."""
        frames = [min(ear.sound.frames - ear.seek, self._model.listener.window) for ear in active]
        tokens, width = self._prompts(active)
        inputs = [ear.sound.window(ear.seek, count) for ear, count in zip(active, frames, strict=True)]
        windows = [Window(self._read(x), tuple(own), x) for x, own in zip(inputs, tokens, strict=True)]
        yield from self._answer(active, windows, width)
        for ear, count, answer in zip(active, frames, cast("list[Answer]", self._found), strict=True):
            if answer.silent:
                ear.seek += count
                continue
            segments, offset = spoken(
                answer.tokens, answer.result, self._clock, seek=ear.seek, frames=count, before=width, times=answer.times
            )
            ear.segments += segments
            ear.seek += offset if offset > 0 else count  # what tells of nothing would be heard for ever
            self.results += [((self._round, answer.attempt), segment) for segment in segments]

    def _read(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the encoder reads; what it gives, where others look at that too."""
        if not (self._how.token_times or self._how.shares) or "encoder_outputs" in inputs:
            return inputs
        with torch.inference_mode():
            memory = self._model.encode(**inputs)
        return {"encoder_outputs": memory.hidden}

    def _prompts(self, active: Sequence[Ear]) -> tuple[list[list[int]], int]:
        """What the decoder reads first of each window; and their length, with padding in front of the shorter ones."""
        if self._start is not None:
            start, self._start = self._start, None
            return [list(row) for row in start], max(map(len, start))
        openings = [list(ear.opening) for ear in active]
        prompt = list(self._how.prompt or ())
        if not (any(ear.conditioned for ear in self.ears) and self.ears[0].past()):
            rows = [prompt + own for own in openings]
            return rows, len(rows[0])
        most, how = self._limits.positions // 2 - 1, self._how
        lead = prompt if prompt and how.prompt_everywhere else [] if how.before is None else [how.before]
        before: list[list[int]] = []
        longest = 0
        for ear in active:
            past = ear.past() if ear.conditioned else []
            before.append(lead + (past_of(past, how.first_stamp)[-most:] if past else []))
            longest = max(longest, len(before[-1]) if past else 0)
        longest = most + 1 if self._limits.padded else longest
        whole = [own[max(0, len(own) - longest) :] + opening for own, opening in zip(before, openings, strict=True)]
        # Padding is left out wherever it stands, as the mask of the ecosystem says.
        return [[token for token in row if token != self._limits.pad] for row in whole], longest + len(openings[0])

    def _room(self, width: int) -> int:
        """How many tokens an answer may have."""
        limits = self._limits
        if (limits.new or 0) + width > limits.positions:
            raise InputError(
                "prompt and answer are longer than the decoder's positions",
                where="max_new_tokens",
                expected=f"at most {limits.positions} tokens together",
                found=f"{width} and {limits.new or 0}",
                remedy="Shorten the prompt, or allow fewer tokens.",
            )
        if limits.new is not None:
            return limits.new
        self._whole = min(self._whole + min(limits.positions // 2 - 1, width), limits.positions)
        if self._whole <= width:
            raise InputError(
                "the prompt leaves no room for an answer",
                where="max_length",
                expected=f"more than the prompt's {width} tokens",
                found=self._whole,
            )
        return self._whole - width

    # -- attempts ------------------------------------------------------------------------------------------------------

    def _answer(self, active: Sequence[Ear], windows: Sequence[Window], width: int) -> Iterator[Take]:
        """Find what each window's answer is: the first that convinces, or the last."""
        how, room = self._how, self._room(width)
        self._found = [None] * len(windows)
        silence = [0.0] * len(windows)
        pending = list(range(len(windows)))
        for number, temperature in enumerate(how.temperatures):
            take = self._take([windows[place] for place in pending], width, room, number, temperature)
            if how.most_silent is not None and number == 0:
                take.looks = self._caller.look([_to_start(w, ear) for w, ear in zip(windows, active, strict=True)])
            yield take
            if take.looks:
                assert how.off_stamp is not None, "checked where the threshold was read"
                silence = [float(s.float().softmax(-1)[how.off_stamp - 1]) for s in take.first_scores()]
            again: list[int] = []
            ears = [active[place] for place in pending]
            for place, (row, part, times) in zip(pending, self._written(take, ears, width), strict=True):
                tokens = without_padding(row[width:], self._limits.pad, self._limits.ends)
                unlikely = self._is_unlikely(tokens, part, temperature)
                silent = how.most_silent is not None and unlikely and silence[place] > how.most_silent
                if (unlikely or self._repeats(tokens)) and not silent:
                    again.append(place)
                kept = tokens[:-1] if int(tokens[-1]) in self._limits.ends else tokens
                result = self._kept(part, row)
                self._found[place] = Answer(kept, part, result, times, silent, number)
                active[place].conditioned = how.condition and (temperature is None or temperature < _COLD)
                key = self._round, number
                self.lengths[key] = max(self.lengths.get(key, 0), len(row))
            pending = again
            if not pending:
                break
        self.last = [cast(Answer, answer).part for answer in self._found], take.kind

    def _take(self, windows: Sequence[Window], width: int, room: int, number: int, temperature: float | None) -> Take:
        """Begin to hear windows at a temperature."""
        how = self._how
        drawn = temperature is not None and temperature > 0
        self._beams = 1 if drawn else self._beams
        settings: dict[str, object] = {
            "do_sample": drawn,
            "temperature": temperature if drawn else 1.0,
            "num_beams": self._beams,
            "max_new_tokens": room,
            "return_dict_in_generate": how.notes,
        }
        if not how.notes:
            settings |= dict.fromkeys(("output_scores", "output_logits", "output_hidden_states", "output_attentions"))
        elif how.least_likely is not None or (how.outputs and how.token_times):
            settings |= {"output_scores": True}
        if how.outputs and how.token_times:
            settings |= {"output_attentions": True}
        seed = None
        if self._seed is not None:
            seed = (self._seed + 1_000_003 * (self._round * len(how.temperatures) + number)) % 2**63
        return self._caller.begin(windows, width, settings, seed=seed, keeps=how.outputs and not self._long)

    def _written(self, take: Take, ears: Sequence[Ear], width: int) -> list[tuple[Tensor, Part, Tensor | None]]:
        """What a take has written: of each row all tokens, what ``generate`` gives of it, and when tokens were said."""
        how = self._how
        output = take.output(shows=how.outputs) if how.notes else None
        rows = torch.cat(take.rows(), dim=1) if output is None else output.sequences
        times: list[Tensor | None] = [None] * len(ears)
        if how.token_times:
            times = list(self._times(take, ears, rows, width))
        found: list[tuple[Tensor, Part, Tensor | None]] = []
        for number, (row, own) in enumerate(zip(rows, times, strict=True)):
            part = {} if output is None else parts_of(output, number, long=self._long)
            if own is not None:
                part["token_timestamps"] = own
            found.append((row, part, own))
        return found

    def _kept(self, part: Part, row: Tensor) -> object:
        """What of an answer is kept with its segments: scores of every step would fill the memory, if nobody asks."""
        if not self._how.as_outputs:
            return row
        names = part if self._how.outputs else ("sequences", "token_timestamps", "beam_indices", "sequences_scores")
        return {name: value for name, value in part.items() if name in names}

    def _times(self, take: Take, ears: Sequence[Ear], rows: Tensor, width: int) -> Tensor:
        """When each token was said, in seconds from the beginning of its window. Shape: [B, T]."""
        hidden = torch.cat([prompt.encoder["encoder_outputs"] for prompt in take.job.prompts])
        known = [_wide(ear.known - ear.seek, hidden.shape[1]) for ear in ears if ear.known is not None]
        short = any(len(prompt.tokens) < width for prompt in take.job.prompts)
        median = self._model.config.get("median_filter_width", 7)
        return token_times(
            self._model,
            Memory(hidden),
            rows,
            prompt=width,
            heads=self._how.heads,
            frames=known if len(known) == len(ears) else None,
            mask=(rows != self._limits.pad) | (torch.arange(rows.shape[1]) >= width) if short else None,
            median=median if isinstance(median, int) else 7,
        )

    # -- what convinces ------------------------------------------------------------------------------------------------

    def _repeats(self, tokens: Tensor) -> bool:
        most, vocabulary = self._how.most_repeated, self._model.vocabulary
        assert vocabulary is not None, "a decoder of speech has a table of tokens"
        return most is not None and compression_ratio(tokens.tolist(), vocabulary) > most

    def _is_unlikely(self, tokens: Tensor, part: Part, temperature: float | None) -> bool:
        least = self._how.least_likely
        if least is None:
            return False
        return mean_logprob(cast("Sequence[Tensor]", part["scores"]), tokens, temperature) < least


def _wide(frames: int, most: int) -> int:
    """Frames that tokens of a window may look at; of one behind the sound its beginning, as in the ecosystem.

    Args:
        frames: of the sound that are left.
        most: frames of the memory.
    """
    own = frames // 2
    return 2 * max(1, min(most, most + own if own < 0 else own))


def _to_start(window: Window, ear: Ear) -> Window:
    """A window with what the decoder reads up to the token that transcripts begin with."""
    return Window(window.encoder, window.tokens[: max(1, len(window.tokens) - len(ear.opening) + 1)])
