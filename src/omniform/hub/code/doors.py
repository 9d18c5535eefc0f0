"""What the Auto classes ask first, where the user trusts a checkpoint: does it name a class of its own for this?

Each function gives None where it does not, and omniform's own class loads the checkpoint; what the user has registered
comes before what a checkpoint names, as it does in the ecosystem.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final, cast

from omniform.core.config import ModelConfig
from omniform.core.errors import CodeError, InputError, OmniformError, UnknownNameError, listed
from omniform.hub import own
from omniform.hub.checkpoint import changed
from omniform.hub.code import foreign
from omniform.hub.code.mode import mode_of, untrusted
from omniform.hub.code.named import class_named
from omniform.hub.code.promises import home_of
from omniform.hub.code.reference import maps_in, named_in
from omniform.hub.code.sandbox.enter import sandboxed
from omniform.hub.code.sandbox.remote import Sandboxed
from omniform.hub.files import Source, locate, read_json
from omniform.hub.options import WHERE_ARGUMENTS, places, refuse
from omniform.hub.remote import together
from omniform.models import registry

Name = str | os.PathLike[str]

_INPUT_FILES: Final = {
    "AutoTokenizer": ("tokenizer_config.json", "config.json"),
    "AutoImageProcessor": ("preprocessor_config.json", "processor_config.json", "config.json"),
    "AutoVideoProcessor": ("video_preprocessor_config.json", "preprocessor_config.json", "config.json"),
    "AutoFeatureExtractor": ("preprocessor_config.json", "processor_config.json", "config.json"),
    "AutoProcessor": ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json"),
}
"""Where a class for inputs may be named; the first file that names one counts."""


class Asked:
    """A call of ``from_pretrained``, understood as far as code is concerned.

    Args:
        name: the checkpoint.
        kwargs: the call's keywords.

    Attributes:
        source: where its files are.
        rest: the keywords that say neither where to look nor what to trust.
    """

    def __init__(self, name: Name, kwargs: Mapping[str, object]) -> None:
        self.where, self.rest = places(kwargs)
        self.trust = self.rest.pop("trust_remote_code", None)
        revision = self.rest.pop("code_revision", None)
        if revision is not None and not isinstance(revision, str):
            raise InputError("no revision", where="code_revision", found=repr(revision)[:80])
        self.code_revision = revision
        self.name = name
        self.source: Source = locate(name, **self.where)  # type: ignore[arg-type]

    def kind(self, auto: str, auto_map: object) -> type | None:
        """The class that is named for an Auto class."""
        return class_named(auto, self.source, auto_map, self.trust, code_revision=self.code_revision)

    def boxed(self, auto: str, auto_map: object, rest: Mapping[str, object]) -> object | None:
        """What the class that is named for an Auto class loads, in a sandbox; None where it is to run here."""
        if mode_of(self.trust) != "sandbox":
            return None
        named = named_in(auto_map, auto, self.source.name)
        return None if named is None else sandboxed(auto, self.source, named, rest, self.code_revision)

    def load(self, kind: type, rest: Mapping[str, object]) -> object:
        """Load the checkpoint by a class's own ``from_pretrained``."""
        if home_of(kind) == "omniform":
            return foreign.method(kind, "from_pretrained")(self.name, **self.where, **rest)
        return foreign.load(kind, self.source, rest)

    def json(self, name: str) -> dict[str, object]:
        """An object in one of its files; empty where there is no such file."""
        path = self.source.find(name)
        return {} if path is None else read_json(path)


def config_of(name: Name, kwargs: Mapping[str, object]) -> object | None:
    """The config as the class that the checkpoint names; see :meth:`omniform.AutoConfig.from_pretrained`."""
    if mode_of(kwargs.get("trust_remote_code")) == "never":
        return None
    asked = Asked(name, kwargs)
    raw = read_json(asked.source.need("config.json"))
    if registry.is_users(raw.get("model_type")):
        return None
    boxed = asked.boxed("AutoConfig", raw.get("auto_map"), asked.rest)
    if boxed is not None:
        return boxed
    kind = asked.kind("AutoConfig", raw.get("auto_map"))
    if kind is None:
        _need_known("AutoConfig", raw, asked)
        return None
    return _config_as(kind, asked, raw, asked.rest)


