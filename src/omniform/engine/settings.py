"""Settings of one generation: read from the call and the checkpoint, checked, and made into one typed value."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from omniform.architectures.generative import Generative
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, InputError
from omniform.core.generation import SETTINGS
from omniform.core.reader import ConfigReader
from omniform.engine.beams import BeamSettings

log = logging.getLogger("omniform")

DEFAULT_NEW_TOKENS = 20
"""How many tokens are written when nobody says: the ecosystem's default."""

# Settings of strategies that the engine does not have, and the values that leave the result as it is.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "num_beam_groups": (1,), "diversity_penalty": (0.0,), "guidance_scale": (1.0,), "penalty_alpha": (0.0,),
    "encoder_no_repeat_ngram_size": (0,), "encoder_repetition_penalty": (1.0,), "force_words_ids": (),
    "constraints": (), "watermarking_config": (), "prompt_lookup_num_tokens": (0,), "token_healing": (False,),
    "top_h": (),
}  # fmt: skip
_INERT = frozenset(
    {
        "output_attentions", "output_hidden_states", "transformers_version",
        "_from_model_config", "low_memory", "cache_implementation", "cache_config", "is_multilingual", "lang_to_id",
        "task_to_id", "alignment_heads", "no_timestamps_token_id", "max_initial_timestamp_index",
        "prev_sot_token_id", "num_assistant_tokens", "num_assistant_tokens_schedule",
        "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "generation_kwargs",
        "disable_compile", "compile_config", "trust_remote_code", "is_assistant", "assistant_early_exit",
        "begin_index", "max_cache_len", "use_mtp",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to choose tokens and when to stop.

    Attributes:
        max_new_tokens: how many tokens to write at most.
        min_new_tokens: how many to write before a row may end.
        do_sample: draw from the distribution instead of taking the most likely token.
        temperature: divides the scores before drawing.
        top_k: draw among the so many most likely tokens only; 0 for all.
        top_p: draw among the most likely tokens that together have this probability.
        min_p: leave out tokens less likely than this fraction of the most likely one.
        typical_p: draw among the tokens nearest to the expected surprise that together have this probability.
        epsilon_cutoff: leave out tokens less likely than this.
        eta_cutoff: the same, but the less is left out the surer the model is.
        seed: makes the draws reproducible; None draws from torch's global generator.
        repetition_penalty: scores of tokens already in the row are divided (or multiplied, if negative) by it.
        no_repeat_ngram_size: no so many tokens occur twice in a row; 0 for no such rule.
        sequence_bias: runs of tokens, and what is added to the score of each one's last token after the others.
        bad_words: runs of tokens that are never written.
        length_decay: after how many tokens ends become likelier, and the factor per token; None for never.
        remove_invalid: NaN and infinite scores become numbers.
        renormalize: the scores that tokens are chosen by are log-probabilities.
        suppress_tokens: never written.
        begin_suppress_tokens: not written as the first token.
        forced_first: the token to begin with, whatever its score, where a single token comes before it.
        forced_last: the tokens to choose from when the length runs out, the first of them by default.
        eos_token_ids: tokens that end a row.
        pad_token_id: fills rows that ended before others.
        max_time: seconds after which no further token is begun.
        num_beams: how many ways to write on are followed at once; 1 for no search.
        num_return_sequences: how many answers are wanted.
        length_penalty: exponent on a beam's length, which its score is divided by.
        early_stopping: when beam search ends; see :class:`~omniform.engine.beams.BeamSettings`.
        stop_strings: texts that end a row.
        logprobs: how many of the likeliest tokens to tell the log-probabilities of, beside the chosen one's; None for
            no log-probabilities at all.
        keep_scores, keep_logits: whether the scores that tokens were chosen by, and the model's own, are kept.
    """

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    length_decay: tuple[int, float] | None = None
    remove_invalid: bool = False
    renormalize: bool = False
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_first: int | None = None
    forced_last: tuple[int, ...] = ()
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0
    max_time: float | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    stop_strings: tuple[str, ...] = ()
    logprobs: int | None = None
    keep_scores: bool = False
    keep_logits: bool = False

    @property
    def has_token_rules(self) -> bool:
        """Whether any rule looks at what a row holds or how long it is."""
        return bool(
            self.repetition_penalty != 1.0
            or self.no_repeat_ngram_size
            or self.min_new_tokens
            or self.forced_first is not None
            or self.forced_last
            or self.begin_suppress_tokens
            or self.sequence_bias
            or self.bad_words
            or self.length_decay
            or self.remove_invalid
        )

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is taken, without any rule."""
        return not (self.do_sample or self.has_token_rules or self.suppress_tokens or self.renormalize)

    @property
    def eos_set(self) -> frozenset[int]:
        """The tokens that end a row, to look one up in."""
        return frozenset(self.eos_token_ids)

    def beam_settings(self) -> BeamSettings:
        """Those of the search, where ``num_beams`` asks for one."""
        return BeamSettings(
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            num_return_sequences=self.num_return_sequences,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            do_sample=self.do_sample,
            eos_token_ids=self.eos_token_ids,
            pad_token_id=self.pad_token_id,
        )


def read_settings(model: Generative, asked: Mapping[str, object], prompt: int) -> Settings:
    """The settings of a call, over the checkpoint's, over the defaults.

    Args:
        asked: what the caller set.
        prompt: tokens in the longest prompt, which ``max_length`` and ``min_length`` include.

    Raises:
        InputError: a value that cannot be, or a strategy that the engine does not have.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    merged = known_settings(model, asked)
    for name, neutral in _NEUTRAL.items():
        value = merged.get(name)
        if value is not None and value not in neutral and value not in ([], {}):
            raise InputError(
                "this setting is not supported",
                where=name,
                expected=" or ".join(repr(n) for n in neutral) or "nothing",
                found=repr(value),
            )
    r = ConfigReader(merged, where="generate")
    r.inert(*_NEUTRAL, *_INERT, *SETTINGS)
    try:
        settings = _read(r, given, prompt)
    except ConfigError as error:
        raise InputError(
            error.message, where="generate", expected=error.expected, found=error.found, remedy=error.remedy
        ) from None
    _check(settings)
    if not settings.do_sample and any(given.get(n) not in (None, d) for n, d in _SAMPLING.items()):
        log.warning("%s have no effect without do_sample=True", ", ".join(_SAMPLING))
    return settings


def known_settings(model: Generative, asked: Mapping[str, object]) -> dict[str, object]:
    """Everything that is set: by the call, over ``generation_config.json``, over the config's special tokens."""
    known = token_ids(model.config)
    for settings in (model.generation_config.to_dict(), asked):
        known.update({name: value for name, value in settings.items() if value is not None})
    return known


_SAMPLING: Mapping[str, object] = {
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}  # fmt: skip


def _read(r: ConfigReader, given: Mapping[str, object], prompt: int) -> Settings:
    d = Settings()
    eos = tuple(i for i in r.ids("eos_token_id") if i >= 0)
    pad = [i for i in r.ids("pad_token_id") if i >= 0]
    first = r.ids("forced_bos_token_id")
    fewest = r.maybe_integer("min_new_tokens", least=0)
    least = r.maybe_integer("min_length", least=0) or 0
    return Settings(
        max_new_tokens=_longest(r, given, prompt),
        min_new_tokens=fewest if fewest is not None else max(0, least - prompt),
        do_sample=r.flag("do_sample", d.do_sample),
        temperature=r.number("temperature", d.temperature),
        top_k=r.integer("top_k", d.top_k, least=0),
        top_p=r.number("top_p", d.top_p),
        min_p=r.maybe_number("min_p"),
        typical_p=r.number("typical_p", d.typical_p),
        epsilon_cutoff=r.number("epsilon_cutoff", d.epsilon_cutoff),
        eta_cutoff=r.number("eta_cutoff", d.eta_cutoff),
        seed=r.maybe_integer("seed", least=0),
        repetition_penalty=r.number("repetition_penalty", d.repetition_penalty),
        no_repeat_ngram_size=r.integer("no_repeat_ngram_size", 0, least=0),
        sequence_bias=_biases(r.raw.get("sequence_bias")),
        # A single end token is no bad word: the ecosystem leaves ends to min_new_tokens.
        bad_words=tuple(w for w in _runs(r.raw.get("bad_words_ids")) if len(w) > 1 or w[0] not in eos),
        length_decay=_decay(r.raw.get("exponential_decay_length_penalty")),
        remove_invalid=r.flag("remove_invalid_values", d.remove_invalid),
        renormalize=r.flag("renormalize_logits", d.renormalize),
        suppress_tokens=tuple(i for i in r.ids("suppress_tokens") if i >= 0),
        begin_suppress_tokens=tuple(i for i in r.ids("begin_suppress_tokens") if i >= 0),
        # The ecosystem forces the second token of a row, which is an answer's first after a single opening token.
        forced_first=first[0] if first and prompt == 1 else None,
        forced_last=tuple(i for i in r.ids("forced_eos_token_id") if i >= 0),
        eos_token_ids=eos,
        pad_token_id=pad[0] if pad else eos[0] if eos else 0,
        max_time=r.maybe_number("max_time"),
        num_beams=r.integer("num_beams", 1, least=1),
        num_return_sequences=r.integer("num_return_sequences", 1, least=1),
        length_penalty=r.number("length_penalty", d.length_penalty),
        early_stopping=_early_stopping(r.raw.get("early_stopping")),
        stop_strings=_texts(r.raw.get("stop_strings")),
        logprobs=r.maybe_integer("logprobs", least=0),
        keep_scores=r.flag("output_scores", False),
        keep_logits=r.flag("output_logits", False),
    )


def _early_stopping(value: object) -> bool | Literal["never"]:
    if value is None or isinstance(value, bool):
        return bool(value)
    if value == "never":
        return "never"
    raise InputError("this value cannot be", where="early_stopping", expected="True, False or 'never'", found=value)


def _texts(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) and t for t in texts):
        raise InputError(
            "stop strings must be texts", where="stop_strings", expected="a text or a list of texts", found=repr(value)
        )
    return tuple(texts)


def _is_run(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(type(i) is int and i >= 0 for i in value)


def _runs(value: object) -> tuple[tuple[int, ...], ...]:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)) and all(_is_run(run) for run in value):
        return tuple(tuple(run) for run in value)
    raise InputError(
        "bad words must be rows of token ids", where="bad_words_ids", expected="a list of lists", found=repr(value)
    )


