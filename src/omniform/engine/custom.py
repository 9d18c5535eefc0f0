"""``custom_generate``: a decoding loop of the caller's own, with everything made ready as for ours.

The function is called as the ecosystem calls it: with the model, the decoder's ids, processors, criteria, the settings
as a ``GenerationConfig``, and the model's other inputs by name, all rows repeated for several answers. What it returns
is what ``generate`` returns. The name of a repository means the function in its ``custom_generate/generate.py``, which
answers the call as it was made, if the user trusts it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.caches import DynamicCache
from omniform.core.errors import InputError, OmniformError, brief
from omniform.core.generation import GenerationConfig
from omniform.core.outputs import BaseModelOutput
from omniform.engine.criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)  # fmt: skip
from omniform.engine.places import PLACES
from omniform.engine.processors import LogitsProcessor, LogitsProcessorList
from omniform.engine.replay import Replay
from omniform.engine.request import Row
from omniform.engine.sampling import processed
from omniform.engine.settings import Settings
from omniform.hub.options import WHERE_ARGUMENTS

if TYPE_CHECKING:
    from omniform.engine.generate import Job

Loop = Callable[..., object]


class SettingsProcessor(LogitsProcessor):
    """All rules and filters that a call's settings ask for, as one processor.

    Args:
        settings: of the call.
        padding: tokens in front of each row that are none. Shape: [B].
        prompt: tokens before the answers, padding included.
        read: what each row answers, for rules that look at what was read.
    """

    def __init__(self, settings: Settings, padding: Tensor, prompt: int, read: list[tuple[int, ...]]) -> None:
        self.settings = settings
        self._padding: list[int] = padding.tolist()
        self._prompt = prompt
        self._read = read

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Scores after the rules. Shape: [B, V] in and out."""
        rows = [
            Row(ids[pad:], self._prompt - pad, source=read)
            for ids, pad, read in zip(input_ids.tolist(), self._padding, self._read, strict=True)
        ]
        return processed(rows, self.settings, scores.float())


def custom_names(function: object) -> frozenset[str]:
    """The arguments that a caller's loop takes by name.

    Raises:
        InputError: it cannot be called.
    """
    if isinstance(function, str) or not callable(function):
        raise InputError(
            "this is no loop",
            where="custom_generate",
            expected="a function",
            found=brief(function),
        )
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(n for n, p in _parameters(function).items() if p.kind in kinds)


def run_from_repository(model: Model, name: str | os.PathLike[str], call: Mapping[str, object]) -> object:
    """Let the function of a repository answer a call.

    Args:
        call: everything that ``generate`` was given, by name.

    Raises:
        TrustError: the user has not said that its code may run.
        RepoError, CodeError, DependencyError: it cannot be had, or not run.
        OmniformError: it has failed.
    """
    where = {key: value for key, value in call.items() if key in (*WHERE_ARGUMENTS, "code_revision")}
    # Which brings all kinds of preprocessing with it, and few calls ask for it.
    from omniform.hub.code.generating import custom_generate

    function = custom_generate(name, call.get("trust_remote_code"), where)
    places = {**dict.fromkeys(("inputs", "generation_config", *PLACES)), **call}
    outside = {*where, "trust_remote_code", "custom_generate"}
    given = {key: value for key, value in places.items() if key not in outside}
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _parameters(function).values()):
        taken = custom_names(function)
        # What nobody has given is nothing to complain about; what was given is.
        given = {key: value for key, value in given.items() if value is not None or key in taken}
    return _tried(partial(function, model=model, **given))


def _tried(function: Callable[[], object]) -> object:
    try:
        return function()
    except OmniformError:
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise OmniformError("the call's own loop has failed", where="custom_generate", found=words) from error


def _parameters(function: Loop) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}  # what is written in C may not say


