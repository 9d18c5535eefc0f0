"""Adapters that PEFT trains on our models and saves: the reference loads them, under its own names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_adapters import answer, pair, trained

from citizens import CITIZENS
from reference import close, omniform

# isort: split
import peft  # after the reference, whose torchvision is made importable there

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS: dict[str, str] = {}
for _name, _citizen in CITIZENS.items():
    KINDS.setdefault(_citizen.model_type, _name)
OTHERS = {  # where PEFT refuses all linear layers of a model, or one of the reference's has others
    "mamba": ["in_proj", "x_proj"], "mamba2": ["in_proj"], "falcon_mamba": ["in_proj", "x_proj"],
    "falcon_h1": ["q_proj", "in_proj", "up_proj"], "bamba": ["q_proj", "in_proj", "up_proj"],
}  # fmt: skip


def loaded(name: str, folder: Path) -> torch.nn.Module:
    return getattr(omniform, CITIZENS[name].architecture).from_pretrained(folder)


@pytest.mark.parametrize("name", KINDS.values())
def test_every_family_s_adapter_is_the_reference_s(name, tmp_path):
    """Saved from ours, loaded by PEFT over the reference's model, and by ours again."""
    theirs, ours = pair(name, tmp_path / "base")
    ours = trained(ours, target_modules=OTHERS.get(CITIZENS[name].model_type, "all-linear"), use_rslora=True)
    ours.save_pretrained(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    found = answer(ours, name)
    close(answer(theirs, name), found)
    again = peft.PeftModel.from_pretrained(loaded(name, tmp_path / "base"), tmp_path / "adapter").eval()
    close(answer(again, name), found)
    assert not torch.allclose(found, answer(loaded(name, tmp_path / "base"), name), atol=1e-3)
