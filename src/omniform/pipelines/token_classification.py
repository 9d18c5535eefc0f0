"""Which class each token of a text belongs to: names, places, parts of speech."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, cast, overload

import torch
from tokenizers import models

from omniform.core.errors import InputError, brief, check_arguments
from omniform.hub.auto import AutoModelForTokenClassification
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.scripted import Scripted
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.pipelines.base import ChunkPipeline, Params
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.entities import (
    AggregationStrategy,
    Entity,
    EntityGroup,
    GoesOn,
    PreEntity,
    Scores,
    entities_of_tokens,
    entities_of_words,
    goes_on_by_prefix,
    goes_on_by_spaces,
    grouped,
    label_scores,
    without_overlaps,
)
from omniform.pipelines.given import (
    count,
    flag,
    inputs_for_model,
    one_of,
    row_of,
    scores_of,
    tensor,
)
from omniform.pipelines.registry import Task
from omniform.pipelines.understanding import Understanding

log = logging.getLogger("omniform")

Span = tuple[int, int]
OPTIONS = (
    "ignore_labels", "aggregation_strategy", "offset_mapping", "is_split_into_words", "stride", "delimiter",
    "grouped_entities", "ignore_subwords",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk of a text: its tokens' ids, which of them are special (1), and the characters that they stand for."""

    sentence: str
    ids: list[int]
    special: list[int]
    offsets: Sequence[Span] | None


@dataclass(frozen=True, slots=True)
class Placed:
    """A text, and the characters that each of its tokens stands for, as the caller has them."""

    text: object
    offsets: list[Span]


