"""A Hugging Face Hub on this machine, for tests and for trying things: ``make hub``, or the fixture ``hub``."""

from loopback.faults import Fault, Faults
from loopback.hub import Hub
from loopback.log import Asked, Log

__all__ = ["Asked", "Fault", "Faults", "Hub", "Log"]
