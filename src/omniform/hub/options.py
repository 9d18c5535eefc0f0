"""What ``from_pretrained`` takes beside a name and config keys: used, inert, or refused by name and value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from omniform.core.config import DTYPES
from omniform.core.errors import InputError, RepoError, brief, nearest
from omniform.core.generation import GenerationConfig
from omniform.transforms.quantize.bitsandbytes_config import bits_asked

WHERE_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder", "gguf_file")
"""Where to look; ``use_auth_token`` is an old name for ``token``."""

NOWHERE = frozenset(
    {
        # What older releases had to be told of fetching.
        "resume_download", "mirror", "local_dir_use_symlinks",
        # Notes of the ecosystem's own front doors to itself.
        "_from_auto", "_from_pipeline", "_commit_hash", "tqdm_class", "user_agent",
    }
)  # fmt: skip
"""Of where to look, accepted by whatever loads a file, and without effect."""

INERT = NOWHERE | frozenset(
    {
        # What older releases had to be told, and needs no telling: memory is mapped, nothing is initialised twice.
        "low_cpu_mem_usage", "_fast_init", "offload_state_dict", "offload_buffers", "code_revision",
        # Of an adapter, where there is one.
        "adapter_name", "adapter_kwargs",
        # How experts are computed, with the same result.
        "experts_implementation",
    }
)  # fmt: skip
"""Accepted, and without effect."""

REFUSED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "weights_only": ((None, True), "code in a weights file is never run"),
    "from_tf": ((None, False), "TensorFlow's files are not read"),
    "from_flax": ((None, False), "Flax's files are not read"),
    "proxies": ((None, {}), "proxies are set in the environment (HTTPS_PROXY)"),
    "key_mapping": ((None, {}), "the checkpoint's keys are matched by the family's own table"),
    "use_kernels": ((None, False), "kernels are not fetched from the Hub"),
    "allow_all_kernels": ((None, False), "kernels are not fetched from the Hub"),
    "kernel_config": ((None,), "kernels are not fetched from the Hub"),
    "fusion_config": ((None, {}), "modules are not fused on loading"),
}
"""Accepted with these values, which change nothing; with others, refused with these words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to load a checkpoint, as the user says it; see :meth:`omniform.hub.auto.AutoModel.from_pretrained`."""

    config: object = None
    dtype: object = None
    device_map: object = None
    max_memory: object = None
    offload_folder: Path | None = None
    attn_implementation: object = None
    ignore_mismatched_sizes: bool = False
    output_loading_info: bool = False
    use_safetensors: bool | None = None
    variant: str | None = None
    generation_config: GenerationConfig | None = None
    disable_mmap: bool = False
    dequantize: bool = False
    add_pooling_layer: bool = True
    trust_remote_code: bool = False
    state_dict: Mapping[str, Tensor] | None = None
    quantization_config: object = None
    target_lang: str | None = None
    tp_plan: object = None
    tp_size: object = None
    pp_plan: object = None
    pp_size: object = None
    device_mesh: object = None
    distributed_config: object = None


LOAD_ARGUMENTS = (
    *(f.name for f in fields(LoadOptions)), "torch_dtype", "load_in_8bit", "load_in_4bit", *INERT, *REFUSED
)  # fmt: skip
"""All names that are no config keys and do not say where to look."""


SWITCHES = (
    "ignore_mismatched_sizes", "output_loading_info", "use_safetensors", "disable_mmap", "add_pooling_layer",
    "trust_remote_code", "dequantize",
)  # fmt: skip
"""Those that are True or False."""


def places(kwargs: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Where to look, and what is left.

    Raises:
        InputError: a subfolder that lies elsewhere; proxies.
    """
    given = {name: value for name, value in kwargs.items() if name not in NOWHERE}
    if "proxies" in given:
        alone = {"proxies": given.pop("proxies")}
        refuse(alone)
    if "use_auth_token" in given:
        old = given.pop("use_auth_token")
        given["token"] = old if given.get("token") is None else given["token"]
    where = {name: given.pop(name) for name in WHERE_ARGUMENTS if name in given}
    if where.get("subfolder", "") is None:
        del where["subfolder"]
    _check_subfolder(where)
    return where, given


