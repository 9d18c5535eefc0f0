"""``generate`` and ``stream``: from a caller's inputs to the decode loop and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.blocks.embeddings import check_ids
from omniform.core.context import Memory
from omniform.core.errors import InputError, check_arguments
from omniform.core.generation import SETTINGS, GenerationConfig
from omniform.core.outputs import ModelOutput
from omniform.engine.loop import Step, decode_loop
from omniform.engine.prompts import Prompts, as_prompts
from omniform.engine.settings import Settings, known_settings, read_settings

log = logging.getLogger("omniform")


class Streamer(Protocol):
    """What ``generate(streamer=...)`` feeds: the prompt first, then each step's tokens."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


@dataclass(slots=True)
class GenerateOutput(ModelOutput):
    """What ``generate`` returns with ``return_dict_in_generate=True``.

    Attributes:
        sequences: prompt and answer, or an encoder-decoder's answer. Shape: [B, T].
        scores: per step, what the tokens were chosen by, with ``output_scores``. Shape: [B, V] each.
        logits: per step, the model's own scores, with ``output_logits``. Shape: [B, V] each.
    """

    sequences: Tensor
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A call of ``generate``, understood.

    Attributes:
        prompts: what the rows begin with.
        settings: how to choose and when to stop.
        features: what goes in with the prompt.
        memory: an encoder's output.
        given: the ids to give back in front of the answer, as the caller laid them out. Shape: [B, T].
    """

    model: Generative
    prompts: Prompts
    settings: Settings
    features: Mapping[str, Tensor]
    memory: Memory | None
    given: Tensor

    def steps(self) -> Iterator[Step]:
        """Run the decode loop."""
        return decode_loop(self.model, self.prompts, self.settings, self.features, self.memory)


def generate(
    model: Model,
    inputs: object = None,
    *,
    generation_config: GenerationConfig | None = None,
    streamer: Streamer | None = None,
    **kwargs: object,
) -> Tensor | GenerateOutput:
    """Write on from prompts.

    Args:
        inputs: what comes first: token ids, or what the model's encoder reads; the same as naming it by keyword.
        generation_config: settings, which those given by keyword override.
        streamer: receives the prompt, then every step's tokens, as they come.
        kwargs: the model's inputs (``input_ids`` as a tensor, padded on either side with ``attention_mask``, or as a
            list of rows of any lengths; ``pixel_values``, ``input_features``, ...) and settings (``max_new_tokens``,
            ``do_sample``, ``temperature``, ``top_k``, ``top_p``, ``seed``, ...).

    Returns:
        Prompt and answer in one tensor, Shape: [B, T + new], short rows filled with the padding token after their
        end; of an encoder-decoder the answer only. With ``return_dict_in_generate``, a :class:`GenerateOutput`.

    Raises:
        InputError: an input or a setting that cannot be used, a prompt longer than the model's positions.
        UnknownArgumentError: a keyword that is neither, with the nearest name.
    """
    job = prepare(model, inputs, generation_config, kwargs)
    if streamer is not None:
        streamer.put(job.given.cpu())
    tokens, scores, logits = [], [], []
    for step in job.steps():
        tokens.append(step.tokens)
        if kwargs.get("output_scores"):
            scores.append(step.scores)
        if kwargs.get("output_logits"):
            logits.append(step.logits)
        if streamer is not None:
            streamer.put(step.tokens.cpu())
    if streamer is not None:
        streamer.end()
    ends, pad = job.settings.eos_token_ids, job.settings.pad_token_id
    sequences = job.model.given_back(job.given, torch.stack(tokens, dim=1), ends, pad)
    if not kwargs.get("return_dict_in_generate", model.generation_config.return_dict_in_generate):
        return sequences
    return GenerateOutput(sequences, tuple(scores) or None, tuple(logits) or None)


def stream(
    model: Model, inputs: object = None, *, generation_config: GenerationConfig | None = None, **kwargs: object
) -> Iterator[Tensor]:
    """The same as :func:`generate`, one step's tokens at a time. Yields Shape: [B]."""
    for step in prepare(model, inputs, generation_config, kwargs).steps():
        yield step.tokens


def prepare(
    model: Model, inputs: object, generation_config: GenerationConfig | None, kwargs: Mapping[str, object]
) -> Job:
    """Understand a call: check its names, sort inputs from settings, run the encoder if there is one."""
    if not isinstance(model, Generative) or not model.can_generate():
        raise InputError(
            f"a {type(model).__name__} does not write text",
            where="generate",
            remedy="Load the checkpoint with AutoModelForCausalLM, AutoModelForSeq2SeqLM or another that writes.",
        )
    check_arguments("generate", kwargs, SETTINGS | model.accepts() | model.encoder_inputs)
    named = {k: v for k, v in kwargs.items() if k not in SETTINGS and v is not None}
    if inputs is not None:
        named[model.main_input] = inputs
    asked = {k: v for k, v in kwargs.items() if k in SETTINGS}
    if generation_config is not None:
        asked = {**generation_config.to_dict(), **asked}
    return _encoded_job(model, named, asked) if model.encoder_inputs else _decoder_job(model, named, asked)


