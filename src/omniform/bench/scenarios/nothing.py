"""Nothing: of the process that measures what the machine can do."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Scenario


@dataclass(frozen=True, kw_only=True)
class Nothing(Scenario):
    """No work at all."""
