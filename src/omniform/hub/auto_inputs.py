"""The Auto classes for inputs: they find a checkpoint's tokenizer, image processor, feature extractor or processor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final, Protocol, cast

from omniform.core.arrays import VIDEO_PROCESSOR_NAME
from omniform.core.config import ModelConfig
from omniform.core.errors import (
    ConfigError,
    InputError,
    OmniformError,
    RepoError,
    UnknownNameError,
    check_arguments,
    nearest,
)
from omniform.core.file_names import TEMPLATES_FOLDER
from omniform.hub import own, own_inputs, own_tokenizers
from omniform.hub.code.mode import lets_run, mode_of, tells
from omniform.hub.files import Source, locate, read_json
from omniform.hub.folders import folder_of, replace_files
from omniform.hub.options import WHERE_ARGUMENTS, places
from omniform.hub.own_inputs import registered_for
from omniform.hub.push import send, sending_of
from omniform.hub.stale import PROCESSOR_LEFTOVERS, TOKENIZER_LEFTOVERS
from omniform.inputs.audio import FEATURE_EXTRACTORS, FeatureExtractionMixin, FeatureExtractor, feature_extractor
from omniform.inputs.images import ImageProcessingMixin, ImageProcessor, image_processor
from omniform.inputs.images.kinds import with_backend
from omniform.inputs.images.timm_wrapper import TimmWrapperImageProcessor
from omniform.inputs.kept import Kept
from omniform.inputs.processors import PROCESSOR_FILE, PROCESSORS, Parts, Processor, ProcessorMixin
from omniform.inputs.text.load import is_whole, tokenizer_from_files
from omniform.inputs.text.names import Origin
from omniform.inputs.text.settings import INERT, KNOWN, ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos import VIDEO_PROCESSORS, VideoProcessor
from omniform.models.index import FEATURE_EXTRACTORS as FEATURE_EXTRACTORS_OF
from omniform.models.index import IMAGE_PROCESSORS
from omniform.models.index import PROCESSORS as PROCESSORS_OF
from omniform.models.index import VIDEO_PROCESSORS as VIDEO_PROCESSORS_OF

Name = str | os.PathLike[str]

PREPROCESSOR_FILE: Final = "preprocessor_config.json"

_SWITCHES: Final = ("trust_remote_code", "code_revision", "use_fast", "config")
_VOCABULARIES: Final = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
    "spm.model", "sentencepiece.model", "source.spm", "spm_char.model", "tekken.json", "tiktoken.model", "merges.txt",
)  # fmt: skip
_TOKENIZER_FILES: Final = (
    *_VOCABULARIES, "target.spm", "target_vocab.json", "normalizer.json", "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip

# Spellings of older releases beside the options of today.
_OLD_IMAGE_SETTINGS: Final = ("max_size", "pad_and_return_pixel_mask", "use_square_size")


class AutoInput:
    """What the Auto classes here share: they are called, never built."""

    def __init__(self) -> None:
        raise OmniformError(
            f"{type(self).__name__} is not built directly", remedy=f"Use {type(self).__name__}.from_pretrained(...)."
        )


class AutoTokenizer(AutoInput):
    """Loads a checkpoint's tokenizer."""

    @classmethod
    @tells("AutoTokenizer")
    def from_pretrained(cls, pretrained_model_name_or_path: Name, **kwargs: object) -> Tokenizer:
        """The tokenizer of a folder or a Hub id, with some settings changed by keyword.

        Args:
            kwargs: where to look (``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``,
                ``subfolder``); ``config``, whose family is believed instead of the one in ``config.json``; settings to
                change (``padding_side="left"``, ``pad_token="<pad>"``, ...). ``use_fast`` is accepted and changes
                nothing: there is one implementation.

        Raises:
            RepoError: there is no such folder or repository, or no vocabulary in it.
            ConfigError: a file is malformed, or a setting is not supported.
            UnknownArgumentError: a keyword that is neither.
        """
        named = brought("AutoTokenizer", pretrained_model_name_or_path, kwargs)
        if named is not None:
            return cast(Tokenizer, named)
        checkpoint, settings = open_inputs(pretrained_model_name_or_path, kwargs)
        return checkpoint.tokenizer(settings)

    register = staticmethod(own_tokenizers.register)


