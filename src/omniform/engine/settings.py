"""Settings of one generation: those of the call over the checkpoint's, made into one typed value.

Their names, values and effects are one table, ``core/settings.py``; here is what follows from several of them together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, cast
from weakref import WeakKeyDictionary

from omniform.architectures.generative import Generative
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.core.generation import as_settings
from omniform.core.kinds import PerRow
from omniform.core.settings import SETTINGS, Effect, Read, Setting, merged, misspelt, read, read_one
from omniform.core.watermark import BaseWatermarkingConfig
from omniform.engine.beams import BeamSettings
from omniform.engine.criteria import MaxLengthCriteria
from omniform.engine.guessing import Guessing
from omniform.engine.parts import Parts
from omniform.engine.processors.audio import Timestamps

log = logging.getLogger("omniform")

_TOLD: Final[WeakKeyDictionary[Generative, set[tuple[str, str]]]] = WeakKeyDictionary()
"""Which settings were said to be without effect, for each model."""

DEFAULT_NEW_TOKENS = 20
"""How many tokens are written when nobody says: the ecosystem's default."""


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
        top_h: draw among the most likely tokens that together have this share of the entropy; None for all.
        min_p: leave out tokens less likely than this fraction of the most likely one.
        typical_p: draw among the tokens nearest to the expected surprise that together have this probability.
        epsilon_cutoff: leave out tokens less likely than this.
        eta_cutoff: the same, but the less is left out the surer the model is.
        seed: makes the draws reproducible; None draws from torch's global generator.
        repetition_penalty: scores of tokens already in the row are divided (or multiplied, if negative) by it.
        encoder_repetition_penalty: scores of tokens that the encoder has read are multiplied (or divided) by it.
        presence_penalty, frequency_penalty: taken from scores of tokens that the row has written, once or each time.
        no_repeat_ngram_size: no so many tokens occur twice in a row; 0 for no such rule.
        encoder_no_repeat_ngram_size: no so many tokens in a row are written that the encoder has read.
        sequence_bias: runs of tokens, and what is added to the score of each one's last token after the others.
        bad_words: runs of tokens that are never written.
        length_decay: after how many tokens ends become likelier, and the factor per token; None for never.
        remove_invalid: NaN and infinite scores become numbers.
        watermark: how the text is marked; None for not at all.
        renormalize: the scores that tokens are chosen by are log-probabilities.
        suppress_tokens: never written.
        begin_suppress_tokens: not written as the first token.
        forced_first: the token to begin with, whatever its score, where a single token comes before it.
        forced_last: the tokens to choose from when the length runs out, the first of them by default.
        eos_token_ids: tokens that end a row.
        pad_token_id: fills rows that ended before others.
        max_time: seconds after which no further token is begun.
        num_beams: how many ways to write on are followed at once; 1 for no search.
        num_beam_groups: groups of beams that choose one after the other.
        diversity_penalty: what it costs a group to choose a token that another group chose.
        guidance_scale: how much more the prompt counts for than usual; 1 for as usual.
        penalty_alpha: of contrastive search, what it costs to repeat; 0 for no such search.
        dola_layers: earlier layers to contrast the last one with; None for none.
        force_words: runs of tokens that every answer holds, or lists of runs of which one will do.
        keep_beams: whether the beams of every step are noted.
        num_return_sequences: how many answers are wanted.
        length_penalty: exponent on a beam's length, which its score is divided by.
        early_stopping: when beam search ends; see :class:`~omniform.engine.beams.BeamSettings`.
        stop_strings: texts that end a row.
        logprobs: how many of the likeliest tokens to tell the log-probabilities of, beside the chosen one's; None for
            no log-probabilities at all.
        prompt_logprobs: the same for the prompt's own tokens.
        keep_scores, keep_logits: whether the scores that tokens were chosen by, and the model's own, are kept.
        guessing: how tokens are guessed ahead, where somebody does.
        timestamps: how rows say when something was spoken; None where they do not.
    """

    max_new_tokens: int
    min_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    top_h: float | None
    min_p: float | None
    typical_p: float
    epsilon_cutoff: float
    eta_cutoff: float
    seed: int | None
    repetition_penalty: float
    encoder_repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    encoder_no_repeat_ngram_size: int
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...]
    bad_words: tuple[tuple[int, ...], ...]
    length_decay: tuple[int, float] | None
    remove_invalid: bool
    watermark: BaseWatermarkingConfig | None
    renormalize: bool
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    forced_first: int | None
    forced_last: tuple[int, ...]
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    max_time: float | None
    num_beams: int
    guidance_scale: float
    penalty_alpha: float
    dola_layers: str | tuple[int, ...] | None
    num_beam_groups: int
    diversity_penalty: float
    force_words: tuple[tuple[int, ...] | tuple[tuple[int, ...], ...], ...]
    keep_beams: bool
    num_return_sequences: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    stop_strings: tuple[str, ...]
    logprobs: int | None
    prompt_logprobs: int | None
    keep_scores: bool
    keep_logits: bool
    guessing: Guessing
    timestamps: Timestamps | None = None
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        # Rows are grouped by it in every step, and lists of words are long.
        values = tuple([getattr(self, name) for name in _COMPARED])
        object.__setattr__(self, "_hash", hash(values))

    def __hash__(self) -> int:
        return self._hash

    @property
    def has_token_rules(self) -> bool:
        """Whether any rule looks at what a row holds or how long it is."""
        penalised = self.repetition_penalty != 1.0 or self.encoder_repetition_penalty != 1.0
        penalised |= self.presence_penalty != 0 or self.frequency_penalty != 0
        runs = self.no_repeat_ngram_size or self.encoder_no_repeat_ngram_size or self.sequence_bias or self.bad_words
        ends = self.min_new_tokens or self.forced_first is not None or self.forced_last or self.length_decay
        rest = self.begin_suppress_tokens or self.remove_invalid or self.timestamps is not None
        return bool(penalised or runs or ends or rest)

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is taken, without any rule."""
        changed = self.do_sample or self.has_token_rules or self.suppress_tokens or self.renormalize
        return not changed and self.watermark is None

    @property
    def notes(self) -> bool:
        """Whether anything is noted of every token."""
        return self.keep_scores or self.keep_logits or self.logprobs is not None

    @property
    def rows_at_once(self) -> int:
        """How many rows are computed for one prompt at a time, at most."""
        if self.penalty_alpha and self.top_k > 1:
            return self.top_k + 1
        rows = max(self.num_beams, self.num_return_sequences)
        return rows if self.guidance_scale == 1 else 2 * rows

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


