"""What tasks are measured by: accuracy, F1 of spans, ROUGE, BLEU, word error rate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from omniform.inputs.text.ctc import SpeechTokenizer
    from omniform.inputs.text.tokenizer import Tokenizer
    from omniform.train.metrics import EvalPrediction, Metrics

IGNORED: Final = -100

Pairs = Sequence[tuple[list[str], list[str]]]
"""Words that were written, and those that were wanted."""


def first(predictions: object) -> npt.NDArray[np.generic]:
    """A model's scores, where it may give more besides."""
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)


def classes(prediction: EvalPrediction) -> Metrics:
    """Accuracy, and the mean over classes of F1."""
    predicted, wanted = first(prediction.predictions).argmax(-1), np.asarray(prediction.label_ids).reshape(-1)
    scores = []
    for label in np.unique(np.concatenate([wanted, predicted])):
        hits = int(((predicted == label) & (wanted == label)).sum())
        scores.append(2 * hits / max(int((predicted == label).sum() + (wanted == label).sum()), 1))
    return {"accuracy": float((predicted == wanted).mean()), "f1": float(np.mean(scores))}


def tags(names: Sequence[str]) -> Callable[[EvalPrediction], Metrics]:
    """Accuracy of words; and F1 of whole spans, where the tags begin with ``B-`` and ``I-``."""
    spanned = any(name.startswith(("B-", "I-")) for name in names)

    def measure(prediction: EvalPrediction) -> Metrics:
        predicted, wanted = first(prediction.predictions).argmax(-1), np.asarray(prediction.label_ids)
        right = kept = hits = both = 0
        for ours, theirs in zip(predicted, wanted, strict=True):
            there = theirs != IGNORED
            right, kept = right + int((ours == theirs)[there].sum()), kept + int(there.sum())
            found, true = (spans([names[tag] for tag in row[there]]) for row in (ours, theirs))
            hits, both = hits + len(found & true), both + len(found) + len(true)
        made = {"accuracy": right / max(kept, 1)}
        return {**made, "f1": 2 * hits / max(both, 1)} if spanned else made

    return measure


def spans(row: Sequence[str]) -> set[tuple[int, int, str]]:
    """Where each span of a row of tags (IOB1 or IOB2) begins and ends, and what it is of."""
    found, start, kind = set(), 0, ""
    for i, tag in enumerate([*row, "O"]):
        mark, _, name = tag.partition("-")
        if kind and (mark != "I" or name != kind):
            found.add((start, i, kind))
            kind = ""
        if not kind and mark in ("B", "I"):
            start, kind = i, name
    return found


def written(tokenizer: Tokenizer, measure: Callable[[Pairs], Metrics]) -> Callable[[EvalPrediction], Metrics]:
    """A measure of words, of the tokens that were written and wanted."""
    pad = tokenizer.pad_token_id or 0

    def of(prediction: EvalPrediction) -> Metrics:
        ours, theirs = (
            tokenizer.batch_decode(np.where(ids == IGNORED, pad, ids).tolist(), skip_special_tokens=True)
            for ids in (first(prediction.predictions), np.asarray(prediction.label_ids))
        )
        return measure([(a.split(), b.split()) for a, b in zip(ours, theirs, strict=True)])

    return of


def spelled(tokenizer: SpeechTokenizer, measure: Callable[[Pairs], Metrics]) -> Callable[[EvalPrediction], Metrics]:
    """A measure of words, of what is likeliest in each step of a sound; in labels, letters that are alike are two."""
    pad = tokenizer.pad_token_id or 0

    def of(prediction: EvalPrediction) -> Metrics:
        ours, theirs = first(prediction.predictions), np.asarray(prediction.label_ids)
        heard = tokenizer.batch_decode(np.where(ours == IGNORED, pad, ours).tolist())
        said = tokenizer.batch_decode(np.where(theirs == IGNORED, pad, theirs).tolist(), group_tokens=False)
        return measure([(str(a).split(), str(b).split()) for a, b in zip(heard, said, strict=True)])

    return of


def rouge(pairs: Pairs) -> Metrics:
    """F1 of shared words, and of the longest common subsequence (C.-Y. Lin, 2004), lower-cased."""
    made: dict[str, list[float]] = {"rouge1": [], "rougeL": []}
    for given in pairs:
        ours, theirs = ([word.lower() for word in words] for words in given)
        total = max(len(ours) + len(theirs), 1)
        made["rouge1"].append(2 * (Counter(ours) & Counter(theirs)).total() / total)
        made["rougeL"].append(2 * _common(ours, theirs) / total)
    return {name: float(np.mean(values)) for name, values in made.items()}


def _common(ours: Sequence[Hashable], theirs: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence."""
    before = [0] * (len(theirs) + 1)
    for one in ours:
        now = [0]
        for j, other in enumerate(theirs):
            now.append(before[j] + 1 if one == other else max(before[j + 1], now[-1]))
        before = now
    return before[-1]


def bleu(pairs: Pairs) -> Metrics:
    """BLEU of a corpus, 0 to 100, words split at spaces (K. Papineni et al., 2002)."""
    ours, theirs = sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs)
    logs = []
    for n in range(1, 5):
        hits = sum((_grams(a, n) & _grams(b, n)).total() for a, b in pairs)
        there = sum(_grams(a, n).total() for a, _ in pairs)
        logs.append(math.log(hits / there) if hits else -math.inf)
    short = min(0.0, 1 - theirs / ours) if ours else -math.inf
    return {"bleu": 100 * math.exp(sum(logs) / len(logs) + short)}


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def word_errors(pairs: Pairs) -> Metrics:
    """Words to put in, to leave out or to replace, as a share of those that were said."""
    return {"wer": sum(distance(a, b) for a, b in pairs) / max(sum(len(b) for _, b in pairs), 1)}


def distance(ours: Sequence[Hashable], theirs: Sequence[Hashable]) -> int:
    """How many have to be put in, left out or replaced (V. Levenshtein, 1965)."""
    before = list(range(len(theirs) + 1))
    for i, one in enumerate(ours, 1):
        now = [i]
        for j, other in enumerate(theirs, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (one != other)))
        before = now
    return before[-1]
