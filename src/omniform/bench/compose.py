"""Configs composed of files: defaults lists, groups, overrides, sweeps, interpolation.

A config is a YAML file in a folder. Its ``defaults:`` list names files that come before it: ``- base`` another config,
``- scenario: decode`` the file ``scenario/decode.yaml``, whose content becomes the key ``scenario``, ``- _self_`` the
place of the file's own keys among them (the last, where it is not said). Later ones win. The words are Hydra's; the
work is OmegaConf's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

from omniform.bench.typed import joined
from omniform.core.errors import ConfigError, DependencyError, brief, listed, nearest

PACKAGED: Final = Path(str(files("omniform") / "bench" / "configs"))
"""Configs that come with omniform."""

COMMAND: Final = "command line"
ENDINGS: Final = (".yaml", ".yml")


@dataclass(slots=True)
class Composed:
    """A config as plain values.

    Attributes:
        values: all of them.
        origins: by dotted key, the file that set it.
        overrides: those of the command line and of the sweep, as they were typed.
        groups: the keys that a file of a group was chosen for. One that a config does not know holds what others refer
            to: ``${size.length}``.
        swept: those of the overrides that had others beside them.
    """

    values: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    swept: tuple[str, ...] = ()

    def where(self, path: str) -> str:
        """Where a key, or else the nearest of those around it, was written."""
        path = re.sub(r"\[\d+\].*", "", path)
        while path:
            if path in self.origins:
                return self.origins[path]
            path = path.rpartition(".")[0]
        return self.origins.get("", "config")


def omegaconf() -> Any:
    """The class ``OmegaConf``.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        from omegaconf import OmegaConf
    except ImportError:
        raise DependencyError("omegaconf is needed for this", remedy="pip install 'omniform[bench]'") from None
    return OmegaConf


def names(folder: Path) -> list[str]:
    """The configs of a folder, those of its groups left out."""
    return sorted(file.stem for ending in ENDINGS for file in folder.glob(f"*{ending}"))


def groups(folder: Path) -> dict[str, list[str]]:
    """The groups of a folder, and the choices of each."""
    return {one.name: found for one in sorted(folder.iterdir()) if one.is_dir() and (found := names(one))}


