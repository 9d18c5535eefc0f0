"""The vocabulary of a tokenizer and its special tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from tokenizers import AddedToken, decoders

from omniform.core.errors import InputError, nearest
from omniform.inputs.text.backend import guarded
from omniform.inputs.text.ids import is_row, listed, read_id, read_ids, shown
from omniform.inputs.text.options import read_flag
from omniform.inputs.text.scripted import Joiner, Machinery
from omniform.inputs.text.special import NAMES, NamedToken, NamedTokenId, Token, token_text


class TokenTable:
    """Tokens and ids, both ways; which tokens are special, by name and without.

    Attributes:
        backend: the tokenizer proper.
    """

    backend: Machinery
    bos_token, bos_token_id = NamedToken(), NamedTokenId()
    eos_token, eos_token_id = NamedToken(), NamedTokenId()
    unk_token, unk_token_id = NamedToken(), NamedTokenId()
    sep_token, sep_token_id = NamedToken(), NamedTokenId()
    pad_token, pad_token_id = NamedToken(), NamedTokenId()
    cls_token, cls_token_id = NamedToken(), NamedTokenId()
    mask_token, mask_token_id = NamedToken(), NamedTokenId()

    SPECIAL_TOKENS_ATTRIBUTES = NAMES
    _refused: ClassVar[Mapping[str, str]] = {}
    pad_token_type_id = 0

    def _begin_table(self, backend: Machinery, named: Mapping[str, Token | None], extra: Sequence[Token]) -> None:
        self.backend = backend
        self._named: dict[str, Token | None] = {**dict.fromkeys(NAMES), **named}
        self._extra: list[Token] = list(extra)

    def named_token(self, name: str) -> str | None:
        """A special token by its name, ``"pad_token"`` or ``"image_token"``; ``None`` where there is none."""
        token = self._named.get(name) if isinstance(name, str) else None
        return None if token is None else str(token)

    def set_named_token(self, name: str, value: Token | None) -> None:
        """Name a special token; it should be in the vocabulary (see :meth:`add_special_tokens`).

        Raises:
            InputError: it is neither text nor ``None``.
        """
        if not isinstance(name, str) or not (name in self._named or name.endswith("_token")):
            raise InputError(
                "this is no name of a special token",
                where="name",
                expected="'pad_token' or the like",
                found=shown(name),
            )
        if value is not None:
            token_text(value, name)
        self._named[name] = value

    def __getattr__(self, name: str) -> str | int | None:
        # Special tokens of this model alone: image_token, image_token_id.
        specific = self.__dict__.get("_named", {})
        if name in specific:
            return self.named_token(name)
        token = self.named_token(name.removesuffix("_id")) if name.removesuffix("_id") in specific else None
        if token is not None:
            return self.token_id(token)
        if name in self._refused:
            raise AttributeError(f"this tokenizer has no {name!r}: {self._refused[name]}")
        known = [known for known in dir(type(self)) if not known.startswith("_")]
        raise AttributeError(f"this tokenizer has no {name!r}. {nearest(name, [*known, *specific])}")

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens by name."""
        return {name: str(token) for name, token in self._named.items() if token is not None}

    @property
    def extra_special_tokens(self) -> list[str]:
        """Special tokens without a name."""
        return [str(token) for token in self._extra]

    @property
    def additional_special_tokens(self) -> list[str]:
        """The older name of :attr:`extra_special_tokens`."""
        return self.extra_special_tokens

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once: the named ones, then the others."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of :attr:`all_special_tokens`."""
        return [index for token in self.all_special_tokens if (index := self.token_id(token)) is not None]

    @property
    def vocab_size(self) -> int:
        """The size of the vocabulary without added tokens; ``len(tokenizer)`` counts them."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, added ones included."""
        return self.backend.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """Every token and its id, added ones included."""
        return self.get_vocab()

    @property
    def backend_tokenizer(self) -> Machinery:
        """The ecosystem's name of :attr:`backend`."""
        return self.backend

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The added tokens and their ids."""
        return self.get_added_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by id."""
        return self.backend.get_added_tokens_decoder()

    def get_added_vocab(self) -> dict[str, int]:
        """The added tokens and their ids."""
        return {token.content: index for index, token in sorted(self.added_tokens_decoder.items())}

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens to the vocabulary, behind its end; those that it holds keep their ids.

        Returns:
            How many were added.
        """
        alone = isinstance(new_tokens, (str, AddedToken))
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else listed(new_tokens, "new_tokens")
        for index, token in enumerate(tokens):
            token_text(token, "new_tokens" if alone else f"new_tokens, token {index}")
        special_tokens = read_flag(special_tokens, "special_tokens")
        with guarded("the tokens cannot be added"):
            if self.backend.normalizer is not None:
                # A backend that panics while it adds tokens can never be used again; this way it panics before.
                for token in tokens:
                    self.backend.normalizer.normalize_str(str(token))
            return self.backend.add_special_tokens(tokens) if special_tokens else self.backend.add_tokens(tokens)

    def add_special_tokens(
        self, special_tokens: Mapping[str, Token | Sequence[Token]], replace_extra_special_tokens: bool = True
    ) -> int:
        """Name special tokens, and add those that the vocabulary lacks.

        Args:
            special_tokens: names (``"pad_token"``) to tokens; ``"extra_special_tokens"``, or its older name
                ``"additional_special_tokens"``, to a list of them.
            replace_extra_special_tokens: whether that list replaces the present one.

        Returns:
            How many were added to the vocabulary.

        Raises:
            InputError: a name is unknown, or a token is no text.
        """
        if not isinstance(special_tokens, Mapping):
            raise InputError("special tokens come by their names", where="special_tokens", found=shown(special_tokens))
        replace_extra_special_tokens = read_flag(replace_extra_special_tokens, "replace_extra_special_tokens")
        new: list[Token] = []
        for name, value in special_tokens.items():
            if name in ("extra_special_tokens", "additional_special_tokens"):
                given: list[Token] = [_special(token, name) for token in listed(_many(value, name), name)]
                if not replace_extra_special_tokens:
                    given = [token for token in given if str(token) not in self.extra_special_tokens]
                self._extra = given if replace_extra_special_tokens and given else [*self._extra, *given]
                new += given
            elif name in self._named:
                token = _special(value, name)
                self._named[name] = token
                new.append(token)
            else:
                raise InputError("there is no such special token", where=shown(name), remedy=nearest(name, self._named))
        return self.add_tokens(new, special_tokens=True) if new else 0

    def token_id(self, token: str) -> int | None:
        """A token's id; that of ``unk_token``, or ``None``, where the vocabulary lacks it."""
        index = self.backend.token_to_id(token_text(token, "token"))
        if index is None and self.unk_token is not None and token != self.unk_token:
            return self.token_id(self.unk_token)
        return index

    def id_token(self, index: int) -> str | None:
        """The token with an id, or ``None``."""
        return self.backend.id_to_token(read_id(index, "id"))

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int | None] | None:
        """The ids of tokens, as :meth:`token_id` gives them."""
        if isinstance(tokens, str):
            return self.token_id(tokens)
        return [self.token_id(token) for token in listed(tokens, "tokens")]

    def convert_ids_to_tokens(
        self, ids: int | Sequence[int] | torch.Tensor, skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """The tokens with these ids; ``None`` where there is none."""
        if not is_row(ids):
            return self.id_token(read_id(ids, "ids"))
        skip = set(self.all_special_ids) if read_flag(skip_special_tokens, "skip_special_tokens") else set()
        return [self.id_token(index) for index in read_ids(ids) if index not in skip]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text that tokens stand for."""
        decoder: decoders.Decoder | Joiner | None = self.backend.decoder
        texts = [token_text(token, f"token {index}") for index, token in enumerate(listed(tokens, "tokens"))]
        with guarded("the tokens cannot be joined"):
            return " ".join(texts) if decoder is None else decoder.decode(texts)


def _many(value: Token | Sequence[Token], name: str) -> Sequence[Token]:
    if isinstance(value, (str, AddedToken)):
        raise InputError("this takes a list of tokens", where=name, found=shown(value))
    return value


def _special(value: object, name: str) -> AddedToken:
    if isinstance(value, AddedToken):
        return value
    return AddedToken(token_text(value, name), rstrip=False, lstrip=False, normalized=False, special=True)
