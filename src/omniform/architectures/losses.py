"""Losses, computed in float32, as the ecosystem's models define them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.labels import IGNORED, problem_of
from omniform.core.config import Common
from omniform.core.errors import InputError, check_shape

Items = Tensor | int | None
"""How many things are scored in all batches of a step together, which a loss's sum is divided by; None for this batch's
own number. Two of them in a tensor where a loss is the sum of two means."""


def scored(labels: object) -> Tensor | None:
    """How many labels are not left out; None where there are none."""
    return (labels != IGNORED).sum() if isinstance(labels, Tensor) else None


def divided(total: Tensor, items: Tensor | int) -> Tensor:
    """A batch's sum as its part of a step's mean; where the whole step scores nothing, that is 0 and not 0 / 0."""
    if isinstance(items, Tensor):
        return total / items.to(total.device).clamp(min=1)
    return total / max(items, 1)


def counts(items: Items, *own: Tensor | float) -> tuple[Items, ...]:
    """What the sums of a loss of several parts are divided by.

    Args:
        items: as it came: as many counts as parts, or one, of the first; the others are then weighed as the first is.
        own: how many things this batch scores in each part.
    """
    if items is None:
        return (None,) * len(own)
    if isinstance(items, Tensor) and items.numel() == len(own):
        return (*items.reshape(-1),)
    here = torch.as_tensor(own[0]).clamp(min=1)
    whole = torch.as_tensor(items, device=here.device)
    return items, *(whole * (torch.as_tensor(count, device=here.device) / here) for count in own[1:])


def two_counts(items: Items, first: Tensor | float, second: Tensor | float) -> tuple[Items, Items]:
    """The same of a loss of two parts."""
    of_first, of_second = counts(items, first, second)
    return of_first, of_second


def share_of(labels: Tensor, items: Items) -> Tensor | float:
    """What part of a step's labels a batch has: what stands beside a mean over labels counts for as much."""
    return 1.0 if items is None else divided((labels != IGNORED).sum().float(), items)


