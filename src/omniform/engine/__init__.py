"""Everything that generates: requests, their scheduling, paged state, steps and the choice of tokens."""

from omniform.engine.engine import Engine, Stats
from omniform.engine.handle import Handle
from omniform.engine.request import Completion

__all__ = ["Completion", "Engine", "Handle", "Stats"]
