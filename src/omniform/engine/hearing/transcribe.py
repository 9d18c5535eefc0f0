"""``model.transcribe``: words as they are said, with their times and how late they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.architectures.speech import SpeechToText
from omniform.core.errors import InputError, brief
from omniform.core.spoken import SpokenWord, Words
from omniform.engine.hearing.agreement import Agreement, Pass
from omniform.engine.hearing.listener import Listener
from omniform.hub.auto_inputs import AutoProcessor
from omniform.inputs.audio.load import open_recording
from omniform.inputs.processors import WhisperProcessor
from omniform.inputs.text.options import read_flag

if TYPE_CHECKING:
    from omniform.inputs.audio import WhisperFeatureExtractor
    from omniform.inputs.audio.load import AudioSource
    from omniform.inputs.audio.recording import Recording
    from omniform.inputs.text.whisper import WhisperTokenizer

_PULLS = 10  # so many times within a step the source is asked for more sound


def transcribe(
    model: Model,
    source: AudioSource | Iterator[object] | tuple[Iterator[object], int],
    *,
    processor: WhisperProcessor | None = None,
    sampling_rate: int | None = None,
    step: float = 1.0,
    prompt: str | None = None,
    condition_on_prev_tokens: bool = False,
    no_speech_threshold: float | None = 0.6,
    logprob_threshold: float | None = -1.0,
    compression_ratio_threshold: float | None = 2.4,
    clock: Callable[[], float] = time.monotonic,
    **settings: object,
) -> Iterator[Words]:
    """Write down what is said, while it is being said if need be.

    Of a stream, every ``step`` seconds of new sound are heard together with what came before; words that two such
    passes agree on are settled, and given with their times and their delay. Of a file, window after window is heard
    once; what a window's end cuts off is heard with the next. The memory stays the same however long the sound is.

    Args:
        model: hears speech and writes it down (Whisper and its kin).
        source: an iterator of blocks as they come from a microphone, at the model's sampling rate; a pair of it and its
            rate, to be resampled; or a file or samples, as :func:`~omniform.inputs.audio.load.open_recording` takes.
        processor: the checkpoint's; read from where the model is from, if it is left out.
        sampling_rate: of samples and blocks that do not say theirs, in Hz, to be checked.
        step: seconds of new sound of a stream that a pass waits for; as long as a pass takes, where that is longer.
        prompt: names and words to expect.
        condition_on_prev_tokens: tell passes what was said before the sound that they hear, beyond its first words.
            That keeps the spelling of names, and with some models mistakes that repeat themselves.
        no_speech_threshold, logprob_threshold, compression_ratio_threshold: what a pass writes is not believed where
            it is more likely no speech than the first and less likely text than the second, or compresses better than
            the third, since it repeats itself; None: it is.
        clock: tells the time, in seconds.
        settings: of ``generate``: ``language``, ``task``, ``suppress_tokens``...

    Yields:
        Words that are settled, as often as there are any. If the source fails, what was heard until then is settled
        and given first.

    Raises:
        InputError: a model that does not hear speech, a sound that cannot be used, or an option that cannot be.
    """
    if not isinstance(model, SpeechToText):
        raise InputError(
            f"a {type(model).__name__} does not write down speech",
            where="model",
            remedy="Load the checkpoint with AutoModelForSpeechSeq2Seq, if it is one of speech.",
        )
    reader = AutoProcessor.from_pretrained(model.name_or_path) if processor is None else processor
    if not isinstance(reader, WhisperProcessor):
        raise InputError("this is not Whisper's processor", where="processor", found=brief(reader))
    limits = {
        "no_speech_threshold": no_speech_threshold,
        "logprob_threshold": logprob_threshold,
        "compression_ratio_threshold": compression_ratio_threshold,
    }
    _check(step, clock, limits)
    extractor = cast("WhisperFeatureExtractor", reader.feature_extractor)
    if sampling_rate is not None and sampling_rate != extractor.sampling_rate:
        raise InputError(
            "the sound has another sampling rate than the model",
            where="sampling_rate",
            expected=f"{extractor.sampling_rate} Hz",
            found=f"{sampling_rate} Hz",
            remedy=f"Pass the pair (source, {brief(sampling_rate)}) to have it resampled.",
        )
    tokenizer = cast("WhisperTokenizer", reader.tokenizer)
    listener = Listener(model, extractor, tokenizer, settings, **limits)
    words = [] if prompt is None else tokenizer.prompt_ids(prompt)[1:]
    condition = read_flag(condition_on_prev_tokens, "condition_on_prev_tokens")
    recording = open_recording(cast("AudioSource", source), listener.rate)
    return Stream(listener, recording, float(step), words, clock, condition=condition).words()


def _check(step: object, clock: object, limits: Mapping[str, object]) -> None:
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step < float("inf"):
        raise InputError("this is no length of time", where="step", expected="seconds above 0", found=brief(step))
    if not callable(clock):
        raise InputError("this tells no time", where="clock", expected="a function", found=brief(clock))
    for name, limit in limits.items():
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit != limit):
            raise InputError("this is no limit", where=name, expected="a number, or None", found=brief(limit))


class Hears(Protocol):
    """What hears windows of sound (:class:`~omniform.engine.hearing.listener.Listener`)."""

    @property
    def rate(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def positions(self) -> int: ...
    def hear(self, samples: Tensor, before: Sequence[int], said: Sequence[int]) -> Pass: ...
    def hear_whole(self, samples: Tensor, before: Sequence[int], said: Sequence[int]) -> Pass: ...


@dataclass(slots=True)
class _Arrivals:
    """When which part of a sound had come."""

    clock: Callable[[], float]
    times: deque[tuple[float, float]] = field(default_factory=deque)

    def came(self, seconds: float) -> None:
        """So much of the sound has come by now."""
        self.times.append((seconds, self.clock()))

    def since(self, seconds: float) -> float:
        """How long ago this place of the sound had come; places before it are not asked for any more."""
        self.forget(seconds)
        return max(0.0, self.clock() - self.times[0][1]) if self.times else 0.0

    def forget(self, seconds: float) -> None:
        """Places before this one are not asked for any more."""
        while len(self.times) > 1 and self.times[0][0] < seconds:
            self.times.popleft()


class Stream:
    """One sound while it is heard.

    Args:
        listener: hears windows of it.
        recording: reads it.
        step: seconds of new sound that a pass waits for.
        prompt: tokens that come before.
        clock: tells the time.
        condition: whether passes are told what was said before the sound that they hear.
    """

    def __init__(
        self,
        listener: Hears,
        recording: Recording,
        step: float,
        prompt: list[int],
        clock: Callable[[], float],
        *,
        condition: bool = False,
    ) -> None:
        self._listener, self._recording, self._clock = listener, recording, clock
        self._there = recording.again  # all of it, so that nothing is gained by hearing a part of a window first
        self._rate = listener.rate
        window = listener.window / self._rate
        self._step = min(step, window / 2)
        most = listener.positions // 4  # of the decoder's positions, what was said and will be needs the rest
        self._prompt, self._condition = prompt[-most:], condition
        self._agreement = Agreement(window, keep=window / 2, tail=window / 6, most_before=most, before=self._prompt)
        self._arrivals = _Arrivals(clock)
        self._kept = torch.zeros(0)
        self._came = self._fresh = 0  # samples so far, and those of them that the next pass hears first
        self._took = 0.0  # seconds that the last pass took

    def words(self) -> Iterator[Words]:
        """Words as they are settled, until the sound is over."""
        with self._recording:
            while True:
                ended, error = self._wait()
                yield from self._told(self._settled(ended), final=ended)
                if error is not None:
                    raise error
                if ended:
                    return
                if not self._there:
                    forced, gone = self._agreement.let_go(self._came / self._rate)
                    self._let_go(gone)
                    yield from self._told(forced)

    def _settled(self, ended: bool) -> list[SpokenWord]:
        """Words that are settled by what is kept now."""
        agreement = self._agreement
        if ended and not self._fresh:
            return agreement.settle_rest()
        if not self._there:
            return agreement.settle(self._pass(), final=ended)
        heard = self._listener.hear_whole(self._kept, self._before, agreement.said)
        if ended:
            return agreement.settle(heard, final=True)
        found, gone = agreement.settle_clear(heard, self._came / self._rate)
        self._let_go(gone)
        return found

    @property
    def _before(self) -> list[int]:
        """Tokens of what was said before the kept sound, where passes are told it; else of the prompt."""
        return self._agreement.before if self._condition else self._prompt

    def _let_go(self, seconds: float) -> None:
        self._kept = self._kept[round(seconds * self._rate) :].clone()
        self._arrivals.forget(self._agreement.start)

    def _wait(self) -> tuple[bool, Exception | None]:
        """Wait for new sound: gives whether the sound is over, and what it ended with, if that was an error."""
        room = self._listener.window - self._kept.shape[0]
        wanted = room if self._there else min(room, max(1, round(max(self._step, self._took) * self._rate)))
        each = max(1, -(-wanted // _PULLS))
        blocks: list[Tensor] = [self._kept]
        self._fresh = 0
        error: Exception | None = None
        ended = False
        while self._fresh < wanted and not ended:
            asked = min(each, wanted - self._fresh)
            try:
                block = self._recording.read(asked)
            except Exception as raised:  # whatever a source of the user's own raises
                if not self._came + self._fresh:
                    raise
                error, ended = raised, True
                break
            self._fresh += block.shape[0]
            ended = block.shape[0] < asked
            blocks.append(block)
            if block.shape[0]:
                self._arrivals.came((self._came + self._fresh) / self._rate)
        self._kept = torch.cat(blocks)
        self._came += self._fresh
        return ended, error

    def _pass(self) -> Pass:
        begun = self._clock()
        heard = self._listener.hear(self._kept, self._before, self._agreement.said)
        self._took = self._clock() - begun
        return heard

    def _told(self, words: list[SpokenWord], *, final: bool = False) -> Iterator[Words]:
        if words:
            delay = self._arrivals.since(min(words[-1].end, self._came / self._rate))
            yield Words(tuple(words), self._came / self._rate, delay, final)
