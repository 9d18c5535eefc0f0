"""From scores of tokens to entities: the maths of token classification, apart from any model.

Labels of the kind ``B-PER``, ``I-PER`` say whether a token begins an entity or goes on with one (IOB tags, Ramshaw and
Marcus 1995); a label without such a beginning goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NotRequired, TypedDict, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Joiner = Callable[[list[str]], str]
"""Makes the text of tokens."""


class AggregationStrategy(StrEnum):
    """How tokens become entities.

    Attributes:
        NONE: every token is told by itself.
        SIMPLE: neighbours of one label are one entity.
        FIRST: likewise, and a word has the label of its first token.
        AVERAGE: likewise, and a word has the label that its tokens score highest on average.
        MAX: likewise, and a word has the label of its surest token.
    """

    NONE = "none"
    SIMPLE = "simple"
    FIRST = "first"
    AVERAGE = "average"
    MAX = "max"

    @property
    def needs_words(self) -> bool:
        """Whether it asks which tokens make one word."""
        return self not in (AggregationStrategy.NONE, AggregationStrategy.SIMPLE)


class PreEntity(TypedDict):
    """A token, the score of each label, and the characters it stands for where they are known."""

    word: str
    scores: Scores
    start: int | None
    end: int | None
    index: int
    is_subword: bool


class Entity(TypedDict):
    """A token (with its ``index`` in the row) or a word, and its likeliest label."""

    entity: str
    score: float
    index: NotRequired[int]
    word: str
    start: int | None
    end: int | None


class EntityGroup(TypedDict):
    """Neighbouring tokens or words of one label."""

    entity_group: str
    score: float
    word: str
    start: int | None
    end: int | None


Found = TypeVar("Found", bound=Entity | EntityGroup)


def label_scores(logits: NDArray[np.floating]) -> Scores:
    """Softmax over the last axis. Shape: [T, labels]."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast(Scores, raised / raised.sum(axis=-1, keepdims=True))


def entities_of_tokens(tokens: Iterable[PreEntity], labels: Mapping[int, str]) -> list[Entity]:
    """Each token with its likeliest label."""
    found: list[Entity] = []
    for token in tokens:
        label, score = _likeliest(token["scores"], labels)
        found.append(
            {"entity": label, "score": score, "index": token["index"], "word": token["word"],
             "start": token["start"], "end": token["end"]}
        )  # fmt: skip
    return found


def entities_of_words(
    tokens: Iterable[PreEntity], strategy: AggregationStrategy, labels: Mapping[int, str], join: Joiner
) -> list[Entity]:
    """Each word with one label, on which its tokens agree as the strategy says.

    Args:
        tokens: of one row; those that go on with a word are marked (``is_subword``).
        strategy: FIRST, AVERAGE or MAX.
    """
    words: list[list[PreEntity]] = []
    for token in tokens:
        if words and token["is_subword"]:
            words[-1].append(token)
        else:
            words.append([token])
    return [_word(word, strategy, labels, join) for word in words]


def _word(
    tokens: Sequence[PreEntity], strategy: AggregationStrategy, labels: Mapping[int, str], join: Joiner
) -> Entity:
    if strategy is AggregationStrategy.FIRST:
        scores = tokens[0]["scores"]
    elif strategy is AggregationStrategy.MAX:
        scores = max((token["scores"] for token in tokens), key=lambda found: float(found.max()))
    else:
        scores = np.nanmean(np.stack([token["scores"] for token in tokens]), axis=0)
    label, score = _likeliest(scores, labels)
    text = join([token["word"] for token in tokens])
    return {"entity": label, "score": score, "word": text, "start": tokens[0]["start"], "end": tokens[-1]["end"]}


def _likeliest(scores: Scores, labels: Mapping[int, str]) -> tuple[str, float]:
    best = int(scores.argmax())
    return labels[best], float(scores[best])


def split_tag(label: str) -> tuple[str, str]:
    """``B-PER`` as ``("B", "PER")``; a label without such a beginning goes on with what was there (``"I"``)."""
    if label.startswith(("B-", "I-")):
        return label[0], label[2:]
    return "I", label


def grouped(entities: Iterable[Entity], join: Joiner) -> list[EntityGroup]:
    """Neighbours of one label as one entity; a label that begins an entity (``B-``) never goes on with one."""
    groups: list[list[Entity]] = []
    for entity in entities:
        begins, tag = split_tag(entity["entity"])
        if groups and begins != "B" and tag == split_tag(groups[-1][-1]["entity"])[1]:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return [one_group(group, join) for group in groups]


def one_group(entities: Sequence[Entity], join: Joiner) -> EntityGroup:
    """Entities as one, named after the first; its score is their mean."""
    return {
        "entity_group": entities[0]["entity"].split("-", 1)[-1],
        "score": float(np.nanmean([entity["score"] for entity in entities])),
        "word": join([entity["word"] for entity in entities]),
        "start": entities[0]["start"],
        "end": entities[-1]["end"],
    }


def without_overlaps(entities: Sequence[Found]) -> list[Found]:
    """Of entities that overlap (chunks of a long text share tokens), the longest; of equally long ones, the surest."""
    kept: list[Found] = []
    for entity in sorted(entities, key=_start):
        last = kept[-1] if kept else None
        if last is None or not _start(last) <= _start(entity) < _end(last):
            kept.append(entity)
        elif (_length(entity), entity["score"]) > (_length(last), last["score"]):
            kept[-1] = entity
    return kept


def _start(entity: Entity | EntityGroup) -> int:
    return entity["start"] or 0


def _end(entity: Entity | EntityGroup) -> int:
    return entity["end"] or 0


def _length(entity: Entity | EntityGroup) -> int:
    return _end(entity) - _start(entity)


# ---- which tokens go on with a word


def goes_on_by_prefix(token: str, sentence: str, start: int, end: int) -> bool:
    """Where tokens inside a word are written with a prefix (``##ing``): whether this one is longer than its text."""
    return len(token) != end - start


def goes_on_by_spaces(token: str, sentence: str, start: int, end: int) -> bool:
    """Where nothing marks them: whether there is no space before the token's text, or at its beginning."""
    return start > 0 and " " not in sentence[start - 1 : start + 1]


GoesOn = Callable[[str, str, int, int], bool]
"""Whether a token goes on with a word: the token, the whole text, and the characters it stands for."""
