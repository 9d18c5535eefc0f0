"""Tokenizers from what a caller has at hand: files, a vocabulary, or a ``tokenizers.Tokenizer``."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import processors

from omniform.core.errors import ConfigError, InputError, check_arguments
from omniform.inputs.text.assemble import Vocabulary
from omniform.inputs.text.backend import guarded
from omniform.inputs.text.load import assembled, read_parts, shell_of
from omniform.inputs.text.recipes import Recipe, recipe_of
from omniform.inputs.text.scripted import Machinery
from omniform.inputs.text.settings import INERT, KNOWN, Settings, read_settings

_FILES = ("tokenizer_file", "vocab_file", "merges_file")
Parts = tuple[Machinery, Recipe, Settings, processors.PostProcessor | None]


def parts_of(name: str, vocab: object, merges: object, given: Mapping[str, object], is_own: bool) -> Parts:
    """What a tokenizer of a class is made of.

    Args:
        name: the class, as files call it.
        vocab: the vocabulary: its file, tokens with their ids, or pieces with their scores.
        merges: the merges of a BPE: their file, or the pairs.
        given: ``tokenizer_object``, the three files, and settings.
        is_own: whether the class is one of the user's own, whose settings may have any name.

    Raises:
        InputError: there is no vocabulary, or it is none.
        ConfigError: a file is malformed, or a setting is not supported.
        UnknownArgumentError: a keyword that is neither.
    """
    recipe = recipe_of(name)
    options = {key: value for key, value in given.items() if key not in (*_FILES, "tokenizer_object")}
    names = (key for key in options if not key.endswith("_token"))
    if not is_own:
        check_arguments(name, names, (*KNOWN, *INERT, *_FILES, "tokenizer_object", "vocab", "merges"))
    made = given.get("tokenizer_object")
    if made is not None:
        if not isinstance(made, Backend):
            raise InputError("this is no tokenizers.Tokenizer", where="tokenizer_object", found=type(made).__name__)
        settings = _settings(recipe, options)
        backend = copy.deepcopy(made)
        file = given.get("tokenizer_file")
        if isinstance(file, (str, os.PathLike)):
            # The steps are the caller's; which tokens frame texts, the file says.
            backend.post_processor = shell_of(Path(file)).post_processor
        return backend, recipe, settings, backend.post_processor
    files = _files(recipe, vocab, merges, given)
    if files or (recipe.script is not None and not recipe.files):
        return read_parts(files, str(options.get("name_or_path") or name), options, recipe)
    settings = _settings(recipe, options)
    with guarded("the vocabulary does not make a tokenizer", where="vocab"):
        return assembled(recipe, _vocabulary(recipe, vocab, merges), settings), recipe, settings, None


def _settings(recipe: Recipe, options: Mapping[str, object]) -> Settings:
    settings = read_settings({}, str(options.get("name_or_path") or recipe.name), options, None)
    settings.named = recipe.named(settings.named)
    return settings


def _files(recipe: Recipe, vocab: object, merges: object, given: Mapping[str, object]) -> dict[str, Path]:
    paths = {name: given.get(name) for name in _FILES}
    paths["vocab_file"] = vocab if isinstance(vocab, (str, os.PathLike)) else paths["vocab_file"]
    paths["merges_file"] = merges if isinstance(merges, (str, os.PathLike)) else paths["merges_file"]
    read = dict(zip(_FILES, ("tokenizer.json", recipe.files[0] if recipe.files else None, "merges.txt"), strict=True))
    files: dict[str, Path] = {}
    for argument, path in paths.items():
        name = read[argument]
        if path is None or name is None:
            continue
        if not isinstance(path, (str, os.PathLike)):
            raise InputError("this is no path", where=argument, found=type(path).__name__)
        if not Path(path).is_file():
            raise InputError("there is no such file", where=argument, found=f"{os.fspath(path)!r:.200}")
        files[name] = Path(path)
    return files


def _vocabulary(recipe: Recipe, vocab: object, merges: object) -> Vocabulary:
    if vocab is None:
        raise InputError(
            "there is no vocabulary",
            where=recipe.name,
            expected="vocab, or one of tokenizer_object, tokenizer_file and vocab_file",
            remedy=f"{recipe.name}.from_pretrained(...) reads a folder.",
        )
    if recipe.steps is None:
        raise ConfigError(f"a {recipe.name} is made from tokenizer.json or a tokenizer_object", where="vocab")
    made = Vocabulary()
    if isinstance(vocab, Mapping):
        made.ids = dict(vocab)
    elif isinstance(vocab, (list, tuple)):
        made.scores = [(piece, score) for piece, score in vocab]
        made.ids = {piece: index for index, (piece, _) in enumerate(vocab)}
    else:
        raise InputError("this is no vocabulary", where="vocab", found=type(vocab).__name__)
    if merges is not None:
        if not isinstance(merges, (list, tuple)):
            raise InputError("merges are a list of pairs", where="merges", found=type(merges).__name__)
        pairs = (tuple(pair.split(" ")) if isinstance(pair, str) else pair for pair in merges)
        made.merges = [(left, right) for left, right in pairs]
    return made
