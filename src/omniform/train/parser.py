"""Command lines, dicts and files to dataclasses: ``HfArgumentParser``.

Each field of a dataclass is an option of its name (``--learning_rate`` and ``--learning-rate``); its annotation says
what may follow. Options, ``.args`` files and their order are the ecosystem's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
from argparse import (
    SUPPRESS,
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    _ArgumentGroup,
)
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from omniform.core.errors import InputError, brief, nearest
from omniform.train.former import FORMER

_NONE: Final = type(None)
_MISSING: Final = dataclasses.MISSING
_FLAG_OR_TEXT: Final = object()
_TRUE: Final = ("yes", "true", "t", "y", "1")
_FALSE: Final = ("no", "false", "f", "n", "0")


def string_to_bool(v: object) -> bool:
    """The truth value that a word of a command line is.

    Raises:
        ArgumentTypeError: it is none.
    """
    if isinstance(v, bool):
        return v
    word = str(v).lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ArgumentTypeError(f"{v!r} is neither true ({'/'.join(_TRUE)}) nor false ({'/'.join(_FALSE)})")


def make_choice_type_function(choices: Sequence[object]) -> Callable[[str], object]:
    """From a word to the choice that is written so; another word stays, and argparse refuses it."""
    by_word = {str(choice): choice for choice in choices}
    return lambda word: by_word.get(word, word)


def HfArg(  # noqa: N802 # the ecosystem's name
    *,
    aliases: str | list[str] | None = None,
    help: str | None = None,
    default: Any = _MISSING,
    default_factory: Any = _MISSING,
    metadata: Mapping[str, object] | None = None,
    **kwargs: Any,
) -> Any:
    """A dataclass's field that a command line knows more of.

    Args:
        aliases: further names of the option, with their dashes.
        help: what ``--help`` says.
        default: as for ``dataclasses.field``; with neither it nor a factory the option is required.
        default_factory: as for ``dataclasses.field``.
        metadata: further arguments for argparse.
        kwargs: further arguments for ``dataclasses.field``.
    """
    told = dict(metadata or {})
    if aliases is not None:
        told["aliases"] = aliases
    if help is not None:
        told["help"] = help
    return dataclasses.field(metadata=told, default=default, default_factory=default_factory, **kwargs)


class HfArgumentParser(ArgumentParser):
    """An argparse parser whose options are the fields of dataclasses.

    Options can be added to it as to any other; what they hold is returned behind the dataclasses. The options of a
    dataclass that has ``_argument_group_name`` are a group of that name.

    Args:
        dataclass_types: one dataclass, or several.
        kwargs: arguments of ``argparse.ArgumentParser``.
    """

    def __init__(self, dataclass_types: type | Iterable[type] | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", ArgumentDefaultsHelpFormatter)
        super().__init__(**kwargs)
        if dataclass_types is None:
            self.dataclass_types: list[type] = []
        elif isinstance(dataclass_types, type):
            self.dataclass_types = [dataclass_types]
        else:
            self.dataclass_types = list(dataclass_types)
        for one in self.dataclass_types:
            self._add_dataclass_arguments(one)

    def _add_dataclass_arguments(self, dtype: type) -> None:
        group = next(
            (vars(one)["_argument_group_name"] for one in dtype.__mro__ if "_argument_group_name" in vars(one)), None
        )
        parser = self.add_argument_group(group) if group is not None else self
        try:
            hints = get_type_hints(dtype)
        except NameError as error:
            raise RuntimeError(
                f"an annotation of {dtype.__name__} cannot be read: {error}. Define the class at the top of a module, "
                "or leave out `from __future__ import annotations`."
            ) from error
        for one in dataclasses.fields(dtype):
            if one.init:
                _add(parser, one, hints[one.name])
        for name in _former(dtype):
            # Hidden, so that --help shows the options of today.
            switch: dict[str, Any] = {"nargs": "?", "const": True} if FORMER[name].switch else {}
            kind = string_to_bool if FORMER[name].switch else str
            names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
            self.add_argument(*names, dest=name, type=kind, default=SUPPRESS, help=SUPPRESS, **switch)

    def parse_args_into_dataclasses(
        self,
        args: Sequence[str] | None = None,
        return_remaining_strings: bool = False,
        look_for_args_file: bool = True,
        args_filename: str | os.PathLike[str] | None = None,
        args_file_flag: str | None = None,
    ) -> tuple[Any, ...]:
        """Parse a command line.

        Args:
            args: its words; by default the process's.
            return_remaining_strings: also return the words that no option took.
            look_for_args_file: put the words of the file beside the script that ends in ``.args`` in front.
            args_filename: put the words of this file in front.
            args_file_flag: an option that names such files.

        Returns:
            an object of each dataclass; then a namespace of other options, if there are any; then, if asked for, the
            remaining words.

        Raises:
            ValueError: words are left that no option takes.
        """
        files = [Path(args_filename)] if args_filename else []
        if not files and look_for_args_file and sys.argv:
            files = [Path(sys.argv[0]).with_suffix(".args")]
        words = list(sys.argv[1:] if args is None else args)
        if args_file_flag:
            finder = ArgumentParser(add_help=False, allow_abbrev=False)
            finder.add_argument(args_file_flag, dest="files", action="append", default=[])
            found, words = finder.parse_known_args(words)
            files += [Path(name) for name in found.files]
        before = [word for file in files if file.is_file() for word in file.read_text(encoding="utf-8").split()]
        namespace, remaining = self.parse_known_args([*before, *words])
        made: list[Any] = [self._make(one, namespace) for one in self.dataclass_types]
        if vars(namespace):
            made.append(namespace)
        if return_remaining_strings:
            return (*made, remaining)
        if remaining:
            options = [option.lstrip("-") for option in self._option_string_actions]
            remedy = nearest(remaining[0].lstrip("-").partition("=")[0], options)
            raise InputError("arguments that no option takes", found=brief(remaining), remedy=remedy)
        return tuple(made)

    @staticmethod
    def _make(dtype: type, namespace: Namespace) -> object:
        names = {one.name for one in dataclasses.fields(dtype) if one.init} | set(_former(dtype))
        given = {name: value for name, value in vars(namespace).items() if name in names}
        former = set(given) & set(_former(dtype))
        if former:
            # An option that was not written holds its default, and does not contradict the older name.
            defaults = {one.name: one.default for one in dataclasses.fields(dtype)}
            given = {
                name: value for name, value in given.items() if name in former or value != defaults.get(name, _MISSING)
            }
        for name in names & vars(namespace).keys():
            delattr(namespace, name)
        return dtype(**given)

    def parse_dict(self, args: Mapping[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """Make the dataclasses of a mapping.

        Args:
            args: values by name.
            allow_extra_keys: keys that no dataclass has are left out.

        Raises:
            ValueError: there are keys that no dataclass has.
        """
        left = set(args)
        known: set[str] = set()
        made = []
        for dtype in self.dataclass_types:
            names = {one.name for one in dataclasses.fields(dtype) if one.init} | set(_former(dtype))
            known |= names
            left -= names
            made.append(dtype(**{name: value for name, value in args.items() if name in names}))
        if left and not allow_extra_keys:
            unknown = sorted(map(str, left))
            raise InputError("keys that no dataclass has", found=brief(unknown), remedy=nearest(unknown[0], known))
        return tuple(made)

    def parse_json_file(self, json_file: str | os.PathLike[str], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """Make the dataclasses of a JSON file; see :meth:`parse_dict`."""
        return self.parse_dict(_mapping(json_file, json.loads), allow_extra_keys)

    def parse_yaml_file(self, yaml_file: str | os.PathLike[str], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """Make the dataclasses of a YAML file; see :meth:`parse_dict`."""
        import yaml

        return self.parse_dict(_mapping(yaml_file, yaml.safe_load), allow_extra_keys)


def _mapping(file: str | os.PathLike[str], read: Callable[[str], object]) -> Mapping[str, Any]:
    held = read(Path(file).read_text(encoding="utf-8"))
    if not isinstance(held, Mapping):
        raise InputError("holds no arguments", where=str(file), expected="a mapping", found=brief(held))
    return held


def _former(dtype: type) -> list[str]:
    """Arguments of earlier releases that a class takes besides its fields."""
    from omniform.train.arguments import TrainingArguments

    if not issubclass(dtype, TrainingArguments):
        return []
    present = {one.name for one in dataclasses.fields(dtype)}
    return [name for name in FORMER if name not in present]


# -- options ---------------------------------------------------------------------------------------------------------


def _kind(name: str, hint: Any) -> Any:
    """What an option of this annotation holds: unions are what of them can be written on a command line."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    kinds = [one for one in get_args(hint) if one is not _NONE]
    if set(kinds) == {bool}:
        return bool | None
    if len(kinds) == 1:
        return kinds[0]
    if str not in kinds:
        raise ValueError(
            f"field {name!r}: an option holds one kind of value: a Union may be Optional[X], or hold str; found {hint}"
        )
    others = [one for one in kinds if one is not str]
    if others == [bool]:
        return _FLAG_OR_TEXT
    if len(others) == 1 and isinstance(others[0], type) and issubclass(others[0], Enum):
        return others[0]
    if len(others) == 1 and _NONE not in get_args(hint):
        return others[0]  # ``X | str``: the text is read as X
    return str