def _decoder_job(model: Generative, named: dict[str, object], asked: Mapping[str, object]) -> Job:
    if named.get("input_ids") is None:
        raise InputError("there is no prompt", where="input_ids", expected="token ids")
    pad = _pad(model, asked)
    ids, mask = named.pop("input_ids"), cast("Tensor | None", named.pop("attention_mask", None))
    mask = _told_by_padding(model, asked, ids) if mask is None else mask
    prompts = as_prompts(ids, mask, pad, model.device)
    _check_prompts(model, prompts)
    given = ids.to(model.device) if isinstance(ids, Tensor) and ids.dim() == 2 else prompts.ids
    settings = _fitted(model, read_settings(model, asked, prompts.longest), prompts.longest)
    return Job(model, prompts, settings, _features(model, named), None, given)


def _encoded_job(model: Generative, named: dict[str, object], asked: Mapping[str, object]) -> Job:
    start = cast("Tensor | None", named.pop("decoder_input_ids", None))
    mask = cast("Tensor | None", named.pop("decoder_attention_mask", None))
    ids = named.get("input_ids")
    if ids is not None and not isinstance(ids, Tensor):
        # Rows of any lengths: an encoder reads them padded on the right.
        named["input_ids"], named["attention_mask"] = _right_padded(
            as_prompts(ids, None, _pad(model, asked), model.device)
        )
    with torch.inference_mode():
        memory = model.encode(**_features(model, named))
    assert memory is not None, "a model with encoder inputs must encode them"
    if start is None:
        options = known_settings(model, asked)
        with torch.inference_mode():
            start = model.opening(memory, options)
    prompts = as_prompts(start, mask, _pad(model, asked), model.device)
    _check_prompts(model, prompts)
    settings = _fitted(model, read_settings(model, asked, prompts.longest), prompts.longest)
    return Job(model, prompts, settings, {}, memory, prompts.ids)


def _told_by_padding(model: Generative, asked: Mapping[str, object], ids: object) -> Tensor | None:
    """The mask that a prompt's padding tokens imply, where there are any and padding is no end of a row.

    The ecosystem infers it for decoders, and not for encoders.
    """
    known = known_settings(model, asked)
    pad, eos = known.get("pad_token_id"), known.get("eos_token_id")
    ends = eos if isinstance(eos, (list, tuple)) else [eos]
    if not isinstance(ids, Tensor) or not isinstance(pad, int) or pad in ends or not bool((ids == pad).any()):
        return None
    return (ids != pad).long()


def _right_padded(prompts: Prompts) -> tuple[Tensor, Tensor]:
    if prompts.real is None:
        return prompts.ids, torch.ones_like(prompts.ids)
    order = prompts.real.long().argsort(dim=1, descending=True, stable=True)
    return prompts.ids.gather(1, order), prompts.real.gather(1, order).long()


def _pad(model: Generative, asked: Mapping[str, object]) -> int:
    known = known_settings(model, asked)
    for name in ("pad_token_id", "eos_token_id"):
        value = known.get(name)
        if isinstance(value, Sequence) and value:
            value = value[0]
        if isinstance(value, int) and value >= 0:
            return value
    return 0


def _features(model: Generative, named: Mapping[str, object]) -> dict[str, Tensor]:
    features: dict[str, Tensor] = {}
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise InputError(
                "inputs must be tensors",
                where=name,
                expected="a tensor",
                found=type(value).__name__,
                remedy="Call the processor with return_tensors='pt'.",
            )
        floats = value.is_floating_point()
        features[name] = value.to(model.device, model.dtype if floats else None)
    return features


def _check_prompts(model: Generative, prompts: Prompts) -> None:
    table = model.get_input_embeddings()
    if isinstance(table, torch.nn.Embedding):
        check_ids(prompts.ids, table.num_embeddings)
    limit = model.max_positions
    if limit is not None and prompts.longest > limit:
        raise InputError(
            "the prompt is longer than the model's positions",
            where="input_ids",
            expected=f"at most {limit} tokens",
            found=f"{prompts.longest} tokens",
            remedy="Shorten it.",
        )


def _fitted(model: Generative, settings: Settings, prompt: int) -> Settings:
    limit = model.max_positions
    # The last token written is never read again, so an answer may end one past the last position.
    if limit is None or prompt + settings.max_new_tokens <= limit + 1:
        return settings
    log.warning("the answer is cut at the model's %d positions, after %d tokens", limit, limit - prompt + 1)
    return replace(settings, max_new_tokens=limit - prompt + 1)
