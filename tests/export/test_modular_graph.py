"""What comes along, what stays away, and in which order."""

from __future__ import annotations

from pathlib import Path

from export.modular_cases import IDS, X, case, same, write
from omniform import convert_modular

HEAD = "from modeling_tiny import TinyConfig, TinyMixer, TinyMLP, TinyModel, TinyNorm, rotate\n"


def test_a_function_that_the_modular_file_has_anew_is_used_by_all(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from modeling_tiny import TinyMixer
import torch
def half(x):
    """Another way."""
    return x.flip(-1)
TINY_SCALE = 3.0
MINE_SCALE = 5.0
class MineMixer(TinyMixer):
    pass
''')  # fmt: skip
    assert found.text.count("def half") == 1 and "Another way." in found.text
    mixer = found.result.MineMixer(found.result.MineConfig(), 0)
    assert mixer(X).shape == X.shape
    assert found.result.rotate(X).equal(X.flip(-1) * 5.0)


def test_a_function_that_is_imported_from_elsewhere_is_used_by_all(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
# Other has a half of its own.
from modeling_other import half  # noqa
from modeling_tiny import TinyMixer

class MineMixer(TinyMixer):
    pass
''', files={"modeling_other.py": """
def tenth(x):
    return x / 10
def half(x):
    return tenth(x) * 5
"""})  # fmt: skip
    assert found.text.count("def half") == 1 and "def tenth" in found.text
    assert found.result.rotate(X).allclose(X)
    assert found.text.splitlines()[3] == "# Other has a half of its own."


def test_imported_functions_and_constants_come_along(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from modeling_tiny import TINY_SCALE, TinyNorm, rotate as turn
class MineNorm(TinyNorm):
    def forward(self, x):
        return turn(super().forward(x)) + TINY_SCALE
''')  # fmt: skip
    same(found.modular.MineNorm(8), found.result.MineNorm(8), X)
    assert "def turn" in found.text and "def half" in found.text and "class MineMLP" not in found.text


def test_statements_of_the_modular_file_are_kept_in_their_order(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
"""A model of mine."""
from modeling_tiny import TinyMLP, TinyNorm

TABLE = {}


def first(x):
    return x


# The first of the table.
TABLE["first"] = first
TABLE["norm"] = lambda: MineNorm  # not yet


class MineNorm(TinyNorm):
    """Mine."""

    # A comment of the class.
    kind = "mine"


if True:
    LATE = MineNorm
TABLE.update(late=LATE)
__all__ = ["MineNorm", "TABLE"]


class MineMLP(TinyMLP):
    pass
''')  # fmt: skip
    assert found.result.TABLE["first"](3) == 3 and found.result.TABLE["late"] is found.result.MineNorm
    assert found.result.__doc__ == "A model of mine." and found.result.MineNorm.__doc__ == "Mine."
    assert "# The first of the table.\nTABLE" in found.text and "# A comment of the class." in found.text
    assert found.text.rstrip().endswith('__all__ = ["MineNorm", "TABLE"]')
    assert found.result.__all__ == ["MineNorm", "TABLE"]


def test_imports_are_sorted_each_once_and_none_is_unused(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
import torch
import json, os.path
import numpy as np
from typing import Optional, Any, List
import torch.nn as nn
import torch.utils.checkpoint
from modeling_tiny import TinyMixer
try:
    import no_such_module
except ImportError:
    no_such_module = None
if nn:
    import collections
class MineMixer(TinyMixer):
    def forward(self, x: Optional[torch.Tensor], mask=None) -> Any:
        if no_such_module is not None:
            return torch.utils.checkpoint.checkpoint(super().forward, x)
        return super().forward(x, mask)
''')  # fmt: skip
    same(found.modular.MineMixer(found.modular.TinyMixer.__init__.__annotations__["config"](), 0),
         found.result.MineMixer(found.result.MineConfig(), 0), X)  # fmt: skip
    lines = [line for line in found.text.splitlines() if line.startswith(("import ", "from "))]
    assert lines == [
        "import math", "from dataclasses import dataclass", "from typing import Any, Optional", "import torch",
        "import torch.nn.functional as F", "import torch.utils.checkpoint", "from torch import nn",
    ]  # fmt: skip
    assert "try:\n    import no_such_module\nexcept ImportError:" in found.text and "collections" not in found.text


def test_two_imports_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from math import tau as F
from modeling_tiny import TinyMixer
class MineMixer(TinyMixer):
    def forward(self, x, mask=None):
        return super().forward(x, mask) * F
''')  # fmt: skip
    config = found.result.MineConfig()
    same(found.modular.MineMixer(config, 0), found.result.MineMixer(config, 0), X)


