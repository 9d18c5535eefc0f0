"""Reading a tokenizer's small files: which tokens are special, and how the tokenizer is to behave.

A folder says the same thing in up to four places, of which older releases wrote other subsets:
``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json`` and ``tokenizer.json``. The order of
precedence here is that of the reference implementation: an ``added_tokens_decoder`` in ``tokenizer_config.json`` rules
alone; without one the other three files are read over it, in that order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from tokenizers import AddedToken

from omniform.core.errors import ConfigError, RepoError
from omniform.core.file_names import TEMPLATES_FOLDER
from omniform.inputs.text.ids import shown
from omniform.inputs.text.special import NAMES, Token, added_token, read_token, read_tokens

KNOWN = (
    *NAMES,
    *("extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens", "added_tokens_decoder"),
    *("add_bos_token", "add_eos_token", "add_prefix_space", "legacy", "extra_ids", "split_special_tokens"),
    *("trim_offsets", "keep_accents", "split_by_punct", "unk_id", "clean_text", "wordpieces_prefix"),
    *("do_lower_case", "strip_accents", "tokenize_chinese_chars", "clean_up_tokenization_spaces"),
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    *("model_max_length", "max_len", "model_input_names", "padding_side", "truncation_side", "chat_template"),
    "response_template",
    *("word_tokenizer_type", "subword_tokenizer_type", "do_word_tokenize", "do_subword_tokenize"),
    *("basic_kwargs", "mecab_kwargs", "sudachi_kwargs", "jumanpp_kwargs"),
    *("replace_word_delimiter_char", "target_lang", "do_phonemize", "phonemizer_lang", "phonemizer_backend"),
    *("src_lang", "tgt_lang", "legacy_behaviour", "language_codes", "num_madeup_words", "offset", "mask_token_sent"),
    *("source_lang", "separate_vocabs", "target_vocab_file"),
    *("language", "task", "predict_timestamps", "normalizer_file", "tokenizer_class", "processor_class"),
)
"""The settings that mean something here."""

INERT = (
    *("use_fast", "errors", "never_split", "do_basic_tokenize", "sp_model_kwargs", "use_default_system_prompt"),
    *("remove_space", "vocab_type", "spaces_between_special_tokens", "name_or_path", "verbose"),
)
"""Settings of older releases that change nothing: they chose between implementations of the same thing."""

Side = Literal["left", "right"]
ChatTemplates = str | dict[str, str] | None


@dataclass(slots=True, kw_only=True)
class Settings:
    """All that a folder's small files say.

    Attributes:
        where: the folder, for error messages.
        values: settings by name, tokens taken out; what is not used here is written back on save.
        named: the special tokens that have a name, ``pad_token`` and the like.
        specific: named special tokens of this model alone, such as ``image_token``.
        extra: special tokens without a name, or ``None`` where nothing is said of them.
        additional: the same under the older name, where both were given.
        added: tokens beyond the model's vocabulary, by id.
        templates: the chat template, or several by name.
        sources: the files that hold the vocabulary besides ``tokenizer.json``, as ``layouts`` tells of them.
        spellings: words and how they are to be spelled in transcripts that are compared, as ``normalizer.json`` says.
    """

    where: str
    values: dict[str, object] = field(default_factory=dict)
    named: dict[str, Token | None] = field(default_factory=dict)
    specific: dict[str, Token] = field(default_factory=dict)
    extra: list[Token] | None = None
    additional: list[Token] | None = None
    added: dict[int, AddedToken] = field(default_factory=dict)
    templates: ChatTemplates = None
    sources: dict[str, tuple[str, str]] = field(default_factory=dict)
    spellings: dict[str, str] | None = None

    def flag(self, name: str, default: bool) -> bool:
        """A setting that is true or false; ``null`` reads as the default."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def integer(self, name: str) -> int | None:
        """A setting that is a whole number; floats that are whole (``1e30``) count."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(name, "a whole number")
        return value

    def text(self, name: str) -> str | None:
        """A setting that is text."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def side(self, name: str, default: Side) -> Side:
        """A setting that is ``"left"`` or ``"right"``."""
        value = self.values.get(name, default)
        if isinstance(value, str) and value in ("left", "right"):
            return "left" if value == "left" else "right"
        raise self._wrong(name, "'left' or 'right'")

    def strings(self, name: str) -> list[str] | None:
        """A setting that is a list of strings."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of strings")
        return list(value)

    def _wrong(self, name: str, expected: str) -> ConfigError:
        return ConfigError(
            "a setting of the tokenizer has the wrong type",
            where=f"{self.where}: {name}",
            expected=expected,
            found=shown(self.values.get(name)),
        )


LARGEST_JSON = 2**26
"""Settings beyond this many bytes are refused before they are read."""

LARGEST_TEMPLATE = 2**20
"""Templates beyond this many bytes are refused before they are read."""

LARGEST_FILE = 2**28
"""Vocabularies, merges and ``tokenizer.json`` likewise; the largest published ones have some 35 MB."""


def check_size(path: Path, largest: int = LARGEST_FILE) -> None:
    """Refuse a file that is too large to be read.

    Raises:
        RepoError: it is not there.
        ConfigError: it is.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RepoError("the file cannot be read", where=str(path), found=error.strerror) from error
    if size > largest:
        raise ConfigError(
            "the file is absurdly large", where=str(path), expected=f"up to {largest} bytes", found=f"{size} bytes"
        )


