"""What single mixers of a padded batch keep: views of :class:`~omniform.core.state.DenseState`."""

from __future__ import annotations

from torch import Tensor

from omniform.core.stores import TokenStore

RowIndex = slice | Tensor
"""Some rows of a step."""


class DenseTokens:
    """What a mixer of a padded batch keeps of every token.

    Args:
        store: how it is kept.
    """

    __slots__ = ("store",)

    def __init__(self, store: TokenStore) -> None:
        self.store = store

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows of the batch."""
        self.store.select(rows)

    def tensors(self) -> tuple[Tensor, ...]:
        """What is kept so far, Shape: [B, H, S, D] each; nothing before the first step."""
        return self.store.tensors()

    def parts(self) -> tuple[Tensor, ...]:
        """The tensors that are really held."""
        return self.store.parts()


class DenseKV(DenseTokens):
    """Keys and values of a padded batch."""

    __slots__ = ()

    def extend(self, k_BHTD: Tensor, v_BHTD: Tensor, /) -> tuple[Tensor, Tensor]:
        k, v = self.store.append(k_BHTD, v_BHTD)
        return k, v


class DenseLatent(DenseTokens):
    """Latent vectors of a padded batch."""

    __slots__ = ()

    def extend(self, c_B1TW: Tensor, /) -> Tensor:
        return self.store.append(c_B1TW)[0]


class DenseFixed:
    """A state of fixed size for every row of a padded batch."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: Tensor | None = None

    def read(self, rows: RowIndex) -> Tensor | None:
        return None if self._state is None else self._state[rows]

    def write(self, rows: RowIndex, state: Tensor) -> None:
        assert isinstance(rows, slice), "a padded step has all rows of its batch"
        self._state = state

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows of the batch."""
        if self._state is not None:
            self._state = self._state.index_select(0, rows.to(self._state.device))

    def tensors(self) -> tuple[Tensor, ...]:
        """The state, Shape: [B, ...]; nothing before the first step."""
        return () if self._state is None else (self._state,)

    parts = tensors
