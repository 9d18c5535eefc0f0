"""What a talker is told: of each row of a thinker's call, what it has read and begins to answer, as vectors.

A talker's prompt is the user's turns (text as the thinker's token vectors, pictures and sounds as what the thinker made
of them after some layer), then the beginning of the answer beside the codes that say who speaks. What follows of the
answer is added to the frames, a token a frame (https://arxiv.org/abs/2509.17765, section 2.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.generative import RowLayout
from omniform.architectures.omni import Omni, Turns
from omniform.architectures.talker import Talker
from omniform.core.batch import Item
from omniform.core.errors import InputError, brief, nearest
from omniform.core.outputs import BaseModelOutput
from omniform.engine.calls import features_of
from omniform.engine.prompts import as_prompts
from omniform.engine.request import NAMELESS, Prompt

OPENING = 3
"""Tokens of an answer's opening: its turn's first, whose it is, and a line's end."""


@dataclass(slots=True)
class Saying:
    """What a talker says in one row.

    Attributes:
        prompt: vectors that it begins with. Shape: [n, D].
        layout: where these stand.
        text: what is added to each frame after the first, as far as it is known. Shape: [D] each.
        pad: what is added behind that. Shape: [D].
        over: whether more text can come.
        codes: of each frame that was written. Shape: [groups] each.
    """

    prompt: Tensor
    layout: RowLayout
    text: list[Tensor]
    pad: Tensor
    over: bool = True
    codes: list[Tensor] = field(default_factory=list)

    def request(self, place: int) -> Prompt:
        """What the engine is asked."""
        named = (NAMELESS,) * len(self.prompt)
        return Prompt(named, vectors=((0, self.prompt),), place=place, layout=self.layout)

    def beside(self, frame: int) -> Tensor:
        """What is added to a frame's codes. Shape: [D]."""
        return self.text[frame] if frame < len(self.text) else self.pad

    def frames(self) -> Tensor:
        """All codes. Shape: [groups, frames]."""
        return torch.stack(self.codes, dim=1)


@dataclass(frozen=True, slots=True)
class Told:
    """One row of a thinker's prompts, as its talker sees it.

    Attributes:
        ids: its tokens, padding among them in front. Shape: [T].
        real: which are no padding. Shape: [T].
        items: pictures, films and sounds in it.
        mind: the thinker's hidden states, where there are such items. Shape: [T, D].
        aligned: whether films stand among the tokens of their sounds.
    """

    ids: Tensor
    real: Tensor
    items: Sequence[Item]
    mind: Tensor | None
    aligned: bool


def voice_of(model: Omni, speaker: object) -> int:
    """The code of a voice.

    Raises:
        InputError: there is none of that name.
    """
    known = model.turns.speakers
    code = known.get(speaker.lower()) if isinstance(speaker, str) else None
    if code is None:
        raise InputError(
            "nobody of this name speaks",
            where="speaker",
            expected=" or ".join(sorted(known)) or "a voice in config.json: talker_config: speaker_id",
            found=brief(speaker),
            remedy=nearest(speaker, known) if isinstance(speaker, str) else None,
        )
    return code


def talker_of(model: Omni) -> Talker:
    """What speaks.

    Raises:
        InputError: nothing does.
    """
    if model.talker is None or model.code2wav is None:
        raise InputError(
            "this model has no talker",
            where="return_audio",
            expected="False",
            found="True",
            remedy="Load a checkpoint whose config says enable_audio_output.",
        )
    return model.talker


@torch.inference_mode()
def told_rows(model: Omni, named: Mapping[str, object]) -> list[Told]:
    """The rows of a thinker's prompts.

    Args:
        named: the thinker's inputs by name.
    """
    mask = named.get("attention_mask")
    own = mask if isinstance(mask, Tensor) else None
    prompts = as_prompts(named.get("input_ids"), own, 0, model.device)
    real = torch.ones_like(prompts.ids, dtype=torch.bool) if prompts.real is None else prompts.real
    beside = {n: v for n, v in named.items() if n not in ("input_ids", "attention_mask") and n in model.accepts()}
    features = features_of(model.thinker, beside)
    rows = [ids[own].tolist() for ids, own in zip(prompts.ids, real, strict=True)]
    items = model.items(rows, features)
    mind: list[Tensor] | list[None] = [None] * len(rows)
    if any(items):
        mask = None if prompts.real is None else prompts.real.long()
        forward = cast("BaseModelOutput", model.thinker.model(
            input_ids=prompts.ids, attention_mask=mask, use_cache=False, output_hidden_states=True, **features
        ))  # fmt: skip
        assert forward.hidden_states is not None
        mind = list(forward.hidden_states[model.turns.layer])
    aligned = bool(beside.get("use_audio_in_video"))
    return [Told(*row, aligned) for row in zip(prompts.ids, real, items, mind, strict=True)]


