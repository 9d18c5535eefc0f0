"""The base of tokenizers of the user's own that the sentencepiece library cuts for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, cast

from omniform.core.errors import ConfigError, DependencyError, InputError, RepoError
from omniform.inputs.text.ids import shown
from omniform.inputs.text.names import GENERIC
from omniform.inputs.text.own.tokenizer import PreTrainedTokenizer

SPACE = "\u2581"
"""What stands for a space in a vocabulary of sentencepiece."""


class _Pieces(Protocol):
    """What is asked of the library's ``SentencePieceProcessor``."""

    def encode(self, text: str, out_type: type) -> list[str]: ...

    def piece_to_id(self, piece: str) -> int: ...

    def id_to_piece(self, index: int) -> str: ...

    def get_piece_size(self) -> int: ...

    def serialized_model_proto(self) -> bytes: ...

    def LoadFromSerializedProto(self, content: bytes) -> object: ...  # noqa: N802


class SentencePieceBackend(PreTrainedTokenizer):
    """A tokenizer that a sentencepiece file makes, for classes of the user's own to derive from.

    Attributes:
        sp_model: the library's processor.
        legacy: whether a text after an added token gets the space that sentencepiece puts before each text.
        vocab_file: the file.
    """

    recipe_name = GENERIC
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "tokenizer.model"}

    def __init__(self, **kwargs: object) -> None:
        """What a class of the user's own calls.

        Args:
            kwargs: ``vocab_file``, the path of the model; ``sp_model_kwargs`` for the library; ``legacy``, by default
                ``True``; and all that :class:`PreTrainedTokenizer` takes.

        Raises:
            DependencyError: the library is not installed.
            RepoError: there is no such file.
            ConfigError: it is no sentencepiece model.
        """
        file, options = kwargs.get("vocab_file"), kwargs.get("sp_model_kwargs")
        if not isinstance(file, (str, os.PathLike)):
            raise InputError("this is no path", where=f"{type(self).__name__}: vocab_file", found=shown(file))
        self.vocab_file = os.fspath(file)
        self.legacy = bool(kwargs.get("legacy", True))
        self.sp_model_kwargs = dict(cast("dict[str, object]", options or {}))
        self.sp_model = self._own_read(_content(self.vocab_file))
        super().__init__(**{**kwargs, "sp_model_kwargs": self.sp_model_kwargs, "backend": "sentencepiece"})
        self._update_trie(self.all_special_tokens)

    def _own_read(self, content: bytes) -> _Pieces:
        try:
            from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
        except ImportError as error:
            raise DependencyError(
                "sentencepiece is not installed", where=type(self).__name__, remedy="pip install sentencepiece"
            ) from error
        try:
            if not self.legacy:
                proto = vars(sentencepiece_model_pb2)["ModelProto"].FromString(content)
                proto.normalizer_spec.add_dummy_prefix = False
                content = proto.SerializeToString()
            read = cast("Callable[..., _Pieces]", SentencePieceProcessor)(**self.sp_model_kwargs)
            read.LoadFromSerializedProto(content)
        except Exception as error:  # each library has a kind of its own
            raise ConfigError("the file is no sentencepiece model", where=self.vocab_file, found=str(error)) from error
        return read

    @property
    def vocab_size(self) -> int:
        """The number of pieces."""
        return self.sp_model.get_piece_size()

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, added ones included."""
        pieces = {str(self.convert_ids_to_tokens(index)): index for index in range(self.vocab_size)}
        return {**pieces, **self.added_tokens_encoder}

    def _tokenize(self, text: str) -> list[str]:
        if self.legacy or not text.startswith((SPACE, " ")):
            return self.sp_model.encode(text, out_type=str)
        # Spaces at the beginning are stripped, unless something stands before them that is taken away again.
        start = str(self.unk_token)
        tokens = self.sp_model.encode(start + text, out_type=str)
        return tokens[len(self.sp_model.encode(start, out_type=str)) :]

    def _convert_token_to_id(self, token: str) -> int | None:
        return self.sp_model.piece_to_id(token)

    def _convert_id_to_token(self, index: int) -> str | None:
        return self.sp_model.id_to_piece(index) if index < self.vocab_size else None

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of pieces."""
        return "".join(tokens).replace(SPACE, " ").strip()

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the file, as it was read where it is still there.

        Raises:
            InputError: there is no such folder.
        """
        if not isinstance(save_directory, (str, os.PathLike)) or not os.path.isdir(save_directory):
            raise InputError("there is no such folder", where="save_directory", found=shown(save_directory))
        start = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / f"{start}{self.vocab_files_names['vocab_file']}"
        here = os.path.isfile(self.vocab_file)
        content = _content(self.vocab_file) if here else self.sp_model.serialized_model_proto()
        path.write_bytes(content)
        return (str(path),)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "sp_model": self.sp_model.serialized_model_proto()}

    def __setstate__(self, state: dict[str, object]) -> None:
        content = cast(bytes, state["sp_model"])
        vars(self).update({name: value for name, value in state.items() if name != "sp_model"})
        self.sp_model = self._own_read(content)


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RepoError("the file cannot be read", where=path, found=error.strerror) from error
