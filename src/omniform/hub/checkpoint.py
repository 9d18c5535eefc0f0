"""From a name to a model: read the config, choose the class, build it without memory, fill it with the weights."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from omniform.architectures.attention_choice import choose_attention
from omniform.architectures.model import KeepsFile, Model
from omniform.architectures.named import PreTrainedModel
from omniform.core.collector import paused
from omniform.core.config import ModelConfig
from omniform.core.errors import (
    ConfigError,
    InputError,
    RepoError,
    UnknownNameError,
    check_arguments,
    listed,
    nearest,
)
from omniform.core.own_config import PreTrainedConfig, is_own
from omniform.core.upstairs import upstairs
from omniform.hub import own
from omniform.hub.adapter_folders import CONFIG as ADAPTER_CONFIG
from omniform.hub.adapter_folders import base_of
from omniform.hub.code.mode import mode_of, untrusted
from omniform.hub.files import Source, locate, read_json
from omniform.hub.fill import Loading
from omniform.hub.load import build_on_meta, from_scratch, load_weights, transformed
from omniform.hub.old_quantized import old_settings
from omniform.hub.options import (
    LOAD_ARGUMENTS,
    WHERE_ARGUMENTS,
    LoadOptions,
    named_dtype,
    places,
    refuse,
    split,
)
from omniform.hub.quantizing import mark_quantized, quantizer_of, with_quantizer
from omniform.hub.remote import together
from omniform.hub.settings import settings_of
from omniform.hub.weights import WeightFiles, find_weights
from omniform.models import registry
from omniform.transforms.quantize.gguf import gguf_settings
from omniform.transforms.quantize.quantizer import HfQuantizer
from omniform.weights.transform import Transform

if TYPE_CHECKING:
    from omniform.transforms.shard import Divided


log = logging.getLogger("omniform")

Name = str | os.PathLike[str]

Choose = Callable[[ModelConfig], tuple[ModelConfig, type[PreTrainedModel]]]
"""Picks what to load: the config, or the part of it, that is wanted, and the class to load it as."""


def load_config(kind: type[ModelConfig], name: Name, **kwargs: object) -> ModelConfig:
    """A checkpoint's config as one class, which may be that of a part of it."""
    where, rest = places(kwargs)
    refuse(rest)
    mode_of(rest.pop("trust_remote_code", None))
    source = locate(name, **where)  # type: ignore[arg-type]
    config = read_config(source, kind)
    anything = kind in (ModelConfig, PreTrainedConfig)
    callee = f"{'AutoConfig' if anything else kind.__name__}.from_pretrained"
    pair = rest.pop("return_unused_kwargs", None) is True
    for part in (config, *config.parts.values()):
        if anything or isinstance(part, kind):
            left = {name: rest.pop(name) for name in [*rest] if pair and name not in {*part.known, *part.raw}}
            found = changed(part, rest, callee, WHERE_ARGUMENTS)
            return cast(ModelConfig, (found, left)) if pair else found
    raise ConfigError(
        f"this is no {kind.__name__}", where=source.name, expected=repr(kind.model_type), found=repr(config.model_type)
    )


def read_config(source: Source, config_class: type[ModelConfig] = ModelConfig) -> ModelConfig:
    """The typed config of a checkpoint; keys that nobody knows are named in one warning.

    Args:
        config_class: a class of the user's own, which reads configs of its own ``model_type``.
    """
    path = source.find("config.json")
    if path is None:
        raise _without_config(source)
    raw = read_json(path)
    _refuse_unknown_code(raw, source.name)
    mine = _of_own(config_class, raw, str(path))
    if mine is not None:
        config: ModelConfig = config_class.from_raw(mine, where=str(path))
    else:
        config = registry.config_of(raw, where=str(path))
    config.name_or_path = source.name
    if config.unknown:
        log.warning("%s: kept, but not known to omniform: %s", path, listed(config.unknown))
    return config


