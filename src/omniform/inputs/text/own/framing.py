"""The special tokens around the texts of a tokenizer of the user's own: by its methods, or by a named framing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from omniform.core.errors import InputError
from omniform.inputs.text.ids import read_ids
from omniform.inputs.text.options import read_flag
from omniform.inputs.text.own.patterns import PREFIX_SUFFIX, pattern_named
from omniform.inputs.text.own.tokens import OwnTokens

Ids = list[int]


class OwnFraming(OwnTokens):
    """A vocabulary whose texts are framed; each of these methods may be the user's.

    Attributes:
        special_tokens_pattern: the framing by its name; ``None`` for none, or where the class frames texts itself.
        token_type_ids_pattern: ``"bert_style"``, 1 for what belongs to a second text; ``"all_zeros"``.
        token_type_ids_include_special_tokens: whether special tokens have a type.
        prefix_tokens: the ids before all texts of a row, with the framing ``"prefix_suffix"``.
        suffix_tokens: the ids behind them.
    """

    prefix_tokens: Sequence[int] = ()
    suffix_tokens: Sequence[int] = ()

    def _own_frames(self) -> tuple[Ids, Ids, Ids]:
        """The ids before the texts of a row, between two of them, and behind them."""
        if self.special_tokens_pattern == PREFIX_SUFFIX:
            return [*self.prefix_tokens], [], [*self.suffix_tokens]
        pattern = pattern_named(self.special_tokens_pattern)
        before, between, after = (
            [self._own_framing_id(name) for name in names] for names in (pattern.before, pattern.between, pattern.after)
        )
        return before, between, after

    def _own_framing_id(self, name: str) -> int:
        token = self.named_token(name)
        index = None if token is None else self.token_id(token)
        if index is None:
            raise InputError(
                f"the framing {self.special_tokens_pattern!r} takes a {name}, and the tokenizer has none",
                where=f"{type(self).__name__}.special_tokens_pattern",
                remedy=f"Give {name}=..., or set special_tokens_pattern to another framing.",
            )
        return index

    def build_inputs_with_special_tokens(  # type: ignore[override]  # the tokenizer gives its own methods lists
        self, token_ids_0: Ids, token_ids_1: Ids | None = None
    ) -> Ids:
        """The ids of a text, or of a pair, with the special tokens that frame them."""
        before, between, after = self._own_frames()
        second = [] if token_ids_1 is None else [*between, *token_ids_1]
        return [*before, *token_ids_0, *second, *after]

    def create_token_type_ids_from_sequences(  # type: ignore[override]
        self, token_ids_0: Ids, token_ids_1: Ids | None = None
    ) -> Ids:
        """The type of each of the ids that :meth:`build_inputs_with_special_tokens` gives."""
        if self.special_tokens_pattern == PREFIX_SUFFIX:
            count = len(token_ids_0) + len(token_ids_1 or []) + len(self.prefix_tokens) + len(self.suffix_tokens)
            return [0] * count
        if self.token_type_ids_include_special_tokens:
            first = len(self.build_inputs_with_special_tokens(token_ids_0))
            both = first
            if token_ids_1 is not None:
                both = len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))
        else:
            first = len(token_ids_0)
            both = first + len(token_ids_1 or [])
        typed = self.token_type_ids_pattern == "bert_style" and token_ids_1 is not None
        return [0] * first + [int(typed)] * (both - first)

    def get_special_tokens_mask(  # type: ignore[override]
        self, token_ids_0: Ids, token_ids_1: Ids | None = None, already_has_special_tokens: bool = False
    ) -> Ids:
        """1 for each special token, 0 for each other.

        A class that frames texts by a method of its own says so here too; otherwise nothing counts as framing.

        Args:
            token_ids_0: the ids of a text.
            token_ids_1: those of a second text.
            already_has_special_tokens: the ids are framed already.

        Raises:
            InputError: there are two texts that are framed already.
        """
        if read_flag(already_has_special_tokens, "already_has_special_tokens"):
            if token_ids_1 is not None:
                raise InputError("framed ids are one row, whatever is in it", where="token_ids_1", expected="None")
            special = set(self.all_special_ids)
            return [int(index in special) for index in read_ids(token_ids_0)]
        before, between, after = self._own_frames()
        second = [] if token_ids_1 is None else [*([1] * len(between)), *([0] * len(token_ids_1))]
        return [*chain([1] * len(before), [0] * len(token_ids_0), second, [1] * len(after))]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens frame a text, or a pair."""
        return len(self.build_inputs_with_special_tokens([], [] if read_flag(pair, "pair") else None))

    # ---- the languages of texts, for classes that translate

    def _switch_to_input_mode(self) -> None:
        """Called before texts are encoded."""

    def _switch_to_target_mode(self) -> None:
        """Called before targets are encoded."""

    def prepare_for_tokenization(
        self, text: str, is_split_into_words: bool = False, **kwargs: object
    ) -> tuple[str, dict[str, object]]:
        """A text before it is cut at added tokens, and the options that were not used up."""
        return text, kwargs
