"""The tasks that a model can be exported for, by optimum's names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from omniform.architectures.family import Architecture, Task
from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, UnknownNameError, nearest
from omniform.hub import auto
from omniform.hub.checkpoint import load_config
from omniform.models import registry

PAST: Final = "-with-past"
"""What a task's name ends with, where the model's cache is to go in and out."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """One task.

    Attributes:
        loader: the Auto class that loads a model for it.
        writes: whether a model of it can have a cache.
    """

    loader: type[auto.AutoModel]
    writes: bool = False

    @property
    def heads(self) -> tuple[Task, ...]:
        """What the model must be able to do."""
        return self.loader.tasks


TASKS: Final[Mapping[str, Purpose]] = {
    "text-generation": Purpose(auto.AutoModelForCausalLM, writes=True),
    "text2text-generation": Purpose(auto.AutoModelForSeq2SeqLM, writes=True),
    "fill-mask": Purpose(auto.AutoModelForMaskedLM),
    "text-classification": Purpose(auto.AutoModelForSequenceClassification),
    "token-classification": Purpose(auto.AutoModelForTokenClassification),
    "question-answering": Purpose(auto.AutoModelForQuestionAnswering),
    "multiple-choice": Purpose(auto.AutoModelForMultipleChoice),
    "next-sentence-prediction": Purpose(auto.AutoModelForNextSentencePrediction),
    "image-classification": Purpose(auto.AutoModelForImageClassification),
    "masked-im": Purpose(auto.AutoModelForMaskedImageModeling),
    "object-detection": Purpose(auto.AutoModelForObjectDetection),
    "zero-shot-object-detection": Purpose(auto.AutoModelForZeroShotObjectDetection),
    "image-segmentation": Purpose(auto.AutoModelForImageSegmentation),
    "universal-segmentation": Purpose(auto.AutoModelForUniversalSegmentation),
    "semantic-segmentation": Purpose(auto.AutoModelForSemanticSegmentation),
    "depth-estimation": Purpose(auto.AutoModelForDepthEstimation),
    "mask-generation": Purpose(auto.AutoModelForMaskGeneration),
    "zero-shot-image-classification": Purpose(auto.AutoModelForZeroShotImageClassification),
    "video-classification": Purpose(auto.AutoModelForVideoClassification),
    "backbone": Purpose(auto.AutoBackbone),
    "audio-classification": Purpose(auto.AutoModelForAudioClassification),
    "audio-frame-classification": Purpose(auto.AutoModelForAudioFrameClassification),
    "audio-xvector": Purpose(auto.AutoModelForAudioXVector),
    "ctc": Purpose(auto.AutoModelForCTC),
    "automatic-speech-recognition": Purpose(auto.AutoModelForSpeechSeq2Seq, writes=True),
    "image-to-text": Purpose(auto.AutoModelForImageTextToText, writes=True),
    "image-text-to-text": Purpose(auto.AutoModelForImageTextToText, writes=True),
    "visual-question-answering": Purpose(auto.AutoModelForVisualQuestionAnswering),
    "document-question-answering": Purpose(auto.AutoModelForDocumentQuestionAnswering),
    "feature-extraction": Purpose(auto.AutoModel),
}
"""By name; of several that a model has, the first is its own."""


ALIASES: Final[Mapping[str, str]] = {
    "default": "feature-extraction",
    "sentence-similarity": "feature-extraction",
    "image-feature-extraction": "feature-extraction",
    "pretraining": "feature-extraction",
    "causal-lm": "text-generation",
    "seq2seq-lm": "text2text-generation",
    "summarization": "text2text-generation",
    "translation": "text2text-generation",
    "masked-lm": "fill-mask",
    "sequence-classification": "text-classification",
    "sentiment-analysis": "text-classification",
    "zero-shot-classification": "text-classification",
    "ner": "token-classification",
    "audio-ctc": "ctc",
    "speech2seq-lm": "automatic-speech-recognition",
    "vision2seq-lm": "image-to-text",
    "instance-segmentation": "universal-segmentation",
    "panoptic-segmentation": "universal-segmentation",
}
"""Other names that the ecosystem knows a task by: optimum's older ones, and those of pipelines."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task that is asked for.

    Attributes:
        name: without the ending.
        cached: whether the cache goes in and out.
        asked: whether it was named, and is not the model's own.
    """

    name: str
    cached: bool
    asked: bool = True

    @property
    def whole(self) -> str:
        """Its name as it is written."""
        return self.name + PAST * self.cached


def told() -> list[str]:
    """All names that a task may be asked for by."""
    return [name + ending for name, own in TASKS.items() for ending in (("", PAST) if own.writes else ("",))]


def wanted(task: str, able: tuple[Task, ...], whose: str) -> Wanted:
    """What a name asks of a model.

    Args:
        task: the name; ``"auto"`` for the model's own, with its cache where it has one.
        able: what the model can do.
        whose: its name, for messages.

    Raises:
        UnknownNameError: there is no such task, or the model does not have it.
    """
    has = [name for name, own in TASKS.items() if has_task(name, able)]
    listing = [name + ending for name in has for ending in (("", PAST) if TASKS[name].writes else ("",))]
    if task == "auto":
        if not has:  # a head that has no task of its own gives what it gives
            return Wanted("feature-extraction", cached=False, asked=False)
        return Wanted(has[0], TASKS[has[0]].writes, asked=False)
    task = ALIASES.get(task.removesuffix(PAST), task.removesuffix(PAST)) + PAST * task.endswith(PAST)
    name, cached = (task.removesuffix(PAST), True) if task.endswith(PAST) else (task, False)
    if task not in told():
        raise UnknownNameError(
            f"there is no task {task!r:.80}",
            where="task",
            expected=", ".join(listing),
            remedy=nearest(task, [*told(), *ALIASES]),
        )
    if name not in has:
        raise UnknownNameError(
            f"the model has no head for {task}",
            where=whose,
            expected=f"one of its tasks: {', '.join(listing)}",
            remedy=nearest(task, listing),
        )
    return Wanted(name, cached)


def has_task(name: str, able: tuple[Task, ...]) -> bool:
    """Whether a model that can do this has a task; one that hears and writes letters recognises speech too."""
    if name == "automatic-speech-recognition" and "ctc" in able:
        return True
    return any(head in able for head in TASKS[name].heads)


def load(model: str | os.PathLike[str], task: str) -> tuple[Model, Wanted]:
    """A checkpoint as the model that a task asks for.

    Raises:
        UnknownNameError: see :func:`wanted`.
        OmniformError: see :meth:`omniform.hub.auto.AutoModel.from_pretrained`.
    """
    config = load_config(ModelConfig, model)
    family = registry.family(config.model_type)
    named = [a for a in family.architectures.values() if a.name in config.common.architectures]
    if task == "auto":
        own = wanted(task, tuple(t for a in named or [family.base] for t in a.tasks), os.fspath(model))
    else:
        able = tuple(dict.fromkeys(t for a in family.architectures.values() for t in a.tasks))
        own = wanted(task, able, os.fspath(model))
    loader = TASKS[own.name].loader
    if task == "auto" and named and not has_task(own.name, named[0].tasks):
        kind = family.classes[named[0].name]
        return kind.from_pretrained(model, dtype="float32").eval(), own
    if own.name == "automatic-speech-recognition" and not own.cached and _hears_letters(family.architectures, named):
        loader = auto.AutoModelForCTC
    if own.name == "ctc" and own.cached:
        raise InputError("this model writes without a cache", where="task", found=task)
    return loader.from_pretrained(model, dtype="float32").eval(), own


def _hears_letters(all_of_it: Mapping[str, Architecture], named: list[Architecture]) -> bool:
    return any("ctc" in head.tasks for head in named or all_of_it.values())
