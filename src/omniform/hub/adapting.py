"""Adapters in a folder or on the Hub: put into a loaded model, or loaded with the base model that they name.

Where PEFT is installed its layers are used, of every kind of adapter that it knows; without it omniform's own
(:mod:`omniform.transforms.lora`), of low-rank ones. A model holds either's, never both, and what is already in it
decides; everything that is asked of a model afterwards is asked of its layers, which answer to the same names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Final, Protocol, cast, runtime_checkable

from torch import Tensor

from omniform.architectures.adapter_methods import AdapterReport
from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.architectures.surface import Surface
from omniform.core.errors import InputError, OmniformError, WeightsError, check_arguments, listed, nearest
from omniform.hub.adapter_folders import CONFIG, PICKLE, PREFIXES, WEIGHTS
from omniform.hub.adapters import ours_of, peft_or_none
from omniform.hub.files import Name, Source, locate, read_json
from omniform.hub.languages import load_language, speaks_languages
from omniform.hub.options import WHERE_ARGUMENTS, places
from omniform.hub.weights import WeightFiles
from omniform.transforms import lora
from omniform.transforms.lora_config import LoraConfig
from omniform.transforms.lora_layers import AdapterLayer, SavedModule
from omniform.transforms.shard import ranks_of
from omniform.weights.safetensors import read_header

_MORE: Final = ("low_cpu_mem_usage", "use_safetensors", "load_config")
"""What the ecosystem's ``load_adapter`` takes besides, and what changes no result here."""


CHOSEN: Final = "_adapter_chosen"
"""Where a model keeps that its user has chosen the adapters that it computes with."""


@runtime_checkable
class Merges(Protocol):
    """A layer whose adapters can be put into its own weights."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None: ...

    def unmerge(self) -> None: ...


class PeftConfig(Protocol):
    """PEFT's description of one adapter."""

    inference_mode: bool
    base_model_name_or_path: str | None


def load_adapter(
    model: Surface,
    peft_model_id: Name | None = None,
    adapter_name: str | None = None,
    peft_config: object = None,
    adapter_state_dict: Mapping[str, Tensor] | None = None,
    *,
    is_trainable: bool = False,
    hotswap: bool | str = "auto",
    adapter_kwargs: Mapping[str, object] | None = None,
    **where: object,
) -> AdapterReport:
    """Put an adapter into a model, in place; see :meth:`omniform.architectures.surface.Surface.load_adapter`."""
    languages = {key: where.pop(key) for key in ("target_lang", "force_load") if key in where}
    if languages or _names_language(model, peft_model_id, peft_config, adapter_state_dict):
        return _load_language(model, peft_model_id, {**where, **(adapter_kwargs or {})}, **languages)
    _refuse_divided(model)
    name = adapter_name or "default"
    places_given, rest = places({**where, **(adapter_kwargs or {})})
    check_arguments("load_adapter", rest, (*WHERE_ARGUMENTS, *_MORE))
    known = configs_of(model)
    swaps = bool(vars(model).get("_hotswap_enabled")) and name in known if hotswap == "auto" else bool(hotswap)
    if swaps and name not in known:
        raise InputError("there is no adapter of this name to be replaced", where="hotswap", found=repr(name))
    if not swaps and name in known:
        raise InputError("there is an adapter of this name already", where="adapter_name", found=repr(name))
    if peft_model_id is None and (peft_config is None or adapter_state_dict is None):
        raise InputError(
            "there is no adapter to load",
            where="peft_model_id",
            expected="a folder or a Hub id, or peft_config and adapter_state_dict",
        )
    source = None if peft_model_id is None else locate(peft_model_id, **places_given)  # type: ignore[arg-type]
    if source is not None and peft_config is None:
        source.need(CONFIG)
    state = dict(adapter_state_dict) if adapter_state_dict is not None else _weights(cast(Source, source))
    state = {_unprefixed(key): tensor for key, tensor in state.items()}
    told = "adapter_state_dict" if source is None else source.name
    if swaps:
        delete_adapter(model, name)
    peft = None if _told_by_rows(model, name) else _backend(model)
    if peft is None:
        config = _own_config(source, peft_config)
        report = _load_own(model, config, state, name, is_trainable, told)
    else:
        report = _load_peft(peft, model, _peft_config(peft, source, peft_config), state, name, is_trainable, told)
    model.__dict__["_hf_peft_config_loaded"] = True
    if not is_trainable:
        model.eval()
    return report


