"""The files of a tokenizer of the user's own: its constructor's arguments out of a folder, and back into one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TypeVar, cast

from tokenizers import AddedToken

from omniform.core.errors import ConfigError, RepoError
from omniform.inputs.text.ids import shown
from omniform.inputs.text.own.tokens import OwnTokens
from omniform.inputs.text.recipes import recipe_of
from omniform.inputs.text.settings import read_json, read_settings
from omniform.inputs.text.special import Token
from omniform.inputs.text.tokenizer import Tokenizer, is_own, said_by

Kind = TypeVar("Kind", bound=Tokenizer)

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
# Said by the folder itself, or of nobody's business after it.
_LEFT_OUT = (
    "added_tokens_decoder", "auto_map", "chat_template", "device_map", "files_loaded", "is_local",
    "local_files_only", "name_or_path", "special_tokens_map_file", "tokenizer_class", "tokenizer_file",
    "slow_tokenizer_class", "init_inputs",
)  # fmt: skip


def files_of(kind: type[Tokenizer]) -> dict[str, str]:
    """The names of a class's vocabulary files by the arguments of its constructor; of the user's own it says them."""
    said = next((vars(one)["vocab_files_names"] for one in kind.__mro__ if "vocab_files_names" in vars(one)), None)
    if not isinstance(said, Mapping):
        # A class of omniform's, whose recipe tells.
        return {**dict(zip(("vocab_file", "merges_file"), recipe_of(kind.recipe_name).files, strict=False)),
                "tokenizer_file": TOKENIZER_FILE}  # fmt: skip
    return {str(name): str(file) for name, file in said.items() if file is not None}


def builds_itself(kind: type[Tokenizer]) -> bool:
    """Whether a class has a constructor, or names of files, of the user's own."""
    own = [vars(one) for one in takewhile(is_own, kind.__mro__)]
    return any("__init__" in space or "vocab_files_names" in space for space in own)


def made_from(
    kind: type[Kind],
    files: Mapping[str, Path],
    where: str,
    overrides: Mapping[str, object],
    inputs: tuple[object, ...] = (),
) -> Kind:
    """A tokenizer of a class of the user's own, by its constructor.

    Args:
        kind: the class.
        files: the files there are, by their name within the folder.
        where: the folder or repository.
        overrides: arguments that win over the files.
        inputs: arguments by position.

    Raises:
        RepoError: a file is missing that the constructor needs.
        ConfigError: a file is malformed.
    """
    raw = read_json(files[TOKENIZER_FILE]) if TOKENIZER_FILE in files else None
    settings = read_settings(files, where, overrides, raw)
    given: dict[str, object] = {k: v for k, v in settings.values.items() if k not in _LEFT_OUT}
    inputs = inputs or _inputs(settings.values.get("init_inputs"), where)
    given.update(settings.named)
    odd: dict[str, Token] = {}
    for name, token in settings.specific.items():
        (given if name.endswith("_token") else odd)[name] = token
    if odd:
        given["model_specific_special_tokens"] = odd
    if settings.extra is not None:
        given["extra_special_tokens"] = settings.extra
    if settings.templates is not None:
        given["chat_template"] = settings.templates
    if settings.added:
        given["added_tokens_decoder"] = settings.added
    given["name_or_path"] = where
    placed = [*inspect.signature(kind).parameters][: len(inputs)]
    for argument, name in files_of(kind).items():
        if overrides.get(argument) is None:
            given[argument] = str(files[name]) if name in files else None
            if name not in files:
                _check_optional(kind, argument, name, where, placed, files)
    if raw is not None and not issubclass(kind, OwnTokens):
        given |= {"tokenizer_file": str(files[TOKENIZER_FILE]), **_vocabulary(kind, raw)}
    given = {name: value for name, value in given.items() if name not in placed}
    return cast("Callable[..., Kind]", kind)(*inputs, **given)


def _vocabulary(kind: type[Tokenizer], raw: Mapping[str, object]) -> dict[str, object]:
    """The vocabulary and merges of a ``tokenizer.json``, for a constructor that makes the tokenizer of them itself."""
    model, parameters = raw.get("model"), inspect.signature(kind).parameters
    if not isinstance(model, Mapping) or "vocab" not in parameters:
        return {}
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocabulary, list):
        vocabulary = [tuple(piece) for piece in vocabulary]
    given: dict[str, object] = {"vocab": vocabulary}
    if "merges" in parameters and isinstance(merges, list):
        given["merges"] = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges]
    return given


