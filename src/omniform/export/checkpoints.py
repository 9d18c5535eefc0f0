"""A model as another checkpoint: a GGUF file, or safetensors of other numbers, sizes of files, or names.

What is written is what ``save_gguf`` and ``save_pretrained`` write. Here it is read again before it is put in place,
and compared number by number with the model.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.errors import InputError, RepoError, WeightsError, brief
from omniform.export.exporting import free_folder, side_files, sizes_in
from omniform.export.formats import Exported, Format, Options
from omniform.hub import consolidated as native
from omniform.hub.auto_inputs import AutoTokenizer
from omniform.hub.checkpoint import load_as_saved
from omniform.hub.folders import replace_file, replace_files
from omniform.hub.gguf.mixes import mix_named
from omniform.hub.save import config_to_save, weights_to_save, write_tensors
from omniform.hub.weights import SAFETENSORS
from omniform.inputs.text.tokenizer import Tokenizer

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

EXACT: Final = 1e-6
"""How far floats may be that a format keeps in another form (some of GGUF's norms are kept with one added)."""

LOSSES: Final[Mapping[str, float]] = {"8": 0.03, "6": 0.06, "5": 0.1, "4": 0.25, "3": 0.4, "2": 0.6}
"""By the bits in a type's name: how far a matrix may be from what it was, as a part of its own size; about three times
what normal numbers lose."""


def dtype_of(form: Format, options: Options) -> str | torch.dtype:
    """What a checkpoint is to be loaded as."""
    return "auto" if "dtype" not in form.defaults else DTYPES.get(options.dtype, "auto")


def write_checkpoint(
    model: Model, form: Format, path: str | os.PathLike[str], options: Options, source: str
) -> Exported:
    """Write a checkpoint, and read it again; see :func:`omniform.export.exporting.export`."""
    if form.name == "gguf":
        return _gguf(model, path, options, source)
    return _safetensors(_cast(model, dtype_of(form, options)), path, options, source)


def _cast(model: Model, dtype: str | torch.dtype) -> Model:
    """The model in another dtype; the same where it has it."""
    if isinstance(dtype, str) or {p.dtype for p in model.parameters() if p.is_floating_point()} <= {dtype}:
        return model
    if model.transforms:
        raise InputError(
            "a quantized or otherwise edited model has no other dtype", where="dtype", found=str(dtype),
            remedy="Leave out --dtype, or dequantize() it first.",
        )  # fmt: skip
    return copy.deepcopy(model).to(dtype)


# -- GGUF --------------------------------------------------------------------------------------------------------------


def _gguf(model: Model, path: str | os.PathLike[str], options: Options, source: str) -> Exported:
    mix = None if options.quantize is None else mix_named(options.quantize)
    target = gguf_file(path, source, mix)
    if target.exists() and not options.overwrite:
        raise RepoError(
            "there is something already", where=str(target), remedy="Name another place, or say --overwrite."
        )
    reader = _tokenizer(source)
    bits = re.search(r"\d", mix or "F32")
    allowed = EXACT if mix is None or mix in ("F32", "F16", "BF16") else LOSSES[bits.group() if bits else "2"]
    found: dict[str, float] = {}

    def write(file: Path) -> None:
        model.save_gguf(file, type=mix, tokenizer=reader)
        found.update(_far(model, load_as_saved(file)))
        worst = max(found, key=lambda name: found[name])
        if not found[worst] <= allowed:
            raise WeightsError(
                "the file does not hold what the model does", where=worst, expected=f"at most {allowed:g} of its size",
                found=f"{found[worst]:.3g}",
            )  # fmt: skip

    replace_file(target, write)
    return Exported(
        path=target, format="gguf", task="", files={"model": target.name}, cases=len(found),
        greatest=max(found.values()), tolerance=allowed, sizes={target.name: target.stat().st_size},
    )  # fmt: skip


def gguf_file(path: str | os.PathLike[str], source: str, mix: str | None) -> Path:
    """Where a file goes: a name that ends so is the file, any other the folder of one that is called by its model."""
    place = Path(path).expanduser()
    if place.suffix == ".gguf":
        return place
    name = Path(source).name.removesuffix(".gguf") or "model"
    return place / f"{name}{'' if mix is None else f'-{mix}'}.gguf"


def _tokenizer(source: str) -> Tokenizer | None:
    if not source:
        return None
    try:
        return AutoTokenizer.from_pretrained(source)
    except RepoError:
        return None


def _far(model: Model, again: Model) -> dict[str, float]:
    """By the checkpoint's names, how far each tensor is from what it was, as a part of its own size.

    Raises:
        WeightsError: one is missing, or of another shape.
    """
    before, after = weights_to_save(model), weights_to_save(again)
    found = {}
    for name, tensor in before.items():
        other = after.get(name)
        if other is None or other.shape != tensor.shape:
            raise WeightsError(
                "the file does not hold what the model does", where=name, expected=list(tensor.shape),
                found="nothing" if other is None else list(other.shape),
            )  # fmt: skip
        right = tensor.to(other.dtype).double()
        found[name] = float((other.double() - right).norm() / right.norm().clamp(min=1e-30))
    return found


# -- safetensors -------------------------------------------------------------------------------------------------------


def _safetensors(model: Model, path: str | os.PathLike[str], options: Options, source: str) -> Exported:
    target = free_folder(path, options.overwrite)
    side = side_files(source) if source and Path(source).expanduser().exists() else {}
    lay = LAYOUTS[options.layout]
    if options.layout != "hub" and options.max_shard_size != Options().max_shard_size:
        raise InputError(
            f"the layout {options.layout} is one file", where="max_shard_size", found=brief(options.max_shard_size)
        )
    checked: list[int] = []

    def write(folder: Path) -> None:
        checked.append(_same(lay(model, folder, options), read_back(folder)))
        for name, file in side.items():
            if not (folder / name).exists():
                shutil.copyfile(file, folder / name)
        if options.layout != "hub":  # a reader of its own: the model that it makes is looked at too
            _same(weights_to_save(model), weights_to_save(load_as_saved(folder, dtype=model.dtype)))

    replace_files(target, write, stale=lambda name: True)
    sizes = sizes_in(target)
    files = {name.removesuffix(".safetensors"): name for name in sizes if name.endswith(".safetensors")}
    return Exported(
        path=target, format="safetensors", task="", files=files, cases=checked[0], greatest=0.0, tolerance=0.0,
        sizes=sizes,
    )  # fmt: skip


def _hub(model: Model, folder: Path, options: Options) -> Mapping[str, Tensor]:
    """As ``save_pretrained`` writes it."""
    model.save_pretrained(folder, max_shard_size=2**62 if options.max_shard_size == "none" else options.max_shard_size)
    return {model.spelling.get(name, name): tensor for name, tensor in weights_to_save(model).items()}


def _consolidated(model: Model, folder: Path, options: Options) -> Mapping[str, Tensor]:
    """As Meta and Mistral name things: :mod:`omniform.hub.consolidated`."""
    _plain_model(model, options)
    if model.config.model_type not in ("llama", "mistral"):
        raise InputError(
            "this layout is of Llamas and Mistrals", where="layout", expected="llama or mistral",
            found=model.config.model_type, remedy=f"--layout hub takes a {model.config.model_type}.",
        )  # fmt: skip
    params = native.params_of(cast("Mapping[str, object]", vars(model.config)["values"]))
    tensors = native.to_native(weights_to_save(model), params)
    write_tensors(folder / native.WEIGHTS, tensors)
    (folder / native.PARAMS).write_text(json.dumps(params, indent=2) + "\n", encoding="utf-8")
    model.generation_config.save_pretrained(folder)
    return tensors


def _modules(model: Model, folder: Path, options: Options) -> Mapping[str, Tensor]:
    """By the names of this library's modules: what ``model.load_state_dict`` takes."""
    _plain_model(model, options)
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    write_tensors(folder / SAFETENSORS, tensors)
    (folder / "config.json").write_text(json.dumps(config_to_save(model), indent=2) + "\n", encoding="utf-8")
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    return tensors


def _plain_model(model: Model, options: Options) -> None:
    if model.transforms:
        raise InputError(
            f"a quantized or otherwise edited model has no layout {options.layout}", where="layout",
            found=", ".join(type(one).__name__ for one in model.transforms), remedy="--layout hub keeps it as it is.",
        )  # fmt: skip


LAYOUTS: Final[Mapping[str, Callable[[Model, Path, Options], Mapping[str, Tensor]]]] = {
    "hub": _hub, "consolidated": _consolidated, "modules": _modules,
}  # fmt: skip
"""By name, what writes a layout into a folder, and tells the tensors that must stand there."""


def read_back(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's files of safetensors, by that library's own reader."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def _same(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> int:
    """How many tensors were compared, all of them the same bit for bit.

    Raises:
        WeightsError: one is not.
    """
    for name in sorted(expected.keys() | found.keys()):
        left, right = expected.get(name), found.get(name)
        if left is None or right is None or left.dtype != right.dtype or not equal_bits(left, right):
            raise WeightsError(
                "the files do not hold what the model does", where=name,
                expected="nothing" if left is None else f"{left.dtype} {list(left.shape)}",
                found="nothing" if right is None else f"{right.dtype} {list(right.shape)}",
            )  # fmt: skip
    return len(expected)


def equal_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are the same bit for bit, numbers that are none included."""
    if left.shape != right.shape:
        return False
    one, other = (x.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for x in (left, right))
    return bool(torch.equal(one, other))
