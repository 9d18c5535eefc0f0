"""Models that write what was said: an encoder-decoder whose answers open with tokens for language and task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.encoder_decoder import Seq2SeqLM
from omniform.core.context import Memory, StepContext
from omniform.core.errors import InputError, brief, nearest
from omniform.core.kinds import ANYTHING, TEXT, Kind, PerRow
from omniform.core.languages import CODES
from omniform.core.settings import Setting, inert, later
from omniform.core.spoken import Words
from omniform.core.upstairs import upstairs

_TIMES = "Timestamps are not written yet."
_LONG = "Sound is heard in pieces of the encoder's length, each for itself."


def _as_language(value: object) -> str | PerRow:
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return PerRow(value)
    if not isinstance(value, str):
        raise ValueError
    return value


OWN: Mapping[str, Setting] = {
    "language": Setting(
        kind=Kind("a language, or one for each row", _as_language), help="the language: a name, a code or a token"
    ),
    "task": Setting(kind=TEXT, help="transcribe, or translate into English"),
    "lang_to_id": Setting(kind=ANYTHING),
    "task_to_id": Setting(kind=ANYTHING),
    "no_timestamps_token_id": Setting(kind=ANYTHING),
    "forced_decoder_ids": Setting(kind=ANYTHING),
    "is_multilingual": Setting(kind=ANYTHING),
    "return_timestamps": later(False, attribute=False, remedy=_TIMES),
    "return_token_timestamps": later(False, attribute=False, remedy=_TIMES),
    "return_segments": later(False, attribute=False, remedy=_TIMES),
    "prompt_ids": later(attribute=False, remedy="decoder_input_ids says what an answer begins with."),
    "prompt_condition_type": later(attribute=False, remedy=_LONG),
    "condition_on_prev_tokens": later(False, attribute=False, remedy=_LONG),
    "compression_ratio_threshold": later(attribute=False, remedy=_LONG),
    "logprob_threshold": later(attribute=False, remedy=_LONG),
    "no_speech_threshold": later(attribute=False, remedy=_LONG),
    "num_segment_frames": later(attribute=False, remedy=_LONG),
    "monitor_progress": later(attribute=False),
    **inert(
        "alignment_heads", "max_initial_timestamp_index", "prev_sot_token_id", "time_precision",
        "time_precision_features", "force_unique_generate_call", "median_filter_width",
    ),
}  # fmt: skip
"""What speech models understand beyond the settings that all share."""


class SpeechToText(Seq2SeqLM):
    """An encoder-decoder for speech (https://arxiv.org/abs/2212.04356).

    Every answer opens with the start token, the language (detected where nobody names it), the task, and the token
    that turns timestamps off; ``generation_config.json`` says which tokens those are. What ``generate`` gives back is
    the words alone, without that prompt and without the end token.
    """

    own_settings = OWN

    def decoder_prompt(self, memory: Memory, options: Mapping[str, object]) -> Tensor:
        """The tokens that each row's answer begins with.

        Args:
            memory: the encoder's output.
            options: the settings of the call over those of ``generation_config.json``; of interest are ``language``
                (one, or one per row; a name, a code or a token), ``task`` (``"transcribe"`` or ``"translate"``),
                ``return_timestamps``, ``lang_to_id``, ``task_to_id``, ``no_timestamps_token_id`` and
                ``forced_decoder_ids``.

        Returns:
            Shape: [B, T].

        Raises:
            InputError: a language or a task that this checkpoint does not have.
        """
        rows = memory.hidden.shape[0]
        tokens: list[list[int | None]] = [[int(row[0])] for row in super().decoder_prompt(memory, options)]
        language, task = options.get("language"), options.get("task")
        if language is None and task is None:
            tokens = [[*row, *_forced(options)] for row in tokens]
        ids = _language_ids(language, options, rows)
        if ids is None and options.get("lang_to_id") and (len(tokens[0]) == 1 or tokens[0][1] is None):
            ids = self.detect_language(memory, options)
        if ids is not None:
            tokens = [[row[0], code, *row[2:]] for row, code in zip(tokens, ids, strict=True)]
        closing = [*_task_ids(task, language, tokens[0], options), *_no_timestamps(options, tokens[0])]
        whole = [[t for t in (*row, *closing) if t is not None] for row in tokens]
        for token in {token for row in whole for token in row}:
            if not isinstance(token, int) or not self.knows(token):
                raise InputError(
                    "an answer cannot open with a token outside the vocabulary",
                    where="generation_config",
                    expected=f"tokens below {self.vocabulary}",
                    found=brief(token),
                )
        return torch.tensor(whole, device=memory.hidden.device)

    def opened(self, beginnings: Sequence[Sequence[int]], starts: Sequence[object]) -> list[list[int]]:
        return [list(row) for row in beginnings]  # they open with several tokens, of which a caller may leave some out

    def detect_language(self, memory: Memory, options: Mapping[str, object]) -> list[int]:
        """The likeliest language token of each row."""
        start = super().decoder_prompt(memory, options)
        embeds = self.embed(start)
        positions = torch.zeros(1, 1, dtype=torch.long, device=embeds.device)
        ctx = StepContext(positions=positions, memory=memory, backend=self.attn_backend)
        scores = self.project(self.decode(embeds, ctx)[:, -1])
        known = torch.tensor(sorted(_table(options, "lang_to_id").values()), device=scores.device)
        return [int(known[i]) for i in scores[:, known].argmax(-1)]

    def transcribe(self, source: object, **kwargs: object) -> Iterator[Words]:
        """Write down what is said while it is being said; see :func:`omniform.engine.hearing.transcribe.transcribe`."""
        return cast("Iterator[Words]", upstairs("engine.hearing.transcribe:transcribe")(self, source, **kwargs))

    def given_back(self, prompt: Tensor, written: Tensor, ends: Sequence[int], pad: int) -> Tensor:
        """The words alone, rows filled with ``pad`` on the right. Shape: [B, T]."""
        rows = [_words(row.tolist(), ends, pad) for row in written]
        longest = max(len(row) for row in rows)
        return torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=written.device).long()


def _words(row: list[int], ends: Sequence[int], pad: int) -> list[int]:
    for place, token in enumerate(row):
        if token in ends:
            return row[:place]
    while row and row[-1] == pad:
        row = row[:-1]
    return row


def _table(options: Mapping[str, object], name: str) -> dict[str, int]:
    table = options.get(name)
    if not isinstance(table, Mapping) or not all(isinstance(i, int) for i in table.values()):
        raise InputError(
            "the checkpoint does not say which tokens these are",
            where=f"generation_config.json: {name}",
            expected="names and token ids",
            found=repr(table)[:80],
        )
    return dict(table)


def _forced(options: Mapping[str, object]) -> list[int | None]:
    """The tokens that old checkpoints force at places 1, 2, ...; None for a language to be detected."""
    pairs = options.get("forced_decoder_ids")
    if not isinstance(pairs, Sequence):
        return []
    tokens: list[int | None] = []
    for place, pair in enumerate(pairs, start=1):
        if not isinstance(pair, Sequence) or len(pair) != 2 or pair[0] != place:
            raise InputError(
                "forced tokens must follow one another",
                where="forced_decoder_ids",
                expected=f"[{place}, token]",
                found=repr(pair),
            )
        tokens.append(pair[1])
    return tokens


def _language_ids(language: object, options: Mapping[str, object], rows: int) -> list[int] | None:
    if language is None:
        return None
    if options.get("is_multilingual") is False:
        raise InputError("this checkpoint knows English only", where="language", found=repr(language))
    table = _table(options, "lang_to_id")
    named = list(language) if isinstance(language, (list, tuple)) else [language] * rows
    if len(named) != rows:
        raise InputError("one language per row", where="language", expected=rows, found=len(named))
    ids = []
    for name in named:
        text = str(name).lower()
        token = text if text in table else f"<|{CODES.get(text, text)}|>"
        if token not in table:
            raise InputError(
                "this checkpoint does not know the language",
                where="language",
                found=repr(name),
                remedy=nearest(text, (key.strip("<|>") for key in table)),
            )
        ids.append(table[token])
    return ids


def _task_ids(
    task: object, language: object, row: Sequence[int | None], options: Mapping[str, object]
) -> list[int | None]:
    if task is not None:
        if options.get("is_multilingual") is False:
            raise InputError("this checkpoint transcribes English only", where="task", found=repr(task))
        table = _table(options, "task_to_id")
        if task not in table:
            raise InputError("unknown task", where="task", found=repr(task), remedy=nearest(str(task), table))
        return [table[str(task)]]
    if language is not None and options.get("task_to_id") is not None:
        table = _table(options, "task_to_id")
        return [] if any(i in row for i in table.values()) else [table["transcribe"]]
    return []


def _no_timestamps(options: Mapping[str, object], row: Sequence[int | None]) -> list[int | None]:
    token = options.get("no_timestamps_token_id")
    return [] if not isinstance(token, int) or row[-1] == token else [token]
