"""PEFT speaks both languages to our models: what it is told, and what it reads and writes, is in the ecosystem's names.

PEFT looks for layers by the paths of the modules that it is given, writes adapters by them, and takes the ecosystem's
models to have the same ones. Ours have others where a family's own are old, and several where it has one. There are
four places at which PEFT itself makes up for such differences between releases of the ecosystem's models, or hands
over: the config of an adapter before its targets are looked for (``_prepare_adapter_config``), its tensors before they
are taken (``convert_peft_adapter_state_dict_for_transformers``), the names under which a file is read
(``load_adapter``'s ``key_mapping``), and the folder that was written (``save_pretrained``). :func:`meet` stands at
these four, for our models only, from the moment that PEFT first asks one of them anything.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor, nn

from omniform.architectures.surface import Surface
from omniform.blocks.moe import Routes
from omniform.hub.adapter_folders import PREFIXES, respell
from omniform.weights.adapters import adapters_by_our_names, layer_shapes, others_of, unnested
from omniform.weights.tensors import modules_of, named_tensors

ALL = "all-linear"
_SELDOM = ("layers_to_transform", "layers_pattern", "exclude_modules")


class Config(Protocol):
    """PEFT's description of an adapter, as far as it says which layers are meant."""

    peft_type: str
    task_type: str | None
    target_modules: str | Iterable[str] | None


class Asked(Protocol):
    """PEFT's description of an adapter, asked of its kind."""

    @property
    def is_prompt_learning(self) -> bool: ...


class Tuner(Protocol):
    """PEFT's object around a model with adapters."""

    model: nn.Module

    def _check_target_module_exists(self, config: Config, key: str) -> object: ...


class Wrapped(Protocol):
    """PEFT's object around a model, which hands over."""

    @property
    def peft_config(self) -> Mapping[str, Config]: ...


Prepare = Callable[[Tuner, Config, Mapping[str, object]], Config]


def meet() -> None:
    """Stand where PEFT hands over; done once."""
    tuners = vars(import_module("peft.mapping"))["PEFT_TYPE_TO_TUNER_MAPPING"]
    classes = {base for kind in tuners.values() for base in kind.__mro__ if "_prepare_adapter_config" in vars(base)}
    for kind in classes:
        plain = vars(kind)["_prepare_adapter_config"]
        alone = isinstance(plain, staticmethod)
        kind._prepare_adapter_config = _preparing(plain.__func__ if alone else plain, alone)
    names = import_module("peft.utils.transformers_weight_conversion")
    _replace(names, "convert_peft_adapter_state_dict_for_transformers", _taking)
    _replace(names, "convert_peft_config_for_transformers", _converting)
    wrapper = vars(import_module("peft.peft_model"))["PeftModel"]
    _replace(wrapper, "load_adapter", _loading)
    _replace(wrapper, "save_pretrained", _saving)


def _replace(home: object, name: str, around: Callable[[Callable[..., object]], Callable[..., object]]) -> None:
    plain = cast("Callable[..., object]", vars(home)[name])
    setattr(home, name, functools.wraps(plain)(around(plain)))


# -- which layers are meant --------------------------------------------------------------------------------------------


def _preparing(plain: Callable[..., Config], alone: bool) -> Prepare:
    @functools.wraps(plain)
    def prepare(self: Tuner, peft_config: Config, model_config: Mapping[str, object]) -> Config:
        config = plain(peft_config, model_config) if alone else plain(self, peft_config, model_config)
        return in_our_names(self, config) if isinstance(self.model, Surface) else config

    return prepare


def _converting(plain: Callable[..., object]) -> Callable[..., object]:
    """PEFT's own conversion, for models of experts; of all linear layers, what projects onto the vocabulary is none."""

    def convert_peft_config_for_transformers(peft_config: Config, model: nn.Module, conversions: object) -> object:
        wanted = peft_config.target_modules
        done = plain(peft_config, model, conversions)
        found = peft_config.target_modules
        if isinstance(model, Surface) and wanted == ALL and found != wanted and not isinstance(found, str):
            head = model.get_output_embeddings()
            ends = {path.rpartition(".")[2] for path, module in modules_of(model) if module is head}
            peft_config.target_modules = set(found or ()) - ends
        return done

    return convert_peft_config_for_transformers


