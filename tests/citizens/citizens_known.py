"""What does not hold yet: by check, the models it fails for. A listed one that holds fails the test, so that the lists
stay true and only shrink."""

from __future__ import annotations

from collections.abc import Mapping

KNOWN: Mapping[str, frozenset[str]] = {
    "test_hooks_and_parametrisations": frozenset(["deberta-v2"]),
    "test_no_value_is_read": frozenset(["bart, rows", "t5, rows"]),
    "test_no_value_is_read, masked": frozenset(["bart, rows", "t5, rows"]),
}

INPUTS_KNOWN: Mapping[str, frozenset[str]] = {
    "test_fingerprint_is_stable": frozenset({"sounds"}),
}
