"""``self.loss_function`` of models of the user's own: the usual loss of what a class's name says it is for.

The names and arguments are the ecosystem's, so that a forward written for it calls them as it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor, nn

from omniform.architectures.losses import classification_loss, span_loss
from omniform.core.config import ModelConfig

Loss = Callable[..., Tensor]
"""A number to be made small, from what a forward has; keywords that it has no use for are let pass."""


def for_causal_lm(
    logits: Tensor,
    labels: Tensor | None,
    vocab_size: int,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **rest: object,
) -> Tensor:
    """Mean cross-entropy of each next token, in float32.

    Args:
        logits: Shape: [..., T, V].
        labels: tokens; ``ignore_index`` is not scored. Shape: [..., T].
        num_items_in_batch: what the sum is divided by, instead of the number of scored tokens.
        shift_labels: labels that stand beside their scores already. Shape: [..., T].
    """
    if shift_labels is None:
        assert labels is not None, "labels or shift_labels"
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    return for_masked_lm(logits, shift_labels, vocab_size, num_items_in_batch, ignore_index)


def for_masked_lm(
    logits: Tensor,
    labels: Tensor,
    vocab_size: int,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    **rest: object,
) -> Tensor:
    """Mean cross-entropy of tokens, in float32; arguments as for :func:`for_causal_lm`."""
    wanted = labels.reshape(-1).to(logits.device)
    scores = logits.float().reshape(-1, vocab_size)
    if num_items_in_batch is None:
        return nn.functional.cross_entropy(scores, wanted, ignore_index=ignore_index)
    return nn.functional.cross_entropy(scores, wanted, ignore_index=ignore_index, reduction="sum") / num_items_in_batch


def for_sequence_classification(labels: Tensor, pooled_logits: Tensor, config: ModelConfig, **rest: object) -> Tensor:
    """As the config's ``problem_type`` says, or as labels look. Shape of scores: [B, labels]."""
    return classification_loss(pooled_logits, labels.to(pooled_logits.device), config.common)


def for_token_classification(logits: Tensor, labels: Tensor, config: ModelConfig, **rest: object) -> Tensor:
    """Mean cross-entropy of each token's class. Shapes: [B, T, labels], [B, T]."""
    width = logits.shape[-1]
    return for_masked_lm(logits, labels, width)


def for_question_answering(
    start_logits: Tensor, end_logits: Tensor, start_positions: Tensor, end_positions: Tensor, **rest: object
) -> Tensor:
    """Mean of both ends' cross-entropies. Shapes: [B, T] and [B]."""
    return span_loss(start_logits, end_logits, start_positions, end_positions)


_LOSSES: Final[Mapping[str, Loss]] = {
    "ForCausalLM": for_causal_lm,
    "ForConditionalGeneration": for_causal_lm,
    "ForMaskedLM": for_masked_lm,
    "ForQuestionAnswering": for_question_answering,
    "ForSequenceClassification": for_sequence_classification,
    "ForImageClassification": for_sequence_classification,
    "ForAudioClassification": for_sequence_classification,
    "ForTokenClassification": for_token_classification,
}


def loss_named(name: str) -> Loss:
    """The loss of a class by its name (``MyBertForTokenClassification``); that of a causal model by default."""
    return next((loss for word, loss in _LOSSES.items() if word in name), for_causal_lm)


def loss_kind(name: str) -> str | None:
    """The ecosystem's word for the loss of a class, which is a part of its name; None where there is none in it.

    Trainers ask a model for it (``loss_type``), to know whether its labels are moved by one place.
    """
    words = (*_LOSSES, "ForCausalLM", "ForObjectDetection", "ForSegmentation")
    return next((word for word in words if word in name), None)
