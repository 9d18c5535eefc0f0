"""Where in a text the answer to a question stands (extractive question answering)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from omniform.core.errors import InputError, brief, check_arguments
from omniform.hub.auto import AutoModelForQuestionAnswering
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.pipelines.answers import Answer, Flags, Span, best_answers, likeliest_spans, merged, shares, word_spans
from omniform.pipelines.base import ChunkPipeline, Params
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.given import MissingEntryError, count, flag, inputs_for_model, row_of, scores_of, tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.running import Indexed, items_of
from omniform.pipelines.understanding import Understanding

OPTIONS = (
    "top_k", "topk", "doc_stride", "max_answer_len", "max_seq_len", "max_question_len", "handle_impossible_answer",
    "align_to_words", "padding",
)  # fmt: skip
INPUTS = ("question", "context", "data", "X")


@dataclass(frozen=True, slots=True)
class SquadExample:
    """A question, and the text that is to hold its answer."""

    question_text: str
    context_text: str


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk of a context behind its question (or before it): what is known of its tokens.

    Attributes:
        context: the whole text.
        offsets: the characters of each token.
        words: the characters of the word that each token is part of.
        inside: which tokens are of the context.
        nothing: where the token stands that means "there is no answer"; None for models that have none.
    """

    context: str
    offsets: Sequence[Span]
    words: Sequence[Span]
    inside: Flags
    nothing: int | None


