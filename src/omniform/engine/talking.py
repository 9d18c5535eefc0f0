"""``generate`` of models that think and speak: the thinker's answer, and on wish its sound; whole, or as it comes.

Thinker and talker are rows of two engines. A talker's row reads vectors: what :class:`Frames` makes of each code that
the row wrote, by having the code predictor write the rest of the frame. That inner loop is the predictor's own, over a
cache of a frame's length: it has as many steps as a frame has codes, for all rows at once, and nothing to schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.code_sound import CodeSound, SoundSoFar
from omniform.architectures.omni import Omni
from omniform.architectures.talker import Talker
from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.generation import GenerationConfig, as_settings
from omniform.core.settings import SETTINGS
from omniform.engine import generate as calls
from omniform.engine.cache_calls import CacheUse
from omniform.engine.calls import Reader
from omniform.engine.encoders import digest
from omniform.engine.engine import Engine
from omniform.engine.generate_output import GenerateOutput
from omniform.engine.processors import RepetitionPenaltyLogitsProcessor
from omniform.engine.request import Placed, Row
from omniform.engine.sampling import choose
from omniform.engine.sayings import Saying, projected, saying_of, talker_of, told_rows, voice_of
from omniform.engine.settings import Asked, Settings
from omniform.engine.streamers import Streamer

ENDS = 151645
"""The token that ends a thinker's answer, where a call does not say."""

THINKER = {"max_new_tokens": 1024, "eos_token_id": ENDS}
"""How the thinker writes where a call does not say."""

TALKER = {
    "max_new_tokens": 4096, "do_sample": True, "top_k": 50, "top_p": 1.0, "temperature": 0.9,
    "repetition_penalty": 1.05,
}  # fmt: skip
"""How the talker writes where a call does not say."""

OTHER_CODES = {"top_k": 50, "top_p": 0.8}
"""How the other codes of a frame are drawn, where they are."""

SPECIAL = 1024
"""So many first codes at the end are none of a sound."""

SOUND = {"chunk_size": 300, "left_context_size": 25}
"""How codes become a sound where a call does not say."""


Said = Tensor | GenerateOutput | tuple[Tensor, Tensor | list[Tensor]]
"""A thinker's answer, and its sound where that was wanted."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A call, sorted.

    Attributes:
        speaks: whether speech is wanted.
        speaker: who speaks.
        thinker, talker: what each is told.
        sound: how codes become a sound.
    """

    speaks: bool
    speaker: object
    thinker: dict[str, object]
    talker: dict[str, object]
    sound: dict[str, int]


def sorted_call(model: Omni, inputs: object, kwargs: Mapping[str, object]) -> Talk:
    """Sort a call's arguments: ``thinker_``, ``talker_`` and ``token2wav_`` say whose; the rest is the thinker's."""
    rest = dict(kwargs)
    mode, speaks = rest.pop("generation_mode", None), rest.pop("return_audio", None)
    if speaks is None:
        speaks = model.has_talker if mode is None else mode != "text"
    speaker = rest.pop("speaker", "Ethan")
    if inputs is not None:
        rest["input_ids"] = inputs
    own = {part: _named(rest, f"{part}_") for part in ("thinker", "talker", "token2wav")}
    thinker = {**THINKER, **own["thinker"]}
    thinker |= {name: value for name, value in rest.items() if name not in thinker}
    check_arguments("generate", (f"token2wav_{name}" for name in own["token2wav"]), [f"token2wav_{n}" for n in SOUND])
    check_arguments("generate", (f"talker_{name}" for name in own["talker"]), [f"talker_{name}" for name in SETTINGS])
    sound = {**SOUND, **own["token2wav"]}
    for name, value in sound.items():
        if not isinstance(value, int) or value < (name == "chunk_size"):
            raise InputError("a number of frames", where=f"token2wav_{name}", found=brief(value))
    return Talk(bool(speaks), speaker, thinker, {**TALKER, **own["talker"]}, cast("dict[str, int]", sound))


def _named(rest: dict[str, object], start: str) -> dict[str, object]:
    """Take what begins so out of a call's arguments."""
    return {name.removeprefix(start): rest.pop(name) for name in [*rest] if name.startswith(start)}


class Frames:
    """What rows of a talker read next: the whole frame that each has begun, and the next piece of its text.

    Args:
        talker: whose rows.
        how: how the other codes of a frame are chosen.
        sayings: what each row says, by its lane.
    """

    def __init__(self, talker: Talker, how: Settings, sayings: Mapping[int, Saying]) -> None:
        self._talker = talker
        self._how = how
        self._sayings = sayings

    @torch.inference_mode()
    def feed(self, rows: Sequence[Row], mind_RD: Tensor) -> None:
        """See :class:`~omniform.engine.feeding.Feeder`."""
        talker, places = self._talker, list(range(len(rows)))

        def chosen(scores_RV: Tensor) -> Tensor:
            tokens, _ = choose(rows, self._how, scores_RV, places)
            return torch.tensor(tokens, device=mind_RD.device)

        codes_R1 = torch.tensor([[row.tokens[-1]] for row in rows], device=mind_RD.device)
        first = talker.embed(codes_R1)[:, 0]
        others, whole = talker.code_predictor.complete(mind_RD, first, chosen, talker.groups - 1)
        for row, frame, vector in zip(rows, torch.cat((codes_R1, others), dim=1), whole, strict=True):
            saying = self._sayings[row.lane or 0]
            read = (vector + saying.beside(len(row.fed)))[None]
            row.fed.append(Placed(len(row.tokens) - 1, 1, digest({"vectors": read}), read))
            saying.codes.append(frame)


