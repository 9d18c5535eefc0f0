"""``generate`` and its kin: one call, its rows side by side, through an engine of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.codes import CodesWriter
from omniform.architectures.generation import GenerationMixin
from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.architectures.named import PreTrainedModel
from omniform.architectures.omni import FlowOmni, Omni
from omniform.architectures.speech import SpeechToText
from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.generation import GenerationConfig, as_settings
from omniform.core.settings import misspelt
from omniform.core.state import DenseState
from omniform.engine import own_loop
from omniform.engine.adapters import parts_of_each
from omniform.engine.batch_outputs import GenerationOutput, Tracked
from omniform.engine.batching_config import ContinuousBatchingConfig, bar, batching
from omniform.engine.beam_strategy import Company
from omniform.engine.cache_calls import CacheUse, coding_asked, refuse_cache, width_of
from omniform.engine.calls import Reader, mask_of, prompts_of
from omniform.engine.contrasts import negative_tokens
from omniform.engine.custom import Loop, custom_names, run_custom, run_from_repository
from omniform.engine.drafters import wanted
from omniform.engine.engine import Engine
from omniform.engine.feeds import columns, feed_of
from omniform.engine.generate_output import GenerateOutput, output_of, rows_of
from omniform.engine.handover import Legacy
from omniform.engine.hooks import NAMES
from omniform.engine.memory import decoder_bytes, exact, free_memory
from omniform.engine.paged_state import ROWS
from omniform.engine.parts import refuse_whole
from omniform.engine.places import by_place
from omniform.engine.replay import Replay
from omniform.engine.request import Completion, Prompt, Row, TokenLogprob
from omniform.engine.settings import Asked, Settings, table_of
from omniform.engine.streamers import Streamer, told_of_failures
from omniform.engine.text import Decodes
from omniform.engine.virtual_prompts import HOOK, with_virtual_tokens

BLOCK = 16


class Answers:
    """Receives what one prompt of a call gives."""

    def __init__(self, legacy: Legacy | None = None) -> None:
        self.legacy = legacy
        self.prompt: list[int] = []
        self.tokens: list[list[int]] = []
        self.completion: Completion | None = None
        self.error: BaseException | None = None

    def piece(self, row: Row, token: int, logprob: TokenLogprob | None) -> None:
        """Note a token."""
        self.prompt = self.prompt or row.named[: row.prompt - row.nameless]
        while len(self.tokens) <= row.number:
            self.tokens.append([])
        self.tokens[row.number].append(token)

    def end(self, completion: Completion | None, error: BaseException | None) -> None:
        """Note the end."""
        self.completion, self.error = completion, error

    @property
    def done(self) -> bool:
        """Whether the request is over; raises what ended it, if that was an error."""
        if self.error is not None:
            raise self.error
        return self.completion is not None

    def finished(self) -> Completion:
        """The outcome."""
        assert self.completion is not None, "asked of a request that is over"
        return self.completion


@dataclass(frozen=True, slots=True)
class Job:
    """A call of ``generate``, understood.

    Attributes:
        model: what writes.
        prompts: what the rows begin with.
        asked: how to choose and when to stop.
        given: the ids to give back in front of the answers, Shape: [B, T]; None for decoder prompts of the model's own.
        tokenizer: reads answers for stop strings.
        caches: what to go on from, and what to fill.
        named: the model's inputs as they were given, by name.
    """

    model: Generative
    prompts: list[Prompt]
    asked: Asked
    given: Tensor | None
    tokenizer: Reader | None
    caches: CacheUse
    named: Mapping[str, object]

    def answers(self) -> list[Answers]:
        """What receives each prompt's answers."""
        return [Answers(Legacy() if self.caches.wanted else None) for _ in self.prompts]

    def cache(self, answers: Sequence[Answers]) -> DenseState | None:
        """The cache, with what the rows have left behind; None if nobody wants any."""
        found, legacies = [a.finished() for a in answers], [a.legacy or Legacy() for a in answers]
        return self.caches.filled(self.model, self.prompts, found, legacies, width_of(self.prompts, self.given))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(1, *(len(prompt.tokens) for prompt in self.prompts))

    def settings(self, prompt: int) -> Settings:
        """How to choose and when to stop: the same for all rows, however long each prompt is."""
        return self.asked(max(prompt, self.longest))

    def own_settings(self, prompt: int) -> Settings:
        """Those of a row that takes no account of the others."""
        return self.asked(prompt)

    def seed(self, row: int) -> int | None:
        """What a row draws from, so that its draws do not depend on its neighbours; None for torch's generator."""
        settings = self.settings(1)
        return None if settings.seed is None else settings.seed + row * settings.num_return_sequences

    def company(self) -> Company | None:
        """What lets beam searches end together, where that is seen."""
        s = self.settings(1)
        seen = s.keep_scores or s.keep_logits or s.keep_beams or (s.do_sample and s.seed is None)
        plain = (
            s.num_beams > 1
            and s.num_beam_groups == 1
            and not s.force_words
            and self.asked.parts.some("constraints") is None
        )
        return Company() if plain and seen and len(self.prompts) > 1 else None

    def engine(self) -> Engine:
        """An engine with room for exactly these rows, or for as many at a time as there is memory for."""
        settings = self.settings(1)
        free = free_memory(self.model.device) // 2
        # Rows that draw or are looked at together must begin together, so all prompts are read in one step.
        looked_at = settings.watermark is not None or any(self.asked.parts.get(name) is not None for name in NAMES)
        together = (settings.do_sample and settings.seed is None) or looked_at
        step = max(512, sum(len(p.tokens) for p in self.prompts)) if together else None
        rows = settings.rows_at_once
        if ROWS in decoder_bytes(self.model) and wanted(settings, self.asked.parts):
            rows *= 2  # a state of fixed size is kept once more while guesses are tried
        other = negative_tokens(self.asked.parts)  # the rows' shadows read another prompt, which may be longer
        lengths = [max(len(p.tokens), other) + settings.max_new_tokens for p in self.prompts]
        # The bytes of one row of each prompt: how many rows are asked for must not cost anything before it is refused.
        coding = coding_asked(self.asked)
        each = None if self.model.reads_items else exact(decoder_bytes(self.model, coding), lengths, BLOCK)
        memory = free // 2 if each is None else min(max(each * rows, 1), max(free, 1))
        kept = None if coding is None else coding.name
        return Engine(self.model, memory=memory, block_size=BLOCK, max_tokens_per_step=step, cache_dtype=kept)


