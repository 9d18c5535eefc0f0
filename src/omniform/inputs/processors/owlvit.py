"""OWL-ViT's and OWLv2's processors: pictures, and for each of them the texts, or a picture, to be found in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self, cast

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.open_detection import Alike, GuidedOutput, OwlViTImageProcessor, labelled
from omniform.inputs.images.postprocess import DetectionOutput, TargetSizes
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import TEXT_OPTIONS, PartName, Parts, Processor, image_options, read_texts
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import CallOptions, Part
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

NO_QUERY = " "
"""What fills up the queries of a picture that has fewer than others."""


class OwlViTProcessor(Processor):
    """Pictures and queries.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts.
        chat_template: the template for conversations; by default the tokenizer's.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")
    TENSORS: ClassVar[str] = "pt"
    """The kind of tensors where nobody asks for one."""

    def __init__(
        self, image_processor: ImageProcessor, tokenizer: Tokenizer, *, chat_template: ChatTemplates = None
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_processor = image_processor

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None
        return cls(parts.image_processor, parts.tokenizer, chat_template=parts.chat_template)

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | None = None,
        text: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        query_images: ImageInput | None = None,
        **options: object,
    ) -> Batch:
        """Turn pictures and what is to be found in them into the model's inputs.

        Args:
            images: one picture or several.
            text: the queries of one picture, or a list of them for each; pictures with fewer get empty ones.
            query_images: pictures of what is to be found, one for each; texts then do not count.
            options: of the tokenizer (:class:`~omniform.inputs.text.options.EncodeOptions`) and of the image processor
                (:class:`~omniform.inputs.images.options.ImageOptions`), flat or as ``text_kwargs`` and
                ``images_kwargs``.

        Returns:
            ``input_ids`` and ``attention_mask [B * queries, T]``, or ``query_pixel_values [B, C, H, W]``; and
            ``pixel_values [B, C, H, W]``: what there is input for.

        Raises:
            InputError: there is nothing at all, or something that cannot be used.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        images_kwargs = options.get("images_kwargs")
        if isinstance(images_kwargs, Mapping) and "query_images" in images_kwargs:  # where releases of 2025 put them
            query_images = cast(ImageInput, images_kwargs["query_images"])
            options["images_kwargs"] = {k: v for k, v in images_kwargs.items() if k != "query_images"}
        asked = self._options(options)
        if text is None and images is None and query_images is None:
            raise InputError("there is neither text nor a picture", where=type(self).__name__)
        batch = Batch() if text is None or query_images is not None else self._queries(text, asked)
        for name, given in (("query_pixel_values", query_images), ("pixel_values", images)):
            pictures, _ = image_rows(given)
            if pictures:
                made = self.image_processor(cast(ImageInput, pictures), **asked.images)  # type: ignore[arg-type]
                batch[name] = made["pixel_values"]
        return batch

    def _options(self, given: Mapping[str, object], own: tuple[str, ...] = ()) -> CallOptions:
        asked = super()._options(given, own)
        for part in (asked.text, asked.images):
            part.setdefault("return_tensors", self.TENSORS)
        asked.text.setdefault("padding", "max_length")
        return asked

    def _queries(self, text: object, asked: CallOptions) -> Batch:
        if asked.text["return_tensors"] not in ("pt", "np"):
            found = brief(asked.text["return_tensors"])
            raise InputError("queries are tensors", where="return_tensors", expected="'pt' or 'np'", found=found)
        if isinstance(text, (list, tuple)) and text and not isinstance(text[0], str):
            rows = [self._listed(row, number) for number, row in enumerate(text)]
            most = max(map(len, rows))
            text = [query for row in rows for query in row + [NO_QUERY] * (most - len(row))]
        made = self.tokenizer(read_texts(text), **cast(EncodeOptions, asked.text))
        return Batch({name: made[name] for name in ("input_ids", "attention_mask") if name in made})

    def _listed(self, row: object, number: int) -> list[str]:
        if not isinstance(row, (list, tuple)):
            raise InputError(
                "queries are a list for each picture, or those of one",
                where=f"text[{number}]",
                expected="a list, as the first is",
                found=type(row).__name__,
            )
        return read_texts(row) if row else []

    def post_process_object_detection(
        self, outputs: DetectionOutput, threshold: float = 0.1, target_sizes: TargetSizes | None = None
    ) -> list[dict[str, object]]:
        """See :meth:`OwlViTImageProcessor.post_process_object_detection`."""
        found = self._reader().post_process_object_detection(outputs, threshold, target_sizes)
        return [{**one} for one in found]

    def post_process_grounded_object_detection(
        self,
        outputs: DetectionOutput,
        threshold: float = 0.1,
        target_sizes: TargetSizes | None = None,
        text_labels: Sequence[Sequence[str]] | None = None,
    ) -> list[dict[str, object]]:
        """What was found in each picture: ``scores``, ``labels`` (numbers of queries), ``boxes`` and ``text_labels``.

        Args:
            outputs: the model's.
            threshold: a probability.
            target_sizes: the pictures' sizes ``(height, width)``; boxes are in their pixels, and without them in
                fractions.
            text_labels: the queries of each picture, in words.

        Raises:
            InputError: the outputs lack boxes, or there are not as many sizes or lists of texts as pictures.
        """
        return labelled(self._reader().post_process_object_detection(outputs, threshold, target_sizes), text_labels)

    def post_process_image_guided_detection(
        self,
        outputs: GuidedOutput,
        threshold: float = 0.0,
        nms_threshold: float = 0.3,
        target_sizes: TargetSizes | None = None,
    ) -> list[Alike]:
        """See :meth:`OwlViTImageProcessor.post_process_image_guided_detection`."""
        return self._reader().post_process_image_guided_detection(outputs, threshold, nms_threshold, target_sizes)

    def _reader(self) -> OwlViTImageProcessor:
        if not isinstance(self.image_processor, OwlViTImageProcessor):
            raise InputError(
                "this image processor reads no queries' boxes",
                where="image_processor",
                expected="OwlViTImageProcessor",
                found=type(self.image_processor).__name__,
            )
        return self.image_processor

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def _known(self) -> dict[Part, frozenset[str]]:
        return {"text": TEXT_OPTIONS, "images": image_options(self.image_processor)}


class Owlv2Processor(OwlViTProcessor):
    """OWLv2's."""

    TENSORS: ClassVar[str] = "np"
