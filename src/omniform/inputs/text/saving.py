"""Saving a tokenizer: its ``tokenizer.json``, and the vocabulary in the files that it was read from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Unpack, cast

from omniform.core.auto_class import AutoNamed
from omniform.core.errors import InputError, OmniformError, RepoError, brief
from omniform.core.logs import get_logger
from omniform.core.pushing import PushToHub, SaveOptions
from omniform.core.upstairs import upstairs
from omniform.inputs.text import layouts, save
from omniform.inputs.text.conversing import Conversing
from omniform.inputs.text.habits import read_inert
from omniform.inputs.text.ids import shown
from omniform.inputs.text.options import read_flag
from omniform.inputs.text.scripted import Scripted

if TYPE_CHECKING:
    from omniform.inputs.text.tokenizer import Tokenizer

Files = Mapping[str, str | bytes]
Settings = Mapping[str, object]

_PROBE = "Hello  World's 12345 déjà vu,\n\t你好 ﬁ 🙂 don't stop"
_MOST_PROBED = 64


class Saving(AutoNamed, PushToHub, Conversing):
    """A tokenizer that writes its files."""

    _usual_auto_class: ClassVar[str] = "AutoTokenizer"

    def _changeable(self) -> dict[str, object]:
        """The settings that are attributes, as they now are."""
        raise NotImplementedError

    @property
    def can_save_slow_tokenizer(self) -> bool:
        """Whether :meth:`save_vocabulary` writes the vocabulary in a file of its own."""
        return isinstance(self.backend, Scripted) or bool(self.settings.sources or _names(self.backend.model))

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary without added tokens and settings, in the files that it was read from.

        One that was read from ``tokenizer.json`` alone is written as ``vocab.txt``, or ``vocab.json`` and
        ``merges.txt``.

        Args:
            save_directory: a folder that is there.
            filename_prefix: what the files' names begin with, before a hyphen.

        Returns:
            The files written.

        Raises:
            InputError: there is no such folder, or the prefix is no name.
            RepoError: a file cannot be written.
        """
        if not isinstance(save_directory, (str, os.PathLike)) or not os.path.isdir(save_directory):
            raise InputError("there is no such folder", where="save_directory", found=shown(save_directory))
        if filename_prefix is not None and (
            not isinstance(filename_prefix, str) or Path(filename_prefix).name != filename_prefix
        ):
            raise InputError("this is no name", where="filename_prefix", found=shown(filename_prefix))
        start = f"{filename_prefix}-" if filename_prefix else ""
        written = []
        for name, content in self.vocabulary_files().items():
            path = Path(save_directory) / f"{start}{name}"
            try:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            except (OSError, ValueError) as error:
                raise RepoError("the file cannot be written", where=str(path), found=str(error)) from error
            written.append(str(path))
        return tuple(written)

    def vocabulary_files(self) -> Files:
        """The vocabulary's files and their contents; none for kinds that only ``tokenizer.json`` can hold."""
        if isinstance(self.backend, Scripted):
            return self.backend.script.files()
        return {**(self._as_read()[0] or _files(self.backend.model)), **self._files_beside()}

    def _as_read(self) -> tuple[Files, Settings]:
        """The files that the vocabulary was read from: as they were, else written anew; none where neither is it.

        Returns:
            The files, and what ``tokenizer_config.json`` has to say beside them.
        """
        sources = self.settings.sources
        if not sources:
            return {}, {}
        candidates: list[Files] = []
        kept = layouts.contents_of(sources)
        if kept is not None:
            candidates.append(kept)
        anew = {name: content for name, content in _files(self.backend.model).items() if name in sources}
        if len(anew) == len(sources):
            candidates.append(anew)
        tokens: Settings = {"added_tokens_decoder": save.added(self.backend.get_added_tokens_decoder())}
        for files in candidates:
            for framing in self._framings():
                said = {**tokens, **framing}
                if self._equals(files, said):
                    return files, said
        get_logger().warning(
            "%s is not saved: %s; tokenizer.json holds the vocabulary",
            " and ".join(sources),
            "the file read is gone or was changed" if kept is None else "it does not make this tokenizer",
        )
        return {}, {}

    def _framings(self) -> list[Settings]:
        """What may say how texts are framed where no ``tokenizer.json`` does: the settings, or what is seen."""
        now = {"add_bos_token": self._add_bos, "add_eos_token": self._add_eos}
        ids = self.build_inputs_with_special_tokens([])
        seen = {
            "add_bos_token": self.bos_token_id is not None and ids[:1] == [self.bos_token_id],
            "add_eos_token": self.eos_token_id is not None and ids[-1:] == [self.eos_token_id],
        }
        # The shortest first: what is saved again, from tokenizer.json, says the same.
        found: list[Settings] = []
        for flags in (now, seen):
            for said in ({name: flag for name, flag in flags.items() if flag}, flags):
                if said not in found:
                    found.append(said)
        return found

    def _equals(self, files: Files, said: Settings) -> bool:
        """Whether these files and settings make this tokenizer, without a ``tokenizer.json``."""
        # The reader of files knows every class of tokenizer, this one too.
        from omniform.inputs.text.load import tokenizer_from_files

        with TemporaryDirectory() as folder:
            paths = save.write(Path(folder), files, {**self._config(), **said}, None)
            try:
                made = tokenizer_from_files({path.name: path for path in paths}, where=self.settings.where)
                return _facts(made) == _facts(cast("Tokenizer", self))
            except OmniformError:
                return False

    def _config(self) -> dict[str, object]:
        """The content of ``tokenizer_config.json`` beside a ``tokenizer.json``."""
        return {**save.config_of(self.settings, self.recipe, self._named, self._extra), **self._changeable()}

    def save_files(self, folder: Path) -> list[Path]:
        """Write ``tokenizer.json``, the files that the vocabulary was read from, ``tokenizer_config.json`` and the chat
        templates into a folder; a class that has no ``tokenizer.json`` goes without.

        Returns:
            The files written.
        """
        backend = self.backend
        if isinstance(backend, Scripted):
            said: Settings = {"added_tokens_decoder": save.added(backend.get_added_tokens_decoder())}
            config = {**self._config(), **said, **self._said_by_class()}
            return save.write(folder, backend.script.files(), config, self.chat_template)
        own, said = self._as_read()
        with self._turn:
            files = {"tokenizer.json": backend.to_str(pretty=True), **own, **self._files_beside()}
        return save.write(folder, files, {**self._config(), **said, **self._said_by_class()}, self.chat_template)

    def _files_beside(self) -> Files:
        """What is saved with the vocabulary and is no part of it."""
        return {}

    def _said_by_class(self) -> Settings:
        """What ``tokenizer_config.json`` says besides, where the class is the user's own."""
        from omniform.inputs.text.own.files import settings_now

        return settings_now(cast("Tokenizer", self))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        **hub: Unpack[SaveOptions],
    ) -> tuple[str, ...]:
        """Save all files at once or none; other files in the folder stay, but for older ones that would contradict.

        Args:
            save_directory: made if it is missing.
            legacy_format: inert; :meth:`save_vocabulary` writes the vocabulary's own files.
            filename_prefix: not supported.
            push_to_hub: also commit them to a repository.
            hub: to which, and how; see :class:`~omniform.core.pushing.SaveOptions`.

        Returns:
            The files written.

        Raises:
            InputError: what is not supported is asked for.
            RepoError: the folder cannot be written, or the Hub refuses the files.
        """
        read_inert(legacy_format, "legacy_format")
        if filename_prefix is not None:
            found = brief(filename_prefix)
            raise InputError(
                "files are saved under their own names", where="filename_prefix", expected=None, found=found
            )
        door = upstairs("hub.auto_inputs:save_inputs")
        names = cast("list[str]", door(self, save_directory, read_flag(push_to_hub, "push_to_hub"), **hub))
        return tuple(os.path.join(save_directory, name) for name in names)


