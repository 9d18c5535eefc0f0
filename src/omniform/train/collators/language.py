"""Language modeling: texts to predict token by token, or tokens to guess that were masked."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from omniform.core.errors import InputError
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.train.collators.masking import Chosen, check_probability, choose_numpy, choose_torch
from omniform.train.collators.mixin import DataCollatorMixin, Kind, check_some, to_numpy
from omniform.train.collators.padding import pad_examples, stack_ids
from omniform.train.collators.words import (
    Mark,
    WordIds,
    begin_of,
    joined,
    mark_of,
    no_words,
    spread,
    words_by_ids,
    words_by_marks,
    words_by_place,
)

Randomness = torch.Generator | np.random.Generator


@dataclass
class DataCollatorForLanguageModeling(DataCollatorMixin):
    """Pads texts; masks some of their tokens, which are the labels (``mlm``), or gives the ids as labels.

    Examples are mappings (``input_ids``, and what else the tokenizer gave), or bare rows of ids. A column
    ``special_tokens_mask`` is used where there is one, and for whole words ``offset_mapping`` or ``word_ids``.

    Args:
        tokenizer: what encoded the texts.
        mlm: mask tokens (BERT), rather than predict each next one (GPT).
        whole_word_mask: mask all tokens of a word, or none; then masked tokens are never random ones.
        mlm_probability: how many tokens are masked, from 0 to 1.
        mask_replace_prob: how many of these the mask token stands for.
        random_replace_prob: how many of these a random token stands for; the others stay as they are.
        pad_to_multiple_of: pad to a multiple of it.
        return_tensors: ``"pt"`` or ``"np"``.
        seed: of this collator's own draws; by default torch's (numpy's) global generator draws.

    Raises:
        InputError: a probability is none, or the tokenizer has no mask token.
    """

    tokenizer: Tokenizer
    mlm: bool = True
    whole_word_mask: bool = False
    mlm_probability: float | None = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.mlm:
            if self.tokenizer.mask_token is None:
                raise InputError(
                    "the tokenizer has no token to mask others with",
                    where="mlm",
                    remedy="Set tokenizer.mask_token, or pass mlm=False to train a model that writes.",
                )
            self.mlm_probability = check_probability(self.mlm_probability, "mlm_probability")
        elif self.whole_word_mask:
            raise InputError("words are masked only where tokens are", where="whole_word_mask", expected="mlm=True")
        self.mask_replace_prob = check_probability(self.mask_replace_prob, "mask_replace_prob")
        self.random_replace_prob = check_probability(self.random_replace_prob, "random_replace_prob")
        if self.mask_replace_prob + self.random_replace_prob > 1:
            raise InputError(
                "masked tokens cannot be replaced more often than always",
                where="mask_replace_prob + random_replace_prob",
                expected="at most 1",
                found=self.mask_replace_prob + self.random_replace_prob,
            )
        if self.whole_word_mask and self.mask_replace_prob < 1:
            warnings.warn(
                "whole words are replaced by mask tokens only: mask_replace_prob is 1 and random_replace_prob 0",
                stacklevel=3,
            )
            self.mask_replace_prob, self.random_replace_prob = 1.0, 0.0
        self.generator: Randomness | None = None
        self._mark: Mark | None = None

    # ---- randomness

    def get_generator(self, seed: int) -> Randomness:
        """A generator for this collator's kind of tensors."""
        return torch.Generator().manual_seed(seed) if self.return_tensors == "pt" else np.random.default_rng(seed)

    def create_rng(self) -> None:
        """Make this process's generator: ``seed``, or ``seed`` plus its number in a worker of a data loader.

        Raises:
            InputError: this is another process, whose number nobody knows.
        """
        assert self.seed is not None
        worker = get_worker_info()
        if worker is None and multiprocessing.current_process().name != "MainProcess":
            raise InputError(
                "a seeded collator runs in the main process or in a worker of torch's DataLoader",
                where="seed",
                found=multiprocessing.current_process().name,
                remedy="Leave seed out, or load data with torch.utils.data.DataLoader.",
            )
        self.generator = self.get_generator(self.seed + (0 if worker is None else worker.id))

    # ---- batches

    def torch_call(self, examples: Sequence[object]) -> dict[str, object]:
        batch, hints = self._padded(examples, "pt")
        if self.mlm:
            batch["input_ids"], batch["labels"] = self.torch_mask_tokens(cast(Tensor, batch["input_ids"]), **hints)
        else:
            labels = cast(Tensor, batch["input_ids"]).clone()
            if self.tokenizer.pad_token_id is not None:
                labels[labels == self.tokenizer.pad_token_id] = -100
            batch["labels"] = labels
        return batch

    def numpy_call(self, examples: Sequence[object]) -> dict[str, object]:
        batch, hints = self._padded(examples, "np")
        if self.mlm:
            batch["input_ids"], batch["labels"] = self.numpy_mask_tokens(cast(np.ndarray, batch["input_ids"]), **hints)
        else:
            labels = np.copy(cast(np.ndarray, batch["input_ids"]))
            if self.tokenizer.pad_token_id is not None:
                labels[labels == self.tokenizer.pad_token_id] = -100
            batch["labels"] = labels
        return batch

    def torch_mask_tokens(
        self, inputs: Tensor, special_tokens_mask: object | None = None, offset_mapping: object | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mask tokens of a batch in place. Shape: [B, T].

        Args:
            special_tokens_mask: 1 for tokens that are never masked; by default asked of the tokenizer.
            offset_mapping: the characters of each token. Shape: [B, T, 2].

        Returns:
            the inputs, and the labels: the ids of masked tokens, -100 elsewhere.
        """
        chosen = self._chosen(to_numpy(inputs), special_tokens_mask, offset_mapping)
        return choose_torch(inputs, chosen, cast("torch.Generator | None", self.generator))

    def numpy_mask_tokens(
        self, inputs: np.ndarray, special_tokens_mask: object | None = None, offset_mapping: object | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`torch_mask_tokens` of an array."""
        chosen = self._chosen(inputs, special_tokens_mask, offset_mapping)
        return choose_numpy(inputs, chosen, cast("np.random.Generator | None", self.generator))

    def _padded(self, examples: Sequence[object], kind: Kind) -> tuple[dict[str, object], dict[str, object]]:
        """The padded batch, and what is known of its tokens."""
        check_some(examples)
        if self.seed is not None and self.generator is None:
            self.create_rng()
        if not isinstance(examples[0], Mapping):
            return {"input_ids": stack_ids(examples, self.tokenizer, self.pad_to_multiple_of, kind)}, {}
        rows = [dict(cast("Mapping[str, object]", example)) for example in examples]
        hints = {name: [row.pop(name, None) for row in rows] for name in ("offset_mapping", "word_ids")}
        batch = pad_examples(self.tokenizer, rows, return_tensors=kind, pad_to_multiple_of=self.pad_to_multiple_of)
        known: dict[str, object] = {}
        if "special_tokens_mask" in batch:
            known["special_tokens_mask"] = batch.pop("special_tokens_mask")
        if self.whole_word_mask:
            length = cast("Tensor | np.ndarray", batch["input_ids"]).shape[1]
            side = self.tokenizer.padding_side
            if all(value is not None for value in hints["offset_mapping"]):
                known["offset_mapping"] = _filled(hints["offset_mapping"], length, side, [0, 0])
            elif all(value is not None for value in hints["word_ids"]):
                rows_of_words = cast("list[list[int | None]]", _filled(hints["word_ids"], length, side, None))
                known["offset_mapping"] = WordIds(rows_of_words)
        return batch, known

    def _chosen(self, ids: np.ndarray, special: object | None, offsets: object | None) -> Chosen:
        if special is None:
            special = [
                self.tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) for row in ids.tolist()
            ]
        fixed = to_numpy(special).astype(bool)
        words = self._words(ids, fixed, offsets) if self.whole_word_mask else None
        return Chosen(
            fixed=fixed if words is None else ~begin_of(words),
            spread=(lambda mask: mask) if words is None else (lambda mask: spread(words, mask)),
            probability=cast(float, self.mlm_probability),
            masked=self.mask_replace_prob,
            random=self.random_replace_prob,
            mask_token=cast(int, self.tokenizer.mask_token_id),
            tokens=len(self.tokenizer),
        )

    def _words(self, ids: np.ndarray, special: np.ndarray, offsets: object | None) -> np.ndarray:
        if isinstance(offsets, WordIds):
            return words_by_ids(offsets, special)
        if self._mark is None:
            self._mark = mark_of(self.tokenizer)
        mark = self._mark
        if offsets is not None:
            places = words_by_place(to_numpy(offsets), special)
            if mark is None or mark.gaps:
                return places
        elif mark is None:
            raise no_words(self.tokenizer)
        tokens = [cast("list[str]", self.tokenizer.convert_ids_to_tokens(row)) for row in ids.tolist()]
        marks = words_by_marks(tokens, special, mark.begins)
        return marks if offsets is None else joined(places, marks)


@dataclass
class DataCollatorForWholeWordMask(DataCollatorForLanguageModeling):
    """:class:`DataCollatorForLanguageModeling` that masks whole words; the name of earlier releases."""

    whole_word_mask: bool = True
    mask_replace_prob: float = 1.0
    random_replace_prob: float = 0.0


def _filled(rows: Sequence[object], length: int, side: str, value: object) -> list[list[object]]:
    plain = [
        row.tolist() if isinstance(row, (Tensor, np.ndarray)) else list(cast("Sequence[object]", row)) for row in rows
    ]
    fill = [[value] * (length - len(row)) for row in plain]
    return [row + more if side == "right" else more + row for row, more in zip(plain, fill, strict=True)]