def token_loss(logits_BTV: Tensor, labels_BT: Tensor, items: Items = None, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of tokens against labels in the same places.

    Args:
        logits_BTV: Shape: [..., V].
        labels_BT: Shape: [...], ``-100`` to leave out.
        items: what the sum is divided by, where the mean is over more than this batch (gradient accumulation).
        smoothing: what part of each label is spread over all tokens (https://arxiv.org/abs/1512.00567).
    """
    _check_fit(logits_BTV, labels_BT)
    flat, labels = logits_BTV.float().reshape(-1, logits_BTV.shape[-1]), labels_BT.reshape(-1)
    loss = F.cross_entropy(
        flat,
        labels.to(flat.device),
        ignore_index=IGNORED,
        reduction="mean" if items is None else "sum",
        label_smoothing=smoothing,
    )
    return loss if items is None else divided(loss, items)


def _check_fit(logits_BTV: Tensor, labels_BT: Tensor) -> None:
    check_shape("labels do not match the logits", labels_BT.shape, logits_BTV.shape[:-1], where="labels")
    if labels_BT.layout is not torch.strided:
        raise InputError("labels are held one by one", where="labels", found=str(labels_BT.layout))


def next_token_loss(logits_BTV: Tensor, labels_BT: Tensor, items: Items = None, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of every token against the label one to the right; see :func:`token_loss`."""
    _check_fit(logits_BTV, labels_BT)
    return token_loss(logits_BTV, F.pad(labels_BT, (0, 1), value=IGNORED)[..., 1:], items, smoothing=smoothing)


def check_row_labels(labels: Tensor, logits_BC: Tensor, *, each: bool) -> None:
    """Raise :class:`InputError` unless there is a label per row or, for ``each`` score, a target."""
    rows, classes = logits_BC.shape
    wanted = [rows, classes] if each and classes > 1 else [rows]
    if list(labels.shape) not in (wanted, [rows, 1] if wanted == [rows] else wanted):
        raise InputError(
            "labels do not match the scores",
            where="labels",
            expected=f"shape {wanted}",
            found=f"shape {list(labels.shape)}",
        )


def row_loss(logits_BC: Tensor, labels_B: Tensor, name: str = "labels", *, items: Items = None) -> Tensor:
    """Mean cross-entropy of rows against one class each.

    Args:
        logits_BC: Shape: [B, C].
        labels_B: Shape: [B] or [B, 1], ``-100`` to leave out.
        name: of the labels, for what is said of them.
        items: what the sum is divided by, where the mean is over more than this batch.
    """
    flat = labels_B.reshape(-1)
    check_shape("labels do not match the scores", flat.shape, logits_BC.shape[:1], where=name)
    how = "mean" if items is None else "sum"
    loss = F.cross_entropy(logits_BC, flat.to(logits_BC.device), ignore_index=IGNORED, reduction=how)
    return loss if items is None else divided(loss, items)


def classification_items(labels: object, common: Common) -> Tensor | int | None:
    """What the loss of a row classifier is the mean over: rows, those with a class where classes are told."""
    if not isinstance(labels, Tensor):
        return None
    if problem_of(common.problem_type, common.num_labels, labels) == "single_label_classification":
        return scored(labels)
    return labels.shape[0] if labels.dim() else 1


def classification_loss(logits_BC: Tensor, labels: Tensor, common: Common, items: Items = None) -> Tensor:
    """The loss of a row classifier: regression, one label or many, by ``problem_type`` or, without it, by the labels.

    Args:
        logits_BC: Shape: [B, C].
        labels: Shape: [B] of class indices, or [B, C] of targets.
        items: what the sum over rows is divided by, where the mean is over more than this batch.
    """
    classes = logits_BC.shape[-1]
    problem = problem_of(common.problem_type, classes, labels)
    check_row_labels(labels, logits_BC, each=problem != "single_label_classification")
    labels = labels.to(logits_BC.device)
    if problem == "single_label_classification":
        return row_loss(logits_BC, labels, items=items)
    if problem == "regression":
        flat = (logits_BC.squeeze(), labels.squeeze()) if classes == 1 else (logits_BC, labels)
        loss = F.mse_loss(flat[0], flat[1].to(logits_BC.dtype))
    else:
        loss = F.binary_cross_entropy_with_logits(logits_BC, labels.to(logits_BC.dtype))
    return loss if items is None else divided(loss * logits_BC.shape[0], items)


def graded_items(labels: object, common: Common) -> Tensor | int | None:
    """What :func:`graded_classification_loss` is the mean over."""
    if not isinstance(labels, Tensor) or common.problem_type is not None or common.num_labels == 1:
        return classification_items(labels, common)
    each = labels.dim() > 1 and labels.shape[-1] > 1
    return labels.shape[0] if each else (labels >= 0).sum()


def graded_classification_loss(logits_BC: Tensor, labels: Tensor, common: Common, items: Items = None) -> Tensor:
    """The same, but where ``problem_type`` is not said, labels may be shares of the classes or missing (DeBERTa).

    Args:
        logits_BC: Shape: [B, C].
        labels: Shape: [B] of class indices, negative ones to leave a row out; or [B, C] of what each class counts.
    """
    if common.problem_type is not None or logits_BC.shape[-1] == 1:
        return classification_loss(logits_BC, labels, common, items)
    labels = labels.to(logits_BC.device)
    each = labels.dim() > 1 and labels.shape[-1] > 1
    check_row_labels(labels, logits_BC, each=each)
    if each:
        losses = -(logits_BC.log_softmax(-1) * labels).sum(-1)
        return losses.mean() if items is None else divided(losses.sum(), items)
    known = labels.reshape(-1).long().clamp(min=-1)
    total = F.cross_entropy(logits_BC.float(), known, ignore_index=-1, reduction="sum")
    return divided(total, (known >= 0).sum() if items is None else items)


def chance_loss(logits_BT: Tensor, labels_BT: Tensor, mask_BT: Tensor | None = None, items: Items = None) -> Tensor:
    """Mean binary cross-entropy of tokens against a chance each, of those that a mask leaves.

    Args:
        labels_BT: Shape: [B, T], 0 to 1.
        mask_BT: Shape: [B, T], 1 for the tokens that count; None for all.
        items: what the sum is divided by, where the mean is over more than this batch.
    """
    check_shape("labels do not match the scores", labels_BT.shape, logits_BT.shape, where="labels")
    labels_BT = labels_BT.to(logits_BT.device, torch.float32)
    if mask_BT is None:
        loss = F.binary_cross_entropy_with_logits(logits_BT.float(), labels_BT)
        return loss if items is None else divided(loss * labels_BT.numel(), items)
    check_shape("the mask does not cover the tokens", mask_BT.shape, logits_BT.shape, where="attention_mask")
    counts = (mask_BT.to(logits_BT.device) == 1).float()
    total = F.binary_cross_entropy_with_logits(logits_BT.float(), labels_BT, counts, reduction="sum")
    return total / counts.sum() if items is None else divided(total, items)


def span_items(start: object, end: object, tokens: int) -> Tensor | None:
    """How many places :func:`span_loss` scores: those that lie inside their rows."""
    if not isinstance(start, Tensor) or not isinstance(end, Tensor):
        return None
    return (start < tokens).sum() + (end < tokens).sum()


def span_loss(start_BT: Tensor, end_BT: Tensor, start: Tensor, end: Tensor, items: Items = None) -> Tensor:
    """Mean of the losses of an answer's first and last token; positions outside the row are left out.

    Args:
        items: what the sum over places is divided by, where the mean is over more than this batch: :func:`span_items`.
    """
    outside = start_BT.shape[1]
    for name, given in (("start_positions", start), ("end_positions", end)):
        check_shape("there is not one place per row", given.reshape(-1).shape, start_BT.shape[:1], where=name)
    start, end = ((p.squeeze(-1) if p.dim() > 1 else p).clamp(0, outside).to(start_BT.device) for p in (start, end))
    how = "mean" if items is None else "sum"
    losses = (
        F.cross_entropy(start_BT, start, ignore_index=outside, reduction=how),
        F.cross_entropy(end_BT, end, ignore_index=outside, reduction=how),
    )
    return (losses[0] + losses[1]) / 2 if items is None else divided(losses[0] + losses[1], items)


def contrastive_loss(similarity_TI: Tensor) -> Tensor:
    """Mean of two cross-entropies: each text among all pictures, each picture among all texts (CLIP).

    Args:
        similarity_TI: Shape: [N, N], scores of every text with every picture; those on the diagonal belong together.
    """
    _check_pairs(similarity_TI)
    same = torch.arange(similarity_TI.shape[0], device=similarity_TI.device)
    return (F.cross_entropy(similarity_TI, same) + F.cross_entropy(similarity_TI.t(), same)) / 2


def pairwise_loss(scores_TI: Tensor) -> Tensor:
    """Every pair judged by itself: the surprise at what belongs together and what does not, summed for each text and
    averaged over texts (https://arxiv.org/abs/2303.15343).

    Args:
        scores_TI: Shape: [N, N], logarithms of odds; the pairs on the diagonal belong together.
    """
    _check_pairs(scores_TI)
    signs = 2 * torch.eye(scores_TI.shape[0], device=scores_TI.device) - 1
    return -F.logsigmoid(signs * scores_TI).sum(-1).mean()


def _check_pairs(scores_TI: Tensor) -> None:
    texts, pictures = scores_TI.shape
    if texts != pictures:
        raise InputError(
            "the contrastive loss needs one text per picture", expected=f"{pictures} texts", found=f"{texts} texts"
        )


def masked_pixel_loss(drawn_BCHW: Tensor, pixels_BCHW: Tensor, masked_BRC: Tensor, items: Items = None) -> Tensor:
    """Mean absolute error of the pixels of hidden patches.

    Args:
        drawn_BCHW: Shape: [B, channels, height, width].
        pixels_BCHW: Shape: the same.
        masked_BRC: Shape: [B, rows, columns], true for hidden patches.
        items: how many pixels are hidden, where the mean is over more than this batch.
    """
    check_shape("the patches do not cover the pictures", pixels_BCHW.shape, drawn_BCHW.shape, where="pixel_values")
    rows, columns = masked_BRC.shape[1:]
    height, width = pixels_BCHW.shape[2:]
    mask = masked_BRC.repeat_interleave(height // rows, 1).repeat_interleave(width // columns, 2)[:, None]
    errors = (pixels_BCHW - drawn_BCHW).abs() * mask
    mean = errors.sum() / pixels_BCHW.shape[1]
    return mean / (mask.sum() + 1e-5) if items is None else divided(mean, items)
