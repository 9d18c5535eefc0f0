"""``generate`` of models whose talker writes one code at a time (Qwen2.5-Omni): an answer, and on wish its sound.

Thinker and talker are rows of two engines. A talker's row reads vectors: what the thinker made of its prompt, and then
each code's beside the next piece of the answer. The whole answer is known when it begins, and all codes are when they
become a sound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.flat_talker import FlatTalker
from omniform.architectures.generative import RowLayout
from omniform.architectures.omni import FlowOmni, Voice
from omniform.core.errors import InputError, check_arguments
from omniform.core.generation import GenerationConfig
from omniform.core.outputs import BaseModelOutput
from omniform.core.settings import SETTINGS
from omniform.engine import generate as calls
from omniform.engine.cache_calls import CacheUse
from omniform.engine.calls import Reader, features_of
from omniform.engine.encoders import digest
from omniform.engine.generate_output import GenerateOutput
from omniform.engine.prompts import as_prompts
from omniform.engine.request import Placed, Prompt, Row
from omniform.engine.settings import Asked
from omniform.engine.streamers import Streamer

THINKER = {"max_new_tokens": 1024}
"""How the thinker writes where a call does not say."""

TALKER = {
    "max_new_tokens": 4096, "do_sample": True, "top_k": 40, "top_p": 0.8, "temperature": 0.9,
    "eos_token_id": [8292, 8294], "repetition_penalty": 1.05,
}  # fmt: skip
"""How the talker writes where a call does not say."""

SOUND = ("num_steps", "guidance_scale", "sway_coefficient")
"""What a call may say of how codes become a sound."""

SHOWN = ("output_hidden_states", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions")


@dataclass(slots=True)
class Reply:
    """What a talker says in one row.

    Attributes:
        prompt: vectors that it begins with. Shape: [n, D].
        tokens: the codes that stand for these, where codes are counted.
        layout: where they stand.
        text: what is added to each code. Shape: [E] each; the last one to all that follow.
    """

    prompt: Tensor
    tokens: tuple[int, ...]
    layout: RowLayout
    text: Sequence[Tensor]

    def request(self, place: int) -> Prompt:
        """What the engine is asked."""
        return Prompt(self.tokens, vectors=((0, self.prompt),), place=place, layout=self.layout)


class Replies:
    """What rows of a talker read next: the code that each has written, and the next piece of its text.

    Args:
        talker: whose rows.
        said: what each row says, by its lane.
    """

    def __init__(self, talker: FlatTalker, said: Mapping[int, Reply]) -> None:
        self._talker = talker
        self._said = said

    @torch.inference_mode()
    def feed(self, rows: Sequence[Row], mind_RD: Tensor) -> None:
        """See :class:`~omniform.engine.feeding.Feeder`."""
        codes = torch.tensor([row.tokens[-1] for row in rows], device=mind_RD.device)
        texts = [self._said[row.lane or 0].text for row in rows]
        beside = [text[min(len(row.fed), len(text) - 1)] for row, text in zip(rows, texts, strict=True)]
        whole = self._talker.thinker_to_talker_proj(self._talker.model.embed_tokens(codes) + torch.stack(beside))
        for row, vector in zip(rows, whole, strict=True):
            read = vector[None]
            row.fed.append(Placed(len(row.tokens) - 1, 1, digest({"vectors": read}), read))


@dataclass(frozen=True, slots=True)
class Talk:
    """A call, sorted: whether and whose speech is wanted, and what each part is told."""

    speaks: bool
    speaker: object
    thinker: dict[str, object]
    talker: dict[str, object]
    sound: dict[str, object]


def sorted_call(model: FlowOmni, inputs: object, kwargs: Mapping[str, object]) -> Talk:
    """Sort a call's arguments: ``thinker_``, ``talker_`` and ``token2wav_`` say whose; the rest is of all."""
    rest = dict(kwargs)
    mode, speaks = rest.pop("generation_mode", None), rest.pop("return_audio", None)
    if speaks is None:
        speaks = model.has_talker if mode is None else mode not in ("text", False)
    speaker = rest.pop("speaker", "Chelsie")
    if inputs is not None:
        rest["input_ids"] = inputs
    own: dict[str, dict[str, object]] = {}
    for part in ("thinker", "talker", "token2wav"):
        names = [name for name in rest if name.startswith(f"{part}_")]
        own[part] = {name.removeprefix(f"{part}_"): rest.pop(name) for name in names}
    thinker, talker = {**THINKER, **own["thinker"]}, {**TALKER, **own["talker"]}
    thinker |= {name: value for name, value in rest.items() if name not in thinker}
    shared = {name: value for name, value in rest.items() if name in SETTINGS and name not in SHOWN}
    talker |= {name: value for name, value in shared.items() if name not in talker}
    check_arguments("generate", (f"token2wav_{name}" for name in own["token2wav"]), [f"token2wav_{n}" for n in SOUND])
    check_arguments("generate", (f"talker_{name}" for name in own["talker"]), [f"talker_{name}" for name in SETTINGS])
    if model.ends is not None:
        thinker.setdefault("eos_token_id", model.ends)
    return Talk(bool(speaks), speaker, thinker, talker, own["token2wav"])


