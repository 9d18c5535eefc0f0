"""Encoding with a tokenizer of the user's own: every step is a method that its class may have written itself.

Texts become tokens (``tokenize``), tokens ids, ids a row (``prepare_for_model``: cut, framed, typed), rows a batch
(``pad``). A row's tokens know no places in the text, so nothing that needs them is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from omniform.core.errors import InputError, MissingPartError, check_arguments
from omniform.inputs.text.encoding import BatchEncoding, input_ids
from omniform.inputs.text.encoding import Ids as Encoded
from omniform.inputs.text.ids import shown
from omniform.inputs.text.options import EncodeOptions, Limits, check_options
from omniform.inputs.text.own.framing import Ids
from omniform.inputs.text.own.lengths import OwnLengths
from omniform.inputs.text.own.strategies import PaddingStrategy, TruncationStrategy
from omniform.inputs.text.own.tokens import is_overridden
from omniform.inputs.text.rows import is_batch, read_part, read_row

_HOOKS = ("tokenize", "prepare_for_tokenization", "_encode_plus")
_MORE = ("verbose", "max_target_length")
Row = tuple[object, object]
"""A text or the ids of one, and the second of a pair or ``None``."""


class OwnCalls(OwnLengths):
    """A tokenizer of the user's own that encodes texts."""

    def __call__(
        self,
        text: object = None,
        text_pair: object = None,
        text_target: object = None,
        text_pair_target: object = None,
        **options: object,
    ) -> BatchEncoding:
        """Encode texts; see :meth:`omniform.inputs.text.tokenizer.Tokenizer.__call__`.

        Args:
            text: a text, a list of texts or of pairs; or ids.
            text_pair: the second texts, as many.
            text_target: what a sequence-to-sequence model is to answer; its ids become ``labels``.
            text_pair_target: second texts of the targets.
            options: as there; ``max_target_length``; and those that the class's own ``tokenize`` or
                ``prepare_for_tokenization`` takes.

        Raises:
            InputError, UnknownArgumentError: as there.
            MissingPartError: the places of tokens are asked for, or a method that the class must have is missing.
        """
        if text is None and text_target is None:
            raise InputError("there is no text to encode", where="text", found="None")
        encoded = None
        if text is not None:
            self._switch_to_input_mode()
            encoded = self._own_encoded(text, text_pair, options)
        if text_target is None and encoded is not None:
            return encoded
        longest = options.get("max_target_length")
        self._switch_to_target_mode()
        try:
            asked = options if longest is None else {**options, "max_length": longest}
            target = self._own_encoded(text_target, text_pair_target, asked)
        finally:
            self._switch_to_input_mode()
        if encoded is None:
            return target
        encoded["labels"] = target["input_ids"]
        return encoded

    def encode(self, text: object, text_pair: object = None, **options: object) -> Encoded:
        """The ids of one text; see :meth:`__call__`."""
        return input_ids(self._own_encoded(text, text_pair, options))

    def _own_encoded(self, text: object, text_pair: object, options: Mapping[str, object]) -> BatchEncoding:
        """What the options of a call come to, handed to :meth:`_encode_plus`."""
        known = cast(EncodeOptions, {k: v for k, v in options.items() if k in EncodeOptions.__annotations__})
        more = {name: value for name, value in options.items() if name not in (*known, *_MORE)}
        if not self._own_takes_more():
            check_arguments(type(self).__name__, more, (*EncodeOptions.__annotations__, *_MORE))
        check_options(type(self).__name__, known)
        if known.get("return_offsets_mapping"):
            raise MissingPartError(
                "a tokenizer written in Python does not know where its tokens stand",
                where=f"{type(self).__name__}: return_offsets_mapping",
                expected="False",
            )
        limits = self._limits(known)
        split = known.get("split_special_tokens")
        return self._encode_plus(
            text=text,
            text_pair=text_pair,
            add_special_tokens=known.get("add_special_tokens", True),
            padding_strategy=PaddingStrategy(limits.padding or "do_not_pad"),
            truncation_strategy=TruncationStrategy(limits.truncation or "do_not_truncate"),
            max_length=limits.max_length,
            stride=limits.stride,
            is_split_into_words=known.get("is_split_into_words", False),
            pad_to_multiple_of=limits.multiple,
            padding_side=known.get("padding_side"),
            return_tensors=known.get("return_tensors"),
            return_token_type_ids=known.get("return_token_type_ids"),
            return_attention_mask=known.get("return_attention_mask"),
            return_overflowing_tokens=known.get("return_overflowing_tokens", False),
            return_special_tokens_mask=known.get("return_special_tokens_mask", False),
            return_length=known.get("return_length", False),
            verbose=bool(options.get("verbose", True)),
            split_special_tokens=self.split_special_tokens if split is None else split,
            **more,
        )

    def _own_takes_more(self) -> bool:
        """Whether the class has a method of its own that further options may be for."""
        return any(is_overridden(self, OwnCalls, name) for name in _HOOKS)

    # ---- texts to tokens

    def tokenize(self, text: object, pair: object = None, **options: object) -> list[str]:
        """The tokens of one text: added tokens as they stand, what is between them by the class's ``_tokenize``.

        Args:
            text: the text.
            pair: a second one, whose tokens follow.
            options: ``split_special_tokens``, ``add_special_tokens``, and those of ``prepare_for_tokenization``.
        """
        split = options.pop("split_special_tokens", self.split_special_tokens)
        framed = options.pop("add_special_tokens", False)
        tokens = self._own_tokens_of(text, bool(split), options)
        second = None if pair is None else self._own_tokens_of(pair, bool(split), options)
        if not framed:
            return [*tokens, *(second or [])]
        ids = self.build_inputs_with_special_tokens(
            self._own_ids_of(tokens), None if second is None else self._own_ids_of(second)
        )
        return [token or "" for token in cast("list[str | None]", self.convert_ids_to_tokens(ids))]

    def _own_tokens_of(self, text: object, split: bool, options: Mapping[str, object]) -> list[str]:
        prepared, rest = self.prepare_for_tokenization(cast(str, read_part(text, False, "text")), **options)  # type: ignore[arg-type]
        if rest and not self._own_takes_more():
            check_arguments(f"{type(self).__name__}.tokenize", rest, ("split_special_tokens", "add_special_tokens"))
        if split:
            return self._tokenize(prepared)
        apart = {*self._added_tokens_encoder, *self.all_special_tokens}
        tokens: list[str] = []
        for part in self._own_parts(prepared):
            if part in apart:
                tokens.append(part)
            elif part:
                tokens += self._tokenize(part)
        return tokens

    def _own_parts(self, text: str) -> list[str]:
        """Added tokens and what is between them, spaces beside them stripped where they say so."""
        parts = self.tokens_trie.split(text)
        for index, part in enumerate(parts):
            token = self._added_tokens_decoder.get(self._added_tokens_encoder.get(part, -1))
            if token is None:
                continue
            left = parts[index - 1] if index else ""
            right = parts[index + 1] if index + 1 < len(parts) else ""
            if token.rstrip and right:
                parts[index + 1] = right.lstrip()
            if token.lstrip and left:
                parts[index - 1] = left.rstrip()
            if token.single_word and left and left[-1] != " ":
                parts[index - 1] += part
                parts[index] = ""
            elif token.single_word and right and right[0] != " ":
                parts[index + 1] = part + parts[index + 1]
                parts[index] = ""
        return parts

    def _own_ids_of(self, tokens: Sequence[str]) -> Ids:
        ids = cast("list[int | None]", self.convert_tokens_to_ids(tokens))
        for token, index in zip(tokens, ids, strict=False):
            if index is None:
                raise InputError(
                    "the vocabulary has neither this token nor one for what is unknown",
                    where=f"{type(self).__name__}._convert_token_to_id",
                    found=shown(token),
                )
        return cast(Ids, ids)

    # ---- tokens to rows

    def _encode_plus(
        self,
        text: object,
        text_pair: object = None,
        add_special_tokens: bool = True,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: object,
    ) -> BatchEncoding:
        """Encode one text or pair, or several one by one; the names are the ecosystem's."""
        if not is_ids(text) and is_batch(text, is_split_into_words, "text"):
            made: list[BatchEncoding] = []
            for first, second in _rows(cast("Sequence[object]", text), text_pair, is_split_into_words):
                row = self._encode_plus(
                    text=first,
                    text_pair=second,
                    add_special_tokens=add_special_tokens,
                    truncation_strategy=truncation_strategy,
                    max_length=max_length,
                    stride=stride,
                    is_split_into_words=is_split_into_words,
                    return_token_type_ids=return_token_type_ids,
                    return_attention_mask=False,  # with the padding, below
                    return_overflowing_tokens=return_overflowing_tokens,
                    return_special_tokens_mask=return_special_tokens_mask,
                    return_length=return_length,
                    verbose=verbose,
                    **kwargs,  # type: ignore[arg-type]
                )
                made.append(row)
            names = list(
                dict.fromkeys(name for row in made for name in row if not (return_tensors and name in _MISSING))
            )
            columns = {name: [row.get(name, _MISSING.get(name)) for row in made] for name in names}
            return self.pad(
                columns,
                padding=padding_strategy,
                max_length=max_length,
                pad_to_multiple_of=pad_to_multiple_of,
                padding_side=padding_side,
                return_attention_mask=return_attention_mask,
                return_tensors=return_tensors,
            )
        first_ids = self._own_part_ids(text, is_split_into_words, "text", kwargs)
        second_ids = (
            None if text_pair is None else self._own_part_ids(text_pair, is_split_into_words, "text_pair", kwargs)
        )
        return self.prepare_for_model(
            first_ids,
            pair_ids=second_ids,
            add_special_tokens=add_special_tokens,
            padding=padding_strategy,
            truncation=truncation_strategy,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_tensors=return_tensors,
            return_token_type_ids=return_token_type_ids,
            return_attention_mask=return_attention_mask,
            return_overflowing_tokens=return_overflowing_tokens,
            return_special_tokens_mask=return_special_tokens_mask,
            return_length=return_length,
            verbose=verbose,
            prepend_batch_axis=True,
        )

    def _own_part_ids(self, part: object, in_words: bool, where: str, options: Mapping[str, object]) -> Ids:
        if is_ids(part):
            return [*cast(Ids, part)]
        read = read_part(part, in_words, where)
        words = [read] if isinstance(read, str) else read
        return self._own_ids_of([token for word in words for token in self.tokenize(word, **options)])

    def prepare_for_model(
        self,
        ids: Ids,
        pair_ids: Ids | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        prepend_batch_axis: bool = False,
    ) -> BatchEncoding:
        """One row of the ids of a text or a pair: cut, framed, typed and padded.

        Args:
            ids: of the first text.
            pair_ids: of the second.
            prepend_batch_axis: whether tensors are batches of one.
            verbose: inert.

        The others are as for :meth:`__call__`.

        Raises:
            InputError: the row cannot be cut as asked.
        """
        asked: EncodeOptions = {"padding": padding, "truncation": truncation, "max_length": max_length}
        limits = self._limits({**asked, "stride": stride, "pad_to_multiple_of": pad_to_multiple_of})
        pair = pair_ids is not None
        framing = self.num_special_tokens_to_add(pair=pair) if add_special_tokens else 0
        total = len(ids) + len(pair_ids or []) + framing
        first, second, over = self._own_cut(ids, pair_ids, total, framing, limits, return_overflowing_tokens)
        made: dict[str, object] = {}
        sequence = [*first, *(second or [])]
        if add_special_tokens:
            sequence = self.build_inputs_with_special_tokens(first, second)
        made["input_ids"] = sequence
        if return_token_type_ids or (return_token_type_ids is None and "token_type_ids" in self.model_input_names):
            made["token_type_ids"] = (
                self.create_token_type_ids_from_sequences(first, second) if add_special_tokens else [0] * len(sequence)
            )
        if return_special_tokens_mask:
            made["special_tokens_mask"] = (
                self.get_special_tokens_mask(first, second) if add_special_tokens else [0] * len(sequence)
            )
        if return_overflowing_tokens and not return_tensors and over:
            made |= {"overflowing_tokens": over, "num_truncated_tokens": total - (limits.max_length or 0)}
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        if limits.padding is not None or return_attention_mask:
            made = dict(
                self.pad(
                    made,
                    padding=PaddingStrategy(limits.padding or "do_not_pad"),
                    max_length=limits.max_length,
                    pad_to_multiple_of=pad_to_multiple_of,
                    padding_side=padding_side,
                    return_attention_mask=return_attention_mask,
                )
            )
        if return_length:
            made["length"] = len(cast(Ids, made["input_ids"]))
        if return_tensors is not None and prepend_batch_axis:
            made = {name: [value] for name, value in made.items()}
        return BatchEncoding(made).as_tensors(return_tensors)

    def _own_cut(
        self, ids: Ids, pair_ids: Ids | None, total: int, framing: int, limits: Limits, overflow: bool
    ) -> tuple[Ids, Ids | None, Ids]:
        strategy, room = limits.truncation, limits.max_length
        if overflow and strategy == "longest_first" and pair_ids is not None:
            raise InputError(
                "what is cut off from both texts of a pair is not given",
                where="return_overflowing_tokens",
                expected="truncation='only_first' or 'only_second'",
            )
        if strategy is None or room is None or total <= room:
            return [*ids], pair_ids, []
        if room < framing:
            raise InputError(
                "the special tokens alone are longer than this",
                where="max_length",
                expected=f"{framing} or more",
                found=room,
                remedy="add_special_tokens=False leaves them out.",
            )
        first, second, over = self.truncate_sequences(
            [*ids],
            pair_ids=pair_ids,
            num_tokens_to_remove=total - room,
            truncation_strategy=TruncationStrategy(strategy),
            stride=limits.stride,
        )
        if len(first) + len(second or []) + framing > room:
            raise InputError(
                "the text that is to be cut is too short for it",
                where="truncation",
                expected=f"{total - room} tokens or more in the text that {str(strategy)!r} cuts",
                remedy="truncation='longest_first' cuts both.",
            )
        return first, second, over


