"""``omniform run --audio``: sounds written down as they are heard: lines with times, subtitles, tables, a picture."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from omniform.architectures.fusion import MultimodalLM
from omniform.architectures.model import Model
from omniform.architectures.speech import SpeechToText
from omniform.cli.written import replaced, save_picture, target_of
from omniform.core.errors import InputError
from omniform.core.spoken import SpokenWord
from omniform.core.subtitles import FORMS, Said, Stretch, as_dict, readable_clock, subtitles
from omniform.engine.calls import Reader
from omniform.engine.hearing.hear import hear
from omniform.hub.auto import tasks_of
from omniform.inputs.audio.load import open_recording

PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
"""What a spectrogram may be written as."""

CHUNK: Final = 20.0
"""Seconds that a model of letters hears at once, with a fifth of it at either side for company."""

LONG: Final = 10.0
"""Seconds of sound above which a bar says how far it is."""

Progress = Callable[[float, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What becomes of what was said.

    Attributes:
        form: one of :data:`~omniform.core.subtitles.FORMS`; None for lines with times, to be read.
        target: a file of that form, or a picture; None for standard output.
        as_json: whether one JSON object tells all, with timings.
    """

    form: str | None = None
    target: Path | None = None
    as_json: bool = False

    @classmethod
    def of(cls, form: str | None, save: str | None, *, as_json: bool) -> Telling:
        """What ``--format``, ``--save`` and ``--json`` say together.

        Raises:
            InputError: they exclude each other, or there is no such kind of file.
            RepoError: the file's folder is not there.
        """
        if form is not None and as_json:
            raise InputError("--json and --format exclude each other", remedy="Leave one out.")
        if save is None:
            return cls(form=form, as_json=as_json)
        texts = tuple(f".{name}" for name in FORMS)
        ends = Path(save).suffix.lower()
        if form is not None and ends not in PICTURES:
            target = target_of(save, (ends,), where="--save", what="a transcript")
            return cls(form=form, target=target, as_json=as_json)
        target = target_of(save, (*texts, *PICTURES), where="--save", what="a transcript or a spectrogram")
        return cls(form=form if ends in PICTURES else ends[1:], target=target, as_json=as_json)

    @property
    def draws(self) -> bool:
        """Whether a picture is drawn."""
        return self.target is not None and self.target.suffix.lower() in PICTURES

    @property
    def wants_words(self) -> bool:
        """Whether times of words are of use."""
        return self.draws or self.as_json or self.form not in (None, "txt", "tsv")


def listens(model: Model) -> bool:
    """Whether a model writes down what it hears, asked nothing; one that reads sounds among words is asked for it."""
    if isinstance(model, MultimodalLM):
        return False
    does = tasks_of(type(model)) or model.origin.architecture.tasks
    return isinstance(model, SpeechToText) or "ctc" in does or "speech-seq2seq" in does


def listen_command(
    model: Model,
    reader: Reader,
    source: str | bytes,
    settings: Mapping[str, object],
    telling: Telling,
    *,
    name: str,
    load_seconds: float,
) -> None:
    """Hear a sound and tell what was said, as it is heard.

    Args:
        source: a file, an address, or what stands in a file.
        settings: of the writing, and the language and the task.
        name: of the model, for JSON.
        load_seconds: it took to load it.

    Raises:
        OmniformError: the sound cannot be read, or the model knows nothing of what is asked.
    """
    bar = Bar(shown=sys.stderr.isatty())
    started = time.perf_counter()
    heard = _heard(model, reader, source, settings, telling, bar)
    try:
        said = _told(heard, telling, bar, {"file": source if isinstance(source, str) else "-", "model": name})
    finally:
        bar.end()
    took = time.perf_counter() - started
    if telling.draws:
        _draw(source, said, cast(Path, telling.target))
    if telling.as_json:
        whole = {
            "answer": "".join(one.text for one in said).strip(),
            "model": name,
            "architecture": model.origin.architecture.name,
            "seconds": bar.seconds,
            "segments": [{"id": i, **as_dict(one)} for i, one in enumerate(said)],
            "timings": {"load_s": round(load_seconds, 4), "total_s": round(took, 4)},
        }
        print(json.dumps(whole, ensure_ascii=False))
    elif telling.target is not None:
        speed = f", {bar.seconds / took:.1f} times as fast as it is heard" if bar.seconds else ""
        of = f"{len(said)} stretch{'es' * (len(said) != 1)} of speech"
        print(f"{telling.target}: {of} in {readable_clock(bar.seconds)}{speed}")
    elif not said:
        print("omniform: nothing was said", file=sys.stderr)


def _told(heard: Iterator[Stretch], telling: Telling, bar: Bar, facts: Mapping[str, object]) -> list[Stretch]:
    """Write what was said where it belongs, piece by piece; gives all of it."""
    said: list[Stretch] = []

    def noted() -> Iterator[Stretch]:
        for one in heard:
            said.append(one)
            yield one

    if telling.as_json or (telling.draws and telling.form is None):
        for _ in noted():
            pass
    elif telling.target is not None and not telling.draws:
        with replaced(telling.target) as file:
            for piece in subtitles(noted(), cast(str, telling.form), facts):
                file.write(piece.encode())
    elif telling.form is not None:
        for piece in subtitles(noted(), telling.form, facts):
            bar.aside(piece)
    else:
        for one in noted():
            when = "" if one.start is None or one.end is None else f"{_span(one.start, one.end)}  "
            bar.aside(f"{when}{one.text.strip()}\n")
    return said


