"""What ``generate`` gives back: the rows, and what was noted on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.outputs import ModelOutput
from omniform.core.state import DenseState
from omniform.engine.drafters import wanted
from omniform.engine.request import Completion, TokenLogprob
from omniform.engine.settings import Asked, Settings

Steps = tuple[tuple[Tensor, ...], ...]
"""Of each step, one tensor of each layer."""


@dataclass(frozen=True, slots=True)
class Speculated:
    """What came of tokens that were guessed ahead, of all rows of a call.

    Attributes:
        steps: of the model, each row's counted for itself.
        drafted, accepted: tokens that were guessed, and those among them that came true.
    """

    steps: int
    drafted: int
    accepted: int

    @property
    def acceptance(self) -> float:
        """Which part of the guesses came true."""
        return self.accepted / max(1, self.drafted)


@dataclass(slots=True)
class GenerateOutput(ModelOutput):
    """What ``generate`` returns with ``return_dict_in_generate=True``; its subclasses say for whom there is what.

    Attributes:
        sequences: prompt and answer, or an encoder-decoder's answer. Shape: [B, T].
        speculation: what came of guesses ahead, where somebody was asked to guess.
        logprobs: how likely each row's tokens were, with ``logprobs=n``.
        prompt_logprobs: how likely each prompt's own tokens were, with ``prompt_logprobs=n``.
    """

    sequences: Tensor
    speculation: Speculated | None = field(default=None, kw_only=True)
    logprobs: tuple[list[TokenLogprob], ...] | None = field(default=None, kw_only=True)
    prompt_logprobs: tuple[list[TokenLogprob | None], ...] | None = field(default=None, kw_only=True)


@dataclass(slots=True)
class GenerateDecoderOnlyOutput(GenerateOutput):
    """What a decoder gives.

    Attributes:
        scores: per step, what the tokens were chosen by, with ``output_scores``. Shape: [B, V] each.
        logits: per step, the model's own scores, with ``output_logits``. Likewise.
        attentions: per step and layer, with ``output_attentions``. Shape: [B, H, T, T] in the first step, of the whole
            prompt, [B, H, 1, T + i] later.
        hidden_states: per step, the embeddings and what each layer gives, with ``output_hidden_states``. Shape:
            [B, T, D] in the first step, [B, 1, D] later.
        past_key_values: the state of all tokens but the last, to go on from. It is the cache that was given, if one
            was. None with ``use_cache=False``.
    """

    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    attentions: Steps | None = None
    hidden_states: Steps | None = None
    past_key_values: DenseState | None = None


@dataclass(slots=True)
class GenerateEncoderDecoderOutput(GenerateOutput):
    """What an encoder-decoder gives; see :class:`GenerateDecoderOnlyOutput`.

    Attributes:
        encoder_attentions, encoder_hidden_states: of each layer of the encoder.
        decoder_attentions, cross_attentions, decoder_hidden_states: per step, of each layer of the decoder.
    """

    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: Steps | None = None
    cross_attentions: Steps | None = None
    decoder_hidden_states: Steps | None = None
    past_key_values: DenseState | None = None


@dataclass(slots=True)
class GenerateBeamDecoderOnlyOutput(GenerateOutput):
    """What a decoder's beam search gives; see :class:`GenerateDecoderOnlyOutput`. Each step has all beams as its rows.

    Attributes:
        sequences_scores: each answer's score. Shape: [B].
        beam_indices: for each token of an answer, the row of that step's ``scores`` which it was chosen by; -1 after
            its end. Shape: [B, new].
    """

    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: Steps | None = None
    hidden_states: Steps | None = None
    past_key_values: DenseState | None = None


@dataclass(slots=True)
class GenerateBeamEncoderDecoderOutput(GenerateOutput):
    """What an encoder-decoder's beam search gives; see the other three."""

    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: Steps | None = None
    cross_attentions: Steps | None = None
    decoder_hidden_states: Steps | None = None
    past_key_values: DenseState | None = None


KINDS: Mapping[tuple[bool, bool], type[GenerateOutput]] = {
    (False, False): GenerateDecoderOnlyOutput,
    (False, True): GenerateEncoderDecoderOutput,
    (True, False): GenerateBeamDecoderOnlyOutput,
    (True, True): GenerateBeamEncoderDecoderOutput,
}
"""The class of an output: whether it is a beam search's, and whether an encoder-decoder's."""


