"""Settings of generation, as ``generation_config.json`` holds them: by name, and acted on by the engine."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, Literal, Protocol, cast, overload, runtime_checkable

from omniform.core.errors import ConfigError, InputError, UnknownArgumentError, UnknownAttributeError, brief, nearest
from omniform.core.kinds import plain
from omniform.core.pushing import PushToHub
from omniform.core.settings import SETTINGS, Effect, misspelt, read
from omniform.core.upstairs import upstairs
from omniform.core.watermark import BaseWatermarkingConfig, watermark_of

log = logging.getLogger("omniform")

FILE: Final = "generation_config.json"

ATTRIBUTES: Final = tuple(name for name, row in SETTINGS.items() if row.attribute)
"""What every config has, set or not."""

_NOTES: Final = frozenset({"_from_model_config", "_commit_hash", "transformers_version"})
_OUTPUTS: Final = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
_INSIDE: Final = ("decoder", "generator", "text_config")
"""Where a config of several models keeps the settings of the one that writes."""


@runtime_checkable
class SettingsOfOthers(Protocol):
    """Another library's ``GenerationConfig``."""

    def to_diff_dict(self) -> dict[str, object]: ...

    def get_generation_mode(self) -> object: ...


class GenerationMode(StrEnum):
    """The ways of writing, by the ecosystem's names."""

    CONTRASTIVE_SEARCH = "contrastive_search"
    GREEDY_SEARCH = "greedy_search"
    SAMPLE = "sample"
    ASSISTED_GENERATION = "assisted_generation"
    DOLA_GENERATION = "dola_generation"
    BEAM_SEARCH = "beam_search"
    BEAM_SAMPLE = "beam_sample"
    CONSTRAINED_BEAM_SEARCH = "constrained_beam_search"
    GROUP_BEAM_SEARCH = "group_beam_search"


