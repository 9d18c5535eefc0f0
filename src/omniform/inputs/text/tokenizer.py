"""The tokenizer: text to token ids and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from tokenizers import AddedToken, Encoding, decoders, models, processors
from tokenizers import Tokenizer as Backend

from omniform.core.errors import ConfigError, InputError, nearest
from omniform.inputs.text import save
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.ids import read_id, read_id_rows, read_ids
from omniform.inputs.text.options import EncodeOptions, Limits, check_options, read_limits
from omniform.inputs.text.padding import Filler, pad_rows
from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.rows import Row, read_rows
from omniform.inputs.text.settings import ChatTemplates, Settings, Side
from omniform.inputs.text.special import NAMES, NamedToken, NamedTokenId, Token

UNLIMITED = int(1e30)
"""The ``model_max_length`` of a tokenizer that knows no limit."""

_APART = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Tokenizer:
    """Text to token ids and back, as ``tokenizers`` does it underneath.

    Build one with :func:`omniform.inputs.text.load.tokenizer_from_files`.

    Args:
        backend: the tokenizer proper.
        recipe: the kind of tokenizer it is.
        settings: what the folder's files say besides.
        post_processor: the framing of texts that the folder's ``tokenizer.json`` holds.
    """

    bos_token, bos_token_id = NamedToken(), NamedTokenId()
    eos_token, eos_token_id = NamedToken(), NamedTokenId()
    unk_token, unk_token_id = NamedToken(), NamedTokenId()
    sep_token, sep_token_id = NamedToken(), NamedTokenId()
    pad_token, pad_token_id = NamedToken(), NamedTokenId()
    cls_token, cls_token_id = NamedToken(), NamedTokenId()
    mask_token, mask_token_id = NamedToken(), NamedTokenId()

    def __init__(
        self,
        backend: Backend,
        recipe: Recipe,
        settings: Settings,
        post_processor: processors.PostProcessor | None = None,
    ) -> None:
        self.backend = backend
        self.recipe = recipe
        self.settings = settings
        if post_processor is not None:
            backend.post_processor = post_processor
        self._named: dict[str, Token | None] = {**dict.fromkeys(NAMES), **settings.named, **settings.specific}
        extra = settings.additional if settings.extra is None else settings.extra
        self._extra: list[Token] = list(extra or [])
        limit = settings.integer("model_max_length")
        limit = settings.integer("max_len") if limit is None else limit
        self.model_max_length = UNLIMITED if limit is None else limit
        self.padding_side: Side = settings.side("padding_side", recipe.padding_side)
        self.truncation_side: Side = settings.side("truncation_side", "right")
        self.model_input_names = settings.strings("model_input_names") or list(recipe.inputs)
        self.clean_up_tokenization_spaces = settings.flag("clean_up_tokenization_spaces", False)
        self.split_special_tokens = settings.flag("split_special_tokens", False)
        self.chat_template: ChatTemplates = settings.templates
        self._add_bos = settings.flag("add_bos_token", False)
        self._add_eos = settings.flag("add_eos_token", False)
        # Clean-up is made for WordPiece and would eat spaces that byte-level BPE means.
        forced = settings.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
        self._may_clean_up = forced or not isinstance(backend.model, models.BPE)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self.split_special_tokens
        self._add_missing_tokens()
        asked = "add_bos_token" in settings.values or "add_eos_token" in settings.values
        if asked or backend.post_processor is None:
            self._frame_with_bos_eos()
        self._frame()

    # ---- special tokens and the vocabulary

    def _add_missing_tokens(self) -> None:
        tokens: list[Token] = [token for _, token in sorted(self.settings.added.items())]
        known = {*self.get_added_vocab(), *(str(token) for token in tokens)}
        for token in [*self._named.values(), *self._extra]:
            if token is not None and str(token) not in known and token not in tokens:
                tokens.append(token)
        named = {str(token) for token in self._named.values() if token}
        ready = []
        for token in tokens:
            if isinstance(token, str):
                token = AddedToken(token, special=True)
            elif str(token) in named:
                token.special = True
            ready.append(token)
        if ready:
            self.backend.add_tokens(ready)

    def _frame_with_bos_eos(self) -> None:
        """Frame texts as ``add_bos_token`` and ``add_eos_token`` say."""
        bos, eos = self.bos_token, self.eos_token
        self._add_bos = self._add_bos and bos is not None
        self._add_eos = self._add_eos and eos is not None
        start, end = f"{bos}:{{0}} " if self._add_bos else "", f" {eos}:{{0}}" if self._add_eos else ""
        single, second = (f"{start}${part}:{{0}}{end}".format(index) for index, part in enumerate("AB"))
        used = [(bos, self.bos_token_id)] * self._add_bos + [(eos, self.eos_token_id)] * self._add_eos
        special = [(token, index) for token, index in used if token is not None and index is not None]
        if len(special) < len(used):
            raise ConfigError("a token that frames each text is not in the vocabulary", where=self.settings.where)
        self.backend.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} {second}", special_tokens=special
        )

    def _frame(self) -> None:
        if self.recipe.frame is not None:
            self.backend.post_processor = self.recipe.frame(self, self.settings.where)

    @property
    def add_bos_token(self) -> bool:
        """Whether each text begins with ``bos_token``; setting it replaces the tokenizer's framing of texts."""
        return self._add_bos

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._add_bos = value
        self._frame_with_bos_eos()

    @property
    def add_eos_token(self) -> bool:
        """Whether each text ends with ``eos_token``; setting it replaces the tokenizer's framing of texts."""
        return self._add_eos

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._add_eos = value
        self._frame_with_bos_eos()

    def named_token(self, name: str) -> str | None:
        """A special token by its name, ``"pad_token"`` or ``"image_token"``; ``None`` where there is none."""
        token = self._named.get(name)
        return None if token is None else str(token)

    def set_named_token(self, name: str, value: Token | None) -> None:
        """Name a special token; it should be in the vocabulary (see :meth:`add_special_tokens`).

        Raises:
            InputError: it is neither text nor ``None``.
        """
        if value is not None and not isinstance(value, (str, AddedToken)):
            raise InputError("a special token is text", where=name, found=f"{value!r} ({type(value).__name__})")
        self._named[name] = value

    def __getattr__(self, name: str) -> str | int | None:
        # Special tokens of this model alone: image_token, image_token_id.
        specific = self.__dict__.get("_named", {})
        if name in specific:
            return self.named_token(name)
        token = self.named_token(name.removesuffix("_id")) if name.removesuffix("_id") in specific else None
        if token is not None:
            return self.token_id(token)
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
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else list(new_tokens)
        for index, token in enumerate(tokens):
            if not isinstance(token, (str, AddedToken)):
                raise InputError("a token is text", where=f"token {index}", found=f"{token!r} ({type(token).__name__})")
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
        new: list[Token] = []
        for name, value in special_tokens.items():
            if name in ("extra_special_tokens", "additional_special_tokens"):
                if isinstance(value, (str, AddedToken)):
                    raise InputError("this takes a list of tokens", where=name, found=repr(value))
                listed: list[Token] = [_special(token, name) for token in value]
                if not replace_extra_special_tokens:
                    listed = [token for token in listed if str(token) not in self.extra_special_tokens]
                self._extra = listed if replace_extra_special_tokens and listed else [*self._extra, *listed]
                new += listed
            elif name in self._named:
                token = _special(value, name)
                self._named[name] = token
                new.append(token)
            else:
                raise InputError("there is no such special token", where=name, remedy=nearest(name, self._named))
        return self.add_tokens(new, special_tokens=True) if new else 0

    def token_id(self, token: str) -> int | None:
        """A token's id; that of ``unk_token``, or ``None``, where the vocabulary lacks it."""
        index = self.backend.token_to_id(token)
        if index is None and self.unk_token is not None and token != self.unk_token:
            return self.token_id(self.unk_token)
        return index

    def id_token(self, index: int) -> str | None:
        """The token with an id, or ``None``."""
        return self.backend.id_to_token(read_id(index, "id"))

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int | None] | None:
        """The ids of tokens, as :meth:`token_id` gives them."""
        return self.token_id(tokens) if isinstance(tokens, str) else [self.token_id(token) for token in tokens]

    def convert_ids_to_tokens(
        self, ids: int | Sequence[int] | torch.Tensor, skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """The tokens with these ids; ``None`` where there is none."""
        if isinstance(ids, int):
            return self.id_token(ids)
        skip = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.id_token(index) for index in read_ids(ids) if index not in skip]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text that tokens stand for."""
        decoder: decoders.Decoder | None = self.backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

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
        found = self._encode_rows(rows, self._limits(options), options)
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

    def _encode_rows(self, rows: list[Row], limits: Limits, options: EncodeOptions) -> list[Encoding]:
        backend = self.backend
        split = options.get("split_special_tokens")
        try:
            backend.no_truncation()
            backend.no_padding()
            if limits.truncation is not None and limits.max_length is not None:
                backend.enable_truncation(
                    limits.max_length,
                    stride=limits.stride,
                    strategy=limits.truncation,
                    direction=self.truncation_side,
                )
            if limits.padding is not None:
                backend.enable_padding(
                    direction=limits.side,
                    pad_id=self.pad_token_id or 0,
                    pad_token=self.pad_token or "",
                    length=limits.max_length if limits.padding == "max_length" else None,
                    pad_to_multiple_of=limits.multiple,
                )
            backend.encode_special_tokens = self.split_special_tokens if split is None else split
            return backend.encode_batch(
                rows,
                is_pretokenized=options.get("is_split_into_words", False),
                add_special_tokens=options.get("add_special_tokens", True),
            )
        except Exception as error:  # the backend raises bare ones
            raise InputError("the text cannot be encoded as asked", found=str(error).strip(" ,")) from error

    def encode(
        self, text: object, text_pair: object = None, **options: Unpack[EncodeOptions]
    ) -> list[int] | torch.Tensor:
        """The ids of one text; see :meth:`__call__`."""
        check_options("Tokenizer.encode", options)
        return self._encode(text, text_pair, options, "text")["input_ids"]  # type: ignore[return-value]

    def tokenize(self, text: object, pair: object = None, **options: Unpack[EncodeOptions]) -> list[str]:
        """The tokens of one text, without special ones unless ``add_special_tokens=True``."""
        check_options("Tokenizer.tokenize", options)
        return self._encode(text, pair, {"add_special_tokens": False, **options}, "text").tokens()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens frame a text, or a pair."""
        return self.backend.num_special_tokens_to_add(pair)

    def get_special_tokens_mask(self, token_ids: Sequence[int] | torch.Tensor) -> list[int]:
        """1 for each special token among framed ids, 0 for each other."""
        special = set(self.all_special_ids)
        return [int(index in special) for index in read_ids(token_ids)]

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
    ) -> str | list[str]:
        """The text of ids; a list of texts for rows of ids.

        Args:
            token_ids: ids, rows of them, or a tensor of either.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: close the spaces before punctuation; by default as the folder says.

        Raises:
            InputError: an id is no whole number from 0.
        """
        rows, many = read_id_rows(token_ids)
        texts = [self._decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in rows]
        return texts if many else texts[0]

    def batch_decode(
        self,
        sequences: Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of rows of ids; see :meth:`decode`."""
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    def _decode(self, ids: list[int], skip_special_tokens: bool, clean_up: bool | None) -> str:
        text = self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        if self.recipe.joint is not None:
            text = text.replace(self.recipe.joint, " ").strip()
        if (self.clean_up_tokenization_spaces if clean_up is None else clean_up) and self._may_clean_up:
            for apart in _APART:
                text = text.replace(apart, apart.strip())
        return text

    # ---- files

    def save_files(self, folder: Path) -> list[Path]:
        """Write ``tokenizer.json``, ``tokenizer_config.json`` and the chat templates into a folder.

        Returns:
            The files written.
        """
        config = save.config_of(self.settings, self.recipe, self._named, self._extra)
        config.update(
            model_max_length=self.model_max_length,
            padding_side=self.padding_side,
            truncation_side=self.truncation_side,
            model_input_names=self.model_input_names,
            clean_up_tokenization_spaces=self.clean_up_tokenization_spaces,
            split_special_tokens=self.split_special_tokens,
        )
        self.backend.no_truncation()
        self.backend.no_padding()
        return save.write(folder, self.backend.to_str(pretty=True), config, self.chat_template)

    def save_pretrained(self, save_directory: str | Path) -> list[Path]:
        """The usual name of :meth:`save_files`."""
        return self.save_files(Path(save_directory))


_COLUMNS: tuple[tuple[str, str, Callable[[Encoding], object]], ...] = (
    ("token_type_ids", "return_token_type_ids", lambda encoding: encoding.type_ids),
    ("attention_mask", "return_attention_mask", lambda encoding: encoding.attention_mask),
    ("special_tokens_mask", "return_special_tokens_mask", lambda encoding: encoding.special_tokens_mask),
    ("offset_mapping", "return_offsets_mapping", lambda encoding: encoding.offsets),
    ("length", "return_length", lambda encoding: len(encoding.ids)),
)


def _special(value: object, name: str) -> AddedToken:
    if isinstance(value, AddedToken):
        return value
    if not isinstance(value, str):
        raise InputError("a special token is text", where=name, found=f"{value!r} ({type(value).__name__})")
    return AddedToken(value, rstrip=False, lstrip=False, normalized=False, special=True)
