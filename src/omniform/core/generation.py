"""Settings of generation, as ``generation_config.json`` holds them: kept verbatim, read by the engine."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

from omniform.core.errors import check_arguments

SETTINGS: frozenset[str] = frozenset(
    {
        "max_new_tokens", "max_length", "min_new_tokens", "min_length", "do_sample", "temperature", "top_k", "top_p",
        "min_p", "seed", "repetition_penalty", "no_repeat_ngram_size", "suppress_tokens", "begin_suppress_tokens",
        "forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "eos_token_id", "pad_token_id",
        "bos_token_id", "decoder_start_token_id", "max_time", "return_dict_in_generate", "output_scores",
        "output_logits", "use_cache", "language", "task", "return_timestamps",
        "typical_p", "epsilon_cutoff", "eta_cutoff", "sequence_bias", "bad_words_ids",
        "exponential_decay_length_penalty", "remove_invalid_values", "renormalize_logits",
        "num_beams", "num_return_sequences", "length_penalty", "early_stopping", "stop_strings", "logprobs",
    }
)  # fmt: skip
"""What :func:`omniform.engine.generate.generate` acts on."""


class GenerationConfig:
    """Defaults for ``generate``: any of the ecosystem's settings, by attribute.

    The file's other entries (bookkeeping, settings of other strategies) are kept and written back; the engine refuses
    those that would change the result and that it does not support, when it is asked to generate.

    Args:
        settings: what to set.
    """

    def __init__(self, **settings: object) -> None:
        super().__setattr__("raw", dict(settings))

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> GenerationConfig:
        """From the mapping of a ``generation_config.json``."""
        return cls(**raw)

    def to_dict(self) -> dict[str, object]:
        """A deep copy of the mapping."""
        raw: dict[str, object] = self.__dict__["raw"]
        return copy.deepcopy(raw)

    def update(self, **settings: object) -> None:
        """Change settings; unknown names are refused with the nearest one."""
        raw: dict[str, object] = self.__dict__["raw"]
        check_arguments("GenerationConfig", settings, SETTINGS | raw.keys())
        raw.update(settings)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__dict__["raw"].get(name)

    def __setattr__(self, name: str, value: object) -> None:
        self.update(**{name: value})

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__["raw"])

    def __bool__(self) -> bool:
        return bool(self.__dict__["raw"])

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in self.__dict__["raw"].items())
        return f"GenerationConfig({inside})"