def _names_language(model: Surface, name: Name | None, *given: object) -> bool:
    """Whether a name is that of a language, for a model that has adapters of them, and not where a LoRA is."""
    if not isinstance(name, str) or any(one is not None for one in given) or not speaks_languages(model):
        return False
    return "/" not in name and not os.path.isdir(name)


def _load_language(
    model: Surface,
    name: Name | None,
    where: Mapping[str, object],
    target_lang: object = None,
    force_load: object = True,
) -> AdapterReport:
    places_given, rest = places(where)
    check_arguments("load_adapter", rest, (*WHERE_ARGUMENTS, *_MORE))
    safe = rest.get("use_safetensors")
    return load_language(
        model,
        name if target_lang is None else target_lang,
        places_given,
        force_load=bool(force_load),
        use_safetensors=safe if isinstance(safe, bool) else None,
    )


def load_beside(model: Surface, peft_model_id: Name, adapter_name: str, **where: object) -> None:
    """Put a low-rank adapter into a model, in omniform's own layers, and leave what the model computes with as it is.

    Raises:
        ConfigError, RepoError, InputError, WeightsError: as :func:`load_adapter`.
    """
    places_given, rest = places(where)
    check_arguments("load_adapter", rest, WHERE_ARGUMENTS)
    if adapter_name in configs_of(model) or adapter_name == "__base__":
        raise InputError("there is an adapter of this name already", where="adapter_name", found=repr(adapter_name))
    source = locate(peft_model_id, **places_given)  # type: ignore[arg-type]
    config = _own_config(source, None)
    state = {_unprefixed(key): tensor for key, tensor in _weights(source).items()}
    before = list(dict.fromkeys(name for layer in lora.layers_of(model) for name in layer.active_adapters))
    _load_own(model, config, state, adapter_name, False, source.name)
    model.__dict__["_hf_peft_config_loaded"] = True
    for layer in lora.layers_of(model):
        layer.set_adapter(before, inference_mode=True)


def _unprefixed(key: str) -> str:
    return next((key.removeprefix(prefix) for prefix in PREFIXES[:1] if key.startswith(prefix)), key)


def _backend(model: Surface) -> ModuleType | None:
    """PEFT, where its layers are to be used; None for our own."""
    return None if ours_of(model) else peft_or_none()


def _told_by_rows(model: Surface, name: str) -> bool:
    """Whether an adapter is one of those that prompts choose by what they hold, which PEFT's layers cannot do."""
    own = isinstance(model, Generative) and name.startswith(tuple(model.ADAPTERS.values()) or ("\0",))
    return own and (bool(ours_of(model)) or not configs_of(model))


def _own_config(source: Source | None, given: object) -> LoraConfig:
    if given is None:
        path = cast(Source, source).need(CONFIG)
        return LoraConfig.read(read_json(path), str(path))
    if isinstance(given, LoraConfig):
        return given
    read = LoraConfig.read(given if isinstance(given, Mapping) else vars(given), "peft_config")
    return replace(read, raw={})  # no file, to be written again as it is


def _load_own(
    model: Surface, config: LoraConfig, state: Mapping[str, Tensor], name: str, trainable: bool, told: str
) -> AdapterReport:
    edit = lora.Lora(config, name, state, is_trainable=trainable)
    try:
        model.key_map_with(edit)
        edit.finish(model)
    except InputError as error:
        raise WeightsError("the adapter does not fit this model", where=told, found=str(error)[:300]) from error
    _noted(model, name, config)
    return AdapterReport()


