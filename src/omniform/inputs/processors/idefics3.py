"""Idefics3's processor: each ``<image>`` becomes rows of squares, with their places, and the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self, cast

from omniform.core.batch import Batch, Modality
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import PartName, Parts
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

IMAGE, AROUND, WHOLE, END = "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"
_COUNTS: Final = "picture_counts"


class Idefics3Processor(PlacedProcessor):
    """Texts with pictures in them, for Idefics3.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts; tokens for pictures that it lacks are added to it.
        image_seq_len: how many tokens stand for a square.
        chat_template: the template for conversations; by default the tokenizer's.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")
    settings: ClassVar[tuple[str, ...]] = ("image_seq_len",)

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        image_seq_len: int = 169,
        chat_template: ChatTemplates = None,
    ) -> None:
        if any(tokenizer.backend.token_to_id(token) is None for token in (AROUND, IMAGE, END)):
            tokenizer.add_special_tokens({"additional_special_tokens": [AROUND, IMAGE, END]})
        super().__init__(tokenizer, [Slot("image", IMAGE, IMAGE)], chat_template=chat_template)
        self.image_processor = image_processor
        self.image_seq_len = image_seq_len
        self.image_token, self.fake_image_token, self.end_of_utterance_token = IMAGE, AROUND, END
        self.global_image_tag = WHOLE
        self.placeholder = IMAGE
        self.image_token_id = self._ids["image"]

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        assert parts.image_processor is not None
        r = ConfigReader(parts.settings, where=f"{parts.where}: processor_config.json")
        return cls(parts.image_processor, parts.tokenizer, r.integer("image_seq_len", 169), parts.chat_template)

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        image_seq_len: int | None = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the pictures in them into the model's inputs.

        Args:
            images: the pictures of all rows in reading order, or one list for each row.
            text: a text or several; ``<image>`` stands for a picture.
            image_seq_len: how many tokens stand for a square, if not as many as usual.
            options: of the tokenizer and of the image processor, flat or as ``text_kwargs`` and ``images_kwargs``;
                ``return_mm_token_type_ids`` for ``mm_token_type_ids``, 1 at every image token.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]`` if there is text; what the image processor makes of pictures,
            with one :class:`~omniform.core.batch.Span` for each run of tokens in ``spans``.

        Raises:
            InputError: a row has more or fewer placeholders than pictures, truncation cuts through placeholders, or an
                input cannot be used.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        own = {} if image_seq_len is None else {"image_seq_len": image_seq_len}
        return self._read(images, text, {"image": images}, {**options, **own})

    def _read(
        self,
        images: object,
        text: str | Sequence[str] | None,
        media: Mapping[Modality, object],
        options: Mapping[str, object],
    ) -> Batch:
        """The body of a call, which knows how many pictures each row has."""
        flat, nested = image_rows(images)
        rows = [text] if isinstance(text, str) else text
        counts = [row.count(IMAGE) for row in rows] if rows is not None and nested is None else nested or [len(flat)]
        own = {_COUNTS: counts, "image_seq_len": self.image_seq_len}
        return self._placed(text, media, {**own, **options}, tuple(own))

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        counts, squares = cast("list[int]", asked.own[_COUNTS]), cast(int, asked.own["image_seq_len"])
        nested, at = [], 0
        for count in counts:
            nested.append(list(media[at : at + count]))
            at += count
        wished = {**asked.images, "return_row_col_info": True}
        made = self.image_processor(cast(ImageInput, nested), **wished)  # type: ignore[arg-type]
        rows, columns = (
            [n for row in cast("list[list[int]]", made.pop(name)) for n in row] for name in ("rows", "cols")
        )
        return Taken(made, [self._expansion(r, c, squares) for r, c in zip(rows, columns, strict=True)])

    def _expansion(self, rows: int, columns: int, squares: int) -> str:
        """What stands for a picture of so many rows and columns of squares; 0 where it is not cut."""
        tokens = IMAGE * squares
        whole = f"{AROUND}{WHOLE}{tokens}{AROUND}"
        if not rows and not columns:
            return whole
        lines = [
            "".join(f"{AROUND}<row_{r}_col_{c}>{tokens}" for c in range(1, columns + 1)) for r in range(1, rows + 1)
        ]
        return "".join(f"{line}\n" for line in lines) + f"\n{whole}"

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def to_dict(self) -> dict[str, object]:
        return {**super().to_dict(), "image_seq_len": self.image_seq_len}