# What a row has where others of its batch overflow and it does not.
_MISSING: Mapping[str, object] = {"overflowing_tokens": [], "num_truncated_tokens": 0}


def is_ids(value: object) -> bool:
    """Whether it is a row of ids instead of a text."""
    return isinstance(value, (list, tuple)) and bool(value) and all(type(item) is int for item in value)


def _rows(text: Sequence[object], text_pair: object, in_words: bool) -> list[Row]:
    """The rows of a batch."""
    if not text:
        raise InputError("there is no text to encode", where="text", found="an empty list")
    if text_pair is None:
        read = [row if is_ids(row) else read_row(row, in_words, f"text, row {i}") for i, row in enumerate(text)]
        return [(row[0], row[1]) if isinstance(row, tuple) and not is_ids(row) else (row, None) for row in read]
    if not isinstance(text_pair, (list, tuple)) or len(text_pair) != len(text):
        raise InputError(
            "the second texts do not match the first",
            where="text_pair",
            expected=f"a list of {len(text)}",
            found=f"{len(text_pair)} of them" if isinstance(text_pair, (list, tuple)) else type(text_pair).__name__,
        )
    rows: list[Row] = []
    for index, pair in enumerate(zip(text, text_pair, strict=True)):
        first, second = (
            part if is_ids(part) else read_part(part, in_words, f"{where}, row {index}")
            for part, where in zip(pair, ("text", "text_pair"), strict=True)
        )
        rows.append((first, second))
    return rows
