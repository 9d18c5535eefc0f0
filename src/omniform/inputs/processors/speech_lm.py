"""A Wav2Vec2 processor whose letters are read by beams, each word weighed by a model of n-grams.

The beams are those of the package ``pyctcdecode``, the n-grams those of ``kenlm``; both are imported when they are
needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, TypedDict, Unpack, cast

import torch

from omniform.core.errors import ConfigError, DependencyError, InputError, brief, check_arguments, listed
from omniform.core.outputs import ModelOutput
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.processors.base import Parts
from omniform.inputs.processors.speech import Wav2Vec2Processor
from omniform.inputs.text.ctc import Wav2Vec2CTCTokenizer, Word
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

    import numpy as np

    Scores = np.ndarray[tuple[int, ...], np.dtype[np.floating]] | torch.Tensor
    """What a model says of each letter in each frame, before or after a softmax. Shape: [T, V]."""

ALPHABET = "alphabet.json"
FOLDER = "language_model"
_SET = ("alpha", "beta", "unk_score_offset", "score_boundary")
_PADDED = -100.0


class LanguageModel(Protocol):
    """A model of words."""

    def save_to_dir(self, filepath: str) -> None: ...


class BeamDecoder(Protocol):
    """``pyctcdecode.BeamSearchDecoderCTC``, as far as it is used here."""

    def decode_beams(self, logits: object, **options: object) -> list[tuple[object, ...]]: ...

    def decode_beams_batch(
        self, pool: object, logits_list: object, **options: object
    ) -> list[list[tuple[object, ...]]]: ...

    def reset_params(self, **options: object) -> None: ...

    def save_to_dir(self, filepath: str) -> None: ...


class BeamOptions(TypedDict, total=False):
    """How beams are searched; what is left out or ``None`` is as ``pyctcdecode`` has it.

    Attributes:
        beam_width: beams that are kept in each frame (100).
        beam_prune_logp: how much worse than the best a beam may be (-10).
        token_min_logp: letters less likely than this are passed over, the likeliest of a frame excepted (-5).
        hotwords: words that are likelier than the model of words thinks.
        hotword_weight: by how much (10).
        alpha: the weight of the model of words; it stays set for later calls, as the following do.
        beta: what each further word adds.
        unk_score_offset: what each unknown word adds.
        lm_score_boundary: whether the model of words sees beginning and end.
    """

    beam_width: int | None
    beam_prune_logp: float | None
    token_min_logp: float | None
    hotwords: Iterable[str] | None
    hotword_weight: float | None
    alpha: float | None
    beta: float | None
    unk_score_offset: float | None
    lm_score_boundary: bool | None


@dataclass
class Wav2Vec2DecoderWithLMOutput(ModelOutput):
    """What was read: of one sound, or lists with an entry for each; lists of hypotheses where several are asked for.

    Attributes:
        text: what was said.
        logit_score: the logarithm of how likely its letters are.
        lm_score: the same, with the model of words.
        word_offsets: its words, each with ``word``, ``start_offset`` and ``end_offset`` in frames.
    """

    text: str | list[str] | list[list[str]] | None = None
    logit_score: float | list[float] | list[list[float]] | None = None
    lm_score: float | list[float] | list[list[float]] | None = None
    word_offsets: list[Word] | list[list[Word]] | list[list[list[Word]]] | None = None


class Wav2Vec2ProcessorWithLM(Wav2Vec2Processor):
    """Waves, the letters that are spoken in them, and a search for the words that they make.

    Args:
        feature_extractor: of the sound.
        tokenizer: of the transcripts.
        decoder: a ``pyctcdecode.BeamSearchDecoderCTC`` with all letters of the tokenizer.
        chat_template: the template for conversations; by default the tokenizer's.

    Raises:
        InputError: the decoder is none, or lacks letters.
        DependencyError: ``pyctcdecode`` is not installed.
    """

    settings = (*_SET, "unigram_encoding")
    beside: ClassVar[tuple[str, ...]] = (ALPHABET, f"{FOLDER}/")

    def __init__(
        self,
        feature_extractor: FeatureExtractor,
        tokenizer: Tokenizer,
        decoder: BeamDecoder,
        *,
        chat_template: ChatTemplates = None,
    ) -> None:
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        if not isinstance(decoder, decoders().BeamSearchDecoderCTC):
            raise InputError(
                "this is no decoder",
                where="decoder",
                expected="a pyctcdecode.BeamSearchDecoderCTC",
                found=brief(type(decoder).__name__),
            )
        check_letters(decoder, tokenizer)
        self.decoder = decoder

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.feature_extractor is not None
        decoder = read_decoder(parts.files, parts.where, parts.settings)
        return cls(parts.feature_extractor, parts.tokenizer, decoder, chat_template=parts.chat_template)

    @staticmethod
    def get_missing_alphabet_tokens(decoder: BeamDecoder, tokenizer: Tokenizer) -> set[str]:
        """The tokens that the decoder has no letters for."""
        return missing_letters(decoder, tokenizer)

    @property
    def language_model(self) -> LanguageModel | None:
        """The model of words; None where beams go by letters alone."""
        return _language_model(self.decoder)

    def save_files(self, folder: Path) -> None:
        """Write the files of the processor, the decoder's alphabet and its model of words into a folder."""
        super().save_files(folder)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        self.decoder.save_to_dir(str(folder))

    def decode(  # type: ignore[override]
        self,
        logits: Scores,
        *,
        output_word_offsets: bool = False,
        n_best: int = 1,
        **options: Unpack[BeamOptions],
    ) -> Wav2Vec2DecoderWithLMOutput:
        """The likeliest text of what a model says of each letter in each frame.

        Args:
            logits: before or after a softmax. Shape: [T, V].
            output_word_offsets: give the frames of each word too.
            n_best: how many hypotheses; with more than one each entry is a list.
            options: see :class:`BeamOptions`.

        Raises:
            InputError: the shape is another.
            UnknownArgumentError: there is no such option.
        """
        asked = self._asked("decode", options)
        beams = self.decoder.decode_beams(_matrix(logits, "logits"), **asked)
        # Beyond the text: the state of the model of words, the frames of words, two scores.
        return _output([_Beam.of(beam[0], beam[2], beam[-2], beam[-1]) for beam in beams], output_word_offsets, n_best)

    def batch_decode(  # type: ignore[override]
        self,
        logits: Scores | Sequence[Scores],
        pool: Pool | None = None,
        num_processes: int | None = None,
        *,
        output_word_offsets: bool = False,
        n_best: int = 1,
        **options: Unpack[BeamOptions],
    ) -> Wav2Vec2DecoderWithLMOutput:
        """The likeliest texts of several sounds; see :meth:`decode`.

        Args:
            logits: frames with -100 for every letter are padding. Shape: [B, T, V], or a list of [T, V].
            pool: processes to search in, forked after the processor was made; by default there are none, since a
                process with threads is not forked safely.
            num_processes: fork so many for this call.
        """
        asked = self._asked("batch_decode", options)
        rows = [_matrix(row, f"logits[{index}]") for index, row in enumerate(logits)]
        rows = [row[(row != _PADDED).all(axis=-1)] for row in rows]
        if pool is None and num_processes is not None and num_processes > 1:
            from multiprocessing import get_context

            with get_context("fork").Pool(num_processes) as own:
                found = self.decoder.decode_beams_batch(own, rows, **asked)
        else:
            found = self.decoder.decode_beams_batch(pool, rows, **asked)
        each = [[_Beam.of(beam[0], beam[1], beam[-2], beam[-1]) for beam in beams] for beams in found]
        outputs = [_output(beams, output_word_offsets, n_best) for beams in each]
        names = ("text", "logit_score", "lm_score", *(("word_offsets",) if output_word_offsets else ()))
        return Wav2Vec2DecoderWithLMOutput(**{name: [one[name] for one in outputs] for name in names})

    def _asked(self, method: str, options: BeamOptions) -> dict[str, object]:
        check_arguments(f"{type(self).__name__}.{method}", options, BeamOptions.__annotations__)
        given = {name: value for name, value in options.items() if value is not None}
        weights = {name: given.pop(name) for name in (*_SET[:3], "lm_score_boundary") if name in given}
        self.decoder.reset_params(**weights)
        return given


