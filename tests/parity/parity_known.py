"""Parity cases that fail today: (family, check) or (family, check, case). A listed case that passes fails, so the list
only shrinks."""

from __future__ import annotations

KNOWN: set[tuple[str, ...]] = set()