def read_text(path: Path, largest: int = LARGEST_FILE) -> str:
    """A UTF-8 file's text.

    Raises:
        RepoError: it cannot be read.
        ConfigError: it is not UTF-8, or too large.
    """
    check_size(path, largest)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("the file is not UTF-8 text", where=str(path), found=str(error)) from error
    except OSError as error:
        raise RepoError("the file cannot be read", where=str(path), found=error.strerror) from error


def read_json(path: Path) -> dict[str, object]:
    """A JSON file's object.

    Raises:
        RepoError: it cannot be read.
        ConfigError: it is not JSON, or no object.
    """
    try:
        data = json.loads(read_text(path, LARGEST_JSON))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError("the file is not JSON", where=str(path), found=str(error)) from error
    if not isinstance(data, dict):
        raise ConfigError("the file holds no JSON object", where=str(path), found=type(data).__name__)
    return data


def read_settings(
    files: Mapping[str, Path], where: str, overrides: Mapping[str, object], backend: Mapping[str, object] | None
) -> Settings:
    """Read every small file of a folder into one :class:`Settings`.

    Args:
        files: the files there are, by name.
        where: the folder, for error messages.
        overrides: settings of the caller, which win over the files.
        backend: the content of ``tokenizer.json``, if there is one.

    Raises:
        ConfigError: a file is malformed, or a value has the wrong type.
    """
    settings = Settings(where=where)
    values = settings.values
    if "tokenizer_config.json" in files:
        values.update(read_json(files["tokenizer_config.json"]))
    if backend is not None:
        # There the post-processor of tokenizer.json says which tokens frame a text.
        values.pop("add_bos_token", None)
        values.pop("add_eos_token", None)
    settings.templates = _read_templates(files, values, where)
    values.update(overrides)
    if "chat_template" in overrides:
        settings.templates = templates_of(overrides["chat_template"], where)
    values.pop("chat_template", None)
    if values.get("additional_special_tokens") is not None and not values.get("extra_special_tokens"):
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    if values.get("added_tokens_decoder") is not None:
        settings.added = _read_decoder(values["added_tokens_decoder"], where)
    else:
        _read_older_files(files, settings, overrides, backend)
    values.pop("added_tokens_decoder", None)
    _take_tokens(settings)
    settings.spellings = _read_spellings(files, values.pop("normalizer_file", None), overrides)
    return settings


def _read_spellings(files: Mapping[str, Path], named: object, overrides: Mapping[str, object]) -> dict[str, str] | None:
    """The spellings of the file that the caller names, else of the folder's."""
    path = files.get("normalizer.json")
    if "normalizer_file" in overrides and named is not None:
        if not isinstance(named, (str, Path)):
            raise ConfigError("this is no path", where="normalizer_file", found=shown(named))
        path = Path(named)
    if path is None:
        return None
    spellings = read_json(path)
    for word, spelling in spellings.items():
        if not isinstance(spelling, str):
            raise ConfigError("a spelling is text", where=f"{path}: {shown(word)}", found=shown(spelling))
    return cast("dict[str, str]", spellings)


def _read_decoder(raw: object, where: str) -> dict[int, AddedToken]:
    where = f"{where}: added_tokens_decoder"
    if not isinstance(raw, Mapping):
        raise ConfigError("added tokens come as a mapping of ids", where=where, found=type(raw).__name__)
    added: dict[int, AddedToken] = {}
    for key, value in raw.items():
        if isinstance(value, AddedToken):
            added[_token_index(key, where)] = value
            continue
        if not isinstance(value, Mapping):
            raise ConfigError("an added token is a mapping", where=f"{where}: {key}", found=shown(value))
        added[_token_index(key, where)] = added_token(value, f"{where}: {key}")
    return added


