"""Readers of pictures and sounds whose settings are plain attributes: the base of those that are the user's own.

The file of one is the JSON object of its attributes, and it is made by handing that object to its constructor. So a
class body of the ecosystem works when its import is changed.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self, Unpack, cast

import numpy as np
from torch import Tensor

from omniform.core.errors import ConfigError, RepoError, UnknownArgumentError, brief, listed, nearest
from omniform.core.file_names import PREPROCESSOR_FILE
from omniform.core.pushing import SaveOptions
from omniform.core.upstairs import upstairs

PartName = Literal["image_processor", "video_processor", "feature_extractor"]


class Kept:
    """Settings as attributes, saved as they are.

    Args:
        settings: those that a subclass does not take; each becomes an attribute.
    """

    kept_as: ClassVar[PartName]
    """What it is called as a part of a processor, in ``processor_config.json``."""
    type_key: ClassVar[str]
    """The key of its file that holds its class's name."""
    left_out: ClassVar[frozenset[str]] = frozenset()
    """Attributes that follow from others, and are not saved."""

    def __init__(self, **settings: object) -> None:
        for name, value in settings.items():
            if name not in ("processor_class", "image_processor_type", "feature_extractor_type"):
                setattr(self, name, value)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object) -> Self:
        """Load from a folder or a Hub id, with some settings changed by keyword.

        Args:
            kwargs: where to look (``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``,
                ``subfolder``); settings; ``return_unused_kwargs=True`` to give back those that it does not have.

        Raises:
            RepoError: there is no such folder or repository, or no such file in it.
            ConfigError: the file is malformed, or the class cannot be made of it.
            UnknownArgumentError: it has no such setting.
        """
        return cast(Self, upstairs("hub.own_inputs:load_kept")(cls, pretrained_model_name_or_path, **kwargs))

    @classmethod
    def from_dict(cls, settings: Mapping[str, object], **changes: object) -> Self:
        """Make it of the object in its file, some settings changed.

        Raises:
            ConfigError: the constructor refuses the object.
            UnknownArgumentError: it has no such setting, and ``return_unused_kwargs`` is not set.
        """
        pair = changes.pop("return_unused_kwargs", False) is True
        takes = inspect.signature(cls.__init__).parameters
        own = {name: value for name, value in changes.items() if name in takes}
        given = {**copy.deepcopy(dict(settings)), **own}
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            for name in (cls.type_key, "processor_class", "auto_map"):
                given.pop(name, None)
        try:
            made = cls(**given)
        except (TypeError, AttributeError) as error:
            raise ConfigError(
                f"a {cls.__name__} cannot be made of these settings",
                where=cls.__name__,
                found=str(error),
                remedy="Every argument of the constructor needs a default, and **kwargs takes the others.",
            ) from error
        left = {name: value for name, value in changes.items() if name not in own}
        for name in [name for name in left if name in vars(made)]:
            setattr(made, name, left.pop(name))
        if left and not pair:
            name = next(iter(left))
            remedy = nearest(name, [*vars(made), *takes])
            raise UnknownArgumentError(f"{cls.__name__} has no setting {name!r}", remedy=remedy)
        return cast(Self, (made, left)) if pair else made

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Make it of one file.

        Raises:
            RepoError, ConfigError: the file cannot be read, or holds no object.
        """
        try:
            value = json.loads(Path(json_file).read_bytes())
        except OSError as error:
            raise RepoError("the file cannot be read", where=os.fspath(json_file), found=error.strerror) from error
        except ValueError as error:
            raise ConfigError("the file is not JSON", where=os.fspath(json_file), found=str(error)) from None
        if not isinstance(value, dict):
            raise ConfigError("the file holds no object", where=os.fspath(json_file), found=type(value).__name__)
        return cls.from_dict(value)

    def to_dict(self) -> dict[str, object]:
        """What is saved: every attribute, and the class's name."""
        kept = {name: value for name, value in vars(self).items() if name not in self.left_out}
        return {**copy.deepcopy(kept), self.type_key: type(self).__name__}

    def to_json_string(self) -> str:
        """The text of its file.

        Raises:
            ConfigError: an attribute is no value that JSON can hold.
        """
        return json.dumps(_plain(type(self).__name__, self.to_dict()), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json_string` to a file."""
        Path(json_file_path).write_text(self.to_json_string(), encoding="utf-8")

    def save_files(self, folder: Path) -> object:
        """Write ``preprocessor_config.json`` into a folder.

        Raises:
            ConfigError: what is written would be read as something else: the class does not keep what it is given.
        """
        self.check_kept()
        self.to_json_file(folder / PREPROCESSOR_FILE)
        return None

    def check_kept(self) -> None:
        """Raise :class:`ConfigError` if what is saved would be read as something else."""
        found = json.loads(self.to_json_string())
        again = json.loads(type(self).from_dict(found).to_json_string())
        lost = sorted(name for name in found.keys() | again.keys() if found.get(name) != again.get(name))
        if lost:
            raise ConfigError(
                "what is saved is read as something else",
                where=type(self).__name__,
                expected=f"{lost[0]} to stay {brief(found.get(lost[0]))}",
                found=f"{brief(again.get(lost[0]))}; in all {listed(lost)}",
                remedy="Its constructor must keep every argument as an attribute of that name, and give **kwargs on.",
            )

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **hub: Unpack[SaveOptions]
    ) -> None:
        """Save as ``preprocessor_config.json``, whole or not at all; other files in the folder stay.

        Args:
            push_to_hub: also commit it to a repository.
            hub: to which, and how; see :class:`~omniform.core.pushing.SaveOptions`.

        Raises:
            RepoError: the folder cannot be written, or the Hub refuses the file.
        """
        upstairs("hub.auto_inputs:save_inputs")(self, save_directory, push_to_hub=push_to_hub, **hub)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _plain(where: str, value: object) -> object:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(where, inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(where, inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return cast(object, value.tolist())
    raise ConfigError(
        "settings are plain values", where=where, expected="what JSON can hold", found=type(value).__name__
    )
