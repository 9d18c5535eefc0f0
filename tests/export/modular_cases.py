"""Modular files in a folder of their own, run as ordinary Python, and the files that they are converted to."""

from __future__ import annotations

import ast
import sys
import textwrap
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from omniform.export.modular import ModularFile, convert_modular

TINY = '''
"""A family of a few layers, as an ejected file is."""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

TINY_SCALE = 2.0
logger = None


@dataclass
class TinyConfig:
    """What a Tiny model is made of."""

    model_type: str = "tiny"
    hidden_size: int = 8
    inner_size: int = 12
    layers: int = 2
    vocab_size: int = 11


def rotate(x):
    """Turns the halves of a vector."""
    return half(x) * TINY_SCALE


def half(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


class TinyNorm(nn.Module):
    """The norm of Tiny."""

    def __init__(self, size, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class TinyMLP(nn.Module):
    # The inner layer of Tiny is wider.
    def __init__(self, config: TinyConfig, bias=False):
        super().__init__()
        self.config = config
        self.up = nn.Linear(config.hidden_size, config.inner_size, bias=bias)
        self.down = nn.Linear(config.inner_size, config.hidden_size, bias=bias)
        self.act = nn.GELU()

    def forward(self, x):
        hidden = self.act(self.up(x))
        return self.down(hidden)


class TinyMixer(nn.Module):
    def __init__(self, config: TinyConfig, index: int):
        super().__init__()
        self.index = index
        self.scale = 1 / math.sqrt(config.hidden_size)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, mask=None):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = rotate(q) @ k.transpose(-1, -2) * self.scale
        if mask is not None:
            scores = scores + mask
        return self.out(F.softmax(scores, dim=-1) @ v)


class TinyLayer(nn.Module):
    def __init__(self, config: TinyConfig, index: int):
        super().__init__()
        self.norm = TinyNorm(config.hidden_size)
        self.mixer = TinyMixer(config, index)
        self.mlp = TinyMLP(config)

    def forward(self, x, mask=None):
        x = x + self.mixer(self.norm(x), mask)
        return x + self.mlp(x)


class TinyBase(nn.Module):
    config_class = TinyConfig
    parts = ["TinyLayer"]

    def __init__(self, config):
        super().__init__()
        self.config = config

    def post_init(self):
        self.ready = [name for name, _ in self.named_children()]

    @property
    def kind(self):
        return self.config.model_type


class TinyModel(TinyBase):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([TinyLayer(config, index) for index in range(config.layers)])
        self.norm = TinyNorm(config.hidden_size)
        self.post_init()

    def forward(self, ids, mask=None):
        """Ids to vectors."""
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class TinyForWords(TinyBase):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.model = TinyModel(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, ids, mask=None, **kwargs):
        hidden = self.model(ids, mask)
        return self.head(hidden)
'''


@dataclass
class Case:
    """A modular file, run as Python, and what it was converted to, run without any of its sources.

    Attributes:
        found: the conversion.
        modular, result: the two modules.
        folder: where the modular file lies.
    """

    found: ModularFile
    modular: ModuleType | None
    result: ModuleType
    folder: Path

    @property
    def text(self) -> str:
        return self.found.text

    def members(self, name: str) -> dict[str, str]:
        """The members of a class of the result, and their code."""
        node = next(each for each in ast.parse(self.text).body if isinstance(each, ast.ClassDef) and each.name == name)
        return {key: ast.unparse(each) for each in node.body if (key := _key(each)) is not None}

    def names(self) -> list[str]:
        """What the result defines, in order."""
        return [key for each in ast.parse(self.text).body if (key := _key(each)) is not None]


def _key(node: ast.stmt) -> str | None:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return node.name
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0])
    return ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else None


def write(folder: Path, name: str, text: str) -> Path:
    """A file of code in a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip("\n"), "utf-8")
    return path


def load(path: Path, name: str | None = None) -> ModuleType:
    """Run a file, with its own folder as the only place of neighbours."""
    name = name or f"ran_{path.parent.name}_{path.stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def case(folder: Path, name: str, text: str, *, run: bool = True, files: dict[str, str] | None = None) -> Case:
    """Convert ``modular_<name>.py`` beside ``modeling_tiny.py`` and other files, and run both."""
    drawn = {"modeling_tiny.py": TINY, **(files or {})}
    for each, content in drawn.items():
        write(folder, each, content)
    path = write(folder, f"modular_{name}.py", text)
    alone = folder / "alone"
    alone.mkdir(exist_ok=True)
    found = convert_modular(path, alone / f"modeling_{name}.py")
    result = load(found.path)
    assert not {Path(each).stem for each in drawn} & set(vars(result)), "a source is imported"
    modular = None
    if run:
        try:
            modular = load(path)
        finally:
            for each in drawn:
                sys.modules.pop(each.removesuffix(".py").replace("/", "."), None)
    return Case(found, modular, result, folder)


def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and buffer by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return module


def same(one: nn.Module, other: nn.Module, *args: object, **kwargs: object) -> torch.Tensor:
    """Give both the same weights, in their order, and check that they compute the same."""
    shapes = [[tuple(each.shape) for each in module.state_dict().values()] for module in (one, other)]
    assert shapes[0] == shapes[1]
    with torch.no_grad():
        first, second = fill(one.eval())(*args, **kwargs), fill(other.eval())(*args, **kwargs)
    assert torch.equal(first, second)
    assert isinstance(first, torch.Tensor)
    return first


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
X = torch.linspace(-1, 1, 48).reshape(2, 3, 8)
