"""A checkpoint written in fewer bits, with a report of what that costs: ``omniform quantize``."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.errors import InputError, RepoError, nearest
from omniform.engine.engine import Engine
from omniform.export.quality import Quality, quality, scores_of, tokens_per_second, windows
from omniform.hub.auto_inputs import AutoTokenizer
from omniform.hub.checkpoint import load_as_saved
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.transforms.quantize.config import QuantizationConfigMixin, settings_from

TARGETS: Mapping[str, Mapping[str, object]] = {
    "int8": {"quant_method": "native", "bits": 8},
    "int4": {"quant_method": "native", "bits": 4},
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "llm-int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "fp8": {"quant_method": "fp8"},
    **{f"gptq-{bits}": {"quant_method": "gptq", "bits": bits} for bits in (2, 3, 4, 8)},
    **{f"hqq-{bits}": {"quant_method": "hqq", "nbits": bits} for bits in (2, 3, 4, 8)},
}
"""What a checkpoint can become, to the settings of it; ``gguf:TYPE`` beside these."""

GROUPS: Mapping[str, str] = {"native": "group_size", "gptq": "group_size", "hqq": "group_size"}
"""What a method calls the number of inputs that share a scale."""

READ = 65536
"""Tokens of the texts at most that quality is told by."""


@dataclass(frozen=True, slots=True)
class Told:
    """A model before or after.

    Attributes:
        name: what it is.
        nbytes: of its files' weights; None of a checkpoint on the Hub.
        quality: how well it foretells the given text; None without one.
        tokens_per_second: that it writes, one row at a time; None where it does not write.
    """

    name: str
    nbytes: int | None
    quality: Quality | None
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What quantizing did.

    Attributes:
        before: the checkpoint.
        after: what was made of it.
        path: where that is.
    """

    before: Told
    after: Told
    path: Path


