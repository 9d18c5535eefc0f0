"""Classes that are not written for omniform: they load themselves, from the same files at the same commit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import cast

from torch import nn

from omniform.core.errors import CodeError, RepoError
from omniform.hub.code.promises import home_of
from omniform.hub.files import Source
from omniform.hub.lock import FrozenError
from omniform.hub.weights import find_weights


def load(kind: type, source: Source, rest: Mapping[str, object]) -> object:
    """Load a checkpoint by a class's own ``from_pretrained(name_or_path, **kwargs)``.

    Args:
        source: the checkpoint; a folder's path is given, or an id with the commit that was found.
        rest: the call's other keywords, which mean there what they mean here.
    """
    _tell(kind, source, rest)
    name, where = _place(source)
    if home_of(kind) == "transformers":
        # It is not to run code by itself, which nobody has seen, nor to ask whether it may.
        where["trust_remote_code"] = False
    return method(kind, "from_pretrained")(name, **where, **rest)


def load_processor(kind: type, source: Source, rest: Mapping[str, object], parts: Mapping[str, object]) -> object:
    """Load a processor of transformers some parts of which are classes that the checkpoint brings.

    Args:
        parts: these, loaded, by the names that the processor has them under; the library loads the others.
    """
    _tell(kind, source, rest)
    name, where = _place(source)
    autos = sys.modules["transformers"]  # it is there: the class inherits from it
    attributes = cast("list[str]", method(kind, "get_attributes")())
    found: list[object] = []
    for attribute in attributes:
        auto = PARTS.get(attribute)
        if attribute in parts:
            found.append(parts[attribute])
        elif auto is not None:
            usual = method(cast(type, autos.__getattr__(auto)), "from_pretrained")
            found.append(usual(name, **where, trust_remote_code=False))
        else:
            raise CodeError("this processor has parts that cannot be loaded here", where=source.name, found=attribute)
    raw, more = cast("tuple[object, dict[str, object]]", method(kind, "get_processor_dict")(name, **where, **rest))
    return method(kind, "from_args_and_dict")(found, raw, **more)


PARTS = {
    "tokenizer": "AutoTokenizer",
    "image_processor": "AutoImageProcessor",
    "video_processor": "AutoVideoProcessor",
    "feature_extractor": "AutoFeatureExtractor",
}
"""The Auto classes of a processor's parts, by the names that it has them under."""


def _place(source: Source) -> tuple[str, dict[str, object]]:
    """A checkpoint's name and where to look, in the ecosystem's words."""
    where: dict[str, object] = {}
    if source.subfolder:
        where["subfolder"] = source.subfolder
    name = str(source.folder)
    if source.folder is None:
        name = source.name
        said = {**source.places(), "revision": source.commit or source.revision}
        where |= {key: value for key, value in said.items() if value is not None and value is not False}
    return name, where


_READ = (
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
"""What classes of transformers read besides weights."""


def _tell(kind: type, source: Source, rest: Mapping[str, object]) -> None:
    """Have a lock know of what the class is going to read by itself, and check it before."""
    is_config = any(base.__name__ in ("PretrainedConfig", "PreTrainedConfig") for base in kind.__mro__)
    is_model = issubclass(kind, nn.Module)
    source.files(_READ[:1] if is_config else _READ[:2] if is_model else _READ)
    if not is_model:
        return
    variant, safe = rest.get("variant"), rest.get("use_safetensors")
    try:
        find_weights(
            source,
            variant=variant if isinstance(variant, str) else None,
            use_safetensors=safe if isinstance(safe, bool) else None,
        )
    except FrozenError:
        raise
    except RepoError:  # files of another kind, or none: that is for the class to say
        return


_NOT_OF_CONFIGS = ("dtype", "torch_dtype", "quantization_config")
"""Keywords that are also keys of a config, and mean how to load the weights here."""


def with_config(kind: type, source: Source, rest: Mapping[str, object]) -> dict[str, object]:
    """A model's keywords for transformers: those that are keys of its config are taken out, and change the config."""
    kept = {key: value for key, value in rest.items() if key in _NOT_OF_CONFIGS}
    given = {key: value for key, value in rest.items() if key not in _NOT_OF_CONFIGS}
    found = load(kind, source, {**given, "name_or_path": source.name, "return_unused_kwargs": True})
    config, unused = cast("tuple[object, dict[str, object]]", found)
    return {**unused, **kept, "config": config}


def method(kind: type, name: str) -> Callable[..., object]:
    """A class method of somebody's class.

    Raises:
        CodeError: there is none.
    """
    for base in kind.__mro__:
        if name in vars(base):
            return cast("Callable[..., object]", vars(base)[name].__get__(None, kind))
    raise CodeError(f"this class has no {name}", where=kind.__module__, found=kind.__name__)
