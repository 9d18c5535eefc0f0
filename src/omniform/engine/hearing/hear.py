"""One whole sound to one model: what was said in it, stretch by stretch, as it is understood."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from torch import Tensor

from omniform.architectures.model import Model
from omniform.architectures.speech import SpeechToText
from omniform.core.errors import InputError, brief
from omniform.core.spoken import SpokenWord, Utterance
from omniform.engine.calls import Reader
from omniform.engine.hearing.alignment import heads_of
from omniform.engine.hearing.asked import Hearing
from omniform.engine.hearing.generate import Call, Windows, drive, engine_for
from omniform.engine.hearing.listener import spans_of
from omniform.engine.hearing.segments import Segment
from omniform.engine.hearing.session import Ear, Session, Sound
from omniform.engine.hearing.takes import Caller
from omniform.inputs.audio.load import open_recording
from omniform.inputs.audio.recording import Recording
from omniform.inputs.audio.spectrogram import RecordedSpectrogram
from omniform.inputs.processors import WhisperProcessor

if TYPE_CHECKING:
    from omniform.inputs.audio import WhisperFeatureExtractor
    from omniform.inputs.audio.load import AudioSource
    from omniform.inputs.media_access import MediaAccess
    from omniform.inputs.text.whisper import WhisperTokenizer

USUAL: Final[Mapping[str, object]] = {
    "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
    "seed": 0,
}
"""How a sound is heard, if nobody says otherwise: as the authors of Whisper do it, and alike each time.