def generate(
    model: Model,
    inputs: object = None,
    generation_config: GenerationConfig | Mapping[str, object] | None = None,
    *given: object,
    streamer: Streamer | None = None,
    tokenizer: Reader | None = None,
    **kwargs: object,
) -> Tensor | GenerateOutput | dict[str, object]:
    """Write on from prompts.

    Args:
        inputs: what comes first: token ids, or what the model's encoder reads; the same as naming it by keyword.
        generation_config: settings, which those given by keyword override.
        given: by position, what the ecosystem takes so: :data:`~omniform.engine.places.PLACES`.
        streamer: receives the prompt, then every step's tokens, as they come; is told if anything is raised.
        tokenizer: reads the answers, for ``stop_strings``.
        kwargs: ``custom_generate``, a loop of the caller's own or the name of a repository that has one
            (:mod:`omniform.engine.custom`; with ``trust_remote_code=True``); the model's inputs (``input_ids`` as a
            tensor, padded on either side with ``attention_mask``, or as a list of rows of any lengths;
            ``pixel_values``, ``input_features``, ...) and settings (``max_new_tokens``, ``do_sample``,
            ``temperature``, ``top_k``, ``top_p``, ``num_beams``, ``stop_strings``, ``seed``, ...).

    Returns:
        Prompt and answer in one tensor, Shape: [B, T + new], short rows filled with the padding token after their
        end; of an encoder-decoder the answer only. With ``num_return_sequences``, so many rows per prompt. With
        ``return_dict_in_generate``, a :class:`GenerateOutput`. Models that hear have forms of their own
        (:mod:`omniform.engine.hearing.generate`).

    Raises:
        InputError: an input or a setting that cannot be used, a prompt longer than the model's positions.
        UnknownArgumentError: a keyword that is neither, with the nearest name.
    """
    if given:
        kwargs |= by_place(given, {**kwargs, "streamer": streamer})
        streamer = cast("Streamer | None", kwargs.pop("streamer", streamer))
    loop = kwargs.get("custom_generate")
    if isinstance(loop, (str, os.PathLike)):
        own = {"inputs": inputs, "generation_config": generation_config, "streamer": streamer, "tokenizer": tokenizer}
        call = {**kwargs, **{name: value for name, value in own.items() if value is not None}}
        with told_of_failures(streamer):
            return cast("Tensor | GenerateOutput", run_from_repository(model, loop, call))
    if loop is not None:
        more = {} if streamer is None else {"streamer": streamer}
        with told_of_failures(streamer):
            return _custom(model, inputs, generation_config, tokenizer, kwargs, loop, more)
    if isinstance(model, GenerationMixin) and not isinstance(model, Generative):
        with told_of_failures(streamer):
            mine = cast(PreTrainedModel, model)
            return own_loop.write(mine, inputs, generation_config, kwargs, streamer, tokenizer)
    if isinstance(model, CodesWriter):
        from omniform.engine.playing import generate as play

        with told_of_failures(streamer):
            return play(model, inputs, generation_config, kwargs, streamer)
    if isinstance(model, (Omni, FlowOmni)):
        from omniform.engine.flow_talking import generate as say
        from omniform.engine.talking import generate as talk

        with told_of_failures(streamer):
            asked = inputs, generation_config, kwargs, streamer, tokenizer
            spoken = talk(model, *asked) if isinstance(model, Omni) else say(model, *asked)
            return cast("Tensor | GenerateOutput", spoken)  # or both text and sound, as only such models give
    if isinstance(model, SpeechToText):
        from omniform.engine.hearing.generate import generate as hear

        with told_of_failures(streamer):
            return hear(model, inputs, generation_config, kwargs, streamer, tokenizer)
    with told_of_failures(streamer):
        job = prepare(model, inputs, generation_config, kwargs, tokenizer)
        settings = job.settings(1)
        if streamer is not None:
            check_streamable(settings, streamer)
        engine, answers = job.engine(), job.answers()
        enqueue(engine, job, answers)
        each, pad = settings.num_return_sequences, settings.pad_token_id
        feed = feed_of(streamer, answers, job.given, each=each, pad=pad)
        while not _done(answers):
            engine.step()
            feed.step()
        feed.end()
    found, cache = [answer.finished() for answer in answers], job.cache(answers)
    prompt, written = rows_of(found, job.given, settings, job.model.device)
    if not job.asked.flag("return_dict_in_generate"):
        return job.model.given_back(prompt, written, settings.eos_token_ids, settings.pad_token_id)
    replay = Replay(job.model, job.prompts, job.named, job.asked)
    seen = replay.shown(prompt, written, found)
    replay.note_past_ends(prompt, written, found, settings)
    return output_of(job.model, settings, job.asked, found, torch.cat((prompt, written), dim=1), seen, cache)


