"""A trained model's own files: written as it saves itself, read back into the very model that is there."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from omniform.architectures.own import patterns
from omniform.architectures.surface import Surface
from omniform.core.errors import InputError, WeightsError, listed
from omniform.core.logs import get_logger
from omniform.train.safe_files import read_file
from omniform.train.wrapped import is_peft, without_adapters

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

SAFE: Final = "model.safetensors"
SAFE_INDEX: Final = f"{SAFE}.index.json"
PICKLED: Final = "pytorch_model.bin"
PICKLED_INDEX: Final = f"{PICKLED}.index.json"
ADAPTER: Final = "adapter_model.safetensors"
PICKLED_ADAPTER: Final = "adapter_model.bin"
WEIGHTS: Final = (SAFE, SAFE_INDEX, PICKLED, PICKLED_INDEX, ADAPTER, PICKLED_ADAPTER)


@runtime_checkable
class SavesItself(Protocol):
    """A model that writes its own files."""

    def save_pretrained(self, save_directory: str, **options: object) -> object: ...


def plain(trainer: Trainer, model: nn.Module | None = None) -> nn.Module:
    """The model without what processes or compilation put around it; mixed precision stays in its ``forward``."""
    wrapped = trainer.model if model is None else model
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return cast(nn.Module, trainer.accelerator.unwrap_model(wrapped, True, False))
    # accelerate's own would import DeepSpeed, where it is installed, to look for its models.
    while True:
        if isinstance(wrapped, (DistributedDataParallel, nn.DataParallel)):
            wrapped = cast(nn.Module, wrapped.module)
        elif "_orig_mod" in vars(wrapped)["_modules"]:  # torch.compile's; its class would import the compiler
            wrapped = cast(nn.Module, vars(wrapped)["_modules"]["_orig_mod"])
        else:
            return wrapped


def takes_weights(model: nn.Module) -> bool:
    """Whether a model writes weights that it is given in place of its own; a plain module is written by us."""
    if not isinstance(model, SavesItself):
        return True
    taken = inspect.signature(model.save_pretrained).parameters
    return "state_dict" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a model by their names."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def write_model(model: nn.Module, folder: str | os.PathLike[str], weights: Mapping[str, object] | None = None) -> None:
    """Write a model's files: as it saves itself, or the weights of a plain module.

    Args:
        weights: in place of its own.
    """
    if isinstance(model, SavesItself):
        given = {} if weights is None else {"state_dict": dict(weights)}
        model.save_pretrained(os.fspath(folder), **given)
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    held = weights_of(model) if weights is None else weights
    apart: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, tensor in held.items():
        assert isinstance(tensor, Tensor)
        # What is one tensor under several names is written once; whoever reads it into such a model has it again.
        same = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and same in seen:
            continue
        seen.add(same)
        apart[name] = tensor.detach().contiguous()
    overlapping = len({t.untyped_storage().data_ptr() for t in apart.values()}) < len(apart)
    save_file({n: t.clone() if overlapping else t for n, t in apart.items()}, Path(folder) / SAFE, {"format": "pt"})


# -- back --------------------------------------------------------------------------------------------------------------


def has_weights(folder: Path) -> bool:
    """Whether there are weights in a folder that can be read back: a model's or an adapter's."""
    return any((folder / name).is_file() for name in WEIGHTS) or any(_adapters(folder))


def read_model(model: nn.Module, folder: Path) -> None:
    """Read weights into a model.

    Raises:
        WeightsError: they are another model's, or damaged; the model is as it was.
        InputError: there are none.
    """
    if is_peft(model):
        _read_adapters(model, folder)
        return
    tensors = read_weights(folder)
    if isinstance(model, Surface):
        tensors = dict(model.in_our_names(tensors))
    own = weights_of(model)
    _share(tensors, own)
    left_out = patterns(type(model), "_keys_to_ignore_on_save")
    needed = {name: tensor for name, tensor in own.items() if not any(one.search(name) for one in left_out)}
    check_same(tensors, needed, own, str(folder))
    model.load_state_dict(tensors, strict=False)


def _share(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Names that are one tensor in the model, of which the file has one."""
    given = {id(own[name]): tensor for name, tensor in tensors.items() if name in own}
    for name, tensor in own.items():
        if name not in tensors and id(tensor) in given:
            tensors[name] = given[id(tensor)]