def test_what_acts_on_a_source_is_kept(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from modeling_other import OtherNorm
class MineNorm(OtherNorm):
    pass
''', run=False, files={"modeling_other.py": """
from torch import nn
REGISTRY = {}
UNUSED = []
def make(kind):
    return REGISTRY[kind]
class OtherNorm(nn.LayerNorm):
    def again(self):
        return make("norm")(4)
class OtherUnused(nn.Module):
    pass
REGISTRY["norm"] = OtherNorm
REGISTRY["list"] = list
UNUSED.append(OtherUnused)
print("never")
"""})  # fmt: skip
    assert isinstance(found.result.MineNorm(4).again(), found.result.MineNorm)
    assert "UNUSED" not in found.text and "print" not in found.text


def test_what_runs_while_the_file_is_imported_stands_above(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from modeling_other import OtherNorm
class MineNorm(OtherNorm):
    pass
''', run=False, files={"modeling_other.py": """
from torch import nn
def low():
    return 4
def size():
    return low() + BASE
BASE = 4
SIZE = size()
def marked(cls):
    cls.size = size()
    return cls
@marked
class OtherNorm(nn.LayerNorm):
    def __init__(self, size=SIZE):
        super().__init__(size)
    def twin(self) -> "OtherNorm":
        return OtherTwin()
class OtherTwin(OtherNorm):
    pass
"""})  # fmt: skip
    assert found.result.MineNorm().size == 8 and type(found.result.MineNorm().twin()).__name__ == "MineTwin"
    assert 'twin(self) -> "MineNorm"' in found.text


def test_a_config_that_only_annotations_name_is_taken_once(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from dataclasses import dataclass
from modeling_tiny import TinyConfig, TinyMLP, TinyMixer
@dataclass
class MineConfig(TinyConfig):
    """What mine is made of."""
    inner_size: int = 20
    heads: int = 2
    layers = 3
class MineMLP(TinyMLP):
    pass
''')  # fmt: skip
    assert found.names().count("MineConfig") == 1
    config = found.result.MineConfig()
    assert (config.inner_size, config.heads, config.hidden_size, config.layers) == (20, 2, 8, 3)
    assert found.result.MineConfig.__doc__ == "What mine is made of."
    fields = list(found.members("MineConfig"))
    assert fields == ["model_type", "hidden_size", "inner_size", "layers", "vocab_size", "heads"]
    same(found.modular.MineMLP(config), found.result.MineMLP(config), X)


def test_a_modular_file_of_a_modular_file(tmp_path: Path) -> None:
    write(tmp_path, "modular_middle.py", """
from modeling_tiny import TinyMLP, TinyNorm
class MiddleMLP(TinyMLP):
    def forward(self, x):
        return super().forward(x) + 1
class MiddleNorm(TinyNorm):
    pass
""")  # fmt: skip
    found = case(tmp_path, "mine", '''
from modular_middle import MiddleMLP, MiddleNorm
class MineMLP(MiddleMLP):
    def forward(self, x):
        return super().forward(x) * 2
''')  # fmt: skip
    config = found.result.MineConfig()
    same(found.modular.MineMLP(config), found.result.MineMLP(config), X)
    assert found.result.MineMLP.__mro__[1].__name__ == "Module" and "Middle" not in found.text


def test_levels_of_inheritance_within_the_file(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from modeling_tiny import TinyMLP
class MineMLP(TinyMLP):
    def forward(self, x):
        return super().forward(x) + 1
class MineWideMLP(MineMLP):
    def forward(self, x):
        return super().forward(x) * 3
''')  # fmt: skip
    config = found.result.MineConfig()
    same(found.modular.MineWideMLP(config), found.result.MineWideMLP(config), X)
    assert found.result.MineWideMLP.__bases__ == (found.result.MineMLP,)


