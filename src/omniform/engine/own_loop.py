"""``generate`` for models of the user's own: plain torch forwards, called step by step over padded rows.

The engine packs rows and keeps their state itself, which a forward that somebody else wrote cannot be asked for. Here
such a model is called as the ecosystem calls it; settings, rules, filters, criteria and beam searches are the engine's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, cast

import torch
from torch import Tensor

from omniform.architectures.generation import GenerationMixin
from omniform.architectures.generative import Generative
from omniform.architectures.named import PreTrainedModel
from omniform.architectures.parameters import parameters_of
from omniform.core.caches import Cache, DynamicCache
from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.generation import GenerationConfig, as_settings
from omniform.core.outputs import ModelOutput
from omniform.core.paired_cache import EncoderDecoderCache
from omniform.core.settings import SETTINGS
from omniform.engine.beams import BeamSearch
from omniform.engine.criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)
from omniform.engine.drafters import wanted as guesses
from omniform.engine.draws import narrowed
from omniform.engine.generate_output import (
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    GenerateOutput,
)
from omniform.engine.own_prompts import Prompt, prompt_of, repeated
from omniform.engine.processors import PrefixConstrainedLogitsProcessor
from omniform.engine.request import Row
from omniform.engine.sampling import finished, refuse_no_numbers, ruled
from omniform.engine.settings import Asked, Settings
from omniform.engine.streamers import Streamer

_PARTS: Final = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "past_key_values")
_PLAIN: Final = (
    ("penalty_alpha", 0), ("dola_layers", None), ("guidance_scale", 1), ("num_beam_groups", 1), ("force_words", ()),
    ("watermark", None), ("logprobs", None), ("prompt_logprobs", None),
)  # fmt: skip


@dataclass(slots=True)
class Loop:
    """One call: what is known of it, and how far it has come.

    Attributes:
        model: what writes.
        settings: how to choose.
        own: processors that the call brings along, after the rules.
        criteria: what ends a row.
        ids: all tokens so far. Shape: [R, T].
        inputs: what the next step is told beside them.
        padding: tokens in front of each row that are none.
        prompt: tokens before the answers, padding included.
        encoded: whether an encoder has read what is answered.
        scores, logits: what was noted of each step. Shape: [R, V] each.
    """

    model: PreTrainedModel
    settings: Settings
    own: Sequence[object]
    criteria: StoppingCriteriaList
    ids: Tensor
    inputs: dict[str, object]
    padding: list[int]
    prompt: int
    encoded: bool = False
    scores: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)

    def forward(self) -> Tensor:
        """Scores of each row's next token, float32. Shape: [R, V]."""
        prepare = self.model.prepare_inputs_for_generation
        taken = inspect.signature(prepare).parameters.values()
        names = {p.name for p in taken}
        everything = any(p.kind is p.VAR_KEYWORD for p in taken)
        told = {name: value for name, value in self.inputs.items() if everything or name in names}
        given = prepare(self.ids, **told)  # type: ignore[arg-type]
        own = parameters_of(type(self.model))
        if not own.open:
            given = {name: value for name, value in given.items() if name in own.names or value is not None}
        output = self.model(**given, return_dict=True)
        logits = _entry(output, "logits")
        if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[0] != self.ids.shape[0]:
            raise InputError(
                "the forward gives no scores of the next token",
                where=type(self.model).__name__,
                expected=f"logits of shape [{self.ids.shape[0]}, tokens, vocabulary]",
                found=f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else brief(logits),
            )
        update = cast(GenerationMixin, self.model)._update_model_kwargs_for_generation
        both = {"is_encoder_decoder": True} if self.encoded else {}
        self.inputs = update(output, self.inputs, **both)
        found = logits[:, -1].to(torch.float32, copy=True)
        if self.settings.keep_logits:
            self.logits.append(found.clone())
        return found

    def ruled(self, scores_RV: Tensor) -> Tensor:
        """Scores after rules and the call's own processors. Shape: [R, V]."""
        scores = ruled(self.rows(), self.settings, scores_RV)
        for processor in self.own:
            scores = processor(self.ids, scores)  # type: ignore[operator] # whatever can be called will do
        return scores

    def filtered(self, scores_RV: Tensor) -> Tensor:
        """Scores as tokens are chosen by them. Shape: [R, V]."""
        scores = self.ruled(scores_RV)
        scores = narrowed(scores, self.settings).spread() if self.settings.do_sample else scores
        scores = finished(self.rows(), self.settings, scores)
        if self.settings.keep_scores:
            self.scores.append(scores)
        return scores

    def rows(self) -> list[Row]:
        """The rows without their padding, as the rules look at them."""
        rows = zip(self.ids.tolist(), self.padding, strict=True)
        return [Row(ids[pad:], self.prompt - pad) for ids, pad in rows]

    def append(self, tokens_R: Tensor) -> Tensor:
        """Write a token behind each row; returns which rows are at their end. Shape: [R] in and out."""
        self.ids = torch.cat((self.ids, tokens_R[:, None]), dim=1)
        return self.criteria(self.ids, tuple(self.scores) if self.scores else None)

    def choose(self, scores_RV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The next token of each row. Shape: [R]."""
        if not self.settings.do_sample:
            refuse_no_numbers(scores_RV.isnan().any(-1), self.rows(), scores_RV, range(len(scores_RV)))
            return scores_RV.argmax(-1)
        odds = scores_RV.softmax(-1)
        refuse_no_numbers(odds[:, 0].isnan(), self.rows(), scores_RV, range(len(odds)))
        if not generators:
            return torch.multinomial(odds, 1)[:, 0]
        drawn = [torch.multinomial(row, 1, generator=one) for row, one in zip(odds, generators, strict=True)]
        return torch.cat(drawn)


@torch.no_grad()
def write(
    model: PreTrainedModel,
    inputs: object,
    generation_config: GenerationConfig | Mapping[str, object] | None,
    kwargs: Mapping[str, object],
    streamer: Streamer | None,
    tokenizer: object,
) -> Tensor | GenerateOutput:
    """Write on from prompts; see :func:`omniform.engine.generate.generate`.

    Raises:
        InputError: a setting that needs the engine; the forward gives no logits.
    """
    check_arguments("generate", [name for name, value in kwargs.items() if value is not None], _names(model))
    asked = Asked(
        cast(Generative, model), as_settings(generation_config), {k: v for k, v in kwargs.items() if k in SETTINGS}
    )
    named = {name: value for name, value in kwargs.items() if name not in SETTINGS and value is not None}
    begun = prompt_of(model, inputs, named, asked)
    ids, mask = begun.ids, begun.mask
    settings = asked(ids.shape[1])
    _refuse_what_needs_the_engine(settings, asked)
    each = settings.num_beams if settings.num_beams > 1 else settings.num_return_sequences
    told = _told(model, asked, named, begun, each)
    rows = ids.repeat_interleave(each, 0)
    empty = (mask.cumsum(-1) == 0).sum(-1).tolist() if ids.shape == mask.shape else [0] * ids.shape[0]
    padding = [pad for pad in empty for _ in range(each)]
    criteria = _criteria(settings, asked, ids.shape[1], tokenizer)
    loop = Loop(model, settings, _own(asked, settings), criteria, rows, told, padding, ids.shape[1],
                begun.encoded is not None)  # fmt: skip
    if settings.num_beams > 1:
        if streamer is not None:
            raise InputError("beam search knows its tokens at the end only", where="streamer", expected="num_beams=1")
        return _searched(loop, asked, ids.shape[0])
    return _written(loop, asked, streamer)


def _written(loop: Loop, asked: Asked, streamer: Streamer | None) -> Tensor | GenerateOutput:
    """Greedy, or drawn."""
    s = loop.settings
    seeds = range(len(loop.ids)) if s.seed is not None and s.do_sample else range(0)
    generators = [torch.Generator(loop.ids.device).manual_seed(cast(int, s.seed) + row) for row in seeds]
    running = torch.ones(len(loop.ids), dtype=torch.bool, device=loop.ids.device)
    if streamer is not None:
        streamer.put(loop.ids.cpu())
    while True:
        tokens = loop.choose(loop.filtered(loop.forward()), generators)
        tokens = torch.where(running, tokens, s.pad_token_id)
        over = loop.append(tokens)
        if streamer is not None:
            streamer.put(tokens.cpu())
        running = running & ~over
        if not bool(running.any()):
            break
    if streamer is not None:
        streamer.end()
    if not asked.flag("return_dict_in_generate"):
        return loop.ids
    kind = GenerateEncoderDecoderOutput if loop.encoded else GenerateDecoderOnlyOutput
    return kind(
        loop.ids, scores=tuple(loop.scores) or None, logits=tuple(loop.logits) or None,
        past_key_values=loop.inputs.get("past_key_values"),  # type: ignore[arg-type] # whatever the model keeps
    )  # fmt: skip


def _searched(loop: Loop, asked: Asked, prompts: int) -> Tensor | GenerateOutput:
    """Beam searches, one for each prompt, side by side until all are done."""
    s, width = loop.settings, loop.settings.num_beams
    seeds = [
        None if s.seed is None else torch.Generator(loop.ids.device).manual_seed(s.seed + i) for i in range(prompts)
    ]
    searches = [BeamSearch(s.beam_settings(), generator) for generator in seeds]
    fresh = True
    while not all(search.done for search in searches):
        scores = loop.filtered(loop.forward().log_softmax(-1))
        parents: list[int] = []
        tokens: list[int] = []
        for number, search in enumerate(searches):
            first = number * width
            fork = search.advance(scores[first : first + (1 if fresh else width)], _ends(loop, first))
            parents += [first + parent for parent in fork.parents]
            tokens += fork.tokens
        fresh = False
        places = torch.tensor(parents, device=loop.ids.device)
        loop.ids = torch.cat((loop.ids[places], places.new_tensor(tokens)[:, None]), dim=1)
        past = loop.inputs.get("past_key_values")
        if past is not None:
            loop.inputs["past_key_values"] = _reordered(loop.model, past, places)
    found = [hypothesis for search in searches for hypothesis in search.results()]
    longest = max(len(one.tokens) for one in found)
    fill = s.beam_settings().fill_token_id
    written = loop.ids.new_tensor([one.tokens + [fill] * (longest - len(one.tokens)) for one in found])
    before = loop.ids[::width, : loop.prompt].repeat_interleave(s.num_return_sequences, 0)
    sequences = torch.cat((before, written), dim=1)
    if not asked.flag("return_dict_in_generate"):
        return sequences
    numbers = [number * width for number in range(prompts) for _ in range(s.num_return_sequences)]
    beams = [[beam + first for beam in one.beams] for one, first in zip(found, numbers, strict=True)]
    kind = GenerateBeamEncoderDecoderOutput if loop.encoded else GenerateBeamDecoderOnlyOutput
    return kind(
        sequences,
        sequences_scores=torch.tensor([one.score for one in found]),
        beam_indices=loop.ids.new_tensor([row + [-1] * (longest - len(row)) for row in beams]),
        scores=tuple(loop.scores) or None,
        logits=tuple(loop.logits) or None,
        past_key_values=loop.inputs.get("past_key_values"),  # type: ignore[arg-type] # whatever the model keeps
    )


def _ends(loop: Loop, first: int) -> Callable[[int, int], bool]:
    """Whether a beam, continued with a token, is at an end for another reason than its end token or its length."""
    rest = [one for one in loop.criteria if not isinstance(one, (EosTokenCriteria, MaxLengthCriteria))]

    def ends(parent: int, token: int) -> bool:
        if not rest:
            return False
        row = torch.cat((loop.ids[first + parent], loop.ids.new_tensor([token])))[None]
        return bool(StoppingCriteriaList(rest)(row, None).any())

    return ends


def _entry(output: object, name: str) -> object:
    """What a forward gave under a name: an output's, a mapping's, or for logits a tuple's first."""
    if isinstance(output, tuple):
        return output[0] if output and name == "logits" else None
    if isinstance(output, Mapping):
        return output.get(name)
    return output.get(name) if isinstance(output, ModelOutput) else None


def _reordered(model: PreTrainedModel, past: object, places: Tensor) -> object:
    """What a model keeps of its rows, in another order."""
    if isinstance(past, DynamicCache):
        past.reorder_cache(places)
        return past
    return cast(GenerationMixin, model)._reorder_cache(past, places)


def _names(model: PreTrainedModel) -> set[str]:
    """What a call may be told: settings, and what the forward, its preparation and an encoder's forward name."""
    functions = [model.forward, model.prepare_inputs_for_generation]
    if model.config.get("is_encoder_decoder") is True:
        functions.append(model.get_encoder().forward)
    found = {*SETTINGS, "attention_mask", "encoder_outputs", "decoder_input_ids", "decoder_attention_mask"}
    for one in functions:
        taken = inspect.signature(one).parameters.values()
        found.update(p.name for p in taken if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
    return found


def _told(
    model: PreTrainedModel, asked: Asked, named: Mapping[str, object], begun: Prompt, each: int
) -> dict[str, object]:
    """What the first step is told beside the ids: the caller's inputs, each row as often as it has answers."""
    own, rows = parameters_of(type(model)), begun.ids.shape[0]
    told = {name: repeated(value, rows, each) for name, value in named.items()}
    past = asked.parts.get("past_key_values")
    mask = "attention_mask" if begun.encoded is None else "decoder_attention_mask"
    if own.open or mask in own.names:
        told[mask] = begun.mask.repeat_interleave(each, 0)
    told.update((name, repeated(value, rows, each)) for name, value in (begun.encoded or {}).items())
    cached = asked.known.get("use_cache") is not False and model.config.common.use_cache
    told["use_cache"] = cached
    if past is not None:
        if isinstance(past, Cache) and each > 1:
            past.batch_repeat_interleave(each)
        told["past_key_values"] = repeated(past, rows, each)
    kept = cast(GenerationMixin, model)._supports_default_dynamic_cache()
    if cached and kept and "past_key_values" in own.names:
        both = begun.encoded is not None
        told.setdefault(
            "past_key_values", EncoderDecoderCache(DynamicCache(), DynamicCache()) if both else DynamicCache()
        )
    return told


def _own(asked: Asked, settings: Settings) -> list[object]:
    """The processors of the call, and its function of what may follow."""
    found = asked.parts.some("logits_processor")
    allowed = asked.parts.get("prefix_allowed_tokens_fn")
    before = [] if allowed is None else [PrefixConstrainedLogitsProcessor(allowed, settings.num_beams)]  # type: ignore[arg-type]
    return [*before, *(found if isinstance(found, (list, tuple)) else [])]


def _criteria(settings: Settings, asked: Asked, prompt: int, tokenizer: object) -> StoppingCriteriaList:
    found: list[object] = [MaxLengthCriteria(prompt + settings.max_new_tokens)]
    if settings.max_time is not None:
        found.append(MaxTimeCriteria(settings.max_time))
    if settings.stop_strings:
        if tokenizer is None:
            raise InputError("stop strings need a tokenizer", where="stop_strings", remedy="Pass tokenizer=...")
        found.append(StopStringCriteria(tokenizer, settings.stop_strings))  # type: ignore[arg-type]
    if settings.eos_token_ids:
        found.append(EosTokenCriteria(list(settings.eos_token_ids)))
    given = asked.parts.some("stopping_criteria")
    return StoppingCriteriaList([*found, *(given if isinstance(given, (list, tuple)) else [])])  # type: ignore[list-item]


def _refuse_what_needs_the_engine(settings: Settings, asked: Asked) -> None:
    """Raise :class:`InputError` for ways of writing that only the engine knows."""
    wanted = [name for name in asked.parts.given if name not in _PARTS]
    held = {name: value for name, value in asdict(settings).items() if name in dict(_PLAIN)}
    wanted += [name for name, usual in _PLAIN if held[name] != usual]
    wanted += guesses(settings, asked.parts)
    wanted += [name for name in ("output_attentions", "output_hidden_states") if asked.flag(name)]
    if wanted:
        raise InputError(
            "a forward of the user's own is called step by step, and does not write in this way",
            where=wanted[0],
            expected="greedy search, draws or beams, with processors and criteria",
            found=", ".join(wanted),
        )