def in_our_names(tuner: Tuner, config: Config) -> Config:
    """A config that names the layers by our paths, each by its own: those that the given one means by either name.

    Args:
        config: it stays as it is, but that ``"all-linear"`` becomes the ecosystem's names of those layers, as PEFT
            does.
    """
    model = cast(Surface, tuner.model)
    keys = model.key_map()
    modules = {path: module for path, module in modules_of(model) if path}
    names = {path: [path, *(others_of(path, keys) if module._parameters else ())] for path, module in modules.items()}
    made, given = copy.copy(config), vars(config)
    wanted, check = given.get("target_modules"), tuner._check_target_module_exists
    if isinstance(wanted, str) and wanted.lower() == ALL:
        made.target_modules = ".*"  # of what is linear, what is left out by name
        found = [p for p in linear_layers(model, config.task_type) if _is_meant(lambda n: check(made, n), names[p])]
        config.target_modules = {name for path in found for name in _files_names(path, names[path])}
    elif wanted:
        found = [path for path, known in names.items() if _is_meant(lambda name: check(config, name), known)]
    else:
        found = []
    if found:
        made.target_modules = exactly(found)
        vars(made).update({name: None for name in _SELDOM if name in given})
    forward = given.get("feedforward_modules")
    if forward and found:
        inside = [path for path in found if any(_is_forward(forward, name) for name in names[path])]
        vars(made)["feedforward_modules"] = exactly(inside) if inside else set()
    if given.get("target_parameters"):
        names |= _parameters(modules, model)
        wanted = [path for path in names if any(_ends(name, given["target_parameters"]) for name in names[path])]
        vars(made)["target_parameters"] = [path for path in wanted if path not in modules] or given["target_parameters"]
    for table in ("rank_pattern", "alpha_pattern"):
        if given.get(table):
            vars(made)[table] = {**_patterns(given[table], names), **given[table]}
    if given.get("fan_in_fan_out"):
        vars(made)["fan_in_fan_out"] = False  # that is how the checkpoint's matrices lie, and not ours
    return made


def _is_meant(check: Callable[[str], object], names: Sequence[str]) -> bool:
    found = [check(name) for name in names]
    excluded = any(type(answer).__name__ == "_ExcludedModule" for answer in found)
    return not excluded and any(bool(answer) for answer in found)


def linear_layers(model: Surface, task: str | None) -> list[str]:
    """All linear layers but those that PEFT leaves out: what projects onto the vocabulary, a classifier's head, and
    routers, which are no linear layers in the ecosystem."""
    head = model.get_output_embeddings()
    out = [] if head is None else [id(head)]
    if head is None and task == "SEQ_CLS":
        out = [id(model._modules[name]) for name in ("score", "classifier") if model._modules.get(name) is not None]
    out += [id(m._modules[name]) for m in model.modules() if isinstance(m, Routes) for name in m.ROUTERS]
    inside: set[int] = set()
    for module in model.modules():
        if "base_layer" in module._modules:
            inside |= {id(part) for part in module.modules() if part is not module}
    found = [path for path, m in modules_of(model) if isinstance(m, nn.Linear) and id(m) not in (*out, *inside)]
    wrapped = [
        path
        for path, m in modules_of(model)
        if isinstance(m._modules.get("base_layer"), nn.Linear) and id(m) not in inside
    ]
    return [*found, *wrapped]


def _files_names(path: str, names: Sequence[str]) -> list[str]:
    return [*names[-1:]] if len(names) > 1 else [path]


def exactly(paths: Iterable[str]) -> str:
    """A regular expression that matches these paths and nothing else; layers that are alike share a line."""
    alike: dict[str, list[str]] = {}
    for path in paths:
        head, number, tail = _numbered(path)
        alike.setdefault(f"{re.escape(head)}{{}}{re.escape(tail)}" if number else re.escape(path), []).append(number)
    return "|".join(
        form.replace("{}", f"(?:{'|'.join(numbers)})", 1) if numbers[0] else form for form, numbers in alike.items()
    )


def _numbered(path: str) -> tuple[str, str, str]:
    found = re.match(r"(.*?\.)(\d+)(\..*)$", path)
    return (found[1], found[2], found[3]) if found else (path, "", "")


def _is_forward(wanted: str | Iterable[str], name: str) -> bool:
    return bool(re.fullmatch(wanted, name)) if isinstance(wanted, str) else name.endswith(tuple(wanted))


