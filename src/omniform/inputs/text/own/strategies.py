"""The options of calls by the names that the ecosystem gives them."""

from __future__ import annotations

from enum import StrEnum


class PaddingStrategy(StrEnum):
    """To what length rows are padded."""

    LONGEST = "longest"
    MAX_LENGTH = "max_length"
    DO_NOT_PAD = "do_not_pad"


class TruncationStrategy(StrEnum):
    """Which text of a row is cut."""

    ONLY_FIRST = "only_first"
    ONLY_SECOND = "only_second"
    LONGEST_FIRST = "longest_first"
    DO_NOT_TRUNCATE = "do_not_truncate"


class TensorType(StrEnum):
    """What rows are made of."""

    PYTORCH = "pt"
    NUMPY = "np"


TextInput = str
"""A text, as annotations of the ecosystem call it."""
PreTokenizedInput = list[str]
"""The words of a text."""
EncodedInput = list[int]
"""The ids of a text."""
