"""Shared settings of all tests: no network, one thread."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

# The fixture `hub`: a Hub on this machine (tests/loopback). It needs the path above.
from loopback.fixtures import hub as hub
