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
from omniform.core.spoken import SpokenWord, Utterance, Words
from omniform.engine.hearing.agreement import Agreement, Pass
from omniform.engine.hearing.hear import able_to_hear, heard
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

_LIMITS = ("no_speech_threshold", "logprob_threshold", "compression_ratio_threshold")
_PULLS = 10  # so many times within a step the source is asked for more sound


def transcribe(
    model: Model,
    source: AudioSource | Iterator[object] | tuple[Iterator[object], int],
    *,
    processor: WhisperProcessor | None = None,
    sampling_rate: int | None = None,
    step: float = 1.0,
    prompt: str | None = None,
    condition_on_prev_tokens: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
    **settings: object,
) -> Iterator[Words]:
    """Write down what is said, while it is being said if need be.

    Of a stream, every ``step`` seconds of new sound are heard together with what came before; words that two such
    passes agree on are settled, and given with their times and their delay. What can be read again, a file or samples,
    is heard as :func:`~omniform.engine.hearing.hear.hear` does it, with the same settings, and its words come utterance
    by utterance. The memory stays the same however long the sound is.

    Args:
        model: hears speech and writes it down (Whisper and its kin).
        source: an iterator of blocks as they come from a microphone, at the model's sampling rate; a pair of it and its
            rate, to be resampled; or a file or samples, as :func:`~omniform.inputs.audio.load.open_recording` takes.
        processor: the checkpoint's; read from where the model is from, if it is left out.
        sampling_rate: of samples and blocks that do not say theirs, in Hz, to be checked.
        step: seconds of new sound of a stream that a pass waits for; as long as a pass takes, where that is longer.
        prompt: names and words to expect.
        condition_on_prev_tokens: tell passes what was said before the sound that they hear, beyond its first words.
            That keeps the spelling of names, and with some models mistakes that repeat themselves. Left out: of a
            stream they are not told, of a file as ``generation_config.json`` says.
        clock: tells the time, in seconds.
        settings: of ``generate``: ``language``, ``task``, ``suppress_tokens``... And what is not to be believed: what
            is more likely no speech than ``no_speech_threshold`` (0.6) and less likely text than ``logprob_threshold``
            (-1.0), or compresses better than ``compression_ratio_threshold``, since it repeats itself (a stream's text
            2.4 times, a file's tokens 1.35 times); None: all is. Of a file such text is written anew at higher
            temperatures, where somebody speaks.

    Yields:
        Words that are settled, as often as there are any. If a stream fails, what was heard until then is settled and
        given first.

    Raises:
        InputError: a model that does not hear speech, a sound that cannot be used, or an option that cannot be.
    """
    able = able_to_hear(model)
    reader = AutoProcessor.from_pretrained(model.name_or_path) if processor is None else processor
    if not isinstance(reader, WhisperProcessor):
        raise InputError("this is not Whisper's processor", where="processor", found=brief(reader))
    limits = cast("dict[str, float | None]", {name: settings.pop(name) for name in _LIMITS if name in settings})
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
    if prompt is not None and settings.get("prompt_ids") is not None:
        raise InputError("the prompt is given twice", where="prompt_ids", expected="one of prompt and this name")
    words = [] if prompt is None else tokenizer.prompt_ids(prompt)
    told = None if condition_on_prev_tokens is None else read_flag(condition_on_prev_tokens, "condition_on_prev_tokens")
    recording = open_recording(cast("AudioSource", source), extractor.sampling_rate)
    if not recording.again:
        listener = Listener(able, extractor, tokenizer, settings, **limits)
        return Stream(listener, recording, float(step), words[1:], clock, condition=bool(told)).words()
    asked: dict[str, object] = {**settings, **limits}
    if words:
        asked["prompt_ids"] = words[:1] + words[1:][-((able.max_positions or 448) // 4) :]
    if told is not None:
        asked["condition_on_prev_tokens"] = told
    return _whole(able, reader, recording, asked, clock)


def _whole(
    model: SpeechToText,
    reader: WhisperProcessor,
    recording: Recording,
    settings: Mapping[str, object],
    clock: Callable[[], float],
) -> Iterator[Words]:
    """The words of what can be read again, as its utterances come."""
    rounds = _Rounds(clock)
    last: Utterance | None = None
    with recording:
        for utterance in heard(model, reader, recording, settings, words=True, progress=rounds.over):
            if last is not None:
                yield rounds.told(last)
            last = utterance
            if utterance.heard < utterance.seconds:  # else it may be the last of all
                yield rounds.told(utterance)
                last = None
            rounds.go_on()
        if last is not None:
            yield rounds.told(last, final=True)


class _Rounds:
    """When the window that was heard last was read.

    Args:
        clock: tells the time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = self._next = clock()

    def over(self, heard: float, seconds: float) -> None:
        """A window was heard, and the next is read now."""
        self._begun, self._next = self._next, self._clock()

    def go_on(self) -> None:
        """Whoever listens asks for more, so that the next window is read no earlier."""
        self._next = self._clock()

    def told(self, utterance: Utterance, *, final: bool = False) -> Words:
        """What was said in that window, told now."""
        words = tuple(SpokenWord(word.text, round(word.start, 2), round(word.end, 2)) for word in utterance.words)
        return Words(words, utterance.heard, max(0.0, self._clock() - self._begun), final)


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
    """One stream of sound while it is heard.

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
                forced, gone = self._agreement.let_go(self._came / self._rate)
                self._kept = self._kept[round(gone * self._rate) :].clone()
                self._arrivals.forget(self._agreement.start)
                yield from self._told(forced)

    def _settled(self, ended: bool) -> list[SpokenWord]:
        """Words that are settled by what is kept now."""
        if ended and not self._fresh:
            return self._agreement.settle_rest()
        return self._agreement.settle(self._pass(), final=ended)

    @property
    def _before(self) -> list[int]:
        """Tokens of what was said before the kept sound, where passes are told it; else of the prompt."""
        return self._agreement.before if self._condition else self._prompt

    def _wait(self) -> tuple[bool, Exception | None]:
        """Wait for new sound: gives whether the sound is over, and what it ended with, if that was an error."""
        room = self._listener.window - self._kept.shape[0]
        wanted = min(room, max(1, round(max(self._step, self._took) * self._rate)))
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