def output_of(
    model: Generative,
    settings: Settings,
    asked: Asked,
    found: Sequence[Completion],
    sequences: Tensor,
    shown: Mapping[str, object],
    cache: DenseState | None,
) -> GenerateOutput:
    """All that a call gives back.

    Args:
        shown: hidden states and attentions, by the names of the output's entries.
    """
    beams = settings.num_beams > 1
    entries: dict[str, object] = {"sequences": sequences, "past_key_values": cache, **_noted(found), **shown}
    if beams:
        entries["sequences_scores"] = _beam_scores(found)
        entries["beam_indices"] = _beam_indices(found, settings.num_beams, sequences.device)
    if settings.logprobs is not None:
        entries["logprobs"] = tuple(one.logprobs or [] for completion in found for one in completion.sequences)
    if settings.prompt_logprobs is not None:
        entries["prompt_logprobs"] = tuple(completion.prompt_logprobs or [] for completion in found)
    make = KINDS[beams, model.shows_encoder]
    return make(**entries, speculation=_speculated(settings, asked, found))  # type: ignore[arg-type]


def rows_of(
    found: Sequence[Completion], given: Tensor | None, settings: Settings, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What stands before each answer, and the answers. Shape: [B, T] and [B, new].

    Args:
        given: the prompts as the caller laid them out; None where the model chose its own.
    """
    each = len(found[0].sequences)
    if given is not None:
        prompt = given.repeat_interleave(each, dim=0)
    else:
        prompts = [list(c.decoder_prompt) for c in found for _ in range(each)]
        prompt = _padded(prompts, settings.pad_token_id, left=True).to(device)
    return prompt, _padded([s.tokens for c in found for s in c.sequences], _fill(settings), left=False).to(device)


def _fill(settings: Settings) -> int:
    """What stands after the end of rows shorter than others."""
    return settings.beam_settings().fill_token_id if settings.num_beams > 1 else settings.pad_token_id


def _padded(rows: list[list[int]], pad: int, *, left: bool) -> Tensor:
    longest = max(len(row) for row in rows)
    filled = [[pad] * (longest - len(row)) + row if left else row + [pad] * (longest - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.long)


def _noted(found: Sequence[Completion]) -> dict[str, object]:
    """Scores and logits step by step; zeros for rows that had ended."""
    steps = [completion.steps for completion in found if completion.steps is not None]
    if steps:
        return {"scores": _beside([s.scores for s in steps]), "logits": _beside([s.logits for s in steps])}
    rows = [s for completion in found for s in completion.sequences]
    return {"scores": _by_step([r.scores for r in rows]), "logits": _by_step([r.logits for r in rows])}


def _beside(searches: list[list[Tensor]]) -> tuple[Tensor, ...] | None:
    """The steps of several searches, one above the other; zeros for those that are over."""
    longest = max(len(steps) for steps in searches)
    if not longest:
        return None
    blank = torch.zeros_like(next(steps[0] for steps in searches if steps))
    return tuple(torch.cat([s[i] if len(s) > i else blank for s in searches]) for i in range(longest))


def _beam_indices(found: Sequence[Completion], width: int, device: torch.device) -> Tensor | None:
    rows = [
        [beam + number * width for beam in one.beams]
        for number, completion in enumerate(found)
        for one in completion.sequences
        if one.beams is not None
    ]
    return _padded(rows, -1, left=False).to(device) if rows else None


def _by_step(rows: list[list[Tensor]]) -> tuple[Tensor, ...] | None:
    longest = max(len(row) for row in rows)
    if not longest:
        return None
    blank = torch.zeros_like(next(row[0] for row in rows if row))
    return tuple(torch.stack([row[i] if len(row) > i else blank for row in rows]) for i in range(longest))


def _speculated(settings: Settings, asked: Asked, found: Sequence[Completion]) -> Speculated | None:
    if not wanted(settings, asked.parts):
        return None
    return Speculated(
        sum(c.model_steps for c in found), sum(c.drafted_tokens for c in found), sum(c.accepted_tokens for c in found)
    )


def _beam_scores(found: Sequence[Completion]) -> Tensor | None:
    scores = [s.score for completion in found for s in completion.sequences]
    known = [score for score in scores if score is not None]
    return torch.tensor(known) if known else None