class GenerationConfig(PushToHub):
    """Defaults for ``generate``: every setting of the ecosystem, by attribute; None where it is not set.

    Names that no setting has are kept, since checkpoints bring entries of their own, and written back; ``generate``
    refuses them where the model does not know them either. A name that is almost a setting's is a slip and refused.

    Args:
        settings: what to set.

    Raises:
        UnknownArgumentError: a misspelt name, with the nearest one.
    """

    def __init__(self, **settings: object) -> None:
        refuse_misspelt("GenerationConfig", settings)
        for name, value in settings.items():
            row = SETTINGS.get(name)
            if row is not None and row.effect is Effect.PART and not row.attribute and not row.is_neutral(value):
                raise InputError("an object of one call is no setting", where=name, remedy="Pass it to generate.")
        self.__dict__["_said"] = {
            name: _entry(name, value) for name, value in settings.items() if name != "_commit_hash"
        }

    # -- from and to files ---------------------------------------------------------------------------------------------

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str | None = None,
        *,
        return_unused_kwargs: Literal[False] = False,
        **kwargs: object,
    ) -> GenerationConfig: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str | None = None,
        *,
        return_unused_kwargs: bool,
        **kwargs: object,
    ) -> GenerationConfig | tuple[GenerationConfig, dict[str, object]]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str | None = None,
        *,
        return_unused_kwargs: bool = False,
        **kwargs: object,
    ) -> GenerationConfig | tuple[GenerationConfig, dict[str, object]]:
        """Read the ``generation_config.json`` of a folder or a repository.

        Args:
            pretrained_model_name: a folder or a Hub id.
            config_file_name: another file's name.
            return_unused_kwargs: give back a pair: the config, and the keywords that no setting has.
            kwargs: where to look (``revision``, ``cache_dir``, ``token``, ``subfolder``, ...), and settings that
                override the file's.

        Raises:
            RepoError: there is no such file.
            ConfigError: it is no JSON object.
        """
        door = upstairs("hub.settings:read_settings")
        raw, rest = cast(
            "tuple[dict[str, object], dict[str, object]]", door(pretrained_model_name, config_file_name or FILE, kwargs)
        )
        return cls.from_dict(raw, return_unused_kwargs=return_unused_kwargs, **rest)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], config_file_name: str | None = None, **kwargs: object
    ) -> None:
        """Write ``generation_config.json`` into a folder, made if it does not exist.

        Args:
            kwargs: ``push_to_hub``, and where to; see :class:`~omniform.core.pushing.SaveOptions`.

        Raises:
            InputError: a value that no setting can have, or that JSON cannot hold.
            RepoError: the folder cannot be written.
        """
        self.validate()
        text = self.to_json_string(keys_to_pop=["compile_config"])
        upstairs("hub.settings:save_settings")(self, save_directory, config_file_name or FILE, text, kwargs)

    @overload
    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, object], *, return_unused_kwargs: Literal[False] = False, **kwargs: object
    ) -> GenerationConfig: ...

    @overload
    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, object], *, return_unused_kwargs: bool, **kwargs: object
    ) -> GenerationConfig | tuple[GenerationConfig, dict[str, object]]: ...

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, object], *, return_unused_kwargs: bool = False, **kwargs: object
    ) -> GenerationConfig | tuple[GenerationConfig, dict[str, object]]:
        """From the mapping of a ``generation_config.json``, kept whatever it holds.

        Args:
            config_dict: the mapping.
            return_unused_kwargs: give back a pair: the config, and the keywords that no setting has.
            kwargs: settings that override the mapping's.
        """
        config = _from_mapping(cls, config_dict)
        unused = config._changed(kwargs)
        if return_unused_kwargs:
            return config, unused
        refuse_misspelt(f"{cls.__name__}.from_dict", unused)
        config._said.update({name: _entry(name, value) for name, value in unused.items()})
        return config

    @classmethod
    def from_model_config(cls, model_config: object) -> GenerationConfig:
        """The settings that a model's config holds, as old checkpoints do.

        Args:
            model_config: a config or its mapping; what it does not say, the part that writes may say (``decoder``,
                ``generator`` or ``text_config``).
        """
        raw = _mapping_of(model_config)
        config = cls(_from_model_config=True)
        inner = next((part for name in _INSIDE if isinstance(part := raw.get(name), Mapping) and part), {})
        for place in (raw, inner):
            for name in ATTRIBUTES:
                if name not in _NOTES and config._said.get(name) is None and place.get(name) is not None:
                    config._said[name] = _entry(name, place[name])
        if raw.get("transformers_version") is not None:
            config._said["transformers_version"] = raw["transformers_version"]
        if not config._said.get("return_dict_in_generate") and any(config._said.get(name) for name in _OUTPUTS):
            config._said["return_dict_in_generate"] = True
        return config

    def to_dict(self) -> dict[str, object]:
        """All settings, None where nothing is set, and what else the config holds; a copy."""
        return {**dict.fromkeys(ATTRIBUTES), **{name: _kept(value) for name, value in self._said.items()}}

    def to_diff_dict(self) -> dict[str, object]:
        """What is set, by name; a copy."""
        said = {name: _kept(value) for name, value in self._said.items()}
        return {name: value for name, value in said.items() if value is not None or name not in SETTINGS}

    def to_json_string(
        self, use_diff: bool = True, ignore_metadata: bool = False, keys_to_pop: Iterable[str] | None = None
    ) -> str:
        """The text of a ``generation_config.json``.

        Args:
            use_diff: only what is set.
            ignore_metadata: without notes on where it comes from.
            keys_to_pop: names to leave out.

        Raises:
            InputError: a value that JSON cannot hold.
        """
        left_out = {*(keys_to_pop or ()), *(_NOTES if ignore_metadata else ())}
        raw = self.to_diff_dict() if use_diff else self.to_dict()
        named = {name: _with_names(value) for name, value in raw.items() if name not in left_out}
        for name, value in named.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError, RecursionError):
                raise InputError("JSON cannot hold this value", where=name, found=brief(value)) from None
        return json.dumps(named, indent=2, sort_keys=True) + "\n"

    def to_json_file(
        self,
        json_file_path: str | os.PathLike[str],
        use_diff: bool = True,
        keys_to_pop: Iterable[str] | None = None,
    ) -> None:
        """Write :meth:`to_json_string` into a file.

        Raises:
            InputError: a value that JSON cannot hold.
            OSError: the file cannot be written.
        """
        text = self.to_json_string(use_diff=use_diff, keys_to_pop=keys_to_pop)
        with open(json_file_path, "w", encoding="utf-8") as file:
            file.write(text)

    # -- settings ------------------------------------------------------------------------------------------------------

    def update(
        self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: object
    ) -> dict[str, object]:
        """Change settings.

        Args:
            defaults_only: only those that are not set.
            allow_custom_entries: take names that no setting has as well.
            kwargs: values by name.

        Returns:
            Those that were not used.
        """
        return self._changed(kwargs, defaults_only=defaults_only, custom=allow_custom_entries)

    def _changed(
        self, settings: Mapping[str, object], *, defaults_only: bool = False, custom: bool = False
    ) -> dict[str, object]:
        unused: dict[str, object] = {}
        for name, value in settings.items():
            known = name in ATTRIBUTES or name in self._said
            if (known and not (defaults_only and self._said.get(name) is not None)) or (custom and not known):
                self._said[name] = _entry(name, value)
            else:
                unused[name] = value
        return unused

    def validate(self, strict: bool = False) -> None:
        """Check every value.

        Args:
            strict: refuse settings without effect beside the others as well.

        Raises:
            InputError: a value that a setting cannot have.
        """
        used = {name: row for name, row in SETTINGS.items() if row.effect is Effect.USED}
        found = read({name: value for name, value in self._said.items() if value is not None}, used)
        if strict and found.idle:
            name, words = next(iter(found.idle.items()))
            raise InputError("this has no effect beside the others", where=name, expected=words)

    def get_generation_mode(self, assistant_model: object = None) -> GenerationMode:
        """Which way of writing these settings ask for.

        Args:
            assistant_model: a smaller model that guesses ahead, if there is one.
        """
        said = self._said
        mode = _mode(said)
        ahead = ("prompt_lookup_num_tokens", "assistant_early_exit")
        guesses = assistant_model is not None or said.get("use_mtp") or any(said.get(n) is not None for n in ahead)
        for wanted, asked in (
            (GenerationMode.ASSISTED_GENERATION, guesses),
            (GenerationMode.DOLA_GENERATION, said.get("dola_layers") is not None),
        ):
            if asked and mode in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
                mode = wanted
            elif asked:
                log.warning("%s goes with greedy search and sampling only, not with %s", wanted.value, mode.value)
        return mode

    @property
    def _said(self) -> dict[str, object]:
        return cast("dict[str, object]", self.__dict__["_said"])

    def __getattr__(self, name: str) -> object:
        said: Mapping[str, object] | None = self.__dict__.get("_said")
        if said is None or name.startswith("__"):
            raise AttributeError(name)
        if name in said:
            return said[name]
        if name in ATTRIBUTES:
            return None
        raise UnknownAttributeError(
            f"a GenerationConfig has no {name!r:.100}", remedy=nearest(name, [*ATTRIBUTES, *said])
        )

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self._said:
            refuse_misspelt("GenerationConfig", (name,), UnknownAttributeError)
        self._said[name] = _entry(name, value)

    def __delattr__(self, name: str) -> None:
        if self._said.pop(name, self) is self and name not in ATTRIBUTES:
            raise UnknownAttributeError(f"a GenerationConfig has no {name!r:.100}", remedy=nearest(name, self._said))

    def __copy__(self) -> GenerationConfig:
        twin = type(self)()
        twin._said.update(self._said)
        return twin

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *ATTRIBUTES, *self._said})

    def __eq__(self, other: object) -> bool:
        return self._compared() == other._compared() if isinstance(other, GenerationConfig) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(sorted(self._compared().items())))

    def _compared(self) -> dict[str, object]:
        return {n: _with_names(v) for n, v in self._said.items() if n not in _NOTES and v is not None}

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={brief(value)}" for name, value in self._said.items() if value is not None)
        return f"GenerationConfig({inside})"