def _inputs(said: object, where: str) -> tuple[object, ...]:
    if said is None:
        return ()
    if not isinstance(said, (list, tuple)):
        raise ConfigError("arguments come as a list", where=f"{where}: init_inputs", found=shown(said))
    return tuple(said)


def _check_optional(
    kind: type[Tokenizer], argument: str, name: str, where: str, placed: Sequence[str], files: Mapping[str, Path]
) -> None:
    """Refuse that a file is missing, unless the constructor has a default in its place."""
    parameter = inspect.signature(kind).parameters.get(argument)
    if parameter is None or parameter.default is not inspect.Parameter.empty or argument in placed:
        return
    raise RepoError(
        f"there is no {name}, which {kind.__name__} reads as its {argument}",
        where=where,
        found=", ".join(sorted(files)) or "no tokenizer files",
    )


def own_value(tokenizer: Tokenizer, name: str, default: object = None) -> object:
    """What a tokenizer or its class, but none of omniform's, has under a name; else the default."""
    if name in vars(tokenizer):
        return vars(tokenizer)[name]
    value = said_by(type(tokenizer), name, default)
    return value.__get__(tokenizer) if isinstance(value, property) else value


def settings_now(tokenizer: Tokenizer) -> dict[str, object]:
    """The class's name and the settings, as they now are, of a tokenizer whose class inherits from one of omniform's.

    Raises:
        ConfigError: a value is nothing that JSON holds.
    """
    if not is_own(type(tokenizer)):
        return {}
    kept = {k: v for k, v in tokenizer.settings.values.items() if k not in (*_LEFT_OUT, *files_of(type(tokenizer)))}
    now = {
        # The reference notes a word of its own under a name that is an object here.
        name: _plain(value if name == "backend" else own_value(tokenizer, name, value), name)
        for name, value in kept.items()
    }
    return {**now, "tokenizer_class": type(tokenizer).__name__}


def config_of(tokenizer: OwnTokens) -> dict[str, object]:
    """The content of ``tokenizer_config.json``: what the tokenizer was made with, as it now is.

    Raises:
        ConfigError: a value is nothing that JSON holds.
    """
    left_out = (*_LEFT_OUT, "model_specific_special_tokens", *files_of(type(tokenizer)))
    config = {
        name: own_value(tokenizer, name, value)
        for name, value in {**tokenizer.init_kwargs, "model_max_length": None}.items()
        if name not in left_out
    }
    named = tokenizer.special_tokens_map
    config |= {name: None for name in tokenizer.SPECIAL_TOKENS_ATTRIBUTES if name in config}
    config |= {name: token for name, token in named.items() if name.endswith("_token")}
    odd = {name: token for name, token in named.items() if not name.endswith("_token")}
    if odd:
        config["model_specific_special_tokens"] = odd
    if tokenizer.extra_special_tokens:
        config["extra_special_tokens"] = tokenizer.extra_special_tokens
    if tokenizer.init_inputs:
        config["init_inputs"] = list(tokenizer.init_inputs)
    config["added_tokens_decoder"] = {str(i): _plain(t, "") for i, t in tokenizer.added_tokens_decoder.items()}
    config["tokenizer_class"] = type(tokenizer).__name__
    return {name: _plain(value, name) for name, value in config.items()}


def _plain(value: object, where: str) -> object:
    """A value as JSON holds it; tokens with their flags.

    Raises:
        ConfigError: it is nothing that JSON holds.
    """
    if isinstance(value, AddedToken):
        state: dict[str, object] = json.loads(json.dumps(value.__getstate__()))
        return {**state, "__type": "AddedToken"} if where else state
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, where) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, where) for inner in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ConfigError(
        "the tokenizer was made with what cannot be saved",
        where=f"tokenizer_config.json: {where}",
        expected="text, numbers, lists and mappings of them",
        found=shown(value),
        remedy="Leave it out of what the class hands to super().__init__().",
    )
