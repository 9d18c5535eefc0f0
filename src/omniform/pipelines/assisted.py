"""The smaller model that guesses ahead for a pipeline that writes, and its tokenizer where it has one of its own."""

from __future__ import annotations

import os

from omniform.architectures.model import Model
from omniform.core.errors import InputError, brief
from omniform.hub.auto import AutoModelForCausalLM
from omniform.hub.auto_inputs import AutoTokenizer
from omniform.inputs.text.tokenizer import Tokenizer

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def assistant_of(model: Model, given: object, tokenizer: object) -> tuple[Model | None, Tokenizer | None]:
    """An assistant, and the tokenizer that texts go through on their way to it; none where the two share their tokens.

    Args:
        model: whom it helps; it is loaded to the same place, in the same dtype.
        given: a folder, a Hub id or a model; None for no assistant.
        tokenizer: the assistant's; that of its checkpoint where only a name is given.

    Raises:
        InputError: this is no model, or it has other tokens and nobody says which.
        RepoError, ConfigError, WeightsError: it cannot be loaded.
    """
    if given is None:
        return None, None
    if isinstance(given, (str, os.PathLike)):
        helper = AutoModelForCausalLM.from_pretrained(given, dtype=model.dtype)
        helper.to(model.device)
        if tokenizer is None and not _alike(model, helper):
            tokenizer = AutoTokenizer.from_pretrained(given)
    elif isinstance(given, Model):
        helper = given
    else:
        raise InputError("this is no model", where="assistant_model", expected="a model or a name", found=brief(given))
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    if _alike(model, helper):
        return helper, None
    if not isinstance(tokenizer, Tokenizer):
        raise InputError(
            "the assistant has other tokens than the model",
            where="assistant_tokenizer",
            expected="the assistant's tokenizer",
            found=brief(tokenizer),
        )
    return helper, tokenizer


def _alike(model: Model, helper: Model) -> bool:
    """Whether both have the same tokens, as far as their configs tell."""
    names = ("vocab_size", *_SPECIAL)
    return all(model.config.get_text_config().get(n) == helper.config.get_text_config().get(n) for n in names)
