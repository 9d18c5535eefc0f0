"""The lengths of rows of a tokenizer of the user's own: what is cut off, and what fills up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.options import EncodeOptions, read_flag, read_side
from omniform.inputs.text.own.framing import Ids, OwnFraming
from omniform.inputs.text.own.strategies import PaddingStrategy, TruncationStrategy
from omniform.inputs.text.padding import as_rows, is_alone, read_columns


class OwnLengths(OwnFraming):
    """A tokenizer of the user's own that cuts and pads rows; each of these methods may be the user's."""

    def truncate_sequences(
        self,
        ids: Ids,
        pair_ids: Ids | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: str = "longest_first",
        stride: int = 0,
    ) -> tuple[Ids, Ids | None, Ids]:
        """Take ids away, on the side that is cut.

        Args:
            ids: of the first text.
            pair_ids: of the second.
            num_tokens_to_remove: how many.
            truncation_strategy: from which text; ``"longest_first"`` takes from the longer one until both are as long.
            stride: how many more to tell of than were taken.

        Returns:
            The ids of both texts that stay, and what was taken where one text was cut.
        """
        away = num_tokens_to_remove
        strategy = TruncationStrategy(truncation_strategy)
        if away <= 0 or strategy is TruncationStrategy.DO_NOT_TRUNCATE:
            return ids, pair_ids, []
        longest = strategy is TruncationStrategy.LONGEST_FIRST
        if longest and pair_ids is not None:
            if not pair_ids and self.truncation_side == "left":
                # As the ecosystem has it: an empty second text of a row that is cut on this side is none.
                return self._own_kept(ids, away), None, []
            ahead = min(abs(len(pair_ids) - len(ids)), away)
            shared = away - ahead
            longer, shorter = ahead + shared // 2, shared - shared // 2
            if len(ids) > len(pair_ids):
                return self._own_kept(ids, longer), self._own_kept(pair_ids, shorter), []
            return self._own_kept(ids, shared // 2), self._own_kept(pair_ids, ahead + shared - shared // 2), []
        if longest or strategy is TruncationStrategy.ONLY_FIRST:
            return self._own_kept(ids, away), pair_ids, self._own_taken(ids, away + stride)
        if not pair_ids:
            return ids, pair_ids, []
        return ids, self._own_kept(pair_ids, away), self._own_taken(pair_ids, away + stride)

    def _own_kept(self, ids: Ids, away: int) -> Ids:
        return ids[: max(0, len(ids) - away)] if self.truncation_side == "right" else ids[away:]

    def _own_taken(self, ids: Ids, count: int) -> Ids:
        return ids[max(0, len(ids) - count) :] if self.truncation_side == "right" else ids[:count]

    # ---- rows to batches

    def pad(
        self,
        encoded_inputs: Mapping[str, object] | Sequence[Mapping[str, object]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Bring rows of ids to one length, each by :meth:`_pad`.

        Args:
            encoded_inputs: a list of rows by name, or names to lists of rows; numbers, arrays or tensors.
            padding: as for :meth:`__call__`; so are the others.
            verbose: inert.
        """
        options: EncodeOptions = {"padding": padding, "max_length": max_length, "truncation": False}
        limits = self._limits({**options, "pad_to_multiple_of": pad_to_multiple_of})
        if return_attention_mask is not None:
            return_attention_mask = read_flag(return_attention_mask, "return_attention_mask")
        side = None if padding_side is None else read_side(padding_side)
        main = self.model_input_names[0]
        columns, found = read_columns(encoded_inputs, main)
        kind = found if return_tensors is None else return_tensors
        ids = cast("list[object]", columns[main])
        if not ids:
            return BatchEncoding({**columns, **({"attention_mask": []} if return_attention_mask else {})}).as_tensors(
                kind
            )
        rows = as_rows(columns, is_alone(ids), main)
        strategy, longest = PaddingStrategy(limits.padding or "do_not_pad"), limits.max_length
        if strategy is PaddingStrategy.LONGEST:
            strategy, longest = PaddingStrategy.MAX_LENGTH, max(len(row) for row in rows[main])
        padded: dict[str, list[object]] = {}
        for index in range(len(rows[main])):
            row = self._pad(
                {name: column[index] for name, column in rows.items()},
                max_length=longest,
                padding_strategy=strategy,
                pad_to_multiple_of=pad_to_multiple_of,
                return_attention_mask=return_attention_mask,
                # Classes that were written before there was this one have no such argument.
                **({} if side is None else {"padding_side": side}),
            )
            for name, value in row.items():
                padded.setdefault(name, []).append(value)
        made: dict[str, object] = {name: column[0] if is_alone(ids) else column for name, column in padded.items()}
        return BatchEncoding(made).as_tensors(kind)

    def _pad(
        self,
        encoded_inputs: dict[str, object],
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> dict[str, object]:
        """Bring one row to a length."""
        row = {**encoded_inputs}
        main = self.model_input_names[0]
        ids = cast(Ids, row[main])
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        if return_attention_mask and "attention_mask" not in row:
            row["attention_mask"] = [1] * len(ids)
        length = len(ids) if padding_strategy is PaddingStrategy.LONGEST or max_length is None else max_length
        if pad_to_multiple_of is not None:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        if padding_strategy is PaddingStrategy.DO_NOT_PAD or len(ids) >= length:
            return row
        values: dict[str, object] = {main: self.pad_token_id, "token_type_ids": self.pad_token_type_id}
        values |= {"special_tokens_mask": 1, **({"attention_mask": 0} if return_attention_mask else {})}
        for name, value in values.items():
            if name in row:
                filling = [value] * (length - len(ids))
                column = cast("list[object]", row[name])
                left = (self.padding_side if padding_side is None else padding_side) == "left"
                row[name] = [*filling, *column] if left else [*column, *filling]
        return row
