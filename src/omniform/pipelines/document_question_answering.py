"""``document-question-answering``: questions about pages, to models that mark the answer among a page's words (LayoutLM
v3) or read the page themselves and write (Donut)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.generation import GenerationConfig
from omniform.core.settings import SETTINGS
from omniform.hub.auto import AutoModelForDocumentQuestionAnswering, AutoModelForImageTextToText
from omniform.inputs.images.base import ImageProcessingMixin
from omniform.inputs.images.load import ImageSource, load_image
from omniform.inputs.images.pages import PageImageProcessor, read_page
from omniform.inputs.media_access import MediaAccess
from omniform.pipelines.answers import likeliest_spans, shares
from omniform.pipelines.base import ChunkPipeline, Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import count, flag, inputs_for_model, needed, row_of, scores_of, tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.seen_and_heard import access_of

if TYPE_CHECKING:
    from PIL.Image import Image

OPTIONS = (
    "top_k", "doc_stride", "max_answer_len", "max_seq_len", "max_question_len", "handle_impossible_answer", "padding",
    "lang", "tesseract_config", "timeout", "media_access", "word_boxes",
)  # fmt: skip

Words = Sequence[tuple[str, Sequence[int]]]
"""The words of a page in reading order, each with its box (left, top, right, bottom) on a page of 1000 by 1000."""


class DocumentAnswer(TypedDict, total=False):
    """An answer; where words were marked also how likely it is, and its first and last word, by number."""

    score: float
    answer: str | None
    start: int
    end: int


class DocumentQuestionAnsweringPipeline(ChunkPipeline):
    """Answers questions about pages: a list of :class:`DocumentAnswer`, the likeliest first.

    A page's words come with it (``word_boxes``, see :data:`Words`), or are read off it by tesseract where that is
    installed. Donut reads pages itself. The page's picture is looked at too. Options, for the pipeline or for a call:
        top_k: how many answers; fewer come where there are not so many.
        max_seq_len: tokens that are read at once, question included; longer pages are read in chunks.
        doc_stride: tokens that neighbouring chunks share.
        max_answer_len: tokens of an answer at most: 15.
        handle_impossible_answer: whether "there is no answer", an empty text, is one too.
        padding: of the tokenizer.
        lang, tesseract_config: of tesseract.
        timeout, media_access: how pages are read.
    """

    _pipeline_calls_generate = True
    _non_generation_params = ("top_k",)
    _load_tokenizer = True
    _load_processor = False
    _default_generation_config = GenerationConfig(max_new_tokens=256)
    default_input_names: ClassVar[str] = "image,question"  # type: ignore[misc]

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.writes = self.model.can_generate()
        if not self.writes:
            self.check_model_type(AutoModelForDocumentQuestionAnswering)

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        writing: Params = {name: given.pop(name) for name in [*given] if name in SETTINGS and name not in OPTIONS}
        check_arguments(type(self).__name__, given, OPTIONS)
        given = {name: value for name, value in given.items() if value is not None}
        before: Params = {name: given[name] for name in ("padding", "lang", "tesseract_config") if name in given}
        for name, least in (("doc_stride", 0), ("max_seq_len", 1), ("max_question_len", 1)):
            if name in given:
                before[name] = count(given[name], name, least)
        allowed, seconds = given.get("media_access"), given.get("timeout")
        access = access_of(cast("MediaAccess | None", allowed), cast("float | None", seconds))
        if access is not None:
            before["media_access"] = access
        after: Params = {name: count(given[name], name) for name in ("top_k", "max_answer_len") if name in given}
        if "handle_impossible_answer" in given:
            after["handle_impossible_answer"] = flag(given["handle_impossible_answer"], "handle_impossible_answer")
        return before, writing, after

    def __call__(  # type: ignore[override]
        self, image: object = None, question: object = None, word_boxes: Words | None = None, **given: object
    ) -> object:
        """Answer a question about a page, or many.

        Args:
            image: a page, or a mapping ``{"image": ..., "question": ..., "word_boxes": ...}``, or several mappings;
                None where a model needs words alone.
            question: what is asked.
            word_boxes: the page's words.
            given: parameters.

        Returns:
            A list of :class:`DocumentAnswer`; a list of such lists for several questions.
        """
        if not isinstance(question, str):
            return super().__call__(image, **given)  # type: ignore[arg-type]
        asked: dict[str, object] = {"question": question, "image": image}
        if word_boxes is not None:
            asked["word_boxes"] = word_boxes
        return super().__call__(asked, **given)  # type: ignore[arg-type]

    # -- what is read ----------------------------------------------------------------------------------------------

    def preprocess(self, input_: object, **given: object) -> Iterator[Inputs]:  # type: ignore[override]
        """The chunks of a page, each with the question; or the page and the question as Donut reads them."""
        if not isinstance(input_, Mapping) or not isinstance(input_.get("question"), str):
            raise InputError(
                "no question about a page",
                where="inputs",
                expected="{'image': ..., 'question': 'what is the total?'}",
                found=brief(input_),
            )
        access = cast("MediaAccess | None", given.get("media_access"))
        source = input_.get("image")
        page = None if source is None else load_image(cast(ImageSource, source), media_access=access)
        question = cast(str, input_["question"])
        if self.writes:
            yield self._written_on(page, question)
            return
        words, boxes = self._words(page, cast("Words | None", input_.get("word_boxes")), given)
        yield from self._chunks(question, words, boxes, self._pixels(page), given)

    def _written_on(self, page: Image | None, question: str) -> Inputs:
        if page is None:
            raise InputError("there is no page", where="image", expected="a picture")
        prompt = f"<s_docvqa><s_question>{question}</s_question><s_answer>"
        ids = needed(self.tokenizer)(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return {"pixel_values": self._pixels(page)["pixel_values"], "decoder_input_ids": ids, "is_last": True}

    def _pixels(self, page: Image | None) -> Mapping[str, Tensor]:
        if page is None or not isinstance(self.image_processor, ImageProcessingMixin):
            return {}
        own = {"apply_ocr": False} if isinstance(self.image_processor, PageImageProcessor) else {}
        seen = self.image_processor(images=[page], return_tensors="pt", **own)  # type: ignore[arg-type]
        return {"pixel_values": seen.to(self.dtype).tensor("pixel_values")}

    def _words(
        self, page: Image | None, given: Words | None, options: Mapping[str, object]
    ) -> tuple[list[str], list[list[int]]]:
        if given is not None:
            return [word for word, _ in given], [list(box) for _, box in given]
        if page is None:
            raise InputError("there is neither a page nor its words", where="image", expected="a picture or word_boxes")
        lang, config = (cast("str | None", options.get(name)) for name in ("lang", "tesseract_config"))
        return read_page(torch.from_numpy(np.array(page)).permute(2, 0, 1), lang, config)

    def _chunks(
        self, question: str, words: list[str], boxes: list[list[int]], pixels: Mapping[str, Tensor], given: Params
    ) -> Iterator[Inputs]:
        tokenizer = needed(self.tokenizer)
        longest = cast(int, given.get("max_seq_len") or tokenizer.model_max_length)
        stride = cast("int | None", given.get("doc_stride"))
        encoded = tokenizer(
            text=[question], text_pair=[words], boxes=[boxes], padding=cast(str, given.get("padding", "do_not_pad")),
            max_length=longest, stride=min(longest // 2, 256) if stride is None else stride,
            return_token_type_ids=True, truncation="only_second", return_overflowing_tokens=True,
        )  # type: ignore[call-arg] # fmt: skip
        names = [*tokenizer.model_input_names, "bbox"]
        for index in range(len(encoded.encodings)):
            inside = np.array([which == 1 for which in encoded.sequence_ids(index)])
            ids = cast("list[list[int]]", encoded["input_ids"])[index]
            row = {name: value for name, value in row_of(encoded, index, tokenizer).items() if name in names}
            yield {
                **row, **pixels, "inside": inside, "words": words, "word_ids": encoded.word_ids(index),
                "nothing": ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else None,
                "is_last": index == len(encoded.encodings) - 1,
            }  # fmt: skip

    # -- what is answered ------------------------------------------------------------------------------------------

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        if self.writes:
            settings = self._prepare_generate_kwargs(given)
            inputs = {name: input_tensors[name] for name in ("pixel_values", "decoder_input_ids")}
            return {"sequences": self.model.generate(**inputs, **settings), "is_last": True}
        known = self.model.accepts()
        output = self.model(**inputs_for_model(input_tensors, [name for name in input_tensors if name in known]))
        kept = ("inside", "words", "word_ids", "nothing", "is_last")
        scores = {name: scores_of(output, "BT", f"{name}_logits") for name in ("start", "end")}
        return {**scores, **{name: input_tensors[name] for name in kept}}

    def postprocess(self, model_outputs: object, **given: object) -> list[DocumentAnswer]:
        """The likeliest answers from all chunks of a page."""
        outputs = cast("Sequence[Mapping[str, object]]", model_outputs)
        most = cast(int, given.get("top_k", 1))
        if self.writes:
            return [DocumentAnswer(answer=_said(needed(self.tokenizer), tensor(one, "sequences"))) for one in outputs]
        longest = cast(int, given.get("max_answer_len", 15))
        found: list[DocumentAnswer] = []
        impossible = 1.0
        for output in outputs:
            inside, nothing = cast("np.ndarray[tuple[int], np.dtype[np.bool_]]", output["inside"]), output["nothing"]
            counted = inside.copy()
            if isinstance(nothing, int):
                counted[nothing] = True
            scores = (tensor(output, name)[0, : len(counted)].double().numpy() for name in ("start", "end"))
            first, last = (shares(one, counted) for one in scores)
            if isinstance(nothing, int):
                impossible = min(impossible, float(first[nothing] * last[nothing]))
            words, places = cast("list[str]", output["words"]), cast("list[int | None]", output["word_ids"])
            for span in likeliest_spans(first, last, inside, longest, most):
                start, end = places[span.first], places[span.last]
                if start is not None and end is not None:
                    answer = " ".join(words[start : end + 1])
                    found.append({"score": span.score, "answer": answer, "start": start, "end": end})
        if given.get("handle_impossible_answer", False):
            found.append({"score": impossible, "answer": "", "start": 0, "end": 0})
        return sorted(found, key=lambda one: one["score"], reverse=True)[:most]


def _said(tokenizer: object, sequences: Tensor) -> str | None:
    """The answer in what Donut wrote; None where it wrote none."""
    from omniform.inputs.text.tokenizer import Tokenizer

    assert isinstance(tokenizer, Tokenizer), "it made the prompt"
    text = str(tokenizer.decode(sequences[0]))
    for token in (tokenizer.eos_token, tokenizer.pad_token):
        text = text.replace(token or "", "") if token else text
    text = re.sub(r"<.*?>", "", text, count=1).strip()  # the task's own token
    found = re.search(r"<s_answer>(.*)</s_answer>", text)
    return None if found is None else found.group(1).strip()


TASKS = (
    Task(
        name="document-question-answering",
        pipeline=DocumentQuestionAnsweringPipeline,
        models=(AutoModelForDocumentQuestionAnswering, AutoModelForImageTextToText),
        kind="multimodal",
        inferred=("document-question-answering",),
    ),
)

__all__ = ["TASKS", "DocumentAnswer", "DocumentQuestionAnsweringPipeline"]