def run_custom(job: Job, function: Loop, extra: Mapping[str, object]) -> object:
    """Let a caller's loop answer a call.

    Args:
        job: the call, understood.
        function: the loop.
        extra: arguments of its own.

    Raises:
        OmniformError: the loop has failed.
    """
    model, settings = job.model, job.settings(1)
    each = settings.num_beams if settings.num_beams > 1 else settings.num_return_sequences
    inputs: dict[str, object] = dict(Replay(model, job.prompts, job.named, job.asked).inputs())
    if model.encoder_inputs:
        ids, inputs = _encoded(job, model, inputs)
        padding, read = torch.zeros(len(ids), dtype=torch.long), _read_by(inputs, len(ids))
    else:
        assert job.given is not None, "a decoder's prompts are the caller's"
        ids, mask = job.given, cast(Tensor, inputs["attention_mask"])
        padding = (mask.cumsum(-1) == 0).sum(-1)
        read = [tuple(row[pad:]) for row, pad in zip(ids.tolist(), padding.tolist(), strict=True)]
    inputs = {name: _repeated(value, each) for name, value in inputs.items()}
    ids, padding = ids.repeat_interleave(each, 0), padding.repeat_interleave(each)
    rules = SettingsProcessor(settings, padding, ids.shape[1], [row for row in read for _ in range(each)])
    cached = job.asked.known.get("use_cache") is not False
    given = {
        **inputs,
        "use_cache": cached,
        "past_key_values": DynamicCache() if cached and job.caches.cache is None else job.caches.cache,
        "logits_processor": LogitsProcessorList([rules, *_own(job, "logits_processor")]),
        "stopping_criteria": _criteria(job, settings, ids.shape[1]),
        "generation_config": _config(job, settings, ids.shape[1]),
        **extra,
    }
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _parameters(function).values()):
        taken = custom_names(function)
        if "streamer" in given and "streamer" not in taken:
            raise InputError("the call's own loop takes no streamer", where="streamer", remedy="Leave it out.")
        given = {name: value for name, value in given.items() if name in taken}
    return _tried(partial(function, model, ids, **given))


def _encoded(job: Job, model: Generative, inputs: Mapping[str, object]) -> tuple[Tensor, dict[str, object]]:
    """The decoder's first ids, and what it reads beside them."""
    memory = model.encode(**cast("dict[str, Tensor]", inputs))
    assert memory is not None, "an encoder-decoder encodes"
    start = job.given
    if start is None:
        options = job.prompts[0].options
        if any(prompt.options != options for prompt in job.prompts):
            raise InputError(
                "a loop of one's own begins all rows alike",
                where=", ".join(map(str, options)),
                expected="one value for all rows",
                remedy="Pass decoder_input_ids.",
            )
        start = model.decoder_prompt(memory, options)
    rest = {"encoder_outputs": BaseModelOutput(memory.hidden)}
    mask = inputs.get("attention_mask")
    return start, {**rest, **({} if mask is None else {"attention_mask": mask}), "_read": inputs.get("input_ids")}


def _read_by(inputs: dict[str, object], rows: int) -> list[tuple[int, ...]]:
    """What an encoder has read, as ids; nothing where it reads something else."""
    ids = inputs.pop("_read", None)
    return [tuple(row) for row in ids.tolist()] if isinstance(ids, Tensor) else [()] * rows


def _repeated(value: object, each: int) -> object:
    if isinstance(value, BaseModelOutput):
        return BaseModelOutput(value.last_hidden_state.repeat_interleave(each, 0))
    return value.repeat_interleave(each, 0) if isinstance(value, Tensor) and each > 1 else value


def _own(job: Job, name: str) -> list[LogitsProcessor]:
    """The call's own objects of one kind; whatever can be called will do."""
    given = job.asked.parts.get(name)
    return list(given) if isinstance(given, (list, tuple)) else []


def _criteria(job: Job, settings: Settings, prompt: int) -> StoppingCriteriaList:
    found: list[object] = [MaxLengthCriteria(prompt + settings.max_new_tokens)]
    if settings.max_time is not None:
        found.append(MaxTimeCriteria(settings.max_time))
    if settings.stop_strings:
        if job.tokenizer is None:
            raise InputError("stop strings need a tokenizer", where="stop_strings", remedy="Pass tokenizer=...")
        found.append(StopStringCriteria(job.tokenizer, settings.stop_strings))
    if settings.eos_token_ids:
        found.append(EosTokenCriteria(list(settings.eos_token_ids)))
    return StoppingCriteriaList([*found, *_own(job, "stopping_criteria")])  # type: ignore[list-item]


def _config(job: Job, settings: Settings, prompt: int) -> GenerationConfig:
    """The call's settings, with what follows from them."""
    said = {name: value for name, value in job.asked.known.items() if name in job.asked.table}
    config = GenerationConfig(**said)
    config.max_new_tokens, config.max_length = settings.max_new_tokens, prompt + settings.max_new_tokens
    config.pad_token_id = settings.pad_token_id
    config.eos_token_id = list(settings.eos_token_ids) or None
    return config
