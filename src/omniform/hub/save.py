"""Saving a checkpoint: config and weights in the Hub's layout."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omniform.architectures.model import KeepsFile, Model
from omniform.architectures.named import PreTrainedModel
from omniform.architectures.own import declared_ties, patterns, said
from omniform.architectures.surface import Surface
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, brief
from omniform.core.generation import as_settings
from omniform.core.kinds import switch
from omniform.core.own_config import is_own
from omniform.hub.adapter_folders import WEIGHTS as ADAPTER_WEIGHTS
from omniform.hub.adapters import PREFIX, adapter_of, adapter_tensors, respelled, save_adapter_config
from omniform.hub.devices import parse_size
from omniform.hub.folders import folder_of, replace_files
from omniform.hub.load import build_on_meta, keymap_of
from omniform.hub.options import check_variant
from omniform.hub.push import send, sending_of
from omniform.hub.stale import ADAPTERS, is_weights
from omniform.hub.weights import SAFETENSORS, with_variant
from omniform.transforms.packed import unpacked
from omniform.weights.spread import is_part, whole_shape, with_scalars
from omniform.weights.tensors import tensors_and_ties

MODEL_OPTIONS = (
    "is_main_process", "state_dict", "save_function", "max_shard_size", "variant", "safe_serialization",
    "save_peft_format", "save_original_format", "distributed_checkpoint",
)  # fmt: skip
"""What a model's ``save_pretrained`` takes besides a place on the Hub; the last two are of the ecosystem, and inert."""


def save_model(
    model: Model,
    save_directory: str | os.PathLike[str],
    *,
    is_main_process: bool = True,
    state_dict: Mapping[str, Tensor] | None = None,
    save_function: Writer | None = None,
    push_to_hub: bool = False,
    max_shard_size: int | str = "50GB",
    safe_serialization: bool = True,
    variant: str | None = None,
    **given: object,
) -> None:
    """Save config, generation config and weights in the Hub's layout; of a model with adapters, the adapters only.

    Args:
        save_directory: the folder; made if it does not exist. Other files in it stay.
        is_main_process: False in all processes but one, which then write nothing.
        state_dict: weights to save instead of the model's own, by our names or the Hub's.
        save_function: writes one file, given its tensors and its path; safetensors by default. What it leaves there in
            another format (``Accelerator.save`` pickles) is written anew: a file is what its name says.
        push_to_hub: also commit the files to a repository.
        max_shard_size: bytes of weights per file, a number or ``"5GB"``.
        safe_serialization: True; weights are written as safetensors and nothing else.
        variant: a word in the files' names (``"fp16"`` for ``model.fp16.safetensors``).
        given: where on the Hub, and the commit's words; see :class:`~omniform.core.pushing.SaveOptions`.

    Raises:
        InputError: the size or the variant cannot be read; ``state_dict`` holds other weights than the model's; the
            model has no weights in memory.
        RepoError: the folder cannot be written; what was there before is untouched. Or the Hub refuses the files.
        UnknownArgumentError: another keyword.
    """
    sending = sending_of(push_to_hub, save_directory, given, MODEL_OPTIONS)
    target = folder_of(save_directory)
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
    adapter = adapter_of(model)
    if adapter is not None:
        prefix = PREFIX if switch("save_peft_format", given.get("save_peft_format", True)) else ""
        tensors = adapter_tensors(model, adapter, state_dict, prefix)
        files = _Files.of_adapter(model, adapter, tensors, save_function, prefix)
    else:
        refuse_unsavable(model)
        stored = {model.spelling.get(key, key): tensor for key, tensor in weights_to_save(model, state_dict).items()}
        files = _Files.of_checkpoint(model, stored, limit, variant, save_function, target)
    names = replace_files(target, files.write, stale=files.stale)
    if sending is not None:
        send(model, target, names, sending)


Writer = Callable[[dict[str, Tensor], str], object]
"""Writes one file of tensors, given them and its path."""