def _ends(name: str, wanted: Iterable[str]) -> bool:
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def _parameters(modules: Mapping[str, nn.Module], model: Surface) -> dict[str, list[str]]:
    """Parameters by our paths, each with what the ecosystem calls it; adapters' own aside."""
    keys = model.key_map()
    paths = [f"{path}.{name}" for path, module in modules.items() for name in module._parameters]
    return {path: [path, *others_of(path, keys)] for path in paths if ".lora_" not in path}


def _patterns(given: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """What is said of layers by patterns, by our paths; the first pattern that matches counts, as in PEFT."""
    found: dict[str, int] = {}
    for path, known in names.items():
        hits = (value for one, value in given.items() if any(re.match(rf"(.*\.)?({one})$", name) for name in known))
        value = next(hits, None)
        if value is not None:
            found[f"^{re.escape(path)}"] = value
    return found


# -- files -------------------------------------------------------------------------------------------------------------


def _taking(plain: Callable[..., object]) -> Callable[..., object]:
    def convert_peft_adapter_state_dict_for_transformers(
        model: nn.Module,
        peft_config: Config,
        adapter_state_dict: Mapping[str, Tensor],
        adapter_name: str = "default",
    ) -> object:
        base = _ours(model)
        if base is None:
            return plain(model, peft_config, adapter_state_dict, adapter_name)
        return taken(base, peft_config, adapter_state_dict, adapter_name, plain)

    return convert_peft_adapter_state_dict_for_transformers


def taken(
    base: Surface, config: Config, given: Mapping[str, Tensor], name: str, plain: Callable[..., object]
) -> dict[str, Tensor]:
    """An adapter's tensors by our paths, without its name.

    Args:
        given: by the ecosystem's paths, or ours.
        plain: what PEFT does with those of older releases' models: it makes one adapter of each expert's.
    """
    if any(re.search(r"\.experts\.\d+\.", key) for key in given):
        given = cast("Mapping[str, Tensor]", plain(base, config, dict(given), name))
    prefix = next((p for p in ("base_model.model.", "") if any(key.startswith(p) for key in given)), "")
    state = {key.removeprefix(prefix): tensor for key, tensor in given.items()}
    targets = vars(config).get("target_parameters") or ()
    if targets:
        state = unnested(state, list(targets))
    marks = (f".{name}.", f".{name}")
    own = {key: tensor for key, tensor in named_tensors(base) if marks[0] in key or key.endswith(marks[1])}
    made, read = adapters_by_our_names(state, own, layer_shapes(base), base.key_map())
    rest = {key: tensor for key, tensor in state.items() if key not in read}
    nameless = {_without(key, name): tensor for key, tensor in made.items()}
    return {prefix + key: tensor for key, tensor in {**rest, **nameless}.items()}


def _without(key: str, name: str) -> str:
    head, found, end = key.rpartition(f".{name}.")
    return f"{head}.{end}" if found else key.removesuffix(f".{name}")


def _loading(plain: Callable[..., object]) -> Callable[..., object]:
    def load_adapter(self: nn.Module, model_id: str, adapter_name: str, *args: object, **kwargs: object) -> object:
        base = _ours(self)
        if base is not None and kwargs.get("key_mapping") is None and len(args) < 6:
            kwargs["key_mapping"] = base._checkpoint_conversion_mapping
        return plain(self, model_id, adapter_name, *args, **kwargs)

    return load_adapter


def _saving(plain: Callable[..., object]) -> Callable[..., object]:
    def save_pretrained(self: nn.Module, save_directory: str, *args: object, **kwargs: object) -> object:
        done = plain(self, save_directory, *args, **kwargs)
        base = _ours(self)
        is_main = kwargs.get("is_main_process", args[3] if len(args) > 3 else True)
        if base is not None and is_main:
            configs = cast("Wrapped", self).peft_config
            chosen = kwargs.get("selected_adapters", args[1] if len(args) > 1 else None)
            for name in cast("Iterable[str]", configs if chosen is None else chosen):
                folder = Path(save_directory) / name if name != "default" else Path(save_directory)
                learned = cast("Asked", configs[name]).is_prompt_learning
                respell(base, name, folder, PREFIXES[learned], config=not learned)
        return done

    return save_pretrained


def _ours(model: nn.Module) -> Surface | None:
    """The model of ours that PEFT has wrapped, or that it is."""
    while not isinstance(model, Surface):
        inner = model._modules.get("base_model") or model._modules.get("model")
        if inner is None:
            return None
        model = inner
    return model
