"""The processors of BLIP, BLIP-2 and InstructBLIP: texts and pictures side by side, and where pictures come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self, cast

from tokenizers import AddedToken

from omniform.core.batch import Batch, Span
from omniform.core.errors import ConfigError, InputError
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.base import Parts, read_texts
from omniform.inputs.processors.clip import CLIPProcessor
from omniform.inputs.processors.media import image_rows
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.load import tokenizer_from_files
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

TYPES = "token_type_ids"
IMAGE = "<image>"


class BlipProcessor(CLIPProcessor):
    """Texts and pictures, independent of one another; the model does not tell types of tokens apart."""

    UNREAD: ClassVar[frozenset[str]] = frozenset({TYPES})
    """What a tokenizer may give and the model never reads."""

    @property
    def model_input_names(self) -> list[str]:
        return [name for name in super().model_input_names if name not in self.UNREAD]

    def _options(self, given: Mapping[str, object], own: tuple[str, ...] = ()) -> CallOptions:
        options = super()._options(given, own)
        options.text.setdefault(f"return_{TYPES}", False)
        return options

    def __call__(  # type: ignore[override]
        self, images: ImageInput | None = None, text: str | Sequence[str] | None = None, **options: object
    ) -> Batch:
        """Turn texts, pictures or both into the model's inputs; see :meth:`CLIPProcessor.__call__`."""
        batch = super().__call__(images, text, **options)
        for name in self.UNREAD & batch.keys():
            del batch[name]
        return batch


class Blip2Processor(BlipProcessor):
    """Texts, each with the places of a picture's vectors in front of it, before any other token.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts; it learns the token that stands for pictures, if it knows none.
        num_query_tokens: how many vectors a picture has; None in old files, whose models put them there themselves.
        chat_template: the template for conversations; by default the tokenizer's.
    """

    UNREAD: ClassVar[frozenset[str]] = frozenset()
    settings: ClassVar[tuple[str, ...]] = ("num_query_tokens",)

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        num_query_tokens: int | None = None,
        *,
        chat_template: ChatTemplates = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        named = tokenizer.named_token("image_token")
        if named is None:
            tokenizer.add_tokens([AddedToken(IMAGE, normalized=False, special=True)], special_tokens=True)
        self.image_token = IMAGE if named is None else named
        self.num_query_tokens = num_query_tokens

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None
        count = read_count(parts)
        return cls(parts.image_processor, parts.tokenizer, count, chat_template=parts.chat_template)

    def __call__(  # type: ignore[override]
        self, images: ImageInput | None = None, text: str | Sequence[str] | None = None, **options: object
    ) -> Batch:
        """Turn texts, pictures or both into the model's inputs.

        Args:
            images: one picture or several.
            text: a text or several.
            options: of the tokenizer and the image processor; see :meth:`CLIPProcessor.__call__`. ``max_length``
                counts the places of a picture too.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]``, ``pixel_values [N, C, H, W]``: what there is input for; where
            there are both, every text begins with the places of its picture, even before its padding.

        Raises:
            InputError: there is neither text nor a picture, or one of them cannot be used.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        asked = self._options(options)
        pictures, _ = image_rows(images)
        if text is None and not pictures:
            raise InputError("there is neither text nor a picture", where=type(self).__name__)
        kind = cast("str | None", asked.text.pop("return_tensors", None))
        batch = Batch()
        if text is not None:
            batch = self._read(read_texts(text), asked.text, bool(pictures))
        if pictures:
            batch.update(self.image_processor(cast(ImageInput, pictures), **asked.images))  # type: ignore[arg-type]
        return batch.as_tensors(kind)

    def _read(self, texts: list[str], options: dict[str, object], pictured: bool) -> Batch:
        """Texts as rows of ids, with the places of pictures in front where there are any."""
        count = self.num_query_tokens or 0
        longest = options.get("max_length")
        if isinstance(longest, int):
            if longest <= count:
                raise InputError(
                    "a picture alone is longer", where="max_length", expected=f"more than {count}", found=longest
                )
            options = {**options, "max_length": longest - count}
        batch = self.tokenizer(texts, **cast(EncodeOptions, options))
        return self._placed(batch, options, count) if pictured and count else batch

    def _placed(self, batch: BatchEncoding, options: Mapping[str, object], count: int) -> Batch:
        bare: dict[str, object] = {"add_special_tokens": False, "padding": False, "truncation": False}
        marks = self.tokenizer(self.image_token * count, **cast(EncodeOptions, {**options, **bare}))
        placed = {name: [marks[name] + row for row in cast("list[list[int]]", rows)] for name, rows in batch.items()}  # type: ignore[operator]
        spans = [Span("image", row, 0, count, row) for row in range(len(cast("list[object]", batch["input_ids"])))]
        return Batch(placed, spans=spans)

    def to_dict(self) -> dict[str, object]:
        """The object to save as ``processor_config.json``."""
        return {**super().to_dict(), "num_query_tokens": self.num_query_tokens}


class InstructBlipProcessor(Blip2Processor):
    """The same, and each text once more as the queries read it, which look at a picture with it in mind.

    Args:
        qformer_tokenizer: of the texts for the queries.
    """

    HOME: ClassVar[str] = "qformer_tokenizer"
    beside: ClassVar[tuple[str, ...]] = (f"{HOME}/",)

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        qformer_tokenizer: Tokenizer,
        num_query_tokens: int | None = None,
        *,
        chat_template: ChatTemplates = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, num_query_tokens, chat_template=chat_template)
        if not isinstance(qformer_tokenizer, Tokenizer):
            found = type(qformer_tokenizer).__name__
            raise InputError("this is no tokenizer", where=self.HOME, found=found)
        self.qformer_tokenizer = qformer_tokenizer

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder.

        Raises:
            ConfigError: it has no tokenizer for the queries.
        """
        assert parts.image_processor is not None
        files = {name.removeprefix(f"{cls.HOME}/"): path for name, path in parts.files.items()}
        if not files:
            raise ConfigError("the queries have no tokenizer", where=parts.where, expected=f"a folder {cls.HOME}")
        queries = tokenizer_from_files(files, where=f"{parts.where}/{cls.HOME}")
        count = read_count(parts)
        return cls(parts.image_processor, parts.tokenizer, queries, count, chat_template=parts.chat_template)

    @property
    def model_input_names(self) -> list[str]:
        own = ["qformer_input_ids", "qformer_attention_mask"]
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names, *own]

    def _read(self, texts: list[str], options: dict[str, object], pictured: bool) -> Batch:
        read = self.qformer_tokenizer(texts, **cast(EncodeOptions, options))
        batch = super()._read(texts, options, pictured)
        asked = {f"qformer_{name}": read[name] for name in ("input_ids", "attention_mask")}
        return Batch({**asked, **batch}, spans=batch.spans)

    def own_parts(self) -> tuple[object, ...]:
        return (*super().own_parts(), self.qformer_tokenizer)

    def save_files(self, folder: Path) -> None:
        """Write the files of the processor, and those of the queries' tokenizer into a folder of their own."""
        super().save_files(folder)
        (folder / self.HOME).mkdir(exist_ok=True)
        self.qformer_tokenizer.save_files(folder / self.HOME)


def read_count(parts: Parts) -> int | None:
    """How many places a picture has in a text, as a folder says.

    Raises:
        ConfigError: it is no number.
    """
    count = parts.settings.get("num_query_tokens")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
        expected = "a number of tokens, or null"
        raise ConfigError("num_query_tokens has a wrong value", where=parts.where, expected=expected, found=repr(count))
    return count
