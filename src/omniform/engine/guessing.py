"""How tokens are guessed ahead: the settings of speculation, as far as a call or a file says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

Schedule = Literal["constant", "heuristic", "heuristic_transient"]

NGRAM: Final = 2
MOST: Final = 20
CONFIDENCE: Final = 0.4
LOOKBEHIND: Final = 10
"""The ecosystem's defaults, where neither the call nor the assistant's own file says anything."""


@dataclass(frozen=True, slots=True)
class Guessing:
    """What is said about guesses; None where nothing is.

    Attributes:
        lookup: how many tokens to guess where the text repeats itself; 0 for no such guesses.
        ngram: by how many of the last tokens a repetition is known, at most.
        early_exit: how many of the model's own layers guess; None where they do not.
        most: how many tokens an assistant guesses at a time.
        schedule: how that number changes.
        confidence: what an assistant holds for less likely is the last that it guesses.
        assistant_lookbehind, target_lookbehind: tokens before the new ones that another tokenizer reads again.
    """

    lookup: int
    ngram: int
    early_exit: int | None
    most: int | None
    schedule: Schedule | None
    confidence: float | None
    assistant_lookbehind: int | None
    target_lookbehind: int | None

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Guessing:
        """From settings that were read."""

        def count(name: str) -> int | None:
            value = values[name]
            return value if isinstance(value, int) else None

        confidence = values["assistant_confidence_threshold"]
        return cls(
            lookup=count("prompt_lookup_num_tokens") or 0,
            ngram=count("max_matching_ngram_size") or NGRAM,
            early_exit=count("assistant_early_exit"),
            most=count("num_assistant_tokens"),
            schedule=cast("Schedule | None", values["num_assistant_tokens_schedule"]),
            confidence=confidence if isinstance(confidence, float) else None,
            assistant_lookbehind=count("assistant_lookbehind"),
            target_lookbehind=count("target_lookbehind"),
        )

    def over(self, other: Guessing) -> Guessing:
        """What is said here, and there where nothing is said here."""
        return Guessing(
            self.lookup,
            self.ngram,
            self.early_exit,
            other.most if self.most is None else self.most,
            self.schedule or other.schedule,
            other.confidence if self.confidence is None else self.confidence,
            other.assistant_lookbehind if self.assistant_lookbehind is None else self.assistant_lookbehind,
            other.target_lookbehind if self.target_lookbehind is None else self.target_lookbehind,
        )


NO_GUESSES: Final = Guessing(0, NGRAM, None, None, None, None, None, None)
