"""Saving a checkpoint: written beside the target, then swapped in, so that a crash leaves the old one whole."""

from __future__ import annotations

import errno
import glob
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
from omniform.architectures.named import PreTrainedModel
from omniform.architectures.surface import Surface
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, RepoError, brief, check_arguments
from omniform.core.generation import as_settings
from omniform.core.kinds import switch
from omniform.hub.devices import parse_size
from omniform.hub.load import build_on_meta, keymap_of
from omniform.hub.options import check_variant
from omniform.hub.weights import SAFETENSORS, with_variant
from omniform.weights.tensors import tensors_and_ties

WEIGHTS = re.compile(
    r"(pytorch_)?model(?:\.(?P<early>[\w-]+?))?(-\d{5}-of-\d{5})?"
    r"(?:\.(?P<late>[\w-]+))?\.(safetensors|bin)(\.index(?:\.(?P<index>[\w-]+))?\.json)?"
)
"""Names of weights files, and the variant that they are of: those of the same must not stay beside newer ones."""


INERT = frozenset({"token", "use_auth_token", "save_peft_format", "save_original_format", "repo_id", "commit_message"})
"""Accepted, and without effect: what concerns adapters, or the Hub."""


def save_model(
    model: Model,
    save_directory: str | os.PathLike[str],
    *,
    is_main_process: bool = True,
    state_dict: Mapping[str, Tensor] | None = None,
    save_function: Callable[[dict[str, Tensor], str], object] | None = None,
    push_to_hub: bool = False,
    max_shard_size: int | str = "50GB",
    safe_serialization: bool = True,
    variant: str | None = None,
    **inert: object,
) -> None:
    """Save config, generation config and weights in the Hub's layout.

    Args:
        save_directory: the folder; made if it does not exist. Other files in it stay.
        is_main_process: False in all processes but one, which then write nothing.
        state_dict: weights to save instead of the model's own, by our names or the Hub's.
        save_function: writes one file, given its tensors and its path; safetensors by default. What it leaves there in
            another format (``Accelerator.save`` pickles) is written anew: a file is what its name says.
        push_to_hub: False.
        max_shard_size: bytes of weights per file, a number or ``"5GB"``.
        safe_serialization: True; weights are written as safetensors and nothing else.
        variant: a word in the files' names (``"fp16"`` for ``model.fp16.safetensors``).

    Raises:
        InputError: the size or the variant cannot be read; something is to go to the Hub; ``state_dict`` holds other
            weights than the model's.
        RepoError: the folder cannot be written; what was there before is untouched.
        UnknownArgumentError: another keyword.
    """
    known = (*INERT, *("is_main_process", "state_dict", "save_function", "push_to_hub", "max_shard_size", "variant"))
    check_arguments("save_pretrained", inert, (*known, "safe_serialization"))
    refuse_push(push_to_hub)
    if not isinstance(save_directory, (str, os.PathLike)) or not os.fspath(save_directory):
        raise InputError("no folder", where="save_directory", expected="a path", found=repr(save_directory)[:80])
    if safe_serialization is not True:
        found = repr(safe_serialization)[:80]
        raise InputError("weights are saved as safetensors", where="safe_serialization", expected=True, found=found)
    limit = parse_size(max_shard_size)
    check_variant(variant)
    if save_function is not None and not callable(save_function):
        raise InputError(
            "this writes no files", where="save_function", expected="a function", found=brief(save_function)
        )
    if not switch("is_main_process", is_main_process):
        return
    refuse_unsavable(model)
    stored = {model.spelling.get(key, key): tensor for key, tensor in weights_to_save(model, state_dict).items()}
    config = config_to_save(model)

    def write(folder: Path) -> None:
        _write_json(folder / "config.json", config)
        settings = as_settings(model.generation_config, "model.generation_config")
        if settings:
            _write_json(folder / "generation_config.json", settings)
        _write_weights(folder, stored, limit, variant, save_function)

    replace_files(Path(save_directory), write, stale=lambda name: _is_weights(name, variant))


def refuse_unsavable(model: Model) -> None:
    """Raise :class:`InputError` if a model's quantizer says that it cannot be saved."""
    quantizer = model.hf_quantizer if isinstance(model, Surface) else None
    if quantizer is not None and not quantizer.is_serializable():
        raise InputError(
            "this quantized model cannot be saved",
            where="save_pretrained",
            found=type(quantizer).__name__,
            remedy="Save the model that it was made from.",
        )


