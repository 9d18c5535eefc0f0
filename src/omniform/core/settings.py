"""One table of everything that a generation can be told: for calls, configs, files, the command line and the engine.

Each row says once what a setting is called, which values it takes, which of them changes nothing, when it acts, what it
outranks, and whether it is used, inert or not built yet. A new mode of generation is one row here and its
implementation; what only one kind of model understands (Whisper's language) is a table that this model declares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from omniform.core.errors import InputError, brief
from omniform.core.kinds import (
    ANYTHING,
    FLAG,
    IDS,
    NUMBER,
    POSITIVE,
    TEXTS,
    Kind,
    as_biases,
    as_decay,
    as_early_stopping,
    as_layers,
    as_mapping,
    as_runs,
    as_schedule,
    as_words,
    number,
    one_of,
    plain,
    whole,
)  # fmt: skip
from omniform.core.watermark import watermarking

Values = Mapping[str, object]
"""Settings by name, after they were read."""


class Effect(Enum):
    """What becomes of a setting."""

    USED = "used"
    PART = "an object of one call, which no file can hold"
    INERT = "inert"
    LATER = "refused until it is built"


@dataclass(frozen=True, slots=True)
class When:
    """When a setting acts.

    Attributes:
        words: how to say it; "" for always.
        holds: whether the others have it so.
    """

    words: str
    holds: Callable[[Values], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table.

    Attributes:
        kind: its values.
        neutral: the value that changes nothing: what None means in a call.
        default: what holds where nobody says anything, if that is not the neutral value.
        also: other values that change nothing.
        effect: what becomes of it.
        acts: when it acts.
        over: settings that it outranks where both are said in one place.
        field: its name in the engine, if it has another there.
        help: what it does.
        metavar: what stands for its value on the command line; None where it is no option there.
        attribute: whether a ``GenerationConfig`` has it, set or not.
        remedy: what to do instead, where it is not built.
    """

    kind: Kind
    neutral: object = None
    default: object = None
    also: tuple[object, ...] = ()
    effect: Effect = Effect.USED
    acts: When = When("", lambda values: True)
    over: tuple[str, ...] = ()
    field: str = ""
    help: str = ""
    metavar: str | None = None
    attribute: bool = True
    remedy: str | None = None

    @property
    def said_by_nobody(self) -> object:
        """The value where nobody says anything."""
        return self.neutral if self.default is None else self.default

    def is_neutral(self, value: object) -> bool:
        """Whether a plain value changes nothing."""
        if value is None or (isinstance(value, (list, tuple, dict, str)) and not value):
            return True
        if not isinstance(value, (int, float, str, list, tuple, dict)):
            return False
        return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in (self.neutral, *self.also))


# -- when settings act -----------------------------------------------------------------------------------------------