def talk_settings(model: Omni, own: Mapping[str, object]) -> tuple[Asked, Settings]:
    """How a talker writes first codes, and how the others are chosen."""
    talker, turns = talker_of(model), model.turns
    size = talker.vocabulary or 0
    silent = [code for code in range(max(0, size - SPECIAL), size) if code != turns.codec_end]
    told = {"eos_token_id": turns.codec_end, "suppress_tokens": silent, **own}
    shown = {"output_hidden_states", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions"}
    asked = Asked(talker, {}, {name: value for name, value in told.items() if name not in shown})
    drawn = asked.flag("do_sample")
    known = as_settings(talker.generation_config, "model.generation_config")
    plain: dict[str, object] = {**dict.fromkeys(known), "eos_token_id": None, "do_sample": drawn}
    others = Asked(talker, {}, {**plain, "max_new_tokens": talker.groups, **(OTHER_CODES if drawn else {})})
    return asked, others(1)


def begin(model: Omni, sayings: Sequence[Saying], own: Mapping[str, object]) -> tuple[Engine, list[calls.Answers]]:
    """An engine in which a talker says these things."""
    talker = talker_of(model)
    asked, others = talk_settings(model, {**own, **_as_padded(sayings, own)})
    prompts = [saying.request(place) for place, saying in enumerate(sayings)]
    job = calls.Job(talker, prompts, asked, None, None, CacheUse(None, None), {})
    settings = job.settings(1)
    if settings.num_beams > 1 or settings.num_return_sequences > 1 or settings.penalty_alpha:
        raise InputError("speech is written greedily or drawn, once", where="talker_num_beams", expected="1")
    engine, answers = job.engine(), job.answers()
    feeder = Frames(talker, others, dict(enumerate(sayings)))
    for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        lane = (place, len(prompts))
        engine.enqueue(prompt, job.settings, answer, seed=job.seed(place), lane=lane, parts=asked.parts, feeder=feeder)
    return engine, answers


def _as_padded(sayings: Sequence[Saying], own: Mapping[str, object]) -> dict[str, object]:
    """The penalty on repetition as the ecosystem has it: of a shorter prompt's row, as many first codes are free of it
    as its prompt is shorter, so that rows of one call sound as they do there."""
    penalty, longest = own.get("repetition_penalty"), max(len(one.prompt) for one in sayings)
    free = torch.tensor([longest - len(one.prompt) for one in sayings])
    if not isinstance(penalty, (int, float)) or penalty == 1 or not bool(free.any()):
        return {}
    given = cast("Sequence[object]", own.get("logits_processor") or ())
    return {"logits_processor": [*given, RepetitionPenaltyLogitsProcessor(float(penalty), free)]}


@torch.no_grad()
def generate(
    model: Omni,
    inputs: object,
    generation_config: GenerationConfig | Mapping[str, object] | None,
    kwargs: Mapping[str, object],
    streamer: Streamer | None,
    tokenizer: Reader | None,
) -> Said:
    """Answer, and speak where that is wanted.

    Args:
        inputs: the thinker's prompts.
        generation_config: the thinker's settings, under those given by keyword.
        kwargs: ``speaker``; ``return_audio`` (by default whether there is a talker), or ``generation_mode``; what
            begins with ``thinker_``, ``talker_`` or ``token2wav_`` is for that part alone; the rest is the thinker's.
        streamer: receives the thinker's tokens.

    Returns:
        What ``generate`` of the thinker gives; where speech is wanted, the tokens, Shape: [B, T + new], and the sound:
        of one row Shape: [1, 1, samples], of several a list, Shape: [samples] each.

    Raises:
        InputError: no talker, nobody of that name, no chat to answer, a setting that cannot be used.
    """
    call = sorted_call(model, inputs, kwargs)
    voice = voice_of(model, call.speaker) if call.speaks and model.has_talker else 0
    if call.speaks:
        talker_of(model)
        talk_settings(model, call.talker)  # what is wrong with them is said before anything is written
        call.thinker["return_dict_in_generate"] = True
    given = call.thinker
    made = calls.generate(model.thinker, None, generation_config, streamer=streamer, tokenizer=tokenizer, **given)
    if not call.speaks:
        return cast("Tensor | GenerateOutput", made)
    sequences = cast(GenerateOutput, made).sequences
    rows = told_rows(model, _inputs(model, given))
    if len(sequences) != len(rows):
        raise InputError("each prompt is answered once where it is spoken", where="num_return_sequences", expected="1")
    answers = sequences[:, len(rows[0].ids) :].tolist()
    ends = _ends(given["eos_token_id"])
    said = [saying_of(model, row, answer, ends, voice) for row, answer in zip(rows, answers, strict=True)]
    waves = _spoken(model, said, call)
    return sequences, waves[0][None, None] if len(waves) == 1 else waves


def _inputs(model: Omni, given: Mapping[str, object]) -> dict[str, object]:
    """The thinker's inputs among what it is told."""
    known = model.thinker.accepts()
    return {name: value for name, value in given.items() if name in known and value is not None}


def _ends(told: object) -> list[int]:
    return [told] if isinstance(told, int) else [*cast("Sequence[int]", told or ())]


def _spoken(model: Omni, said: Sequence[Saying | None], call: Talk) -> list[Tensor]:
    """The sound of each row. Shape: [samples] each, float32."""
    there = [one for one in said if one is not None]
    if there:
        engine, answers = begin(model, there, call.talker)
        while [answer for answer in answers if not answer.done]:  # each is asked: a failure is told at once
            engine.step()
    sound = cast(CodeSound, model.code2wav)
    nothing = torch.zeros(0, device=model.device)
    return [
        nothing
        if one is None or not one.codes
        else sound.chunked_decode(one.frames()[None], **call.sound)[0, 0].float()
        for one in said
    ]


@dataclass(frozen=True, slots=True)
class SpeechPiece:
    """A piece of an answer as it comes.

    Attributes:
        tokens: of its text, that are new.
        samples: of its sound, that are new. Shape: [samples]; perhaps none.
    """

    tokens: tuple[int, ...]
    samples: Tensor


class _Thinking:
    """The thinker's row of a streamed answer."""

    def __init__(self, model: Omni, call: Talk) -> None:
        job = calls.prepare(model.thinker, None, None, call.thinker)
        if len(job.prompts) != 1:
            raise InputError(
                "one answer is streamed at a time", where="input_ids", expected="1 row", found=len(job.prompts)
            )
        self.engine, self.answers = job.engine(), job.answers()
        calls.enqueue(self.engine, job, self.answers)
        self._shown = 0

    @property
    def tokens(self) -> list[int]:
        """What was written."""
        return self.answers[0].tokens[0] if self.answers[0].tokens else []

    @property
    def done(self) -> bool:
        """Whether that is all."""
        return self.answers[0].done

    def news(self) -> tuple[int, ...]:
        """What was written since this was asked last."""
        fresh = tuple(self.tokens[self._shown :])
        self._shown += len(fresh)
        return fresh


def stream_speech(model: Omni, inputs: object = None, *, frames: int = 12, **kwargs: object) -> Iterator[SpeechPiece]:
    """Answer one prompt in text and speech, piece by piece as they come.

    The talker begins with the first words, while the thinker writes on; samples are those that the whole sounds like.

    Args:
        inputs: the thinker's prompt, one row.
        frames: of speech in a piece; the first one is as short as can be.
        kwargs: as for :func:`generate`.

    Raises:
        InputError: as :func:`generate`; several rows.
    """
    call = sorted_call(model, inputs, {**kwargs, "return_audio": True})
    voice = voice_of(model, call.speaker)
    sound = cast(CodeSound, talker_of(model) and model.code2wav)
    (told,) = told_rows(model, _inputs(model, call.thinker))
    thinking, ends = _Thinking(model, call), _ends(call.thinker["eos_token_id"])
    while not thinking.done and len(thinking.tokens) < 2:
        thinking.engine.step()
    saying = saying_of(model, told, thinking.tokens, ends, voice)
    if saying is None:
        yield SpeechPiece(thinking.news(), torch.zeros(0, device=model.device))
        return
    saying.over = thinking.done
    written = len(thinking.tokens)
    engine, answers = begin(model, [saying], call.talker)
    so_far, heard = SoundSoFar(), 0
    while not answers[0].done:
        while not saying.over and len(saying.text) - 1 <= len(saying.codes):
            thinking.engine.step()
            written = _more(model, saying, thinking, written)
        engine.step()
        if len(saying.codes) - heard >= (frames if heard else 1):
            piece = _samples(sound, saying, heard, so_far)
            heard = len(saying.codes)
            yield SpeechPiece(thinking.news(), piece)
    while not thinking.done:
        thinking.engine.step()
    yield SpeechPiece(thinking.news(), _samples(sound, saying, heard, so_far))


def _more(model: Omni, saying: Saying, thinking: _Thinking, written: int) -> int:
    """Let what the thinker wrote be said too, but for its last token; returns how much it wrote."""
    end = saying.text.pop()
    fresh = thinking.tokens[written - 1 : len(thinking.tokens) - 1]
    saying.text += [*projected(model, fresh)] if fresh else []
    saying.text.append(end)
    saying.over = thinking.done
    return len(thinking.tokens)


def _samples(sound: CodeSound, saying: Saying, first: int, so_far: SoundSoFar) -> Tensor:
    """What the frames from ``first`` on complete of a sound. Shape: [samples], float32."""
    if first == len(saying.codes):
        return torch.zeros(0, device=sound.device)
    return sound.go_on(torch.stack(saying.codes[first:], dim=1)[None], so_far)[0, 0].float()
