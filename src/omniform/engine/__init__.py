"""Everything that generates: requests, their scheduling, paged state, steps and the choice of tokens."""

from omniform.engine.engine import Engine
from omniform.engine.handle import Handle
from omniform.engine.request import Completion
from omniform.engine.stats import Stats

__all__ = ["Completion", "Engine", "Handle", "Stats"]
