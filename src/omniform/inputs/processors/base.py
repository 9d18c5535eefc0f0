"""What all processors share: a tokenizer beside another input's processor, decoding, chat and files."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar, Literal, Self, Unpack, cast

from torch import Tensor

from omniform.core.auto_class import AutoNamed
from omniform.core.batch import Batch, Modality
from omniform.core.errors import InputError
from omniform.core.file_names import PROCESSOR_FILE
from omniform.core.pushing import PushToHub, SaveOptions
from omniform.core.upstairs import upstairs
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.media_access import MediaAccess, checked_access
from omniform.inputs.processors.chat import assistant_masks, escaped, read_chats, split_variables, write_templates
from omniform.inputs.processors.media import Media
from omniform.inputs.processors.options import CallOptions, Part, sort_options
from omniform.inputs.text.chat import ChatOptions, Tool, choose_template, render_chats
from omniform.inputs.text.encoding import BatchEncoding, Ids
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.template import Prompt
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos.processor import VideoProcessor

PartName = Literal["tokenizer", "image_processor", "video_processor", "feature_extractor"]
"""The parts of a processor, by the names that files and users call them."""

InputPart = ImageProcessor | VideoProcessor | FeatureExtractor
"""A part that reads media."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a folder holds to make a processor of.

    Attributes:
        where: the folder, for messages.
        text: its tokenizer, where the kind of processor has one.
        image_processor: its image processor, where the kind of processor has one.
        video_processor: its video processor, likewise.
        feature_extractor: its feature extractor, likewise.
        settings: the object of ``processor_config.json``, with the caller's changes.
        model: the object of ``config.json``.
        chat_template: the chat template, or several by name.
        files: what the kind of processor reads itself (:attr:`Processor.beside`), by name.
    """

    where: str
    text: Tokenizer | None
    image_processor: ImageProcessor | None = None
    video_processor: VideoProcessor | None = None
    feature_extractor: FeatureExtractor | None = None
    settings: Mapping[str, object]
    model: Mapping[str, object]
    chat_template: ChatTemplates = None
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        assert self.text is not None, "asked for by a kind of processor that needs none"
        return self.text


class Processor(AutoNamed, PushToHub, ABC):
    """Turns texts together with pictures or sounds into a model's inputs.

    Args:
        tokenizer: of the texts.
        chat_template: the source of the template for conversations, or several by name; by default the tokenizer's.
    """

    _usual_auto_class: ClassVar[str] = "AutoProcessor"

    needs: ClassVar[tuple[PartName, ...]]
    """The parts, in the order of their entries in a batch."""
    placeholder: str | None = None
    """The token that stands for a picture in a text, for processors that put pictures into texts."""
    settings: ClassVar[tuple[str, ...]] = ()
    """The keys of ``processor_config.json`` that are the processor's own."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Files of a checkpoint that it reads itself; all of a folder's, where the name ends with ``/``."""

    def __init__(self, tokenizer: Tokenizer, *, chat_template: ChatTemplates = None) -> None:
        if not isinstance(tokenizer, Tokenizer):
            raise InputError("this is no tokenizer", where="tokenizer", found=type(tokenizer).__name__)
        self.tokenizer = tokenizer
        self.chat_template: ChatTemplates = tokenizer.chat_template if chat_template is None else chat_template

    @classmethod
    @abstractmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder.

        Raises:
            ConfigError: a setting has a wrong value.
        """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object) -> Self:
        """Load from a folder or a Hub id; see :meth:`omniform.AutoProcessor.from_pretrained`."""
        load = upstairs("hub.auto_inputs:load_processor")
        return cast(Self, load(pretrained_model_name_or_path, cls, **kwargs))

    @property
    def typed(self) -> Mapping[Modality, tuple[str, ...]]:
        """What stands for an item in a text, by modality: in a conversation, mere text that somebody typed."""
        return {} if self.placeholder is None else {"image": (self.placeholder,)}

    def marked(self, text: str, kinds: Sequence[Modality]) -> str:
        """A text with what stands for an item in front of it, for each item that it has no place for.

        Args:
            kinds: what each of the items is.
        """
        return text

    def parts(self) -> Mapping[str, InputPart]:
        """What reads pictures, videos and sounds, by the names of attributes."""
        return self._parts()

    @abstractmethod
    def _parts(self) -> Mapping[str, InputPart]:
        """The parts besides the tokenizer, by name."""

    @abstractmethod
    def _known(self) -> dict[Part, frozenset[str]]:
        """The options of each part."""

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a full batch has."""
        names = [name for part in self._parts().values() for name in part.model_input_names]
        return [*names, *self.tokenizer.model_input_names]

    def _options(self, given: Mapping[str, object], own: tuple[str, ...] = ()) -> CallOptions:
        options = sort_options(type(self).__name__, given, self._known(), own)
        # Options that the tokenizer's file states are the defaults here, though not of the tokenizer itself.
        stated = {k: v for k, v in self.tokenizer.init_kwargs.items() if k in TEXT_OPTIONS and v is not None}
        options.text.update({**stated, **options.text})
        return options

    @abstractmethod
    def __call__(self, **inputs: object) -> Batch:
        """Turn texts and whatever else the model reads into its inputs."""

    # ---- chat

    def apply_chat_template(
        self,
        conversation: Sequence[object],
        chat_template: str | None = None,
        tools: Sequence[Tool] | None = None,
        documents: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = None,
        return_dict: bool = False,
        processor_kwargs: Mapping[str, object] | None = None,
        media_access: MediaAccess | None = None,
        **options: object,
    ) -> Batch | Ids | str | list[str]:
        """Make a conversation into a prompt; with ``tokenize`` into the model's inputs, pictures and sounds included.

        A message's content is a text, or a list of parts: ``{"type": "text", "text": ...}``,
        ``{"type": "image", "image": ...}`` (or ``url``, ``path``, ``base64``; without any of them a placeholder for a
        picture passed as ``images``), ``{"type": "audio", "audio": ...}``, ``{"type": "video", "video": ...}``,
        OpenAI's ``image_url``, ``video_url``, ``input_audio``. Where items come so, a placeholder in a text is text.

        Args:
            conversation: messages, mappings with ``role`` and ``content``; or a list of such lists.
            chat_template: the name of one of the processor's templates, or the source of another.
            tools: functions with type hints and docstrings, or JSON schemas.
            documents: mappings with ``title`` and ``text``.
            add_generation_prompt: end with what comes before the assistant's answer.
            continue_final_message: end within the last message; or the name of its field that is to be continued.
            return_assistant_tokens_mask: add ``assistant_masks``, 1 for each token that the assistant wrote.
            tokenize: give the model's inputs rather than the prompt's text.
            return_tensors: ``"pt"``, ``"np"``, or None for lists.
            return_dict: give all inputs; without it the ids alone.
            processor_kwargs: options of the processor's call.
            media_access: which files and addresses the conversation's pictures and sounds may come from. The default
                is for the caller's own conversations; for those of others name the folders that they may read.
            options: variables of the template; and options of the processor's call.

        Returns:
            A text, or a list of them for a list of conversations; with ``tokenize`` the ids or the batch.

        Raises:
            ConfigError: the template is malformed, or does what templates may not.
            InputError: it refuses the messages; or they hold other numbers of pictures than the prompt.
        """
        if return_assistant_tokens_mask and (continue_final_message or not (tokenize and return_dict)):
            raise InputError(
                "the assistant's tokens are found in whole, encoded conversations",
                where="return_assistant_tokens_mask",
                expected="tokenize=True, return_dict=True and no continue_final_message",
            )
        template = choose_template(self.chat_template, chat_template, tools is not None)
        called, variables = split_variables(template, options, self._known())
        chats, media, many = read_chats(conversation)
        asked = ChatOptions(
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self.tokenizer.special_tokens_map, **variables},
            track=return_assistant_tokens_mask,
        )
        if not tokenize:
            prompts = render_chats(template, chats, asked)
            return [prompt.text for prompt in prompts] if many else prompts[0].text
        if processor_kwargs is not None and not isinstance(processor_kwargs, Mapping):
            raise InputError("options come as a mapping", where="processor_kwargs", found=f"{processor_kwargs!r:.60}")
        call: dict[str, object] = {**(processor_kwargs or {}), **called}
        mere = {t for kind, tokens in self.typed.items() if call.get(_ARGUMENTS[kind]) is None for t in tokens}
        prompts = render_chats(template, escaped(chats, mere), asked)
        if return_tensors is not None:
            call["return_tensors"] = return_tensors
        if media_access is not None:
            call["media_access"] = checked_access(media_access)
        batch = self.encode_chats(prompts, media, many, call)
        if return_assistant_tokens_mask and isinstance(batch, BatchEncoding):
            masks = assistant_masks(prompts, batch)
            batch["assistant_masks"] = Batch({"masks": masks}).as_tensors(return_tensors)["masks"]
        return batch if return_dict else cast(Ids, batch["input_ids" if "input_ids" in batch else "labels"])

    def encode_chats(
        self, prompts: Sequence[Prompt], media: Sequence[Media], many: bool, call: Mapping[str, object]
    ) -> Batch:
        """Call the processor with rendered conversations, and the pictures and sounds in them."""
        call = dict(call)
        bos = self.tokenizer.bos_token
        if bos is not None and prompts[0].text.startswith(bos):
            call["add_special_tokens"] = False  # the template wrote them
        images = [chat.images for chat in media]
        if call.get("images") is not None:
            call["images"] = call["images"] if many else [call["images"]]
        elif any(images):
            call["images"] = images
        for name, found in (
            ("audio", [sound for chat in media for sound in chat.audio]),
            ("videos", [video for chat in media for video in chat.videos]),
        ):
            if found:
                call[name] = found
        for name, what in (("images", "pictures"), ("audio", "sound"), ("videos", "videos")):
            if call.get(name) is not None and name not in self._known():
                raise InputError(f"a {type(self).__name__} reads no {what}", where="conversation")
        return self(text=[prompt.text for prompt in prompts] if many else prompts[0].text, **call)

    # ---- back to text

    def decode(
        self,
        token_ids: int | Sequence[int] | Sequence[Sequence[int]] | Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str | list[str]:
        """The text of ids; see :meth:`~omniform.inputs.text.tokenizer.Tokenizer.decode`."""
        return self.tokenizer.decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces)

    def batch_decode(
        self,
        sequences: Sequence[int] | Sequence[Sequence[int]] | Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of rows of ids."""
        return self.tokenizer.batch_decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)

    def post_process_image_text_to_text(
        self,
        generated_outputs: Sequence[int] | Sequence[Sequence[int]] | Tensor,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str | list[str]:
        """The text that a model wrote: one for a row of ids, a list for several rows."""
        return self.decode(generated_outputs, skip_special_tokens, clean_up_tokenization_spaces)

    # ---- files

    def to_dict(self) -> dict[str, object]:
        """The object to save as ``processor_config.json``."""
        return {
            **{name: part.to_dict() for name, part in self._parts().items()},
            "processor_class": type(self).__name__,
        }

    def own_parts(self) -> tuple[object, ...]:
        """The tokenizer, the image processor and the rest, which may be classes of the user's own."""
        return (self.tokenizer, *self._parts().values())

    def save_files(self, folder: Path) -> None:
        """Write the tokenizer's files, ``processor_config.json`` and the chat templates into a folder."""
        self.tokenizer.save_files(folder)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / PROCESSOR_FILE).write_text(text, encoding="utf-8")
        if self.chat_template != self.tokenizer.chat_template:
            write_templates(folder, self.chat_template)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **hub: Unpack[SaveOptions]
    ) -> None:
        """Save in the layout of current releases, all files at once or none.

        Args:
            push_to_hub: also commit them to a repository.
            hub: to which, and how; see :class:`~omniform.core.pushing.SaveOptions`.

        Raises:
            RepoError: the folder cannot be written; what was there before is untouched. Or the Hub refuses the files.
        """
        upstairs("hub.auto_inputs:save_inputs")(self, save_directory, push_to_hub, **hub)

    def __repr__(self) -> str:
        parts = ", ".join(repr(part) for part in (*self._parts().values(), self.tokenizer))
        return f"{type(self).__name__}({parts})"


TEXT_OPTIONS = frozenset(EncodeOptions.__annotations__)
"""The options of a tokenizer call."""


_TEXT = "a string or a list of strings"
_ARGUMENTS: Mapping[Modality, str] = {"image": "images", "video": "videos", "audio": "audio"}


def image_options(processor: ImageProcessor) -> frozenset[str]:
    """The options of an image processor's call."""
    return frozenset(field.name for field in fields(processor.options)) | {"media_access", *processor.beside}


def video_options(processor: VideoProcessor) -> frozenset[str]:
    """The options of a video processor's call."""
    return frozenset(processor.known()) | {"video_metadata", "media_access"}


def read_texts(text: object) -> list[str]:
    """One text or several, as a list.

    Raises:
        InputError: something else.
    """
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, (list, tuple)) or not texts:
        raise InputError("this is not text", where="text", expected=_TEXT, found=f"{text!r:.60}")
    for row, one in enumerate(texts):
        if not isinstance(one, str):
            raise InputError("this is not text", where=f"text, row {row}", expected=_TEXT, found=f"{one!r:.60}")
    return list(texts)
