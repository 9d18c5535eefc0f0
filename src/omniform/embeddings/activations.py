"""Activations by the dotted names that embedding checkpoints write; a name is looked up, and never imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from torch import Tensor, nn

from omniform.core.errors import ConfigError

Function = Callable[[Tensor], Tensor]

_PLAIN: Final[tuple[type[nn.Module], ...]] = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardshrink, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign,
    nn.Tanh, nn.Tanhshrink,
)  # fmt: skip

# Without an axis, torch guesses one and warns: of scores [B, labels] it is the last.
_MADE: Final[Mapping[type[nn.Module], Callable[[], nn.Module]]] = {
    **{kind: kind for kind in _PLAIN},
    nn.Softmax: partial(nn.Softmax, dim=-1),
    nn.LogSoftmax: partial(nn.LogSoftmax, dim=-1),
}

ACTIVATIONS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    f"{module}.{kind.__name__}": make for kind, make in _MADE.items() for module in (kind.__module__, "torch.nn")
}
"""What each name makes: ``torch.nn.modules.activation.Tanh``, or shorter ``torch.nn.Tanh``."""


def activation_named(name: object, where: str) -> nn.Module:
    """The activation that a file names.

    Raises:
        ConfigError: it is not on the list. Nothing is imported to find out what it could be.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        short = sorted(key.rpartition(".")[2] for key in ACTIVATIONS if key.startswith("torch.nn.modules."))
        raise ConfigError(
            "this activation is not known, and nothing that a checkpoint names is imported",
            where=where,
            expected=f"torch.nn.modules... {', '.join(short)}",
            found=repr(name),
        )
    return ACTIVATIONS[name]()


def name_of(activation: Function) -> str:
    """The dotted name of an activation, as it is saved.

    Raises:
        ConfigError: it is none of those that can be read again.
    """
    kind = type(activation)
    name = f"{kind.__module__}.{kind.__qualname__}"
    activation_named(name, "activation")
    return name