@torch.inference_mode()
def saying_of(model: Omni, told: Told, answer: Sequence[int], ends: Sequence[int], speaker: int) -> Saying | None:
    """What is to be said in one row; None where nothing was answered.

    Args:
        answer: the thinker's, as long as the longest of its call: what follows an end is not said.
        ends: the tokens that end an answer.
    """
    talker, turns = talker_of(model), model.turns
    pad, begin, end = projected(model, [turns.pad, turns.begin, turns.end])
    opened = _opening(told, turns)
    tokens = [*told.ids[opened + OPENING :].tolist(), *answer[:-1]]
    if not tokens:
        return None
    stop = next((at for at, token in enumerate(answer) if token in ends), len(answer))
    first, *text = projected(model, [*told.ids[opened : opened + OPENING].tolist(), *tokens])[OPENING:]
    opening = projected(model, told.ids[opened : opened + OPENING].tolist())
    codes = [turns.nothink, turns.think_begin, turns.think_end, speaker, turns.codec_pad, turns.codec_begin]
    beside = talker.embed(torch.tensor([codes], device=model.device))[0]
    spoken = torch.stack((pad, pad, pad, pad, begin, first)) + beside
    user, layout = _user_part(model, told, OPENING + len(codes))
    return Saying(torch.cat((user, opening, spoken)), layout, [*text[:stop], end], pad)


def _opening(told: Told, turns: Turns) -> int:
    """Where the last turn of the model's own begins."""
    ids: list[int] = told.ids.tolist()
    found = [i for i in range(len(ids) - 1) if (ids[i], ids[i + 1]) == (turns.start, turns.assistant)]
    if not found:
        raise InputError(
            "speech answers a chat, whose last turn is the model's",
            where="input_ids",
            expected=f"tokens {turns.start}, {turns.assistant} at its end",
            found="none",
            remedy="processor.apply_chat_template(..., add_generation_prompt=True), or return_audio=False.",
        )
    return found[-1]


def projected(model: Omni, tokens: Sequence[int]) -> Tensor:
    """Tokens' vectors as a talker reads them. Shape: [n, D]."""
    ids = torch.tensor([list(tokens)], device=model.device)
    found: Tensor = talker_of(model).text_projection(_vectors(model, ids))[0]
    return found


def _vectors(model: Omni, ids: Tensor) -> Tensor:
    """The thinker's own vectors of tokens. Shape: [..., T] to [..., T, D]."""
    vectors: Tensor = model.thinker.get_input_embeddings()(ids)
    return vectors


def _user_part(model: Omni, told: Told, behind: int) -> tuple[Tensor, RowLayout]:
    """The user's turns as vectors, and where these and as many more as stand behind them are.

    Args:
        behind: how many vectors follow.
    """
    talker, turns = talker_of(model), model.turns
    places = torch.arange(len(told.ids), device=told.ids.device)
    starts = torch.where(told.ids == turns.start, places, -1).cummax(0).values.clamp(min=0)
    whose = told.ids[(starts + 1).clamp(max=len(told.ids) - 1)]
    own = (whose == turns.user) & told.real
    ids = told.ids[own]
    vectors: Tensor = talker.text_projection(_vectors(model, ids))
    shown = torch.isin(ids, torch.tensor(sorted(model.placeholders), device=ids.device))
    if told.mind is None:
        return vectors, RowLayout()
    vectors[shown] = talker.hidden_projection(told.mind[own][shown]).to(vectors)
    row = [*ids.tolist(), *[turns.pad] * behind]
    # In the ecosystem a talker is not told that films and sounds are aligned; it was trained as it is asked.
    heard = model.thinker.model.heard(told.items, aligned=False)
    positions, shift = model.clock.places(row, heard)
    return vectors, RowLayout(positions, shift)
