"""What a GGUF file says of a model: the inverse of :mod:`omniform.hub.gguf.told` and of the tables' keys.

That nothing is lost is not proved here: the reader reads what is told before anything is written, and what it makes of
it must be the model's own config (:func:`omniform.hub.gguf.writing.check_told`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError
from omniform.hub.gguf.architectures import Architecture
from omniform.hub.gguf.told import llama3_divisors
from omniform.weights.gguf.reader import Value

FLOATS: Final = ("epsilon", "scale", "freq_base", "freq_base_swa", "factor", "softcapping", "clamp_kqv", "multiplier")
"""Ends of the keys whose values are floats, whatever a config holds."""

HEADED: Final = ("llama", "granite", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "cohere2", "gpt-oss")
"""Architectures whose heads may have a width of their own."""


@dataclass
class Telling:
    """What is told of one model.

    Attributes:
        name: its architecture's.
        config: the model's.
        own: metadata, without the architecture's name.
        tensors: short ones that belong to the config: divisors of frequencies.
    """

    name: str
    config: ModelConfig
    own: dict[str, Value] = field(default_factory=dict)
    tensors: dict[str, list[float]] = field(default_factory=dict)

    def integer(self, *names: str) -> int:
        """The first of some keys of the config that is a whole number.

        Raises:
            ConfigError: none is.
        """
        for name in names:
            found = self.config.get(name)
            if type(found) is int:
                return found
        raise ConfigError("a GGUF file needs to say this", where=names[0], found=repr(self.config.get(names[0]))[:80])

    def tell(self, key: str, value: object) -> None:
        """Add one value; None is left out."""
        if isinstance(value, (int, float)) and key.endswith(FLOATS):
            value = float(value)
        if isinstance(value, (bool, int, float, str)):
            self.own[key] = value

    @property
    def heads(self) -> int:
        """How many queries a layer has."""
        return self.integer("num_attention_heads", "n_head")

    @property
    def width(self) -> int:
        """Of a head."""
        found = self.config.get("head_dim")
        return found if type(found) is int else self.integer("hidden_size", "n_embd") // self.heads


def told_of(name: str, arch: Architecture, config: ModelConfig) -> Telling:
    """What a file of an architecture says of a model.

    Raises:
        ConfigError: rotary settings that no file can tell.
    """
    made = Telling(name, config)
    tell = made.tell
    for key, ours in arch.keys.items():
        tell(key, config.get(ours))
    tell("vocab_size", config.get("vocab_size"))
    hidden, heads = made.integer("hidden_size", "n_embd"), made.heads
    if "feed_forward_length" not in made.own:
        tell("feed_forward_length", 4 * hidden)
    if "context_length" not in made.own:
        tell("context_length", config.get("seq_length") or 2048)
    if "attention.head_count_kv" not in made.own:
        tell("attention.head_count_kv", heads)
    if name in HEADED or made.width * heads != hidden:
        tell("attention.key_length", made.width)
        tell("attention.value_length", made.width)
    settings = config.get("rope_parameters")
    if isinstance(settings, Mapping):
        _rotary(made, settings)
    if name in OWN:
        OWN[name](made)
    return made


def _rotary(made: Telling, settings: Mapping[str, object]) -> None:
    tell = made.tell
    if "full_attention" in settings:
        windows, full = settings.get("sliding_attention"), settings["full_attention"]
        if not isinstance(windows, Mapping) or not isinstance(full, Mapping):
            raise ConfigError("rotary settings that no GGUF file can tell", where="rope_parameters")
        tell("rope.freq_base_swa", windows.get("rope_theta"))
        settings = full
    theta, kind = settings.get("rope_theta"), settings.get("rope_type", "default")
    partial = settings.get("partial_rotary_factor", 1.0)
    turning = made.config.get("qk_rope_head_dim")
    if type(turning) is not int:
        turning = int(made.width * partial) if isinstance(partial, (int, float)) else made.width
    tell("rope.freq_base", theta)
    tell("rope.dimension_count", turning)
    told = SCALED.get(str(kind))
    if told is None:
        raise ConfigError(
            "rotary settings that no GGUF file can tell", where="rope_parameters", expected=", ".join(SCALED),
            found=str(kind),
        )  # fmt: skip
    told(made, settings, turning)


def _linear(made: Telling, settings: Mapping[str, object], turning: int) -> None:
    made.tell("rope.scaling.type", "linear")
    made.tell("rope.scaling.factor", settings.get("factor"))


def _yarn(made: Telling, settings: Mapping[str, object], turning: int) -> None:
    made.tell("rope.scaling.type", "yarn")
    made.tell("rope.scaling.factor", settings.get("factor"))
    trained = settings.get("original_max_position_embeddings")
    made.tell("rope.scaling.original_context_length", trained)
    for name, key in (
        ("attn_factor", "attention_factor"), ("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow"),
    ):  # fmt: skip
        value = settings.get(key)
        if isinstance(value, (int, float)):
            made.own[f"rope.scaling.{name}"] = float(value)
    scale = settings.get("mscale_all_dim")
    if isinstance(scale, (int, float)) and made.name == "deepseek2":
        made.own["rope.scaling.yarn_log_multiplier"] = 0.1 * float(scale)


def _llama3(made: Telling, settings: Mapping[str, object], turning: int) -> None:
    factor, theta = settings.get("factor"), settings.get("rope_theta")
    usual = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    odd = {name: settings.get(name) for name, value in usual.items() if settings.get(name) != value}
    if odd or not isinstance(factor, (int, float)) or not isinstance(theta, (int, float)):
        raise ConfigError(
            "frequencies that are stretched otherwise than Llama's are not told in GGUF",
            where="rope_parameters", expected=str(usual), found=str(odd),
        )  # fmt: skip
    made.tensors["rope_freqs.weight"] = llama3_divisors(float(factor), float(theta), turning)


def _longrope(made: Telling, settings: Mapping[str, object], turning: int) -> None:
    for length in ("long", "short"):
        factors = settings.get(f"{length}_factor")
        if isinstance(factors, (list, tuple)):
            made.tensors[f"rope_factors_{length}.weight"] = [float(one) for one in factors]
    trained = made.config.get("original_max_position_embeddings") or settings.get("original_max_position_embeddings")
    made.tell("rope.scaling.original_context_length", trained)
    factor = settings.get("attention_factor")
    made.tell("rope.scaling.attn_factor", factor)


SCALED: Final[Mapping[str, Callable[[Telling, Mapping[str, object], int], None]]] = {
    "default": lambda made, settings, turning: None,
    "linear": _linear,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}


def _experts(made: Telling) -> None:
    """Mixtral, which files call a Llama."""
    if made.config.model_type == "mixtral":
        made.tell("expert_count", made.config.get("num_local_experts"))
        made.tell("expert_used_count", made.config.get("num_experts_per_tok"))


def _falcon(made: Telling) -> None:
    config = made.config
    if config.get("new_decoder_architecture"):
        made.tell("attention.head_count_kv", config.get("num_kv_heads") or made.heads)
    else:
        made.tell("attention.head_count_kv", 1 if config.get("multi_query") else made.heads)


def _phi3(made: Telling) -> None:
    made.tell("rope.scaling.original_context_length", made.config.get("original_max_position_embeddings"))


def _shared(made: Telling) -> None:
    made.tell("expert_shared_feed_forward_length", made.config.get("shared_expert_intermediate_size"))


def _deepseek(made: Telling) -> None:
    config, tell = made.config, made.tell
    turning, plain = made.integer("qk_rope_head_dim"), made.integer("qk_nope_head_dim")
    tell("attention.key_length", turning + plain)
    tell("attention.value_length", config.get("v_head_dim"))
    tell("rope.dimension_count", turning)
    tell("attention.q_lora_rank", config.get("q_lora_rank"))
    if config.model_type == "deepseek_v3":
        tell("expert_gating_func", 2)
        tell("expert_weights_norm", config.get("norm_topk_prob"))


def _gpt_oss(made: Telling) -> None:
    made.tell("feed_forward_length", made.config.get("intermediate_size"))


def _olmo(made: Telling) -> None:
    made.tell("attention.layer_norm_epsilon", 1e-5)  # the family's own, which no config says


OWN: Final[Mapping[str, Callable[[Telling], None]]] = {
    "llama": _experts,
    "falcon": _falcon,
    "olmo": _olmo,
    "phi3": _phi3,
    "qwen2moe": _shared,
    "deepseek2": _deepseek,
    "gpt-oss": _gpt_oss,
}
"""What architectures say besides what all say."""