def _span(start: float, end: float) -> str:
    return f"{readable_clock(start)} - {readable_clock(end)}"


class Bar:
    """Says on a terminal how far a long sound has been heard, and how much faster than it lasts.

    Args:
        shown: whether there is somebody to see it.
    """

    def __init__(self, *, shown: bool) -> None:
        self.seconds = 0.0
        self._shown, self._drawn, self._begun = shown, False, time.perf_counter()

    def __call__(self, heard: float, seconds: float) -> None:
        """So much of so much was heard."""
        self.seconds = seconds
        if not self._shown or seconds < LONG:
            return
        took = time.perf_counter() - self._begun
        width = 24
        full = round(width * heard / seconds) if seconds else width
        line = f"{'#' * full}{'.' * (width - full)} {readable_clock(heard)} of {readable_clock(seconds)}"
        print(f"\r\x1b[K{line}, {heard / max(took, 1e-9):.1f}x", end="", file=sys.stderr, flush=True)
        self._drawn = True

    def aside(self, text: str) -> None:
        """Print something that stays, above the bar."""
        self.end()
        print(text, end="", flush=True)

    def end(self) -> None:
        """Take it away."""
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._drawn = False


def _heard(
    model: Model, reader: Reader, source: str | bytes, settings: Mapping[str, object], telling: Telling, bar: Bar
) -> Iterator[Stretch]:
    if isinstance(model, SpeechToText):
        words = telling.wants_words
        return hear(model, reader, source, words=words, progress=bar, **dict(settings))  # type: ignore[arg-type]
    return _recognised(model, source, settings, telling, bar)


def _recognised(
    model: Model, source: str | bytes, settings: Mapping[str, object], telling: Telling, bar: Bar
) -> Iterator[Stretch]:
    """What a model other than Whisper's kin hears: letters with their times, or a text without."""
    from omniform.pipelines import pipeline
    from omniform.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline

    where = model.name_or_path
    parts = {"tokenizer": where, "feature_extractor": where}
    searched = AutomaticSpeechRecognitionPipeline.further_parts(where, {})  # a model of words, where there is one
    pipe = pipeline("automatic-speech-recognition", model, **parts, **searched)  # type: ignore[arg-type]
    assert isinstance(pipe, AutomaticSpeechRecognitionPipeline)
    with open_recording(source, pipe.rate) as recording:
        seconds = recording.seconds or 0.0
    if "ctc" not in pipe.type:
        if telling.form in ("srt", "vtt", "tsv"):
            raise InputError("this model tells no times", where=f"--format {telling.form}", remedy="Ask for txt.")
        answer = cast("dict[str, object]", pipe(source, generate_kwargs=dict(settings)))
        bar(seconds, seconds)
        yield Said(text=str(answer["text"]), start=0.0, end=seconds)
        return
    if settings:
        raise InputError("this model writes letters as it hears them", where="settings", found=", ".join(settings))
    answer = cast("dict[str, object]", pipe(source, chunk_length_s=CHUNK, return_timestamps="word"))
    bar(seconds, seconds)
    yield from grouped(cast("list[Mapping[str, object]]", answer["chunks"]))


def grouped(chunks: Sequence[Mapping[str, object]], pause: float = 1.0, longest: float = 15.0) -> Iterator[Said]:
    """Words with their times as stretches: cut where there is silence, and where one gets long."""
    held: list[SpokenWord] = []
    for chunk in chunks:
        start, end = cast("tuple[float, float]", chunk["timestamp"])
        word = SpokenWord(f" {str(chunk['text']).strip()}", start, end)
        if held and (start - held[-1].end > pause or end - held[0].start > longest):
            yield _stretch(held)
            held = []
        held.append(word)
    if held:
        yield _stretch(held)


def _stretch(words: Sequence[SpokenWord]) -> Said:
    text = "".join(word.text for word in words)
    return Said(text=text, start=words[0].start, end=words[-1].end, words=tuple(words))


def _draw(source: str | bytes, said: Sequence[Stretch], target: Path) -> None:
    """Draw the sound and what was said in it."""
    from omniform.pipelines.drawing.spectrogram import draw_spectrogram

    rate = 16_000
    words = [word for one in said for word in (one.words or (SpokenWord(one.text, one.start or 0.0, one.end or 0.0),))]
    with open_recording(source, rate) as recording:
        seconds = recording.seconds
        if seconds is None:  # nothing says it before all is read
            seconds = sum(len(block) for block in recording.blocks(rate)) / rate
            recording.rewind()
        picture = draw_spectrogram(recording.blocks(30 * rate), rate, seconds, words)
    save_picture(picture, target)
