"""Writing a model as a GGUF file: what :mod:`omniform.hub.gguf.folder` reads, the other way round.

The tables are the reader's own: each of a checkpoint's tensors is looked up by its place, and what converters do to it
is what reading undoes. Tensors are made, quantized and written one after another.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, InputError, WeightsError, brief, listed
from omniform.hub.adapters import adapter_of
from omniform.hub.folders import replace_file
from omniform.hub.gguf import mixes
from omniform.hub.gguf.architectures import ARCHITECTURES, Architecture
from omniform.hub.gguf.config import config_of
from omniform.hub.gguf.facts import Facts
from omniform.hub.gguf.places import Place, blocks_to_file, keeps_blocks, to_file
from omniform.hub.gguf.sources import Sources
from omniform.hub.gguf.spoken import tokens_told
from omniform.hub.gguf.telling import Telling, told_of
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.weights.gguf.quantize import quantize
from omniform.weights.gguf.reader import GgufFile, TensorInfo, Value
from omniform.weights.gguf.types import BlockType
from omniform.weights.gguf.writer import Planned, write_gguf

log = logging.getLogger("omniform")

KIN: Final[Mapping[str, str]] = {
    "mistral": "llama", "mixtral": "llama", "deepseek_v3": "deepseek2", **{
        arch.model_type: name for name, arch in ARCHITECTURES.items()
    },
}  # fmt: skip
"""Families to the names that files have for them."""

UNHEARD: Final = re.compile(r"(dropout|_pdrop|initializer_range|router_aux_loss_coef|output_router_logits|^use_cache$)")
"""Settings of training: of no use to who reads a file."""

FLOATS: Final = {kind.dtype: kind for kind in map(mixes.KINDS.__getitem__, ("F32", "F16", "BF16"))}
"""Types that models have their numbers in."""


def save_gguf(
    model: Model, path: str | os.PathLike[str], *, type: str | None = None, tokenizer: Tokenizer | None = None
) -> None:
    """Save a model as one GGUF file, in an instant: whatever was there before stays until it is whole.

    Args:
        model: of a family that llama.cpp knows; plain, or quantized in any format, whose numbers are taken.
        path: the file, ``model.gguf``.
        type: what its numbers are: ``F32``, ``F16``, ``BF16``, ``Q8_0``, ..., or one of the mixes that people know
            (``Q4_K_M``). Matrices whose rows are no whole blocks of a type are written in another, which is said. None
            leaves every matrix what it is: in the blocks that a GGUF file held it in, else the floats that it has.
            What is in blocks of its type already is never quantized again, whatever type is named.
        tokenizer: its tokenizer and chat template; without, the file has none, and texts cannot be given to it.

    Raises:
        InputError: there is no such type, no such family in GGUF, or adapters have to be merged first.
        ConfigError: GGUF cannot tell what the model or the tokenizer does.
        WeightsError: a tensor has no place in the architecture, or holds numbers that are none.
        RepoError: the file cannot be written; nothing of it stays.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise InputError("no file", where="path", expected="a path", found=brief(path))
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        raise InputError("no tokenizer", where="tokenizer", expected="AutoTokenizer's", found=brief(tokenizer))
    mix = None if type is None else mixes.mix_named(type)
    if adapter_of(model) is not None:
        raise InputError("a GGUF file has no adapters", where="save_gguf", remedy="Call merge_adapters() first.")
    written = _Written.of(model, mix, tokenizer)
    replace_file(Path(os.fspath(path)), written.write)


