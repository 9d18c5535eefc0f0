"""Settings of accelerate's Accelerator that a training passes on."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Final, cast

from omniform.core.errors import InputError, brief, check_arguments

__all__ = ["AcceleratorConfig"]

_MISSING: Final = object()


@dataclass
class AcceleratorConfig:
    """What of accelerate's Accelerator can be set.

    Args:
        split_batches: the batch size is that of all processes together, and batches are split.
        dispatch_batches: the main process alone loads, and sends the others their parts; None: for streams only.
        even_batches: fill up the last batches so that every process has as many.
        use_seedable_sampler: draw the order of rows from a seed per epoch.
        non_blocking: copy batches to the device without waiting.
        gradient_accumulation_kwargs: arguments of accelerate's GradientAccumulationPlugin.
        use_configured_state: take the state that accelerate has already been set up with.
    """

    split_batches: bool = False
    dispatch_batches: bool | None = None
    even_batches: bool = True
    use_seedable_sampler: bool = True
    non_blocking: bool = False
    gradient_accumulation_kwargs: dict[str, object] | None = None
    use_configured_state: bool = False

    @classmethod
    def from_json_file(cls, json_file: str | PathLike[str]) -> AcceleratorConfig:
        """Settings from a JSON file.

        Raises:
            InputError: the file cannot be read, or holds a key that is no setting.
        """
        path = Path(json_file)
        try:
            read: object = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError("no settings of accelerate can be read", where=str(path), found=str(error)) from error
        return cls.read(read, where=str(path))

    @classmethod
    def read(cls, value: object, *, where: str = "accelerator_config") -> AcceleratorConfig:
        """Settings from a mapping.

        Raises:
            InputError: it is no mapping.
            UnknownArgumentError: it holds a key that is no setting.
        """
        if not isinstance(value, Mapping):
            raise InputError("no settings of accelerate", where=where, expected="a mapping", found=brief(value))
        check_arguments(where, [str(key) for key in value], [one.name for one in fields(cls)])
        return cls(**value)

    def to_dict(self) -> dict[str, object]:
        """The settings by name."""
        return copy.deepcopy(vars(self))

    def pop(self, key: str, default: object = None) -> object:
        """Take a setting out; the default of the class is what is left."""
        found = vars(self).pop(key, _MISSING)
        return default if found is _MISSING else cast(object, found)