def _mode(said: Mapping[str, object]) -> GenerationMode:
    """The way of writing, guesses ahead left aside."""

    def above(name: str, least: float) -> bool:
        value = said.get(name)
        return isinstance(value, (int, float)) and value > least

    draws = said.get("do_sample") is True
    if said.get("constraints") is not None or said.get("force_words_ids") is not None:
        return GenerationMode.CONSTRAINED_BEAM_SEARCH
    if said.get("num_beams") not in (None, 1):
        if above("num_beam_groups", 1):
            return GenerationMode.GROUP_BEAM_SEARCH
        return GenerationMode.BEAM_SAMPLE if draws else GenerationMode.BEAM_SEARCH
    if draws:
        return GenerationMode.SAMPLE
    contrasts = above("top_k", 1) and above("penalty_alpha", 0)
    return GenerationMode.CONTRASTIVE_SEARCH if contrasts else GenerationMode.GREEDY_SEARCH


def refuse_misspelt(
    callee: str, names: Iterable[str], error: type[UnknownArgumentError] = UnknownArgumentError
) -> None:
    """Raise an error for the first name that is almost a setting's."""
    for name in names:
        meant = None if name in SETTINGS else misspelt(name, SETTINGS)
        if meant is not None:
            raise error(f"{callee} has no setting {name!r:.100}", remedy=f"Did you mean {meant!r}?")


