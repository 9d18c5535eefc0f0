"""Settings that a config holds as an object, and writes as what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod


class PlainSettings(ABC):
    """Base of objects that may be the value of a config's key."""

    @abstractmethod
    def to_dict(self) -> dict[str, object]:
        """What they say, as JSON can hold it."""
