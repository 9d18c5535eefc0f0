"""What ``super()`` means in a modular file, written out: the result computes what Python's inheritance does."""

from __future__ import annotations

from pathlib import Path

import torch

from export.modular_cases import IDS, X, case, same

HEAD = """
import torch
from torch import nn
from modeling_tiny import TinyConfig, TinyForWords, TinyLayer, TinyMLP, TinyMixer, TinyModel, TinyNorm
"""


class Sizes:
    """A config that both know."""

    model_type = "mine"
    hidden_size, inner_size, layers, vocab_size = 8, 12, 2, 11


def test_a_line_of_the_parents_init_is_set_anew_in_its_place(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        HEAD
        + """
class MineMLP(TinyMLP):
    def __init__(self, config):
        super().__init__(config)
        self.act = nn.Tanh()
        self.up = nn.Linear(config.hidden_size, config.inner_size, bias=True)
        self.gate = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x):
        return super().forward(x) * torch.sigmoid(self.gate(x))
""",
    )
    same(found.modular.MineMLP(Sizes), found.result.MineMLP(Sizes), X)
    init = found.members("MineMLP")["__init__"]
    assert "nn.GELU" not in init and init.count("self.up = ") == 1
    assert init.index("self.up") < init.index("self.down") < init.index("nn.Tanh") < init.index("self.gate")
    assert found.result.MineMLP.__bases__ == (torch.nn.Module,)


def test_del_takes_a_line_of_the_parents_away(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        HEAD
        + """
class MineMLP(TinyMLP):
    def __init__(self, config):
        super().__init__(config)
        del self.act

    def forward(self, x):
        return self.down(self.up(x))
""",
    )
    same(found.modular.MineMLP(Sizes), found.result.MineMLP(Sizes), X)
    assert "act" not in found.members("MineMLP")["__init__"]


def test_deleted_lines_that_read_each_other_all_go(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from torch import nn
from modeling_other import OtherBlock
class MineBlock(OtherBlock):
    def __init__(self, size):
        super().__init__(size)
        del self.wide
        del self.count
        del temporary
''', run=False, files={"modeling_other.py": '''
from torch import nn
class OtherBlock(nn.Module):
    def __init__(self, size):
        super().__init__()
        temporary = size * 2
        self.wide = nn.Linear(size, temporary)
        self.count = self.wide.out_features
        self.register_buffer("kept", None)
        self.inner = nn.Linear(size, size)
class OtherNorm(nn.Module):
    pass
'''})  # fmt: skip
    init = found.members("MineBlock")["__init__"]
    assert not any(word in init for word in ("wide", "count", "temporary", "del "))
    assert "kept" in init and "self.inner" in init


def test_super_in_an_expression_keeps_the_parents_method(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        HEAD
        + """
class MineMLP(TinyMLP):
    def forward(self, x):
        if x.shape[0] > 1:
            return super().forward(x) + 1
        return [super(MineMLP, self).forward(x)][0]

class MineNorm(TinyNorm):
    def forward(self, x):
        return torch.relu(TinyNorm.forward(self, x))
""",
    )
    same(found.modular.MineMLP(Sizes), found.result.MineMLP(Sizes), X)
    same(found.modular.MineMLP(Sizes), found.result.MineMLP(Sizes), X[:1])
    same(found.modular.MineNorm(8), found.result.MineNorm(8), X)
    assert "super" not in found.members("MineMLP")["forward"]


def test_what_is_assigned_from_super_is_the_parents_last_line(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        HEAD
        + """
class MineMLP(TinyMLP):
    def forward(self, x):
        hidden = x
        out = super().forward(x)
        return out + hidden

class MineMixer(TinyMixer):
    def forward(self, x, mask=None):
        scores = x.mean()
        out = super().forward(x * 2, mask)
        return out * scores
""",
    )
    same(found.modular.MineMLP(Sizes), found.result.MineMLP(Sizes), X)
    same(found.modular.MineMixer(Sizes, 0), found.result.MineMixer(Sizes, 0), X)
    # The parent's variable of the name that the child still reads has another one.
    assert "parent_hidden" in found.members("MineMLP")["forward"]


def test_arguments_of_super_reach_the_parents_parameters(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        HEAD
        + """
class MineMLP(TinyMLP):
    def __init__(self, config, wide: bool = True):
        super().__init__(config, bias=wide)
        self.wide = wide

class MineNorm(TinyNorm):
    def __init__(self, config):
        super().__init__(config.hidden_size)

class MineMixer(TinyMixer):
    def forward(self, x, mask=None, shift=1.0):
        return super().forward(x + shift)
""",
    )
    same(found.modular.MineMLP(Sizes), found.result.MineMLP(Sizes), X)
    same(found.modular.MineNorm(Sizes), found.result.MineNorm(Sizes), X)
    same(found.modular.MineMixer(Sizes, 1), found.result.MineMixer(Sizes, 1), X)


def test_super_kwargs_stand_for_the_parents_parameters(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", HEAD + '''
class MineForWords(TinyForWords):
    def forward(self, **super_kwargs):
        """Ids to words."""
        return super().forward(**super_kwargs)

class MineMLP(TinyMLP):
    def __init__(self, bias=True, new=3, **super_kwargs):
        super().__init__(**super_kwargs)
        self.new = new
''', run=False)  # fmt: skip
    assert "def forward(self, ids, mask=None, **kwargs):" in found.members("MineForWords")["forward"]
    assert "def __init__(self, config: MineConfig, bias=True, new=3):" in found.members("MineMLP")["__init__"]
    model = found.result.MineForWords(found.result.MineConfig())
    assert model(ids=IDS).shape == (2, 4, 11)
    assert found.result.MineMLP(config=Sizes).up.bias is not None


def test_post_init_is_the_last_call(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        HEAD
        + """
class MineModel(TinyModel):
    def __init__(self, config):
        super().__init__(config)
        self.extra = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, ids, mask=None):
        return self.extra(super().forward(ids, mask))
""",
    )
    same(found.modular.MineModel(Sizes), found.result.MineModel(Sizes), IDS)
    init = found.members("MineModel")["__init__"]
    assert init.count("post_init") == 1 and init.rstrip().endswith("self.post_init()")
    assert "extra" in found.result.MineModel(Sizes).ready


def test_a_line_stays_below_what_undoes_the_parents(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", HEAD + '''
class MineMLP(TinyMLP):
    def __init__(self, config, wide=True):
        super().__init__(config)
        if wide:
            del self.act
        self.act = nn.Tanh()
        self.kept = self.act
''')  # fmt: skip
    same(found.modular.MineMLP(Sizes), found.result.MineMLP(Sizes), X)
    assert isinstance(found.result.MineMLP(Sizes).kept, torch.nn.Tanh)


def test_super_in_inner_functions_names_its_class(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        HEAD
        + """
class MineNorm(TinyNorm):
    def extra_repr(self):
        def inner():
            return super(MineNorm, self).extra_repr() + str(self.eps)
        return inner() + (lambda: nn.Module.extra_repr(self))() + "".join([super(MineNorm, self).extra_repr()])

    def forward(self, x):
        twice = [super(MineNorm, self).forward(each) for each in (x, 2 * x)]
        with torch.no_grad():
            return torch.cat(twice) if super().forward(x).dim() else x
""",
    )
    mine, result = found.modular.MineNorm(8), found.result.MineNorm(8)
    assert mine.extra_repr() == result.extra_repr() == "1e-05"
    same(mine, result, X)


def test_what_needs_the_parent_itself_keeps_it(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        HEAD
        + """
class MineNorm(TinyNorm):
    def forward(self, x):
        above, forward = super(), super().forward
        return above.forward(x) + forward(x)


class MineBase(TinyModel):
    parts = [*TinyModel.parts, "MineLayer"]
    setup = TinyModel.__init__
""",
    )
    same(found.modular.MineNorm(8), found.result.MineNorm(8), X)
    assert found.result.MineNorm.__bases__[0].__name__ not in ("Module", "TinyNorm")
    assert found.result.MineBase.parts[1:] == ["MineLayer"]
    assert any("MineNorm stays a child of TinyNorm" in note for note in found.found.notes)


def test_documentation_and_what_is_the_parents_alone_are_not_kept_twice(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        """
from modeling_house import HouseShape

class MineShape(HouseShape):
    def area(self, scale):
        return super().area(scale) + super().area(1)

    def name(self):
        return "mine"
""",
        files={
            "modeling_house.py": """
import abc
from functools import wraps

def auto_docstring(function):
    @wraps(function)
    def documented(*args):
        return function(*args)
    return documented

class HouseShape(abc.ABC):
    @auto_docstring
    def area(self, scale):
        '''The area.'''
        return 2 * scale

    @abc.abstractmethod
    def name(self):
        ...
"""
        },
    )
    mine, result = found.modular.MineShape(), found.result.MineShape()
    assert result.area(3) == mine.area(3) == 8 and result.name() == "mine"
    assert found.text.count("The area.") == 1 and found.text.count("@auto_docstring") == 1
    assert found.members("MineShape")["area"].startswith("@auto_docstring")
