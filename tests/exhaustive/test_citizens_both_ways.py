"""What the suite tries on some models, with a mask or without: here on all, with both, for `make exhaustive`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "citizens"))

import test_citizen_models

test_citizen_models.WAYS.clear()
test_citizen_models.COSTLY.clear()
pytest_generate_tests = test_citizen_models.pytest_generate_tests
test_export = test_citizen_models.test_export
test_compile = test_citizen_models.test_compile
test_jit_trace = test_citizen_models.test_jit_trace
