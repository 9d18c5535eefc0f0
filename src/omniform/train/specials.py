"""A model's special tokens are its tokenizer's: chat models are trained with an end of turn of their own."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.generation import GenerationConfig
from omniform.core.logs import get_logger
from omniform.inputs.processors import ProcessorMixin
from omniform.inputs.text.classes import PreTrainedTokenizerBase
from omniform.train.wrapped import without_adapters

logger = get_logger(__name__)

NAMES = ("eos_token_id", "bos_token_id", "pad_token_id")


@runtime_checkable
class HasTokenizer(Protocol):
    """A processor with a tokenizer in it."""

    tokenizer: object


def align_special_tokens(model: nn.Module, processing_class: object) -> None:
    """Take a tokenizer's special tokens over into a model's config and its settings of writing, and warn of changes.

    What the tokenizer does not define stays. Ends are added to those that there are: each of them ends a text.
    """
    inner = without_adapters(model)
    tokenizer = processing_class
    if isinstance(processing_class, ProcessorMixin) and isinstance(processing_class, HasTokenizer):
        tokenizer = processing_class.tokenizer
    if not isinstance(inner, Model) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    config = inner.config.get_text_config()
    settings = inner.generation_config if inner.can_generate() else None
    tokens = {name: _align(name, getattr(tokenizer, name), config, settings) for name in NAMES}
    if changed := {name: token for name, token in tokens.items() if token is not None}:
        logger.warning("The model's special tokens are now those of the tokenizer: %s", changed)


def _align(name: str, token: int | None, config: ModelConfig, settings: GenerationConfig | None) -> int | None:
    """The token, if something had to be changed for it."""
    if token is None:
        return None
    of_config: object = config.get(name, None)
    of_settings: object = None if settings is None else getattr(settings, name)
    if token in _several(of_config) and (settings is None or token in _several(of_settings)):
        return None
    ends = name == "eos_token_id"
    config.update({name: _first(token, of_config) if ends and isinstance(of_config, list) else token})
    if settings is not None:
        setattr(settings, name, _first(token, of_settings) if ends else token)
    return token


def _several(ids: object) -> list[object]:
    return list(ids) if isinstance(ids, list | tuple) else [ids]


def _first(token: int, ids: object) -> list[object]:
    return [token, *(one for one in _several(ids) if one is not None and one != token)]


__all__ = ["align_special_tokens"]