def _add(parser: ArgumentParser | _ArgumentGroup, one: dataclasses.Field[Any], hint: Any) -> None:
    kind = _kind(one.name, hint)
    told = dict(one.metadata)
    aliases = told.pop("aliases", [])
    aliases = [aliases] if isinstance(aliases, str) else list(aliases)
    names = [f"--{one.name}"] + ([f"--{one.name.replace('_', '-')}"] if "_" in one.name else [])
    flag = kind is bool or kind == bool | None
    default = one.default if one.default is not _MISSING else _MISSING
    if default is _MISSING and one.default_factory is not _MISSING:
        default = one.default_factory()
    shown = {key: value for key, value in told.items() if key not in ("nargs", "const", "choices")} if flag else told
    if flag:
        settings = _flag(kind, default, told)
    else:
        settings = _value(kind, told)
        if default is _MISSING:
            settings["required"] = True
        elif settings.get("nargs") == "+" and isinstance(default, str):
            settings["default"] = SUPPRESS  # the dataclass knows it; argparse would read it as one of the list
        else:
            settings["default"] = default
    parser.add_argument(*names, *aliases, **settings)
    if flag and default is True:
        off = f"--no_{one.name}", f"--no-{one.name.replace('_', '-')}"
        parser.add_argument(*off, action="store_false", dest=one.name, **(shown | {"default": False}))


