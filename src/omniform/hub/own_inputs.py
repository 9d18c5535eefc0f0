"""What reads inputs as a class of the user's own: found by the Auto classes, loaded by its own ``from_pretrained``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar, cast

from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, RepoError, UnknownNameError, check_arguments
from omniform.core.file_names import PREPROCESSOR_FILE
from omniform.hub import own
from omniform.hub.files import Source, locate, read_json
from omniform.hub.options import places
from omniform.inputs.audio import FeatureExtractionMixin, FeatureExtractor, feature_extractor
from omniform.inputs.images import ImageProcessingMixin, ImageProcessor, image_processor
from omniform.inputs.kept import Kept
from omniform.inputs.processors import PROCESSOR_FILE, ProcessorMixin
from omniform.inputs.processors.own import modality_of

Name = str | os.PathLike[str]
K = TypeVar("K", bound=Kept)
P = TypeVar("P", bound=ProcessorMixin)

_NOT_SETTINGS: Final = ("trust_remote_code", "code_revision", "use_fast", "config", "_from_auto", "_from_pipeline")
_PARTS: Final = {
    "AutoImageProcessor": "image_processor", "AutoVideoProcessor": "video_processor",
    "AutoFeatureExtractor": "feature_extractor",
}  # fmt: skip
_AUTO: Final = {
    "tokenizer": "AutoTokenizer", "image_processor": "AutoImageProcessor", "feature_extractor": "AutoFeatureExtractor",
}  # fmt: skip


def load_kept(kind: type[K], name: Name, **kwargs: object) -> K:
    """An image processor or a feature extractor as one class; see :meth:`omniform.inputs.kept.Kept.from_pretrained`."""
    where, rest = places(kwargs)
    settings = {key: value for key, value in rest.items() if key not in _NOT_SETTINGS}
    if isinstance(name, (str, os.PathLike)) and Path(name).is_file():
        return cast("Callable[..., K]", kind.from_dict)(read_json(Path(name)), **settings)
    source = locate(name, **where)  # type: ignore[arg-type]
    file = _settings(source, kind.kept_as)
    if not file:
        missing = f"there is no {kind.kept_as.replace('_', ' ')}"
        raise RepoError(missing, where=source.name, expected=f"{PREPROCESSOR_FILE} or {PROCESSOR_FILE}")
    if issubclass(kind, (ImageProcessor, FeatureExtractor)):
        made = _of_ours(kind, {**file, **settings}, source.name)
        if isinstance(made, FeatureExtractor):
            check_arguments(f"{kind.__name__}.from_pretrained", settings, made.settings)
        return made
    return kind.from_dict(file, **settings)


def _of_ours(kind: type[K], file: Mapping[str, object], where: str) -> K:
    """One of omniform's own kinds, or of a class that inherits from it."""
    if issubclass(kind, FeatureExtractor) and kind is not FeatureExtractor:
        return kind(file, where=where)
    made = (
        image_processor(file, where=where) if issubclass(kind, ImageProcessor) else feature_extractor(file, where=where)
    )
    if not isinstance(made, kind):
        raise InputError(f"this is no {kind.__name__}", where=where, found=type(made).__name__)
    return made


def _json(source: Source, name: str) -> Mapping[str, object]:
    path = source.find(name)
    return {} if path is None else read_json(path)


def _settings(source: Source, part: str) -> Mapping[str, object]:
    """The object of a part: in the processor's file, or in a file of its own."""
    nested = _json(source, PROCESSOR_FILE).get(part)
    return nested if isinstance(nested, Mapping) else _json(source, PREPROCESSOR_FILE)