class QuestionAnsweringPipeline(Understanding, ChunkPipeline):
    """Finds the answer to a question in a text.

    ``pipe(question="...", context="...")`` gives an :class:`Answer`, or with ``top_k`` a list of them; lists of
    questions and contexts (or of questions about one context), and lists of ``{"question": ..., "context": ...}``, as
    SQuAD's rows are, give one for each.

    Options, for the pipeline or for a call:
        top_k: how many answers; fewer come where there are not so many.
        max_seq_len: tokens that are read at once, question included: 384, or what the tokenizer allows. Longer contexts
            are read in chunks.
        doc_stride: tokens that neighbouring chunks share: 128, or half of ``max_seq_len``.
        max_answer_len: tokens of an answer at most: 15.
        max_question_len: cut questions after so many tokens; they are not cut by default.
        handle_impossible_answer: whether "there is no answer", an empty text, is one too.
        align_to_words: whether answers are whole words: they are by default.
        padding: as the tokenizer has it; nothing is padded by default.
    """

    default_input_names = "question,context"
    default_batch_size: ClassVar[BatchSize] = "auto"

    # ---- arguments

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        check_arguments(type(self).__name__, given, OPTIONS)
        given = {name: value for name, value in given.items() if value is not None}
        if "topk" in given:
            given.setdefault("top_k", given["topk"])
        before: Params = {"padding": given["padding"]} if "padding" in given else {}
        after: Params = {}
        for name, least in (("doc_stride", 0), ("max_seq_len", 1), ("max_question_len", 1)):
            if name in given:
                before[name] = count(given[name], name, least)
        for name in ("top_k", "max_answer_len"):
            if name in given:
                after[name] = count(given[name], name)
        for name in ("handle_impossible_answer", "align_to_words"):
            if name in given:
                after[name] = flag(given[name], name)
        return before, {}, after

    def __call__(self, *args: object, **given: object) -> object:
        """The answer to one question or to several; see the class.

        Raises:
            InputError: a question or a context is missing or empty, or there are not as many of one as of the other.
        """
        inputs = _told(args, given)
        given = {name: value for name, value in given.items() if name not in INPUTS}
        if isinstance(inputs, list) and len(inputs) == 1:
            inputs = inputs[0]
        return super().__call__(inputs, **given)  # type: ignore[arg-type]

    @staticmethod
    def create_sample(question: str | Sequence[str], context: str | Sequence[str]) -> SquadExample | list[SquadExample]:
        """A question with its context as one object, or one for each of several."""
        if isinstance(question, str) and isinstance(context, str):
            return SquadExample(question, context)
        return [SquadExample(q, c) for q, c in zip(question, context, strict=True)]

    # ---- one question

    def preprocess(self, input_: object, **given: object) -> Iterator[Inputs]:  # type: ignore[override]
        """The chunks of a context, each with the question: what the model reads, and beside it a :class:`Row`."""
        example, tokenizer = read_example(input_), self.reader
        longest = cast(int, given.get("max_seq_len") or min(tokenizer.model_max_length, 384))
        question = example.question_text
        if given.get("max_question_len") is not None:
            question = _cut(question, cast(int, given["max_question_len"]), tokenizer)
        encoded = _chunks(
            question,
            example.context_text,
            tokenizer,
            longest=longest,
            stride=cast("int | None", given.get("doc_stride")),
            padding=cast("str | bool", given.get("padding", False)),
        )
        if not encoded.encodings:
            raise InputError(
                "answers are found by their places in the text, and this tokenizer does not say where tokens stand",
                where="tokenizer",
                expected="a class of the tokenizers package",
                found=type(tokenizer).__name__,
            )
        which = 1 if tokenizer.padding_side == "right" else 0
        for index, places in enumerate(encoded.encodings):
            inside = [sequence == which for sequence in places.sequence_ids]
            words = word_spans(places.offsets, places.word_ids, inside)
            nothing = places.ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in places.ids else None
            row = Row(example.context_text, places.offsets, words, np.array(inside), nothing)
            last = index == len(encoded.encodings) - 1
            yield {**row_of(encoded, index, tokenizer), "row": row, "is_last": last}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        names = self.reader.model_input_names
        output = self.model(**inputs_for_model(input_tensors, names), use_cache=False)
        start, end = (scores_of(output, "BT", name) for name in ("start_logits", "end_logits"))
        return {"start": start, "end": end, "row": input_tensors["row"], "is_last": input_tensors["is_last"]}

    def postprocess(self, model_outputs: object, **given: object) -> Answer | list[Answer]:
        """The likeliest answers from all chunks of a context."""
        most, whole = cast(int, given.get("top_k", 1)), bool(given.get("align_to_words", True))
        longest = cast(int, given.get("max_answer_len", 15))
        found: list[Answer] = []
        impossible = 1.0
        for output in cast("Sequence[Mapping[str, object]]", model_outputs):
            row = cast(Row, output["row"])
            counted = row.inside.copy()
            if row.nothing is not None:
                counted[row.nothing] = True
            first, last = (
                shares(tensor(output, name)[0, : len(counted)].double().numpy(), counted) for name in ("start", "end")
            )
            if row.nothing is None:
                impossible = 0.0
            else:
                impossible = min(impossible, float(first[row.nothing] * last[row.nothing]))
            # Spans of tokens in the same words become one answer, so more of them are looked at.
            spans = likeliest_spans(first, last, row.inside, longest, 2 * most + 10 if whole else most)
            edges = row.words if whole else row.offsets
            for span in spans:
                start, end = edges[span.first][0], edges[span.last][1]
                found.append({"score": span.score, "start": start, "end": end, "answer": row.context[start:end]})
        found = merged(found)
        if given.get("handle_impossible_answer", False) or not found:
            score = impossible if found else 0.0
            found.append({"score": score, "start": 0, "end": 0, "answer": ""})
        best = best_answers(found, most)
        return best[0] if len(best) == 1 else best