def _flag(kind: object, default: object, told: dict[str, Any]) -> dict[str, Any]:
    settings = {**told, "type": string_to_bool}
    if kind is bool or default not in (None, _MISSING):
        # The name alone means True; a bool is never required.
        settings |= {"default": False if default is _MISSING else default, "nargs": "?", "const": True}
    elif default is None:
        settings["default"] = None
    return settings


def _value(kind: Any, told: dict[str, Any]) -> dict[str, Any]:
    settings = dict(told)
    origin = get_origin(kind)
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        choices = get_args(kind) if origin is Literal else [member.value for member in kind]
        return settings | {"choices": choices, "type": make_choice_type_function(choices)}
    if kind is list or (isinstance(origin, type) and issubclass(origin, list)):
        inner = (get_args(kind) or (str,))[0]
        settings |= {"nargs": "+", "type": inner}
        if get_origin(inner) is Literal:
            choices = get_args(inner)
            settings |= {"choices": choices, "type": make_choice_type_function(choices)}
        return settings
    if kind is _FLAG_OR_TEXT:
        return settings | {"type": _flag_or_text, "nargs": "?", "const": True}
    if kind is dict or origin is dict:
        return settings | {"type": _json}
    return settings | {"type": kind}


def _flag_or_text(word: str) -> bool | str:
    return string_to_bool(word) if word.lower() in (*_TRUE, *_FALSE) else word


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no JSON: {error}") from error


DataClass = object
"""An instance of a dataclass."""

DataClassType = type
"""A dataclass."""

__all__ = ["DataClass", "DataClassType", "HfArg", "HfArgumentParser", "make_choice_type_function", "string_to_bool"]