def _biases(value: object) -> tuple[tuple[tuple[int, ...], float], ...]:
    if value is None:
        return ()
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if isinstance(pairs, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and _is_run(pair[0]) and isinstance(pair[1], (int, float))
        for pair in pairs
    ):
        # Said twice of one run, the last counts, as in the ecosystem.
        return tuple({tuple(run): float(bias) for run, bias in pairs}.items())
    raise InputError(
        "a bias belongs to a row of token ids",
        where="sequence_bias",
        expected="a list of [token ids, number], or a mapping from tuples",
        found=repr(value),
    )


def _decay(value: object) -> tuple[int, float] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and len(value) == 2:
        start, factor = value
        if type(start) is int and isinstance(factor, (int, float)) and factor > 0:
            return start, float(factor)
    raise InputError(
        "this value cannot be",
        where="exponential_decay_length_penalty",
        expected="the first token it counts for and a factor > 0",
        found=repr(value),
    )


def _longest(r: ConfigReader, given: Mapping[str, object], prompt: int) -> int:
    # What the caller says counts before what the checkpoint says; the number of new tokens before the whole length.
    new, whole = r.maybe_integer("max_new_tokens"), r.maybe_integer("max_length")
    if new is not None and ("max_new_tokens" in given or "max_length" not in given):
        return new
    if whole is None:
        return DEFAULT_NEW_TOKENS
    if whole <= prompt:
        raise InputError(
            "the prompt leaves no room for an answer",
            where="max_length",
            expected=f"more than the prompt's {prompt} tokens",
            found=whole,
            remedy="Set max_new_tokens instead.",
        )
    return whole - prompt


