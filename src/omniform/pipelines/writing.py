"""What pipelines that write share: one engine for the pipeline's life, and many prompts of any lengths through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, cast

import torch
from torch import Tensor, nn

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.errors import InputError, brief
from omniform.core.generation import GenerationConfig
from omniform.core.outputs import ModelOutput
from omniform.engine.calls import Reader
from omniform.engine.engine import Engine
from omniform.engine.generate import Answers, Job, prepare
from omniform.engine.request import Request
from omniform.pipelines.base import Params, Pipeline
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.running import Failure, Run

_OF_THE_CALL: Final = ("generation_config", "tokenizer", "streamer")
_OF_TEXT: Final = ("stop_strings", "guide", "response_format")
"""Settings that speak of texts, for which ``generate`` wants the tokenizer."""


class ReturnType(Enum):
    """What of an answer is given back."""

    TENSORS = 0
    NEW_TEXT = 1
    FULL_TEXT = 2


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for one prompt.

    Attributes:
        sequences: as ``generate`` gives them for this prompt alone, Shape: [answers, T].
        noted: what else ``generate`` told, an entry for each answer.
    """

    sequences: Tensor
    noted: Mapping[str, Tensor]


class WritingPipeline(Pipeline):
    """A pipeline whose ``_forward`` writes.

    Prompts of a list are written on side by side, whatever their lengths; what prompts have in common at their
    beginnings is computed once, for all calls. Where answers are drawn at random, ``batch_size=1`` draws for one prompt
    after another, and ``batch_size=n`` for so many together; by default all that run draw together.
    """

    _pipeline_calls_generate = True
    _load_processor: bool | None = False
    _load_image_processor: bool | None = False
    _load_feature_extractor = False
    _load_tokenizer = True
    default_batch_size = "auto"
    _engine: Engine | None = None

    def __init__(self, model: Model, *args: object, **kwargs: object) -> None:
        if isinstance(model, nn.Module) and not model.can_generate():
            raise InputError(
                f"this {type(model).__name__} does not write",
                where="model",
                expected="a model that writes from left to right",
                found="one that does not",
                remedy="Encoders such as BERT do with is_decoder=true in their config, if they were trained so.",
            )
        super().__init__(model, *args, **kwargs)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, object]:
        # An engine is threads and blocks: a copy makes its own.
        return {**self.__dict__, "_engine": None}

    def outcome(self, inputs: Inputs, written: Written) -> object:
        """What ``postprocess`` gets of one prompt."""
        raise NotImplementedError

    def prompt_of(self, inputs: Inputs) -> dict[str, object]:
        """The model's inputs among what ``preprocess`` gave, and settings that this prompt brings along."""
        raise NotImplementedError

    def _forward(self, input_tensors: Inputs, **generate_kwargs: object) -> object:
        (written,) = self.written([input_tensors], generate_kwargs)
        if isinstance(written, Failure):
            raise written.error
        return self.outcome(input_tensors, written)

    def compute(self, chunks: Sequence[Inputs], size: BatchSize, run: Run) -> list[object | Failure]:
        """What is written for each; all of them, or ``size`` at a time."""
        if type(self)._forward is not WritingPipeline._forward:  # somebody's own
            return super().compute(chunks, size, run)
        count = len(chunks) if size == "auto" else size
        found: list[object | Failure] = []
        for at in range(0, len(chunks), count):
            rows = chunks[at : at + count]
            with self.device_placement(), self.get_inference_context()():
                many = self.written(rows, run.forward, together=size != "auto")
            found += [w if isinstance(w, Failure) else self.outcome(r, w) for r, w in zip(rows, many, strict=True)]
        return found

    def written(
        self, items: Sequence[Inputs], generate_kwargs: Mapping[str, object], *, together: bool = False
    ) -> list[Written | Failure]:
        """What ``generate`` gives for each prompt alone, computed side by side.

        Args:
            items: what ``preprocess`` gave of each.
            generate_kwargs: settings of the call.
            together: rows that are drawn are drawn as rows of one call.
        """
        asked: list[tuple[int, Job, Answers, Request]] = []
        found: dict[int, Written | Failure] = {}
        engine, shared = None, self._prepare_generate_kwargs(generate_kwargs)
        told = self._get_set_generation_params(shared)
        if any(told.get(name) is not None for name in _OF_TEXT):
            shared.setdefault("tokenizer", self.tokenizer)
        try:
            for place, item in enumerate(items):
                try:
                    given = {**shared, **self.prompt_of(item)}
                    job = self._job(given)
                    if job is None or "streamer" in given or len(job.prompts) > 1:
                        found[place] = self._by_generate(given)
                        continue
                    engine = self._engine_now()
                    asked.append((place, job, *_enqueued(engine, job, len(items), place, together)))
                except Exception as error:
                    found[place] = Failure(error)
            while engine is not None and not all(answers.completion or answers.error for _, _, answers, _ in asked):
                engine.step()
        except BaseException:  # whoever stops waiting wants no more of it
            for *_, request in asked:
                request.cancelled = True
            raise
        for place, job, answers, _ in asked:
            failed = isinstance(answers.error, Exception)
            found[place] = Failure(cast(Exception, answers.error)) if failed else _as_generate(job, answers)
        return [found[place] for place in range(len(items))]

    def _job(self, given: Params) -> Job | None:
        """One prompt and its settings, understood; None if more is asked than sequences, or the model is wrapped."""
        if not isinstance(self.model, Generative):
            return None
        settings = {name: value for name, value in given.items() if name not in _OF_THE_CALL}
        config = cast("GenerationConfig | None", given.get("generation_config"))
        job = prepare(self.model, None, config, settings, cast("Reader | None", given.get("tokenizer")))
        return None if job.asked.flag("return_dict_in_generate") else job

    def _engine_now(self) -> Engine:
        if self._engine is None or self._engine.model is not self.model:
            self._engine = Engine(self.model)
        return self._engine

    def _by_generate(self, given: Params) -> Written:
        """The way of ``generate`` itself, for what it alone does."""
        output = self.model.generate(**given)
        if isinstance(output, Tensor):
            return Written(output, {})
        if not isinstance(output, ModelOutput):
            raise InputError("generate gave no answers", where="generate", found=brief(output))
        sequences = cast(Tensor, output["sequences"])
        rows, noted = sequences.shape[0], {}
        for name, value in output.items():
            if isinstance(value, Tensor) and name != "sequences" and value.shape[:1] == (rows,):
                noted[name] = value
            elif isinstance(value, tuple) and value and isinstance(value[0], Tensor) and len(value[0]) == rows:
                noted[name] = torch.stack(value).swapaxes(0, 1)
        return Written(sequences, noted)


def _enqueued(engine: Engine, job: Job, prompts: int, place: int, together: bool) -> tuple[Answers, Request]:
    answers, settings = Answers(), job.settings(1)
    each = settings.num_return_sequences
    # Rows that draw as one call's know their places in it; those of different calls share a draw as they come.
    lane = (place * each, prompts * each) if together or prompts == 1 else None
    seed = None if settings.seed is None else settings.seed + place * each
    request = engine.enqueue(
        job.prompts[0], job.own_settings, answers, tokenizer=job.tokenizer, seed=seed, lane=lane, parts=job.asked.parts
    )
    return answers, request


def _as_generate(job: Job, answers: Answers) -> Written:
    """A completion laid out as ``generate`` would return it: prompt and answer, short ones filled up."""
    completion, settings = answers.finished(), job.settings(1)
    rows, pad = [one.tokens for one in completion.sequences], settings.pad_token_id
    longest = max(len(row) for row in rows)
    written = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], dtype=torch.long)
    prompt = torch.tensor([completion.decoder_prompt], dtype=torch.long) if job.given is None else job.given.cpu()
    sequences = job.model.given_back(prompt.expand(len(rows), -1), written, settings.eos_token_ids, pad)
    return Written(sequences, {})