class AutoImageProcessor(AutoInput):
    """Loads a checkpoint's image processor."""

    @classmethod
    @tells("AutoImageProcessor")
    def from_pretrained(cls, pretrained_model_name_or_path: Name, **kwargs: object) -> ImageProcessor:
        """The image processor of a folder or a Hub id, with some options changed by keyword.

        Args:
            kwargs: as for :meth:`AutoTokenizer.from_pretrained`; the settings are the options of
                :class:`~omniform.inputs.images.options.ImageOptions`. ``backend="pil"`` (or ``use_fast=False``)
                computes pixels as the ecosystem's slow classes do, ``"torchvision"`` as its fast ones; by default
                the class that the file names says which.

        Raises:
            RepoError, ConfigError, UnknownArgumentError: as there.
            UnknownNameError: the file names an unknown type.
        """
        backend = kwargs.pop("backend", None) or {True: "torchvision", False: "pil"}.get(kwargs.get("use_fast"))  # type: ignore[call-overload]
        named = brought("AutoImageProcessor", pretrained_model_name_or_path, kwargs)
        if named is None:
            named = registered_for("AutoImageProcessor", pretrained_model_name_or_path, kwargs)
        if named is not None:
            return cast(ImageProcessor, named)
        checkpoint, settings = open_inputs(pretrained_model_name_or_path, kwargs)
        return with_backend(checkpoint.image_processor(settings, "AutoImageProcessor.from_pretrained"), backend)

    @classmethod
    def register(
        cls,
        config_class: type[ModelConfig] | None,
        slow_image_processor_class: type | None = None,
        fast_image_processor_class: type | None = None,
        image_processor_classes: Mapping[str, type] | None = None,
        image_processor_class: type | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Load checkpoints whose configs are of a class, or whose file names this one, as a class of the user's own.

        Args:
            config_class: the class of configs.
            image_processor_class: the class; the ecosystem's other arguments name it (or several) as well, the fast one
                before the slow one, ``"torchvision"`` before others.

        Raises:
            InputError: these are no such classes.
            ConfigError: there is one, and ``exist_ok`` is False.
        """
        several = dict(image_processor_classes or {})
        kinds = (
            image_processor_class, fast_image_processor_class, several.pop("torchvision", None), *several.values(),
            slow_image_processor_class,
        )  # fmt: skip
        own.register("AutoImageProcessor", config_class, kinds, ImageProcessingMixin, exist_ok=exist_ok)


class AutoFeatureExtractor(AutoInput):
    """Loads a checkpoint's feature extractor; for pictures that is the older name of the image processor."""

    @classmethod
    @tells("AutoFeatureExtractor")
    def from_pretrained(
        cls, pretrained_model_name_or_path: Name, **kwargs: object
    ) -> FeatureExtractor | ImageProcessor:
        """The feature extractor of a folder or a Hub id, with some settings changed by keyword.

        Args:
            kwargs: as for :meth:`AutoTokenizer.from_pretrained`; the settings are those of the extractor's class.

        Raises:
            RepoError, ConfigError, UnknownArgumentError: as there.
            UnknownNameError: the file names an unknown type.
        """
        named = brought("AutoFeatureExtractor", pretrained_model_name_or_path, kwargs)
        if named is None:
            named = registered_for("AutoFeatureExtractor", pretrained_model_name_or_path, kwargs)
        if named is not None:
            return cast(FeatureExtractor, named)
        checkpoint, settings = open_inputs(pretrained_model_name_or_path, kwargs)
        callee = "AutoFeatureExtractor.from_pretrained"
        if checkpoint.listens():
            return checkpoint.feature_extractor(settings, callee)
        if not checkpoint.preprocessor():
            raise checkpoint.missing("there is no feature extractor", f"{PREPROCESSOR_FILE} or {PROCESSOR_FILE}")
        return checkpoint.image_processor(settings, callee)

    @classmethod
    def register(
        cls, config_class: type[ModelConfig] | None, feature_extractor_class: type, exist_ok: bool = False
    ) -> None:
        """Load checkpoints whose configs are of a class, or whose file names this one, as a class of the user's own.

        Raises:
            InputError: these are no such classes.
            ConfigError: there is one, and ``exist_ok`` is False.
        """
        bases = (FeatureExtractionMixin, ImageProcessingMixin)
        own.register("AutoFeatureExtractor", config_class, feature_extractor_class, bases, exist_ok=exist_ok)


class AutoProcessor(AutoInput):
    """Loads whatever turns raw inputs into a checkpoint's inputs."""

    @classmethod
    @tells("AutoProcessor")
    def from_pretrained(
        cls, pretrained_model_name_or_path: Name, **kwargs: object
    ) -> Processor | Tokenizer | ImageProcessor | FeatureExtractor:
        """The processor of a folder or a Hub id; without one its tokenizer, image processor or feature extractor.

        Args:
            kwargs: as for :meth:`AutoTokenizer.from_pretrained`; a setting goes to every part that has it.

        Raises:
            RepoError: there is no such folder or repository, or a file is missing.
            ConfigError: a file is malformed, or a setting is not supported.
            UnknownNameError: the files name an unknown processor.
            UnknownArgumentError: no part has such a setting.
        """
        named = brought("AutoProcessor", pretrained_model_name_or_path, kwargs)
        if named is None:
            named = registered_for("AutoProcessor", pretrained_model_name_or_path, kwargs)
        if named is not None:
            return cast(Processor, named)
        checkpoint, settings = open_inputs(pretrained_model_name_or_path, kwargs)
        kind = checkpoint.processor_class()
        if kind is not None:
            return checkpoint.processor(kind, settings)
        parts = ("AutoTokenizer", "AutoFeatureExtractor", "AutoImageProcessor")
        found = (brought(auto, pretrained_model_name_or_path, kwargs) for auto in parts)
        part = next((one for one in found if one is not None), None)
        if part is not None:
            return cast("Tokenizer | ImageProcessor | FeatureExtractor", part)
        callee = "AutoProcessor.from_pretrained"
        if checkpoint.has_vocabulary():
            return AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        for auto in ("AutoImageProcessor", "AutoFeatureExtractor"):
            named = registered_for(auto, pretrained_model_name_or_path, kwargs)
            if named is not None:
                return cast(ImageProcessor, named)
        if checkpoint.listens():
            return checkpoint.feature_extractor(settings, callee)
        if checkpoint.preprocessor():
            return checkpoint.image_processor(settings, callee)
        raise checkpoint.missing(
            "there is nothing here to process inputs with",
            f"a tokenizer ({' or '.join(_VOCABULARIES)}), {PREPROCESSOR_FILE} or {PROCESSOR_FILE}",
        )

    @classmethod
    def register(cls, config_class: type[ModelConfig] | None, processor_class: type, exist_ok: bool = False) -> None:
        """Load checkpoints whose configs are of a class, or whose files name this one, as a class of the user's own.

        Raises:
            InputError: these are no such classes.
            ConfigError: there is one, and ``exist_ok`` is False.
        """
        own.register("AutoProcessor", config_class, processor_class, Processor, exist_ok=exist_ok)


def load_tokenizer(name: Name, kind: type[Tokenizer], *inputs: object, **kwargs: object) -> Tokenizer:
    """Load a tokenizer of one class; keywords as :meth:`AutoTokenizer.from_pretrained`."""
    checkpoint, settings = open_inputs(name, kwargs)
    if own_tokenizers.makes_itself(kind):
        return own_tokenizers.load(checkpoint.source, kind, settings, inputs)
    return checkpoint.tokenizer(settings, kind)


def load_processor(name: Name, kind: type[Processor], **kwargs: object) -> Processor:
    """Load a processor of one kind; keywords as :meth:`AutoProcessor.from_pretrained`."""
    if issubclass(kind, ProcessorMixin) and ProcessorMixin in kind.__mro__:
        return own_inputs.load_processor(kind, name, kwargs)
    checkpoint, settings = open_inputs(name, kwargs)
    return checkpoint.processor(kind, settings)


def load_image_processor(name: Name, **kwargs: object) -> ImageProcessor:
    """Load a processor of pictures; keywords as :meth:`AutoImageProcessor.from_pretrained`."""
    return AutoImageProcessor.from_pretrained(name, **kwargs)


class Savable(Protocol):
    """What writes its own files into a folder: a tokenizer or a processor."""

    def save_files(self, folder: Path) -> object: ...


def save_inputs(
    saved: Savable | ImageProcessor | FeatureExtractor,
    save_directory: str | os.PathLike[str],
    push_to_hub: bool = False,
    **hub: object,
) -> list[str]:
    """Save a tokenizer, a processor or a part of one, all files at once or none. Other files in the folder stay.

    Args:
        push_to_hub: also commit them to a repository.
        hub: to which, and how; see :class:`~omniform.core.pushing.SaveOptions`.

    Returns:
        The files' names.

    Raises:
        RepoError: the folder cannot be written; what was there before is untouched. Or the Hub refuses the files.
    """
    sending = sending_of(push_to_hub, save_directory, hub)
    target = folder_of(save_directory)

    from omniform.hub.code.saving import write_code

    def write(folder: Path) -> None:
        if isinstance(saved, (ImageProcessor, FeatureExtractor)):  # whose files are what was read
            text = json.dumps(saved.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
            (folder / PREPROCESSOR_FILE).write_text(text + "\n", encoding="utf-8")
        else:
            saved.save_files(folder)
        origin = saved.name_or_path if isinstance(saved, Tokenizer) else ""
        own = saved.own_parts() if isinstance(saved, Processor) else ()
        write_code(folder, *own, saved, target=target, origin=origin)

    stale = PROCESSOR_LEFTOVERS if isinstance(saved, Processor) else TOKENIZER_LEFTOVERS
    if isinstance(saved, Kept):
        stale = frozenset()
    names = replace_files(target, write, stale=lambda name: name in stale)
    if sending is not None:
        send(saved, target, names, sending)
    return names


def brought(auto: str, name: Name, kwargs: Mapping[str, object]) -> object | None:
    """What the class loads that a checkpoint brings for an Auto class; None without one, or without trust."""
    if not lets_run(kwargs):
        return None
    from omniform.hub.code import doors

    return doors.input_of(auto, name, kwargs)


def open_inputs(name: Name, kwargs: Mapping[str, object]) -> tuple[Checkpoint, dict[str, object]]:
    """The checkpoint that is asked for, and the settings that are to be changed."""
    mode_of(kwargs.get("trust_remote_code"))
    if not isinstance(name, (str, os.PathLike)):
        raise InputError(
            "this is no checkpoint",
            where="pretrained_model_name_or_path",
            expected="a folder or a Hub id",
            found=type(name).__name__,
        )
    where, kwargs = places(kwargs)
    source = locate(name, **where)  # type: ignore[arg-type]
    config = kwargs.get("config")
    if config is not None and not isinstance(config, ModelConfig):
        raise InputError("not a config", where="config", expected="a ModelConfig", found=type(config).__name__)
    settings = {key: value for key, value in kwargs.items() if key not in _SWITCHES}
    return Checkpoint(source, None if config is None else config.raw), settings


class Checkpoint:
    """The files of a checkpoint that have to do with its inputs.

    Args:
        source: where they are.
        model: the model's config, if it is not to be read from ``config.json``.
    """

    def __init__(self, source: Source, model: Mapping[str, object] | None = None) -> None:
        self.source = source
        self.where = source.name
        self._files: dict[str, Mapping[str, object]] = {}
        self.model = self.json("config.json") if model is None else model
        self.settings = self.json(PROCESSOR_FILE)

    def json(self, name: str) -> Mapping[str, object]:
        """A file's object, read once; empty where there is no such file."""
        if name not in self._files:
            path = self.source.find(name)
            self._files[name] = {} if path is None else read_json(path)
        return self._files[name]

    def preprocessor(self, part: str = "image_processor") -> Mapping[str, object]:
        """The object that describes the image processor or the feature extractor; empty where there is none."""
        nested = self.settings.get(part)
        if nested is None and part == "feature_extractor":
            nested = self.settings.get("audio_processor")  # as some processors call it
        if nested is None:
            return self.json(PREPROCESSOR_FILE)
        if not isinstance(nested, dict):
            raise ConfigError(
                f"{part} has a wrong value",
                where=f"{self.where}/{PROCESSOR_FILE}",
                expected="an object",
                found=f"{nested!r:.80}",
            )
        return nested

    def listens(self) -> bool:
        """Whether the checkpoint's feature extractor is for sound."""
        if {"feature_extractor", "audio_processor"} & self.settings.keys():
            return True
        file = self.preprocessor()
        named = file.get("image_processor_type") or file.get("feature_extractor_type")
        if file and named is None:
            return self.model.get("model_type") in FEATURE_EXTRACTORS_OF
        return isinstance(named, str) and named in FEATURE_EXTRACTORS

    def own_tokenizer(self) -> type[Tokenizer] | None:
        """The class of its tokenizer that the user registered; None where there is none."""
        return own_tokenizers.registered(self.model, self.json("tokenizer_config.json"))

    def has_vocabulary(self) -> bool:
        """Whether there are a tokenizer's files."""
        return self.own_tokenizer() is not None or any(self.source.find(name) is not None for name in _VOCABULARIES)

    def missing(self, what: str, expected: str) -> RepoError:
        """The error for files that are not there, with what is."""
        return self.source.lacks(what, expected=expected)

    # ---- the parts

    def tokenizer(self, settings: Mapping[str, object], wanted: type[Tokenizer] | None = None) -> Tokenizer:
        """The tokenizer, with some settings changed; of the class that is wanted, else of that which the files name."""
        wanted = self.own_tokenizer() if wanted is None else wanted
        if wanted is not None and own_tokenizers.makes_itself(wanted):
            return own_tokenizers.load(self.source, wanted, settings)
        files = self.source.files(_TOKENIZER_FILES)
        if wanted is None and "tokenizer.json" not in files:
            own_tokenizers.check_known(self.json("tokenizer_config.json"), self.where)
        said = {name: self.model.get(name) for name in ("model_type", "tokenizer_class", "model_name")}
        kind, named, version = (value if isinstance(value, str) else None for value in said.values())
        origin = Origin(family=kind, model_class=named if wanted is None else wanted.recipe_name)
        if not any(name in files for name in _VOCABULARIES) and not is_whole(files, origin):
            raise self.missing("there is no tokenizer", " or ".join(_VOCABULARIES))
        files.update(self._named_templates())
        return tokenizer_from_files(
            files,
            where=self.where,
            overrides=settings,
            model_type=kind,
            model_class=named,
            model_name=version,
            wanted=wanted,
            beside=WHERE_ARGUMENTS,
        )

    def image_processor(self, settings: Mapping[str, object], callee: str) -> ImageProcessor:
        """The image processor, with some options changed."""
        file = self.preprocessor()
        if not file and "pretrained_cfg" in self.model:
            check_arguments(callee, settings, WHERE_ARGUMENTS)
            made = TimmWrapperImageProcessor(**self.model)  # type: ignore[arg-type] # it looks itself
            return cast(ImageProcessor, made)
        if not file:
            raise self.missing("there is no image processor", f"{PREPROCESSOR_FILE} or {PROCESSOR_FILE}")
        where = f"{self.where}/{PROCESSOR_FILE if 'image_processor' in self.settings else PREPROCESSOR_FILE}"
        named = self.model.get("image_processor_type") or IMAGE_PROCESSORS.get(str(self.model.get("model_type")))
        assumed = named if isinstance(named, str) else None
        if settings:
            usual = image_processor(file, where=where, default_type=assumed)
            known = {field.name for field in fields(usual.options)} | {*usual.beside}
            check_arguments(callee, settings, {*known, *_OLD_IMAGE_SETTINGS, *WHERE_ARGUMENTS})
        return image_processor({**file, **settings}, where=where, default_type=assumed)

    def feature_extractor(self, settings: Mapping[str, object], callee: str) -> FeatureExtractor:
        """The feature extractor, with some settings changed."""
        file = self.preprocessor("feature_extractor")
        if not file:
            raise self.missing("there is no feature extractor", f"{PREPROCESSOR_FILE} or {PROCESSOR_FILE}")
        where = f"{self.where}/{PROCESSOR_FILE if 'feature_extractor' in self.settings else PREPROCESSOR_FILE}"
        assumed = FEATURE_EXTRACTORS_OF.get(str(self.model.get("model_type")))
        made = feature_extractor({**file, **settings}, where=where, assume=assumed)
        check_arguments(callee, settings, {*made.settings, *WHERE_ARGUMENTS})
        return made

    def video_processor(
        self, settings: Mapping[str, object], kind: type[VideoProcessor] | None = None
    ) -> VideoProcessor:
        """The video processor, with some options changed; of one class, or of that which the files name.

        A file for pictures is read where there is none for videos, as checkpoints of before video processors have it.
        """
        nested = self.settings.get("video_processor")
        files = {PROCESSOR_FILE: nested if isinstance(nested, Mapping) else {}}
        files |= {file: self.json(file) for file in (VIDEO_PROCESSOR_NAME, PREPROCESSOR_FILE)}
        found = next((file for file in files if files[file]), None)
        if found is None:
            raise self.missing("there is no video processor", f"{VIDEO_PROCESSOR_NAME} or {PREPROCESSOR_FILE}")
        where = f"{self.where}/{found}"
        kind = self._video_kind(files[found], where) if kind is None else kind
        check_arguments(f"{kind.__name__}.from_pretrained", settings, (*kind.known(), *WHERE_ARGUMENTS))
        return kind.of({**files[found], **settings}, where)

    def _video_kind(self, file: Mapping[str, object], where: str) -> type[VideoProcessor]:
        named = file.get("video_processor_type")
        if named is None:
            # The type of a file for pictures is of use where there is a kind for videos of the same name.
            named = str(file.get("image_processor_type", "")).replace("ImageProcessor", "VideoProcessor")
            if named not in VIDEO_PROCESSORS:
                named = VIDEO_PROCESSORS_OF.get(str(self.model.get("model_type")))
        if not isinstance(named, str) or named not in VIDEO_PROCESSORS:
            unknown = "this checkpoint's video processor is not known"
            told = unknown if named is None else f"no video processor {named!r:.80}"
            raise UnknownNameError(told, where=where, remedy=nearest(str(named), VIDEO_PROCESSORS))
        return VIDEO_PROCESSORS[named]

    # ---- the processor

    def processor_class(self) -> type[Processor] | None:
        """The kind of processor: as a file says, else the family's; None where neither has one.

        Raises:
            UnknownNameError: a file names one that is not known.
        """
        named = self.settings.get("processor_class")
        for file in (self.preprocessor(), self.json("tokenizer_config.json"), self.model):
            named = named or file.get("processor_class")
        named = named or PROCESSORS_OF.get(str(self.model.get("model_type")))
        if named is None:
            return None
        if not isinstance(named, str) or named not in PROCESSORS:
            raise UnknownNameError(
                f"no processor is called {named!r:.80}", where=self.where, remedy=nearest(str(named), PROCESSORS)
            )
        return PROCESSORS[named]

    def processor(self, kind: type[Processor], settings: Mapping[str, object]) -> Processor:
        """The processor, with some settings of its own or of its parts changed."""
        callee = f"{kind.__name__}.from_pretrained"
        own = {name: value for name, value in settings.items() if name in kind.settings}
        text = {name: value for name, value in settings.items() if name in (*KNOWN, *INERT) or name.endswith("_token")}
        known = {*kind.settings, *KNOWN, *INERT, *WHERE_ARGUMENTS, *text}
        images: ImageProcessor | None = None
        audio: FeatureExtractor | None = None
        if "image_processor" in kind.needs:
            usual = self.image_processor({}, callee)
            options = {*_OLD_IMAGE_SETTINGS, *(field.name for field in fields(usual.options)), *usual.beside}
            known |= options
            images = self.image_processor({k: v for k, v in settings.items() if k in options}, callee)
        videos: VideoProcessor | None = None
        if "video_processor" in kind.needs:
            seen = self.video_processor({}).known()
            known |= {*seen}
            videos = self.video_processor({k: v for k, v in settings.items() if k in seen})
        if "feature_extractor" in kind.needs:
            heard = self.feature_extractor({}, callee).settings
            known |= {*heard}
            audio = self.feature_extractor({k: v for k, v in settings.items() if k in heard}, callee)
        check_arguments(callee, settings, known)
        templates = settings.get("chat_template")
        return kind.from_parts(
            Parts(
                where=self.where,
                text=self.tokenizer(text) if "tokenizer" in kind.needs else None,
                image_processor=images,
                video_processor=videos,
                feature_extractor=audio,
                settings={**self.settings, **own},
                model=self.model,
                chat_template=self._templates() if templates is None else cast(ChatTemplates, templates),
                files=self.source.gathered(kind.beside),
            )
        )

    def _templates(self) -> ChatTemplates:
        """The chat template that processors read: a key of their own file, else the older JSON file."""
        for name, file in ((PROCESSOR_FILE, self.settings), ("chat_template.json", self.json("chat_template.json"))):
            template = file.get("chat_template")
            if template is None:
                continue
            named = isinstance(template, dict) and all(isinstance(text, str) for text in template.values())
            if not isinstance(template, str) and not named:
                raise ConfigError(
                    "chat_template has a wrong value",
                    where=f"{self.where}/{name}",
                    expected="a template's text, or several by name",
                    found=type(template).__name__,
                )
            return cast(ChatTemplates, template)
        return None

    def _named_templates(self) -> dict[str, Path]:
        """Further chat templates, each in a file of its own."""
        names = self.source.inside(TEMPLATES_FOLDER, ".jinja")
        return self.source.files([f"{TEMPLATES_FOLDER}/{name}" for name in names])
