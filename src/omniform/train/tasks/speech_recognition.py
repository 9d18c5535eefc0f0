"""What is said in a sound, written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from omniform.core.errors import ConfigError
from omniform.inputs.text.whisper import WhisperTokenizer
from omniform.train.scores import word_errors, written
from omniform.train.tasks.base import RAW, Loaded, Parts, model_of, options_of, processor_of

if TYPE_CHECKING:
    from omniform.inputs.processors import WhisperProcessor
    from omniform.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        max_target_length: tokens of a transcript at most.
        language: that is spoken; None for the processor's own setting.
    """

    max_target_length: int = 225
    language: str | None = None


class SpeechRecognition:
    name = "speech-recognition"
    columns: ClassVar = {
        "audio": ("audio", "sound", "speech"),
        "text": ("text", "sentence", "transcription", "transcript"),
    }
    optional: ClassVar[frozenset[str]] = frozenset()

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorForMultimodal, Transcripts

        options = options_of(recipe, Options)
        processor = cast("WhisperProcessor", processor_of(recipe, "AutoProcessor"))
        if options.language is not None:
            if not isinstance(processor.tokenizer, WhisperTokenizer):
                raise ConfigError("the tokenizer knows no languages", where="options: language", found=options.language)
            processor.tokenizer.set_prefix_tokens(language=options.language, task="transcribe")
        return Parts(
            model=model_of(recipe, "AutoModelForSpeechSeq2Seq"),
            processing_class=processor,
            train=data.train,
            eval=data.eval,
            collate=DataCollatorForMultimodal(processor, Transcripts(), max_length=options.max_target_length),
            compute_metrics=written(processor.tokenizer, word_errors),
            trainer="Seq2SeqTrainer",
            arguments={
                **RAW,
                "predict_with_generate": True,
                "generation_max_length": options.max_target_length,
            },
        )


TASK = SpeechRecognition()