def test_future_annotations_are_kept(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from __future__ import annotations
from modeling_tiny import TinyNorm
class MineNorm(TinyNorm):
    def later(self) -> MineMLP:
        return MineMLP
class MineMLP:
    pass
''')  # fmt: skip
    assert (
        "from __future__ import annotations\n" in found.text and found.result.MineNorm(3).later().__name__ == "MineMLP"
    )


def test_packages_relative_imports_and_flatten(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    for name, text in {
        "__init__.py": "", "base/__init__.py": "from .modeling_tiny import *\n", "base/helpers.py": "SCALE = 3\n",
        "base/modeling_tiny.py": "from torch import nn\nfrom .helpers import SCALE\nclass TinyNorm(nn.LayerNorm):\n"
        "    def forward(self, x):\n        return super().forward(x) * SCALE\n",
        "mine/__init__.py": "", "mine/modular_mine.py": "from ..base.modeling_tiny import TinyNorm\n"
        "class MineNorm(TinyNorm):\n    def forward(self, x):\n        return super().forward(x) + 1\n",
    }.items():  # fmt: skip
        write(package, name, text)
    text = convert_modular(package / "mine" / "modular_mine.py").text
    assert "SCALE = 3" in text and "pack" not in text and "return super().forward(x) * SCALE" in text
    path = write(tmp_path, "modular_block.py", "from omniform.blocks.norms import RMSNorm\n"
                 "class BlockNorm(RMSNorm):\n    pass\n")  # fmt: skip
    plain = convert_modular(path)
    assert "from omniform.blocks.norms import RMSNorm" in plain.text and "class BlockNorm(RMSNorm)" in plain.text
    flat = convert_modular(path, flatten=["omniform.blocks"])
    assert "omniform.blocks.norms" not in flat.text.split("\n", 1)[1] and "--flatten omniform.blocks" in flat.text


def test_mixins_keep_pythons_order(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from torch import nn
from modeling_tiny import TinyMLP, TinyNorm
class Double:
    def forward(self, x):
        return super().forward(x) * 2
class Named:
    name = "named"
    def forward(self, x):
        return x
class MineMLP(Double, TinyMLP):
    def forward(self, x):
        return super().forward(x) + 1
class MineNorm(TinyNorm, Named):
    def forward(self, x):
        return super().forward(x) - 1
class MineWords(Named, TinyNorm):
    pass
''')  # fmt: skip
    config = found.result.MineConfig()
    same(found.modular.MineMLP(config), found.result.MineMLP(config), X)
    same(found.modular.MineNorm(8), found.result.MineNorm(8), X)
    same(found.modular.MineWords(8), found.result.MineWords(8), X)
    assert found.result.MineNorm.name == "named"