def _custom(
    model: Model,
    inputs: object,
    generation_config: GenerationConfig | Mapping[str, object] | None,
    tokenizer: Reader | None,
    kwargs: Mapping[str, object],
    loop: object,
    more: Mapping[str, object],
) -> Tensor | GenerateOutput:
    """A call that a loop of the caller's own answers, which may have arguments of its own, and gets ``more``."""
    writer = writes(model)
    known = table_of(writer).keys() | writer.accepts() | writer.encoder_inputs
    extra = {name: value for name, value in kwargs.items() if name in custom_names(loop) and name not in known}
    rest = {name: value for name, value in kwargs.items() if name not in extra}
    job = prepare(model, inputs, generation_config, rest, tokenizer)
    return cast("Tensor | GenerateOutput", run_custom(job, cast("Loop", loop), {**extra, **more}))


def stream(
    model: Model,
    inputs: object = None,
    *,
    generation_config: GenerationConfig | Mapping[str, object] | None = None,
    tokenizer: Reader | None = None,
    **kwargs: object,
) -> Iterator[Tensor]:
    """The same as :func:`generate`, one token of each row at a time. Yields Shape: [B]."""
    job = prepare(model, inputs, generation_config, kwargs, tokenizer)
    settings = job.settings(1)
    check_streamable(settings)
    engine, answers = job.engine(), job.answers()
    enqueue(engine, job, answers)
    shown = 0
    while not _done(answers):
        engine.step()
        for column in columns(answers, settings.pad_token_id, shown):
            shown += 1
            yield column.to(model.device)
    job.cache(answers)


