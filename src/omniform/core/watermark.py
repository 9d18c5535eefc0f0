"""How a text is watermarked: what ``generate(watermarking_config=...)`` takes, and ``generation_config.json`` keeps."""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

import torch

from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.upstairs import upstairs


class BaseWatermarkingConfig:
    """Base of all of them: attributes that can be written as JSON and read again."""

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, object], **kwargs: object) -> Self:
        """From a mapping.

        Args:
            config_dict: what the constructor takes, by name.
            kwargs: changes over it; names that the config does not have are left alone.

        Raises:
            UnknownArgumentError: the mapping has a name that the constructor does not have.
        """
        check_arguments(cls.__name__, config_dict, inspect.signature(cls).parameters)
        make: Callable[..., Self] = cls
        config = make(**config_dict)
        config.update(**kwargs)
        return config

    def to_dict(self) -> dict[str, object]:
        """All attributes, by name; a copy."""
        return copy.deepcopy(vars(self))

    def to_json_string(self) -> str:
        """The same as JSON."""
        return json.dumps(vars(self), indent=2) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write that into a file, sorted by name."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        with open(json_file_path, "w", encoding="utf-8") as file:
            file.write(text)

    def update(self, **kwargs: object) -> None:
        """Set attributes; names that the config does not have are left alone."""
        for name, value in kwargs.items():
            if name in vars(self):
                setattr(self, name, value)

    def validate(self) -> None:
        """Check every value; raises :class:`InputError`, also a ``ValueError``."""
        raise NotImplementedError

    def construct_processor(self, vocab_size: int, device: str | torch.device) -> object:
        """The processor that writes the watermark."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return iter(self.to_dict().items())

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(self.to_json_string())

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


class WatermarkingConfig(BaseWatermarkingConfig):
    """A part of the vocabulary made likelier (https://arxiv.org/abs/2306.04634).

    Args:
        greenlist_ratio: how large the part is.
        bias: what is added to its scores.
        hashing_key: the key.
        seeding_scheme: the part depends on the token before ("lefthash"), or on itself as well ("selfhash").
        context_width: of how many tokens before.
    """

    def __init__(
        self,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        self.greenlist_ratio = greenlist_ratio
        self.bias = bias
        self.hashing_key = hashing_key
        self.seeding_scheme = seeding_scheme
        self.context_width = context_width

    def validate(self) -> None:
        """See :class:`BaseWatermarkingConfig`."""
        scheme = self.seeding_scheme
        _check("seeding_scheme", scheme, scheme in ("selfhash", "lefthash"), "lefthash or selfhash")
        ratio = self.greenlist_ratio
        _check("greenlist_ratio", ratio, _number(ratio) and 0.0 <= ratio <= 1.0, "a number from 0 to 1")
        _check("bias", self.bias, _number(self.bias), "a number")
        _check("hashing_key", self.hashing_key, _whole(self.hashing_key), "a whole number")
        width = self.context_width
        _check("context_width", width, _whole(width) and width >= 1, "a whole number from 1")

    def construct_processor(self, vocab_size: int, device: str | torch.device) -> object:
        """See :class:`BaseWatermarkingConfig`."""
        door = upstairs("engine.processors.watermark:WatermarkLogitsProcessor")
        return door(vocab_size=vocab_size, device=device, **self.to_dict())


class SynthIDTextWatermarkingConfig(BaseWatermarkingConfig):
    """Tournament sampling (https://doi.org/10.1038/s41586-024-08025-4).

    Args:
        ngram_len: tokens that a value depends on.
        keys: one for each layer of the tournament.
        context_history_size: how many contexts are remembered; none is used twice.
        sampling_table_seed, sampling_table_size: of the table that values are looked up in.
        skip_first_ngram_calls: no watermark in the first ``ngram_len - 1`` steps.
        debug_mode: all scores are 1 before.
    """

    def __init__(
        self,
        ngram_len: int,
        keys: Sequence[int],
        context_history_size: int = 1024,
        sampling_table_seed: int = 0,
        sampling_table_size: int = 2**16,
        skip_first_ngram_calls: bool = False,
        debug_mode: bool = False,
    ) -> None:
        self.ngram_len = ngram_len
        self.keys = keys
        self.sampling_table_size = sampling_table_size
        self.sampling_table_seed = sampling_table_seed
        self.context_history_size = context_history_size
        self.skip_first_ngram_calls = skip_first_ngram_calls
        self.debug_mode = debug_mode

    def validate(self) -> None:
        """See :class:`BaseWatermarkingConfig`."""
        for name, least in (("ngram_len", 2), ("context_history_size", 1), ("sampling_table_size", 1)):
            value = vars(self)[name]
            _check(name, value, _whole(value) and value >= least, f"a whole number from {least}")
        _check("sampling_table_size", self.sampling_table_size, self.sampling_table_size <= 2**24, "at most 2 ** 24")
        keys = self.keys
        fits = isinstance(keys, (list, tuple)) and bool(keys) and all(map(_whole, keys))
        _check("keys", keys, fits, "a list of whole numbers, not empty")

    def construct_processor(self, vocab_size: int, device: str | torch.device) -> object:
        """See :class:`BaseWatermarkingConfig`."""
        door = upstairs("engine.processors.watermark:SynthIDTextWatermarkLogitsProcessor")
        return door(device=device, **self.to_dict())


def watermarking(given: object) -> BaseWatermarkingConfig:
    """What a caller or a file hands over as ``watermarking_config``, as a config; a copy, and checked.

    Raises:
        InputError: neither a config nor a mapping, or a value that cannot be.
        UnknownArgumentError: a name that no such config has.
    """
    if isinstance(given, BaseWatermarkingConfig):
        config: BaseWatermarkingConfig = copy.deepcopy(given)
    elif isinstance(given, Mapping):
        config = watermark_of(given)
    else:
        raise InputError(
            "this is no watermark",
            where="watermarking_config",
            expected="a WatermarkingConfig, a SynthIDTextWatermarkingConfig or the mapping of one",
            found=brief(given),
        )
    config.validate()
    return config


def watermark_of(given: Mapping[str, object]) -> BaseWatermarkingConfig:
    """The config that a mapping stands for; its values are not checked.

    Raises:
        InputError: the mapping lacks something.
        UnknownArgumentError: a name that no such config has.
    """
    tournament = ("ngram_len", "keys")
    if not any(name in given for name in tournament):
        return WatermarkingConfig.from_dict(given)
    _check(" and ".join(tournament), given, all(name in given for name in tournament), "both of them")
    return SynthIDTextWatermarkingConfig.from_dict(given)


def _check(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise InputError(
            "this value cannot be", where=f"watermarking_config, {name}", expected=expected, found=brief(value)
        )


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