@torch.no_grad()
def generate(
    model: FlowOmni,
    inputs: object,
    generation_config: GenerationConfig | Mapping[str, object] | None,
    kwargs: Mapping[str, object],
    streamer: Streamer | None,
    tokenizer: Reader | None,
) -> Tensor | GenerateOutput | tuple[Tensor, Tensor | list[Tensor]]:
    """Answer, and speak where that is wanted.

    Args:
        inputs: the thinker's prompts.
        generation_config: the thinker's settings, under those given by keyword.
        kwargs: ``speaker``; ``generation_mode``, or ``return_audio`` (by default whether there is a talker); what
            begins with ``thinker_``, ``talker_`` or ``token2wav_`` is for that part alone; the rest is the thinker's,
            and settings of writing the talker's too.
        streamer: receives the thinker's tokens.

    Returns:
        What ``generate`` of the thinker gives; where speech is wanted, the tokens, Shape: [B, T + new], and the sound,
        float32: of one row Shape: [samples], of several a list.

    Raises:
        InputError: no talker, nobody of that name, a setting that cannot be used.
    """
    call = sorted_call(model, inputs, kwargs)
    given, talker = call.thinker, model.talker
    if not call.speaks:
        made = calls.generate(model.thinker, None, generation_config, streamer=streamer, tokenizer=tokenizer, **given)
        return cast("Tensor | GenerateOutput", made)
    if talker is None:
        raise InputError(
            "this model has no talker",
            where="generation_mode",
            expected="'text'",
            remedy="Load a checkpoint whose config says enable_audio_output.",
        )
    voice, asked = model.voice(call.speaker), _asked(talker, call.talker)
    given["return_dict_in_generate"] = True
    made = calls.generate(model.thinker, None, generation_config, streamer=streamer, tokenizer=tokenizer, **given)
    sequences = cast(GenerateOutput, made).sequences
    said = _replies(model, given, sequences, voice)
    codes = _spoken(talker, said, asked)
    waves = [_sound(model, row, voice, call.sound) for row in codes]
    return sequences, waves[0] if len(waves) == 1 else waves


def _asked(talker: FlatTalker, own: Mapping[str, object]) -> Asked:
    """How a talker writes."""
    told = {"pad_token_id": talker.marks.pad, "suppress_tokens": [talker.marks.begin], **own}
    return Asked(talker, {}, {name: value for name, value in told.items() if name not in SHOWN})