The ratio is of the bytes of tokens, as in the ecosystem, where the authors' 2.4 is of the text's."""

_BEFORE: Final = "<|startofprev|>"
"""What was said before stands behind it."""

_OURS: Final = ("return_segments", "return_dict_in_generate", "monitor_progress", "force_unique_generate_call")


@dataclass(frozen=True, slots=True)
class Filled:
    """A sound of a window at most, with silence behind it, as in training.

    Attributes:
        features: of all of it. Shape: [1, mel bins, frames].
        frames: those that are sound.
    """

    model: SpeechToText
    features: Tensor
    frames: int

    @property
    def held(self) -> int:
        return self.features.shape[2]

    def window(self, first: int, frames: int) -> Mapping[str, Tensor]:
        return {"input_features": self.model.listener.window_of(self.features, first)}


def hear(
    model: Model,
    reader: Reader,
    source: AudioSource | Recording,
    *,
    words: bool = False,
    progress: Callable[[float, float], object] | None = None,
    media_access: MediaAccess | None = None,
    **settings: object,
) -> Iterator[Utterance]:
    """Hear a whole sound of any length, and tell what was said as it is understood.

    Windows are read as they are needed, and their features made then, so that the memory stays the same however long
    the sound is.

    Args:
        model: hears speech and writes it down (Whisper and its kin).
        reader: its processor.
        source: whatever :func:`~omniform.inputs.audio.load.open_recording` takes, but for what comes only once; or a
            recording, which is heard from its beginning on.
        words: tell when each word was said, too, by the ``alignment_heads`` that the checkpoint names, else by all of
            its upper half.
        progress: is told after each window how many seconds were heard, and of how many.
        media_access: what may be read; by default every local file and public addresses.
        settings: of ``generate``, over :data:`USUAL`: ``language``, ``task``, ``condition_on_prev_tokens``...

    Yields:
        What was said, in order. A checkpoint without timestamps tells of each window as a whole.

    Raises:
        InputError: a model that does not hear speech, a sound that cannot be used, or a setting that cannot be.
        RepoError: a file or address that cannot be read.
    """
    able = able_to_hear(model)
    if not isinstance(reader, WhisperProcessor):
        raise InputError("this is not Whisper's processor", where="reader", found=brief(reader))
    if isinstance(source, Recording):
        return heard(able, reader, source, settings, words=words, progress=progress)
    extractor = cast("WhisperFeatureExtractor", reader.feature_extractor)
    recording = open_recording(source, extractor.sampling_rate, media_access=media_access)
    return _closed(recording, heard(able, reader, recording, settings, words=words, progress=progress))


def able_to_hear(model: Model) -> SpeechToText:
    """The model, if it hears speech and writes it down.

    Raises:
        InputError: it does not.
    """
    if not isinstance(model, SpeechToText):
        raise InputError(
            f"a {type(model).__name__} does not write down speech",
            where="model",
            remedy="Load the checkpoint with AutoModelForSpeechSeq2Seq, if it is one of speech.",
        )
    return model


def _closed(recording: Recording, utterances: Iterator[Utterance]) -> Iterator[Utterance]:
    with recording:
        yield from utterances


def heard(
    model: SpeechToText,
    reader: WhisperProcessor,
    recording: Recording,
    settings: Mapping[str, object],
    *,
    words: bool,
    progress: Callable[[float, float], object] | None,
) -> Iterator[Utterance]:
    """Hear a recording from its beginning on; see :func:`hear`."""
    wrong = [name for name in _OURS if settings.get(name) is not None]
    if wrong:
        raise InputError("what is heard is told in one way here", where=", ".join(wrong), remedy="Call model.generate.")
    return _heard(model, reader, recording, settings, words, progress)


def _heard(
    model: SpeechToText,
    reader: WhisperProcessor,
    recording: Recording,
    settings: Mapping[str, object],
    words: bool,
    progress: Callable[[float, float], object] | None,
) -> Iterator[Utterance]:
    extractor = cast("WhisperFeatureExtractor", reader.feature_extractor)
    tokenizer = cast("WhisperTokenizer", reader.tokenizer)
    sound, seconds = _sound(model, extractor, recording)
    call = Call(model, _asked(model, tokenizer, settings, words=words), None, sounds=[sound])
    limits = call.limits()
    engine = engine_for(model, 1, limits.beams, whole_steps=False)
    caller = Caller(model, engine, call.layers, None, None)
    opening = call.openings(engine, caller, [sound])[0]
    ear = Ear(sound, opening, call.lead(), call.how.begins_conditioned, sound.frames)
    seed = cast("int | None", call.asked.values["seed"])
    session = Session(model, caller, call.how, [ear], limits, long=True, seed=seed)
    teller = Teller(tokenizer, opening, call.how)
    told = 0
    for _ in drive(engine, [session]):
        by_now = seconds if ear.over else ear.seek * extractor.hop_length / extractor.sampling_rate
        if progress is not None:
            progress(by_now, seconds)
        fresh, told = ear.segments[told:], len(ear.segments)
        for segment in fresh:
            utterance = teller.told(segment, by_now, seconds)
            if utterance.text.strip():
                yield utterance


def _asked(
    model: SpeechToText, tokenizer: WhisperTokenizer, settings: Mapping[str, object], *, words: bool
) -> dict[str, object]:
    """All settings of ``generate`` that a sound is heard by."""
    known = model.generation_config.to_dict()
    asked = {**USUAL, **settings}
    if words:
        heads = asked.get("alignment_heads") or known.get("alignment_heads")
        asked |= {"return_token_timestamps": True, "alignment_heads": heads_of(model.decoder, heads)}
    new, most = asked.get("max_new_tokens"), cast(int, model.max_positions)
    if not isinstance(new, int) or new > most // 2:  # what was said before may take the other half
        asked["max_new_tokens"] = None
        asked.setdefault("max_length", most)
    mark = tokenizer.token_id(_BEFORE)
    if known.get("prev_sot_token_id") is None and mark is not None and tokenizer.id_token(mark) == _BEFORE:
        asked.setdefault("prev_sot_token_id", mark)
    stamped = known.get("no_timestamps_token_id") is not None
    unsure = asked["logprob_threshold"] is None and "no_speech_threshold" not in settings
    if not stamped or unsure:
        # Which token says so is told by where timestamps begin, and whether it is right by how likely the text is.
        asked["no_speech_threshold"] = None
    return {**asked, "return_timestamps": stamped}


def _sound(model: SpeechToText, extractor: WhisperFeatureExtractor, recording: Recording) -> tuple[Sound, float]:
    """A recording for the model's encoder, and how many seconds it has."""
    if extractor.nb_max_frames != model.listener.window:
        raise InputError(
            "the feature extractor makes other windows than the encoder hears",
            where="reader",
            expected=f"{model.listener.window} frames",
            found=f"{extractor.nb_max_frames} frames",
        )
    if recording.position:
        recording.rewind()
    samples = recording.read(extractor.n_samples + 1)
    if samples.shape[0] <= extractor.n_samples:
        rate = extractor.sampling_rate
        features = extractor(samples, sampling_rate=rate, return_tensors="pt")["input_features"]
        frames = max(1, -(-samples.shape[0] // extractor.hop_length))
        whole = cast(Tensor, features).to(model.device, model.dtype)
        return Filled(model, whole, min(frames, model.listener.window)), samples.shape[0] / rate
    if recording.again:
        recording.rewind()
    found = RecordedSpectrogram(recording, extractor)
    return Windows(model, found), found.seconds


class Teller:
    """Makes utterances of segments.

    Args:
        tokenizer: reads them.
        opening: what answers begin with, which tells the language.
        how: what is asked for.
    """

    def __init__(self, tokenizer: WhisperTokenizer, opening: Sequence[int], how: Hearing) -> None:
        self._tokenizer = tokenizer
        self._how = how
        self._special = frozenset(tokenizer.all_special_ids)
        names = (tokenizer.id_token(token) or "" for token in opening[1:2])
        self._language = next((n[2:-2] for n in names if n.startswith("<|") and n != "<|notimestamps|>"), None)

    def told(self, segment: Segment, heard: float, seconds: float) -> Utterance:
        """A segment as an utterance."""
        tokens = segment.tokens.tolist()
        places = [i for i, t in enumerate(tokens) if t not in self._special and t < self._how.first_stamp]
        said = [tokens[i] for i in places]
        start, end = (min(float(moment), seconds) for moment in (segment.span or (segment.start, segment.end)))
        text = str(self._tokenizer.decode(said, skip_special_tokens=True)) if said else ""
        found: tuple[SpokenWord, ...] = ()
        if segment.token_times is not None and said:
            # A token's number says where the next one begins.
            ends = [min(max(float(segment.token_times[i]), start), end) for i in places]
            begins = float(segment.token_times[places[0] - 1]) if places[0] else start
            groups = self._tokenizer.words_of(said, self._language)
            spans = spans_of(groups, [min(max(begins, start), ends[0]), *ends], fresh=True)
            found = tuple(SpokenWord(word.text, *span) for word, span in zip(groups, spans, strict=True))
        return Utterance(text, start, end, tuple(said), found, self._language, heard, seconds)