def _check(s: Settings) -> None:
    rules = {
        "temperature": (s.temperature > 0, "> 0 (or do_sample=False)"),
        "top_p": (0 <= s.top_p <= 1, "in [0, 1]"),
        "min_p": (s.min_p is None or 0 <= s.min_p <= 1, "in [0, 1]"),
        "typical_p": (0 < s.typical_p <= 1, "in (0, 1]"),
        "epsilon_cutoff": (0 <= s.epsilon_cutoff < 1, "in [0, 1)"),
        "eta_cutoff": (0 <= s.eta_cutoff < 1, "in [0, 1)"),
        "repetition_penalty": (s.repetition_penalty > 0, "> 0"),
        "seed": (s.seed is None or s.seed < 2**63, "below 2**63"),
        "num_return_sequences": (
            s.num_return_sequences == 1 or s.do_sample or s.num_beams > 1,
            "1: greedy search has one answer (or do_sample=True, or num_beams)",
        ),
    }
    values = {f.name: getattr(s, f.name) for f in fields(s)}
    for name, (holds, expected) in rules.items():
        if not holds:
            raise InputError("this value cannot be", where=name, expected=expected, found=values[name])
    _check_forced(s)
    if s.num_beams > 1:
        _check_beams(s)


def _check_forced(s: Settings) -> None:
    first = () if s.forced_first is None else (s.forced_first,)
    for name, forced in (("forced_bos_token_id", first), ("forced_eos_token_id", s.forced_last)):
        if forced and set(forced) <= set(s.suppress_tokens):
            raise InputError(
                "a token cannot be forced and suppressed",
                where=name,
                expected="a token that is not among suppress_tokens",
                found=", ".join(map(str, forced)),
            )


def _check_beams(s: Settings) -> None:
    s.beam_settings()
    asked = {"output_scores": s.keep_scores, "output_logits": s.keep_logits, "logprobs": s.logprobs is not None}
    for name, value in asked.items():
        if value:
            raise InputError(
                "beam search gives no scores token by token",
                where=name,
                expected="this setting left out, or num_beams=1",
                found=f"num_beams={s.num_beams}",
                remedy="return_dict_in_generate=True gives each answer's score, as sequences_scores.",
            )


def token_ids(config: ModelConfig) -> dict[str, object]:
    """The special tokens that a config names, at its top or in its language model's part."""
    nested = config.raw.get("text_config")
    places: list[Mapping[str, object]] = [nested] if isinstance(nested, Mapping) else []
    places.append({n: config.get(n) for n in ("eos_token_id", "pad_token_id", "decoder_start_token_id")})
    found: dict[str, object] = {}
    for place in places:
        for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id"):
            if place.get(name) is not None:
                found[name] = place[name]
    return found