class TokenClassificationPipeline(Understanding, ChunkPipeline):
    """Tells the class of each token of a text, or finds the entities in it; also known as ``"ner"``.

    ``pipe("a text")`` gives a list of :class:`Entity` (without aggregation) or :class:`EntityGroup`; a list of texts
    gives a list for each.

    Options, for the pipeline or for a call:
        aggregation_strategy: see :class:`AggregationStrategy`; ``"none"`` by default.
        ignore_labels: labels that are not told; ``["O"]`` by default.
        stride: read texts that are longer than the tokenizer's ``model_max_length`` in chunks which share so many
            tokens; without it they are cut. Needs a tokenizer that knows where tokens stand in a text.
        is_split_into_words: each text is a list of words; ``start`` and ``end`` are those in the words joined again,
            with ``delimiter`` (a space) between them.
        offset_mapping: for each text the characters of its tokens, special ones included, where the tokenizer does
            not know them.
        grouped_entities, ignore_subwords: older spellings of ``"simple"`` and, both together, of ``"first"``.
    """

    default_input_names = "sequences"
    default_batch_size: ClassVar[BatchSize] = "auto"
    _told_words = False

    # ---- arguments

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        check_arguments(type(self).__name__, given, OPTIONS)
        given = {name: value for name, value in given.items() if value is not None}
        before: Params = {}
        after: Params = {}
        if "is_split_into_words" in given:
            before["is_split_into_words"] = flag(given["is_split_into_words"], "is_split_into_words")
        if "delimiter" in given:
            before["delimiter"] = _text(given["delimiter"], "delimiter")
        if "offset_mapping" in given:
            before["offset_mapping"] = _offset_rows(given["offset_mapping"])[0]
        if "ignore_labels" in given:
            after["ignore_labels"] = _labels(given["ignore_labels"])
        strategy = self._strategy(given)
        if strategy is not None:
            after["aggregation_strategy"] = strategy
        if "stride" in given:
            before["stride"] = self._stride(given["stride"], strategy)
        return before, {}, after

    def _strategy(self, given: Mapping[str, object]) -> AggregationStrategy | None:
        if "aggregation_strategy" in given:
            strategy = one_of(AggregationStrategy, given["aggregation_strategy"], "aggregation_strategy")
        elif "grouped_entities" in given or "ignore_subwords" in given:
            warnings.warn("an older spelling of aggregation_strategy", UserWarning, stacklevel=2)
            groups = flag(given.get("grouped_entities", False), "grouped_entities")
            words = flag(given.get("ignore_subwords", False), "ignore_subwords")
            chosen = AggregationStrategy.FIRST if words else AggregationStrategy.SIMPLE
            strategy = chosen if groups else AggregationStrategy.NONE
        else:
            return None
        if strategy.needs_words and not knows_places(self.reader):
            raise InputError(
                "this tokenizer does not say which tokens make a word",
                where="aggregation_strategy",
                expected="'none' or 'simple'",
                found=repr(strategy.value),
            )
        return strategy

    def _stride(self, value: object, strategy: AggregationStrategy | None) -> int:
        stride, limit = count(value, "stride", least=0), self.reader.model_max_length
        if stride >= limit:
            raise InputError("too long", where="stride", expected=f"under model_max_length, {limit}", found=stride)
        if strategy is AggregationStrategy.NONE:
            raise InputError(
                "chunks cannot be brought together without an aggregation_strategy",
                where="stride",
                expected="'simple', 'first', 'average' or 'max'",
                found="aggregation_strategy='none'",
            )
        if not knows_places(self.reader):
            raise InputError("this tokenizer does not say where tokens stand in a text", where="stride", found=stride)
        return stride

    @overload
    def __call__(self, inputs: str, **given: object) -> list[Entity] | list[EntityGroup]: ...
    @overload
    def __call__(self, inputs: list[str], **given: object) -> list[list[Entity]] | list[list[EntityGroup]]: ...
    @overload
    def __call__(self, inputs: object, *args: object, **given: object) -> object: ...
    def __call__(self, inputs: object, *args: object, **given: object) -> object:
        """The entities of one text or of several; see the class.

        Raises:
            InputError: there is no text, or there are not as many rows of offsets as texts.
        """
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if inputs is None or (isinstance(inputs, list) and not inputs):
            raise InputError("there is no text to classify", where=type(self).__name__, found=brief(inputs))
        words = given.get("is_split_into_words", self._preprocess_params.get("is_split_into_words", False))
        if words and isinstance(inputs, list) and not all(isinstance(row, list) for row in inputs):
            inputs = [inputs]
        offsets = given.pop("offset_mapping", None)
        if offsets and isinstance(inputs, str | list):
            rows, texts = _offset_rows(offsets), inputs if isinstance(inputs, list) else [inputs]
            if len(rows) != len(texts):
                raise InputError(
                    "not as many rows as texts", where="offset_mapping", expected=len(texts), found=len(rows)
                )
            placed = [Placed(text, row) for text, row in zip(texts, rows, strict=True)]
            inputs = placed if isinstance(inputs, list) else placed[0]
        return super().__call__(inputs, *args, **given)  # type: ignore[arg-type]

    # ---- one text

    def preprocess(self, input_: object, **given: object) -> Iterator[Inputs]:  # type: ignore[override]
        """The chunks of a text: what the model reads, and beside it a :class:`Row`."""
        offsets = cast("list[Span] | None", given.get("offset_mapping"))
        if isinstance(input_, Placed):
            offsets = input_.offsets
            input_ = input_.text
        stride = cast("int | None", given.get("stride"))
        starts: list[int] | None = None
        if given.get("is_split_into_words", False):
            words, delimiter = self._words(input_), cast(str, given.get("delimiter", " "))
            sentence, encoded = delimiter.join(words), self._encode(words, stride)
            starts = [*accumulate((len(word) + len(delimiter) for word in words), initial=0)]
        elif isinstance(input_, str):
            sentence, encoded = input_, self._encode(input_, stride)
        else:
            raise InputError("not a text", where="token-classification", found=brief(input_))
        if not encoded.encodings:
            # A tokenizer of the user's own gives ids alone.
            ids, special = (cast("list[list[int]]", encoded[name])[0] for name in ("input_ids", "special_tokens_mask"))
            yield {**row_of(encoded, 0, self.reader), "row": Row(sentence, ids, special, offsets), "is_last": True}
        for index, places in enumerate(encoded.encodings):
            found: list[Span] | None = places.offsets if knows_places(self.reader) else None
            if starts is not None:
                found = _in_the_text(places.offsets, places.word_ids, starts)
            row = Row(sentence, places.ids, places.special_tokens_mask, offsets or found)
            last = index == len(encoded.encodings) - 1
            yield {**row_of(encoded, index, self.reader), "row": row, "is_last": last}

    def _encode(self, text: str | list[str], stride: int | None) -> BatchEncoding:
        return self.reader(
            [text],
            truncation=True,
            is_split_into_words=isinstance(text, list),
            return_overflowing_tokens=stride is not None,
            return_special_tokens_mask=True,
            stride=stride or 0,
        )

    def _words(self, value: object) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise InputError("not a list of words", where="is_split_into_words=True", found=brief(value))
        if not knows_places(self.reader):
            raise InputError("this tokenizer does not read texts in words", where="is_split_into_words", found=True)
        return value

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        output = self.model(**inputs_for_model(input_tensors, self.reader.model_input_names))
        found = {"logits": scores_of(output, "BTC"), "row": input_tensors["row"], "is_last": input_tensors["is_last"]}
        if type(self).postprocess is TokenClassificationPipeline.postprocess:
            return found
        return {**found, **_as_there(input_tensors)}

    def postprocess(self, model_outputs: object, **given: object) -> list[Entity] | list[EntityGroup]:
        """The entities of a text, from all of its chunks."""
        strategy = cast(AggregationStrategy, given.get("aggregation_strategy") or AggregationStrategy.NONE)
        told = cast("list[str] | None", given.get("ignore_labels"))
        ignored = ["O"] if told is None else told
        chunks = cast("Sequence[Mapping[str, object]]", model_outputs)
        found: list[Entity | EntityGroup] = []
        for output in chunks:
            row = cast(Row, output["row"])
            logits_TC = tensor(output, "logits")[0, : len(row.ids)]
            scores = label_scores(logits_TC.numpy())
            tokens = self.gather_pre_entities(row.sentence, row.ids, scores, row.offsets, row.special, strategy)
            found += [entity for entity in self.aggregate(tokens, strategy) if _label(entity) not in ignored]
        kept = without_overlaps(found) if len(chunks) > 1 else found
        return cast("list[Entity] | list[EntityGroup]", kept)

    # ---- the steps, by the ecosystem's names

    def gather_pre_entities(
        self,
        sentence: str,
        input_ids: Sequence[int],
        scores: Scores,
        offset_mapping: Sequence[Span] | None,
        special_tokens_mask: Sequence[int],
        aggregation_strategy: AggregationStrategy = AggregationStrategy.NONE,
    ) -> list[PreEntity]:
        """The tokens of a row that are not special, each with its scores, its place, and whether it goes on with a
        word; an unknown token is shown by its text."""
        unknown, goes_on = self.reader.unk_token_id, self._goes_on(aggregation_strategy)
        numbers = [int(number) for number in input_ids]
        words = cast("list[str]", self.reader.convert_ids_to_tokens(numbers))
        tokens: list[PreEntity] = []
        for index, token_scores in enumerate(scores):
            if special_tokens_mask[index]:
                continue
            word, start, end, is_subword = words[index], None, None, False
            if offset_mapping is not None:
                start, end = (int(edge) for edge in offset_mapping[index])
                if numbers[index] == unknown:
                    word = sentence[start:end]
                else:
                    is_subword = goes_on(word, sentence, start, end)
            tokens.append(
                {"word": word, "scores": token_scores, "start": start, "end": end, "index": index,
                 "is_subword": is_subword}
            )  # fmt: skip
        return tokens

    def _goes_on(self, strategy: AggregationStrategy) -> GoesOn:
        model = self.reader.backend.model
        if isinstance(model, models.WordPiece | models.BPE) and model.continuing_subword_prefix:
            return goes_on_by_prefix
        if strategy.needs_words and not self._told_words:
            self._told_words = True
            log.warning("aggregation_strategy: this tokenizer marks no words; tokens without a space between are one")
        return goes_on_by_spaces

    def aggregate(
        self, pre_entities: Sequence[PreEntity], aggregation_strategy: AggregationStrategy
    ) -> list[Entity] | list[EntityGroup]:
        """Tokens as the strategy tells them."""
        labels, join = self.model.config.common.id2label, self.reader.convert_tokens_to_string
        if aggregation_strategy.needs_words:
            return grouped(entities_of_words(pre_entities, aggregation_strategy, labels, join), join)
        found = entities_of_tokens(pre_entities, labels)
        return found if aggregation_strategy is AggregationStrategy.NONE else grouped(found, join)

    def group_entities(self, entities: Sequence[Entity]) -> list[EntityGroup]:
        """Neighbours of one label as one entity; see :func:`omniform.pipelines.entities.grouped`."""
        return grouped(entities, self.reader.convert_tokens_to_string)