def _peft_config(peft: ModuleType, source: Source | None, given: object) -> PeftConfig:
    if given is None:
        path = cast(Source, source).need(CONFIG)
        read_json(path)  # refused in our words
        return cast(PeftConfig, vars(peft)["PeftConfig"].from_pretrained(str(path.parent)))
    if isinstance(given, Mapping):
        return cast(PeftConfig, vars(peft)["PeftConfig"].from_peft_type(**given))
    return cast(PeftConfig, given)


def _load_peft(
    peft: ModuleType,
    model: Surface,
    config: PeftConfig,
    state: Mapping[str, Tensor],
    name: str,
    trainable: bool,
    told_of: str,
) -> AdapterReport:
    config.inference_mode = not trainable
    try:
        vars(peft)["inject_adapter_in_model"](config, model, name)
        told = vars(peft)["set_peft_model_state_dict"](model, dict(state), name)
    except (ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, OmniformError) and not isinstance(error, InputError):
            raise
        raise WeightsError(
            "the adapter does not fit this model", where=told_of, found=str(error).split("\n")[0][:300]
        ) from error
    missing = [key for key in told.missing_keys if f".{name}." in key or key.endswith(f".{name}")]
    if missing or told.unexpected_keys:
        found = [f"without {key}" for key in missing] + [f"unexpected {key}" for key in told.unexpected_keys]
        raise WeightsError("the adapter does not fit this model", where=told_of, found=listed(found))
    if not trainable:
        for key, parameter in model.named_parameters():
            if f".{name}." in key:
                parameter.requires_grad_(False)
    return AdapterReport()


def add_adapter(model: Surface, adapter_config: object, adapter_name: str | None = None) -> None:
    """Put a new adapter into a model; see :meth:`omniform.architectures.surface.Surface.add_adapter`."""
    _refuse_divided(model)
    name, peft = adapter_name or "default", _backend(model)
    if name in configs_of(model):
        raise InputError("there is an adapter of this name already", where="adapter_name", found=repr(name))
    if peft is None or isinstance(adapter_config, LoraConfig):
        config = _own_config(None, adapter_config)
        edit = lora.Lora(config, name, is_trainable=True)
        lora.refuse_others(model)
        model.requires_grad_(requires_grad=False)
        model.key_map_with(edit)
        edit.finish(model)
        _noted(model, name, config)
    else:
        if not isinstance(adapter_config, vars(peft)["PeftConfig"]):
            raise InputError(
                "this describes no adapter",
                where="adapter_config",
                expected="one of PEFT's configs",
                found=type(adapter_config).__name__,
            )
        cast(PeftConfig, adapter_config).base_model_name_or_path = model.name_or_path or None
        vars(peft)["inject_adapter_in_model"](adapter_config, model, name)
    model.__dict__["_hf_peft_config_loaded"] = True
    set_adapter(model, name)


def _refuse_divided(model: Surface) -> None:
    """Raise InputError where several processes hold the model, none of which has all that an adapter changes."""
    if ranks_of(cast(Model, model)) is not None:
        raise InputError(
            "there are no adapters of a model in several processes",
            where="load_adapter",
            remedy="Merge the adapter into a model of one process, save that, and load it with tp_plan or pp_plan.",
        )


def configs_of(model: Surface) -> dict[str, object]:
    """What a model's adapters are, by name."""
    found: dict[str, object] = vars(model).get("peft_config", {})
    return found


def _noted(model: Surface, name: str, config: LoraConfig) -> None:
    model.__dict__.setdefault("peft_config", {})[name] = config


def _loaded(model: Surface, names: Sequence[str] = ()) -> list[lora.Switched]:
    """The layers with adapters, and a refusal where there are none, or none of these names."""
    configs = vars(model).get("peft_config", {})
    layers = list(lora.layers_of(model))
    if not vars(model).get("_hf_peft_config_loaded") or not layers:
        raise InputError("this model has no adapters", where=type(model).__name__, remedy="model.load_adapter(folder)")
    strange = [name for name in names if name not in configs]
    if strange:
        raise InputError(
            "there is no such adapter",
            where="adapter_name",
            found=repr(strange[0]),
            remedy=nearest(strange[0], configs),
        )
    return layers


