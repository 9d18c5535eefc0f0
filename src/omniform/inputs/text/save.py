"""Writing a tokenizer's files, so that this library and the reference both read them back the same."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken

from omniform.core.errors import ConfigError, RepoError
from omniform.core.file_names import TEMPLATES_FOLDER
from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.settings import ChatTemplates, Settings
from omniform.inputs.text.special import Token

# tokenizer.json says these.
_IN_BACKEND = ("add_bos_token", "add_eos_token")
# Where a folder came from is nobody's business after it.
_PRIVATE = ("name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "merges_file", "device_map")


def config_of(
    settings: Settings, recipe: Recipe, named: Mapping[str, Token | None], extra: Sequence[Token]
) -> dict[str, object]:
    """The content of ``tokenizer_config.json``: what was read, with the special tokens as they now are."""
    config = {name: value for name, value in settings.values.items() if name not in (*_IN_BACKEND, *_PRIVATE)}
    config["tokenizer_class"] = recipe.name
    odd = {}
    for name, token in named.items():
        if name.endswith("_token"):
            config[name] = None if token is None else str(token)
        elif token is not None:
            odd[name] = str(token)
    if odd:
        config["model_specific_special_tokens"] = odd
    if extra:
        config["extra_special_tokens"] = [str(token) for token in extra]
    return config


def added(tokens: Mapping[int, AddedToken]) -> dict[str, object]:
    """Added tokens as ``tokenizer_config.json`` lists them, where no ``tokenizer.json`` does."""
    return {str(index): json.loads(json.dumps(token.__getstate__())) for index, token in tokens.items()}


def write(
    folder: Path, files: Mapping[str, str | bytes], config: Mapping[str, object], templates: ChatTemplates
) -> list[Path]:
    """Write the files of a tokenizer, each complete or not at all.

    Args:
        folder: made if it is missing.
        files: the content of ``tokenizer.json``, or of a vocabulary's files.
        config: the content of ``tokenizer_config.json``.
        templates: one chat template, or several by name.

    Returns:
        The files written.

    Raises:
        ConfigError: a template's name is no file name.
        RepoError: the folder cannot be written.
    """
    contents: dict[str, str | bytes] = {
        **files,
        "tokenizer_config.json": json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
    }
    contents.update(template_files(templates))
    written = []
    for name, content in contents.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            partial.write_bytes(content if isinstance(content, bytes) else content.encode())
            os.replace(partial, path)
        except OSError as error:
            raise RepoError("the file cannot be written", where=str(path), found=error.strerror) from error
        written.append(path)
    return written


def template_files(templates: ChatTemplates) -> dict[str, str]:
    """The files of chat templates and their contents.

    Raises:
        ConfigError: a template's name is no file name.
    """
    named = {"default": templates} if isinstance(templates, str) else templates or {}
    files = {}
    for name, template in named.items():
        if not name or Path(name).name != name or name.startswith("."):
            raise ConfigError("a chat template's name must do as a file name", found=repr(name))
        files["chat_template.jinja" if name == "default" else f"{TEMPLATES_FOLDER}/{name}.jinja"] = template
    return files
