"""The files of ``GenerationConfig``: read and written by themselves, and read with a model."""

from __future__ import annotations

import logging
import os

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.errors import InputError, brief
from omniform.core.files import write_text
from omniform.core.generation import GenerationConfig, strangers
from omniform.hub.files import Source, locate, read_json
from omniform.hub.folders import folder_of
from omniform.hub.options import places
from omniform.hub.push import send, sending_of

log = logging.getLogger("omniform")
INERT = frozenset({"proxies", "_from_pipeline", "_from_auto", "trust_remote_code", "_from_model_config"})


def read_settings(
    name: str | os.PathLike[str], file: str, given: dict[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """A file of settings, and the keywords that do not say where it is.

    Raises:
        RepoError: there is no such file.
    """
    where, rest = places(given)
    path = locate(name, **where).need(_named(file))  # type: ignore[arg-type]
    return read_json(path), {key: value for key, value in rest.items() if key not in INERT}


def settings_of(source: Source, model: Model) -> GenerationConfig:
    """What a checkpoint says of writing; names that nobody knows are kept, and named in one warning."""
    path = source.find("generation_config.json")
    if path is None:
        return model.generation_config
    config = GenerationConfig.from_dict(read_json(path))
    unknown = strangers(config.to_diff_dict(), model.own_settings if isinstance(model, Generative) else ())
    if unknown:
        log.warning("%s: kept, but not known to omniform: %s", path, ", ".join(unknown)[:2000])
    return config


def save_settings(
    settings: GenerationConfig, folder: str | os.PathLike[str], file: str, text: str, given: dict[str, object]
) -> None:
    """Write a file of settings, and send it to the Hub where ``given`` says so.

    Args:
        settings: what ``text`` holds.

    Raises:
        InputError: no folder's name.
        RepoError: the folder cannot be written.
    """
    options = dict(given)
    sending = sending_of(options.pop("push_to_hub", False), folder, options)
    where = folder_of(folder)
    target = where / _named(file)
    write_text(target, text, "the settings")
    if sending is not None:
        send(settings, where, [target.relative_to(where).as_posix()], sending)


def _named(file: object) -> str:
    if not isinstance(file, (str, os.PathLike)) or not os.fspath(file):
        raise InputError("this names no file", where="config_file_name", found=brief(file))
    return str(os.fspath(file))
