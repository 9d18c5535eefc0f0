"""The base of tokenizers that users write in Python: ``class MyTokenizer(omniform.PreTrainedTokenizer)``.

A class written for the reference implementation works with its import changed: its constructor reads the vocabulary
and then calls ``super().__init__(**kwargs)``; ``_tokenize``, ``_convert_token_to_id`` and their like are called from
here, in the order that the ecosystem calls them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self, cast

import torch

from omniform.core.errors import InputError, MissingPartError, check_arguments
from omniform.core.upstairs import upstairs
from omniform.inputs.text import save
from omniform.inputs.text.ids import read_id_rows, shown
from omniform.inputs.text.names import GENERIC
from omniform.inputs.text.options import read_flag
from omniform.inputs.text.own.calls import OwnCalls
from omniform.inputs.text.own.files import config_of, own_value
from omniform.inputs.text.own.tokens import is_overridden
from omniform.inputs.text.saving import Files
from omniform.inputs.text.special import Token
from omniform.inputs.text.tokenizer import Tokenizer


class _Base(type):
    """Every tokenizer passes for one of the base class, as all bases of the ecosystem are one here."""

    def __instancecheck__(cls, instance: object) -> bool:
        return super().__instancecheck__(instance) or (cls is PreTrainedTokenizer and isinstance(instance, Tokenizer))


class PreTrainedTokenizer(OwnCalls, metaclass=_Base):
    """A tokenizer that the user writes in Python.

    A subclass has ``vocab_size``, ``get_vocab``, ``_tokenize``, ``_convert_token_to_id`` and ``_convert_id_to_token``;
    most have ``vocab_files_names`` (the names of their constructor's arguments and the files' names in a folder),
    ``save_vocabulary`` and ``convert_tokens_to_string``. All else may be written anew too, by the ecosystem's names.
    """

    recipe_name = GENERIC

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *init_inputs: object, **kwargs: object
    ) -> Self:
        """Load a tokenizer of this class from a folder or a Hub id; or, where the class reads one file, from it.

        Args:
            init_inputs: arguments of the constructor by position.
            kwargs: where to look, as for :meth:`omniform.AutoTokenizer.from_pretrained`; all others are the
                constructor's.

        Raises:
            RepoError: a file is missing that the constructor needs.
            ConfigError: a file is malformed.
        """
        if cls is PreTrainedTokenizer:
            # Of no class of the user's own.
            return cast(Self, Tokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs))
        if isinstance(pretrained_model_name_or_path, (str, os.PathLike)) and os.path.isfile(
            pretrained_model_name_or_path
        ):
            return cls(**{cls._own_only_file(): os.fspath(pretrained_model_name_or_path), **kwargs})
        load = upstairs("hub.auto_inputs:load_tokenizer")
        return cast(Self, load(pretrained_model_name_or_path, cls, *init_inputs, **kwargs))

    @classmethod
    def _own_only_file(cls) -> str:
        names = [*cls.vocab_files_names]
        if len(names) != 1:
            raise InputError(
                "this class is not read from one file",
                where=f"{cls.__name__}.from_pretrained",
                expected=f"a folder with {', '.join(cls.vocab_files_names.values()) or 'its files'}",
            )
        return names[0]

    # ---- decoding

    def decode(
        self,
        token_ids: int | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool | None = None,
        **kwargs: object,
    ) -> str | list[str]:
        """The text of ids; a list of texts for rows of ids.

        Args:
            token_ids: ids, rows of them, or a tensor of either.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: close the spaces before punctuation; by default as the tokenizer is set.
            spaces_between_special_tokens: for classes whose ``_decode`` takes it; otherwise inert.
            kwargs: further options of the class's own ``_decode``.

        Raises:
            InputError: an id is no whole number from 0.
            UnknownArgumentError: the class takes no such option.
        """
        if spaces_between_special_tokens is not None:
            kwargs["spaces_between_special_tokens"] = spaces_between_special_tokens
        if kwargs and not is_overridden(self, PreTrainedTokenizer, "_decode"):
            known = ("spaces_between_special_tokens", "use_source_tokenizer")
            check_arguments(f"{type(self).__name__}.decode", kwargs, known)
        rows, many = read_id_rows(token_ids)
        options = dict(kwargs)
        if many or clean_up_tokenization_spaces is not None:
            options["clean_up_tokenization_spaces"] = clean_up_tokenization_spaces
        texts = [self._decode(token_ids=row, skip_special_tokens=skip_special_tokens, **options) for row in rows]  # type: ignore[arg-type]
        return texts if many else texts[0]

    def batch_decode(
        self,
        sequences: Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool | None = None,
        **kwargs: object,
    ) -> list[str]:
        """The texts of rows of ids; see :meth:`decode`."""
        asked = (skip_special_tokens, clean_up_tokenization_spaces, spaces_between_special_tokens)
        texts = self.decode(sequences, *asked, **kwargs)  # type: ignore[arg-type]
        return [texts] if isinstance(texts, str) else texts

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: object,
    ) -> str:
        skip = read_flag(skip_special_tokens, "skip_special_tokens")
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        tokens = cast("list[str | None]", self.convert_ids_to_tokens(ids, skip_special_tokens=skip))
        text = self.convert_tokens_to_string([token for token in tokens if token is not None])
        clean_up = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces is not None:
            clean_up = read_flag(clean_up_tokenization_spaces, "clean_up_tokenization_spaces")
        return self.clean_up_tokenization(text) if clean_up else text

    # ---- files

    def save_files(self, folder: Path) -> list[Path]:
        """Write ``tokenizer_config.json``, the chat templates, and the vocabulary by :meth:`save_vocabulary`.

        Returns:
            The files written.
        """
        before = {*folder.rglob("*")}
        written = save.write(folder, {}, config_of(self), self.chat_template)
        self.save_vocabulary(str(folder))
        more = (path for path in sorted(folder.rglob("*")) if path.is_file() and path not in before)
        return list(dict.fromkeys([*written, *more]))

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write ``encoder`` (or ``vocab``) as JSON and ``bpe_ranks`` as merges, where the tokenizer has them.

        Args:
            save_directory: a folder that is there.
            filename_prefix: what the files' names begin with, before a hyphen.

        Returns:
            The files written.

        Raises:
            InputError: there is no such folder.
        """
        if not isinstance(save_directory, (str, os.PathLike)) or not os.path.isdir(save_directory):
            raise InputError("there is no such folder", where="save_directory", found=shown(save_directory))
        vocabulary = own_value(self, "encoder") or own_value(self, "vocab")
        if not isinstance(vocabulary, Mapping):
            return ()
        start = Path(save_directory) / (f"{filename_prefix}-" if filename_prefix else "")
        text = json.dumps(dict(vocabulary), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        names = {"vocab_file": "vocab.json", "merges_file": "merges.txt", **self.vocab_files_names}
        contents = {names["vocab_file"]: text}
        ranks = own_value(self, "bpe_ranks")
        if isinstance(ranks, Mapping):
            header = "#version: 0.2\n" if own_value(self, "add_bpe_version_header") else ""
            merges = sorted(ranks, key=lambda pair: ranks[pair])
            contents[names["merges_file"]] = header + "".join(f"{' '.join(pair)}\n" for pair in merges)
        written = []
        for name, content in contents.items():
            path = f"{start}{name}" if filename_prefix else str(start / name)
            Path(path).write_text(content, encoding="utf-8")
            written.append(path)
        return tuple(written)

    @property
    def can_save_slow_tokenizer(self) -> bool:
        """Whether :meth:`save_vocabulary` writes the vocabulary in a file of its own."""
        return True

    def vocabulary_files(self) -> Files:
        """The vocabulary's files and their contents, as :meth:`save_vocabulary` writes them."""
        return self.backend.script.files()

    def __getstate__(self) -> dict[str, object]:
        return dict(vars(self))

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)

    def __repr__(self) -> str:
        added = "".join(f"\n\t{index}: {token!r}," for index, token in self.added_tokens_decoder.items())
        added = f"{added}\n" if added else ""
        return (
            f"{type(self).__name__}(name_or_path='{self.name_or_path}', vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side='{self.padding_side}', "
            f"truncation_side='{self.truncation_side}', special_tokens={self.special_tokens_map}, "
            f"added_tokens_decoder={{{added}}})"
        )

    # ---- what is for other kinds

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str] | Iterable[Sequence[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[Token] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **kwargs: object,
    ) -> Self:
        """Tokenizers that are written in Python are trained by their own means.

        Raises:
            MissingPartError: always.
        """
        kind = type(self).__name__
        raise MissingPartError("a tokenizer written in Python is trained by its own means", where=kind)
