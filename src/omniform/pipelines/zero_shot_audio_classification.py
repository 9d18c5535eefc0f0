"""Which of some classes that are named at the call a sound belongs to, by a model that compares sounds with texts
(Wu et al. 2022, https://arxiv.org/abs/2211.06687)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from omniform.core.errors import InputError, UnknownArgumentError, check_arguments
from omniform.hub.auto import AutoModel
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import needed, scores_of
from omniform.pipelines.hearing import READING, Hearing
from omniform.pipelines.registry import Task
from omniform.pipelines.zero_shot_image_classification import Likeness, filled, labels_of, likeliest, shared

TEMPLATE = "This is a sound of {}."


class ZeroShotAudioClassificationPipeline(Hearing):
    """Tells which of the classes that a call names a sound belongs to: a list of :class:`Likeness`, the best first.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.hearing.Hearing`:
        candidate_labels: the classes: a list, or one text with commas between them.
        hypothesis_template: the text that is compared with the sound, ``"This is a sound of {}."``
    """

    _load_tokenizer = True

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        check_arguments(type(self).__name__, given, (*READING, "candidate_labels", "hypothesis_template"))
        before = self.reading(given)
        if given.get("candidate_labels") is not None:
            before["candidate_labels"] = labels_of(given["candidate_labels"])
        if given.get("hypothesis_template") is not None:
            filled(given["hypothesis_template"], "a label")
            before["hypothesis_template"] = given["hypothesis_template"]
        return before, {}, {}

    def __call__(self, inputs: object = None, *args: object, **given: object) -> object:
        """The classes of one sound or of several (also ``audios=``); the classes may be given by position.

        Raises:
            InputError: there is no sound or no class.
        """
        if len(args) == 1 and "candidate_labels" not in given:
            given["candidate_labels"] = args[0]
        elif args:
            raise UnknownArgumentError(f"{type(self).__name__} takes a sound and its labels by position")
        if inputs is None:
            inputs = given.pop("audios", None)
        if inputs is None:
            raise InputError("there is no sound", where=self.task or type(self).__name__, expected="at least one")
        return super().__call__(inputs, **given)  # type: ignore[arg-type]

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The features of a sound, and the ids of the texts that it is compared with."""
        labels = labels_of(given.get("candidate_labels"))
        template = given.get("hypothesis_template", TEMPLATE)
        features = self.features(self.wave(input_, given))
        texts = needed(self.tokenizer)([filled(template, one) for one in labels], return_tensors="pt", padding=True)
        # One entry for each sound, in a batch or alone.
        return {**features, "text_inputs": [dict(texts)], "candidate_labels": [labels]}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        texts = cast("Mapping[str, Tensor]", shared(input_tensors["text_inputs"]))
        sounds = {n: v for n, v in input_tensors.items() if n not in ("text_inputs", "candidate_labels")}
        output = self.model(**sounds, **texts)
        return {
            "scores": scores_of(output, "BC", "logits_per_audio").softmax(dim=-1),
            "candidate_labels": input_tensors["candidate_labels"],
        }

    def postprocess(self, model_outputs: object, **given: object) -> list[Likeness]:
        """The classes of one sound, the likeliest first."""
        return likeliest(cast("Mapping[str, object]", model_outputs))


TASKS = (
    Task(
        name="zero-shot-audio-classification",
        pipeline=ZeroShotAudioClassificationPipeline,
        models=(AutoModel,),
        kind="multimodal",
    ),
)

__all__ = ["TASKS", "ZeroShotAudioClassificationPipeline"]
