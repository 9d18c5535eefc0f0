"""From the files of a folder to a tokenizer."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, WordPiece

from omniform.core.errors import ConfigError, check_arguments
from omniform.inputs.text.assemble import Vocabulary, from_sentencepiece
from omniform.inputs.text.backend import guarded
from omniform.inputs.text.classes import class_named
from omniform.inputs.text.growth import check_charsmap, check_growth
from omniform.inputs.text.layouts import sources_of
from omniform.inputs.text.names import Origin, class_of
from omniform.inputs.text.ranks import assemble_ranks, is_tiktoken, read_tekken, read_tiktoken
from omniform.inputs.text.recipes import Recipe, Scripting, recipe_of
from omniform.inputs.text.scripted import Machinery, Scripted
from omniform.inputs.text.sentencepiece import UNIGRAM, SentencePieceModel, read_sentencepiece
from omniform.inputs.text.settings import INERT, KNOWN, Settings, check_size, read_json, read_settings, read_text
from omniform.inputs.text.special import Token
from omniform.inputs.text.tokenizer import Tokenizer


def tokenizer_from_files(
    files: Mapping[str, Path],
    *,
    where: str,
    overrides: Mapping[str, object] | None = None,
    model_type: str | None = None,
    model_class: str | None = None,
    model_name: str | None = None,
    wanted: type[Tokenizer] | None = None,
    beside: Iterable[str] = (),
) -> Tokenizer:
    """Build the tokenizer that a folder holds.

    ``tokenizer.json`` is used where there is one. Without it the vocabulary is read from ``vocab.txt`` (WordPiece),
    from ``vocab.json`` and ``merges.txt`` (byte-level BPE) or from a sentencepiece ``.model`` file.

    Args:
        files: the files there are, by their name within the folder.
        where: the folder or repository, for error messages.
        overrides: settings that win over the files: ``padding_side``, ``pad_token``, ``do_lower_case``, ...
        model_type: the family that ``config.json`` names.
        model_class: the ``tokenizer_class`` that ``config.json`` names.
        model_name: the ``model_name`` that ``config.json`` gives, which tells versions of a family apart.
        wanted: the class that the tokenizer is to be of, whatever the files say.
        beside: names that the caller takes itself, one of which may have been meant.

    Raises:
        ConfigError: a file is malformed, a setting is not supported, or there is no vocabulary.
        UnknownArgumentError: an override is no setting of a tokenizer.
        RepoError: a file cannot be read.
    """
    given = dict(overrides or {})
    check_arguments("the tokenizer", (name for name in given if not name.endswith("_token")), (*KNOWN, *INERT, *beside))
    said = Origin(family=model_type, model_class=model_class, model_name=model_name, repository=where)
    recipe = None if wanted is None else recipe_of(wanted.recipe_name)
    parts = read_parts(files, where, given, recipe, said)
    kind = class_named(parts[1].name) if wanted is None else wanted
    with guarded("the tokenizer's files do not make a tokenizer", ConfigError, where):
        return kind.made_of(*parts)


def is_whole(files: Mapping[str, Path], said: Origin) -> bool:
    """Whether these files make a tokenizer though there is no vocabulary among them: one of bytes needs none."""
    named = (
        read_json(files["tokenizer_config.json"]).get("tokenizer_class") if "tokenizer_config.json" in files else None
    )
    kind = class_of(replace(said, config_class=named if isinstance(named, str) else None))
    recipe = recipe_of(kind)
    return recipe.script is not None and not recipe.files


def read_parts(
    files: Mapping[str, Path],
    where: str,
    overrides: Mapping[str, object],
    recipe: Recipe | None,
    said: Origin | None = None,
) -> tuple[Machinery, Recipe, Settings, processors.PostProcessor | None]:
    """What a tokenizer is made of, out of files.

    Args:
        files: as for :func:`tokenizer_from_files`; so are ``where`` and ``overrides``.
        recipe: the kind of tokenizer; by default what the files say.
        said: what the checkpoint says besides, of which the kind follows.
    """
    text = read_text(files["tokenizer.json"]) if "tokenizer.json" in files else None
    raw = None if text is None else _parse(text, files["tokenizer.json"])
    settings = read_settings(files, where, overrides, raw)
    if recipe is None:
        origin = replace(
            said or Origin(),
            config_class=settings.text("tokenizer_class"),
            in_bytes=text is not None and '"ByteLevel"' in text,
        )
        recipe = recipe_of(class_of(origin))
    settings.named = recipe.named(settings.named)
    settings.sources = sources_of(recipe, files)
    post_processor: processors.PostProcessor | None = None
    with guarded("the tokenizer's files do not make a tokenizer", ConfigError, where):
        if recipe.script is not None and (raw is None or any(name in files for name in recipe.files)):
            return scripted(recipe.script, files, settings), recipe, settings, None
        if text is None or raw is None:
            return _from_vocabulary_files(recipe, files, settings), recipe, settings, None
        stands = recipe.steps is None or recipe.steps.keeps_file
        shell = Backend.from_str(text) if stands else _shell(raw)
        _apply_stored_limits(settings, shell)
        post_processor = shell.post_processor
        backend = shell if stands else assembled(recipe, _stored_vocabulary(raw), settings)
    return backend, recipe, settings, post_processor


def scripted(kind: Scripting, files: Mapping[str, Path], settings: Settings) -> Scripted:
    """The tokenizer proper of a class that has a script of its own."""
    if kind.tokens is not None:
        kind.tokens(settings)
    fixed = {index: _ready(settings.named[name]) for index, name in enumerate(kind.added)}
    made = kind.backend(kind.make(files, settings), {**fixed, **settings.added})
    settings.added = {}
    return made


def _ready(token: Token | None) -> AddedToken:
    if token is None:
        raise ConfigError("a special token is missing that has an id of its own")
    return token if isinstance(token, AddedToken) else AddedToken(token)


def assembled(recipe: Recipe, vocabulary: Vocabulary, settings: Settings) -> Backend:
    """The tokenizer proper, as its kind is assembled from a vocabulary."""
    assert recipe.steps is not None
    if recipe.steps.tokens is not None:
        recipe.steps.tokens(settings)
    return recipe.steps.build(vocabulary, settings)


# ---- tokenizer.json


def _parse(text: str, path: Path) -> dict[str, object]:
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError("the file is not JSON", where=str(path), found=str(error)) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise ConfigError("the file describes no tokenizer", where=str(path), expected="an object with a 'model'")
    check_growth(raw, str(path))
    return raw


def _shell(raw: Mapping[str, object]) -> Backend:
    """The file without its vocabulary, which is most of it: what remains are the steps around the model."""
    kept = {name: raw.get(name) for name in ("version", "truncation", "padding", "post_processor")}
    empty: dict[str, object] = {"added_tokens": [], "normalizer": None, "pre_tokenizer": None, "decoder": None}
    model = {"type": "BPE", "vocab": {}, "merges": []}
    return Backend.from_str(json.dumps({**kept, **empty, "model": model}))


def shell_of(path: Path) -> Backend:
    """The steps around the vocabulary of a ``tokenizer.json``.

    Raises:
        ConfigError: it is none.
    """
    return _shell(_parse(read_text(path), path))


def _apply_stored_limits(settings: Settings, shell: Backend) -> None:
    """Sides and pad token that the file stores with its truncation and padding, where the config is silent."""
    if shell.truncation is not None:
        settings.values.setdefault("truncation_side", shell.truncation["direction"])
    if shell.padding is not None:
        settings.values.setdefault("padding_side", shell.padding["direction"])
        settings.named.setdefault("pad_token", shell.padding["pad_token"])


def _stored_vocabulary(raw: Mapping[str, object]) -> Vocabulary:
    model = raw["model"]
    assert isinstance(model, Mapping)
    vocabulary = Vocabulary(charsmap=_charsmap(raw.get("normalizer")))
    tokens = model.get("vocab")
    if isinstance(tokens, Mapping):
        vocabulary.ids = dict(tokens)
    elif isinstance(tokens, list):
        vocabulary.scores = [(piece, score) for piece, score in tokens]
        vocabulary.ids = {piece: index for index, (piece, _) in enumerate(tokens)}
    merges = model.get("merges", [])
    if isinstance(merges, list):
        # Older files write a merge as one string.
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
        vocabulary.merges = [(left, right) for left, right in pairs]
    return vocabulary


def _charsmap(normalizer: object) -> bytes | None:
    if not isinstance(normalizer, Mapping):
        return None
    steps = normalizer.get("normalizers", []) if normalizer.get("type") == "Sequence" else [normalizer]
    for step in steps:
        if isinstance(step, Mapping) and isinstance(step.get("precompiled_charsmap"), str):
            try:
                return base64.b64decode(step["precompiled_charsmap"], validate=True)
            except binascii.Error as error:
                raise ConfigError("the table of characters is not base64", where="precompiled_charsmap") from error
    return None


# ---- vocabulary files


def _from_vocabulary_files(recipe: Recipe, files: Mapping[str, Path], settings: Settings) -> Backend:
    for name in ("tekken.json", "tiktoken.model"):
        if name in files:
            ranks = read_tekken(files[name]) if name == "tekken.json" else read_tiktoken(files[name], settings)
            return assemble_ranks(ranks)
    present = [name for name in recipe.files if name in files]
    if recipe.steps is None and not recipe.is_generic:
        raise ConfigError(
            f"a {recipe.name} is not made from vocabulary files here",
            where=settings.where,
            expected="tokenizer.json",
            found=", ".join(sorted(files)) or "no tokenizer files",
            remedy="The reference implementation's save_pretrained writes one, where it can.",
        )
    if recipe.files[0].endswith(".model"):
        if present:
            return _from_model_file(recipe, files[present[0]], settings)
    elif len(present) == len(recipe.files):
        for name in recipe.files:
            check_size(files[name])
        paths = [str(files[name]) for name in recipe.files]
        if len(paths) == 1:
            return assembled(recipe, Vocabulary(ids=WordPiece.read_file(paths[0])), settings)
        ids, merges = BPE.read_file(*paths)
        return assembled(recipe, Vocabulary(ids=ids, merges=merges), settings)
    elif recipe.steps is not None and recipe.steps.from_merges is not None and "merges.txt" in files:
        return assembled(recipe, recipe.steps.from_merges(read_merges(files["merges.txt"]), settings), settings)
    kind = "tokenizer of unknown kind" if recipe.is_generic else recipe.name
    alternatives = " or ".join(recipe.files) if recipe.files[0].endswith(".model") else " and ".join(recipe.files)
    raise ConfigError(
        f"the folder holds no vocabulary for a {kind}",
        where=settings.where,
        expected=f"tokenizer.json, or {alternatives}",
        found=", ".join(sorted(files)) or "no tokenizer files",
        remedy="tokenizer_class in tokenizer_config.json says what kind it is." if recipe.is_generic else None,
    )


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of a ``merges.txt``.

    Raises:
        ConfigError: a line is no pair.
    """
    pairs = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or line.startswith("#version"):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2:
            raise ConfigError("a merge is a pair of tokens", where=f"{path}, line {number}", found=f"{line!r:.80}")
        pairs.append((parts[0], parts[1]))
    return pairs


