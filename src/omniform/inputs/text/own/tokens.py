"""The vocabulary of a tokenizer of the user's own: tokens and ids through its methods, special and added ones beside.

The attributes with an underscore have the ecosystem's names, since classes of users read and set them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Final, Protocol, cast

from tokenizers import AddedToken, decoders

from omniform.core.errors import InputError, MissingPartError, UnknownAttributeError, nearest
from omniform.inputs.text.ids import listed, read_id, shown
from omniform.inputs.text.options import read_flag, read_limit, read_names, read_side
from omniform.inputs.text.own.backend import OwnBackend
from omniform.inputs.text.own.trie import Trie
from omniform.inputs.text.scripted import Joiner
from omniform.inputs.text.settings import ChatTemplates, Side, templates_of
from omniform.inputs.text.special import NAMES, Token, token_text
from omniform.inputs.text.tokenizer import UNLIMITED, Tokenizer

_CHECKS: Final[Mapping[str, Callable[[object, str], object]]] = {
    "model_max_length": read_limit,
    "padding_side": read_side,
    "truncation_side": read_side,
    "model_input_names": read_names,
    "clean_up_tokenization_spaces": read_flag,
    "split_special_tokens": read_flag,
}
_EXTRA: Final = "extra_special_tokens"


class _Vocabulary(Protocol):
    def get_vocab(self) -> dict[str, int]: ...


class _Backed(Protocol):
    @property
    def backend_tokenizer(self) -> OwnBackend: ...


class Vocab:
    """The attribute ``vocab``, until the tokenizer sets one of its own."""

    def __get__(self, tokenizer: _Vocabulary, owner: type | None = None) -> dict[str, int]:
        return tokenizer.get_vocab()


class Decoder:
    """The attribute ``decoder``, until the tokenizer sets one of its own."""

    def __get__(self, tokenizer: _Backed, owner: type | None = None) -> decoders.Decoder | Joiner | None:
        return tokenizer.backend_tokenizer.decoder


class OwnTokens(Tokenizer):
    """Tokens and ids of a tokenizer of the user's own.

    Attributes:
        init_kwargs: what it was made with, which is saved with it.
        verbose: inert.
    """

    # Plain attributes in the place of what omniform's own classes have, since classes of users set them.
    is_fast = False
    vocab_files_names: ClassVar[dict[str, str]] = {}
    SPECIAL_TOKENS_ATTRIBUTES: list[str] = list(NAMES)  # type: ignore[assignment]  # noqa: RUF012
    model_input_names: list[str] = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side: Side = "right"
    truncation_side: Side = "right"
    model_max_length: int = UNLIMITED
    clean_up_tokenization_spaces: bool = False
    split_special_tokens: bool = False
    name_or_path: str = ""
    add_prefix_space: bool = False
    add_bos_token: bool = False
    add_eos_token: bool = False
    init_inputs: tuple[object, ...] = ()  # type: ignore[assignment]
    init_kwargs: dict[str, object] = {}  # noqa: RUF012
    chat_template: ChatTemplates = None
    _tokenizer: object = None  # type: ignore[assignment]
    vocab = Vocab()
    decoder = Decoder()

    def __init__(self, **kwargs: object) -> None:
        """What a class of the user's own calls once its vocabulary is there.

        Args:
            kwargs: special tokens by name, settings (``padding_side``, ``model_max_length``, ...), and whatever else
                is to be saved in ``tokenizer_config.json`` and given to the class when it is loaded.

        Raises:
            InputError: a special token or a setting is none.
            UnknownArgumentError: a keyword is the name of a method.
        """
        given = dict(kwargs)
        for name in given:
            if callable(_of_class(type(self), name)):
                raise UnknownAttributeError(
                    "the keyword is the name of a method", where=type(self).__name__, found=name
                )
        self.init_inputs: tuple[object, ...] = ()
        self.tokens_trie = Trie()
        self.total_vocab_size = 0
        self._pad_token_type_id = 0
        self.deprecation_warnings: dict[str, bool] = {}
        self._processor_class = given.get("processor_class")
        added = read_added(given.pop("added_tokens_decoder", None))
        self._added_tokens_decoder: dict[int, AddedToken] = {
            **read_added(vars(self).get("_added_tokens_decoder")), **added
        }  # fmt: skip
        self._added_tokens_encoder = {token.content: index for index, token in self._added_tokens_decoder.items()}
        self.token_type_ids_pattern = given.pop("token_type_ids_pattern", "bert_style")
        self.token_type_ids_include_special_tokens = given.pop("token_type_ids_include_special_tokens", True)
        self.special_tokens_pattern = given.pop("special_tokens_pattern", None)
        if "additional_special_tokens" in given and _EXTRA not in given:
            given[_EXTRA] = given.pop("additional_special_tokens")
        self.init_kwargs = copy.deepcopy({"backend": "custom", **given})
        self._own_take_tokens(given)
        self._own_take_settings(given)
        self._add_tokens(
            [token for token in self.all_special_tokens if token not in self._added_tokens_encoder],
            special_tokens=True,
        )

    def _own_take_tokens(self, given: dict[str, object]) -> None:
        """Name the special tokens that are among the keywords."""
        before = vars(self).get("_special_tokens_map", {})
        self._special_tokens_map: dict[str, Token | None] = {**dict.fromkeys(self.SPECIAL_TOKENS_ATTRIBUTES), **before}
        self._extra_special_tokens: list[Token] = []
        specific = given.pop("model_specific_special_tokens", None) or {}
        if not isinstance(specific, Mapping):
            raise InputError(
                "special tokens come by their names", where="model_specific_special_tokens", found=shown(specific)
            )
        found: dict[str, object] = {}
        for name in [*given]:
            if name in self.SPECIAL_TOKENS_ATTRIBUTES:
                value = given.pop(name)
                if value is not None:
                    self._special_tokens_map[name] = _token(value, name)
            elif name.endswith("_token") and isinstance(given[name], (str, AddedToken)):
                found[name] = given.pop(name)
        extra = given.pop(_EXTRA, None)
        if isinstance(extra, Mapping):
            found.update(extra)
        elif extra is not None:
            self._extra_special_tokens = [_token(token, _EXTRA) for token in _listed(extra, _EXTRA)]
        named = {str(name): _token(value, str(name)) for name, value in {**found, **specific}.items()}
        if named:
            self.SPECIAL_TOKENS_ATTRIBUTES = [*self.SPECIAL_TOKENS_ATTRIBUTES, *named]
            self._special_tokens_map.update(named)

    def _own_take_settings(self, given: Mapping[str, object]) -> None:
        kind = type(self).__name__
        where = given.get("name_or_path")
        self.name_or_path = "" if where is None else str(where)
        self.verbose = bool(given.get("verbose", False))
        limit = given.get("model_max_length", given.get("max_len"))
        self.model_max_length = UNLIMITED if limit is None else read_limit(limit, "model_max_length")
        for name in ("padding_side", "truncation_side", "model_input_names"):
            # Of the instance from now on, checked as each that is set later.
            setattr(self, name, given.get(name, _of_class(type(self), name)))
        for name in ("clean_up_tokenization_spaces", "split_special_tokens"):
            setattr(self, name, given.get(name, False))
        self.chat_template = templates_of(given.get("chat_template"), kind)

    # ---- attributes

    def __setattr__(self, name: str, value: object) -> None:
        bare = _bare(name)
        if bare in self.SPECIAL_TOKENS_ATTRIBUTES:
            if bare != name and value is not None:
                value = self.id_token(read_id(value, name))
            self.set_named_token(bare, None if value is None else _token(value, bare))
        elif bare in (_EXTRA, "additional_special_tokens"):
            tokens = [] if value is None else _listed(value, name)
            if bare != name:
                tokens = [self.id_token(read_id(token, name)) for token in tokens]
            self._extra_special_tokens = [_token(token, name) for token in tokens]
        elif name in _CHECKS:
            super().__setattr__(name, _CHECKS[name](value, name))
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> str | int | None:
        if _of_class(type(self), name) is not None:
            # A property has raised this: its own words say more.
            return object.__getattribute__(self, name)  # type: ignore[no-any-return]
        bare = _bare(name)
        if bare in self.SPECIAL_TOKENS_ATTRIBUTES:
            token = self.named_token(bare)
            return token if token is None or bare == name else self.token_id(token)
        if name == f"{_EXTRA}_ids":
            return self.convert_tokens_to_ids(self.extra_special_tokens)  # type: ignore[return-value]
        known = [one for one in (*dir(type(self)), *vars(self)) if not one.startswith("_")]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}. {nearest(name, known)}")

    @property
    def _named(self) -> dict[str, Token | None]:  # type: ignore[override]
        space: dict[str, dict[str, Token | None]] = vars(self)
        return space.setdefault("_special_tokens_map", {})

    @property
    def _extra(self) -> list[Token]:
        space: dict[str, list[Token]] = vars(self)
        return space.setdefault("_extra_special_tokens", [])

    @_extra.setter
    def _extra(self, tokens: list[Token]) -> None:
        self._extra_special_tokens = tokens

    @property
    def backend(self) -> OwnBackend:  # type: ignore[override]
        """What the rest of omniform asks for tokens and ids: this tokenizer, as a script."""
        return OwnBackend(self)

    @property
    def pad_token_type_id(self) -> int:  # type: ignore[override]
        """The type of what fills rows up; a class sets ``_pad_token_type_id`` to another."""
        return self._pad_token_type_id

    # ---- what the user's class says

    @property
    def vocab_size(self) -> int:
        """The size of the vocabulary without added tokens."""
        raise self._own_lacking("vocab_size", "@property\ndef vocab_size(self) -> int")

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, added ones included."""
        raise self._own_lacking("get_vocab", "def get_vocab(self) -> dict[str, int]")

    def _tokenize(self, text: str) -> list[str]:
        """The tokens of a text without added tokens."""
        raise self._own_lacking("_tokenize", "def _tokenize(self, text: str) -> list[str]")

    def _convert_token_to_id(self, token: str) -> int | None:
        """The id of a token, or of what stands for unknown ones."""
        raise self._own_lacking("_convert_token_to_id", "def _convert_token_to_id(self, token: str) -> int")

    def _convert_id_to_token(self, index: int) -> str | None:
        """The token of an id."""
        raise self._own_lacking("_convert_id_to_token", "def _convert_id_to_token(self, index: int) -> str")

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text that tokens stand for: they themselves, with spaces between."""
        return " ".join(tokens)

    def _own_lacking(self, name: str, how: str) -> MissingPartError:
        """The error for what a class of the user's own must have."""
        kind = type(self).__name__
        return MissingPartError(f"{kind} has no {name}", where=kind, expected=how, remedy=f"Define it in {kind}.")

    # ---- special and added tokens

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens by name."""
        named = ((name, self._named.get(name)) for name in self.SPECIAL_TOKENS_ATTRIBUTES)
        return {name: str(token) for name, token in named if token is not None}

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The added tokens and their ids."""
        return {token.content: index for index, token in sorted(self._added_tokens_decoder.items())}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by id; setting it adds to them."""
        return dict(sorted(self._added_tokens_decoder.items()))

    @added_tokens_decoder.setter
    def added_tokens_decoder(self, value: Mapping[int, Token]) -> None:
        for index, token in read_added(value).items():
            self._added_tokens_decoder[index] = token
            self._added_tokens_encoder[token.content] = index
        self._update_total_vocab_size()

    def get_added_vocab(self) -> dict[str, int]:
        """The added tokens and their ids."""
        return dict(self._added_tokens_encoder)

    def __len__(self) -> int:
        if self.total_vocab_size == 0:
            self._update_total_vocab_size()
        return self.total_vocab_size

    def _update_total_vocab_size(self) -> None:
        self.total_vocab_size = len(self.get_vocab())

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens to the vocabulary, behind its end; those that it holds keep their ids."""
        alone = isinstance(new_tokens, (str, AddedToken))
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else listed(new_tokens, "new_tokens")
        for index, token in enumerate(tokens):
            token_text(token, "new_tokens" if alone else f"new_tokens, token {index}")
        return self._add_tokens(tokens, special_tokens=read_flag(special_tokens, "special_tokens")) if tokens else 0

    def _add_tokens(self, new_tokens: Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens; how many the vocabulary lacked."""
        known = {**self.get_vocab(), **self._added_tokens_encoder}
        new = 0
        for token in new_tokens:
            text = token_text(token, "new_tokens")
            if not text or (isinstance(token, str) and text in self._added_tokens_encoder):
                continue
            made = self._own_flagged(token, special_tokens)
            if made.content not in known:
                known[made.content] = len(known)
                new += 1
            if made.special and made.content not in self.all_special_tokens:
                self._extra_special_tokens.append(made)
            self._added_tokens_decoder[known[made.content]] = made
            self._added_tokens_encoder[made.content] = known[made.content]
        self._update_trie()
        self._update_total_vocab_size()
        return new

    def _own_flagged(self, token: Token, special_tokens: bool) -> AddedToken:
        if isinstance(token, str):
            special = special_tokens or token in self.all_special_tokens
            made = AddedToken(token, rstrip=False, lstrip=False, normalized=not special, special=special)
        else:
            made = copy.copy(token)
            made.special = made.special or special_tokens
        lowers = vars(self).get("do_lower_case", _of_class(type(self), "do_lower_case"))
        if lowers and not made.special and made.normalized:
            made.content = made.content.lower()
        return made

    def _update_trie(self, unique_no_split_tokens: Iterable[str] | None = None) -> None:
        self.tokens_trie.update(token.content for token in self._added_tokens_decoder.values())
        self.tokens_trie.update(unique_no_split_tokens or ())

    # ---- tokens and ids

    def token_id(self, token: str) -> int | None:
        """A token's id; what the class says where the vocabulary lacks it."""
        return self._convert_token_to_id_with_added_voc(token_text(token, "token"))

    def id_token(self, index: int) -> str | None:
        """The token with an id."""
        added = self._added_tokens_decoder.get(read_id(index, "id"))
        return self._convert_id_to_token(int(index)) if added is None else added.content

    def _convert_token_to_id_with_added_voc(self, token: str) -> int | None:
        added = self._added_tokens_encoder.get(token)
        return self._convert_token_to_id(token) if added is None else added


def read_added(value: object) -> dict[int, AddedToken]:
    """Added tokens by their ids.

    Raises:
        InputError: they are none.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError("added tokens come by their ids", where="added_tokens_decoder", found=shown(value))
    found = {}
    for index, token in value.items():
        where = f"added_tokens_decoder: {shown(index)}"
        text = token_text(token, where)
        found[read_id(index, where)] = token if isinstance(token, AddedToken) else AddedToken(text)
    return found


def _token(value: object, where: str) -> Token:
    text = token_text(value, where)
    return value if isinstance(value, AddedToken) else text


def is_overridden(tokenizer: object, base: type, name: str) -> bool:
    """Whether a tokenizer's class has written a method of one of its bases anew."""
    return _of_class(type(tokenizer), name) is not _of_class(base, name)


def _listed(value: object, where: str) -> list[object]:
    return listed(cast("Iterable[object]", value), where)


def _bare(name: str) -> str:
    return name.removesuffix("_ids").removesuffix("_id")


def _of_class(kind: type, name: str) -> object:
    """What a class has under a name; ``None`` where it has nothing."""
    return next((vars(one)[name] for one in kind.__mro__ if name in vars(one)), None)
