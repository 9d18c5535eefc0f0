"""Saving a checkpoint: written beside the target, then swapped in, so that a crash leaves the old one whole."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, RepoError
from omniform.hub.load import table_of, tensors_and_ties
from omniform.hub.weights import PICKLE, SAFETENSORS

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def save_model(model: Model, save_directory: str | os.PathLike[str], *, max_shard_size: int | str = "50GB") -> None:
    """Save config, generation config and weights in the Hub's layout.

    Args:
        save_directory: the folder; made if it does not exist. Other files in it stay.
        max_shard_size: bytes of weights per file, a number or ``"5GB"``.

    Raises:
        InputError: the size cannot be read.
        RepoError: the folder cannot be written; what was there before is untouched.
    """
    limit = parse_size(max_shard_size)
    tensors, _ = tensors_and_ties(model)
    stored = table_of(model).write({path: t.detach() for path, t in tensors.items()})
    stored = {model.spelling.get(key, key): tensor for key, tensor in stored.items()}
    config = config_to_save(model)

    def write(folder: Path) -> None:
        _write_json(folder / "config.json", config)
        if model.generation_config:
            _write_json(folder / "generation_config.json", model.generation_config.to_dict())
        _write_weights(folder, stored, limit)

    replace_files(Path(save_directory), write, stale=_is_weights)


def save_config(config: ModelConfig, save_directory: str | os.PathLike[str]) -> None:
    """Save a config alone as ``config.json``."""
    replace_files(Path(save_directory), lambda folder: _write_json(folder / "config.json", config.to_dict()))


def config_to_save(model: Model) -> dict[str, object]:
    """The raw config, patched only where the model differs from it: its architecture and its dtype."""
    config = model.config
    changes: dict[str, object] = {}
    if config.common.architectures != (model.origin.architecture.name,):
        changes["architectures"] = [model.origin.architecture.name]
    if config.common.dtype != model.dtype and (config.common.dtype is not None or model.dtype != torch.float32):
        changes["dtype"] = model.dtype
    return (config.replace(**changes) if changes else config).to_dict()


def replace_files(target: Path, write: Callable[[Path], None], *, stale: Callable[[str], bool] | None = None) -> None:
    """Write files into ``target`` all at once: after a crash it holds either all of the old or all of the new.

    The new files are written to a folder beside the target, which then takes over (as hard links) the target's other
    files and changes places with it in one step.

    Args:
        write: writes the new files into the folder it is given.
        stale: names of old files that must not stay beside the new ones.
    """
    target = target.expanduser().absolute()
    if target.exists() and not target.is_dir():
        raise RepoError("this is a file, not a folder", where=str(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise RepoError("the folder cannot be written", where=str(target), found=error.strerror) from error
    try:
        write(staging)
        for path in staging.iterdir():
            _sync(path)
        if target.exists():
            _take_over(target, staging, stale or (lambda name: False))
            shutil.copymode(target, staging)
            _exchange(staging, target)
        else:
            staging.chmod(0o777 & ~_umask())
            staging.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise RepoError("the folder cannot be written", where=str(target), found=error.strerror) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def parse_size(size: int | str) -> int:
    """Bytes from a number or from text like ``"5GB"``.

    Raises:
        InputError: it is no size, or not positive.
    """
    text = str(size).strip().upper().replace(" ", "")
    unit = next((u for u in sorted(UNITS, key=len, reverse=True) if text.endswith(u)), "")
    try:
        value = float(text.removesuffix(unit)) * UNITS.get(unit, 1)
    except ValueError:
        value = 0
    if value < 1:
        raise InputError("no such size", expected="a number of bytes, or a text like '5GB'", found=repr(size))
    return int(value)


def shards(tensors: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    """Keys in groups whose tensors take at most ``limit`` bytes together; a bigger tensor has a group of its own."""
    groups: list[list[str]] = [[]]
    used = 0
    for key, tensor in tensors.items():
        nbytes = tensor.numel() * tensor.element_size()
        if groups[-1] and used + nbytes > limit:
            groups.append([])
            used = 0
        groups[-1].append(key)
        used += nbytes
    return groups


def _write_weights(folder: Path, tensors: Mapping[str, Tensor], limit: int) -> None:
    from safetensors.torch import save_file

    groups = shards(tensors, limit)
    if len(groups) == 1:
        save_file({k: t.contiguous() for k, t in tensors.items()}, folder / SAFETENSORS, {"format": "pt"})
        return
    index: dict[str, str] = {}
    for number, keys in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file({key: tensors[key].contiguous() for key in keys}, folder / name, {"format": "pt"})
        index.update(dict.fromkeys(keys, name))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    _write_json(folder / f"{SAFETENSORS}.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", f"{SAFETENSORS}.index.json")) or name.startswith(PICKLE)


def _take_over(target: Path, staging: Path, stale: Callable[[str], bool]) -> None:
    for old in target.iterdir():
        new = staging / old.name
        if new.exists() or stale(old.name):
            continue
        if old.is_symlink():
            new.symlink_to(os.readlink(old))
        elif old.is_dir():
            shutil.copytree(old, new, symlinks=True, copy_function=os.link)
        else:
            os.link(old, new)


def _exchange(staging: Path, target: Path) -> None:
    if _exchanged_by_kernel(staging, target):
        return
    # Elsewhere than on Linux: two renames. The old folder is whole at every moment, under one name or the other.
    old = target.with_name(f"{staging.name}-old")
    target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _exchanged_by_kernel(staging: Path, target: Path) -> bool:
    import ctypes

    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of renameat2(2)
    return bool(rename(here, os.fsencode(staging), here, os.fsencode(target), swap) == 0)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
