"""Models that write what was said: an encoder-decoder whose answers open with tokens for language and task."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.audio import MelEncoder
from omniform.architectures.encoder_decoder import EncoderOutputs, Seq2SeqLM, encoder_output
from omniform.core.context import Memory, StepContext
from omniform.core.errors import InputError, brief, nearest
from omniform.core.generation import GenerationConfig, as_settings
from omniform.core.kinds import ANYTHING, FLAG, NUMBER, POSITIVE, TEXT, Kind, PerRow, one_of, whole
from omniform.core.languages import CODES
from omniform.core.settings import Setting, inert
from omniform.core.spoken import Words
from omniform.core.upstairs import upstairs


def _as_language(value: object) -> str | PerRow:
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return PerRow(value)
    if not isinstance(value, str):
        raise ValueError
    return value


def _setting(kind: Kind, neutral: object, help: str) -> Setting:
    return Setting(kind=kind, neutral=neutral, attribute=False, help=help)


_WHOLE: Mapping[str, Setting] = {
    "return_token_timestamps": _setting(FLAG, False, "tell when each token was said"),
    "return_segments": _setting(FLAG, False, "give back the segments: their tokens, beginnings and ends"),
    "prompt_ids": _setting(ANYTHING, None, "tokens that come before: names and words to expect"),
    "prompt_condition_type": _setting(
        one_of("first-segment", "all-segments"), None, "whether each window is told the prompt, or the first alone"
    ),
    "condition_on_prev_tokens": _setting(FLAG, None, "each window is told what was written of those before it"),
    "compression_ratio_threshold": _setting(NUMBER, None, "what repeats itself more than this is written anew"),
    "logprob_threshold": _setting(NUMBER, None, "what is less likely than this, by token, is written anew"),
    "no_speech_threshold": _setting(NUMBER, None, "what is so likely no speech, and unlikely as text, is left out"),
    "monitor_progress": _setting(ANYTHING, None, "is called with frames heard and frames in all"),
    "force_unique_generate_call": _setting(FLAG, None, "hear one window only, and give back all that was written"),
    "time_precision": _setting(POSITIVE, 0.02, "seconds from one timestamp to the next"),
    "time_precision_features": _setting(POSITIVE, 0.01, "seconds from one frame to the next"),
}

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
    "return_timestamps": _setting(FLAG, False, "write when something was said"),
    "max_initial_timestamp_index": _setting(whole(0), None, "the latest timestamp to begin with"),
    "prev_sot_token_id": Setting(kind=ANYTHING),
    "alignment_heads": Setting(kind=ANYTHING),
    **_WHOLE,
    # A window is as long as the model's encoder, whatever is said; the filter's width is the config's.
    **inert("num_segment_frames", "median_filter_width"),
}
"""What speech models understand beyond the settings that all share."""


class SpeechToText(Seq2SeqLM):
    """An encoder-decoder for speech (https://arxiv.org/abs/2212.04356).

    Every answer opens with the start token, the language (detected where nobody names it), the task, and the token
    that turns timestamps off; ``generation_config.json`` says which tokens those are. What ``generate`` gives back is
    the words alone, without that prompt and without the end token.
    """

    own_settings = OWN
    whole_settings = frozenset(_WHOLE)

    @property
    def listener(self) -> MelEncoder:
        """The encoder, which hears a window of sound at a time."""
        return cast(MelEncoder, self.model.encoder)

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
        heard = self._languages(memory, options) if self.detects(options) else [None] * rows
        named = options.get("language")
        each = named if isinstance(named, (list, tuple)) else [named] * rows
        if len(each) != rows:
            raise InputError("one language per row", where="language", expected=rows, found=len(each))
        whole = [
            self.opening({**options, "language": own}, language) for own, language in zip(each, heard, strict=True)
        ]
        return torch.tensor(whole, device=memory.hidden.device)

    def detects(self, options: Mapping[str, object]) -> bool:
        """Whether the language is to be heard, as nobody names it."""
        if options.get("language") is not None or not options.get("lang_to_id"):
            return False
        forced = _forced(options) if options.get("task") is None else []
        return not forced or forced[0] is None

    def opening(self, options: Mapping[str, object], heard: int | None = None) -> list[int]:
        """The tokens that one row's answer begins with.

        Args:
            options: see :meth:`decoder_prompt`; one language.
            heard: the token of the language that was heard, where :meth:`detects` asks for it.
        """
        language, task = options.get("language"), options.get("task")
        tokens: list[int | None] = [self.first_token(options)]
        if language is None and task is None:
            tokens += _forced(options)
        code = heard if language is None else _language_id(language, options)
        if code is not None:
            tokens = [tokens[0], code, *tokens[2:]]
        if task is not None:
            token, known = _task_id(str(task), options)
            tokens = [token if t in known else t for t in tokens]
            tokens += [] if token in tokens else [token]
        elif language is not None and options.get("task_to_id") is not None:
            table = _table(options, "task_to_id")
            tokens += [] if any(i in tokens for i in table.values()) else [table["transcribe"]]
        whole = [t for t in _stamped(tokens, options) if t is not None]
        for token in whole:
            if not isinstance(token, int) or not self.knows(token):
                raise InputError(
                    "an answer cannot open with a token outside the vocabulary",
                    where="generation_config",
                    expected=f"tokens below {self.vocabulary}",
                    found=brief(token),
                )
        return whole

    def opened(self, beginnings: Sequence[Sequence[int]], starts: Sequence[object]) -> list[list[int]]:
        return [list(row) for row in beginnings]  # they open with several tokens, of which a caller may leave some out

    @torch.no_grad()
    def detect_language(
        self,
        input_features: Tensor | None = None,
        encoder_outputs: EncoderOutputs | Tensor | None = None,
        generation_config: GenerationConfig | Mapping[str, object] | None = None,
        num_segment_frames: int | None = None,
    ) -> Tensor:
        """The token of the language that is spoken at the beginning of each sound.

        Args:
            input_features: log-mel features, of which the first window is heard. Shape: [B, mel bins, frames].
            encoder_outputs: what the encoder made of that, instead.
            generation_config: says ``lang_to_id``, and the start token, over the model's own.
            num_segment_frames: of how many frames a window is; as many as the encoder takes.

        Returns:
            Shape: [B].

        Raises:
            InputError: neither or both of the inputs, or a checkpoint that knows no languages.
        """
        if (input_features is None) == (encoder_outputs is None):
            raise InputError(
                "one sound, as features or encoded",
                where="detect_language",
                expected="either input_features or encoder_outputs",
                found="neither" if input_features is None else "both",
            )
        if input_features is not None:
            memory = self.encode(input_features=self.listener.window_of(input_features.to(self.device)))
        else:
            given = (encoder_outputs,) if isinstance(encoder_outputs, Tensor) else encoder_outputs
            memory = self.encode(encoder_outputs=encoder_output(given or ()).last_hidden_state.to(self.device))
        own = as_settings(self.generation_config, "model.generation_config")
        said = {n: v for n, v in {**own, **as_settings(generation_config)}.items() if v is not None}
        return torch.tensor(self._languages(memory, said), device=self.device)

    def languages(self, options: Mapping[str, object]) -> list[int]:
        """The tokens of the languages that the checkpoint knows."""
        return sorted(_table(options, "lang_to_id").values())

    def _languages(self, memory: Memory, options: Mapping[str, object]) -> list[int]:
        """The likeliest language token of each row."""
        start = super().decoder_prompt(memory, options)
        embeds = self.embed(start)
        positions = torch.zeros(1, 1, dtype=torch.long, device=embeds.device)
        ctx = StepContext(positions=positions, memory=memory, backend=self.attn_backend)
        scores = self.project(self.decode(embeds, ctx)[:, -1])
        known = torch.tensor(self.languages(options), device=scores.device)
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


def _language_id(language: object, options: Mapping[str, object]) -> int:
    if options.get("is_multilingual") is False:
        raise InputError("this checkpoint knows English only", where="language", found=repr(language))
    table = _table(options, "lang_to_id")
    text = str(language).lower()
    token = text if text in table else f"<|{CODES.get(text, text)}|>"
    if token not in table:
        raise InputError(
            "this checkpoint does not know the language",
            where="language",
            found=repr(language),
            remedy=nearest(text, (key.strip("<|>") for key in table)),
        )
    return table[token]


def _task_id(task: str, options: Mapping[str, object]) -> tuple[int, Collection[int]]:
    """A task's token, and those of all tasks."""
    if options.get("is_multilingual") is False:
        raise InputError("this checkpoint transcribes English only", where="task", found=repr(task))
    table = _table(options, "task_to_id")
    if task not in table:
        raise InputError("unknown task", where="task", found=repr(task), remedy=nearest(task, table))
    return table[task], table.values()


def _stamped(tokens: list[int | None], options: Mapping[str, object]) -> list[int | None]:
    """An opening with the token that turns timestamps off, or without it."""
    token = options.get("no_timestamps_token_id")
    if not isinstance(token, int):
        return tokens
    if options.get("return_timestamps") is True:
        return tokens[:-1] if tokens[-1] == token else tokens
    return tokens if tokens[-1] == token else [*tokens, token]
