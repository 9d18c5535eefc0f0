"""A tokenizer of the user's own as the rest of omniform sees one: what knows tokens and ids, and no places in texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from tokenizers import AddedToken, Encoding

from omniform.core.errors import MissingPartError
from omniform.inputs.text.scripted import Cut, Scripted, encoding_of
from omniform.inputs.text.special import Token


class Owner(Protocol):
    """What is asked of a tokenizer of the user's own."""

    @property
    def vocab_size(self) -> int: ...

    def __len__(self) -> int: ...

    def get_vocab(self) -> dict[str, int]: ...

    def get_added_vocab(self) -> dict[str, int]: ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...

    def add_tokens(self, new_tokens: Sequence[Token], special_tokens: bool = False) -> int: ...

    def token_id(self, token: str) -> int | None: ...

    def id_token(self, index: int) -> str | None: ...

    def tokenize(self, text: str) -> list[str]: ...

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str: ...

    def num_special_tokens_to_add(self, pair: bool = False) -> int: ...

    def build_inputs_with_special_tokens(self, token_ids_0: list[int]) -> list[int]: ...

    def save_vocabulary(self, save_directory: str) -> object: ...


class OwnScript:
    """A script made of the methods of a user's class."""

    lowers = False
    once: str | None = None
    unsplit: tuple[str, ...] = ()

    def __init__(self, owner: Owner) -> None:
        self.owner = owner

    @property
    def size(self) -> int:
        return self.owner.vocab_size

    def vocabulary(self) -> dict[str, int]:
        """Tokens and their ids, without added ones."""
        added = self.owner.get_added_vocab()
        return {token: index for token, index in self.owner.get_vocab().items() if token not in added}

    def holds(self, token: str) -> bool:
        """Whether a token is of the vocabulary."""
        return token in self.owner.get_vocab()

    def id_of(self, token: str) -> int | None:
        """The id of a token."""
        return self.owner.token_id(token)

    def token_of(self, index: int) -> str | None:
        """The token of an id."""
        return self.owner.id_token(index)

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        """The tokens of a text; the class does not say where they stand."""
        return [Cut(token, 0, 0) for token in self.owner.tokenize(text)]

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        """The text of tokens."""
        return self.owner.convert_tokens_to_string(list(tokens))

    def files(self) -> dict[str, str | bytes]:
        """The vocabulary's files."""
        with TemporaryDirectory() as folder:
            self.owner.save_vocabulary(folder)
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


class OwnBackend(Scripted):
    """What a ``tokenizers.Tokenizer`` is for other kinds, of a user's class; it keeps nothing itself.

    Args:
        owner: the tokenizer.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        super().__init__(OwnScript(owner), dict(owner.added_tokens_decoder))

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Tokens and their ids."""
        return self.owner.get_vocab() if with_added_tokens else self.script.vocabulary()

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """How many tokens there are."""
        return len(self.owner) if with_added_tokens else self.owner.vocab_size

    def add_special_tokens(self, tokens: Sequence[Token]) -> int:
        """Add tokens as special ones; how many the vocabulary lacked."""
        return self.owner.add_tokens(tokens, special_tokens=True)

    def add_tokens(self, tokens: Sequence[Token]) -> int:
        """Add tokens; how many the vocabulary lacked."""
        return self.owner.add_tokens(tokens)

    def forget(self, ids: set[int]) -> None:
        """A class of the user's own keeps what was added."""
        raise MissingPartError("a tokenizer of your own keeps its added tokens", where=type(self.owner).__name__)

    def num_special_tokens_to_add(self, pair: bool) -> int:
        """How many tokens frame a text, or a pair."""
        return self.owner.num_special_tokens_to_add(pair)

    def cut(self, text: str) -> list[Cut]:
        """The tokens of a text."""
        return self.script.cut(text, ())

    def encode_batch(
        self, rows: Sequence[object], is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> list[Encoding]:
        """Encode texts; pairs and words are for the tokenizer itself."""
        if is_pretokenized or not all(isinstance(row, str) for row in rows):
            raise MissingPartError(
                "pairs and words are encoded by the tokenizer itself", where=type(self.owner).__name__
            )
        return [self.encode(str(row), add_special_tokens) for row in rows]

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """Encode one text; where its tokens stand is not known."""
        ids = [self._id(cut.token) for cut in self.cut(text)]
        framed = self.owner.build_inputs_with_special_tokens(ids) if add_special_tokens else ids
        return encoding_of(framed, 0, tokens=[self.id_to_token(index) or "" for index in framed])
