"""How a recognizer's answers become text: letters frame by frame, letters searched for words, and written texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.audio import WhisperFeatureExtractor
from omniform.inputs.text.ctc import Letter, SpeechOptions, SpeechTokenizer, Wav2Vec2CTCTokenizer, Word
from omniform.inputs.text.whisper import WhisperTokenizer
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import needed, scores_of
from omniform.pipelines.hearing import row

if TYPE_CHECKING:
    Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
    from omniform.inputs.processors.speech_lm import BeamDecoder
    from omniform.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline

Times = bool | Literal["char", "word"]
"""Of what times are told: of stretches, letters or words."""

Output = dict[str, object]
"""What a model made of one part of a sound."""


class Chunk(TypedDict):
    """A stretch of a text, and when it begins and ends, in seconds."""

    text: str
    timestamp: tuple[float | None, float | None]


class Recognizer(ABC):
    """What a pipeline does with one kind of model.

    Attributes:
        name: as the ecosystem calls the kind.
        times: what times can be told of.
    """

    name: str
    times: tuple[Times, ...]

    def check_times(self, asked: object) -> None:
        """Refuse times that are not known.

        Raises:
            InputError: of this no times can be told.
        """
        if not isinstance(asked, (bool, str)) or asked not in self.times:
            raise InputError(
                "of this the model knows no times",
                where="return_timestamps",
                expected=" or ".join(map(repr, self.times)) or "none",
                found=brief(asked),
            )

    @abstractmethod
    def hear(self, pipe: AutomaticSpeechRecognitionPipeline, inputs: Inputs, asked: Params) -> Output:
        """What the model makes of features, an entry for each row."""

    @abstractmethod
    def tell(
        self, pipe: AutomaticSpeechRecognitionPipeline, outputs: Sequence[Output], asked: Params
    ) -> Mapping[str, object]:
        """The text of the parts of a sound, with ``chunks`` where times were asked for."""


class Letters(Recognizer):
    """Connectionist temporal classification: the likeliest letter of each frame."""

    name = "ctc"
    times: tuple[Times, ...] = ("char", "word")

    def hear(self, pipe: AutomaticSpeechRecognitionPipeline, inputs: Inputs, asked: Params) -> Output:
        if asked:
            raise InputError(
                "a model that tells letters frame by frame does not generate",
                where="generate_kwargs",
                found=brief(asked),
            )
        main = pipe.model.main_input
        given = {name: inputs[name] for name in (main, "attention_mask") if name in inputs}
        found = self.of_frames(scores_of(pipe.model(**given), "BTV"))
        if "stride" in inputs:
            found["stride"] = torch.cat([row(*in_frames(one, pipe.frame)) for one in numbers(inputs["stride"])])
        return found

    def of_frames(self, logits_BTV: Tensor) -> Output:
        """What is kept of each frame."""
        return {"tokens": logits_BTV.argmax(dim=-1)}

    def tell(
        self, pipe: AutomaticSpeechRecognitionPipeline, outputs: Sequence[Output], asked: Params
    ) -> Mapping[str, object]:
        ids = np.concatenate([within(output, "tokens") for output in outputs])
        reader = needed(pipe.tokenizer)
        times = asked.get("return_timestamps")
        if not times:
            return {"text": reader.decode(ids.tolist())}
        if not isinstance(reader, Wav2Vec2CTCTokenizer if times == "word" else SpeechTokenizer):
            raise InputError(
                f"the tokenizer tells no times of a {times}", where="tokenizer", found=type(reader).__name__
            )
        more: SpeechOptions = {"output_word_offsets": True} if times == "word" else {"output_char_offsets": True}
        read = reader.decode(ids.tolist(), **more)
        assert not isinstance(read, (str, list))
        spans = cast("list[Letter | Word]", read.word_offsets if times == "word" else read.char_offsets)
        return {"text": read.text, "chunks": timed(pipe, spans, str(times))}


class SearchedLetters(Letters):
    """The same, searched by beams with a model of words.

    Args:
        decoder: what searches.
    """

    name = "ctc_with_lm"
    times: tuple[Times, ...] = ("word",)

    def __init__(self, decoder: BeamDecoder) -> None:
        self.decoder = decoder

    def of_frames(self, logits_BTV: Tensor) -> Output:
        return {"logits": logits_BTV}

    def tell(
        self, pipe: AutomaticSpeechRecognitionPipeline, outputs: Sequence[Output], asked: Params
    ) -> Mapping[str, object]:
        logits = np.concatenate([within(output, "logits") for output in outputs])
        options = cast("Params", asked.get("decoder_kwargs") or {})
        text, _, frames = self.decoder.decode_beams(logits, **options)[0][:3]
        if not asked.get("return_timestamps"):
            return {"text": text}
        spans = cast("Sequence[tuple[str, tuple[int, int]]]", frames)
        words: list[Letter | Word] = [Word(word=word, start_offset=a, end_offset=b) for word, (a, b) in spans]
        return {"text": text, "chunks": timed(pipe, words, "word")}


class Writer(Recognizer):
    """An encoder-decoder that writes what it heard."""

    name = "seq2seq"
    times: tuple[Times, ...] = ()

    def check_times(self, asked: object) -> None:
        if asked:
            super().check_times(asked)

    def hear(self, pipe: AutomaticSpeechRecognitionPipeline, inputs: Inputs, asked: Params) -> Output:
        return {"tokens": sequences_of(self.written(pipe, inputs, asked))}

    def written(self, pipe: AutomaticSpeechRecognitionPipeline, inputs: Inputs, asked: Params) -> object:
        """What ``generate`` gives."""
        name = next((name for name in ("input_features", "input_values") if name in inputs), None)
        if name is None:
            raise InputError(
                "the features are of no model that writes", where="feature_extractor", found=brief([*inputs])
            )
        given: Params = {pipe.model.main_input: _flat(inputs[name]), **pipe._prepare_generate_kwargs(asked)}
        if inputs.get("attention_mask") is not None:
            given.setdefault("attention_mask", inputs["attention_mask"])
        return pipe.model.generate(**given)

    def tell(
        self, pipe: AutomaticSpeechRecognitionPipeline, outputs: Sequence[Output], asked: Params
    ) -> Mapping[str, object]:
        ids = np.concatenate([cast(Tensor, output["tokens"])[0].numpy() for output in outputs])
        return {"text": needed(pipe.tokenizer).decode(ids.tolist(), skip_special_tokens=True)}


class WhisperWriter(Writer):
    """Whisper, which writes times among its words."""

    name = "seq2seq_whisper"
    times: tuple[Times, ...] = (True, False, "word")

    def hear(self, pipe: AutomaticSpeechRecognitionPipeline, inputs: Inputs, asked: Params) -> Output:
        asked = dict(asked)
        times, language = asked.pop("return_timestamps", None), asked.pop("return_language", None)
        if times:
            asked["return_timestamps"] = True
        if times == "word":
            asked |= {"return_token_timestamps": True, "return_segments": True}
        if language:
            asked["return_segments"] = True
        found = self.written(pipe, inputs, asked)
        output: Output = {"tokens": sequences_of(found)}
        segments = _entry(found, "segments")
        if times == "word":
            output["token_timestamps"] = _times(found, segments)
        if language and segments is not None:
            known = {*cast("Mapping[str, int]", pipe.model.generation_config.to_dict().get("lang_to_id", {})).values()}
            output["lang_id"] = [_language(one, known) for one in cast("Sequence[Sequence[object]]", segments)]
        if "stride" in inputs:
            output["stride"] = inputs["stride"]
        return output

    def tell(
        self, pipe: AutomaticSpeechRecognitionPipeline, outputs: Sequence[Output], asked: Params
    ) -> Mapping[str, object]:
        reader = needed(pipe.tokenizer)
        extractor = pipe.extractor
        assert isinstance(reader, WhisperTokenizer)
        if not isinstance(extractor, WhisperFeatureExtractor):
            raise InputError(
                "this is not Whisper's feature extractor", where="feature_extractor", found=type(extractor).__name__
            )
        parts = [self._part(output, pipe.rate) for output in outputs]
        times = cast("bool | Literal['word'] | None", asked.get("return_timestamps"))
        text, more = reader._decode_asr(
            parts,
            return_timestamps=times,
            return_language=bool(asked.get("return_language")),
            time_precision=extractor.chunk_length / cast(int, pipe.model.config.get("max_source_positions")),
        )
        return {"text": text, **more}

    def _part(self, output: Output, rate: int) -> dict[str, object]:
        """A part as the tokenizer joins it: strides in seconds, the language before the tokens."""
        tokens = cast(Tensor, output["tokens"])
        language = _only(output.get("lang_id"))
        part: dict[str, object] = {"tokens": tokens}
        if isinstance(language, int):
            part["tokens"] = torch.cat([tokens.new_tensor([[language]]), tokens], dim=-1)
        if "stride" in output:
            length, left, right = numbers(output["stride"])[0]
            part["stride"] = (length / rate, left / rate, right / rate)
        if "token_timestamps" in output:
            # The language is said when the text begins, and a batch's padding when it ends.
            times = cast(Tensor, _only(output["token_timestamps"]))
            first, behind = cast(Tensor, part["tokens"]).shape[1] - tokens.shape[1], tokens.shape[1] - len(times)
            edges = (times[:1].expand(first), times, times[-1:].expand(max(behind, 0)))
            part["token_timestamps"] = torch.cat(edges)[None]
        return part


def recognizer(tasks: Sequence[str], reader: object, decoder: BeamDecoder | None) -> Recognizer:
    """What is done with a model, by what it does and by its tokenizer.

    Args:
        tasks: what it does.
        reader: its tokenizer.
        decoder: what searches its letters, if something does.
    """
    if "speech-seq2seq" in tasks:
        return WhisperWriter() if isinstance(reader, WhisperTokenizer) else Writer()
    return Letters() if decoder is None else SearchedLetters(decoder)


def timed(pipe: AutomaticSpeechRecognitionPipeline, spans: Sequence[Letter | Word], what: str) -> list[Chunk]:
    """Letters or words with their times, of frames."""
    return [
        {"text": str(one[what]), "timestamp": (one["start_offset"] * pipe.frame / pipe.rate,  # type: ignore[literal-required]
                                               one["end_offset"] * pipe.frame / pipe.rate)}
        for one in spans
    ]  # fmt: skip


def in_frames(stride: Sequence[int], frame: int) -> tuple[int, int, int]:
    """A part's length and what of it is only company, left and right, in frames.

    Args:
        stride: the same in samples.
        frame: samples of one frame.
    """
    length, left, right = stride
    frames = round(length * (1 / frame))
    return frames, round(left / length * frames), round(right / length * frames)


def within(output: Output, name: str) -> Array:
    """What a part says of its own frames: without its company, and without a batch's padding. Shape: [T, ...]."""
    value = cast(Tensor, output[name])[0]
    array: Array = value.float().numpy() if value.is_floating_point() else value.numpy()
    if "stride" not in output:
        return array
    length, left, right = numbers(output["stride"])[0]
    return array[left : length - right]