def texts_in(path: str | os.PathLike[str]) -> list[str]:
    """The texts of a file, one where no empty line parts them.

    Raises:
        RepoError: it cannot be read.
        InputError: it is empty.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RepoError("the texts cannot be read", where=os.fspath(path), found=str(error)) from error
    found = [one.strip() for one in re.split(r"\n\s*\n", text) if one.strip()]
    if not found:
        raise InputError("there is no text in it", where=os.fspath(path), expected="lines of text", found="nothing")
    return found


def settings_for(
    to: str, texts: Sequence[str] | None, group_size: int | None, where: str = "to"
) -> QuantizationConfigMixin:
    """The settings that a target means.

    Args:
        to: the target.
        texts: to learn from.
        group_size: inputs that share a scale, if not the target's own.
        where: what named the target, for messages.

    Raises:
        InputError: there is no such target, or it takes no groups, or learns from texts and has none.
    """
    if to not in TARGETS:
        close = nearest(to, [*TARGETS, "gguf:Q4_K_M"])
        raise InputError(
            "no such target", where=where, expected=", ".join([*TARGETS, "gguf:TYPE"]), found=repr(to), remedy=close
        )
    asked = dict(TARGETS[to])
    method = str(asked["quant_method"])
    if group_size is not None:
        if method not in GROUPS:
            raise InputError("this target has groups of its own", where="group_size", found=f"{group_size} for {to}")
        asked[GROUPS[method]] = group_size
    made = settings_from(asked)
    if made.texts() is not None:
        if texts is None:
            raise InputError(
                "this method learns from texts", where="data", expected="a file of texts", found="none",
                remedy="Name one with omniform quantize --data.",
            )  # fmt: skip
        made.update(dataset=list(texts))
    return made


PACKED = ("int8", "int4")
"""Targets that kernels have matrices of by themselves."""


def on_loading(to: str, dtype: str = "auto") -> dict[str, object]:
    """The keywords of ``from_pretrained`` that make a target of a plain checkpoint as it is loaded.

    Args:
        dtype: of what is not quantized.

    Raises:
        InputError: there is no such target, or it learns from texts.
    """
    if to in PACKED and dtype == "auto":
        return {"dtype": to}  # packed matrix by matrix as it is read, which takes the least memory
    return {"dtype": dtype, "quantization_config": settings_for(to, None, None, where="--quantize")}


def quantize(
    model: str | os.PathLike[str],
    to: str,
    save: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    group_size: int | None = None,
    dtype: str = "auto",
    overwrite: bool = False,
) -> Report:
    """Write a checkpoint in fewer bits, and tell what that costs.

    Args:
        model: a folder or a Hub id.
        to: ``"int8"``, ``"nf4"``, ``"gptq-4"``, ``"gguf:Q4_K_M"``...: see :data:`TARGETS`.
        save: the folder to write, or for GGUF the file. Nothing is there until all is.
        data: a file of texts, parted by empty lines: what some methods learn from, and what quality is told by.
        group_size: inputs that share a scale, where the target lets one choose.
        dtype: of what is not quantized.
        overwrite: replace what is there.

    Raises:
        InputError: the target does not exist or does not suit, or the texts are too short.
        RepoError: there is something at ``save`` already.
    """
    where = Path(save).expanduser()
    if where.exists() and not overwrite:
        raise RepoError(
            "there is something already", where=str(where), remedy="Name another place, or say --overwrite."
        )
    texts = None if data is None else texts_in(data)
    kind = to.removeprefix("gguf:") if to.startswith("gguf:") else None
    settings = settings_for(to, texts, group_size) if kind is None else None
    reader = _tokenizer(model)
    before = load_as_saved(model, dtype=dtype)
    with tempfile.TemporaryDirectory(prefix=f".{where.name}-", dir=_parent(where)) as folder:
        made = Path(folder) / where.name
        if kind is None:
            if settings is not None and settings.texts() is not None:
                settings.update(tokenizer=reader)
            load_as_saved(model, dtype=dtype, quantization_config=settings).save_pretrained(made)
            if reader is not None:
                reader.save_pretrained(made)
        else:
            before.save_gguf(made, type=kind, tokenizer=reader)
        sizes = _size_of(model), _size(made)
        report = told(before, load_as_saved(made), reader, texts, (os.fspath(model), to), sizes)
        if where.is_dir() and not where.is_symlink():
            shutil.rmtree(where)
        os.replace(made, where)
    return Report(*report, path=where)


def told(
    before: Model,
    after: Model,
    reader: Tokenizer | None,
    texts: Sequence[str] | None,
    names: tuple[str, str],
    sizes: tuple[int | None, int],
) -> tuple[Told, Told]:
    """What there is to say of a model and of what was made of it."""
    pieces: list[Tensor] = []
    if texts is not None and reader is not None:
        left = READ
        rows = []
        for text in texts:
            rows.append(cast(list[int], reader.encode(text))[:left])
            left -= len(rows[-1])
        pieces = list(windows(rows))
    qualities: list[Quality | None] = [None, None]
    if pieces:
        qualities = [
            quality(pieces, scores_of(before)),
            quality(pieces, scores_of(after), scores_of(before)),
        ]
    one, other = (
        Told(name, size, found, _speed(model))
        for model, name, size, found in zip((before, after), names, sizes, qualities, strict=True)
    )
    return one, other


def _speed(model: Model) -> float | None:
    if not isinstance(model, Generative) or not model.can_generate() or model.config.is_encoder_decoder:
        return None
    engine = Engine(model)
    try:
        return tokens_per_second(lambda count: engine.generate([1] * 16, max_new_tokens=count, min_new_tokens=count))
    finally:
        engine.close()


def _tokenizer(model: str | os.PathLike[str]) -> Tokenizer | None:
    try:
        return AutoTokenizer.from_pretrained(model)
    except RepoError:
        return None


def _parent(where: Path) -> Path:
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepoError("the folder cannot be made", where=str(where.parent), found=error.strerror) from error
    return where.parent


def _size(path: Path) -> int:
    """Bytes of the weights in a folder, or of a file."""
    if path.is_file():
        return path.stat().st_size
    kinds = ("*.safetensors", "*.bin", "*.gguf")
    return sum(file.stat().st_size for kind in kinds for file in path.glob(kind))


def _size_of(model: str | os.PathLike[str]) -> int | None:
    """Bytes of a checkpoint's weights; None where they do not lie in a folder of the user's."""
    path = Path(model).expanduser()
    return _size(path) if path.exists() else None
