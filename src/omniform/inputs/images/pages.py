"""Pages of documents (LayoutLMv3): their pixels and, where tesseract is asked to read them, their words with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import ClassVar, Protocol, cast

from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, MissingPartError
from omniform.inputs.images.options import OcrOptions
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, load_tensors
from omniform.inputs.media_access import MediaAccess

PAGE = 1000
"""Boxes are told in thousandths of a page's edges."""


class Reading(Protocol):
    """What ``pytesseract`` is asked for."""

    def image_to_data(
        self, image: object, *, lang: str | None, output_type: str, config: str
    ) -> dict[str, Sequence[object]]: ...


def read_page(page_CHW: Tensor, lang: str | None, config: str | None) -> tuple[list[str], list[list[int]]]:
    """The words that tesseract reads on a page, and their boxes.

    Args:
        page_CHW: bytes. Shape: [channels, height, width].
        lang: the language, by tesseract's name; English by default.
        config: further settings of tesseract.

    Raises:
        MissingPartError: pytesseract is not installed, or tesseract itself is not.
    """
    if find_spec("pytesseract") is None:
        raise MissingPartError(
            "pages are read by tesseract, which is not installed",
            where="apply_ocr",
            remedy="pip install pytesseract, and tesseract itself; or pass apply_ocr=False and give words and boxes.",
        )
    from PIL import Image

    engine = cast(Reading, import_module("pytesseract"))
    array = page_CHW.cpu().permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    found = engine.image_to_data(picture, lang=lang, output_type="dict", config=config or "")
    width, height = picture.size
    words, boxes = [], []
    for word, x, y, wide, tall in zip(*(found[n] for n in ("text", "left", "top", "width", "height")), strict=True):
        if str(word).strip():
            left, upper, across, down = (int(cast(int, one)) for one in (x, y, wide, tall))
            words.append(str(word))
            edges = ((left, width), (upper, height), (left + across, width), (upper + down, height))
            boxes.append([int(PAGE * (edge / whole)) for edge, whole in edges])
    return words, boxes


class PageImageProcessor(ImageProcessor):
    """LayoutLMv3's."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values",)

    @property
    def apply_ocr(self) -> bool:
        """Whether pages are read."""
        return bool(cast(OcrOptions, self.options).apply_ocr)

    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pages; see :meth:`ImageProcessor.__call__`.

        Returns:
            ``pixel_values``; with ``apply_ocr`` also ``words`` and ``boxes``, for each page a list of each.

        Raises:
            MissingPartError: pages are to be read and tesseract is not installed.
        """
        options = cast(OcrOptions, self._changed(return_tensors, overrides))
        plan = self.plan(options)
        pages = list(load_tensors(images, options, self.kind.backend, media_access))
        found = [read_page(page, options.ocr_lang, options.tesseract_config) for page in pages if options.apply_ocr]
        data: dict[str, object] = {"pixel_values": self.gathered(plan.finish(plan.shape(pages)), options)}
        if options.apply_ocr:
            data["words"], data["boxes"] = [words for words, _ in found], [boxes for _, boxes in found]
        return Batch(data)


def check_given(processor: ImageProcessor, **given: object) -> None:
    """Raise :class:`InputError` where words' boxes or labels are given, and the page is to be read as well."""
    told = [name for name, value in given.items() if value is not None]
    if isinstance(processor, PageImageProcessor) and processor.apply_ocr and told:
        raise InputError(
            "words are read off the page (apply_ocr), and can be given nothing",
            where=told[0],
            expected="None",
            remedy="Load the processor with apply_ocr=False.",
        )
