"""Florence-2's processor: a task becomes a question behind the picture, and the answer boxes, outlines and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self, cast

from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.errors import ConfigError, InputError, brief
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import PartName, Parts, read_texts
from omniform.inputs.processors.florence_answers import Size, answer_of
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

ALONE: Mapping[str, str] = {
    "<OCR>": "What is the text in the image?",
    "<OCR_WITH_REGION>": "What is the text in the image, with regions?",
    "<CAPTION>": "What does the image describe?",
    "<DETAILED_CAPTION>": "Describe in detail what is shown in the image.",
    "<MORE_DETAILED_CAPTION>": "Describe with a paragraph what is shown in the image.",
    "<OD>": "Locate the objects with category name in the image.",
    "<DENSE_REGION_CAPTION>": "Locate the objects in the image, with their descriptions.",
    "<REGION_PROPOSAL>": "Locate the region proposals in the image.",
}
"""Tasks that stand alone, and what they ask."""

ABOUT: Mapping[str, str] = {
    "<CAPTION_TO_PHRASE_GROUNDING>": "Locate the phrases in the caption: {input}",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "Locate {input} in the image with mask",
    "<REGION_TO_SEGMENTATION>": "What is the polygon mask of region {input}",
    "<OPEN_VOCABULARY_DETECTION>": "Locate {input} in the image.",
    "<REGION_TO_CATEGORY>": "What is the region {input}?",
    "<REGION_TO_DESCRIPTION>": "What does the region {input} describe?",
    "<REGION_TO_OCR>": "What text is in the region {input}?",
}
"""Tasks about something that is written beside them."""

KINDS: Mapping[str, str] = {
    "<OCR_WITH_REGION>": "ocr",
    "<OD>": "description_with_bboxes",
    "<DENSE_REGION_CAPTION>": "description_with_bboxes",
    "<CAPTION_TO_PHRASE_GROUNDING>": "phrase_grounding",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "polygons",
    "<REGION_TO_SEGMENTATION>": "polygons",
    "<OPEN_VOCABULARY_DETECTION>": "description_with_bboxes_or_polygons",
    "<REGION_PROPOSAL>": "bboxes",
}
"""How the answers to tasks are read, those that are no plain text."""


class Florence2Processor(PlacedProcessor):
    """One picture and one task for each row.

    Args:
        image_processor: of the pictures; it states how many tokens one takes (``image_seq_length``).
        tokenizer: of the texts; it must know an ``image_token``.
        num_additional_image_tokens: kept for files; the image processor counts all of them.
        post_processor_config: what changes in how answers are read, by kind of answer.
        chat_template: the template for conversations; by default the tokenizer's.

    Raises:
        ConfigError: the tokenizer has no image token, or the image processor does not state how many it takes.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")
    settings: ClassVar[tuple[str, ...]] = ("num_additional_image_tokens", "post_processor_config")

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        num_additional_image_tokens: int = 0,
        post_processor_config: Mapping[str, Mapping[str, object]] | None = None,
        *,
        chat_template: ChatTemplates = None,
    ) -> None:
        token, length = tokenizer.named_token("image_token"), image_processor.options.image_seq_length
        if token is None or length is None:
            raise ConfigError(
                "this makes no Florence-2 processor",
                where="image_token" if token is None else "image_seq_length",
                expected="a special token of the tokenizer" if token is None else "a number in the image processor",
                found="none",
            )
        super().__init__(tokenizer, [Slot("image", token, token)], chat_template=chat_template)
        self.image_processor = image_processor
        self.num_additional_image_tokens = num_additional_image_tokens
        self.post_processor_config = post_processor_config
        self.image_token = self.placeholder = token
        self.image_token_id = self._ids["image"]
        self.num_image_tokens = length

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None
        settings = {name: value for name, value in parts.settings.items() if value is not None}
        r = ConfigReader(settings, where=f"{parts.where}: processor_config.json")
        return cls(
            parts.image_processor,
            parts.tokenizer,
            num_additional_image_tokens=r.integer("num_additional_image_tokens", 0, least=0),
            post_processor_config=cast("Mapping[str, Mapping[str, object]]", r.mapping("post_processor_config")),
            chat_template=parts.chat_template,
        )

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self, images: ImageInput | None = None, text: str | Sequence[str] | None = None, **options: object
    ) -> Batch:
        """Turn pictures and what is asked of them into the model's inputs.

        Args:
            images: one picture for each text.
            text: a task (``"<OD>"``), a task and what it is about (``"<CAPTION_TO_PHRASE_GROUNDING> a red ball"``), or
                a question as it is to be read; one or several. Without it the picture stands alone.
            options: of the tokenizer (:class:`~omniform.inputs.text.options.EncodeOptions`) and of the image processor
                (:class:`~omniform.inputs.images.options.ImageOptions`), flat or as ``text_kwargs`` and
                ``images_kwargs``; ``return_mm_token_type_ids`` for ``mm_token_type_ids``, 1 at every image token.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]``; ``pixel_values [B, C, H, W]`` if there are pictures, with one
            :class:`~omniform.core.batch.Span` for each in ``spans``.

        Raises:
            InputError: not one picture for each text, a task with something beside it that stands alone, an image
                token in a text, or truncation that cuts through a picture's tokens.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        pictures, _ = image_rows(images)
        if text is None and not pictures:
            raise InputError("there is neither text nor a picture", where=type(self).__name__)
        rows = [""] * len(pictures) if text is None else read_texts(text)
        rows = [self._question(row, number) for number, row in enumerate(rows)]
        if pictures:
            rows = self._illustrated(rows, len(pictures))
        return self._placed(rows, {"image": pictures or None}, options)

    def _options(self, given: Mapping[str, object], own: tuple[str, ...] = ()) -> CallOptions:
        asked = super()._options(given, own)
        asked.text.setdefault("add_special_tokens", False)
        return asked

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        pixels = self.image_processor(cast(ImageInput, media), **asked.images)  # type: ignore[arg-type]
        return Taken(pixels, [self.image_token * self.num_image_tokens] * len(media))

    def _question(self, row: str, number: int) -> str:
        """What a row asks in words."""
        for task, question in ALONE.items():
            if task in row:
                if row != task:
                    raise InputError(
                        "this task stands alone", where=f"text, row {number}", expected=task, found=brief(row)
                    )
                row = question
                break
        for task, question in ABOUT.items():
            if task in row:
                return question.format(input=row.replace(task, "").strip())
        return row

    def _illustrated(self, rows: Sequence[str], pictures: int) -> list[str]:
        """The rows behind their pictures."""
        if len(rows) != pictures:
            raise InputError(
                "every row has one picture", where="images", expected=f"{len(rows)}, as there are texts", found=pictures
            )
        text = self.tokenizer
        begin, end = text.named_token("bos_token") or "", text.named_token("eos_token") or ""
        return [self.image_token + begin + row + end for row in rows]

    def post_process_generation(
        self,
        text: str | None = None,
        sequence: Sequence[int] | Tensor | None = None,
        task: str | None = None,
        image_size: Size | None = None,
    ) -> dict[str, object]:
        """What the model answered, read as the task's answers are.

        Args:
            text: what it wrote, special tokens included; or
            sequence: its tokens. Shape: [T].
            task: the task, ``"<OD>"``.
            image_size: width and height of the picture in pixels; boxes and outlines are given in these.

        Returns:
            By the task's name, a text, or a mapping: ``bboxes`` (left, top, right, bottom) and ``labels``;
            ``quad_boxes`` and ``labels`` of OCR; ``polygons`` and ``labels``; or ``bboxes``, ``bboxes_labels``,
            ``polygons`` and ``polygons_labels`` of open vocabulary detection.

        Raises:
            InputError: no task, neither or both of text and tokens, or no size where locations are read.
        """
        if task is None:
            raise InputError("nobody says what was asked", where="task", expected="a task", found="None")
        if (text is None) == (sequence is None):
            found = "neither" if text is None else "both"
            raise InputError("the answer comes in one way", where="text", expected="text or sequence", found=found)
        kind = KINDS.get(task, "pure_text")
        if kind != "pure_text" and image_size is None:
            raise InputError(
                "locations are parts of a picture's edges",
                where="image_size",
                expected="width and height",
                found="None",
            )
        said = text if text is not None else self._written(cast("Sequence[int] | Tensor", sequence))
        return {task: answer_of(kind, said, image_size or (0, 0), self.post_processor_config or {})}

    def _written(self, sequence: Sequence[int] | Tensor) -> str:
        """The text of tokens, each by itself, special ones included."""
        ids = [int(one) for one in (sequence.tolist() if isinstance(sequence, Tensor) else sequence)]
        if ids and ids[0] == self.tokenizer.bos_token_id:
            ids = ids[1:]
        special = frozenset(self.tokenizer.all_special_tokens)
        tokens = cast("list[str]", self.tokenizer.convert_ids_to_tokens(ids))
        return "".join(one if one in special else self.tokenizer.convert_tokens_to_string([one]) for one in tokens)

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def to_dict(self) -> dict[str, object]:
        own = {
            "num_additional_image_tokens": self.num_additional_image_tokens,
            "post_processor_config": self.post_processor_config,
        }
        return {**super().to_dict(), **own}
