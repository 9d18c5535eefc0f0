"""Adapters of PEFT in a folder or on the Hub: put into a loaded model, or loaded with the base model that they name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Final, cast

from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.core.errors import ConfigError, DependencyError, InputError, WeightsError, check_arguments, listed
from omniform.hub.adapters import PREFIX, WEIGHTS
from omniform.hub.files import Name, Source, locate, read_json
from omniform.hub.options import WHERE_ARGUMENTS, places
from omniform.hub.weights import WeightFiles
from omniform.weights.safetensors import read_header

CONFIG: Final = "adapter_config.json"
PICKLE: Final = "adapter_model.bin"


def base_of(source: Source) -> tuple[str, str | None] | None:
    """The base model that an adapter names, and its revision; None where the source is no adapter.

    Raises:
        ConfigError: an adapter that names none.
    """
    path = source.find(CONFIG)
    if path is None:
        return None
    raw = read_json(path)
    base, revision = raw.get("base_model_name_or_path"), raw.get("revision")
    if not isinstance(base, str) or not base:
        raise ConfigError(
            "the adapter names no base model",
            where=f"{source.name}: {CONFIG}",
            expected="base_model_name_or_path",
            found=repr(base),
            remedy="Load the model that it was trained on, then model.load_adapter(...).",
        )
    return base, revision if isinstance(revision, str) else None


def load_adapter(
    model: nn.Module,
    peft_model_id: Name | None = None,
    adapter_name: str | None = None,
    *,
    adapter_state_dict: Mapping[str, Tensor] | None = None,
    peft_config: object = None,
    is_trainable: bool = False,
    **where: object,
) -> None:
    """Put an adapter into a model, in place; see :meth:`omniform.architectures.surface.Surface.load_adapter`."""
    peft, name = _peft(), adapter_name or "default"
    places_given, rest = places(where)
    check_arguments("load_adapter", rest, (*WHERE_ARGUMENTS, "low_cpu_mem_usage"))
    if name in vars(model).get("peft_config", {}):
        raise InputError("there is an adapter of this name already", where="adapter_name", found=repr(name))
    if peft_model_id is None and (peft_config is None or adapter_state_dict is None):
        raise InputError(
            "there is no adapter to load",
            where="peft_model_id",
            expected="a folder or a Hub id, or peft_config and adapter_state_dict",
        )
    source = None if peft_model_id is None else locate(peft_model_id, **places_given)  # type: ignore[arg-type]
    config = peft_config
    if config is None:
        assert source is not None
        path = source.need(CONFIG)
        read_json(path)  # refused in our words
        config = vars(peft)["PeftConfig"].from_pretrained(str(path.parent))
    state = dict(adapter_state_dict) if adapter_state_dict is not None else _weights(cast(Source, source))
    config.inference_mode = not is_trainable  # type: ignore[attr-defined]
    where_told = "adapter_state_dict" if source is None else source.name
    try:
        vars(peft)["inject_adapter_in_model"](config, model, name)
        told = vars(peft)["set_peft_model_state_dict"](
            model, {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}, name
        )
    except (ValueError, RuntimeError) as error:
        raise WeightsError(
            "the adapter does not fit this model", where=where_told, found=str(error).split("\n")[0][:300]
        ) from error
    missing = [key for key in told.missing_keys if f".{name}." in key or key.endswith(f".{name}")]
    if missing or told.unexpected_keys:
        found = [f"without {key}" for key in missing] + [f"unexpected {key}" for key in told.unexpected_keys]
        raise WeightsError("the adapter does not fit this model", where=where_told, found=listed(found))
    if not is_trainable:
        model.eval()
        for key, parameter in model.named_parameters():
            if f".{name}." in key:
                parameter.requires_grad_(False)


def load_into(model: Model, source: Source) -> None:
    """Put the adapter that lies in a source into its base model."""
    load_adapter(model, source.name, subfolder=source.subfolder, **source.places())  # type: ignore[arg-type]


def _weights(source: Source) -> dict[str, Tensor]:
    found = source.find(WEIGHTS)
    if found is not None:
        return WeightFiles({found: read_header(found)}).tensors()
    found = source.find(PICKLE)
    if found is not None:
        return WeightFiles({}, (found,)).tensors()
    raise source.lacks("there are no weights of an adapter", expected=f"{WEIGHTS} or {PICKLE}")


def _peft() -> ModuleType:
    try:
        return import_module("peft")
    except ImportError as error:
        raise DependencyError(
            "adapters need the package peft", where="load_adapter", remedy="pip install peft"
        ) from error