def _from_model_file(recipe: Recipe, path: Path, settings: Settings) -> Backend:
    if is_tiktoken(path):
        return assemble_ranks(read_tiktoken(path, settings))
    model = read_sentencepiece(path)
    if model.charsmap:
        check_charsmap(model.charsmap, str(path))
    settings.additional = [*model.added_tokens()]
    vocabulary = Vocabulary(charsmap=model.charsmap or None, unk_id=model.unk_id)
    scores = [(piece.text, piece.score) for piece in model.pieces]
    if recipe.steps is not None:
        if recipe.steps.pieces is None:
            vocabulary.ids, vocabulary.merges = model.vocabulary(), model.merges()
        else:
            vocabulary.scores = recipe.steps.pieces(scores, settings)
        return assembled(recipe, vocabulary, settings)
    if model.model_type == UNIGRAM:
        vocabulary.scores = scores
    else:
        vocabulary.ids, vocabulary.merges = _renamed(model, settings.added), model.merges()
    for name, index, piece in (
        ("bos_token", model.bos_id, model.bos_piece),
        ("eos_token", model.eos_id, model.eos_piece),
        ("unk_token", model.unk_id, model.unk_piece),
    ):
        if index >= 0:
            settings.named.setdefault(name, piece)
    return from_sentencepiece(model, vocabulary)


def _renamed(model: SentencePieceModel, added: Mapping[int, AddedToken]) -> dict[str, int]:
    """The vocabulary, with pieces that the added tokens rename under their new names."""
    ids = model.vocabulary()
    pieces = {index: piece for piece, index in ids.items()}
    for index, token in added.items():
        piece = pieces.get(index)
        if piece and piece != token.content and token.content not in ids:
            ids[token.content] = ids.pop(piece)
            pieces[index] = token.content
    return ids
