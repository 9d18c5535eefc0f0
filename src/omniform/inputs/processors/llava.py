"""LLaVA's processor: each ``<image>`` of a text becomes as many tokens as the picture gives the decoder features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import ClassVar, Self, cast

from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import TEXT_OPTIONS, PartName, Parts, Processor, image_options, read_texts
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import Part
from omniform.inputs.spans import placeholder_spans
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

STRATEGIES = ("default", "full")


class LlavaProcessor(Processor):
    """Texts with pictures in them, for LLaVA.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts; it must know ``image_token``.
        patch_size: edge of the vision tower's patches, in pixels.
        vision_feature_select_strategy: ``"default"`` leaves the first feature (the class token) out, ``"full"`` not.
        chat_template: the template for conversations; by default the tokenizer's.
        image_token: what stands for a picture in a text; a token of that name in the tokenizer wins.
        num_additional_image_tokens: features of a picture beyond its patches (1 for a class token).

    Raises:
        ConfigError: the tokenizer does not know the image token, or a number or a strategy has a wrong value.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")
    settings: ClassVar[tuple[str, ...]] = (
        "patch_size", "vision_feature_select_strategy", "image_token", "num_additional_image_tokens",
    )  # fmt: skip

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: ChatTemplates = None,
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_processor = image_processor
        self.patch_size = patch_size
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.num_additional_image_tokens = num_additional_image_tokens
        self.image_token = tokenizer.named_token("image_token") or image_token
        self.placeholder = self.image_token
        token_id = tokenizer.backend.token_to_id(self.image_token)
        if token_id is None:
            raise ConfigError(
                "the tokenizer has no such image token",
                where=tokenizer.name_or_path,
                found=repr(self.image_token),
                remedy="image_token= names another one.",
            )
        self.image_token_id = token_id

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder; where the files of early releases state no patch size, the model's does."""
        assert parts.image_processor is not None
        settings = {name: value for name, value in parts.settings.items() if value is not None}
        if "patch_size" not in settings:
            settings = {**_from_model(parts.model), **settings}
        r = ConfigReader(settings, where=f"{parts.where}: processor_config.json")
        strategy = r.choice("vision_feature_select_strategy", (*STRATEGIES, ""), "")
        return cls(
            parts.image_processor,
            parts.tokenizer,
            patch_size=r.maybe_integer("patch_size"),
            vision_feature_select_strategy=strategy or None,
            chat_template=parts.chat_template,
            image_token=r.text("image_token", "<image>"),
            num_additional_image_tokens=r.integer("num_additional_image_tokens", 0, least=0),
        )

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the pictures in them into the model's inputs.

        Args:
            images: the pictures of all rows in reading order, or one list for each row.
            text: a text or several; ``<image>`` stands for a picture.
            options: of the tokenizer (:class:`~omniform.inputs.text.options.EncodeOptions`) and of the image processor
                (:class:`~omniform.inputs.images.options.ImageOptions`), flat or as ``text_kwargs`` and
                ``images_kwargs``; ``return_mm_token_type_ids`` for ``mm_token_type_ids``, 1 at every image token.

        Returns:
            ``input_ids [B, T]`` and ``attention_mask [B, T]`` if there is text; ``pixel_values [N, C, H, W]`` if there
            are pictures, with one :class:`~omniform.core.batch.Span` for each in ``spans``.

        Raises:
            InputError: a row has more or fewer placeholders than pictures, truncation cuts through placeholders, or an
                input cannot be used.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        asked = self._options(options, ("return_mm_token_type_ids",))
        pictures, counts = image_rows(images)
        if text is None and not pictures:
            raise InputError("there is neither text nor a picture", where=type(self).__name__)
        pixels = self.image_processor(cast(ImageInput, pictures), **asked.images) if pictures else Batch()  # type: ignore[arg-type]
        if text is None:
            return pixels
        rows = read_texts(text)
        wanted = self._counts(rows, len(pictures), counts)
        sizes = iter([self._tokens_of(image) for image in cast("Iterable[Tensor]", pixels.get("pixel_values", ()))])
        lengths = [list(islice(sizes, count)) for count in wanted]
        expanded = [self._expand(row, items) for row, items in zip(rows, lengths, strict=True)]
        kind = cast("str | None", asked.text.pop("return_tensors", None))
        batch = self.tokenizer(expanded, **cast(EncodeOptions, asked.text))
        ids = cast("list[list[int]]", batch["input_ids"])
        batch.spans = placeholder_spans(ids, self.image_token_id, lengths, "image")
        if asked.own.get("return_mm_token_type_ids"):
            batch["mm_token_type_ids"] = [[int(token == self.image_token_id) for token in row] for row in ids]
        batch.update(pixels)
        return batch.as_tensors(kind)

    def _counts(self, rows: Sequence[str], pictures: int, given: Sequence[int] | None) -> list[int]:
        """How many pictures each row has, which its placeholders and the pictures must agree on."""
        found = [row.count(self.image_token) for row in rows]
        by_row = given if given is not None and len(given) == len(rows) else None
        left = pictures
        for row, count in enumerate(found):
            there = left if by_row is None else by_row[row]
            last = by_row is not None or row == len(found) - 1
            if count > there or (last and count < there):
                raise InputError(
                    f"the {self.image_token} placeholders do not match the pictures",
                    where=f"text, row {row}",
                    expected=f"{there} placeholder(s) for {there} picture(s)",
                    found=f"{count} placeholder(s)" + (f" (by row: {found})" if len(found) > 1 else ""),
                    remedy=f"Write {self.image_token} once for each picture.",
                )
            left -= count
        return found

    def _tokens_of(self, image_CHW: Tensor) -> int:
        """How many tokens a processed picture stands for."""
        if self.patch_size is None:
            raise ConfigError(
                "the processor's file states no patch size",
                where=self.tokenizer.name_or_path,
                remedy="AutoProcessor.from_pretrained(..., patch_size=14) sets it.",
            )
        height, width = image_CHW.shape[-2:]
        count = (height // self.patch_size) * (width // self.patch_size) + self.num_additional_image_tokens
        return count - 1 if self.vision_feature_select_strategy == "default" else count

    def _expand(self, text: str, lengths: Sequence[int]) -> str:
        parts = text.split(self.image_token)
        runs = [self.image_token * length for length in lengths]
        return parts[0] + "".join(run + part for run, part in zip(runs, parts[1:], strict=True))

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def _known(self) -> dict[Part, frozenset[str]]:
        return {"text": TEXT_OPTIONS, "images": image_options(self.image_processor)}

    def to_dict(self) -> dict[str, object]:
        own = {
            "patch_size": self.patch_size,
            "vision_feature_select_strategy": self.vision_feature_select_strategy,
            "image_token": self.image_token,
            "num_additional_image_tokens": self.num_additional_image_tokens,
        }
        return {**super().to_dict(), **own}


def _from_model(config: Mapping[str, object]) -> dict[str, object]:
    """What a model's config tells about the tokens of a picture."""
    vision = config.get("vision_config")
    tower = vision if isinstance(vision, Mapping) else {}
    patch = tower.get("patch_size")
    if patch is None:
        return {}
    classed = "clip" in str(tower.get("model_type", "clip"))
    return {
        "patch_size": patch,
        "num_additional_image_tokens": int(classed),
        "vision_feature_select_strategy": config.get("vision_feature_select_strategy") or "default",
    }