@dataclass(frozen=True, slots=True)
class _Beam:
    """A hypothesis."""

    text: str
    words: list[Word]
    logit_score: float
    lm_score: float

    @classmethod
    def of(cls, text: object, frames: object, logit_score: object, lm_score: object) -> _Beam:
        spans = cast("Sequence[tuple[str, tuple[int, int]]]", frames)
        words = [Word(word=word, start_offset=start, end_offset=end) for word, (start, end) in spans]
        return cls(str(text), words, cast(float, logit_score), cast(float, lm_score))


def _output(beams: list[_Beam], offsets: bool, count: int) -> Wav2Vec2DecoderWithLMOutput:
    if count == 1:
        best = beams[0]
        words = best.words if offsets else None
        return Wav2Vec2DecoderWithLMOutput(best.text, best.logit_score, best.lm_score, words)
    best_ones = beams[:count]
    return Wav2Vec2DecoderWithLMOutput(
        [one.text for one in best_ones],
        [one.logit_score for one in best_ones],
        [one.lm_score for one in best_ones],
        [one.words for one in best_ones] if offsets else None,
    )


def _matrix(scores: Scores, where: str) -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
    import numpy as np

    array = scores.detach().float().cpu().numpy() if isinstance(scores, torch.Tensor) else np.asarray(scores)
    if array.ndim != 2:
        raise InputError(
            "these are not the scores of one sound", where=where, expected="[frames, letters]", found=array.shape
        )
    return array