def _token_index(value: object, where: str) -> int:
    try:
        index = int(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else -1
    except ValueError:
        index = -1
    if index < 0:
        raise ConfigError("a token's id is a whole number", where=where, found=shown(value))
    return index


def _read_older_files(
    files: Mapping[str, Path],
    settings: Settings,
    overrides: Mapping[str, object],
    backend: Mapping[str, object] | None,
) -> None:
    values = settings.values
    if "special_tokens_map.json" in files:
        path = files["special_tokens_map.json"]
        for name, value in read_json(path).items():
            if overrides.get(name):
                continue
            if name == "extra_special_tokens" and isinstance(value, list):
                known = read_tokens(values.get(name), settings.where)
                value = known + [token for token in _read_special(value, path) if token not in known]
            elif isinstance(value, Mapping) and name != "extra_special_tokens":
                value = added_token(value, f"{path}: {name}", special=True)
            values[name] = value
    if "added_tokens.json" in files:
        path = files["added_tokens.json"]
        special = {str(read_token(values.get(name), settings.where)) for name in NAMES if values.get(name)}
        extra = values.get("extra_special_tokens")
        special.update(str(token) for token in read_tokens(extra if isinstance(extra, list) else None, settings.where))
        for content, key in read_json(path).items():
            is_special = content in special
            settings.added[_token_index(key, str(path))] = AddedToken(
                content, rstrip=False, lstrip=False, normalized=not is_special, special=is_special
            )
    if backend is not None:
        where = str(files["tokenizer.json"])
        listed = backend.get("added_tokens", [])
        if not isinstance(listed, list) or not all(isinstance(raw, dict) for raw in listed):
            raise ConfigError("the added tokens are not a list of mappings", where=where)
        for raw in listed:
            settings.added[_token_index(raw.get("id"), where)] = added_token(raw, f"{where}: added_tokens")


def _read_special(value: list[object], path: Path) -> list[Token]:
    where = f"{path}: extra_special_tokens"
    tokens: list[Token] = []
    for raw in value:
        token = added_token(raw, where, special=True) if isinstance(raw, Mapping) else read_token(raw, where)
        if token is not None:
            tokens.append(token)
    return tokens


def _take_tokens(settings: Settings) -> None:
    """Move every token out of ``values``, with the flags that its entry among the added tokens gives it."""
    values, where = settings.values, settings.where
    by_content = {token.content: token for token in settings.added.values()}
    for name in NAMES:
        if name in values:
            token = read_token(values.pop(name), f"{where}: {name}")
            settings.named[name] = token if token is None else by_content.get(str(token), token)
    for name in [name for name in values if name.endswith("_token")]:
        value = values[name]
        if isinstance(value, (str, AddedToken, Mapping)):
            token = read_token(values.pop(name), f"{where}: {name}")
            if token is not None:
                settings.specific[name] = token
    extra = values.pop("extra_special_tokens", None)
    for source in (extra, values.pop("model_specific_special_tokens", None)):
        if isinstance(source, Mapping):
            for name, value in source.items():
                token = read_token(value, f"{where}: {name}")
                if token is not None:
                    settings.specific[name] = token
    if extra is not None and not isinstance(extra, Mapping):
        settings.extra = read_tokens(extra, f"{where}: extra_special_tokens")
    additional = values.pop("additional_special_tokens", None)
    if additional is not None:
        settings.additional = read_tokens(additional, f"{where}: additional_special_tokens")


def _read_templates(files: Mapping[str, Path], values: Mapping[str, object], where: str) -> ChatTemplates:
    """The chat templates; files of their own win over the config, and a processor's older file comes last."""
    named: dict[str, str] = {}
    if "chat_template.jinja" in files:
        named["default"] = read_text(files["chat_template.jinja"], LARGEST_TEMPLATE)
    for name, path in files.items():
        if name.startswith(f"{TEMPLATES_FOLDER}/") and name.endswith(".jinja"):
            named[path.name.removesuffix(".jinja")] = read_text(path, LARGEST_TEMPLATE)
    if named:
        return named["default"] if list(named) == ["default"] else named
    templates = templates_of(values.get("chat_template"), where)
    if templates is None and "chat_template.json" in files:
        path = files["chat_template.json"]
        templates = templates_of(read_json(path).get("chat_template"), str(path))
    return templates


def templates_of(raw: object, where: str) -> ChatTemplates:
    """Chat templates as config files hold them: text, texts by name, or a list of names and texts.

    Raises:
        ConfigError: they are none of these.
    """
    if raw is None or isinstance(raw, str):
        return raw
    pairs: list[tuple[object, object]]
    if isinstance(raw, Mapping):
        pairs = list(raw.items())
    elif isinstance(raw, (list, tuple)) and all(isinstance(item, Mapping) for item in raw):
        pairs = [(item.get("name"), item.get("template")) for item in raw]
    else:
        pairs = [(None, None)]
    named = {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
    if len(named) != len(pairs):
        raise ConfigError(
            "the chat template is malformed",
            where=f"{where}: chat_template",
            expected="text, or a list of mappings with 'name' and 'template'",
            found=type(raw).__name__,
        )
    return named


def vocabulary_file(files: Mapping[str, Path], name: str, settings: Settings) -> Path:
    """A file of a folder that its tokenizer is made of.

    Raises:
        ConfigError: the folder does not hold it.
    """
    if name not in files:
        raise ConfigError(
            "the folder holds no vocabulary",
            where=settings.where,
            expected=name,
            found=", ".join(sorted(files)) or "no tokenizer files",
        )
    return files[name]