def _facts(tokenizer: Tokenizer) -> tuple[object, ...]:
    """What tells two tokenizers apart: tokens and ids, special ones, and how texts with and without them are cut."""
    added = list(tokenizer.get_added_vocab())[:_MOST_PROBED]
    texts = [_PROBE, _PROBE.upper(), "".join(f" a {token} b{token}c" for token in added)]
    framed = [dict(tokenizer(text, pair)) for text in texts for pair in (None, text)]
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    texts = [str(tokenizer.decode(cast("list[int]", row))) for row in rows]
    return tokenizer.get_vocab(), tokenizer.special_tokens_map, tokenizer.extra_special_tokens, framed, rows, texts


def _names(model: object) -> tuple[str, ...]:
    kinds = {"BPE": ("vocab.json", "merges.txt"), "WordPiece": ("vocab.txt",), "WordLevel": ("vocab.json",)}
    return kinds.get(type(model).__name__, ())


def _files(model: object) -> dict[str, str | bytes]:
    """The files that a model of ``tokenizers`` writes."""
    names = _names(model)
    if not names:
        return {}
    with TemporaryDirectory() as folder:
        written = model.save(folder)  # type: ignore[attr-defined]  # every model of tokenizers has it
        return {Path(path).name: Path(path).read_text(encoding="utf-8") for path in written}