class _Decoders(Protocol):
    """The package ``pyctcdecode``."""

    BeamSearchDecoderCTC: type


def decoders() -> _Decoders:
    """The package that searches beams.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import kenlm  # noqa: F401  # pyctcdecode only warns without it, and then fails where words are weighed
        import pyctcdecode
    except ImportError as error:
        raise DependencyError(
            "pyctcdecode and kenlm are needed to read letters with a model of words",
            found=str(error),
            remedy="Install them: pip install 'omniform[audio-lm]'.",
        ) from None
    return cast(_Decoders, pyctcdecode)


def read_decoder(files: Mapping[str, Path], where: str, settings: Mapping[str, object] | None = None) -> BeamDecoder:
    """The decoder of a checkpoint.

    Args:
        files: ``alphabet.json``, and what lies in the folder ``language_model``, by name.
        where: the checkpoint, for messages.
        settings: ``alpha``, ``beta``, ``unk_score_offset``, ``score_boundary`` to change; ``unigram_encoding``.

    Raises:
        ConfigError: files are missing or malformed.
        DependencyError: ``pyctcdecode`` or ``kenlm`` is not installed.
    """
    kind = decoders().BeamSearchDecoderCTC
    if ALPHABET not in files:
        raise ConfigError("the decoder has no alphabet", where=where, expected=ALPHABET, found=listed(files))
    from pyctcdecode.alphabet import Alphabet
    from pyctcdecode.language_model import LanguageModel as Grams

    told = settings or {}
    inside = [path for name, path in files.items() if name.startswith(f"{FOLDER}/")]
    encoding = told.get("unigram_encoding") or "utf-8"
    try:
        alphabet = Alphabet.loads(files[ALPHABET].read_text(encoding="utf-8"))
        grams = Grams.load_from_dir(str(inside[0].parent), unigram_encoding=encoding) if inside else None
    except (ValueError, KeyError, OSError, RuntimeError, json.JSONDecodeError) as error:
        raise ConfigError("the decoder's files cannot be read", where=where, found=str(error)[:300]) from None
    if grams is not None:
        weights = {name: told[name] for name in _SET if told.get(name) is not None}
        for name, value in weights.items():
            setattr(grams, name, value)
    return cast(BeamDecoder, kind(alphabet, grams))


def _language_model(decoder: BeamDecoder) -> LanguageModel | None:
    return cast("LanguageModel | None", vars(type(decoder))["_language_model"].fget(decoder))


def missing_letters(decoder: BeamDecoder, tokenizer: Tokenizer) -> set[str]:
    """The tokens that a decoder has no letters for; it has other names for padding, unknown and the end of words."""
    from pyctcdecode.alphabet import BLANK_TOKEN_PTN, UNK_TOKEN, UNK_TOKEN_PTN

    delimiter = tokenizer.word_delimiter_token if isinstance(tokenizer, Wav2Vec2CTCTokenizer) else None
    names = set()
    for token in tokenizer.get_vocab():
        name = "" if BLANK_TOKEN_PTN.match(token) else " " if token == delimiter else token
        names.add(UNK_TOKEN if UNK_TOKEN_PTN.match(name) else name)
    return names - {*vars(decoder)["_alphabet"].labels}


def check_letters(decoder: BeamDecoder, tokenizer: Tokenizer) -> None:
    """Refuse a decoder that lacks letters.

    Raises:
        InputError: some of the tokenizer's tokens are not in its alphabet.
    """
    missing = missing_letters(decoder, tokenizer)
    if missing:
        raise InputError(
            "the decoder lacks letters of the tokenizer",
            where="decoder",
            found=f"without {listed(sorted(missing))}",
            remedy="Build it with all of them, in the order of their ids.",
        )
