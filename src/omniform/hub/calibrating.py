"""What a quantizer that learns from texts is given: rows of ids, and a place for what is finished."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError, RepoError, brief
from omniform.hub.files import Source
from omniform.transforms.quantize.config import Texts
from omniform.transforms.quantize.quantizer import HfQuantizer

SHORTEST = 8
"""Tokens of a row that is worth reading."""

SETS: Mapping[str, tuple[str, str | None, str, str]] = {
    "wikitext2": ("wikitext", "wikitext-2-raw-v1", "train", "text"),
    "c4": ("allenai/c4", "en", "train", "text"),
    "c4-new": ("allenai/c4", "en", "train", "text"),
}
"""Names that the ecosystem has for sets of texts, to what ``datasets`` calls them: name, part, split and column."""

MOST = 128
"""Rows that are taken of a set."""


def with_texts(quantizer: HfQuantizer | None, source: Source, config: Mapping[str, object], dtype: object) -> None:
    """Give a quantizer that learns from texts a way to them, where a plain checkpoint is loaded."""
    asked = None if quantizer is None or quantizer.pre_quantized else quantizer.quantization_config.texts()
    if quantizer is None or asked is None:
        return
    settings, kind = quantizer.quantization_config.to_dict(), type(quantizer.quantization_config)

    def learn_from(longest: int) -> tuple[list[list[int]], Path]:
        rows = rows_of(asked, source, longest, kind.__name__)
        plain = {k: v for k, v in settings.items() if k not in ("dataset", "tokenizer", "backend", "meta")}
        files = sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _files(source))
        said = json.dumps([plain, rows, source.name, files, dict(config), str(dtype)], sort_keys=True, default=str)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "omniform"
        return rows, cache / str(settings["quant_method"]) / hashlib.sha256(said.encode()).hexdigest()[:24]

    quantizer.learn_from = learn_from


def _files(source: Source) -> list[Path]:
    folder = source.folder
    if folder is None or not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")]


def rows_of(asked: Texts, source: Source, longest: int, kind: str) -> list[list[int]]:
    """The rows of ids that settings mean.

    Args:
        longest: tokens that the model reads at most.
        kind: the settings' class, for errors.

    Raises:
        InputError: there are no texts, or they are too short.
        RepoError: a file or a set of texts is not there.
    """
    dataset, where = asked.dataset, f"{kind}(dataset=)"
    length = asked.length or min(longest, 2048)
    texts = _texts(dataset, where) if isinstance(dataset, str) else list(cast(Sequence[object], dataset or ()))
    if not texts:
        raise _too_short("nothing", where)
    if all(isinstance(text, str) for text in texts):
        rows = _encoded(cast(list[str], texts), asked.tokenizer, source, kind)
    else:
        rows = [_ids(row, where) for row in texts]
    made = [row[:length] for row in rows if len(row) >= min(SHORTEST, length)]
    if not made:
        raise _too_short(f"{len(rows)} rows, the longest of {max(map(len, rows))} tokens", where)
    return made


def _too_short(found: str, where: str) -> InputError:
    return InputError(
        "the texts to calibrate with are too short",
        where=where,
        expected=f"rows of at least {SHORTEST} tokens",
        found=found,
    )


def _ids(row: object, where: str) -> list[int]:
    ids = row.get("input_ids") if isinstance(row, Mapping) else row
    tolist = ids.reshape(-1).tolist() if isinstance(ids, Tensor | np.ndarray) else ids
    if not isinstance(tolist, list | tuple) or not all(type(one) is int for one in tolist):
        raise InputError("no row of ids", where=where, expected="texts or lists of ids", found=brief(row))
    return list(tolist)


def _encoded(texts: list[str], asked: object, source: Source, kind: str) -> list[list[int]]:
    reader = asked
    if asked is None or isinstance(asked, str | os.PathLike):
        from omniform.hub.auto_inputs import AutoTokenizer  # all inputs, for those who calibrate

        reader = AutoTokenizer.from_pretrained(source.name if asked is None else asked)
    if not callable(reader):
        raise InputError("no tokenizer", where=f"{kind}(tokenizer=)", found=brief(reader))
    return [_ids(reader(text)["input_ids"], f"{kind}(tokenizer=)") for text in texts if text.strip()] or [[]]


def _texts(dataset: str, where: str) -> list[str]:
    """The texts of a file, one where empty lines part them, or of a set."""
    path = Path(dataset).expanduser()
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        return [one.strip() for one in text.split("\n\n") if one.strip()]
    if dataset not in SETS:
        raise RepoError(
            "no such file or set of texts", where=where,
            expected=f"a text file's path, or {', '.join(SETS)}", found=repr(dataset),
        )  # fmt: skip
    try:
        from datasets import load_dataset

        name, part, split, column = SETS[dataset]
        rows = load_dataset(name, part, split=split, streaming=False)
        return [row[column] for row in rows if len(row[column]) > 512][:MOST]
    except Exception as error:
        raise RepoError(
            "this set of texts is not on this machine", where=where, found=repr(dataset),
            remedy=f"Name a text file, or give the texts. ({type(error).__name__})",
        ) from error  # fmt: skip
