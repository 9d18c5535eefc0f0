"""Methods that users expect on a model but that belong to higher floors.

``model.generate`` is the engine's work and ``model.save_pretrained`` the hub's; a model lies below both and may not
import them. It calls them by name, at the time of use, through here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Literal, cast

Door = Literal["engine.generate:generate", "hub.save:save_model", "hub.save:save_config"]


def upstairs(door: Door) -> Callable[..., object]:
    """The function behind a door of a higher floor of omniform."""
    module, name = door.split(":")
    return cast(Callable[..., object], vars(import_module(f"omniform.{module}"))[name])
