"""What is said in a sound, written down: token by token (Whisper and its like), or step by step (CTC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, cast, runtime_checkable

from torch import Tensor

from omniform.core.errors import ConfigError
from omniform.inputs.processors.speech import SpeechProcessor
from omniform.inputs.text.ctc import SpeechTokenizer
from omniform.inputs.text.whisper import WhisperTokenizer
from omniform.train.scores import spelled, word_errors, written
from omniform.train.tasks.base import RAW, Loaded, Parts, model_of, options_of, processor_of

if TYPE_CHECKING:
    from omniform.train.recipe import Recipe

_TOKENS = 225
"""Of a transcript that is written token by token, at most, where nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        max_target_length: tokens of a transcript at most; by default 225 where the model writes token by token, and all
            of them where it spells step by step.
        language: that is spoken; None for the processor's own setting.
        freeze_feature_encoder: a checkpoint's convolutions over waves do not learn.
    """

    max_target_length: int | None = None
    language: str | None = None
    freeze_feature_encoder: bool = True


@runtime_checkable
class _Freezes(Protocol):
    def freeze_feature_encoder(self) -> None: ...


class SpeechRecognition:
    name = "speech-recognition"
    columns: ClassVar = {
        "audio": ("audio", "sound", "speech"),
        "text": ("text", "sentence", "transcription", "transcript"),
    }
    optional: ClassVar[frozenset[str]] = frozenset()

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        options = options_of(recipe, Options)
        processor = processor_of(recipe, "AutoProcessor")
        if not isinstance(processor, SpeechProcessor):
            raise ConfigError(
                "this does not read sounds and transcripts",
                where="processor",
                expected="a processor of speech (WhisperProcessor, Wav2Vec2Processor)",
                found=type(processor).__name__,
            )
        if options.language is not None:
            if not isinstance(processor.tokenizer, WhisperTokenizer):
                raise ConfigError("the tokenizer knows no languages", where="options: language", found=options.language)
            processor.tokenizer.set_prefix_tokens(language=options.language, task="transcribe")
        if isinstance(processor.tokenizer, SpeechTokenizer):
            return _spelling(recipe, data, options, processor, processor.tokenizer)
        return _writing(recipe, data, options, processor)


def _writing(recipe: Recipe, data: Loaded, options: Options, processor: SpeechProcessor) -> Parts:
    """Of a model that writes token by token."""
    from omniform.train.collators import DataCollatorForMultimodal, Transcripts

    most = _TOKENS if options.max_target_length is None else options.max_target_length
    return Parts(
        model=model_of(recipe, "AutoModelForSpeechSeq2Seq"),
        processing_class=processor,
        train=data.train,
        eval=data.eval,
        collate=DataCollatorForMultimodal(processor, Transcripts(), max_length=most),
        compute_metrics=written(processor.tokenizer, word_errors),
        trainer="Seq2SeqTrainer",
        arguments={**RAW, "predict_with_generate": True, "generation_max_length": most},
    )


def _spelling(
    recipe: Recipe, data: Loaded, options: Options, processor: SpeechProcessor, tokenizer: SpeechTokenizer
) -> Parts:
    """Of a model that spells step by step; a head for these letters is made anew where the checkpoint has another."""
    from omniform.train.collators import DataCollatorForMultimodal, Transcripts

    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "ctc_loss_reduction": "mean"}
    model = model_of(recipe, "AutoModelForCTC", **sizes)
    if options.freeze_feature_encoder and isinstance(recipe.model, str) and isinstance(model, _Freezes):
        model.freeze_feature_encoder()
    return Parts(
        model=model,
        processing_class=processor,
        train=data.train,
        eval=data.eval,
        collate=DataCollatorForMultimodal(processor, Transcripts(), max_length=options.max_target_length),
        compute_metrics=spelled(tokenizer, word_errors),
        preprocess_logits=_likeliest,
        arguments=RAW,
    )


def _likeliest(logits: object, labels: object) -> Tensor:
    """The likeliest letter of each step, which is all that is kept of a batch."""
    return cast("Tensor", logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


TASK = SpeechRecognition()
