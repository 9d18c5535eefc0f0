"""The special tokens that stand around texts."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import torch
from tokenizers import AddedToken, Encoding, processors

from omniform.core.errors import ConfigError, InputError
from omniform.inputs.text.ids import read_ids
from omniform.inputs.text.options import read_flag
from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.scripted import Scripted, encoding_of
from omniform.inputs.text.settings import Settings
from omniform.inputs.text.special import Token
from omniform.inputs.text.table import TokenTable


class Framing(TokenTable):
    """A vocabulary whose texts are framed by special tokens.

    Attributes:
        recipe: the kind of tokenizer it is.
        settings: what the folder's files say besides.
    """

    recipe: Recipe
    settings: Settings
    # The backend keeps padding, truncation and framing as state: whoever reads or sets them takes turns.
    _turn: Lock
    _add_bos: bool
    _add_eos: bool

    def _begin_framing(self) -> None:
        """Frame texts as the folder, or else the kind of tokenizer, says."""
        settings, steps = self.settings, self.recipe.steps
        self._add_bos = settings.flag("add_bos_token", False)
        self._add_eos = settings.flag("add_eos_token", False)
        self._add_missing_tokens()
        asked = "add_bos_token" in settings.values or "add_eos_token" in settings.values
        reframed = steps is not None and steps.reframed
        # Scripts have the framing of their class, or none.
        scripted = isinstance(self.backend, Scripted)
        plain = not scripted and (asked or reframed or self.backend.post_processor is None)
        if plain:
            self._frame_with_bos_eos()
        if not (plain and steps is not None and steps.yields):
            self._frame()

    def _add_missing_tokens(self) -> None:
        tokens: list[Token] = [token for _, token in sorted(self.settings.added.items())]
        known = {*self.get_added_vocab(), *(str(token) for token in tokens)}
        bare = isinstance(self.backend, Scripted)
        for token in [*self._named.values(), *self._extra]:
            # Scripts have their own flags for the tokens that need some.
            token = str(token) if bare and token is not None else token
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
        frame = self.recipe.frame
        if frame is not None:
            self.backend.post_processor = frame(self, self.settings)

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

    def update_post_processor(self) -> None:
        """Frame texts anew, after ``bos_token`` or ``eos_token`` was changed."""
        self._frame_with_bos_eos()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens frame a text, or a pair."""
        with self._turn:
            return self.backend.num_special_tokens_to_add(read_flag(pair, "pair"))

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int] | torch.Tensor, token_ids_1: Sequence[int] | torch.Tensor | None = None
    ) -> list[int]:
        """The ids of a text, or of a pair, with the special tokens that frame them."""
        return self._framed(token_ids_0, token_ids_1).ids

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int] | torch.Tensor, token_ids_1: Sequence[int] | torch.Tensor | None = None
    ) -> list[int]:
        """The type of each of the ids that :meth:`build_inputs_with_special_tokens` gives."""
        return self._framed(token_ids_0, token_ids_1).type_ids

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int] | torch.Tensor,
        token_ids_1: Sequence[int] | torch.Tensor | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each special token, 0 for each other.

        Args:
            token_ids_0: the ids of a text.
            token_ids_1: those of a second text.
            already_has_special_tokens: the ids are framed already. Otherwise the mask is that of the framed ids, which
                are more.

        Raises:
            InputError: an id is none, or there are two texts that are framed already.
        """
        if not read_flag(already_has_special_tokens, "already_has_special_tokens"):
            return self._framed(token_ids_0, token_ids_1).special_tokens_mask
        if token_ids_1 is not None:
            raise InputError("framed ids are one row, whatever is in it", where="token_ids_1", expected="None")
        special = set(self.all_special_ids)
        return [int(index in special) for index in read_ids(token_ids_0)]

    def _framed(self, first: object, second: object) -> Encoding:
        parts = [encoding_of(read_ids(first), 0), None if second is None else encoding_of(read_ids(second), 1)]
        assert parts[0] is not None
        with self._turn:
            return self.backend.post_process(parts[0], parts[1], True)
