"""Families in installed packages, found through entry points; classes by the Auto class that loads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import omniform
from omniform import AutoConfig, AutoModel, AutoModelForCausalLM
from omniform.core.errors import ConfigError, InputError, UnknownNameError
from omniform.hub import own
from omniform.models import registry

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
IDS = torch.tensor([[1, 2, 3]])

FAMILY = """
from dataclasses import replace
from omniform.models.llama import FAMILY as LLAMA
from omniform.architectures.family import Family

FAMILY = Family("my-llama", LLAMA.read, {f"My{name}": replace(a, name=f"My{name}") for name, a in
                LLAMA.architectures.items()}, module=__name__)
"""
FUNCTION = """
import omniform
from torch import nn

class OwnConfig(omniform.PreTrainedConfig):
    model_type = "my-own"

    def __init__(self, width=4, **kwargs):
        self.width = width
        super().__init__(**kwargs)

class OwnModel(omniform.PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.inner = nn.Linear(config.width, config.width)
        self.post_init()

    def forward(self, x):
        return self.inner(x)

def register():
    omniform.AutoConfig.register("my-own", OwnConfig)
    omniform.AutoModel.register(OwnConfig, OwnModel)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that lays a package into a folder on the path, as an installer would."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.setattr(registry, "_CONFIGS", {})
    monkeypatch.setattr(own, "_REGISTERED", {})
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    names = []

    def install(name: str, code: str, **points: str) -> Path:
        (site / f"{name}.py").write_text(code)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "\n".join(f"{kind.replace('_', '-')} = {value}" for kind, value in points.items())
        (info / "entry_points.txt").write_text(f"[omniform.families]\n{lines}\n")
        names.append(name)
        return site

    yield install
    for name in names:
        sys.modules.pop(name, None)


def test_a_family_and_a_function_of_installed_packages(installed, tmp_path):
    installed("ownfamily", FAMILY, my_llama="ownfamily:FAMILY")
    installed("ownfunction", FUNCTION, my_own="ownfunction:register")
    config = AutoConfig.for_model("my-llama", **SIZES)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert type(model).__name__ == "MyLlamaForCausalLM"
    model.save_pretrained(tmp_path / "saved")
    registry._REGISTERED.clear()  # as in another process
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert again.generate(IDS, max_new_tokens=3).shape == (1, 6)
    assert "ownfunction" not in sys.modules  # the others are left alone
    mine = AutoModel.from_config(AutoConfig.for_model("my-own", width=3))
    mine.save_pretrained(tmp_path / "own")
    assert AutoModel.from_pretrained(tmp_path / "own").inner.weight.shape == (3, 3)


def test_entry_points_are_read_for_unknown_names_alone(installed, tmp_path):
    site = installed("ownbroken", "raise RuntimeError('import me and see')", llama="ownbroken:FAMILY", other="x:Y")
    code = "import omniform; omniform.AutoConfig.for_model('llama'); assert 'ownbroken' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"], text=True)
    assert done.returncode == 0


def test_a_broken_entry_point_is_named_and_breaks_nothing_else(installed):
    installed("ownbroken", "raise RuntimeError('import me and see')", broken="ownbroken:FAMILY")
    installed("ownwrong", FAMILY, wrong="ownwrong:FAMILY", absent="ownwrong:NOTHING", lazy="ownwrong:Family.mro")
    installed("ownfine", FUNCTION, my_own="ownfine:register")
    assert AutoConfig.for_model("my-own").width == 4
    for kind, said in {
        "broken": "ownbroken.*import me and see",
        "wrong": "ownwrong.*'my-llama'",
        "absent": "ownwrong.*NOTHING",
        "lazy": "ownwrong.*a function that does not",
    }.items():
        with pytest.raises(UnknownNameError, match=f"(?s){said}"):
            AutoConfig.for_model(kind)
    with pytest.raises(UnknownNameError, match="my-own"):
        AutoConfig.for_model("my-onw")


def test_registered_classes_are_found_by_config_and_by_name(installed):
    class Config(omniform.PreTrainedConfig):
        model_type = "named-here"

    class Kept:
        pass

    class Other(Kept):
        pass

    AutoConfig.register("named-here", Config)
    own.register("AutoThing", Config, (None, Kept), Kept)
    assert own.registered("AutoThing", config=Config) is Kept
    assert own.registered("AutoThing", model_type="named-here") is Kept
    assert own.registered("AutoThing", names=[None, 3, "Strange", "Kept"]) is Kept
    assert own.registered("AutoThing", model_type="llama") is None
    assert own.registered("AutoThing", model_type="nobody-knows") is None
    assert own.registered("AutoOther", config=Config) is None
    with pytest.raises(ConfigError, match=r"exist_ok=True"):
        own.register("AutoThing", Config, Other, Kept)
    own.register("AutoThing", Config, Other, Kept, exist_ok=True)
    assert own.registered("AutoThing", config=Config) is Other
    for config, kind in ((int, Kept), (Config, int), (Config, None), (Config, Kept())):
        with pytest.raises(InputError, match=r"AutoThing\.register"):
            own.register("AutoThing", config, kind, Kept, exist_ok=True)
