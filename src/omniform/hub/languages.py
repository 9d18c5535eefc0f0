"""Adapters of languages: small weights beside a checkpoint, a file for each (MMS: ``adapter.fra.safetensors``)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from omniform.architectures.adapter_methods import AdapterReport
from omniform.architectures.model import Model
from omniform.architectures.speech_heads import CTC
from omniform.core.errors import InputError, WeightsError, brief, listed, nearest
from omniform.hub.files import Source, locate
from omniform.hub.weights import WeightFiles
from omniform.weights.safetensors import read_header

log = logging.getLogger("omniform")

_FILE: Final = re.compile(r"adapter\.([\w-]+)\.(?:safetensors|bin)")
_HEAD: Final = "lm_head.weight"


def speaks_languages(model: Model) -> bool:
    """Whether a model has places for adapters of languages."""
    return isinstance(model, CTC) and bool(model.bottlenecks())


def load_language(
    model: Model,
    language: object,
    where: Source | Mapping[str, object],
    *,
    force_load: bool = True,
    use_safetensors: bool | None = None,
) -> AdapterReport:
    """Have a model write another language.

    Args:
        model: its adapters and its head are filled; the head gets as many letters as the language has.
        language: as its file is called: ``"fra"`` for ``adapter.fra.safetensors``.
        where: the files, or how to look for them where the model came from (``revision``, ``token``, ...).
        force_load: also if the model has this language already.
        use_safetensors: True to refuse ``.bin`` files, False to read no others.

    Raises:
        InputError: the model has no such adapters; there is none of this language.
        WeightsError: the file does not fit the model.
    """
    if not isinstance(model, CTC) or not model.bottlenecks():
        raise InputError(
            "this model has no adapters of languages",
            where="target_lang",
            expected="a model for CTC whose config says adapter_attn_dim",
            found=f"a {type(model).__name__}",
        )
    if not isinstance(language, str) or not re.fullmatch(r"[\w-]+", language):
        raise InputError("this is no language's code", where="target_lang", found=brief(language))
    if language == model.target_lang and not force_load:
        log.warning("%s: %s is loaded already", model.name_or_path, language)
        return AdapterReport()
    files = where if isinstance(where, Source) else locate(model.name_or_path, **where)  # type: ignore[arg-type]
    held, name = _tensors(files, language, use_safetensors)
    _fill(model, held, f"{files.name}: {name}")
    model.target_lang = language
    return AdapterReport()


def _tensors(source: Source, language: str, use_safetensors: bool | None) -> tuple[Mapping[str, Tensor], str]:
    """What the language's file holds, by key, and its name."""
    kinds = {"safetensors": use_safetensors is not False, "bin": use_safetensors is not True}
    for kind in (kind for kind, wanted in kinds.items() if wanted):
        name = f"adapter.{language}.{kind}"
        path = source.find(name)
        if path is not None:
            found = WeightFiles({path: read_header(path)}) if kind == "safetensors" else WeightFiles({}, (path,))
            return found.tensors(), name
    known = sorted({match[1] for file in source.listing() if (match := _FILE.fullmatch(file))})
    raise InputError(
        "there is no adapter of this language",
        where=f"{source.name}: adapter.{language}.safetensors",
        expected=listed(known) if known else "files of that name beside the checkpoint",
        found=repr(language),
        remedy=nearest(language, known) if known else None,
    )


@torch.no_grad()
def _fill(model: CTC, held: Mapping[str, Tensor], told: str) -> None:
    mine = model.adapter_tensors()
    strange, missing = held.keys() - mine.keys(), mine.keys() - held.keys()
    wrong = [
        f"{key}: shape {list(mine[key].shape)} expected, {list(held[key].shape)} found"
        for key in sorted(mine.keys() & held.keys())
        if not _fits(key, mine[key].shape, held[key].shape)
    ]
    faults = [*wrong, *(f"missing {key}" for key in sorted(missing)), *(f"unexpected {key}" for key in sorted(strange))]
    if faults:
        raise WeightsError("the adapter does not fit this model", where=told, found=listed(faults))
    letters = held[_HEAD].shape[0]
    if letters != model.lm_head.out_features:
        weight = model.lm_head.weight
        model.lm_head = nn.Linear(model.lm_head.in_features, letters, device=weight.device, dtype=weight.dtype)
        model.lm_head.requires_grad_(weight.requires_grad)
        mine = model.adapter_tensors()
    if model.config.get("vocab_size") != letters:
        model.config.update({"vocab_size": letters})
    for key, tensor in mine.items():
        tensor.copy_(held[key])


def _fits(key: str, mine: torch.Size, held: torch.Size) -> bool:
    """Whether shapes are the same, but for how many letters there are."""
    start = 1 if key.startswith("lm_head.") else 0
    return len(mine) == len(held) and mine[start:] == held[start:]