def split(kwargs: Mapping[str, object]) -> tuple[dict[str, object], LoadOptions, dict[str, object]]:
    """Where to look, how to load, and what is left: config keys to change.

    Raises:
        InputError: a value that is refused, or that cannot be.
    """
    where, given = places(kwargs)
    if "torch_dtype" in given:
        old = given.pop("torch_dtype")
        given["dtype"] = old if given.get("dtype") is None else given["dtype"]
    refuse(given)
    bits = bits_asked(given)
    if bits is not None:
        given["quantization_config"] = bits
    how = {f.name: given.pop(f.name) for f in fields(LoadOptions) if given.get(f.name) is not None}
    rest = {k: v for k, v in given.items() if k not in INERT and k not in LoadOptions.__slots__}
    if how.get("trust_remote_code") == "sandbox":  # where there is no code, nothing has to be locked up
        how["trust_remote_code"] = True
    for name in SWITCHES:
        if type(how.get(name, False)) is not bool:
            raise InputError("neither true nor false", where=name, expected="True or False", found=repr(how[name]))
    check_variant(how.get("variant"))
    given_weights = how.get("state_dict", {})
    if not isinstance(given_weights, Mapping) or not all(isinstance(t, Tensor) for t in given_weights.values()):
        found = type(given_weights).__name__
        raise InputError("not a mapping of names to tensors", where="state_dict", found=found)
    if "offload_folder" in how:
        how["offload_folder"] = _folder(how["offload_folder"])
    if not isinstance(how.get("generation_config", GenerationConfig()), GenerationConfig):
        found = type(how["generation_config"]).__name__
        raise InputError(
            "not generation settings", where="generation_config", expected="a GenerationConfig", found=found
        )
    return where, LoadOptions(**how), rest  # type: ignore[arg-type]


def refuse(given: dict[str, object]) -> None:
    """Take out the arguments that have no effect; raise :class:`InputError` for those that were to have one."""
    for name, (harmless, why) in REFUSED.items():
        if name in given:
            value = given.pop(name)
            if not any(value is fine or (type(value) is type(fine) and value == fine) for fine in harmless):
                remedy = "Load the checkpoint that it was made from." if "quantiz" in why else None
                raise InputError(why, where=name, expected=repr(harmless[-1]), found=brief(value), remedy=remedy)


def named_dtype(name: object) -> torch.dtype | None:
    """The dtype of a name; None for None and ``"auto"``, which leave it to the checkpoint.

    Raises:
        InputError: there is none of this name.
    """
    if name is None or (isinstance(name, torch.dtype) and name in DTYPES.values()):
        return name
    if isinstance(name, str) and name == "auto":
        return None
    text = str(name).removeprefix("torch.")
    if text not in DTYPES:
        raise InputError("no such dtype", where="dtype", found=brief(name), remedy=nearest(text, DTYPES))
    return DTYPES[text]


def _check_subfolder(where: Mapping[str, object]) -> None:
    subfolder = where.get("subfolder", "")
    inside = isinstance(subfolder, str) and not os.path.isabs(subfolder) and ".." not in Path(subfolder).parts
    if not inside:
        raise InputError(
            "no folder inside the checkpoint", where="subfolder", expected="a relative path", found=repr(subfolder)
        )


def check_variant(variant: object) -> None:
    """Raise :class:`InputError` unless this is None or a word that can stand in a file's name."""
    if variant is not None and not (isinstance(variant, str) and re.fullmatch(r"[\w-][\w.-]*", variant)):
        raise InputError("no variant of files", where="variant", expected="a word as 'fp16'", found=repr(variant))


def _folder(folder: object) -> Path:
    if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
        raise InputError("no folder", where="offload_folder", expected="a path", found=repr(folder))
    path = Path(os.path.expanduser(folder))
    if path.exists() and not path.is_dir():
        raise RepoError("this is a file, not a folder", where=str(path))
    return path