@torch.inference_mode()
def _replies(model: FlowOmni, given: Mapping[str, object], sequences: Tensor, voice: Voice) -> list[Reply | None]:
    """What is to be said in each row; None where nothing was answered.

    Args:
        given: the thinker's inputs and settings.
        sequences: its prompts and answers. Shape: [B, T + new].
    """
    talker, thinker = cast(FlatTalker, model.talker), model.thinker.model
    known = model.thinker.accepts()
    named = {name: value for name, value in given.items() if name in known and value is not None}
    mask = named.get("attention_mask")
    prompts = as_prompts(named.get("input_ids"), mask if isinstance(mask, Tensor) else None, 0, model.device)
    if len(sequences) != len(prompts.ids):
        raise InputError("each prompt is answered once where it is spoken", where="num_return_sequences", expected="1")
    real = torch.ones_like(prompts.ids, dtype=torch.bool) if prompts.real is None else prompts.real
    begun, new = real.shape[1], sequences.shape[1] - real.shape[1]
    if new < 2:
        return [None] * len(sequences)
    features = features_of(model.thinker, {n: v for n, v in named.items() if n not in ("input_ids", "attention_mask")})
    rows = [ids[own].tolist() for ids, own in zip(prompts.ids, real, strict=True)]
    items = model.items(rows, features)
    read = sequences[:, :-1]
    whole = torch.nn.functional.pad(real, (0, new - 1), value=True)
    # What the thinker had in mind at each token: its engine keeps no hidden states of what it has read before.
    out = cast(BaseModelOutput, thinker(input_ids=read, attention_mask=whole.long(), use_cache=False, **features))
    table = model.thinker.get_input_embeddings()
    shown = torch.isin(read, torch.tensor(sorted(model.placeholders), device=read.device))
    vectors = table(read).masked_fill(shown[..., None], 0) + out.last_hidden_state
    end, pad, begin = table(
        torch.tensor([talker.marks.text_end, talker.marks.text_pad, voice.begin], device=read.device)
    )
    ends = given.get("eos_token_id", model.thinker.generation_config.eos_token_id)
    over = set(ends if isinstance(ends, (list, tuple)) else [ends])
    aligned, replies = bool(named.get("use_audio_in_video")), list[Reply | None]()
    for row, (ids, own, seen) in enumerate(zip(rows, real, items, strict=True)):
        answer = sequences[row, begun:].tolist()
        stop = next((at for at, token in enumerate(answer) if token in over), new)
        stop = min(max(stop, 1), new - 1)
        opened = torch.cat((vectors[row, :begun][own], begin[None], vectors[row, begun][None]))
        layout = RowLayout()
        if any(item.modality != "audio" for item in seen):
            heard = thinker.heard(seen, aligned=aligned)
            layout = RowLayout(*talker.clock.places([*ids, voice.begin, answer[0]], heard))
        replies.append(
            Reply(
                prompt=talker.thinker_to_talker_proj(talker.with_opening(opened)),
                tokens=(*[talker.marks.mask] * len(ids), talker.marks.pad, talker.marks.begin),
                layout=layout,
                text=[*vectors[row, begun + 1 : begun + stop], end, pad],
            )
        )
    return replies


def _spoken(talker: FlatTalker, said: Sequence[Reply | None], asked: Asked) -> list[list[int]]:
    """The codes of each row."""
    there = [one for one in said if one is not None]
    if not there:
        return [[] for _ in said]
    prompts = [reply.request(place) for place, reply in enumerate(there)]
    job = calls.Job(talker, prompts, asked, None, None, CacheUse(None, None), {})
    settings = job.settings(1)
    if settings.num_beams > 1 or settings.num_return_sequences > 1 or settings.penalty_alpha:
        raise InputError("speech is written greedily or drawn, once", where="talker_num_beams", expected="1")
    engine, answers = job.engine(), job.answers()
    feeder = Replies(talker, dict(enumerate(there)))
    for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        lane = (place, len(prompts))
        engine.enqueue(prompt, job.settings, answer, seed=job.seed(place), lane=lane, parts=asked.parts, feeder=feeder)
    while [answer for answer in answers if not answer.done]:  # each is asked: a failure is told at once
        engine.step()
    ends = set(settings.eos_token_ids)
    written = iter(answers)
    found = []
    for one in said:
        tokens = [] if one is None else next(written).tokens[0]
        found.append(tokens[: next((at for at, token in enumerate(tokens) if token in ends), len(tokens))])
    return found


def _sound(model: FlowOmni, codes: Sequence[int], voice: Voice, how: Mapping[str, object]) -> Tensor:
    """The sound of codes. Shape: [samples], float32."""
    sound = model.token2wav
    assert sound is not None
    if not codes:
        return torch.zeros(0, device=model.device)
    if next(sound.parameters()).dtype != torch.float32:
        sound.float()  # as the ecosystem has it: waves are made in full numbers
    device = model.device
    code = torch.tensor([list(codes)], device=device)
    vector, heard = voice.vector.to(device).expand(1, -1), voice.heard.to(device).expand(1, -1, -1)
    wave = cast(Tensor, sound(code, conditioning=vector, reference_mel=heard, **how))
    return wave.reshape(-1).float()