def test_a_base_of_the_modular_file_stands_for_the_parents(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from modeling_tiny import TinyBase, TinyModel
class MineBase(TinyBase):
    parts = [*TinyBase.parts, "MineNorm"]
    @property
    def kind(self):
        return super().kind + "!"
class MineModel(TinyModel, MineBase):
    def forward(self, ids, mask=None):
        return super().forward(ids)
''')  # fmt: skip
    config = found.result.MineConfig()
    same(found.modular.MineModel(config), found.result.MineModel(config), IDS)
    assert found.result.MineModel.__bases__ == (found.result.MineBase,)
    assert found.result.MineModel(config).kind == "mine!" and found.result.MineBase.parts == ["MineLayer", "MineNorm"]


def test_a_family_of_omniforms_own(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", """
from dataclasses import dataclass
from omniform.blocks.attention import Attention
from omniform.models.llama import Config, read as read_llama
@dataclass(frozen=True, slots=True, kw_only=True)
class MineConfig(Config):
    window: int
class MineAttention(Attention):
    def forward(self, x_BTD, ctx):
        return super().forward(x_BTD * 2, ctx)
""")  # fmt: skip
    made = [module.MineConfig(text=None, attention_bias=True, mlp_bias=False, window=3) for module in
            (found.modular, found.result)]  # fmt: skip
    assert repr(made[0]) == repr(made[1]) and "omniform.models" not in found.text
    assert "from omniform.blocks.attention import Attention" in found.text


def test_parents_by_their_modules_names(tmp_path: Path) -> None:
    package = {"pack/__init__.py": "", "pack/deep/__init__.py": "", "pack/deep/modeling_deep.py":
               "import torch\nfrom torch import nn\nclass DeepNorm(nn.LayerNorm):\n    pass\n"}  # fmt: skip
    found = case(tmp_path, "mine", """
import modeling_tiny as base
import pack.deep.modeling_deep
from pack.deep import modeling_deep
class MineMLP(base.TinyMLP):
    pass
class MineNorm(pack.deep.modeling_deep.DeepNorm):
    scale = base.torch.pi
class MineMixer(base.TinyMixer):
    def forward(self, x, mask=None):
        return super().forward(base.half(x)) * modeling_deep.torch.pi
if True:
    class MineOther(base.TinyMLP):
        pass
""", files=package)  # fmt: skip
    config = found.result.MineConfig()
    for name in ("MineMLP", "MineOther"):
        same(getattr(found.modular, name)(config), getattr(found.result, name)(config), X)
    same(found.modular.MineNorm(8), found.result.MineNorm(8), X)
    same(found.modular.MineMixer(config, 0), found.result.MineMixer(config, 0), X)


def test_a_class_that_is_another_of_the_name_leaves_the_first_one(tmp_path: Path) -> None:
    other = "from torch import nn\nclass OtherMLP(nn.Module):\n    def forward(self, x):\n        return x - 1\n"
    found = case(tmp_path, "mine", """
from modeling_other import OtherMLP
from modeling_tiny import TinyMLP, TinyNorm
class MineMLP(OtherMLP):
    pass
class MineNorm(TinyNorm):
    def __init__(self, config):
        super().__init__(config.hidden_size)
        self.first = TinyMLP(config)
        self.second = MineMLP()
    def forward(self, x):
        return self.second(self.first(super().forward(x)))
""", files={"modeling_other.py": other})  # fmt: skip
    config = found.result.MineTinyConfig() if "MineTinyConfig" in found.names() else found.result.MineConfig()
    same(found.modular.MineNorm(config), found.result.MineNorm(config), X)


def test_a_librarys_own_bases_are_imported_and_its_families_written_out(tmp_path: Path) -> None:
    from omniform.export.modular.places import Place, is_family

    library = tmp_path / "site-packages" / "lib"
    for name, opened in {"modeling_utils.py": False, "zoo/modeling_zoo.py": True, "zoo/layers.py": False}.items():
        path = write(library, name, "class A:\n    pass\n")
        assert is_family(Place(f"lib.{path.stem}", path), ()) is opened
        assert is_family(Place(f"lib.{path.stem}", path), ("lib",))


def test_bases_are_merged_as_python_does(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        """
from modeling_root import RootA, RootBase

class Plain:
    def go(self):
        return ["plain", *super().go()]

class MineA(RootA, Plain, RootBase):
    pass
""",
        files={
            "modeling_root.py": """
class RootBase:
    def go(self):
        return ["base"]

class RootA(RootBase):
    def go(self):
        return ["a", *super().go()]
"""
        },
    )
    assert found.result.MineA().go() == found.modular.MineA().go() == ["a", "plain", "base"]


def test_all_is_made_last_and_in_order(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        """
from modeling_tiny import TinyNorm
__all__ = ["MineNorm"]
__all__ += ["EPS"]
if True:
    __all__.append("more")
more = 1
class MineNorm(TinyNorm):
    pass
EPS = 2.0
""",
    )
    assert found.result.__all__ == ["MineNorm", "EPS", "more"]
    assert found.text.count("__all__ = ") == 1 and found.text.index("class") < found.text.index("__all__")


def test_a_function_of_the_modular_files_may_call_the_one_that_it_replaces(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        """
import modeling_tiny
from modeling_tiny import TinyMixer

def rotate(x):
    return modeling_tiny.rotate(x) + 1

class MineMixer(TinyMixer):
    pass
""",
    )
    assert found.result.rotate(X).equal(found.modular.rotate(X))
