"""What one step of an embedding model hands to the next: tensors by the names that sentence-transformers gives them."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from omniform.core.errors import InputError, listed

Features = dict[str, Tensor | int]
"""``input_ids`` and ``attention_mask`` (``[B, T]``), ``token_embeddings`` (``[B, T, D]``), ``sentence_embedding``
(``[B, D]``), ``scores`` (``[B, labels]``), ``causal_logits`` (``[B, 1, vocabulary]``), and ``prompt_length``, a number.
"""

TOKENS: Final = "token_embeddings"
SENTENCE: Final = "sentence_embedding"
SCORES: Final = "scores"
LOGITS: Final = "causal_logits"
MASK: Final = "attention_mask"
PROMPT: Final = "prompt_length"


def tensor_of(features: Features, name: str, reader: str) -> Tensor:
    """One of the features.

    Args:
        reader: who wants it, for the error.

    Raises:
        InputError: no step before has made it.
    """
    value = features.get(name)
    if not isinstance(value, Tensor):
        made = listed(key for key, other in features.items() if isinstance(other, Tensor))
        raise InputError("no step before this one has made what it reads", where=reader, expected=name, found=made)
    return value