NerPipeline = TokenClassificationPipeline


def knows_places(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer says where tokens stand in a text: the ``tokenizers`` package's do, scripts do not (in the
    ecosystem they are the slow ones)."""
    return not isinstance(tokenizer.backend, Scripted)


def _as_there(inputs: Inputs) -> Params:
    """What a ``postprocess`` of the user's own reads beside the scores, by the ecosystem's names."""
    given = inputs["row"]
    rows = cast("list[Row]", given if isinstance(given, list) else [given])
    told: dict[str, list[object]] = {
        "sentence": [row.sentence for row in rows],
        "special_tokens_mask": [torch.tensor([row.special]) for row in rows],
        "offset_mapping": [None if row.offsets is None else torch.tensor([row.offsets]) for row in rows],
    }
    many = isinstance(given, list)
    return {"input_ids": inputs["input_ids"], **{name: value if many else value[0] for name, value in told.items()}}


def _label(entity: Entity | EntityGroup) -> str:
    return cast(str, entity.get("entity", entity.get("entity_group")))


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InputError("not a text", where=name, found=brief(value))
    return value


def _labels(value: object) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
        raise InputError("not a list of labels", where="ignore_labels", found=brief(value), remedy='["O"] is one.')
    return [_text(label, "ignore_labels") for label in value]


def _in_the_text(offsets: Sequence[Span], words: Sequence[int | None], starts: Sequence[int]) -> list[Span]:
    """Places in the text, of places in its words."""
    moved = (0 if word is None else starts[word] for word in words)
    return [(start + by, end + by) for (start, end), by in zip(offsets, moved, strict=True)]


def _offset_rows(value: object) -> list[list[Span]]:
    """Rows of places; the places of one text may stand without a list around them."""
    problem = InputError("not a list of (start, end)", where="offset_mapping", found=brief(value))
    if not isinstance(value, Sequence) or not value:
        raise problem
    rows = [value] if isinstance(value[0], tuple) else value
    if not all(isinstance(row, Sequence) and all(_is_span(span) for span in row) for row in rows):
        raise problem
    return [[(int(start), int(end)) for start, end in row] for row in rows]


def _is_span(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(isinstance(edge, int) for edge in value)


TASKS = (
    Task(
        name="token-classification",
        pipeline=TokenClassificationPipeline,
        models=(AutoModelForTokenClassification,),
        aliases=("ner",),
        inferred=("token-classification",),
    ),
)

__all__ = [
    "TASKS", "AggregationStrategy", "Entity", "EntityGroup", "NerPipeline", "TokenClassificationPipeline",
    "knows_places",
]  # fmt: skip