def folder_of(config_dir: str | None) -> Path:
    """The folder of configs: omniform's own where none is named.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = PACKAGED if config_dir is None else Path(config_dir).expanduser()
    if not folder.is_dir():
        raise ConfigError("there is no such folder", where="--config-dir", found=str(folder))
    return folder


class Composer:
    """Composes the configs of one folder.

    Args:
        folder: of the files.
        overrides: ``a.b=c``, or ``group=choice``.
    """

    def __init__(self, folder: Path, overrides: Sequence[str] = ()) -> None:
        self.folder = folder
        self.omega = omegaconf()
        self.groups = groups(folder)
        self.chosen: dict[str, str] = {}
        self.changes: list[str] = []
        self.overrides = tuple(overrides)
        for override in overrides:
            name, equals, value = override.partition("=")
            name = name.strip().lstrip("+")
            if not equals or not name:
                raise ConfigError("this changes nothing", where=COMMAND, expected="KEY=VALUE", found=override)
            if name in self.groups and re.fullmatch(r"[\w.-]+", value):
                self.chosen[name] = value
            else:
                self.changes.append(f"{name}={value}")
        self.origins: dict[str, str] = {}
        self.used: set[str] = set()

    def compose(self, name: str) -> Composed:
        """A config by its name.

        Raises:
            ConfigError: it or one that it names is not there, is no YAML, or names itself; a value that refers to none.
        """
        from omegaconf.errors import OmegaConfBaseException

        made = self._file(self.folder, name, "", ())
        for group in self.chosen.keys() - self.used:  # chosen by the command line, named by no defaults list
            made = self._merged(made, self._choice(group, self.chosen[group], ()), "", "")
        for change in self.changes:
            made = self._changed(made, change)
        try:
            values = self.omega.to_container(made, resolve=True)
        except OmegaConfBaseException as error:
            key = str(getattr(error, "full_key", "") or "")
            where = Composed({}, self.origins).where(key)
            raise ConfigError(f"{key!r} refers to what is not there", where=where, found=_first(error)) from None
        return Composed(cast("dict[str, Any]", values), {"": str(self._path(self.folder, name)), **self.origins},
                        self.overrides, frozenset(self.used))  # fmt: skip

    def _changed(self, made: Any, change: str) -> Any:
        name, _, text = change.partition("=")

        try:
            new = self.omega.create({})
            value = self.omega.from_dotlist([f"v={text}"])
            self.omega.update(new, name, value._get_node("v") if text else "", force_add=True)
            return self._merged(made, new, "", COMMAND)
        except _unreadable() as error:
            raise ConfigError("this cannot be read", where=COMMAND, found=change, remedy=_first(error)) from None

    def _path(self, folder: Path, name: str) -> Path:
        if not re.fullmatch(r"[\w./-]+", name) or ".." in name.split("/") or name.startswith("/"):
            raise ConfigError("this is no name of a config", where="--config-name", found=brief(name))
        stem = name.removesuffix(".yaml").removesuffix(".yml")
        for ending in ENDINGS:
            if (folder / f"{stem}{ending}").is_file():
                return folder / f"{stem}{ending}"
        known = names(folder)
        near = nearest(stem, known)
        more = "" if near.startswith("Known") else f" Known: {listed(known)}."
        raise ConfigError(f"there is no config {stem!r}", where=str(folder), remedy=f"{near}{more}")

    def _file(self, folder: Path, name: str, package: str, seen: tuple[Path, ...]) -> Any:
        """A file and all that its defaults name, under the key that it is for."""
        path = self._path(folder, name)
        if path in seen:
            circle = " -> ".join(one.stem for one in (*seen[seen.index(path) :], path))
            raise ConfigError("configs name one another in a circle", where=str(path), found=circle)
        own = self._read(path)
        defaults = own.pop("defaults", None)
        steps = list(self._defaults(defaults, path))
        if "_self_" not in steps:
            steps.append("_self_")
        made = self.omega.create({})
        for step in steps:
            if step == "_self_":
                part = self.omega.create({package: own} if package else own)
                made = self._merged(made, part, "", str(path))
            elif isinstance(step, tuple):
                made = self._merged(made, self._choice(*step, (*seen, path)), "", "")
            else:
                made = self._merged(made, self._file(folder, step, package, (*seen, path)), "", "")
        return made

    def _choice(self, group: str, choice: str, seen: tuple[Path, ...]) -> Any:
        self.used.add(group)
        choice = self.chosen.get(group, choice)
        if group not in self.groups:
            raise ConfigError(f"there is no group {group!r}", where=str(seen[-1] if seen else self.folder),
                              remedy=nearest(group, self.groups))  # fmt: skip
        return self._file(self.folder / group, choice, group, seen)

    def _defaults(self, defaults: Any, path: Path) -> Iterator[str | tuple[str, str]]:
        if defaults is None:
            return
        plain = self.omega.to_container(defaults) if self.omega.is_config(defaults) else defaults
        right = isinstance(plain, list)
        for one in plain if right else ():
            if isinstance(one, str):
                yield one
            elif isinstance(one, Mapping) and all(isinstance(choice, str) for choice in one.values()):
                yield from ((str(group), choice) for group, choice in one.items())
            else:
                right = False
        if not right:
            raise ConfigError("'defaults' cannot be this", where=str(path), found=brief(plain),
                              expected="a list of names, and of 'group: name'")  # fmt: skip

    def _read(self, path: Path) -> Any:

        try:
            own = self.omega.load(path)
        except OSError as error:
            raise ConfigError("the file cannot be read", where=str(path), found=error.strerror) from None
        except _unreadable() as error:
            raise ConfigError("this is no YAML", where=str(path), found=" ".join(str(error).split())) from None
        if not self.omega.is_dict(own):
            raise ConfigError("a config is keys and values", where=str(path), found=brief(own))
        return own

    def _merged(self, first: Any, second: Any, path: str, origin: str) -> Any:
        if origin:
            for key in _paths(self.omega.to_container(second), path):
                self.origins[key] = origin
        from omegaconf.errors import OmegaConfBaseException

        try:
            return self.omega.merge(first, second)
        except OmegaConfBaseException as error:
            raise ConfigError("two parts do not fit together", where=origin or None, found=_first(error)) from None


def _unreadable() -> tuple[type[Exception], ...]:
    """What OmegaConf raises for text that it cannot read."""
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return (OmegaConfBaseException, YAMLError, ValueError)


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _paths(values: object, path: str) -> Iterator[str]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield joined(path, name)
            yield from _paths(value, joined(path, name))


def compose(
    config_dir: str | None, name: str, overrides: Sequence[str] = (), *, multirun: bool = False
) -> list[Composed]:
    """A config, or all of its sweep.

    Args:
        config_dir: the folder; None for omniform's own.
        multirun: values parted by commas are one run each; so is the file's ``sweep:`` mapping, with or without.

    Raises:
        ConfigError: see :class:`Composer`; a sweep that is none.
    """
    folder = folder_of(config_dir)
    axes = [_choices(override) if multirun else [override] for override in overrides]
    made: list[Composed] = []
    for chosen in itertools.product(*axes):
        several = tuple(one for one, axis in zip(chosen, axes, strict=True) if len(axis) > 1)
        first = Composer(folder, chosen).compose(name)
        first.swept = several
        swept = first.values.pop("sweep", None)
        if not swept:
            made.append(first)
            continue
        said = {change.partition("=")[0].lstrip("+") for change in chosen}
        inner = [axis for axis in _sweep(swept, first.where("sweep")) if axis[0].partition("=")[0] not in said]
        for more in itertools.product(*inner):
            one = Composer(folder, (*chosen, *more)).compose(name)
            one.values.pop("sweep", None)
            one.swept = (*several, *more)
            made.append(one)
    return made


def _sweep(swept: object, where: str) -> list[list[str]]:
    if not isinstance(swept, Mapping):
        raise ConfigError("'sweep' cannot be this", where=where, expected="a list of values by key", found=brief(swept))
    axes = []
    for key, values in _flat(swept, ""):
        found = _choices(f"{key}={values}") if isinstance(values, str) else None
        if isinstance(values, list) and values:
            found = [f"{key}={_written(value)}" for value in values]
        if found is None:
            raise ConfigError(f"'sweep.{key}' cannot be this", where=where, expected="a list of values",
                              found=brief(values))  # fmt: skip
        axes.append(found)
    return axes


def _flat(values: Mapping[object, object], path: str) -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, joined(path, key))
        else:
            yield joined(path, key), value


def _written(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _choices(override: str) -> list[str]:
    """``a=1,2`` as ``a=1`` and ``a=2``; commas within brackets and quotes part nothing."""
    name, equals, text = override.partition("=")
    parts, depth, quote, start = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return [f"{name}{equals}{part.strip()}" for part in parts]
