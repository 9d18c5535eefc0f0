"""Rules of models that write sounds or about sounds: Whisper's timestamps, codebooks, ends of several channels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.generation import GenerationConfig
from omniform.engine.processors.base import NEVER, LogitsProcessor, Tokens, real_tokens, refuse, whole


@dataclass(frozen=True, slots=True)
class Timestamps:
    """Timestamps come in pairs, never go back, and come when they are likelier together than any word.

    The rules of https://github.com/openai/whisper (``decoding.py``, ``ApplyTimestampRules``).

    Attributes:
        off: the token that turns them off, which is never written; timestamps follow it.
        end: the token that ends a row, before which a single timestamp may stand.
        latest: how late the first of them may be, counted from the beginning of the window; None for any.
        detects: whether timestamps that are likely together are written.
    """

    off: int
    end: int
    latest: int | None = None
    detects: bool = True

    @classmethod
    def read(cls, values: Mapping[str, object], ends: Sequence[int]) -> Self | None:
        """What settings ask for; None where no timestamps are wanted.

        Args:
            values: the settings by name.
            ends: the tokens that end a row.

        Raises:
            InputError: the model has no timestamps.
        """
        if values.get("return_timestamps") is not True:
            return None
        off, latest = values.get("no_timestamps_token_id"), values.get("max_initial_timestamp_index")
        if not isinstance(off, int):
            raise InputError(
                "the checkpoint does not say which tokens are timestamps",
                where="return_timestamps",
                expected="no_timestamps_token_id in generation_config.json",
                found="none",
                remedy="Leave return_timestamps out, or set model.generation_config.no_timestamps_token_id.",
            )
        return cls(off, ends[0] if ends else off, latest if isinstance(latest, int) else None)

    @property
    def first(self) -> int:
        """The earliest of them."""
        return self.off + 1

    def __call__(self, written: Sequence[Sequence[int]], scores: Tensor, *, begun: bool | None = None) -> Tensor:
        """Scores of the next token, changed. Shape: [R, V] in and out.

        Args:
            written: what each row has written so far.
            scores: Shape: [R, V].
            begun: whether rows have begun; by default each has that has written something.
        """
        first, lowest = self.first, []
        scores = scores.clone()
        scores[:, self.off] = NEVER
        for row, tokens in enumerate(written):
            last = bool(tokens) and tokens[-1] >= first
            before = len(tokens) < 2 or tokens[-2] >= first
            if last and before:
                scores[row, first:] = NEVER
            elif last:
                scores[row, : self.end] = NEVER
            latest = next((t for t in reversed(tokens) if t >= first), None)
            # The second of a pair may be the same as the first; a new pair begins later.
            lowest.append(first if latest is None else latest if last and not before else latest + 1)
            if not (bool(tokens) if begun is None else begun):
                scores[row, :first] = NEVER
                if self.latest is not None:
                    scores[row, first + self.latest + 1 :] = NEVER
        places = torch.arange(scores.shape[-1], device=scores.device)
        behind = places < torch.tensor(lowest, device=scores.device)[:, None]
        scores.masked_fill_((places >= first) & behind, NEVER)
        if self.detects:
            logs = scores.float().log_softmax(-1)
            likelier = logs[:, first:].logsumexp(-1) > logs[:, :first].amax(-1)
            scores[:, :first].masked_fill_(likelier[:, None], NEVER)
        return scores


class WhisperTimeStampLogitsProcessor(LogitsProcessor):
    """The rules of :class:`Timestamps`, as a processor.

    Args:
        generate_config: tells ``no_timestamps_token_id`` (timestamps follow it), ``eos_token_id`` or ``bos_token_id``,
            and ``max_initial_timestamp_index``.
        begin_index: tokens before the first that is written.
        _detect_timestamp_from_logprob: whether likely timestamps are forced; by default as the config says, or True.
    """

    def __init__(
        self, generate_config: object, begin_index: int, _detect_timestamp_from_logprob: bool | None = None
    ) -> None:
        said = _said(generate_config)
        self.no_timestamps_token_id = cast("int", said("no_timestamps_token_id"))
        self.timestamp_begin = self.no_timestamps_token_id + 1
        self.eos_token_id = cast("int", said("eos_token_id") or said("bos_token_id"))
        detect = said("_detect_timestamp_from_logprob") if _detect_timestamp_from_logprob is None else None
        self._detect = next((bool(said) for said in (_detect_timestamp_from_logprob, detect) if said is not None), True)
        self.begin_index = whole("begin_index", begin_index, 0)
        self.max_initial_timestamp_index = cast("int | None", said("max_initial_timestamp_index"))

    def set_begin_index(self, begin_index: int) -> None:
        """Set how many tokens stand before the first that is written."""
        self.begin_index = begin_index

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        rule = Timestamps(
            self.no_timestamps_token_id, self.eos_token_id, self.max_initial_timestamp_index, self._detect
        )
        begun = input_ids.shape[1] != self.begin_index
        return rule(input_ids[:, self.begin_index :].tolist(), scores, begun=begun)


class _Prepares(Protocol):
    """The model that a no-speech detection asks."""

    forward: Callable[..., object]

    def prepare_inputs_for_generation(self, **inputs: object) -> Mapping[str, object]: ...

    def __call__(self, **inputs: object) -> _Answers: ...


class _Answers(Protocol):
    logits: Tensor


class WhisperNoSpeechDetection(LogitsProcessor):
    """Notes how likely it is that nobody speaks; changes nothing.

    Args:
        no_speech_token: what stands for that.
        begin_index: tokens before the first that is written.
        scores_is_logprobs: whether scores are log-probabilities.
    """

    def __init__(self, no_speech_token: int, begin_index: int, scores_is_logprobs: bool = False) -> None:
        self.no_speech_token = no_speech_token
        self.start_of_trans_offset = begin_index
        self.begin_index = begin_index
        self.is_scores_logprobs = scores_is_logprobs
        self.model: _Prepares | None = None
        self.inputs: dict[str, object] | None = None
        self._no_speech_prob: Tensor | list[float] = [0.0]

    def set_model(self, model: object) -> None:
        """Set the model that is asked where more than one token comes before the first that is written."""
        self.model = cast("_Prepares", model)

    def set_inputs(self, inputs: Mapping[str, object]) -> None:
        """Set what the model is asked with."""
        assert self.model is not None, "set_model comes first"
        found = {**self.model.prepare_inputs_for_generation(**inputs), **inputs}
        found["input_features"] = found.pop("inputs")
        if "input_ids" not in inspect.signature(self.model.forward).parameters:
            found.pop("input_ids", None)
        self.inputs = found

    @property
    def no_speech_prob(self) -> Tensor | list[float]:
        """How likely it is, for each row. Shape: [B]."""
        return self._no_speech_prob

    def set_begin_index(self, begin_index: int) -> None:
        """Set how many tokens stand before the first that is written."""
        self.begin_index = begin_index

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        if input_ids.shape[1] != self.begin_index:
            return scores
        if self.start_of_trans_offset > 1:
            assert self.model is not None and self.inputs is not None, "set_model and set_inputs come first"
            with torch.no_grad():
                logits = self.model(**self.inputs).logits
            odds = logits[:, self.begin_index - self.start_of_trans_offset].float().softmax(-1)
        else:
            odds = scores.exp() if self.is_scores_logprobs else scores.float().softmax(-1)
        self._no_speech_prob = odds[:, self.no_speech_token]
        return scores


class AlternatingCodebooksLogitsProcessor(LogitsProcessor):
    """Two codebooks take turns (Bark).

    Args:
        input_start_len: tokens before the first that is written.
        semantic_vocab_size: tokens before the first codebook's.
        codebook_size: tokens of the first codebook; what follows is the second.
    """

    def __init__(self, input_start_len: int, semantic_vocab_size: int, codebook_size: int) -> None:
        self.input_start_len = whole("input_start_len", input_start_len, 0)
        self.semantic_vocab_size = semantic_vocab_size
        self.codebook_size = codebook_size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        start, end = self.semantic_vocab_size, self.semantic_vocab_size + self.codebook_size
        scores = scores.clone()
        if (input_ids.shape[-1] - self.input_start_len) % 2 == 0:
            scores[:, :start] = NEVER
            scores[:, end:] = NEVER
        else:
            scores[:, :end] = NEVER
        return scores


class BarkEosPrioritizerLogitsProcessor(LogitsProcessor):
    """Ends a row as soon as its end is likely enough.

    Args:
        eos_token_id: the tokens that end a row.
        min_eos_p: how likely; None or 0 for never.
        device: where they are kept.
    """

    def __init__(self, eos_token_id: Tokens, min_eos_p: float | None, device: str | torch.device = "cpu") -> None:
        self.eos_token_id = real_tokens("eos_token_id", eos_token_id, device)
        if min_eos_p is not None and min_eos_p <= 0:
            raise refuse("min_eos_p", "a number > 0", min_eos_p)
        self.min_eos_p = min_eos_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        if not self.min_eos_p:
            return scores
        ends = torch.full_like(scores, NEVER)
        ends[:, self.eos_token_id] = scores[:, self.eos_token_id]
        likely = (scores.float().softmax(-1)[:, self.eos_token_id] > self.min_eos_p).any(1, keepdim=True)
        return torch.where(likely, ends, scores)


class DiaEOSChannelFilterLogitsProcessor(LogitsProcessor):
    """Only the first of several channels may end, and ends when that is the likeliest thing to do.

    Args:
        num_channels: how many; a row's channels follow one another.
        eos_token_id: the end; what comes after it in the vocabulary is never written.
    """

    def __init__(self, num_channels: int, eos_token_id: int) -> None:
        if num_channels < 1:
            raise refuse("num_channels", "a whole number from 1", num_channels)
        if eos_token_id < 1:
            raise refuse("eos_token_id", "a whole number from 1", eos_token_id)
        self.num_channels = num_channels
        self.eos_id = eos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`; scores of every channel of every row. Shape: [B * C, V]."""
        by_channel = scores.reshape(-1, self.num_channels, scores.shape[-1]).clone()
        by_channel[:, 1:, self.eos_id :] = NEVER
        by_channel[:, 0, self.eos_id + 1 :] = NEVER
        flat = by_channel.view(-1, scores.shape[-1])
        ends = (flat.argmax(-1) == self.eos_id)[:, None]
        places = torch.arange(scores.shape[-1], device=scores.device)
        return flat.masked_fill(torch.where(ends, places < self.eos_id, places == self.eos_id), NEVER)