def model_of(auto: str, name: Name, kwargs: Mapping[str, object]) -> object | None:
    """The model as the class that the checkpoint names; see :meth:`omniform.AutoModel.from_pretrained`."""
    if mode_of(kwargs.get("trust_remote_code")) == "never" or name is None:
        return None
    asked = Asked(name, kwargs)
    given = asked.rest.pop("config", None)
    raw = _raw_of(given, asked)
    if own.registered(auto, model_type=raw.get("model_type")) is not None:
        return None
    boxed = asked.boxed(auto, raw.get("auto_map"), {**asked.rest, "config": given})
    if boxed is not None:
        return boxed
    kind = asked.kind(auto, raw.get("auto_map"))
    if kind is None:
        _need_known(auto, raw, asked)
        return None
    theirs = None
    if not isinstance(given, ModelConfig) and not registry.is_users(raw.get("model_type")):
        theirs = asked.kind("AutoConfig", raw.get("auto_map"))
    if home_of(kind) == "omniform":
        config = given if given is not None and not _is_path(given) else None
        if config is None and theirs is not None:
            config = _config_as(theirs, asked, raw, {})
        config = config if config is not None else _config_for(kind, asked, raw)
        if not isinstance(config, ModelConfig):
            raise CodeError(
                "the model's class is written for omniform, and its config's is not",
                where=asked.source.name,
                found=f"{kind.__name__} and {type(config).__name__}",
            )
        rest = {**asked.rest, "config": config, "trust_remote_code": asked.trust}
        return foreign.method(kind, "from_pretrained")(name, **asked.where, **rest)
    if given is None and theirs is not None and home_of(theirs) == "transformers":
        return foreign.load(kind, asked.source, foreign.with_config(theirs, asked.source, asked.rest))
    config = _foreign_config(kind, theirs, given, asked, raw)
    return foreign.load(kind, asked.source, asked.rest if config is None else {**asked.rest, "config": config})


def model_from(auto: str, config: object, kwargs: Mapping[str, object]) -> object | None:
    """A model with fresh weights as the class that its config names; see :meth:`omniform.AutoModel.from_config`."""
    if mode_of(kwargs.get("trust_remote_code")) == "never":
        return None
    raw, name = _mapping_of(config), _name_of(config)
    if not raw.get("auto_map") or not name or own.registered(auto, model_type=raw.get("model_type")) is not None:
        return None
    asked = Asked(name, kwargs)
    kind = asked.kind(auto, raw.get("auto_map"))
    if kind is None:
        return None
    if home_of(kind) == "plain":
        return cast(object, kind(config))
    if home_of(kind) == "transformers":
        config = _foreign_config(kind, None, config, asked, raw)
    return foreign.method(kind, "from_config" if home_of(kind) == "omniform" else "_from_config")(config, **asked.rest)


def input_of(auto: str, name: Name, kwargs: Mapping[str, object]) -> object | None:
    """What reads inputs as the class that the checkpoint names; see :meth:`omniform.AutoTokenizer.from_pretrained`."""
    if mode_of(kwargs.get("trust_remote_code")) == "never":
        return None
    with together():
        return _input_of(auto, name, kwargs)


def _input_of(auto: str, name: Name, kwargs: Mapping[str, object]) -> object | None:
    asked = Asked(name, kwargs)
    if _is_users_input(auto, asked):
        return None
    rest = {key: value for key, value in asked.rest.items() if key not in ("config", "use_fast")}
    for auto_map in _maps(auto, asked):
        boxed = asked.boxed(auto, auto_map, rest)
        if boxed is not None:
            return boxed
        kind = asked.kind(auto, auto_map)
        if kind is not None and auto == "AutoProcessor" and home_of(kind) == "transformers":
            return _processor(kind, asked, rest)
        if kind is not None and home_of(kind) == "omniform" and auto == "AutoProcessor":
            switches = {"trust_remote_code": asked.trust, "code_revision": asked.code_revision}  # for its parts
            return asked.load(kind, {**rest, **{key: value for key, value in switches.items() if value is not None}})
        if kind is not None:
            return asked.load(kind, rest)
    return None


def _maps(auto: str, asked: Asked) -> Iterator[object]:
    """What the files say that may name a class for inputs, one after another."""
    for file in _INPUT_FILES[auto]:
        yield from maps_in(asked.json(file))


def _processor(kind: type, asked: Asked, rest: Mapping[str, object]) -> object:
    """A processor of transformers, with those of its parts that the checkpoint brings."""
    parts: dict[str, object] = {}
    for attribute, auto in foreign.PARTS.items():
        named = (asked.kind(auto, auto_map) for auto_map in _maps(auto, asked))
        part = next((one for one in named if one is not None), None)
        if part is not None:
            parts[attribute] = asked.load(part, {})
    return foreign.load_processor(kind, asked.source, rest, parts) if parts else asked.load(kind, rest)


