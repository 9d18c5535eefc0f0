"""Saving a checkpoint: written beside the target, then swapped in, so that a crash leaves the old one whole."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, RepoError, check_arguments
from omniform.hub.devices import parse_size
from omniform.hub.load import table_of
from omniform.hub.weights import SAFETENSORS
from omniform.weights.tensors import tensors_and_ties

WEIGHTS = re.compile(r"(pytorch_)?model(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")
"""Names of weights files that must not stay beside newer ones."""


def save_model(
    model: Model,
    save_directory: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "50GB",
    safe_serialization: bool = True,
    **unknown: object,
) -> None:
    """Save config, generation config and weights in the Hub's layout.

    Args:
        save_directory: the folder; made if it does not exist. Other files in it stay.
        max_shard_size: bytes of weights per file, a number or ``"5GB"``.
        safe_serialization: True; weights are written as safetensors and nothing else.

    Raises:
        InputError: the size cannot be read.
        RepoError: the folder cannot be written; what was there before is untouched.
        UnknownArgumentError: another keyword.
    """
    check_arguments("save_pretrained", unknown, ("max_shard_size", "safe_serialization"))
    if not safe_serialization:
        raise InputError("weights are saved as safetensors", where="safe_serialization", expected=True, found=False)
    limit = parse_size(max_shard_size)
    tensors, _ = tensors_and_ties(model)
    stored = table_of(model).write({path: t.detach() for path, t in tensors.items()})
    stored = {model.spelling.get(key, key): tensor for key, tensor in stored.items()}
    config = config_to_save(model)

    def write(folder: Path) -> None:
        _write_json(folder / "config.json", config)
        settings = model.generation_config.to_diff_dict()
        if settings:
            _write_json(folder / "generation_config.json", settings)
        _write_weights(folder, stored, limit)

    replace_files(Path(save_directory), write, stale=_is_weights)


def save_config(config: ModelConfig, save_directory: str | os.PathLike[str], *, push_to_hub: bool = False) -> None:
    """Save a config alone as ``config.json``."""
    refuse_push(push_to_hub)
    replace_files(Path(save_directory), lambda folder: _write_json(folder / "config.json", config.to_diff_dict()))


def refuse_push(push_to_hub: object) -> None:
    """Raise :class:`InputError` if something was to go to the Hub."""
    if push_to_hub not in (None, False):
        raise InputError(
            "nothing is sent to the Hub from here",
            where="push_to_hub",
            expected=False,
            found=repr(push_to_hub)[:80],
            remedy="Save it, then send the folder: `hf upload REPOSITORY FOLDER`.",
        )


def config_to_save(model: Model) -> dict[str, object]:
    """The raw config, patched only where the model differs from it: its architecture and its dtype."""
    config = model.config
    changes: dict[str, object] = {}
    if config.common.architectures != (model.origin.architecture.name,):
        changes["architectures"] = [model.origin.architecture.name]
    if config.common.dtype != model.dtype and (config.common.dtype is not None or model.dtype != torch.float32):
        changes["dtype"] = model.dtype
    written: Mapping[str, object] = (config.replace(**changes) if changes else config).to_diff_dict()
    for transform in model.transforms:
        written = transform.written(written)
    return dict(written)


def replace_files(target: Path, write: Callable[[Path], None], *, stale: Callable[[str], bool] | None = None) -> None:
    """Write files into ``target`` all at once: after a crash it holds either all of the old or all of the new.

    The new files are written to a folder beside the target, which then takes over (as hard links) the target's other
    files and changes places with it in one step. A folder that cannot change places (a mount point, the working
    directory, one in a folder that may not be written) gets the finished files one by one, each of them at once.

    Args:
        write: writes the new files into the folder it is given.
        stale: names of old files that must not stay beside the new ones.
    """
    target = Path(os.path.realpath(os.path.expanduser(target)))
    if target.exists() and not target.is_dir():
        raise RepoError("this is a file, not a folder", where=str(target))
    movable = not target.exists() or _is_movable(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent if movable else target))
    except OSError as error:
        raise RepoError("the folder cannot be written", where=str(target), found=error.strerror) from error
    try:
        write(staging)
        mode = _usual_mode(staging)
        for path in staging.rglob("*"):
            if path.is_file():
                path.chmod(mode)
            _sync(path)
        stale = stale or (lambda name: False)
        if not movable:
            _move_into(target, staging, stale)
        elif target.exists():
            _take_over(target, staging, stale)
            shutil.copymode(target, staging)
            _exchange(staging, target)
        else:
            staging.chmod(mode | (mode & 0o444) >> 2)  # who may read a folder may enter it
            staging.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise RepoError(
            "the folder cannot be written", where=str(target), found=error.strerror or str(error)
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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
    groups = shards(tensors, limit)
    if len(groups) == 1:
        _write_tensors(folder / SAFETENSORS, tensors)
        return
    index: dict[str, str] = {}
    for number, keys in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        _write_tensors(folder / name, {key: tensors[key] for key in keys})
        index.update(dict.fromkeys(keys, name))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    _write_json(folder / f"{SAFETENSORS}.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:  # a full disk, for one, is no OSError to that library
        raise OSError(errno.EIO, str(error)) from error


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
        text = json.dumps(value, indent=2).encode()
    path.write_bytes(text + b"\n")


def _is_weights(name: str) -> bool:
    return WEIGHTS.fullmatch(name) is not None


def _is_movable(folder: Path) -> bool:
    # Whoever works inside the folder would be left in one that no longer exists.
    inside = Path.cwd().is_relative_to(folder)
    return not inside and not os.path.ismount(folder) and os.access(folder.parent, os.W_OK | os.X_OK)


def _move_into(target: Path, staging: Path, stale: Callable[[str], bool]) -> None:
    new = {path.name for path in staging.iterdir()}
    for name in sorted(new):
        if (target / name).is_dir():
            shutil.rmtree(target / name)
        os.replace(staging / name, target / name)
    for old in target.iterdir():
        if stale(old.name) and old.name not in new:
            old.unlink()


def _take_over(target: Path, staging: Path, stale: Callable[[str], bool]) -> None:
    for old in target.iterdir():
        new = staging / old.name
        if new.exists() or stale(old.name):
            continue
        if old.is_symlink():
            new.symlink_to(os.readlink(old))
        elif old.is_dir():
            shutil.copytree(old, new, symlinks=True, copy_function=_link)
        else:
            _link(old, new)


def _link(old: str | Path, new: str | Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # not every file system has hard links
        shutil.copy2(old, new)


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


def _usual_mode(folder: Path) -> int:
    # Asking for the umask means setting it, for all threads; a new file tells as well.
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode
