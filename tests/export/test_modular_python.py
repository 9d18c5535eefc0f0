"""Classes of every kind of member: what the result's do is what Python's inheritance does."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from export.modular_cases import Case, case, fill

ODD = """
import functools
import torch
from torch import nn

def track(f):
    @functools.wraps(f)
    def inner(self, *args, **kwargs):
        return f(self, *args, **kwargs) + 100
    return inner

class OddConfig:
    'Odd.'
    def __init__(self, size=4, rate=0.5, kind="plain", **kwargs):
        self.size = size
        self.rate = rate
        self.kind = kind
        for key, value in kwargs.items():
            setattr(self, key, value)
    def to_dict(self):
        return dict(vars(self))

class OddBlock(nn.Module):
    FACTOR = 3
    names = ("a", "b")
    def __init__(self, config, *sizes, scale=2, **extra):
        super().__init__()
        self.lin = nn.Linear(config.size, config.size)
        self.sizes = sizes
        self.scale = scale
        self.extra = extra
        self.register_buffer("table", torch.arange(4.0))
    @property
    def width(self):
        return self.lin.in_features
    @width.setter
    def width(self, value):
        self.stored = value
    @classmethod
    def build(cls, config, bonus=0):
        made = cls(config)
        made.bonus = bonus
        return made
    @staticmethod
    def double(x, times=2):
        return x * times
    @track
    def tracked(self, x):
        return x + 1
    def pieces(self, n):
        for i in range(n):
            yield i * self.scale
    def early(self, x):
        if x.sum() > 0:
            return x * 2
        return x * 3
    def forward(self, x, flag: bool = False, *, shift=1.0):
        helper = lambda y: y * self.scale
        x = self.lin(x)
        if flag:
            x = x + shift
        result = helper(x)
        return result
    def _hidden(self, x):
        return x - 1
"""

HEAD = """
import torch
from torch import nn
from modeling_odd import OddBlock, OddConfig
"""

X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Sizes:
    size, rate, kind = 4, 0.5, "plain"


def odd(folder: Path, text: str) -> Case:
    return case(folder, "mine", HEAD + text, files={"modeling_odd.py": ODD})


def test_members_of_every_kind(tmp_path: Path) -> None:
    found = odd(tmp_path, """
class MineConfig(OddConfig):
    def __init__(self, size=4, depth=7, **kwargs):
        super().__init__(size=size, depth=depth, **kwargs)
    def to_dict(self):
        out = super().to_dict()
        out["more"] = 1
        return out
class MineBlock(OddBlock):
    FACTOR = OddBlock.FACTOR + 1
    names = OddBlock.names + ("c",)
    def __init__(self, config, *sizes, **extra):
        self.early_flag = True
        super().__init__(config, *sizes, scale=5, **extra)
        self.total = sum(self.sizes)
    @property
    def width(self):
        return super().width + 1
    @classmethod
    def build(cls, config, bonus=0):
        made = super().build(config, bonus=bonus + 1)
        made.second = True
        return made
    @staticmethod
    def double(x, times=2):
        return OddBlock.double(x, times) + 1
    def tracked(self, x):
        return super().tracked(x) * 2
    def pieces(self, n):
        yield -1
        yield from super().pieces(n)
    def early(self, x):
        y = super().early(x)
        return y + 1
    def forward(self, x, flag=True, *, shift=2.0):
        'Doc of mine.'
        result = x
        out = super().forward(x, flag, shift=shift)
        return out + result + self._hidden(x)
    def other(self, x):
        return [super(MineBlock, self)._hidden(each) for each in x] + [super(OddBlock, self).extra_repr()]
    def _hidden(self, x):
        return super()._hidden(x) - self.FACTOR
""")  # fmt: skip
    one, other = found.modular, found.result
    assert one.MineConfig(size=3, foo=2).to_dict() == other.MineConfig(size=3, foo=2).to_dict()
    first, second = fill(one.MineBlock(Sizes, 1, 2, q=3)), fill(other.MineBlock(Sizes, 1, 2, q=3))
    for name in ("FACTOR", "names", "sizes", "scale", "extra", "total", "width"):
        assert getattr(first, name) == getattr(second, name), name
    built = [module.MineBlock.build(Sizes, bonus=3) for module in (one, other)]
    assert (built[0].bonus, built[0].second) == (built[1].bonus, built[1].second) == (4, True)
    for x in (X, X - 3, X + 3):
        assert torch.equal(first(x), second(x)) and torch.equal(first(x, False, shift=4.0), second(x, False, shift=4.0))
        assert torch.equal(first.early(x), second.early(x)) and torch.equal(first.tracked(x), second.tracked(x))
        assert torch.equal(one.MineBlock.double(x, 3), other.MineBlock.double(x, 3))
        pairs = zip(first.other(x), second.other(x), strict=True)
        assert all(torch.equal(p, q) if isinstance(p, torch.Tensor) else p == q for p, q in pairs)
    assert list(first.pieces(3)) == list(second.pieces(3))
    assert other.MineBlock.__bases__ == (nn.Module,) and other.MineBlock.forward.__doc__ == "Doc of mine."


def test_generators_branches_and_what_the_parents_parent_has(tmp_path: Path) -> None:
    found = odd(tmp_path, """
class MineBlock(OddBlock):
    def early(self, x):
        x = x + 1
        return super().early(x)
    def pieces(self, n):
        return super().pieces(n + 1)
    def forward(self, x, flag=False, *, shift=1.0):
        if flag:
            return x
        else:
            return super().forward(x)
    def __repr__(self):
        return super().__repr__() + "!"
""")  # fmt: skip
    first, second = fill(found.modular.MineBlock(Sizes)), fill(found.result.MineBlock(Sizes))
    for x in (X, X - 3):
        assert torch.equal(first.early(x), second.early(x)) and torch.equal(first(x), second(x))
    assert list(first.pieces(3)) == list(second.pieces(3)) and repr(first) == repr(second)


def test_another_setter_of_the_parents_property(tmp_path: Path) -> None:
    found = odd(tmp_path, """
class MineBlock(OddBlock):
    @OddBlock.width.setter
    def width(self, value):
        self.stored = value + 1
""")  # fmt: skip
    for module in (found.modular, found.result):
        block = module.MineBlock(Sizes)
        block.width = 3
        assert block.stored == 4 and block.width == 4


def test_a_parameter_that_hides_in_kwargs(tmp_path: Path) -> None:
    found = odd(tmp_path, """
class MineBlock(OddBlock):
    def __init__(self, config, **kwargs):
        kwargs.setdefault("scale", 9)
        super().__init__(config, **kwargs)
        self.after = kwargs
""")  # fmt: skip
    first, second = found.modular.MineBlock(Sizes, z=1), found.result.MineBlock(Sizes, z=1)
    assert first.scale == second.scale == 9 and first.extra == second.extra == {"z": 1}
    assert first.after == second.after


def test_lines_that_need_each_other_stay_in_order(tmp_path: Path) -> None:
    found = odd(tmp_path, """
class MineBlock(OddBlock):
    def __init__(self, config):
        super().__init__(config)
        self.mult = 2
        width = config.size * self.mult
        self.lin = nn.Linear(config.size, width)
        if config.size > 2:
            self.lin = nn.Linear(config.size, config.size)
        self.scale *= 3
        self.table = self.table + 1
""")  # fmt: skip
    first, second = found.modular.MineBlock(Sizes), found.result.MineBlock(Sizes)
    assert first.scale == second.scale and torch.equal(first.table, second.table)
    assert list(first.state_dict()) == list(second.state_dict())
    assert torch.equal(fill(first)(X), fill(second)(X))


def test_inner_functions_and_classes(tmp_path: Path) -> None:
    found = odd(tmp_path, """
def outer(x):
    def inner(y):
        return OddBlock.double(y) + LOCAL
    LOCAL = 2
    return inner(x)
class MineBlock(OddBlock):
    class Inner:
        base = OddConfig
        def make(self):
            return OddConfig(size=4)
    def forward(self, x, flag=False, *, shift=1.0):
        def twice(y):
            return y * 2 + outer(y)
        return twice(super().forward(x))
    async def later(self, x):
        return x
""")  # fmt: skip
    first, second = fill(found.modular.MineBlock(Sizes)), fill(found.result.MineBlock(Sizes))
    assert torch.equal(first(X), second(X)) and second.Inner().make().size == 4


def test_a_class_of_its_parents_name_stands_in_its_place(tmp_path: Path) -> None:
    source = """
    from torch import nn
    class Norm(nn.LayerNorm):
        pass
    class Block(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.norm = Norm(size)
        def forward(self, x):
            return self.norm(x)
    """
    found = case(tmp_path, "mine", """
from ejected import Block, Norm
class Norm(Norm):
    def forward(self, x):
        return super().forward(x) * 2
class MineBlock(Block):
    pass
""", files={"ejected.py": source})  # fmt: skip
    block = fill(found.result.MineBlock(4))
    plain = nn.LayerNorm(4)
    plain.load_state_dict(block.norm.state_dict())
    assert found.names() == ["Norm", "MineBlock"] and torch.equal(block(X), plain(X) * 2)


def test_generic_parents_positional_only_selfs_and_typed_dicts(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        """
from modeling_box import BoxHolder, BoxKeys, BoxPlan, T

class MineHolder(BoxHolder[T]):
    def pair(self, second, /, first):
        return super().pair(first, second)

class MineInts(BoxHolder[int]):
    def pair(self, first, second):
        return super().pair(first, second), "ints"

class MineKeys(BoxKeys, total=True):
    size: int

class MinePlan(BoxPlan):
    class Inner(BoxPlan.Inner):
        more = BoxPlan.chosen + 1
""",
        files={
            "modeling_box.py": """
from typing import Generic, TypedDict, TypeVar
T = TypeVar("T")

class BoxHolder(Generic[T]):
    def pair(self, first, second):
        return first, second

class BoxKeys(TypedDict, total=False):
    name: str

class BoxPlan:
    if True:
        chosen = 1
    class Inner:
        base = 3
"""
        },
    )
    mine, result = found.modular, found.result
    assert result.MineHolder[int]().pair(1, 2) == mine.MineHolder().pair(1, 2) == (2, 1)
    assert result.MineHolder.__bases__ == mine.BoxHolder.__bases__
    assert result.MineInts().pair(1, 2) == ((1, 2), "ints")
    assert result.MineKeys.__required_keys__ == {"size"}
    assert (result.MinePlan.Inner.base, result.MinePlan.Inner.more, result.MinePlan.chosen) == (3, 2, 1)


def test_comments_stay_wherever_they_stand(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        """
#!/usr/bin/env python
# Mine alone.

# above the import
from modeling_tiny import TinyNorm  # beside it

# above the class
class MineNorm(TinyNorm):  # on the class
    # first in the class
    eps = 1  # on a value

    # above the method
    def forward(self, x):  # on the method
        # first in the method
        y = super().forward(x)  # on the call
        # above the return
        return y  # on the return
        # last in the method
    # last in the class
# last in the file
""",
    )
    said = [line.split("# ", 1)[1] for line in found.text.splitlines() if "# " in line]
    assert found.text.startswith("#!/usr/bin/env python\n# Made from")
    for each in (
        "Mine alone.", "above the import", "above the class", "on the class", "first in the class", "on a value",
        "above the method", "on the method", "first in the method", "above the return", "on the return",
        "last in the method", "last in the class", "last in the file",
    ):  # fmt: skip
        assert said.count(each) == 1, each


def test_a_static_method_in_the_body_is_the_parents_own(tmp_path: Path) -> None:
    found = case(
        tmp_path,
        "mine",
        """
from modeling_made import MadeThing

class MineThing(MadeThing):
    made = MadeThing.make
    twin = staticmethod(MadeThing.make)

class MineOther(MadeThing):
    make = MadeThing.make
""",
        files={
            "modeling_made.py": """
class MadeThing:
    @staticmethod
    def make(x=1):
        return x
"""
        },
    )
    for module in (found.modular, found.result):
        assert (module.MineThing.made(2), module.MineThing.twin(3), module.MineOther.make(4)) == (2, 3, 4)