def numbers(value: object) -> list[list[int]]:
    """Whole numbers of each row."""
    return cast("list[list[int]]", cast(Tensor, value).tolist())


def sequences_of(found: object) -> Tensor:
    """The tokens that ``generate`` wrote. Shape: [B, T]."""
    tokens = found if isinstance(found, Tensor) else _entry(found, "sequences")
    if not isinstance(tokens, Tensor):
        raise InputError("generate gave no tokens", where="generate", found=brief(found))
    return tokens


def _flat(features: object) -> object:
    """Features of rows: one tensor, or the spectrograms of all rows in one list, of a batch or of a row alone."""
    if not isinstance(features, list):
        return features
    return [one for row in features for one in (row if isinstance(row, list) else [row])]


def _entry(found: object, name: str) -> object:
    return found[name] if isinstance(found, Mapping) and name in found else None


def _times(found: object, segments: object) -> list[Tensor]:
    """When each token of each row was said."""
    if segments is None:
        return [*cast(Tensor, _entry(found, "token_timestamps"))]
    rows = cast("Sequence[Sequence[Mapping[str, Tensor]]]", segments)
    return [torch.cat([one["token_timestamps"] for one in row]) if row else torch.zeros(0) for row in rows]


def _language(segments: Sequence[object], known: set[int]) -> int | None:
    """The token of the language of a row's first segment, whose whole sequence is still there."""
    if not segments:
        return None
    result = cast("Mapping[str, object]", segments[0])["result"]
    tokens = result["sequences"] if isinstance(result, Mapping) else result
    return next((token for token in cast(Tensor, tokens).tolist() if token in known), None)


def _only(value: object) -> object:
    """A row's own entry, whether it came in a batch or alone."""
    return value[0] if isinstance(value, list) else value
