"""LLaVA's processor: each ``<image>`` of a text becomes as many tokens as the picture gives the decoder features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self, cast

from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import PartName, Parts
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

STRATEGIES = ("default", "full")


class LlavaProcessor(PlacedProcessor):
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
        self.image_token = tokenizer.named_token("image_token") or image_token
        super().__init__(tokenizer, [Slot("image", self.image_token, self.image_token)], chat_template=chat_template)
        self.image_processor = image_processor
        self.patch_size = patch_size
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.num_additional_image_tokens = num_additional_image_tokens
        self.placeholder = self.image_token
        self.image_token_id = self._ids["image"]

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
        return self._placed(text, {"image": images}, options)

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        pixels = self.image_processor(cast(ImageInput, media), **asked.images)  # type: ignore[arg-type]
        lengths = [self._tokens_of(image) for image in cast("Iterable[Tensor]", pixels["pixel_values"])]
        return Taken(pixels, [self.image_token * length for length in lengths])

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

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

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