class Asked:
    """The settings of one call: read for prompts of any length, what is to be said about them said once.

    Args:
        model: what writes.
        layers: what the caller set, the later mappings over the earlier ones: what is set in a config (no Nones), and
            keywords, whose None means that a setting is to have no effect. All of it over ``generation_config.json``,
            over the config's special tokens.
        told: what was warned of in this call already; the prompts of a batch share it.

    Attributes:
        parts: the objects that the call brought along.
        known: what is said about each setting, as it was said.
        named: the settings that the caller named.

    Raises:
        InputError: ``model.generation_config`` is no config.
        UnknownArgumentError: ``generation_config.json`` holds a misspelt name.
    """

    def __init__(self, model: Generative, *layers: Mapping[str, object], told: set[str] | None = None) -> None:
        self.table = table_of(model)
        own = as_settings(model.generation_config, "model.generation_config")  # users put anything there
        said = {name: value for name, value in own.items() if value is not None}
        for names in (said, *layers):
            _check_names(names, self.table)
        parts = [name for name, row in self.table.items() if row.effect is Effect.PART]
        self.parts = Parts({n: layer[n] for layer in layers for n in parts if layer.get(n) is not None})
        plain = [{n: value for n, value in layer.items() if n not in parts} for layer in layers] if parts else layers
        fixed = model.fixed_settings if isinstance(model, Generative) else {}  # a model of the user's own has none
        self.known = merged([token_ids(model.config), said, fixed, *plain], self.table)
        self.named = self._caller = {name for layer in layers for name in layer}
        self._model = model
        self._read: Read | None = None
        self._settings: dict[int, Settings] = {}
        self._told: set[str] = set() if told is None else told

    def __call__(self, prompt: int) -> Settings:
        """How to choose and when to stop.

        Args:
            prompt: tokens in the prompt, which ``max_length`` and ``min_length`` include.

        Raises:
            InputError: a value that cannot be, or something that is not built yet.
        """
        found = self._settings.get(prompt)
        if found is None:
            found = self._settings[prompt] = self._within_positions(prompt)
        return found

    @property
    def values(self) -> Mapping[str, object]:
        """Every setting's value, by the names of the table."""
        if self._read is None:
            self._read = read(self.known, self.table)
            idle = {name: words for name, words in self._read.idle.items() if name in self._caller}
            for words in dict.fromkeys(idle.values()):
                names = ", ".join(name for name, needed in idle.items() if needed == words)
                told = _TOLD.setdefault(self._model, set())  # a loop of calls is told once
                if (words, names) not in told:
                    told.add((words, names))
                    log.warning("no effect without %s: %s", words, names)
        return self._read.values

    def own(self, rows: int) -> list[dict[str, object]]:
        """What each row's own decoder prompt depends on, as far as it is set; a list stands for one value per row."""
        found = {name: self.values[name] for name in self._model.own_settings if self.values.get(name) is not None}
        start = self.values["decoder_start_token_id"]
        if isinstance(start, tuple) and start:
            found["decoder_start_token_id"] = start[0] if len(start) == 1 else PerRow(start)
        each: list[dict[str, object]] = [dict(found) for _ in range(rows)]
        for name, value in found.items():
            if isinstance(value, PerRow):
                if len(value) != rows:
                    raise InputError(f"one {name} per row", where=name, expected=rows, found=len(value))
                for own, one in zip(each, value, strict=True):
                    own[name] = one
        return each

    def flag(self, name: str) -> bool:
        """Whether a setting is on, before anything else is read."""
        return read_one(name, self.table[name], self.known) is True

    @property
    def pad_token_id(self) -> int:
        """What fills short rows."""
        for name in ("pad_token_id", "eos_token_id"):
            ids = self.values[name]
            if isinstance(ids, tuple) and ids:
                return int(ids[0])
        return 0

    def _within_positions(self, prompt: int) -> Settings:
        settings = _settings(self.values, prompt)
        _check(settings, self._model)
        limit = self._model.max_positions
        # The last token written is never read again, so an answer may end one past the last position.
        settings = self._within_criteria(settings, prompt)
        if limit is None or prompt + settings.max_new_tokens <= limit + 1:
            return settings
        if "cut" not in self._told:
            self._told.add("cut")
            log.warning("the answer is cut at the model's %d positions, after %d tokens", limit, limit - prompt + 1)
        return replace(settings, max_new_tokens=limit - prompt + 1)

    def _within_criteria(self, settings: Settings, prompt: int) -> Settings:
        """A criterion of length that the call brings along says how long answers are, instead of the settings."""
        given = self.parts.get("stopping_criteria")
        own = (
            next((c for c in given if type(c) is MaxLengthCriteria), None) if isinstance(given, (list, tuple)) else None
        )
        if own is None:
            return settings
        if "length" not in self._told:
            self._told.add("length")
            log.warning("the call's own MaxLengthCriteria takes the place of the setting's")
        return replace(settings, max_new_tokens=max(1, own.max_length - prompt))


