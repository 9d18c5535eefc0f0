"""Activations as modules, by the names that configs use (``omniform.activations``), for models that users write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from torch import Tensor, nn

from omniform.blocks.mlp import ACTIVATIONS, activation
from omniform.core.errors import nearest


class Activated(nn.Module):
    """One of :data:`~omniform.blocks.mlp.ACTIVATIONS` as a module.

    Args:
        name: what configs call it.

    Raises:
        ConfigError: there is no such activation.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._function = activation(name)

    def forward(self, input: Tensor) -> Tensor:
        """Shape: any, in and out."""
        return self._function(input)

    def extra_repr(self) -> str:
        return self.name


class NewGELUActivation(Activated):
    """GELU by tanh."""

    def __init__(self) -> None:
        super().__init__("gelu_new")


class GELUActivation(Activated):
    """GELU."""

    def __init__(self, use_gelu_python: bool = False) -> None:
        super().__init__("gelu")


class QuickGELUActivation(Activated):
    """GELU by a sigmoid."""

    def __init__(self) -> None:
        super().__init__("quick_gelu")


class FastGELUActivation(Activated):
    """GELU by tanh."""

    def __init__(self) -> None:
        super().__init__("gelu_fast")


class ReLUSquaredActivation(Activated):
    """Squared ReLU."""

    def __init__(self) -> None:
        super().__init__("relu2")


class SiLUActivation(nn.SiLU):
    """SiLU."""


class GELUTanh(nn.GELU):
    """GELU by tanh."""

    def __init__(self, use_gelu_tanh_python: bool = False) -> None:
        super().__init__(approximate="tanh")


PytorchGELUTanh = GELUTanh

_CLASSES: Final[dict[str, Callable[[], nn.Module]]] = {
    "gelu": GELUActivation, "gelu_new": NewGELUActivation, "gelu_fast": FastGELUActivation,
    "gelu_pytorch_tanh": GELUTanh, "quick_gelu": QuickGELUActivation, "relu2": ReLUSquaredActivation,
    "silu": nn.SiLU, "swish": nn.SiLU, "relu": nn.ReLU, "relu6": nn.ReLU6, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "mish": nn.Mish, "selu": nn.SELU, "leaky_relu": nn.LeakyReLU, "hardswish": nn.Hardswish, "prelu": nn.PReLU,
    "softplus": nn.Softplus, "linear": nn.Identity,
}  # fmt: skip

ACT2CLS: Final[dict[str, Callable[[], nn.Module]]] = {
    **{name: partial(Activated, name) for name in ACTIVATIONS},
    **_CLASSES,
}
"""What makes the module that a config's name stands for."""


class Modules(Mapping[str, nn.Module]):
    """A new module for each name that is looked up."""

    def __getitem__(self, name: str) -> nn.Module:
        if name not in ACT2CLS:
            raise KeyError(f"no such activation: {name!r}. {nearest(str(name), ACT2CLS)}")
        return ACT2CLS[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(ACT2CLS)

    def __len__(self) -> int:
        return len(ACT2CLS)


ACT2FN: Final = Modules()


def get_activation(activation_string: str) -> nn.Module:
    """A new module for a config's name.

    Raises:
        KeyError: there is no such activation.
    """
    return ACT2FN[activation_string]


gelu: Final = activation("gelu")
gelu_new: Final = get_activation("gelu_new")
gelu_fast: Final = get_activation("gelu_fast")
gelu_python: Final = get_activation("gelu_python")
quick_gelu: Final = get_activation("quick_gelu")
silu: Final = activation("silu")
mish: Final = get_activation("mish")
linear_act: Final = get_activation("linear")

__all__ = [
    "ACT2CLS",
    "ACT2FN",
    "FastGELUActivation",
    "GELUActivation",
    "GELUTanh",
    "NewGELUActivation",
    "PytorchGELUTanh",
    "QuickGELUActivation",
    "ReLUSquaredActivation",
    "SiLUActivation",
    "gelu",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "get_activation",
    "linear_act",
    "mish",
    "quick_gelu",
    "silu",
]