def check_same(
    found: Mapping[str, Tensor], needed: Mapping[str, Tensor], known: Mapping[str, Tensor], where: str
) -> None:
    """Raise :class:`WeightsError` unless tensors have the names and shapes of a model's; it names those that differ."""
    missing = sorted(needed.keys() - found.keys())
    strange = sorted(found.keys() - known.keys())
    shapes = [
        f"{name} {list(found[name].shape)} for {list(known[name].shape)}"
        for name in sorted(found.keys() & known.keys())
        if found[name].shape != known[name].shape
    ]
    if not (missing or strange or shapes):
        return
    parts = [("without", missing), ("with", strange), ("with shapes", shapes)]
    raise WeightsError(
        "the checkpoint is of another model",
        where=where,
        expected=f"the {len(needed)} weights of the model that is trained",
        found="; ".join(f"{word} {listed(names[:5])} ({len(names)})" for word, names in parts if names),
        remedy="Build the model as it was built then, or start afresh from these weights with from_pretrained.",
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights in a folder: one file or several with an index, safetensors or pickled (which runs no code).

    Raises:
        InputError: there are none.
        WeightsError: a file is damaged or missing.
    """
    for name in (SAFE, PICKLED):
        if (folder / name).is_file():
            return _tensors(folder / name)
    for name in (SAFE_INDEX, PICKLED_INDEX):
        if (folder / name).is_file():
            return read_shards(folder / name)
    raise InputError(
        "there are no weights in the checkpoint",
        where=str(folder),
        expected=f"one of {listed(WEIGHTS)}",
        found=listed(sorted(os.listdir(folder))) if folder.is_dir() else "no such folder",
    )


def read_shards(index: Path) -> dict[str, Tensor]:
    """All weights that an index names.

    Raises:
        WeightsError: a file is damaged or missing.
    """
    return {key: one for file in _shards(index) for key, one in _tensors(index.parent / file).items()}


def _shards(index: Path) -> list[str]:
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError("the index is damaged", where=str(index), found=str(error)) from error
    for name in names:
        # A name that leads elsewhere is none of this checkpoint's.
        if not isinstance(name, str) or Path(name).name != name or not (index.parent / name).is_file():
            raise WeightsError("a file that the index names is missing", where=str(index), found=repr(name))
    return sorted(names)


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        found = read_file(path)
        if not isinstance(found, dict):
            raise WeightsError("no mapping of names to tensors", where=str(path), found=type(found).__name__)
        return cast("dict[str, Tensor]", found)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError("the file is damaged or cut", where=str(path), found=str(error)) from error


# -- adapters of PEFT --------------------------------------------------------------------------------------------------


class _Peft(Protocol):
    """What is asked of PEFT."""

    def get_peft_model_state_dict(self, model: nn.Module, *, adapter_name: str) -> dict[str, Tensor]: ...

    def set_peft_model_state_dict(self, model: nn.Module, weights: dict[str, Tensor], adapter_name: str) -> object: ...


class _Takes(Protocol):
    """PEFT's function that gives an adapter's tensors the names of a model's layers."""

    def __call__(
        self, model: nn.Module, peft_config: object, adapter_state_dict: dict[str, Tensor], adapter_name: str, /
    ) -> dict[str, Tensor]: ...


@runtime_checkable
class _HasAdapters(Protocol):
    peft_config: Mapping[str, object]


def _adapters(folder: Path) -> Iterator[Path]:
    """The folders of adapters in a checkpoint: itself for the one called default, one below for each other."""
    if folder.is_dir():
        for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
            if (place / ADAPTER).is_file() or (place / PICKLED_ADAPTER).is_file():
                yield place


def _read_adapters(model: nn.Module, folder: Path) -> None:
    peft = cast(_Peft, import_module("peft"))
    assert isinstance(model, _HasAdapters)
    places = {("default" if place == folder else place.name): place for place in _adapters(folder)}
    if len(model.peft_config) == 1 and len(places) == 1:  # whatever it is called
        places = dict(zip(model.peft_config, places.values(), strict=True))
    if not places:
        raise InputError("there are no adapters in the checkpoint", where=str(folder), expected=ADAPTER)
    if places.keys() != set(model.peft_config):
        raise WeightsError(
            "the checkpoint is of another model",
            where=str(folder),
            expected=f"adapters {listed(sorted(model.peft_config))}",
            found=listed(sorted(places)),
        )
    read: dict[str, dict[str, Tensor]] = {}
    for name, place in places.items():
        file = place / ADAPTER if (place / ADAPTER).is_file() else place / PICKLED_ADAPTER
        read[name] = _by_our_names(model, name, _tensors(file))
        own = peft.get_peft_model_state_dict(model, adapter_name=name)
        check_same(read[name], own, own, str(file))
    for name, tensors in read.items():
        peft.set_peft_model_state_dict(model, tensors, adapter_name=name)


def _by_our_names(model: nn.Module, name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An adapter's tensors by the paths of the layers in the model: files have the ecosystem's, where ours differ."""
    assert isinstance(model, _HasAdapters)
    if not isinstance(without_adapters(model), Surface):
        return tensors
    taking = vars(import_module("peft.utils.transformers_weight_conversion"))
    read = cast(_Takes, taking["convert_peft_adapter_state_dict_for_transformers"])
    return read(model, model.peft_config[name], tensors, name)


def unsaved(model: nn.Module) -> dict[str, Tensor]:
    """What of a model changes in training and is in none of its files: of what PEFT stands around, whatever learns
    besides the adapters, and running statistics."""
    if not is_peft(model):
        return {}
    peft = cast(_Peft, import_module("peft"))
    assert isinstance(model, _HasAdapters)
    saved = {
        tensor.data_ptr()
        for name in model.peft_config
        for tensor in peft.get_peft_model_state_dict(model, adapter_name=name).values()
    }
    learning = {
        name: one for name, one in model.named_parameters() if one.requires_grad and one.data_ptr() not in saved
    }
    known = model.state_dict(keep_vars=True)
    running = {name: one for name, one in model.named_buffers() if name in known and one.data_ptr() not in saved}
    return {**learning, **running}


def read_unsaved(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put :func:`unsaved` tensors back."""
    own = unsaved(model)
    check_same(tensors, own, own, where)
    for name, tensor in tensors.items():
        own[name].data.copy_(tensor)