def _without_config(source: Source) -> RepoError:
    adapter = base_of(source)
    if adapter is None:
        return source.lacks("there is no config.json", remedy="Is this a checkpoint's folder?")
    return source.lacks(
        "this is an adapter, which has no config.json of its own", remedy=f"Its base model is {adapter[0]}: name that."
    )


def _of_own(kind: type[ModelConfig], raw: Mapping[str, object], where: str) -> Mapping[str, object] | None:
    """The object in a ``config.json`` that a class of the user's own reads: all of it, or the part that is its own."""
    if not is_own(kind) or kind is PreTrainedConfig:
        return None
    key = cast("type[PreTrainedConfig]", kind).base_config_key
    parts = [value for name, value in raw.items() if isinstance(value, Mapping) and name == key]
    parts += [v for v in raw.values() if isinstance(v, Mapping) and v.get("model_type", "") == kind.model_type != ""]
    if raw.get("model_type", kind.model_type) == kind.model_type or not kind.model_type:
        return raw
    if not parts and not registry.is_known(str(raw.get("model_type"))):
        found = repr(raw.get("model_type"))
        raise ConfigError(f"this is no {kind.__name__}", where=where, expected=repr(kind.model_type), found=found)
    return next(iter(parts), None)


def _refuse_unknown_code(raw: Mapping[str, object], where: str) -> None:
    kind, code = raw.get("model_type"), raw.get("auto_map")
    if isinstance(kind, str) and isinstance(code, Mapping) and code and not registry.is_known(kind):
        raise untrusted(
            where,
            "this model_type is unknown here, and the code that the checkpoint brings for it is not run unasked",
            f"{kind!r}; auto_map: {', '.join(sorted(map(str, code.values())))[:200]}",
        )


def fresh(config: ModelConfig, kind: type[PreTrainedModel], kwargs: Mapping[str, object]) -> PreTrainedModel:
    """A model with fresh weights; ``kwargs`` as :meth:`AutoModel.from_config`."""
    dtype = named_dtype(kwargs.get("dtype", kwargs.get("torch_dtype")))
    model = from_scratch(config, kind, dtype or config.common.dtype or torch.float32)
    if dtype is not None and kind.place is None:
        model.config.update({"dtype": dtype})
    if kwargs.get("attn_implementation") is not None:
        choose_attention(model, kwargs["attn_implementation"])
    return model


def load_class(kind: type[PreTrainedModel], name: Name, **kwargs: object) -> Model:
    """Load a checkpoint as one class, a user's or the ecosystem's, which may be that of a part of it.

    A class of one architecture is also found among the parts of the config (a vision tower in a model of two); the
    config is then the part's own.
    """

    def choose(config: ModelConfig) -> tuple[ModelConfig, type[PreTrainedModel]]:
        return _own_part(kind, config), kind

    return load(name, choose, f"{kind.__name__}.from_pretrained", kwargs, kind.config_class)


def _own_part(kind: type[PreTrainedModel], config: ModelConfig) -> ModelConfig:
    if kind.place is None:
        return config
    for part in (config, *config.parts.values()):
        if part.model_type == kind.place.family.model_type:
            return part
    mine = kind.place.architecture.name
    raise UnknownNameError(
        f"this checkpoint is no {mine}",
        found=f"a {config.model_type} checkpoint",
        remedy=nearest(mine, registry.family(config.model_type).architectures),
    )


def class_from_config(kind: type[PreTrainedModel], config: ModelConfig, **kwargs: object) -> Model:
    """A model of one class with fresh weights; ``kwargs`` as :meth:`AutoModel.from_config`."""
    callee = f"{kind.__name__}.from_config"
    check_arguments(callee, kwargs, ("dtype", "torch_dtype", "attn_implementation", "trust_remote_code"))
    refuse(kwargs)
    if not isinstance(config, ModelConfig):
        raise InputError("not a config", where=callee, expected="a ModelConfig", found=type(config).__name__)
    return fresh(_own_part(kind, config), kind, kwargs)


