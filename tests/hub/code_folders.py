"""Folders that bring code of their own, for tests: well-meant ones, and ones that leave a canary when they run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from omniform.hub.code import importer, trust

CONFIG = """
from omniform import PreTrainedConfig

class MineConfig(PreTrainedConfig):
    model_type = "mine"

    def __init__(self, width=4, **kwargs):
        self.width = width
        super().__init__(**kwargs)
"""

MODEL = """
from torch import nn
from omniform import PreTrainedModel
from .configuration_mine import MineConfig
from .sub.parts import OUT

class MineModel(PreTrainedModel):
    config_class = MineConfig

    def __init__(self, config):
        super().__init__(config)
        self.lin = nn.Linear(config.width, OUT)

    def forward(self, x):
        return self.lin(x)
"""

MAP = {"AutoConfig": "configuration_mine.MineConfig", "AutoModel": "modeling_mine.MineModel"}

FILES = {
    "configuration_mine.py": CONFIG,
    "modeling_mine.py": MODEL,
    "sub/parts.py": "from ..configuration_mine import MineConfig\nfrom . import more\nOUT = more.OUT\n",
    "sub/more.py": "OUT = 3\n",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the Hub's own, with nothing accepted yet."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_MODULES_CACHE", raising=False)
    monkeypatch.setattr(trust, "_SESSION", {})
    for name in [name for name in sys.modules if name.startswith(f"{importer.ROOT}.")]:
        monkeypatch.delitem(sys.modules, name)  # of a test before, whose copies lie in another home
    return tmp_path / "hf"


def put(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files into a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def config_json(auto_map: object = MAP, **more: object) -> str:
    return json.dumps({"model_type": "mine", "auto_map": auto_map, **more})


def mine(folder: Path, **files: str) -> Path:
    """A folder whose model, config and parts are its own."""
    return put(folder, {"config.json": config_json(), **FILES, **files})


def canary(path: Path) -> str:
    """Code that leaves a file behind when it runs."""
    return f"open({str(path)!r}, 'w').close()\n"