def weights_to_save(model: Model, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The checkpoint's tensors: the model's own, or given ones.

    A tensor that the config ties is left to its owner. What is tied by hand only is written twice: whoever loads it
    builds by the config.

    Raises:
        InputError: given ones are not this model's.
    """
    held: Mapping[str, Tensor] = model.state_dict(keep_vars=True)
    if state_dict is not None:
        held = _given(model, state_dict, held)
    usual = _usual_ties(model)
    ties = {path: owner for path, owner in usual.items() if path in held and owner in held}
    ties = {path: owner for path, owner in ties.items() if held[path] is held[owner] or state_dict is not None}
    tensors = {path: tensor for path, tensor in held.items() if path not in ties}
    keys = keymap_of(model)
    table = keys.expand({path: tuple(tensor.shape) for path, tensor in tensors.items()}, ties)
    return table.write({path: tensor.detach() for path, tensor in tensors.items()})


def _usual_ties(model: Model) -> Mapping[str, str]:
    if not isinstance(model, PreTrainedModel) or model.place is None:
        return tensors_and_ties(model)[1]
    kind = vars(type(model)).get("made_of", (type(model),))[0]
    try:
        return tensors_and_ties(build_on_meta(model.config, kind))[1]
    except TypeError:  # a class of the user's own, whose constructor wants more than a config
        return tensors_and_ties(model)[1]


def _given(model: Model, state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    assert isinstance(model, PreTrainedModel)
    given = model.in_our_names(state_dict)
    faults = sorted(path for path in given.keys() | own.keys() if path not in given or path not in own)
    faults += sorted(p for p in given.keys() & own.keys() if given[p].shape != own[p].shape)
    if faults:
        raise InputError("these are not this model's weights", where="state_dict", found=", ".join(faults[:10]))
    return {path: given[path] for path in own}


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
    beside = target.parent if movable else target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean(beside, target)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-{os.getpid()}-", dir=beside))
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


def _clean(beside: Path, target: Path) -> None:
    """Remove what saves to the same target left behind that were killed."""
    for left in beside.glob(f".{glob.escape(target.name)}-*-*"):
        found = re.fullmatch(rf"\.{re.escape(target.name)}-(\d+)-[a-z0-9_]{{8}}", left.name)
        if found and not _is_alive(int(found[1])):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


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


def _write_weights(
    folder: Path,
    tensors: Mapping[str, Tensor],
    limit: int,
    variant: str | None,
    save_function: Callable[[dict[str, Tensor], str], object] | None,
) -> None:
    groups, whole = shards(tensors, limit), folder / with_variant(SAFETENSORS, variant)
    if len(groups) == 1:
        _write_tensors(whole, tensors, save_function)
        return
    index: dict[str, str] = {}
    for number, keys in enumerate(groups, start=1):
        name = f"{whole.stem}-{number:05d}-of-{len(groups):05d}{whole.suffix}"
        _write_tensors(folder / name, {key: tensors[key] for key in keys}, save_function)
        index.update(dict.fromkeys(keys, name))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    listing = with_variant(f"{SAFETENSORS}.index.json", variant)
    _write_json(folder / listing, {"metadata": {"total_size": total}, "weight_map": index})


def _write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    save_function: Callable[[dict[str, Tensor], str], object] | None = None,
) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():  # the format holds no tensor twice
        shared = tensor.numel() > 0 and tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        apart[key] = tensor.clone() if shared else tensor.contiguous()
    try:
        if save_function is not None:
            save_function(apart, str(path))
        if save_function is None or (path.exists() and not _is_safetensors(path)):
            save_file(apart, path, {"format": "pt"})
    except SafetensorError as error:  # a full disk, for one, is no OSError to that library
        raise OSError(errno.EIO, str(error)) from error


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with a header that fits into it (https://huggingface.co/docs/safetensors)."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return length <= path.stat().st_size - 8 and file.read(1) == b"{"


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
        text = json.dumps(value, indent=2).encode()
    path.write_bytes(text + b"\n")


def _is_weights(name: str, variant: str | None) -> bool:
    found = WEIGHTS.fullmatch(name)
    return found is not None and next((v for v in found.groupdict().values() if v), None) == variant


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