def table_of(model: Generative) -> Mapping[str, Setting]:
    """Every setting that a model understands."""
    return {**SETTINGS, **model.own_settings} if model.own_settings else SETTINGS


def _check_names(said: Mapping[str, object], table: Mapping[str, Setting]) -> None:
    """Refuse what is almost a setting's name; what is like none is the file's own affair."""
    for name in said:
        meant = None if name in table else misspelt(name, table)
        if meant is not None:
            raise UnknownArgumentError(
                f"there is no setting {name!r:.100}",
                where="generation_config",
                remedy=f"Did you mean {meant!r}? Correct the file, or model.generation_config.",
            )


def _settings(values: Mapping[str, object], prompt: int) -> Settings:
    """The engine's view of settings that were read.

    Args:
        prompt: tokens in the prompt.
    """
    given: dict[str, Any] = {
        row.field or name: values[name]
        for name, row in SETTINGS.items()
        if (row.field or name) in _FIELDS and row.effect is Effect.USED
    }
    ends: tuple[int, ...] = given["eos_token_ids"]
    first = cast("tuple[int, ...]", values["forced_bos_token_id"])
    shortest, fewest = values["min_length"], values["min_new_tokens"]
    rest = shortest - prompt if isinstance(shortest, int) else 0
    pad = cast("tuple[int, ...]", values["pad_token_id"])
    given |= {
        "max_new_tokens": _longest(values, prompt),
        "min_new_tokens": fewest if isinstance(fewest, int) else max(0, rest),
        # A single end token is no bad word: the ecosystem leaves ends to min_new_tokens.
        "bad_words": tuple(word for word in given["bad_words"] if len(word) > 1 or word[0] not in ends),
        # The ecosystem forces the second token of a row, the first that is written after a decoder prompt of one.
        "forced_first": first[0] if first and prompt == 1 else None,
        "pad_token_id": pad[0] if pad else ends[0] if ends else 0,
        "keep_beams": values["output_attentions"] is True or values["output_hidden_states"] is True,
        "guessing": Guessing.read(values),
        "timestamps": Timestamps.read(values, ends),
    }
    return Settings(**given)


