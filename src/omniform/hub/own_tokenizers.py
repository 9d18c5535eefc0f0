"""Which class of the user's own a checkpoint's tokenizer is of, and how it is made of the checkpoint's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from omniform.core.errors import UnknownNameError
from omniform.core.file_names import TEMPLATES_FOLDER
from omniform.hub import own
from omniform.hub.files import Source
from omniform.inputs.text.classes import names as class_names
from omniform.inputs.text.own.files import builds_itself, files_of, made_from
from omniform.inputs.text.tokenizer import Tokenizer

AUTO: Final = "AutoTokenizer"
_SMALL_FILES: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip


def register(
    config_class: object,
    tokenizer_class: object = None,
    slow_tokenizer_class: object = None,
    fast_tokenizer_class: object = None,
    exist_ok: bool = False,
) -> None:
    """Have ``AutoTokenizer`` load the tokenizers of a class of configs, and those of a name, as these classes.

    Args:
        config_class: the class of configs; None for classes that are found by their names alone.
        tokenizer_class: the class of tokenizers.
        slow_tokenizer_class: its older name, for one that is written in Python;
        fast_tokenizer_class: and for one of the ``tokenizers`` package, which is preferred to the other.
        exist_ok: put them in the place of what was registered before.

    Raises:
        InputError: these are no such classes.
        ConfigError: there is a class for these configs, or of this name, and ``exist_ok`` is False.
    """
    kinds = (tokenizer_class, fast_tokenizer_class, slow_tokenizer_class)
    own.register(AUTO, config_class, kinds, Tokenizer, exist_ok=exist_ok)


def registered(model: Mapping[str, object], tokenizer_config: Mapping[str, object]) -> type[Tokenizer] | None:
    """The class that the user registered for a checkpoint's tokenizer; None where there is none.

    Args:
        model: the content of ``config.json``.
        tokenizer_config: that of ``tokenizer_config.json``.
    """
    said = [name for name in (file.get("tokenizer_class") for file in (tokenizer_config, model)) if name]
    # A class is saved without the end of its name where it has another that is written in Python.
    names = [name for one in said if isinstance(one, str) for name in (one, f"{one}Fast", one.removesuffix("Fast"))]
    found = own.registered(AUTO, model_type=model.get("model_type"), names=names)
    return cast("type[Tokenizer] | None", found)


def makes_itself(kind: type[Tokenizer] | None) -> bool:
    """Whether a class of tokenizers is made by a constructor of the user's own."""
    return kind is not None and builds_itself(kind)


def load(
    source: Source, kind: type[Tokenizer], settings: Mapping[str, object], inputs: tuple[object, ...] = ()
) -> Tokenizer:
    """A tokenizer of a class of the user's own out of a checkpoint's files, by its constructor.

    Raises:
        RepoError: a file is missing that the constructor needs.
        ConfigError: a file is malformed.
    """
    files = source.files(tuple(dict.fromkeys((*files_of(kind).values(), *_SMALL_FILES))))
    folder = next((path.parent for path in files.values()), None)
    if folder is not None:
        templates = sorted((folder / TEMPLATES_FOLDER).glob("*.jinja"))
        files.update({f"{TEMPLATES_FOLDER}/{path.name}": path for path in templates})
    return made_from(kind, files, source.name, settings, inputs)


def check_known(tokenizer_config: Mapping[str, object], where: str) -> None:
    """Refuse a tokenizer whose class is nobody's, where no ``tokenizer.json`` stands in for it.

    Args:
        tokenizer_config: the content of ``tokenizer_config.json``.
        where: the checkpoint.

    Raises:
        UnknownNameError: the class is neither registered nor one of omniform's.
    """
    named, code = tokenizer_config.get("tokenizer_class"), tokenizer_config.get("auto_map")
    if not isinstance(named, str) or not named or named in class_names():
        return
    either = ", or trust_remote_code=True for the code that the checkpoint brings" if code else ""
    raise UnknownNameError(
        "the tokenizer is of a class that is not registered",
        where=f"{where}/tokenizer_config.json: tokenizer_class",
        found=named,
        remedy=f"AutoTokenizer.register(ConfigClass, slow_tokenizer_class={named}), "
        f"or {named}.from_pretrained(...){either}.",
    )