def _chunks(
    question: str, context: str, tokenizer: Tokenizer, *, longest: int, stride: int | None, padding: str | bool
) -> BatchEncoding:
    """A context in chunks that fit, each with the question; the longer text is the second where padding follows."""
    asked = tokenizer(question, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
    taken = len(cast("list[int]", asked["input_ids"])) + tokenizer.num_special_tokens_to_add(pair=True)
    room = longest - taken
    if room < 1:
        raise InputError(
            "the question leaves no room for its context",
            where="max_seq_len",
            expected=f"over {taken} tokens",
            found=longest,
            remedy="Ask for a larger max_seq_len, or for a max_question_len to cut the question to.",
        )
    if stride is not None and stride >= room:
        raise InputError(
            "chunks that share so much go nowhere",
            where="doc_stride",
            expected=f"under {room}, what max_seq_len={longest} leaves for the context",
            found=stride,
        )
    first = tokenizer.padding_side == "right"
    return tokenizer(
        [question if first else context],
        [context if first else question],
        truncation="only_second" if first else "only_first",
        max_length=longest,
        stride=min(longest // 2, 128, room - 1) if stride is None else stride,
        padding=padding,
        return_overflowing_tokens=True,
    )


def _cut(text: str, longest: int, tokenizer: Tokenizer) -> str:
    """The beginning of a text that is ``longest`` tokens long."""
    encodings = tokenizer([text], add_special_tokens=False).encodings
    places = encodings[0].offsets if encodings else []
    return text if len(places) <= longest else text[: places[longest - 1][1]]


# ---- the ways in which questions are given


def _told(args: tuple[object, ...], given: Mapping[str, object]) -> object:
    """What a call asks: one question, a list of them, a stream or a dataset."""
    inputs = _of_call(args, given)
    if isinstance(inputs, str) or not isinstance(inputs, SquadExample | Iterable | Indexed):
        raise _unclear(inputs)
    return list(inputs) if isinstance(inputs, tuple) else inputs


def _of_call(args: tuple[object, ...], given: Mapping[str, object]) -> object:
    if len(args) == 1:
        return args[0]
    if len(args) == 2 and all(isinstance(text, str) for text in args):
        return [{"question": args[0], "context": args[1]}]
    if args:
        return list(args)
    for name in ("X", "data"):
        if name in given:
            return given[name]
    if "question" not in given or "context" not in given:
        raise _unclear(sorted(given))
    question, context = _column(given["question"]), _column(given["context"])
    if isinstance(question, str) and isinstance(context, str):
        return [{"question": question, "context": context}]
    if not isinstance(question, list | tuple):
        raise _unclear(question)
    contexts = [context] * len(question) if isinstance(context, str) else context
    if not isinstance(contexts, list | tuple):
        raise _unclear(context)
    if len(question) != len(contexts):
        raise InputError(
            "questions and contexts are not equally many", where="context", expected=len(question), found=len(contexts)
        )
    return [{"question": q, "context": c} for q, c in zip(question, contexts, strict=True)]


def _column(value: object) -> object:
    """A dataset's column as a list; anything else as it is."""
    return (
        [value[at] for at in range(len(value))] if items_of(value) is not None and isinstance(value, Indexed) else value
    )


def read_example(item: object) -> SquadExample:
    """A question and its context, out of a mapping that names them; other entries (``id``, ``answers``) are left alone.

    Raises:
        InputError: one of them is missing, empty or no text.
    """
    if isinstance(item, SquadExample):
        item = {"question": item.question_text, "context": item.context_text}
    if not isinstance(item, Mapping):
        raise _unclear(item)
    for name in ("question", "context"):
        if name not in item:
            found = f"a mapping of {', '.join(map(str, item)) or 'nothing'}"
            raise MissingEntryError(f"no {name}", where="question-answering", expected="a text", found=found)
        if not isinstance(item[name], str) or not item[name]:
            raise InputError(f"no {name}", where="question-answering", expected="a text", found=brief(item[name]))
    return SquadExample(item["question"], item["context"])


def _unclear(found: object) -> InputError:
    return InputError(
        "no questions with their contexts",
        where="question-answering",
        found=brief(found),
        remedy='Call it with question=..., context=..., or with {"question": ..., "context": ...}.',
    )


TASKS = (
    Task(
        name="question-answering",
        pipeline=QuestionAnsweringPipeline,
        models=(AutoModelForQuestionAnswering,),
        inferred=("question-answering",),
    ),
)

__all__ = ["TASKS", "Answer", "QuestionAnsweringPipeline", "SquadExample"]