@together()
def load(
    name: Name,
    choose: Choose,
    callee: str,
    kwargs: Mapping[str, object],
    config_class: type[ModelConfig] = ModelConfig,
) -> Model:
    """Load a checkpoint: what every Auto class does, once it has said which architecture it wants.

    Args:
        name: a folder or a Hub id.
        choose: picks what to build, given the checkpoint's config: a config, its family, an architecture.
        callee: whom to name when a keyword is refused.
        kwargs: see :meth:`AutoModel.from_pretrained`.
        config_class: reads the config of a family that nobody knows.
    """
    if is_exported(name) and kwargs.get("state_dict") is None:
        _, wanted = choose(load_config(ModelConfig, name))
        return cast(Model, upstairs("export.onnx.running:opened")(name, wanted, kwargs))
    adapter = _adapter(name, kwargs)
    if adapter is not None:
        source, base, revision = adapter
        rest = {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder")}
        loaded = load(base, choose, callee, {**rest, "revision": revision}, config_class)
        _adapt(loaded[0] if isinstance(loaded, tuple) else loaded, source, kwargs)
        return loaded
    with paused():
        opened = open_checkpoint(name, choose, callee, kwargs, config_class)
        model, options, source = opened.model, opened.options, opened.source
        report = load_weights(model, opened.files, opened.loading)
    if opened.quantizer is not None:
        mark_quantized(model, opened.quantizer)
    model.eval()
    if options.target_lang is not None:
        from omniform.hub.languages import load_language

        load_language(model, options.target_lang, source, use_safetensors=options.use_safetensors)
    if options.trust_remote_code:
        from omniform.hub.code.generating import use_own_generate

        use_own_generate(model, source)
    if options.attn_implementation is not None:
        choose_attention(model, options.attn_implementation)
    if options.generation_config is not None:
        model.generation_config = options.generation_config
    elif model.can_generate():
        model.generation_config = settings_of(source, model)
    if model.own_file and isinstance(model, KeepsFile) and (own := source.find(model.own_file)) is not None:
        model.read_own(own)
    if source.find(ADAPTER_CONFIG) is not None:  # a whole model, and an adapter beside it
        _adapt(model, source, kwargs)
    return cast(Model, (model, report)) if options.output_loading_info else model


def is_exported(name: object) -> bool:
    """Whether this is a folder with a config and graphs (of ``omniform export``, or another's), and no weights."""
    if not isinstance(name, (str, os.PathLike)):
        return False
    try:
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            return False
        graphs = any(folder.glob("*.onnx")) or any(folder.glob("onnx/*.onnx"))
        certified = (folder / "certificate.json").is_file()  # a graph that is gone is told of by whoever opens it
        weights = ("*.safetensors", "pytorch_model*.bin", "*.gguf", "model.safetensors.index.json")
        return (graphs or certified) and not any(any(folder.glob(one)) for one in weights)
    except (OSError, RuntimeError, TypeError, ValueError):  # what no name is: whoever opens it says so
        return False


def _adapt(model: Model, source: Source, kwargs: Mapping[str, object]) -> None:
    """Load the adapter of a folder into a model: what that takes is imported where there is one."""
    from omniform.hub.adapting import load_into

    load_into(model, source, str(kwargs.get("adapter_name") or "default"))


def _adapter(name: Name, kwargs: Mapping[str, object]) -> tuple[Source, str, str | None] | None:
    """Where an adapter is that was asked for as if it were a model, its base model, and that one's revision."""
    if name is None or kwargs.get("state_dict") is not None:
        return None
    more = kwargs.get("adapter_kwargs")
    own = {str(key): value for key, value in more.items()} if isinstance(more, Mapping) else {}
    source = locate(name, **places({**kwargs, **own})[0])  # type: ignore[arg-type]
    if source.find("config.json") is not None:
        return None
    base = base_of(source)
    return None if base is None else (source, *base)


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint whose config and headers were read, and no data: what loading and planning both begin with.

    Attributes:
        source: where it is.
        files: its weights files.
        model: its modules, on the meta device.
        options: what the user asked for.
        loading: the same, in terms of dtypes and places.
        quantizer: what keeps its weights in fewer bits.
    """

    source: Source
    files: WeightFiles
    model: Model
    options: LoadOptions
    loading: Loading
    quantizer: HfQuantizer | None = None


def open_checkpoint(
    name: Name,
    choose: Choose,
    callee: str,
    kwargs: Mapping[str, object],
    config_class: type[ModelConfig] = ModelConfig,
    *,
    peek: bool = False,
) -> Opened:
    """Read config and headers and build the modules; see :func:`load` for the arguments.

    Args:
        peek: of weights on the Hub, have the headers and no more.
    """
    where, options, changes = split(kwargs)
    options, shard = _shared_out(options)
    by_hand = name is None and options.state_dict is not None and options.config is not None
    source = Source(name="", folder=Path(os.devnull)) if by_hand else locate(name, **where)  # type: ignore[arg-type]
    config = _given_config(options.config) or read_config(source, config_class)
    own_parts = _own_arguments(config, choose, changes)
    changes = {name: value for name, value in changes.items() if name not in own_parts}
    config = changed(config, changes, callee, (*WHERE_ARGUMENTS, *LOAD_ARGUMENTS))
    as_gguf = gguf_settings(options.quantization_config, source.gguf)
    if as_gguf is not None:
        options = replace(options, quantization_config=None, dequantize=options.dequantize or as_gguf.dequantize)
    quantizer = quantizer_of(config, options.quantization_config)
    if quantizer is not None:
        from omniform.hub.calibrating import with_texts  # for those whose checkpoint is quantized

        with_texts(quantizer, source, config.raw, options.dtype)
        config = config.replace()  # the model's says how it is quantized; the caller's stays as it is
    config, kind = choose(config)
    if options.state_dict is not None:
        files = WeightFiles({}, given=options.state_dict)
    else:
        files = find_weights(
            source, variant=options.variant, use_safetensors=options.use_safetensors, peek=peek
        )  # fmt: skip
    if shard:
        from omniform.hub.together import check_alike

        check_alike(shard[0].among, config.raw, files.described())
    beside = None if config.raw.get("quantization_config") else old_settings(source, files.described())
    if beside is not None:
        quantizer = quantizer_of(config, options.quantization_config, beside)
    numbers = _of_whole_numbers(options.dtype)
    asked = None if numbers else options.dtype
    loading = Loading(
        dtype=named_dtype(asked) or _own_dtype(config, files),
        device_map=options.device_map,
        max_memory=options.max_memory,
        offload_folder=options.offload_folder,
        ignore_mismatched_sizes=options.ignore_mismatched_sizes,
        copied=options.disable_mmap,
        transforms=numbers,
    )
    if asked is not None and kind.place is None and loading.dtype is not None:
        config.update({"dtype": loading.dtype})
    prefixes = () if kind.place is None else kind.place.family.prefixes
    loading = with_quantizer(loading, quantizer, files.described() if quantizer is not None else (), prefixes)
    if files.gguf is not None and quantizer is None and not options.dequantize:
        from omniform.transforms.packed import KeepPacked  # for those who load such a file

        kept = KeepPacked(files.gguf, prefixes, loading.dtype)
        loading = replace(loading, transforms=(*loading.transforms, kept))
    loading = replace(loading, transforms=(*loading.transforms, *shard))
    parts = own_parts if options.add_pooling_layer else {**own_parts, "add_pooling_layer": False}
    model = transformed(build_on_meta(config, kind, source.name, loading.dtype, **parts), loading.transforms)
    return Opened(source, files, model, options, loading, quantizer)


def _shared_out(options: LoadOptions) -> tuple[LoadOptions, tuple[Divided, ...]]:
    """The same options with this process's own place, and what leaves it its part, where processes hold it together."""
    given = (options.tp_plan, options.tp_size, options.pp_plan, options.pp_size, options.device_mesh)
    if all(one is None for one in (*given, options.distributed_config)):
        return options, ()
    from omniform.hub.together import own_device, ranks_asked  # for those who compute with others
    from omniform.transforms.shard import Shard
    from omniform.transforms.stage import Stage

    shares = ranks_asked(options)
    if shares is None:
        return options, ()
    found: list[Divided] = []
    if shares.stages is not None and shares.stages.count > 1:
        found.append(Stage(shares.stages, shares.among))
    if shares.tensor is not None and shares.tensor.count > 1:
        found.append(Shard(shares.tensor, shares.among))
    return own_device(options), tuple(found)


def _of_whole_numbers(dtype: object) -> tuple[Transform, ...]:
    """What makes the matrices that a ``dtype=`` asks for which is no dtype of torch's."""
    if not isinstance(dtype, str):
        return ()
    from omniform.transforms.pack import Quantize, integers_of

    integers = integers_of(dtype)
    return () if integers is None else (Quantize(integers),)


def _own_arguments(config: ModelConfig, choose: Choose, changes: Mapping[str, object]) -> dict[str, object]:
    """Keywords that are no keys of the config, and that the constructor of a class of the user's own takes."""
    strange = [name for name in changes if name not in config.known and name not in config.raw]
    if not strange:
        return {}
    kind = choose(config)[1]
    if kind.place is not None:
        return {}
    taken = list(inspect.signature(kind).parameters.values())[1:]
    named = {p.name for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {name: changes[name] for name in strange if name in named}


def load_as_saved(name: Name, **kwargs: object) -> Model:
    """Load a checkpoint as the architecture that its config names; keywords as :meth:`AutoModel.from_pretrained`."""
    if is_exported(name) and kwargs.get("state_dict") is None:  # which may be of another head than its config names
        return cast(Model, upstairs("export.onnx.running:opened")(name, None, kwargs))
    return load(name, lambda config: (config, saved_class(config)), "load_as_saved", kwargs)


def saved_class(config: ModelConfig) -> type[PreTrainedModel]:
    """The class that a config says the checkpoint was saved as; the family's base model if it says nothing.

    Raises:
        UnknownNameError: it names only architectures that the family does not have.
    """
    names = config.common.architectures
    mine = own.class_called(names, type(config))
    if mine is not None:
        return mine
    family = registry.family(config.model_type)
    for name in names:
        if name in family.classes:
            return family.classes[name]
    if names:
        raise UnknownNameError(
            "unknown architecture",
            where="config.json: architectures",
            found=", ".join(names),
            remedy=nearest(names[0], family.architectures),
        )
    return family.classes[family.base.name]


def changed(config: ModelConfig, changes: Mapping[str, object], callee: str, known: tuple[str, ...]) -> ModelConfig:
    """A config with some keys changed; ``known``: keywords that are no keys, for the nearest name of an unknown one."""
    if not changes:
        return config
    check_arguments(callee, changes, {*config.known, *config.raw, *known})
    return config.replace(**changes)


def _given_config(config: object) -> ModelConfig | None:
    if config is None or isinstance(config, ModelConfig):
        return config
    if isinstance(config, (str, os.PathLike)):
        return load_config(ModelConfig, config)
    raise InputError("not a config", where="config", expected="a ModelConfig or a path", found=type(config).__name__)


def _own_dtype(config: ModelConfig, files: WeightFiles) -> torch.dtype | None:
    if config.common.dtype is not None:
        return config.common.dtype
    if files.gguf is not None:
        return files.gguf.usual
    # The file's own: one dtype for the whole model, so that a stray float32 buffer does not mix dtypes.
    kinds = (e.dtype for header in files.headers.values() for e in header.entries.values())
    return next((kind for kind in kinds if kind.is_floating_point), None)