def unasked(auto: str, name: Name, kwargs: Mapping[str, object], error: OmniformError) -> OmniformError:
    """The error to raise for what cannot be read without trust: that the checkpoint brings a class, where it does."""
    try:
        asked = Asked(name, kwargs)
        autos = ("AutoProcessor", *foreign.PARTS.values()) if auto == "AutoProcessor" else (auto,)
        found = [named_in(one, auto, "") for auto in autos for one in _maps(auto, asked)]
    except OmniformError:
        return error
    named = next((one for one in found if one is not None), None)
    if named is None:
        return error
    problem = f"{error.message}, and the code that the checkpoint brings for it is not run unasked"
    return untrusted(os.fspath(name), problem, str(named))


def _need_known(auto: str, raw: Mapping[str, object], asked: Asked) -> None:
    """Raise :class:`UnknownNameError` if neither omniform nor the checkpoint has a class for this."""
    model_type, auto_map = raw.get("model_type"), raw.get("auto_map")
    if auto_map and isinstance(model_type, str) and not registry.is_known(model_type):
        names = auto_map if isinstance(auto_map, Mapping) else {}
        raise UnknownNameError(
            f"the checkpoint brings no class for {auto}, and its model_type is unknown here",
            where=asked.source.name,
            expected=f"auto_map[{auto!r}]",
            found=f"{model_type!r}; auto_map has {listed(names)}",
        )


def _is_users_input(auto: str, asked: Asked) -> bool:
    files = [asked.json(file) for file in _INPUT_FILES[auto]]
    keys = ("tokenizer_class", "processor_class", "image_processor_type", "feature_extractor_type")
    model_type = asked.json("config.json").get("model_type")
    names = [file.get(key) for file in files for key in keys]
    return own.registered(auto, model_type=model_type, names=names) is not None


def _config_as(kind: type, asked: Asked, raw: Mapping[str, object], rest: Mapping[str, object]) -> object:
    if not issubclass(kind, ModelConfig):
        # Theirs do not note where they come from unless they are told, and from_config asks them.
        note = {"name_or_path": asked.source.name} if home_of(kind) == "transformers" else {}
        return foreign.load(kind, asked.source, {**rest, **note})
    changes = dict(rest)
    refuse(changes)
    config = kind.from_dict(raw)
    config.name_or_path = asked.source.name
    return changed(config, changes, "AutoConfig.from_pretrained", WHERE_ARGUMENTS)


def _config_for(kind: type, asked: Asked, raw: Mapping[str, object]) -> object:
    """The config of a model's class for omniform, where the checkpoint names no class of configs."""
    named = next((vars(base)["config_class"] for base in kind.__mro__ if "config_class" in vars(base)), ModelConfig)
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and (registry.is_users(model_type) or named is ModelConfig):
        return registry.config_of(raw, where=asked.source.name)
    return _config_as(named, asked, raw, {})


def _foreign_config(
    kind: type, named: type | None, given: object, asked: Asked, raw: Mapping[str, object]
) -> object | None:
    """The config for a class that is not written for omniform: one of its own library's."""
    if given is not None and not isinstance(given, ModelConfig) and not _is_path(given):
        return given
    if isinstance(given, ModelConfig):
        theirs = next((vars(base)["config_class"] for base in kind.__mro__ if vars(base).get("config_class")), None)
        if not isinstance(theirs, type) or home_of(kind) != "transformers":
            return given
        return foreign.method(theirs, "from_dict")(given.to_diff_dict())
    return None if named is None else _config_as(named, asked, raw, {})


def _raw_of(given: object, asked: Asked) -> Mapping[str, object]:
    if isinstance(given, Sandboxed):
        raise InputError("a config from a sandbox stays there", where="config", remedy="Change its keys by keyword.")
    if _is_path(given):
        return read_json(locate(cast(Name, given)).need("config.json"))
    if given is not None:
        return _mapping_of(given)
    return read_json(asked.source.need("config.json"))


def _is_path(given: object) -> bool:
    return isinstance(given, (str, os.PathLike))


def _mapping_of(config: object) -> Mapping[str, object]:
    return config.raw if isinstance(config, ModelConfig) else vars(config)


def _name_of(config: object) -> str:
    said = config.name_or_path if isinstance(config, ModelConfig) else vars(config).get("_name_or_path")
    return said if isinstance(said, str) else ""
