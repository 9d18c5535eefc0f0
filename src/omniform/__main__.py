"""``python -m omniform``."""

from omniform.cli.main import entry

entry()
