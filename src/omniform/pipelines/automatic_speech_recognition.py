"""What is said in a sound, with times where they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.batch import Batch
from omniform.core.errors import DependencyError, InputError, UnknownNameError, brief
from omniform.core.generation import GenerationConfig
from omniform.hub.auto import AutoModelForCTC, AutoModelForSpeechSeq2Seq, tasks_of
from omniform.hub.auto_inputs import Checkpoint
from omniform.hub.files import locate
from omniform.inputs.audio import FeatureExtractor, WhisperFeatureExtractor
from omniform.inputs.audio.spectrogram import RecordedSpectrogram
from omniform.inputs.processors import Wav2Vec2ProcessorWithLM
from omniform.inputs.processors.speech_lm import read_decoder
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.pipelines.base import ChunkPipeline, Params
from omniform.pipelines.batching import BatchSize, Inputs, Padding
from omniform.pipelines.hearing import READING, Hearing, row
from omniform.pipelines.recognizers import Output, recognizer
from omniform.pipelines.registry import Task
from omniform.pipelines.running import Run

if TYPE_CHECKING:
    from omniform.inputs.audio.recording import Recording
    from omniform.inputs.processors.speech_lm import BeamDecoder

log = logging.getLogger("omniform")

_OF_SOUND = ("raw", "array", "sampling_rate", "path", "bytes")


class AutomaticSpeechRecognitionPipeline(Hearing, ChunkPipeline):
    """Writes down what is said: ``{"text": ...}``, and ``"chunks"`` with times where they are asked for.

    A sound is as for :class:`~omniform.pipelines.hearing.Hearing`. A mapping may also have ``"stride": (left, right)``,
    samples that are heard and not written down; whatever else it holds stands in the answer as a list.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.hearing.Hearing`:
        chunk_length_s: cut the sound into parts of so many seconds, which overlap; by default it is heard as a whole.
        stride_length_s: the seconds by which parts overlap on either side, one number or two; a sixth of a part.
        return_timestamps: times of ``"char"`` or ``"word"`` for models that tell letters frame by frame; ``True`` or
            ``"word"`` for Whisper.
        return_language: the language of each chunk (Whisper).
        decoder_kwargs: options of ``pyctcdecode``'s ``decode_beams``.
        generate_kwargs: settings of ``generate``; they may also be given one by one.
        ignore_warning: do not warn that models that write are not made for parts.

    Args:
        decoder: a ``pyctcdecode.BeamSearchDecoderCTC``; by default the checkpoint's, where it has one.
    """

    _pipeline_calls_generate = True
    _load_tokenizer = True
    _default_generation_config = GenerationConfig(max_new_tokens=256, num_beams=5)

    def __init__(
        self,
        model: Model,
        feature_extractor: FeatureExtractor | None = None,
        tokenizer: Tokenizer | None = None,
        decoder: BeamDecoder | None = None,
        device: int | str | torch.device | None = None,
        **kwargs: object,
    ) -> None:
        tasks = (tasks_of(type(model)) or model.origin.architecture.tasks) if isinstance(model, Model) else ()
        self.decoder = decoder
        self.recognizer = recognizer(tasks, tokenizer, decoder)
        super().__init__(
            model, tokenizer=tokenizer, feature_extractor=feature_extractor, device=device, **kwargs  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def type(self) -> str:
        """What kind of model it is, as the ecosystem calls it."""
        return self.recognizer.name

    @property
    def frame(self) -> int:
        """Samples of one frame of the model's answers; 1 where the model says nothing of frames."""
        return cast(int, self.model.config.get("inputs_to_logits_ratio", 1))

    @classmethod
    def further_parts(cls, source: object, where: Mapping[str, object]) -> Params:
        """The checkpoint's model of words, where it has one and the packages for it are installed."""
        found = locate(source, **where)  # type: ignore[arg-type]
        try:
            kind = Checkpoint(found).processor_class()
        except UnknownNameError:
            return {}
        if kind is None or not issubclass(kind, Wav2Vec2ProcessorWithLM):
            return {}
        try:
            return {"decoder": read_decoder(found.gathered(kind.beside), found.name)}
        except DependencyError as error:
            log.warning("%s: its model of words is not used: %s", found.name, error)
            return {}

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        before = self.reading(given)
        for name in ("chunk_length_s", "stride_length_s"):
            if given.get(name) is not None:
                before[name] = given[name]
        if before.get("chunk_length_s") and "seq2seq" in self.type and not given.get("ignore_warning"):
            log.warning(
                "models that write are not made for parts of a sound (chunk_length_s): at their seams words may be "
                "lost. Whisper hears sounds of any length without. ignore_warning=True says nothing of it."
            )
        after: Params = {}
        if given.get("decoder_kwargs") is not None:
            after["decoder_kwargs"] = given["decoder_kwargs"]
        own = (*READING, *before, "chunk_length_s", "stride_length_s", "ignore_warning", "decoder_kwargs")
        forward = {name: value for name, value in given.items() if name not in (*own, *_BOTH, "generate_kwargs")}
        more = given.get("generate_kwargs") or {}
        if not isinstance(more, Mapping):
            raise InputError("settings come as a mapping", where="generate_kwargs", found=brief(more))
        forward = {**{str(name): value for name, value in more.items()}, **forward}
        self._helped(forward)
        self._told(given, forward, after)
        return before, forward, after

    def _helped(self, forward: Params) -> None:
        """Add the assistant, where there is one."""
        if not self.model.can_generate() or self.assistant_model is None:
            return
        forward["assistant_model"] = self.assistant_model
        if self.assistant_tokenizer is not None:
            forward |= {"tokenizer": self.tokenizer, "assistant_tokenizer": self.assistant_tokenizer}

    def _told(self, given: Params, forward: Params, after: Params) -> None:
        """Add what is told besides the text: times and languages."""
        if given.get("return_language") is not None:
            if self.type != "seq2seq_whisper":
                raise InputError("only Whisper tells the language", where="return_language", found=self.type)
            forward["return_language"] = after["return_language"] = given["return_language"]
        times = given.get("return_timestamps")
        if self.model.can_generate():
            times = times or self.model.generation_config.to_dict().get("return_timestamps") or times
        if times is not None:
            self.recognizer.check_times(times)
            after["return_timestamps"] = times
            if self.type == "seq2seq_whisper":
                forward["return_timestamps"] = times

    def is_plain_call(self, run: Run) -> bool:
        """Parts that are not batched are heard one after another, and none is kept."""
        return run.on_error == "raise" and run.batch_size == 1

    def preprocess(self, input_: object, **given: object) -> Iterator[Inputs]:  # type: ignore[override]
        """The features of a sound, or of its parts, which are read as they are needed."""
        named = {str(name): value for name, value in input_.items()} if isinstance(input_, Mapping) else {}
        stride = named.pop("stride", None)
        source = named or input_
        # One entry for each sound, in a batch or alone.
        extra = {name: [value] for name, value in named.items() if name not in _OF_SOUND}
        if given.get("chunk_length_s"):
            cut = Cut.of(given, self.rate, self.frame)
            with self.recording(source, given) as recording:
                for part in cut.parts(recording):
                    features = self.features(part.wave, return_attention_mask=True)
                    yield {"is_last": part.is_last, "stride": part.stride, **features, **extra}
            return
        wave = self._wave_or_recorded(source, given)
        if isinstance(wave, RecordedSpectrogram):
            length, features = wave.samples, Batch({"input_features": [wave]})
        else:
            length, features = len(wave), self.features(wave, return_attention_mask=True)
        whole: Params = {"is_last": True, **features, **extra}
        if stride is not None:
            whole["stride"] = self._stride(stride, named, length)
        yield whole

    def _wave_or_recorded(self, source: object, given: Params) -> Tensor | RecordedSpectrogram:
        """A sound; for Whisper one of several windows is read, and its features are made, as they are needed."""
        extractor = self.extractor
        if not isinstance(extractor, WhisperFeatureExtractor):
            return self.wave(source, given)
        recording = self.recording(source, given)
        begins = recording.read(extractor.n_samples + 1)
        if len(begins) <= extractor.n_samples:
            recording.close()
            return begins
        recording.rewind()
        return RecordedSpectrogram(recording, extractor)  # which keeps the file open until all of it was heard

    def together(self, chunks: Sequence[Inputs], size: BatchSize, padding: Padding) -> list[list[int]]:
        """As they come; but what Whisper hears in one window and what it goes through are two ways of hearing."""
        extractor = self.extractor
        if not isinstance(extractor, WhisperFeatureExtractor):
            return super().together(chunks, size, padding)
        long = [not isinstance(chunk["input_features"], Tensor) for chunk in chunks]
        apart = [[at for at, one in enumerate(long) if one is kind] for kind in (False, True)]
        return [
            [some[at] for at in batch]
            for some in apart
            for batch in Hearing.together(self, [chunks[at] for at in some], size, padding)
        ]

    def _stride(self, stride: object, sound: Params, length: int) -> Tensor:
        """How long a sound is, and how much of either side is only company, in samples. Shape: [1, 3]."""
        if self.type == "seq2seq":
            raise InputError("only models that tell letters frame by frame know strides", where="stride")
        if not isinstance(stride, (tuple, list)) or len(stride) != 2 or not all(isinstance(n, int) for n in stride):
            raise InputError("no stride", where="stride", expected="(left, right) in samples", found=brief(stride))
        ratio = self.rate / cast(int, sound.get("sampling_rate", self.rate))
        left, right = (round(side * ratio) for side in stride)
        if min(left, right) < 0 or left + right > length:
            raise InputError(
                "more is left out than there is", where="stride", expected=f"at most {length}", found=left + right
            )
        return row(length, left, right)

    def _forward(self, input_tensors: Inputs, **given: object) -> Output:
        features = ("input_values", "input_features", self.model.main_input, "attention_mask", "stride")
        output = self.recognizer.hear(self, input_tensors, given)
        extra = {name: value for name, value in input_tensors.items() if name not in (*features, "is_last")}
        return {"is_last": input_tensors["is_last"], **output, **extra}

    def postprocess(self, model_outputs: object, **given: object) -> dict[str, object]:
        """The text of a sound, of what the model made of its parts."""
        outputs = cast("list[Output]", model_outputs)
        told = self.recognizer.tell(self, outputs, given)
        extra: dict[str, list[object]] = {}
        for output in outputs:
            for name, value in output.items():
                if name not in _OWN:
                    extra.setdefault(name, []).append(value[0] if isinstance(value, list) else value)
        return {**told, **extra}


_BOTH = ("return_timestamps", "return_language")
_OWN = ("tokens", "logits", "is_last", "stride", "token_timestamps", "lang_id")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a sound.

    Attributes:
        wave: its samples. Shape: [samples].
        stride: how many these are, and how many on either side are only company. Shape: [1, 3].
        is_last: whether the sound ends with it.
    """

    wave: Tensor
    stride: Tensor
    is_last: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """How a sound is cut into parts that overlap.

    Attributes:
        length: samples of a part.
        left, right: how many of them are only company.
    """

    length: int
    left: int
    right: int

    @classmethod
    def of(cls, given: Params, rate: int, multiple: int) -> Cut:
        """By the options of a call.

        Args:
            multiple: samples that all lengths are multiples of.

        Raises:
            InputError: parts that do not go on, or no lengths.
        """
        seconds = _seconds("chunk_length_s", given["chunk_length_s"])
        sides = given.get("stride_length_s")
        if sides is None:
            sides = seconds / 6
        both = sides if isinstance(sides, (tuple, list)) else (sides, sides)
        if len(both) != 2:
            raise InputError("no stride", where="stride_length_s", expected="one number or two", found=brief(sides))
        lengths = (seconds, *(_seconds("stride_length_s", side) for side in both))
        length, left, right = (round(one * rate / multiple) * multiple for one in lengths)
        if length <= left + right:
            raise InputError(
                "parts are longer than what they share with others",
                where="stride_length_s",
                expected=f"less than {seconds:g} seconds, both sides together",
                found=f"{(left + right) / rate:g} seconds",
            )
        return cls(length, left, right)

    def parts(self, recording: Recording) -> Iterator[Part]:
        """The parts of a sound, in order; one of them is in memory, and a sample that tells whether there are more."""
        step, left = self.length - self.left - self.right, 0
        held = recording.read(self.length + 1)
        while True:
            part, is_last = held[: self.length], len(held) <= self.length
            if len(part) > left:
                yield Part(part, row(len(part), left, 0 if is_last else self.right), is_last)
            if is_last:
                return
            held, left = torch.cat([held[step:], recording.read(step)]), self.left


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise InputError("no length of time", where=name, expected="seconds", found=brief(value))
    return float(value)


TASKS = (
    Task(
        name="automatic-speech-recognition",
        pipeline=AutomaticSpeechRecognitionPipeline,
        models=(AutoModelForCTC, AutoModelForSpeechSeq2Seq),
        kind="multimodal",
        inferred=("ctc", "speech-seq2seq"),
    ),
)

__all__ = ["TASKS", "AutomaticSpeechRecognitionPipeline"]