def generate_batch(
    model: Model,
    inputs: Sequence[Sequence[int]],
    generation_config: GenerationConfig | Mapping[str, object] | None = None,
    continuous_batching_config: ContinuousBatchingConfig | None = None,
    record_timestamps: bool = False,
    progress_bar: bool = False,
    persistent_manager: bool = False,
    warmup: bool = True,
    *,
    tokenizer: Reader | None = None,
    **settings: object,
) -> dict[str, GenerationOutput]:
    """Answer many prompts of any lengths, each for itself; the ecosystem's door to the engine.

    Args:
        inputs: rows of token ids.
        generation_config: settings, which those given by keyword override. ``max_length`` counts each row's own prompt;
            with ``seed``, rows draw from generators of their own.
        continuous_batching_config: how to batch; room for exactly these rows by default.
        record_timestamps: outputs say when each token was written.
        progress_bar: show how many requests are done.
        persistent_manager, warmup: the ecosystem's; nothing here needs either.
        tokenizer: reads the answers, for ``stop_strings``, and makes their texts.

    Returns:
        What came of each request, ``"req_0"`` and so on in the order of the inputs, and of each of its further answers,
        ``"req_0__child#0"`` and so on before it: ``generated_tokens``, ``finish_reason``, how likely tokens were if
        that was asked for, and the whole ``completion``.

    Raises:
        InputError: an input or a setting that cannot be used; nothing is answered then.
        UnknownArgumentError: an unknown setting, with the nearest name.
    """
    check_arguments("generate_batch", settings, table_of(writes(model)))
    if isinstance(inputs, (list, tuple)) and not inputs:
        return {}
    config = batching(continuous_batching_config, generation_config)
    likely = config is not None and config.return_logprobs
    if likely:
        settings = {**settings, "output_scores": True}
    if config is not None and config.seed is not None:
        settings = {"seed": config.seed, **settings}
    job = prepare(model, inputs, generation_config, settings, tokenizer, stepwise=True)
    engine = job.engine() if config is None else engine_of(model, config, tokenizer)
    found: dict[str, GenerationOutput] = {}
    with bar(len(job.prompts), progress_bar) as told:

        def deliver(output: GenerationOutput) -> None:
            found[output.request_id] = output
            told(0 if "__child#" in output.request_id else 1)

        sinks = [
            Tracked(f"req_{number}", list(prompt.tokens), deliver, timed=record_timestamps, likely=likely)
            for number, prompt in enumerate(job.prompts)
        ]
        for number, (prompt, sink) in enumerate(zip(job.prompts, sinks, strict=True)):
            sink.begun = sink.created
            engine.enqueue(
                prompt, job.own_settings, sink, tokenizer=tokenizer, seed=job.seed(number), parts=job.asked.parts
            )
        while not all(_over(sinks)):
            engine.step()
    further = range(job.settings(1).num_return_sequences - 1)
    ends = [*(f"__child#{child}" for child in further), ""]
    return {f"req_{n}{end}": found[f"req_{n}{end}"] for n in range(len(sinks)) for end in ends}


def _over(sinks: Sequence[Tracked]) -> list[bool]:
    """Which requests are over; each is asked, so that the failure of one is told at once."""
    return [sink.over for sink in sinks]


def engine_of(model: Model, config: ContinuousBatchingConfig, tokenizer: Reader | None) -> Engine:
    """An engine that batches as a config says."""
    return Engine(
        model,
        tokenizer,
        memory=config.memory(writes(model)),
        max_tokens_per_step=config.max_batch_tokens,
        block_size=config.tokens_per_block(),
        prefix_cache=config.allow_block_sharing,
        cuda_graphs=config.graphs(),
        cache_dtype=config.cache_dtype,
    )


