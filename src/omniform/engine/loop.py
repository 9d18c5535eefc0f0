"""The decode loop: a prompt goes through the model once, then one token per row and step.

It is a generator, so that ``generate``, streaming and the command line are three ways to consume one loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.context import Memory, StepContext
from omniform.core.state import DenseState
from omniform.engine.prompts import Prompts
from omniform.engine.sampling import Sampler
from omniform.engine.settings import Settings


@dataclass(frozen=True, slots=True)
class Step:
    """What one step gave.

    Attributes:
        tokens: each row's new token; padding in rows that had ended before. Shape: [B].
        ended: rows that have ended, this step included. Shape: [B], boolean.
        scores: what the tokens were chosen by. Shape: [B, V], float32.
        logits: the model's scores before any rule. Shape: [B, V].
    """

    tokens: Tensor
    ended: Tensor
    scores: Tensor
    logits: Tensor


@torch.inference_mode()
def decode_loop(
    model: Generative,
    prompts: Prompts,
    settings: Settings,
    features: Mapping[str, Tensor],
    memory: Memory | None,
) -> Iterator[Step]:
    """Write on from prompts, step by step, until every row has ended or the length runs out.

    Args:
        model: any model that writes.
        prompts: rows aligned at their right edge.
        settings: how to choose and when to stop.
        features: inputs of other modalities that go in with the prompt.
        memory: an encoder's output.
    """
    sampler = Sampler(settings, prompts.ids.device)
    started = time.monotonic()
    rows, width = prompts.ids.shape
    room = width + settings.max_new_tokens
    state = DenseState(room)
    seen = torch.full((rows, room), settings.pad_token_id, device=prompts.ids.device)
    seen[:, :width] = prompts.ids
    real = _room_for(prompts.real, room)
    ended = torch.zeros(rows, dtype=torch.bool, device=seen.device)
    positions = prompts.positions()
    embeds = model.embed_prompt(prompts.ids, features)
    for written in range(settings.max_new_tokens):
        end = width + written
        ctx = StepContext(
            positions=positions,
            past=state.length,
            padding=None if real is None else real[:, :end],
            state=state,
            memory=memory,
            backend=model.attn_backend,
        )
        hidden = model.decode(embeds, ctx)
        state.advance(embeds.shape[1])
        logits = model.project(hidden[:, -1])
        scores = sampler.processed(logits, seen[:, :end], None if real is None else real[:, :end], written)
        tokens = sampler.choose(scores).masked_fill(ended, settings.pad_token_id)
        ended = ended | sampler.ended(tokens)
        seen[:, end] = tokens
        yield Step(tokens, ended, scores, logits)
        if bool(ended.all()) or _late(started, settings.max_time):
            return
        positions = positions[:, -1:] + 1
        embeds = model.embed(tokens[:, None])


def _room_for(real: Tensor | None, room: int) -> Tensor | None:
    if real is None:
        return None
    wider = torch.ones(real.shape[0], room, dtype=torch.bool, device=real.device)
    wider[:, : real.shape[1]] = real
    return wider


def _late(started: float, limit: float | None) -> bool:
    return limit is not None and time.monotonic() - started > limit
