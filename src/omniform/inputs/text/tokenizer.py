"""The tokenizer: text to token ids and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from threading import Lock
from typing import ClassVar, Self, TypeVar, Unpack, cast

import torch
from tokenizers import Encoding, models, processors

from omniform.core.errors import InputError
from omniform.core.upstairs import upstairs
from omniform.inputs.text import train
from omniform.inputs.text.backend import Asked, encode_rows, guarded
from omniform.inputs.text.encoding import BatchEncoding, Ids, input_ids
from omniform.inputs.text.habits import read_inert
from omniform.inputs.text.ids import read_id_rows
from omniform.inputs.text.names import GENERIC
from omniform.inputs.text.options import (
    Checked,
    EncodeOptions,
    Limits,
    check_options,
    read_flag,
    read_limit,
    read_limits,
    read_names,
    read_side,
)
from omniform.inputs.text.padding import Filler, pad_rows
from omniform.inputs.text.pickled import attributes_of, state_of
from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.rows import read_rows
from omniform.inputs.text.saving import Saving
from omniform.inputs.text.scripted import Machinery, Scripted
from omniform.inputs.text.settings import ChatTemplates, Settings
from omniform.inputs.text.special import Token

Value = TypeVar("Value")

UNLIMITED = int(1e30)
"""The ``model_max_length`` of a tokenizer that knows no limit."""


class Tokenizer(Saving):
    """Text to token ids and back, as ``tokenizers`` does it underneath.

    :meth:`from_pretrained` loads one; ``omniform.AutoTokenizer`` chooses the class.
    """

    is_fast = True
    model_max_length = Checked(read_limit)
    padding_side = Checked(read_side)
    truncation_side = Checked(read_side)
    model_input_names = Checked(read_names)
    clean_up_tokenization_spaces = Checked(read_flag)
    split_special_tokens = Checked(read_flag)
    recipe_name: ClassVar[str] = GENERIC
    """The class that files call it by."""

    def __init__(
        self,
        vocab: str | os.PathLike[str] | Mapping[str, int] | Sequence[tuple[str, float]] | None = None,
        merges: str | os.PathLike[str] | Sequence[str | tuple[str, str]] | None = None,
        **given: object,
    ) -> None:
        """A tokenizer of what is at hand; :meth:`from_pretrained` reads a folder.

        Args:
            vocab: the vocabulary: its file, tokens with their ids, or pieces with their scores.
            merges: the merges of a BPE: their file, or the pairs.
            given: ``tokenizer_object``, a ``tokenizers.Tokenizer``, of which a copy is taken; or ``tokenizer_file``,
                ``vocab_file``, ``merges_file``; and settings: ``pad_token="<pad>"``, ``padding_side="left"``, ...

        Raises:
            InputError: there is no vocabulary, or it is none.
            ConfigError: a file is malformed, or a setting is not supported.
            UnknownArgumentError: a keyword that is neither; a class of the user's own may hand on any, which are saved.
        """
        # The reader of files knows every class of tokenizer, this one too.
        from omniform.inputs.text.construct import parts_of

        built = vars(self).get("backend")
        if built is not None:
            # A class of the user's own has made its tokenizer before it calls this.
            given["tokenizer_object"] = built
        self._begin(*parts_of(self.recipe_name, vocab, merges, given, is_own(type(self))))

    @classmethod
    def made_of(
        cls,
        backend: Machinery,
        recipe: Recipe,
        settings: Settings,
        post_processor: processors.PostProcessor | None = None,
    ) -> Self:
        """A tokenizer of what was read.

        Args:
            backend: the tokenizer proper.
            recipe: the kind of tokenizer it is.
            settings: what the folder's files say besides.
            post_processor: the framing of texts that the folder's ``tokenizer.json`` holds.
        """
        made = cls.__new__(cls)
        made._begin(backend, recipe, settings, post_processor)
        return made

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object) -> Self:
        """Load a tokenizer of this class from a folder or a Hub id; see :meth:`omniform.AutoTokenizer.from_pretrained`.

        A class is made by its own recipe, whatever the files say.
        """
        load = upstairs("hub.auto_inputs:load_tokenizer")
        return cast(Self, load(pretrained_model_name_or_path, cls, **kwargs))

    def _begin(
        self,
        backend: Machinery,
        recipe: Recipe,
        settings: Settings,
        post_processor: processors.PostProcessor | None,
    ) -> None:
        extra = settings.additional if settings.extra is None else settings.extra
        self._begin_table(backend, {**settings.named, **settings.specific}, extra or [])
        self.recipe = recipe
        self.settings = settings
        self._turn = Lock()
        if post_processor is not None:
            backend.post_processor = post_processor
        limit = settings.integer("model_max_length")
        limit = settings.integer("max_len") if limit is None else limit
        self.model_max_length = UNLIMITED if limit is None else limit
        self.padding_side = settings.side("padding_side", said_by(type(self), "padding_side", recipe.padding_side))
        self.truncation_side = settings.side("truncation_side", said_by(type(self), "truncation_side", "right"))
        inputs = said_by(type(self), "model_input_names", [*recipe.inputs])
        self.model_input_names = settings.strings("model_input_names") or inputs
        self.clean_up_tokenization_spaces = settings.flag("clean_up_tokenization_spaces", False)
        self.split_special_tokens = settings.flag("split_special_tokens", False)
        self.chat_template: ChatTemplates = settings.templates
        # Clean-up is made for WordPiece and would eat spaces that byte-level BPE means.
        forced = settings.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
        self._may_clean_up = forced or not isinstance(backend.model, models.BPE)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self.split_special_tokens
        self._begin_framing()

    @property
    def _tokenizer(self) -> Machinery:
        """The ecosystem's name of :attr:`backend`, which a class of the user's own may make itself."""
        return self.backend

    @_tokenizer.setter
    def _tokenizer(self, value: Machinery) -> None:
        self.backend = value

    @property
    def name_or_path(self) -> str:
        """Where the tokenizer is from."""
        return self.settings.where

    def __getstate__(self) -> dict[str, object]:
        with self._turn:
            return state_of(vars(self))

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(attributes_of(state), _turn=Lock())

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.recipe.name}, {len(self)} tokens, model_max_length={self.model_max_length}, "
            f"padding_side={self.padding_side!r}, special_tokens={self.special_tokens_map})"
        )

    # ---- encoding

    def __call__(
        self,
        text: object = None,
        text_pair: object = None,
        text_target: object = None,
        text_pair_target: object = None,
        **options: Unpack[EncodeOptions],
    ) -> BatchEncoding:
        """Encode texts.

        Args:
            text: a text, or a list of texts or of pairs of them.
            text_pair: the second texts, as many.
            text_target: what a sequence-to-sequence model is to answer; its ids become ``labels``.
            text_pair_target: second texts of the targets.
            options: see :class:`~omniform.inputs.text.options.EncodeOptions`.

        Returns:
            ``input_ids``, and by default what the model takes besides (``attention_mask``, ``token_type_ids``): one
            list per row; bare for a single text without ``return_tensors``. With it, ``[rows, tokens]``.

        Raises:
            InputError: a row is no text, padding is asked for without a pad token, or rows cannot be cut as asked.
            UnknownArgumentError: an option does not exist.
        """
        if text is None and text_target is None:
            raise InputError("there is no text to encode", where="text", found="None")
        check_options("Tokenizer()", options)
        encoded = None if text is None else self._encode(text, text_pair, options, "text")
        if text_target is None and encoded is not None:
            return encoded
        target = self._encode(text_target, text_pair_target, options, "text_target")
        if encoded is None:
            return target
        encoded["labels"] = target["input_ids"]
        return encoded

    def _encode(self, text: object, text_pair: object, options: EncodeOptions, argument: str) -> BatchEncoding:
        rows, many = read_rows(text, text_pair, options.get("is_split_into_words", False), argument)
        found = encode_rows(self.backend, self._turn, rows, self._limits(options), self._asked(options))
        overflow = options.get("return_overflowing_tokens", False)
        if overflow:
            sources = [index for index, encoding in enumerate(found) for _ in range(1 + len(encoding.overflowing))]
            found = [part for encoding in found for part in (encoding, *encoding.overflowing)]
        data: dict[str, object] = {"input_ids": [encoding.ids for encoding in found]}
        for name, option, read in _COLUMNS:
            asked = options.get(option)
            if asked or (asked is None and name in self.model_input_names):
                data[name] = [read(encoding) for encoding in found]
        if overflow:
            data["overflow_to_sample_mapping"] = sources
        kind = options.get("return_tensors")
        if not many and kind is None and not overflow:
            data = {name: value[0] if name != "length" else value for name, value in data.items()}  # type: ignore[index]
        return BatchEncoding(data, found).as_tensors(kind)

    def _limits(self, options: EncodeOptions) -> Limits:
        return read_limits(
            options,
            model_max_length=self.model_max_length,
            padding_side=self.padding_side,
            has_pad_token=self.pad_token_id is not None,
        )

    def _asked(self, options: EncodeOptions) -> Asked:
        split = options.get("split_special_tokens")
        return Asked(
            framed=options.get("add_special_tokens", True),
            in_words=options.get("is_split_into_words", False),
            split_special=self.split_special_tokens if split is None else split,
            side=self.truncation_side,
            overflow=options.get("return_overflowing_tokens", False),
            pad_id=self.pad_token_id or 0,
            pad_token=self.pad_token or "",
        )

    def encode(self, text: object, text_pair: object = None, **options: Unpack[EncodeOptions]) -> Ids:
        """The ids of one text; see :meth:`__call__`."""
        check_options("Tokenizer.encode", options)
        return input_ids(self._encode(text, text_pair, options, "text"))

    def tokenize(self, text: object, pair: object = None, **options: Unpack[EncodeOptions]) -> list[str]:
        """The tokens of one text, without special ones unless ``add_special_tokens=True``."""
        check_options("Tokenizer.tokenize", options)
        return self._encode(text, pair, {"add_special_tokens": False, **options}, "text").tokens()

    def pad(
        self,
        encoded_inputs: Mapping[str, object] | Sequence[Mapping[str, object]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Bring rows of ids to one length; columns other than ids, types and masks are left as they are.

        Args:
            encoded_inputs: a list of rows by name, or names to lists of rows; numbers, arrays or tensors.
            padding: as for :meth:`__call__`; so are the others.
        """
        options: EncodeOptions = {"padding": padding, "max_length": max_length, "padding_side": padding_side}
        limits = self._limits({**options, "pad_to_multiple_of": pad_to_multiple_of, "truncation": False})
        if return_attention_mask is not None:
            return_attention_mask = read_flag(return_attention_mask, "return_attention_mask")
        main = self.model_input_names[0]
        values = {main: self.pad_token_id, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
        add_mask = (
            "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask
        )
        return pad_rows(encoded_inputs, limits, Filler(main, values, add_mask), return_tensors)

    # ---- decoding

    def decode(
        self,
        token_ids: int | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool | None = None,
    ) -> str | list[str]:
        """The text of ids; a list of texts for rows of ids.

        Args:
            token_ids: ids, rows of them, or a tensor of either.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: close the spaces before punctuation; by default as the folder says.
            spaces_between_special_tokens: inert; tokens are joined as the tokenizer has it.

        Raises:
            InputError: an id is no whole number from 0.
        """
        read_inert(spaces_between_special_tokens, "spaces_between_special_tokens")
        rows, many = read_id_rows(token_ids)
        asked = (skip_special_tokens, clean_up_tokenization_spaces)
        texts = [self._decode(row, *asked) for row in rows]
        return texts if many else texts[0]

    def batch_decode(
        self,
        sequences: Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool | None = None,
    ) -> list[str]:
        """The texts of rows of ids; see :meth:`decode`."""
        read_inert(spaces_between_special_tokens, "spaces_between_special_tokens")
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of one row; the names are the ecosystem's, since classes of users write it anew."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        skip_special_tokens = read_flag(skip_special_tokens, "skip_special_tokens")
        if skip_special_tokens and isinstance(self.backend, Scripted):
            special = set(self.all_special_ids)
            ids = [index for index in ids if index not in special]
        with guarded("the ids cannot be decoded"):
            text = self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        if self.recipe.steps is not None and self.recipe.steps.joint is not None:
            text = text.replace(self.recipe.steps.joint, " ").strip()
        return self._tidy(text, clean_up_tokenization_spaces)

    def _tidy(self, text: str, clean_up: bool | None) -> str:
        """Close the spaces before punctuation, where that is asked for."""
        if clean_up is not None:
            clean_up = read_flag(clean_up, "clean_up_tokenization_spaces")
        if (self.clean_up_tokenization_spaces if clean_up is None else clean_up) and self._may_clean_up:
            return self.clean_up_tokenization(text)
        return text

    # ---- another vocabulary

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str] | Iterable[Sequence[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[Token] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **kwargs: object,
    ) -> Self:
        """A tokenizer of the same kind, steps and special tokens, whose vocabulary is trained on other texts.

        Args:
            text_iterator: texts, or lists of texts.
            vocab_size: the number of tokens to end with, special ones included; few texts give fewer.
            length: how many texts there are, where that is known.
            new_special_tokens: special tokens besides those that it has.
            special_tokens_map: new names of special tokens, by the old ones.
            kwargs: options of the trainer of the ``tokenizers`` package: ``min_frequency``, ``limit_alphabet``, ...

        Raises:
            InputError: an argument has a wrong type or value, or the texts do not make such a vocabulary.
            UnknownArgumentError: the trainer has no such option.
        """
        if isinstance(self.backend, Scripted):
            raise InputError(
                "tokenizers of this class have no vocabulary that could be trained", where=type(self).__name__
            )
        new, names = train.read_new_tokens(new_special_tokens), train.read_names(special_tokens_map)
        with self._turn:
            made = train.trained(self.backend, text_iterator, vocab_size, length, new, names, kwargs)
        named = {name: None if token is None else train.renamed(names, token) for name, token in self._named.items()}
        settings = Settings(
            where=self.settings.where,
            values={**self.settings.values, **self._changeable()},
            named=named,
            extra=[*self._extra, *new],
            templates=self.chat_template,
        )
        return self.made_of(made, self.recipe, settings, made.post_processor)

    # ---- files

    def _changeable(self) -> dict[str, object]:
        """The settings that are attributes, as they now are."""
        # A side that nobody chose is not written: it would overrule the usual one of a processor that reads the file.
        # A kind that usually pads on the left says so: read back from its new file, it may be another kind.
        usual = self.recipe.padding_side
        chosen = "padding_side" in self.settings.values or self.padding_side != usual or usual == "left"
        return {
            "model_max_length": self.model_max_length,
            **({"padding_side": self.padding_side} if chosen else {}),
            "truncation_side": self.truncation_side,
            "model_input_names": self.model_input_names,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "split_special_tokens": self.split_special_tokens,
        }


def is_own(kind: type[Tokenizer]) -> bool:
    """Whether a class is the user's own, and none of those that files call by a name."""
    return "recipe_name" not in vars(kind)


def said_by(kind: type[Tokenizer], name: str, default: Value) -> Value:
    """A setting that a class of the user's own gives as an attribute of the class; else the default."""
    own = (vars(one)[name] for one in takewhile(is_own, kind.__mro__) if name in vars(one))
    value: Value = next(own, default)
    return value


_COLUMNS: tuple[tuple[str, str, Callable[[Encoding], object]], ...] = (
    ("token_type_ids", "return_token_type_ids", lambda encoding: encoding.type_ids),
    ("attention_mask", "return_attention_mask", lambda encoding: encoding.attention_mask),
    ("special_tokens_mask", "return_special_tokens_mask", lambda encoding: encoding.special_tokens_mask),
    ("offset_mapping", "return_offsets_mapping", lambda encoding: encoding.offsets),
    ("length", "return_length", lambda encoding: len(encoding.ids)),
)