def prepare(
    model: Model,
    inputs: object,
    generation_config: GenerationConfig | Mapping[str, object] | None,
    kwargs: Mapping[str, object],
    tokenizer: Reader | None = None,
    *,
    stepwise: bool = False,
) -> Job:
    """Understand a call: check its names, sort inputs from settings, and rows from one another.

    Args:
        stepwise: scores token by token are given back also without ``return_dict_in_generate``.
    """
    writer = writes(model)
    table = table_of(writer)
    known = table.keys() | writer.accepts() | writer.encoder_inputs
    # What is None is not given: tokenizers' batches hold such entries. A slip is told all the same.
    said = (name for name, value in kwargs.items() if value is not None or misspelt(name, known) is not None)
    check_arguments("generate", said, known)
    refuse_whole(writer, kwargs)
    named = {k: v for k, v in kwargs.items() if k not in table and v is not None}
    if inputs is not None:
        if writer.main_input in named:
            raise InputError(
                "the prompt is given twice", where=writer.main_input, expected="one of inputs and this name"
            )
        named[writer.main_input] = inputs
    if isinstance(generation_config, Mapping):
        check_arguments("generation_config", map(str, generation_config), table)
    layers = [as_settings(generation_config), {k: v for k, v in kwargs.items() if k in table}]
    asked = Asked(writer, *layers)
    if not stepwise and not asked.flag("return_dict_in_generate"):
        asked = Asked(writer, *layers, dict.fromkeys(_STEPWISE))  # nobody could see them
        if asked.values["prompt_logprobs"] is not None:
            raise InputError(
                "a tensor of tokens does not hold them",
                where="prompt_logprobs",
                expected="return_dict_in_generate=True beside it",
                found="return_dict_in_generate=False",
                remedy="generate_batch and an Engine give them back as well.",
            )
    for name in ("output_hidden_states", "output_attentions"):
        if asked.flag(name):
            writer.check_shown(name)
    _check_reader(tokenizer)
    if stepwise:
        refuse_cache(asked)
    if HOOK in vars(model):
        named = with_virtual_tokens(writer, named, mask_of(named, asked))
    caches, whole = CacheUse.read(writer, asked, named), dict(named)
    cached = caches.past if caches.mask is None else 0
    prompts, given = prompts_of(writer, named, asked, holes=caches.past > 0, cached=cached)
    if caches.cache is not None:
        settings, width = asked(max(1, *(len(prompt.tokens) for prompt in prompts))), width_of(prompts, given)
        caches.check_room(width, settings.max_new_tokens)
        prompts = caches.given_to(prompts, max(settings.num_beams, settings.num_return_sequences), width)
    return Job(writer, prompts, asked, given, tokenizer, caches, whole)


_STEPWISE = ("output_scores", "output_logits", "output_hidden_states", "output_attentions")


def writes(model: object) -> Generative:
    """A model that writes.

    Raises:
        InputError: it does not.
    """
    if isinstance(model, Generative) and model.can_generate():
        return model
    if isinstance(model, GenerationMixin):
        raise InputError(
            "a forward of the user's own writes through generate alone",
            where=type(model).__name__,
            remedy="Call model.generate(...); the engine packs rows, which only omniform's own families read.",
        )
    raise InputError(
        f"a {type(model).__name__} does not write text",
        where="generate",
        remedy="Load the checkpoint with AutoModelForCausalLM, AutoModelForSeq2SeqLM or another that writes.",
    )


def _check_reader(tokenizer: object) -> None:
    if isinstance(tokenizer, bytes) or not (tokenizer is None or isinstance(tokenizer, Decodes)):
        raise InputError(
            "this reads no tokens", where="tokenizer", expected="a tokenizer or a processor", found=brief(tokenizer)
        )


def enqueue(engine: Engine, job: Job, answers: Sequence[Answers]) -> None:
    """Put a call's rows into an engine's queue."""
    each, company = job.settings(1).num_return_sequences, job.company()
    parts = parts_of_each(job.asked.parts, len(job.prompts))
    for number, (prompt, answer) in enumerate(zip(job.prompts, answers, strict=True)):
        lane = (number * each, len(job.prompts) * each)
        engine.enqueue(
            prompt,
            job.settings,
            answer,
            tokenizer=job.tokenizer,
            seed=job.seed(number),
            lane=lane,
            parts=parts[number],
            legacy=answer.legacy,
            company=company,
        )


def _done(answers: Sequence[Answers]) -> bool:
    """Whether all are over; each is asked, so that the failure of one is told at once."""
    over = [answer.done for answer in answers]
    return all(over)


def check_streamable(settings: Settings, streamer: object = None) -> None:
    """Refuse to tell tokens as they come where there is nobody to tell, or nothing before the end."""
    if streamer is not None and not isinstance(streamer, Streamer):
        raise InputError("this takes no tokens", where="streamer", expected="put and end", found=brief(streamer))
    if settings.num_beams > 1:
        raise InputError(
            "beam search knows its tokens at the end only",
            where="streamer",
            expected="num_beams=1",
            found=settings.num_beams,
        )