def registered_for(auto: str, name: Name, kwargs: Mapping[str, object]) -> object | None:
    """What the user's own class makes of a checkpoint, if one is registered with an Auto class for it."""
    if not own.any_for(auto):
        return None
    where, rest = places(dict(kwargs))
    source = locate(name, **where)  # type: ignore[arg-type]
    model = _json(source, "config.json")
    files = [_json(source, PROCESSOR_FILE), _json(source, PREPROCESSOR_FILE)]
    if auto in _PARTS:
        files = [_settings(source, _PARTS[auto]), model]
        names = [file.get(key) for file in files for key in ("image_processor_type", "feature_extractor_type")]
    else:
        files += [_json(source, "tokenizer_config.json"), model]
        names = [file.get("processor_class") for file in files]
    config = rest.get("config")
    given = type(config) if isinstance(config, ModelConfig) else None
    kind = own.registered(auto, config=given, model_type=model.get("model_type"), names=names)
    if kind is None:
        return None
    settings = {key: value for key, value in rest.items() if key not in _NOT_SETTINGS}
    return cast("Callable[..., object]", vars_of(kind, "from_pretrained"))(name, **where, **settings)


def vars_of(kind: type, method: str) -> object:
    """A class method of somebody's class."""
    for base in kind.__mro__:
        if method in vars(base):
            return vars(base)[method].__get__(None, kind)
    raise InputError(f"this class has no {method}", where="register", found=kind.__name__)


def load_processor(kind: type[P], name: Name, kwargs: Mapping[str, object]) -> P:
    """A processor of the user's own, with its parts.

    Raises:
        RepoError: a part is missing.
        ConfigError, UnknownArgumentError: as :meth:`ProcessorMixin.from_args_and_dict`.
    """
    where, rest = places(dict(kwargs))
    source = locate(name, **where)  # type: ignore[arg-type]
    file = _json(source, PROCESSOR_FILE) or _json(source, PREPROCESSOR_FILE)
    trust: dict[str, object] = {key: rest[key] for key in ("trust_remote_code", "code_revision") if key in rest}
    settings = {key: value for key, value in rest.items() if key not in _NOT_SETTINGS}
    parts = [_part(kind, one, name, source, file, {**where, **trust}) for one in kind.get_attributes()]
    template = file.get("chat_template", _json(source, "chat_template.json").get("chat_template"))
    more = {} if template is None else {"chat_template": template}
    return kind.from_args_and_dict(parts, {**file, **more}, **settings)


def _part(
    kind: type[ProcessorMixin],
    part: str,
    name: Name,
    source: Source,
    file: Mapping[str, object],
    where: Mapping[str, object],
) -> object:
    """One part of a processor: by the class that is named for it, else by its Auto class."""
    from omniform.hub import auto_inputs

    word = modality_of(part) or part
    if word not in _AUTO:
        raise InputError("there is no such part here", where=f"{kind.__name__}: {part}", expected=", ".join(_AUTO))
    try:
        if part != word and word != "tokenizer":
            return _further(word, file.get(part), f"{source.name}: {part}")
        hints = next((vars(base)[f"{part}_class"] for base in kind.__mro__ if f"{part}_class" in vars(base)), ())
        named = own.registered(_AUTO[word], names=hints if isinstance(hints, (tuple, list)) else (hints,))
        door = named if named is not None else cast(type, vars(auto_inputs)[_AUTO[word]])
        load = cast("Callable[..., object]", vars_of(door, "from_pretrained"))
        if part == word:
            return load(name, **where)
        inside = os.path.join(str(where.get("subfolder") or ""), part)
        return load(name, **{**where, "subfolder": inside})
    except (RepoError, UnknownNameError) as error:
        raise RepoError(f"the {part} of a {kind.__name__} is missing", where=source.name, found=str(error)) from error


def _further(word: str, file: object, where: str) -> object:
    """A second image processor or feature extractor, which stands in the processor's file."""
    if not isinstance(file, Mapping):
        raise RepoError("there is no such object", where=where, expected=f"in {PROCESSOR_FILE}")
    base = ImageProcessingMixin if word == "image_processor" else FeatureExtractionMixin
    mine = own.registered(_AUTO[word], names=[file.get(base.type_key)])
    if mine is not None and issubclass(mine, Kept):
        return mine.from_dict(file)
    return image_processor(file, where=where) if word == "image_processor" else feature_extractor(file, where=where)