class DiaEOSDelayPatternLogitsProcessor(LogitsProcessor):
    """Once the first channel ends, the others end so many steps later as each is delayed.

    Args:
        delay_pattern: steps that each channel lies behind.
        eos_token_id: the end.
        max_generation_len: tokens of a row at most, its prompt included.
        device: where the counts are kept.
    """

    def __init__(
        self,
        delay_pattern: Sequence[int],
        eos_token_id: int,
        max_generation_len: int,
        device: str | torch.device = "cpu",
    ) -> None:
        if not delay_pattern:
            raise InputError("there are no channels", where="delay_pattern", expected="one delay per channel")
        self.num_channels = len(delay_pattern)
        self.active_batches: Tensor | None = None
        self.delay_pattern = torch.tensor(delay_pattern, device=device, dtype=torch.int)[None, :]
        self.eos_token_id = eos_token_id
        self.max_generation_len = max_generation_len - max(delay_pattern) - 1
        self.device = device

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`; scores of every channel of every row. Shape: [B * C, V]."""
        by_channel = scores.reshape(-1, self.num_channels, scores.shape[-1]).clone()
        if self.active_batches is None:
            self.delay_pattern = self.delay_pattern.repeat(by_channel.shape[0], 1)
            self.active_batches = torch.zeros(by_channel.shape[0], device=self.device, dtype=torch.bool)
        self.active_batches |= by_channel[:, 0].argmax(-1) == self.eos_token_id
        self.active_batches |= input_ids.shape[1] == self.max_generation_len
        forced = self.active_batches[:, None] & (self.delay_pattern == 0)
        only_end = torch.full_like(by_channel[0, 0], NEVER)
        only_end[self.eos_token_id] = 0.0
        self.delay_pattern = self.delay_pattern - self.active_batches[:, None].int()
        return torch.where(forced[..., None], only_end, by_channel).view(-1, scores.shape[-1])


def _said(config: object) -> Callable[[str], object]:
    """What a config or a mapping says by name; None where it says nothing."""
    if isinstance(config, Mapping):
        return config.get
    return (config.to_dict() if isinstance(config, GenerationConfig) else vars(config)).get
