"""Adapters of every family, saved from ours and loaded by the reference: the suite tries one of each kind."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "citizens"))

import test_adapter_files

test_adapter_files.QUICK |= {*test_adapter_files.KINDS}
pytest_generate_tests = test_adapter_files.pytest_generate_tests
test_every_family_s_adapter_is_the_reference_s = test_adapter_files.test_every_family_s_adapter_is_the_reference_s