def set_adapter(model: Surface, adapter_name: str | Sequence[str]) -> None:
    """Compute with one adapter, or with several."""
    names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
    model.__dict__[CHOSEN] = True
    for layer in _loaded(model, names):
        layer.set_adapter(adapter_name if isinstance(adapter_name, str) else names)


def enable_adapters(model: Surface, *, enabled: bool) -> None:
    """Compute with the active adapters, or with none."""
    for layer in _loaded(model):
        layer.enable_adapters(enabled)


def active_adapters(model: Surface) -> list[str]:
    """The adapters that a model computes with."""
    layers = _loaded(model)
    return next((layer.active_adapters for layer in layers if layer.active_adapters), [])


def get_adapter_state_dict(
    model: Surface, adapter_name: str | None = None, state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """An adapter's tensors by our paths, without its name."""
    from omniform.hub.adapters import adapter_tensors

    name = adapter_name or active_adapters(model)[0]
    _loaded(model, [name])
    return adapter_tensors(model, name, state_dict, "")


def delete_adapter(model: Surface, adapter_names: str | Sequence[str]) -> None:
    """Take adapters out of a model; the plain layers are put back with the last."""
    names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
    _loaded(model, names)
    configs = configs_of(model)
    for name in names:
        if ours_of(model):
            for layer in list(lora.layers_of(model)):
                if isinstance(layer, (AdapterLayer, SavedModule)):
                    layer.delete_adapter(name)
        else:
            kind = str(vars(configs[name])["peft_type"].value).lower()
            vars(import_module("peft.functional"))["delete_adapter"](model, adapter_name=name, prefix=f"{kind}_")
        configs.pop(name, None)
    if not configs:
        if ours_of(model):
            lora.unloaded(model)
        del model.__dict__["peft_config"]
        model.__dict__["_hf_peft_config_loaded"] = False


def merge_adapters(
    model: Surface, adapter_names: Sequence[str] | None = None, *, safe_merge: bool = False, unload: bool = False
) -> None:
    """Put adapters into the weights: the active ones, or named ones."""
    layers = _loaded(model, adapter_names or ())
    lora.refuse_tied(model)
    for layer in layers:
        if isinstance(layer, Merges):
            layer.merge(safe_merge, None if adapter_names is None else list(adapter_names))
    if unload:
        _unload(model)


def unmerge_adapters(model: Surface) -> None:
    """Take merged adapters out of the weights again."""
    for layer in _loaded(model):
        if isinstance(layer, Merges):
            layer.unmerge()


def _unload(model: Surface) -> None:
    if ours_of(model):
        lora.unloaded(model)
    else:
        raise InputError("PEFT's layers are taken out by PEFT", where="unload", remedy="peft_model.merge_and_unload()")
    del model.__dict__["peft_config"]
    model.__dict__["_hf_peft_config_loaded"] = False


def add_weighted_adapter(model: Surface, adapters: Sequence[str], weights: Sequence[float], adapter_name: str) -> None:
    """One adapter that adds what several add, each so many times."""
    _loaded(model, adapters)
    if not ours_of(model):
        remedy = "peft_model.add_weighted_adapter(...)"
        raise InputError("PEFT's layers are summed by PEFT", where="add_weighted_adapter", remedy=remedy)
    lora.weighted(model, adapters, weights, adapter_name)
    first = cast(LoraConfig, configs_of(model)[adapters[0]])
    _noted(model, adapter_name, LoraConfig(target_modules=first.target_modules))


def load_into(model: Model, source: Source, name: str = "default") -> None:
    """Put the adapter that lies in a source into its base model."""
    where = {"subfolder": source.subfolder, **source.places()}
    load_adapter(cast(Surface, model), source.name, name, **where)  # type: ignore[arg-type]


def _weights(source: Source) -> dict[str, Tensor]:
    found = source.find(WEIGHTS)
    if found is not None:
        return dict(WeightFiles({found: read_header(found)}).tensors())
    found = source.find(PICKLE)
    if found is not None:
        return dict(WeightFiles({}, (found,)).tensors())
    raise source.lacks("there are no weights of an adapter", expected=f"{WEIGHTS} or {PICKLE}")