def architecture_named(config: ModelConfig) -> str:
    """What files call a model's family.

    Raises:
        InputError: llama.cpp has none for it, or it is not written here.
    """
    found = KIN.get(config.model_type)
    if found is None:
        raise InputError(
            "GGUF files of this family are not written", where="save_gguf", expected=", ".join(sorted(KIN)),
            found=repr(config.model_type),
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class _Part:
    """A tensor of the file: which of the checkpoint's it is made of.

    Attributes:
        place: how.
        keys: the checkpoint's, in order: one, or one for each expert.
        shape: what it has in the file.
        bias: whether it is a bias.
        kind: the type that it is in: of the blocks, where they can be written as they are, else of its floats.
    """

    place: Place
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    bias: bool
    kind: BlockType


class _Written:
    """One file that is about to be written.

    Attributes:
        metadata: all of it.
        plan: its tensors, in order.
    """

    def __init__(
        self, metadata: Mapping[str, Value], plan: Sequence[Planned], parts: Mapping[str, _Part], told: Telling,
        sources: Sources,
    ) -> None:  # fmt: skip
        self.metadata, self.plan, self._parts, self._told, self._sources = metadata, plan, parts, told, sources
        self._facts = _Foreseen(metadata, plan, told)

    @classmethod
    def of(cls, model: Model, mix: str | None, tokenizer: Tokenizer | None) -> _Written:
        config = model.config
        name = architecture_named(config)
        arch, sources = ARCHITECTURES[name], Sources(model)
        told = told_of(name, arch, config)
        metadata = _metadata(model, told, tokenizer)
        parts = _parts(sources, arch, _Foreseen(metadata, (), told), name)
        shapes: dict[str, tuple[int, ...]] = {one: (len(numbers),) for one, numbers in told.tensors.items()}
        shapes |= {one: part.shape for one, part in parts.items()}
        heads, kv = told.own.get("attention.head_count"), told.own.get("attention.head_count_kv")
        facts = mixes.Facts(
            architecture=name,
            layers=told.integer("num_hidden_layers", "n_layer"),
            experts=found if type(found := told.own.get("expert_count")) is int else 0,
            shared=heads // kv if isinstance(heads, int) and isinstance(kv, int) and kv else 1,
            tied="output.weight" not in parts,
        )
        if mix is None:
            kinds = {one: _as_it_is(one, parts.get(one)) for one in shapes}
            mix = mixes.nearest_mix(kinds, shapes, facts)
        else:
            odd: list[str] = []
            kinds = {one: mixes.kind_of(one, shape, mix, facts, odd) for one, shape in shapes.items()}
            if odd:
                log.warning("%d tensors have rows that are no whole blocks of their type: %s", len(odd), listed(odd))
        metadata["general.file_type"] = mixes.MIXES[mix].number
        plan = [Planned(one, shape, kinds[one]) for one, shape in shapes.items()]
        made = cls(metadata, plan, parts, told, sources)
        check_told(config, arch, made._facts)
        return made

    @torch.no_grad()
    def write(self, path: Path) -> None:
        """Write the file."""
        with path.open("wb") as file:
            write_gguf(file, self.metadata, self.plan, self._raw)

    def _raw(self, planned: Planned) -> Tensor:
        with torch.device("cpu"):
            short = self._told.tensors.get(planned.name)
            if short is not None:
                return quantize(torch.tensor(short), planned.kind, planned.name)
            part = self._parts[planned.name]
            if part.kind.is_packed and part.kind == planned.kind:
                return self._blocks(part).cpu()
            return quantize(self._numbers(part).cpu(), planned.kind, planned.name)

    def _blocks(self, part: _Part) -> Tensor:
        each = [blocks_to_file(part.place, self._sources.blocks(key), self._facts) for key in part.keys]
        return torch.stack(each) if "{e}" in part.place.key else each[0]

    def _numbers(self, part: _Part) -> Tensor:
        each = [to_file(part.place, self._sources[key], self._facts, bias=part.bias) for key in part.keys]
        return torch.stack(each) if "{e}" in part.place.key else each[0]


class _Foreseen(Facts):
    """What a file will say, before it is there."""

    def __init__(self, metadata: Mapping[str, Value], plan: Sequence[Planned], told: Telling) -> None:
        table = {one.name: TensorInfo(one.name, one.shape, one.kind, 0, one.nbytes) for one in plan}
        super().__init__((GgufFile(Path("model.gguf"), 3, metadata, table, 0),))
        self._short = told.tensors

    def numbers(self, name: str) -> list[float]:
        return torch.tensor(self._short[name]).double().tolist()


def _metadata(model: Model, told: Telling, tokenizer: Tokenizer | None) -> dict[str, Value]:
    config = model.config
    title = Path(config.name_or_path).name.removesuffix(".gguf") or config.model_type
    made: dict[str, Value] = {
        "general.architecture": told.name,
        "general.type": "model",
        "general.name": title,
        "general.file_type": 0,
        "general.quantization_version": 2,
        **{f"{told.name}.{key}": value for key, value in told.own.items()},
    }
    if tokenizer is not None:
        made |= tokens_told(tokenizer, config.model_type, told.integer("vocab_size"))
    else:
        made["tokenizer.ggml.model"] = "none"
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        found = config.get(f"{name}_token_id")
        found = found[0] if isinstance(found, (list, tuple)) and found else found
        if type(found) is int and found >= 0:
            made.setdefault(f"tokenizer.ggml.{key}_token_id", found)
    return made


# ---- places


def _parts(sources: Sources, arch: Architecture, facts: Facts, name: str) -> dict[str, _Part]:
    """The file's tensors by name, in the order of the reader's tables."""
    names = [(ours, place) for table in (arch.names, *arch.where.values()) for ours, place in table.items()]
    places = [(ours, place if isinstance(place, Place) else Place(place)) for ours, place in names]
    patterns = [(ours, place, _pattern(place)) for ours, place in places if place.join != "heads"]
    found: dict[str, dict[int, str]] = {}
    made: dict[str, tuple[Place, bool]] = {}
    strangers = []
    for key in sources:
        places_of = list(_matching(key, patterns))
        if not places_of:
            strangers.append(key)
        for full, place, number, bias in places_of:
            found.setdefault(full, {})[number] = key
            made[full] = place, bias
    if strangers:
        raise WeightsError(
            "the model holds tensors that have no place in GGUF", where=name, found=listed(strangers),
            expected=f"those of {arch.model_type}",
        )  # fmt: skip
    parts = {}
    for full, (place, bias) in made.items():
        keys = tuple(found[full][number] for number in sorted(found[full]))
        with torch.device("meta"):
            meta = torch.empty(sources.shapes[keys[0]])
        free = Place(place.key, None, place.edit, place.turned, place.join, place.part, place.bare)
        shape = tuple(to_file(free, meta, facts, bias=bias).shape)
        parts[full] = _Part(
            place, keys, (len(keys), *shape) if "{e}" in place.key else shape, bias, _kind(sources, place, keys)
        )
    return dict(sorted(parts.items(), key=_order))


def _kind(sources: Sources, place: Place, keys: Sequence[str]) -> BlockType:
    """What the checkpoint's tensors that make up one of the file's are in: blocks, else the floats of the first."""
    kinds = {sources.kind(key) if keeps_blocks(place) else None for key in keys}
    found = kinds.pop() if len(kinds) == 1 else None
    return found or FLOATS.get(sources.dtype(keys[0]), mixes.KINDS["F32"])


def _as_it_is(name: str, part: _Part | None) -> BlockType:
    """The type of a tensor of which nothing is to be lost; llama.cpp wants float32 of what is no matrix."""
    matrix = part is not None and (part.kind.is_packed or mixes.is_matrix(name, part.shape))
    return part.kind if part is not None and matrix else mixes.KINDS["F32"]


def _order(item: tuple[str, object]) -> tuple[int, int]:
    """First what is embedded, then layers, then what follows them."""
    layer = re.match(r"blk\.(\d+)\.", item[0])
    return (1, int(layer[1])) if layer else (0 if item[0].startswith(("token", "position")) else 2, 0)


def _pattern(place: Place) -> re.Pattern[str]:
    """What the checkpoint's keys of a place look like."""
    stem = re.escape(place.key).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
    if place.key.endswith("_"):
        return re.compile(f"{stem}(?P<end>weight|bias)")
    return re.compile(stem + (r"(?P<end>|_bias)" if place.bare else r"\.(?P<end>weight|bias)"))


def _matching(
    key: str, patterns: Sequence[tuple[str, Place, re.Pattern[str]]]
) -> Iterator[tuple[str, Place, int, bool]]:
    """The file's names for a key, with its place, its number in a stack, and whether it is a bias."""
    for ours, place, pattern in patterns:
        matched = pattern.fullmatch(key)
        if matched is None:
            continue
        groups = matched.groupdict()
        bias = groups["end"].endswith("bias")
        full = ours.replace("{i}", groups.get("i") or "") + (".bias" if bias else ".weight")
        yield full, place, int(groups.get("e") or 0), bias


# ---- what is told, read again


def check_told(config: ModelConfig, arch: Architecture, facts: Facts) -> None:
    """Raise :class:`ConfigError` where who reads the file would build another model than this.

    Args:
        facts: what the file will say.
    """
    read = config_of(facts)
    if read["model_type"] != config.model_type:  # Mistral, whose files are Llama's
        if config.get("sliding_window") is not None:
            log.warning("GGUF files of %s do not tell its window: all is attended to", config.model_type)
        return
    again = builtin_config(config, read)
    ours, theirs = (dict(vars_of(one.spec)) for one in (config, again))
    odd = {
        name: (value, theirs.get(name))
        for name, value in ours.items()
        if not UNHEARD.search(name) and not alike(value, theirs.get(name))
    }
    if odd:
        raise ConfigError(
            "a GGUF file of this architecture cannot tell what the model computes", where="save_gguf",
            expected="; ".join(f"{name} {brief(mine)}" for name, (mine, _) in odd.items()),
            found="; ".join(f"{name} {brief(other)}" for name, (_, other) in odd.items()),
        )  # fmt: skip


def builtin_config(like: ModelConfig, raw: Mapping[str, object]) -> ModelConfig:
    """A config of the same family of another mapping."""
    return like.__class__.from_raw(raw, where="the GGUF file")


def vars_of(spec: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The fields of a typed config, those of its parts by dotted names."""
    for name in getattr(spec, "__dataclass_fields__", {}):
        value = getattr(spec, name)
        if hasattr(value, "__dataclass_fields__"):
            yield from vars_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def alike(one: object, other: object) -> bool:
    """Whether two settings are the same, floats as float32 keeps them."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return abs(one - other) <= 1e-6 * max(abs(one), abs(other))
    return one == other