@dataclass(frozen=True, slots=True)
class _Files:
    """What is written into a folder.

    Attributes:
        write: does so.
        stale: names of older files that must not stay beside it.
    """

    write: Callable[[Path], None]
    stale: Callable[[str], bool]

    @classmethod
    def of_checkpoint(
        cls,
        model: Model,
        stored: Mapping[str, Tensor],
        limit: int,
        variant: str | None,
        writer: Writer | None,
        target: Path,
    ) -> _Files:
        from omniform.hub.code.saving import write_code

        _check_real(stored)
        config = config_to_save(model)

        def write(folder: Path) -> None:
            _write_json(folder / "config.json", config)
            settings = as_settings(model.generation_config, "model.generation_config")
            if settings:
                _write_json(folder / "generation_config.json", settings)
            _write_weights(folder, stored, limit, variant, writer)
            if model.own_file and isinstance(model, KeepsFile):
                model.write_own(folder / model.own_file)
            write_code(folder, model.config, model, target=target, origin=model.config.name_or_path)

        return cls(write, lambda name: is_weights(name, variant))

    @classmethod
    def of_adapter(
        cls, model: Model, name: str, stored: Mapping[str, Tensor], writer: Writer | None, prefix: str
    ) -> _Files:
        _check_real(stored)

        def write(folder: Path) -> None:
            save_adapter_config(model, name, folder)
            write_tensors(folder / ADAPTER_WEIGHTS, stored, writer)
            respelled(model, name, folder, prefix)

        return cls(write, lambda name: name in ADAPTERS)


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

    Matrices that stay in a file's blocks are written as the numbers they stand for.

    A tensor that the config ties is left to its owner. What is tied by hand only is written twice: whoever loads it
    builds by the config.

    Raises:
        InputError: given ones are not this model's.
    """
    held: Mapping[str, Tensor] = unpacked(model, model.state_dict(keep_vars=True), model.dtype)
    if state_dict is None:
        check_whole(held)
    else:
        held = _given(model, state_dict, held)
    usual = usual_ties(model)
    ties = {path: owner for path, owner in usual.items() if path in held and owner in held}
    ties = {path: owner for path, owner in ties.items() if held[path] is held[owner] or state_dict is not None}
    left_out = patterns(type(model), "_keys_to_ignore_on_save")
    tensors = {
        path: tensor
        for path, tensor in held.items()
        if path not in ties and not any(one.search(path) for one in left_out)
    }
    keys = keymap_of(model)
    if keys.parts or keys.gone:
        raise InputError(
            "this process holds a part of the model",
            where="save_pretrained",
            remedy="Load the checkpoint without tp_plan and pp_plan to save it.",
        )
    table = keys.expand({path: tuple(tensor.shape) for path, tensor in tensors.items()}, ties)
    return table.write({path: tensor.detach() for path, tensor in tensors.items()})


def usual_ties(model: Model) -> Mapping[str, str]:
    """What the config or the class ties: the path of a tensor to its owner's."""
    if not isinstance(model, PreTrainedModel):
        return tensors_and_ties(model)[1]
    if model.place is None:
        found, named = tensors_and_ties(model)[1], said(type(model), "_tied_weights_keys")
        declared = declared_ties(model, named) if isinstance(named, Mapping) else {}
        # Of tensors that are one, the class says which name counts.
        again = {owner: path for path, owner in found.items() if declared.get(owner) == path}
        return {**{path: owner for path, owner in found.items() if owner not in again}, **again}
    kind = vars(type(model)).get("made_of", (type(model),))[0]
    try:
        return tensors_and_ties(build_on_meta(model.config, kind))[1]
    except TypeError:  # a class of the user's own, whose constructor wants more than a config
        return tensors_and_ties(model)[1]


def _given(model: Model, state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    assert isinstance(model, PreTrainedModel)
    given = with_scalars(model, model.in_our_names(state_dict))
    faults = sorted(path for path in given.keys() | own.keys() if path not in given or path not in own)
    faults += sorted(p for p in given.keys() & own.keys() if given[p].shape != whole_shape(model, p, own[p]))
    if faults:
        raise InputError("these are not this model's weights", where="state_dict", found=", ".join(faults[:10]))
    return {path: given[path] for path in own}


def check_whole(held: Mapping[str, Tensor]) -> None:
    """Raise :class:`InputError` where only a part of the weights lies in this process."""
    part = next((name for name, tensor in held.items() if is_part(tensor)), None)
    if part is not None:
        raise InputError(
            "only a part of the weights lies in this process",
            where=part,
            remedy="In all processes: save_pretrained(folder, state_dict=accelerator.get_state_dict(model), "
            "is_main_process=accelerator.is_main_process); or Trainer.save_model.",
        )


def _check_real(stored: Mapping[str, Tensor]) -> None:
    empty = next((name for name, tensor in stored.items() if tensor.is_meta), None)
    if empty is not None:
        raise InputError(
            "the model has no weights that could be saved",
            where=empty,
            found="a tensor on the meta device",
            remedy="Load it with from_pretrained, or pass its weights as state_dict=.",
        )


def save_config(
    config: ModelConfig, save_directory: str | os.PathLike[str], *, push_to_hub: bool = False, **given: object
) -> None:
    """Save a config alone as ``config.json``; keywords as for :func:`save_model`."""
    from omniform.hub.code.saving import write_code

    sending = sending_of(push_to_hub, save_directory, given)
    target = folder_of(save_directory)
    saved = config.to_save()

    def write(folder: Path) -> None:
        _write_json(folder / "config.json", saved)
        write_code(folder, config, target=target, origin=config.name_or_path)

    names = replace_files(target, write)
    if sending is not None:
        send(config, target, names, sending)


def config_to_save(model: Model) -> dict[str, object]:
    """The raw config, patched only where the model differs from it: its architecture and its dtype."""
    config = model.config
    changes: dict[str, object] = {}
    if config.common.architectures != (model.origin.architecture.name,):
        changes["architectures"] = [model.origin.architecture.name]
    silent = config.common.dtype is None and model.dtype == torch.float32 and not is_own(type(config))
    if config.common.dtype != model.dtype and not silent:
        changes["dtype"] = model.dtype
    written: Mapping[str, object] = (config.replace(**changes) if changes else config).to_save()
    for transform in model.transforms:
        written = transform.written(written)
    return dict(written)


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
    save_function: Writer | None,
) -> None:
    groups, whole = shards(tensors, limit), folder / with_variant(SAFETENSORS, variant)
    if len(groups) == 1:
        write_tensors(whole, tensors, save_function)
        return
    index: dict[str, str] = {}
    for number, keys in enumerate(groups, start=1):
        name = f"{whole.stem}-{number:05d}-of-{len(groups):05d}{whole.suffix}"
        write_tensors(folder / name, {key: tensors[key] for key in keys}, save_function)
        index.update(dict.fromkeys(keys, name))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    listing = with_variant(f"{SAFETENSORS}.index.json", variant)
    _write_json(folder / listing, {"metadata": {"total_size": total}, "weight_map": index})


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    save_function: Writer | None = None,
) -> None:
    """Write one file of safetensors.

    Raises:
        OSError: it cannot be written.
    """
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
