"""What ``adapter_config.json`` says of a low-rank adapter (https://arxiv.org/abs/2106.09685), in PEFT's words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from operator import attrgetter
from typing import Self

from omniform.core.errors import ConfigError, brief

NEEDS_PEFT: Mapping[str, tuple[object, ...]] = {
    "bias": ("none", None),
    "layer_replication": (None,),
    "target_parameters": (None, [], ()),
    "trainable_token_indices": (None, [], {}),
    "megatron_config": (None,),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "velora_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
}
"""What omniform's own layers do not compute, unless it has one of these values."""

MUTATES = ("pissa", "corda", "olora", "loftq", "eva_", "lora_ga")
"""Beginnings of kinds of initial weights that are taken out of the model's own, which are then others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """A low-rank adapter, by PEFT's names.

    Attributes:
        r: rank of what is added.
        lora_alpha: what is added counts ``lora_alpha / r``.
        target_modules: names of layers, or their ends; or one regular expression.
        exclude_modules: of those, the ones that are left out.
        lora_dropout: in training, how much of a layer's input is dropped on the adapter's way.
        use_rslora: what is added counts ``lora_alpha / sqrt(r)`` (https://arxiv.org/abs/2312.03732).
        use_dora: lengths of the matrix's rows are learned apart (https://arxiv.org/abs/2402.09353).
        lora_bias: what is added has a bias.
        rank_pattern, alpha_pattern: other ranks and alphas, by regular expressions for the ends of names.
        modules_to_save: ends of names of modules that are trained as a whole.
        layers_to_transform, layers_pattern: only these of a stack, and the stack's name.
        raw: the file, as it is.
    """

    r: int = 8
    lora_alpha: float = 8
    target_modules: str | tuple[str, ...] = ()
    exclude_modules: str | tuple[str, ...] = ()
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: int | tuple[int, ...] | None = None
    layers_pattern: str | tuple[str, ...] = ()
    raw: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def read(cls, raw: Mapping[str, object], where: str = "adapter_config.json") -> Self:
        """A file's words.

        Raises:
            ConfigError: another kind of adapter, or a setting that omniform's own layers do not compute.
        """
        kind = raw.get("peft_type", "LORA")
        if str(kind.value if isinstance(kind, Enum) else kind).upper() != "LORA":
            raise _needs_peft(where, "peft_type", kind)
        for name, inert in NEEDS_PEFT.items():
            if raw.get(name) not in inert:
                raise _needs_peft(where, name, raw[name])
        begun = raw.get("init_lora_weights")
        if isinstance(begun, str) and begun.lower().startswith(MUTATES):
            raise _needs_peft(where, "init_lora_weights", begun)
        known = {one.name for one in fields(cls)} - {"raw"}
        given = {name: _plain(value) for name, value in raw.items() if name in known and value is not None}
        return cls(**given, raw=dict(raw))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, object]:
        """The file's words: as they were read, or as PEFT would write them."""
        if self.raw:
            return dict(self.raw)
        own: dict[str, object] = {one.name: attrgetter(one.name)(self) for one in fields(self) if one.name != "raw"}
        lists = {name: list(value) or None for name, value in own.items() if isinstance(value, tuple)}
        return {"peft_type": "LORA", "task_type": None, "bias": "none", "inference_mode": True, **own, **lists}

    def rank(self, names: Iterable[str]) -> int:
        """The rank for a layer that has these names."""
        return int(_of(self.rank_pattern, names, self.r))

    def alpha(self, names: Iterable[str]) -> float:
        """The alpha for a layer that has these names."""
        return _of(self.alpha_pattern, names, self.lora_alpha)

    def scale(self, rank: int, alpha: float) -> float:
        """What is added of this rank counts so much."""
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def means(self, names: Iterable[str]) -> bool:
        """Whether a layer that has these names is to be adapted; PEFT's reading of the same words."""
        names = list(names)
        if any(_is_one_of(self.exclude_modules, name) for name in names):
            return False
        if any(re.match(rf"(^|.*\.){one}($|\..*)", name) for one in self.modules_to_save for name in names):
            return False
        return any(_is_one_of(self.target_modules, name) and self._is_in_layers(name) for name in names)

    def _is_in_layers(self, name: str) -> bool:
        wanted = self.layers_to_transform
        if wanted is None or wanted == () or isinstance(self.target_modules, str):
            return True
        stacks = (self.layers_pattern,) if isinstance(self.layers_pattern, str) else self.layers_pattern
        forms = [rf"(?:^|.*?\.){stack}\.(\d+)\." for stack in stacks] or [r".*?\.[^.]*\.(\d+)\."]
        found = next((hit for form in forms if (hit := re.match(form, name))), None)
        if found is None:
            return False
        return int(found[1]) in ((wanted,) if isinstance(wanted, int) else wanted)


def _is_one_of(wanted: str | Iterable[str], name: str) -> bool:
    if isinstance(wanted, str):
        return bool(wanted) and re.fullmatch(wanted, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def _of(patterns: Mapping[str, float], names: Iterable[str], usual: float) -> float:
    names = list(names)
    hits = (value for one, value in patterns.items() if any(re.match(rf"(.*\.)?({one})$", name) for name in names))
    return next(hits, usual)


def _plain(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(value))
    return tuple(value) if isinstance(value, list) else value


def _needs_peft(where: str, name: str, value: object) -> ConfigError:
    return ConfigError(
        "this adapter needs the package peft",
        where=f"{where}: {name}",
        expected="a low-rank adapter of linear layers and tables",
        found=brief(value),
        remedy="pip install peft",
    )