def _count(values: Values, name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else 1


SAMPLING: Final = When("do_sample=True", lambda v: v.get("do_sample") is True and v.get("temperature") != 0)
BEAMS: Final = When("num_beams > 1", lambda v: _count(v, "num_beams") > 1)
GROUPS: Final = When("num_beam_groups > 1", lambda v: BEAMS.holds(v) and _count(v, "num_beam_groups") > 1)
LOOKUP: Final = When("prompt_lookup_num_tokens", lambda v: bool(v.get("prompt_lookup_num_tokens")))
GREEDY: Final = When("do_sample=False and num_beams=1", lambda v: not SAMPLING.holds(v) and not BEAMS.holds(v))
TOP_K: Final = When(SAMPLING.words, lambda v: SAMPLING.holds(v) or (GREEDY.holds(v) and bool(v.get("penalty_alpha"))))


def _used(kind: Kind, neutral: object = None, **more: object) -> Setting:
    return Setting(kind=kind, neutral=neutral, **more)  # type: ignore[arg-type]


def _inert(*names: str, attribute: bool = True) -> dict[str, Setting]:
    return {n: Setting(kind=ANYTHING, effect=Effect.INERT, attribute=attribute) for n in names}


def later(neutral: object = None, *also: object, **more: object) -> Setting:
    """A row of something that is not built yet."""
    return Setting(kind=ANYTHING, neutral=neutral, also=also, effect=Effect.LATER, **more)  # type: ignore[arg-type]


def part(**more: object) -> Setting:
    """A row of something that one call brings along as an object, and that whoever uses it reads."""
    return Setting(kind=ANYTHING, effect=Effect.PART, **{"attribute": False, **more})  # type: ignore[arg-type]


def inert(*names: str) -> dict[str, Setting]:
    """Rows of names that change nothing, for a model's own table."""
    return _inert(*names, attribute=False)


_FRACTION = number("a number from 0 to 1", lambda v: 0 <= v <= 1)
_CUTOFF = number("a number from 0, below 1", lambda v: 0 <= v < 1)

GROWING_CACHES: Final = ("dynamic", "offloaded", "quantized", "paged")
STATIC_CACHES: Final = (
    "static", "offloaded_static", "sliding_window", "hybrid", "hybrid_chunked", "offloaded_hybrid",
    "offloaded_hybrid_chunked",
)  # fmt: skip
"""Kinds of caches by the ecosystem's names; those after the second are its older names of the first two."""

SETTINGS: Final[Mapping[str, Setting]] = {
    # How long an answer is, and when it ends.
    "max_new_tokens": _used(
        whole(0), over=("max_length",), metavar="N", help="how many tokens to write at most"
    ),
    "max_length": _used(whole(1), help="how many tokens prompt and answer have together at most"),
    "min_new_tokens": _used(
        whole(0), over=("min_length",), metavar="N", help="how many tokens to write before an answer may end"
    ),
    "min_length": _used(whole(0), help="how many tokens prompt and answer have together at least"),
    "max_time": _used(NUMBER, metavar="SECONDS", help="seconds after which no further token is begun"),
    "stop_strings": _used(TEXTS, (), metavar="TEXT", help="a text that ends an answer"),
    "eos_token_id": _used(IDS, (), field="eos_token_ids", help="tokens that end a row"),
    "pad_token_id": _used(IDS, (), help="fills rows that ended before others"),
    # How tokens are chosen.
    "do_sample": _used(FLAG, False, metavar="", help="draw tokens instead of taking the likeliest ones"),
    "temperature": _used(
        number("a number > 0, or 0 for the likeliest tokens", lambda v: v >= 0), 1.0, acts=SAMPLING, metavar="T",
        help="divides the scores before drawing; 0 takes the likeliest tokens",
    ),
    "top_k": _used(
        whole(0), 0, default=50, acts=TOP_K, metavar="K", help="draw among so many likeliest tokens; 0 for all",
    ),
    "top_p": _used(
        _FRACTION, 1.0, acts=SAMPLING, metavar="P", help="draw among the likeliest of this probability together"
    ),
    "min_p": _used(
        _FRACTION, None, also=(0.0,), acts=SAMPLING, metavar="P",
        help="leave out tokens less likely than this fraction of the likeliest one",
    ),
    "typical_p": _used(
        number("a number > 0, up to 1", lambda v: 0 < v <= 1), 1.0, acts=SAMPLING, metavar="P",
        help="draw among the tokens nearest to the expected surprise, of this probability together",
    ),
    "epsilon_cutoff": _used(_CUTOFF, 0.0, acts=SAMPLING, help="leave out tokens less likely than this"),
    "eta_cutoff": _used(_CUTOFF, 0.0, acts=SAMPLING, help="the same, but less is left out the surer the model is"),
    "top_h": _used(
        number("a number > 0, up to 1", lambda v: 0 < v <= 1), None, acts=SAMPLING, metavar="H",
        help="draw among the likeliest tokens that together have this share of the entropy",
    ),
    "seed": _used(whole(0, 2**63 - 1), attribute=False, metavar="N", help="make draws reproducible"),
    "num_return_sequences": _used(whole(1), 1, help="how many answers are wanted"),
    # Rules that change scores.
    "repetition_penalty": _used(
        POSITIVE, 1.0, metavar="X", help="scores of tokens that came before are divided by it"
    ),
    "no_repeat_ngram_size": _used(whole(0), 0, metavar="N", help="no so many tokens in a row occur twice"),
    "encoder_no_repeat_ngram_size": _used(whole(0), 0, metavar="N", help="as above, of what was read"),
    "encoder_repetition_penalty": _used(POSITIVE, 1.0, metavar="X", help="scores of tokens that were read, times it"),
    "presence_penalty": _used(
        NUMBER, 0.0, attribute=False, metavar="X", help="taken from the scores of tokens that the answer has"
    ),
    "frequency_penalty": _used(
        NUMBER, 0.0, attribute=False, metavar="X", help="the same, as often as the answer has them"
    ),
    "sequence_bias": _used(
        Kind("a list of [token ids, finite number], or a mapping from tuples of ids", as_biases), (),
        help="runs of tokens, and what is added to the score of each one's last token after the others",
    ),
    "bad_words_ids": _used(
        Kind("a list of lists of token ids", as_runs), (), field="bad_words", help="runs of tokens never written"
    ),
    "exponential_decay_length_penalty": _used(
        Kind("the first token it counts for and a factor > 0", as_decay), field="length_decay",
        help="after how many tokens ends become likelier, and the factor per token",
    ),
    "suppress_tokens": _used(IDS, (), help="tokens never written"),
    "begin_suppress_tokens": _used(IDS, (), help="tokens not written as the first one"),
    "forced_bos_token_id": _used(IDS, (), help="the token to begin with"),
    "forced_eos_token_id": _used(IDS, (), field="forced_last", help="what to choose from when the length runs out"),
    "remove_invalid_values": _used(FLAG, False, field="remove_invalid", help="NaN and infinite scores become numbers"),
    "renormalize_logits": _used(FLAG, False, field="renormalize", help="the scores chosen by are log-probabilities"),
    "token_healing": later(False),
    "guidance_scale": _used(
        number("a number", lambda v: True), 1.0, metavar="X", help="how much more the prompt counts for than usual"
    ),
    "watermarking_config": _used(
        Kind("a WatermarkingConfig, a SynthIDTextWatermarkingConfig or the mapping of one", watermarking),
        field="watermark", help="how the text is marked",
    ),
    # Beams.
    "num_beams": _used(whole(1), 1, metavar="N", help="how many ways to write on are followed at once"),
    "length_penalty": _used(NUMBER, 1.0, acts=BEAMS, help="exponent on a beam's length, which its score is divided by"),
    "early_stopping": _used(
        Kind("True, False or 'never'", as_early_stopping), False, acts=BEAMS, help="when beam search ends"
    ),
    "num_beam_groups": _used(
        whole(1), 1, acts=BEAMS, help="groups of beams that choose one after the other, each shy of what others chose"
    ),
    "diversity_penalty": _used(
        number("a number >= 0", lambda v: v >= 0), 0.0, acts=GROUPS, help="what another group's choice of a token costs"
    ),
    "force_words_ids": _used(
        Kind("a list of lists of token ids, or of such lists where one of several will do", as_words), (),
        field="force_words", help="runs of tokens that every answer holds",
    ),
    "constraints": part(attribute=True),
    # What is given back.
    "output_scores": _used(FLAG, False, field="keep_scores", help="keep the scores that tokens were chosen by"),
    "output_logits": _used(FLAG, False, field="keep_logits", help="keep the model's own scores"),
    "output_attentions": _used(FLAG, False, help="give back the attention weights of every step"),
    "output_hidden_states": _used(FLAG, False, help="give back the hidden states of every step"),
    "return_dict_in_generate": _used(FLAG, False, help="give back a GenerateOutput"),
    "logprobs": _used(
        whole(0), attribute=False, help="of how many of the likeliest tokens to tell the log-probabilities"
    ),
    "prompt_logprobs": _used(
        whole(0), attribute=False, help="the same for the prompt's own tokens, from the pass that reads them"
    ),
    "cache_implementation": _used(
        one_of(*GROWING_CACHES, *STATIC_CACHES), help="which kind is given back; 'quantized' computes with it too"
    ),
    "cache_config": _used(Kind("a mapping of settings by name", as_mapping), help="settings of a quantized cache"),
    "max_cache_len": _used(whole(1), help="for how many tokens a static cache has room at least"),
    # Other ways to write.
    "penalty_alpha": _used(
        _FRACTION, 0.0, acts=GREEDY, help="contrastive search: what it costs a token to repeat what was in mind before"
    ),
    "dola_layers": _used(
        Kind("'low', 'high' or a list of numbers of layers", as_layers), help="earlier layers to contrast the last with"
    ),
    "negative_prompt_ids": part(),
    "negative_prompt_attention_mask": part(),
    # Tokens guessed ahead, which one step confirms.
    "prompt_lookup_num_tokens": _used(
        whole(0), None, also=(0,), metavar="N", help="guess so many tokens ahead, where the text repeats itself"
    ),
    "max_matching_ngram_size": _used(
        whole(1), None, acts=LOOKUP, help="by how many of the last tokens a repetition is known, at most"
    ),
    "assistant_model": part(help="a smaller model that guesses ahead"),
    "assistant_tokenizer": part(help="its tokenizer, where that is another"),
    "assistant_early_exit": _used(whole(1), None, help="guess ahead with so many of the model's own layers"),
    "num_assistant_tokens": _used(whole(0), None, help="how many tokens the smaller model guesses at a time"),
    "num_assistant_tokens_schedule": _used(
        Kind("constant, heuristic or heuristic_transient", as_schedule), None,
        help="whether right guesses make that number larger, and wrong ones smaller",
    ),
    "assistant_confidence_threshold": _used(
        NUMBER, None,
        help="guess no further after a token that the smaller model itself held for less likely",
    ),
    "assistant_lookbehind": _used(whole(0), None, help="tokens before guesses that the model's tokenizer rereads"),
    "target_lookbehind": _used(whole(0), None, help="tokens before new ones that the assistant's tokenizer rereads"),
    "assistant_ensemble_weight": later(None, remedy="It would change what is written; leave it out."),
    "prefix_allowed_tokens_fn": part(),
    "logits_processor": part(),
    "stopping_criteria": part(),
    "custom_generate": part(),
    "guide": part(help="the form of the answer: a JSON schema, an expression, choices or a grammar"),
    "response_format": part(help="the same, as OpenAI's servers take it"),
    "adapter": part(help="the adapter of the model's that the rows compute with; __base__ for none"),
    "adapter_names": part(help="the same for each row"),
    "past_key_values": part(help="state to go on from, which the call fills"),
    # Tokens that others read.
    "bos_token_id": _used(IDS, ()),
    "decoder_start_token_id": _used(IDS, (), help="the token that an encoder-decoder's answer begins with"),
    # How the ecosystem computes; nothing here depends on it.
    **_inert(
        "use_cache", "low_memory", "use_mtp", "compile_config",
        "disable_compile", "continuous_batching_config", "prefill_chunk_size",
        "is_assistant", "speculation_type", "transformers_version", "_from_model_config",
    ),
    **_inert(
        "cache_position", "num_items_in_batch", "synced_gpus", "trust_remote_code", "generation_kwargs",
        "use_model_defaults", "return_dict", "logits_to_keep", "begin_index",
        attribute=False,
    ),
}  # fmt: skip
"""Every setting, by name. The names are those of transformers 5.23.0, and ``seed``, ``logprobs`` and OpenAI's
``presence_penalty`` and ``frequency_penalty``."""

# -- names -----------------------------------------------------------------------------------------------------------


def misspelt(name: str, known: Iterable[str]) -> str | None:
    """The known name that an unknown one is almost certainly meant to be; None if it is like no other."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.82)
    return close[0] if close else None


# -- reading ---------------------------------------------------------------------------------------------------------


def merged(layers: Sequence[Values], table: Mapping[str, Setting] = SETTINGS) -> dict[str, object]:
    """What is said in several places, the later ones over the earlier ones.

    A setting that is said hides its rivals (those it outranks, or that outrank it) in earlier places.
    """
    rivals: dict[str, set[str]] = {}
    for name, row in table.items():
        for other in row.over:
            rivals.setdefault(name, set()).add(other)
            rivals.setdefault(other, set()).add(name)
    said: dict[str, object] = {}
    for layer in layers:
        for name, value in layer.items():
            if value is not None:
                for rival in rivals.get(name, ()):
                    if rival not in layer:
                        said.pop(rival, None)
        said.update(layer)
    return said


@dataclass(frozen=True, slots=True)
class Read:
    """Settings that were read and checked.

    Attributes:
        values: by name, those of all rows that are used, said or not.
        idle: those that were said and have no effect beside the others, with the words for what they need.
    """

    values: Mapping[str, object]
    idle: Mapping[str, str]


def read(said: Values, table: Mapping[str, Setting] = SETTINGS) -> Read:
    """Read settings.

    Args:
        said: values by name; None for those that are to have no effect.
        table: the rows.

    Raises:
        InputError: a value of another kind, or out of range where it acts, or a setting that is not built.
    """
    values = {name: read_one(name, row, said) for name, row in table.items() if row.effect is Effect.USED}
    acting = {name: row.acts.holds(values) for name, row in table.items()}
    greedy_draws = values["do_sample"] is True and not SAMPLING.holds(values)
    idle: dict[str, str] = {}
    for name, row in table.items():
        if row.effect is Effect.LATER and acting[name] and not row.is_neutral(_quietly_plain(said.get(name))):
            raise _not_built(name, row, said[name])
        if row.effect is not Effect.USED:
            continue
        value = values[name]
        if acting[name]:
            if value != row.neutral and not row.kind.fits(value):
                raise InputError("this value cannot be", where=name, expected=row.kind.expected, found=brief(value))
            continue
        if said.get(name) is not None and not row.is_neutral(value) and value != row.said_by_nobody:
            idle[name] = row.acts.words
        values[name] = row.neutral
    if greedy_draws:  # a temperature of 0 says no more than do_sample=False
        values["do_sample"] = False
        idle = {name: words for name, words in idle.items() if words != SAMPLING.words}
    elif said.get("temperature") == 0:
        idle.pop("temperature", None)
    return Read(values, idle)


def read_one(name: str, row: Setting, said: Values) -> object:
    """One setting's value, whether or not it acts.

    Raises:
        InputError: a value of another kind.
    """
    if name not in said:
        return row.said_by_nobody
    value = said[name]
    if value is None:
        return row.neutral
    try:
        return row.kind.read(plain(value))
    except InputError as error:
        raise InputError(error.message, where=name, expected=row.kind.expected, found=error.found) from None
    except (TypeError, ValueError, OverflowError, RecursionError, RuntimeError, NotImplementedError):
        raise InputError(
            "this value cannot be", where=name, expected=f"{row.kind.expected}, or None", found=brief(value)
        ) from None


def _quietly_plain(value: object) -> object:
    try:
        return plain(value)
    except (InputError, TypeError, ValueError, RecursionError, RuntimeError, NotImplementedError):
        return value


def _not_built(name: str, row: Setting, value: object) -> InputError:
    values = [repr(v) for v in (row.neutral, *row.also) if v is not None]
    expected = " or ".join(values) or "None"
    return InputError(
        "generate does not support this yet", where=name, expected=expected, found=brief(value), remedy=row.remedy
    )
