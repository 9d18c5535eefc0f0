"""Phi-4-multimodal's processor: a token for each picture and each sound becomes as many as it has vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self, cast

from omniform.core.batch import Batch, Modality
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import PartName, Parts
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.processors.speech import waves_of
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

_USUAL: Final[Mapping[str, str]] = {"image_token": "<|endoftext10|>", "audio_token": "<|endoftext11|>"}
"""What published tokenizers have in these places, where they do not say so."""


class Phi4MultimodalProcessor(PlacedProcessor):
    """Texts with pictures and sounds in them, for Phi-4-multimodal.

    Args:
        image_processor: of the pictures.
        audio_processor: of the sounds.
        tokenizer: of the texts; it names an ``image_token`` and an ``audio_token``.
        chat_template: the template for conversations; by default the tokenizer's.

    Raises:
        ConfigError: the tokenizer does not know these tokens.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer", "feature_extractor")

    def __init__(
        self,
        image_processor: ImageProcessor,
        audio_processor: FeatureExtractor,
        tokenizer: Tokenizer,
        chat_template: ChatTemplates = None,
    ) -> None:
        self.image_token, self.audio_token = (tokenizer.named_token(name) or usual for name, usual in _USUAL.items())
        slots = [
            Slot("image", self.image_token, self.image_token),
            Slot("audio", self.audio_token, self.audio_token),
        ]
        super().__init__(tokenizer, slots, chat_template=chat_template)
        self.image_processor = image_processor
        self.audio_processor = audio_processor
        self.placeholder = self.image_token
        self.image_token_id, self.audio_token_id = self._ids["image"], self._ids["audio"]

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        assert parts.image_processor is not None and parts.feature_extractor is not None
        return cls(parts.image_processor, parts.feature_extractor, parts.tokenizer, parts.chat_template)

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        audio: object = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the pictures and sounds in them into the model's inputs.

        Args:
            images: the pictures of all rows in reading order, or one list for each row.
            text: a text or several, with the tokenizer's image and audio token for each picture and sound.
            audio: the sounds of all rows in reading order: files, ``(samples, rate)`` pairs or waves.
            options: of the tokenizer, the image processor and the feature extractor, flat or as ``text_kwargs``,
                ``images_kwargs`` and ``audio_kwargs``; ``return_mm_token_type_ids`` for ``mm_token_type_ids``.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]`` if there is text, what the image processor makes of pictures and
            the feature extractor of sounds, with one :class:`~omniform.core.batch.Span` for each in ``spans``.

        Raises:
            InputError: a row has more or fewer placeholders than items, truncation cuts through placeholders, or an
                input cannot be used.
            RepoError: a file or an address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        return self._placed(text, {"image": images, "audio": audio}, options)

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        if modality == "image":
            made = self.image_processor(cast(ImageInput, media), **asked.images)  # type: ignore[arg-type]
            counts = [int(count) for count in cast("Sequence[int]", made.pop("num_img_tokens"))]
            return Taken(made, [self.image_token * count for count in counts])
        waves = waves_of(media, self.audio_processor.sampling_rate, asked.audio)
        heard = self.audio_processor(waves, **asked.audio)  # type: ignore[arg-type]
        sizes = [int(size) for size in cast("Sequence[int]", heard["audio_embed_sizes"])]
        return Taken(heard, [self.audio_token * size for size in sizes])

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor, "audio_processor": self.audio_processor}