def strangers(names: Iterable[str], own: Iterable[str] = ()) -> list[str]:
    """What a file holds that no setting is called, each with the name that it was likely meant to be.

    Args:
        names: what it holds.
        own: settings that the model has besides.
    """
    known = {*SETTINGS, *own}
    found = [name for name in names if name not in known and name not in _NOTES]
    meant = {name: misspelt(name, known) for name in found}
    return [name if meant[name] is None else f"{name} (did you mean {meant[name]!r}?)" for name in found]


def as_settings(given: object, where: str = "generation_config") -> dict[str, object]:
    """What a caller hands over as ``generation_config``: what is set in it, by name; the object stays as it is.

    Raises:
        InputError: neither a config nor a mapping with names.
        UnknownArgumentError: a mapping with a misspelt name.
    """
    if given is None:
        return {}
    if isinstance(given, GenerationConfig):
        return given.to_diff_dict()
    if isinstance(given, SettingsOfOthers):  # what trainers of the ecosystem make for themselves
        return GenerationConfig.from_dict(given.to_diff_dict()).to_diff_dict()
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
        refuse_misspelt(where, given)
        return {name: value for name, value in given.items() if value is not None}
    raise InputError(
        "these are no settings",
        where=where,
        expected="a GenerationConfig or a mapping of names",
        found=brief(given),
    )


def _from_mapping(cls: type[GenerationConfig], raw: object) -> GenerationConfig:
    if isinstance(raw, GenerationConfig):
        raw = raw.to_diff_dict()
    if not isinstance(raw, Mapping) or not all(isinstance(name, str) for name in raw):
        raise ConfigError("these are no settings", where=FILE, expected="a mapping of names", found=brief(raw))
    config = cls()
    config._said.update({name: _entry(name, value) for name, value in raw.items() if name != "_commit_hash"})
    return config


def _mapping_of(config: object) -> Mapping[str, object]:
    from omniform.core.config import ModelConfig

    raw = config.to_dict() if isinstance(config, (ModelConfig, GenerationConfig)) else config
    if not isinstance(raw, Mapping):
        raise InputError(
            "this is no config", where="model_config", expected="a config or its mapping", found=brief(raw)
        )
    return raw


def _entry(name: str, value: object) -> object:
    """A setting as it is kept; a watermark's mapping becomes its config, as in the ecosystem."""
    return watermark_of(value) if name == "watermarking_config" and isinstance(value, Mapping) else _kept(value)


def _kept(value: object) -> object:
    """A value as it is kept: lists and mappings copied, tensors as lists, so that nothing outside changes it."""
    if isinstance(value, BaseWatermarkingConfig):
        return copy.deepcopy(value)
    try:
        return plain(value)
    except (InputError, TypeError, ValueError, RecursionError, RuntimeError):
        return value  # whatever it is, generate refuses it by name


def _with_names(value: object) -> object:
    """Mappings with texts as keys, as JSON has them."""
    if isinstance(value, BaseWatermarkingConfig):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _with_names(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_names(inner) for inner in value]
    return value