_FIELDS = frozenset(field.name for field in fields(Settings))
_COMPARED = tuple(field.name for field in fields(Settings) if field.compare)


def _longest(values: Mapping[str, object], prompt: int) -> int:
    new, whole = values["max_new_tokens"], values["max_length"]
    if isinstance(new, int):
        return new
    if not isinstance(whole, int):
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


def _check(s: Settings, model: Generative) -> None:
    if s.num_return_sequences > 1 and not s.do_sample and s.num_beams == 1:
        raise InputError(
            "this value cannot be",
            where="num_return_sequences",
            expected="1: greedy search has one answer (or do_sample=True, or num_beams)",
            found=s.num_return_sequences,
        )
    if s.max_new_tokens == 0 and s.prompt_logprobs is None:
        raise InputError(
            "this value cannot be",
            where="max_new_tokens",
            expected="an integer >= 1 (0 where prompt_logprobs alone is asked for)",
            found=0,
        )
    _check_forced(s)
    _check_vocabulary(s, model)
    if s.num_beams > 1:
        _check_beams(s)
    elif s.force_words:
        raise InputError(
            "words are forced by a beam search only",
            where="force_words_ids",
            expected="num_beams > 1 beside it",
            found=f"num_beams={s.num_beams}",
        )


def _check_vocabulary(s: Settings, model: Generative) -> None:
    """What is to be written or made likelier must be in the vocabulary; what never comes does no harm."""
    forced_first = () if s.forced_first is None else (s.forced_first,)
    runs = tuple(run for run, _ in s.sequence_bias)
    for name, tokens in (
        ("forced_bos_token_id", forced_first),
        ("forced_eos_token_id", s.forced_last),
        ("sequence_bias", tuple(token for run in runs for token in run)),
        ("bad_words_ids", tuple(token for run in s.bad_words for token in run)),
        ("force_words_ids", tuple(_flat(s.force_words))),
    ):
        outside = next((token for token in tokens if not model.knows(token)), None)
        if outside is not None:
            raise InputError(
                "a token is not in the vocabulary",
                where=name,
                expected=f"tokens below {model.vocabulary}",
                found=outside,
            )


def _flat(words: Iterable[object]) -> Iterator[int]:
    for word in words:
        if isinstance(word, int):
            yield word
        elif isinstance(word, tuple):
            yield from _flat(word)


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
    for name, asked in (("logprobs", s.logprobs), ("prompt_logprobs", s.prompt_logprobs)):
        if asked is None:
            continue
        raise InputError(
            "a beam search gives no log-probabilities of single tokens",
            where=name,
            expected="None, or num_beams=1",
            found=f"num_beams={s.num_beams}",
            remedy="output_scores=True and compute_transition_scores tell what its choices were made by.",
        )
    if s.num_beams % s.num_beam_groups:
        raise InputError(
            "groups of beams are equally large",
            where="num_beam_groups",
            expected=f"a divisor of num_beams, {s.num_beams}",
            found=s.num_beam_groups,
        )
    if s.num_beam_groups > 1 and not s.diversity_penalty:
        raise InputError(
            "without a penalty all groups of beams are the same",
            where="diversity_penalty",
            expected="a number > 0 beside num_beam_groups > 1",
            found=s.diversity_penalty,
        )
    for name, asked in (("num_beam_groups > 1", s.num_beam_groups > 1), ("force_words_ids", bool(s.force_words))):
        if asked and s.do_sample:
            raise InputError(f"{name} and do_sample=True do not go together", where=name, remedy="Leave one out.")
    if s.num_beam_groups > 1 and s.force_words:
        raise InputError("force_words_ids and num_beam_groups > 1 do not go together", where="force_words_ids")


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
