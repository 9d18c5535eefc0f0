"""Early exit: the first layers of a model, with its own head, as a smaller model (https://arxiv.org/abs/2404.16710)."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

from torch import nn

from omniform.architectures.decoder import CausalLM
from omniform.architectures.encoder_decoder import Seq2SeqLM
from omniform.architectures.generative import Generative
from omniform.core.errors import InputError

M = TypeVar("M", bound=nn.Module)


def first_layers(model: Generative, count: int) -> Generative:
    """A model of the same parts, whose decoder has only its first layers; nothing is copied but the modules around.

    Raises:
        InputError: the decoder has fewer layers.
    """
    decoder = model.decoder
    layers = decoder.get_submodule("layers") if isinstance(decoder, nn.Module) else nn.ModuleList()
    assert isinstance(layers, nn.ModuleList), "every decoder is a stack"
    if not 1 <= count < len(layers):
        raise InputError(
            "the model cannot be left there",
            where="assistant_early_exit",
            expected=f"a layer from 1 to {len(layers) - 1}, before the last",
            found=count,
        )
    path = next(str(name) for name, module in model.named_modules() if module is decoder)
    whole = part = around(model)
    for name in path.split(".") if path else ():
        part._modules[name] = inner = around(part.get_submodule(name))
        part = inner  # type: ignore[assignment]
    part._modules["layers"] = nn.ModuleList(list(layers)[:count])
    return whole


def beside_encoder(model: Generative, drafter: Generative) -> Generative:
    """A model of an encoder, and of the decoder and the head of another, which was trained to read the same memory.

    Raises:
        InputError: the decoder reads memories of another width, or it is none that stands alone.
    """
    whole = around(model)
    path = next(str(name) for name, module in model.named_modules() if module is model.decoder)
    width, theirs = (cast("Seq2SeqLM | CausalLM", m).lm_head.in_features for m in (model, drafter))
    if width != theirs:
        raise InputError(
            "the assistant reads an encoder of another width", where="assistant_model", expected=width, found=theirs
        )
    outer, name = path.rsplit(".", 1)
    part = whole
    for step in outer.split("."):
        part._modules[step] = inner = around(part.get_submodule(step))
        part = inner  # type: ignore[assignment]
    part._modules[name] = drafter.get_submodule("model")
    whole._modules["lm_head"] = drafter.get_submodule("lm_head")
    whole.generation_config = drafter.generation_config
    return whole


def around(module: M) -> M:
    """The same module, whose parts can be exchanged without the other's being so."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    return twin
