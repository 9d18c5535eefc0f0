"""NEFTune: noise on the vectors of tokens while a model learns to follow instructions.

Source: Jain et al. 2023, "NEFTune: Noisy Embeddings Improve Instruction Finetuning".
"""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from omniform.core.errors import InputError
from omniform.train.wrapped import without_adapters


@runtime_checkable
class HasTable(Protocol):
    """A model with a table of tokens."""

    def get_input_embeddings(self) -> nn.Module: ...


def neftune_post_forward_hook(module: nn.Module, input: object, output: Tensor) -> Tensor:
    """Add uniform noise of ``alpha / sqrt(T * D)`` to vectors of shape [B, T, D], in training.

    Args:
        module: the table of tokens; its ``neftune_noise_alpha`` is ``alpha``.
    """
    if not module.training:
        return output
    most = cast(float, module.neftune_noise_alpha) / (output.size(1) * output.size(2)) ** 0.5
    return output + output.new_zeros(output.shape).uniform_(-most, most)


def activate_neftune(model: nn.Module, neftune_noise_alpha: float) -> RemovableHandle:
    """Add noise from now on; the handle's ``remove`` ends it.

    Raises:
        InputError: the model has no table of tokens.
    """
    inner = without_adapters(model)
    if not isinstance(inner, HasTable):
        raise InputError("no table of tokens to add noise to", where="neftune_noise_alpha", found=type(inner).__name__)
    table = inner.get_input_embeddings()
    vars(table)["neftune_noise_alpha"] = neftune_noise_alpha
    return table.register_forward_hook(neftune_post_forward_hook)


def deactivate_neftune(model: nn.Module, handle: RemovableHandle) -> None:
    """Take the noise away again."""
    handle.remove()
    table = cast(HasTable, without_adapters(model)).get_input_embeddings()
    vars(table).pop("neftune_noise_alpha", None)
