"""``generate`` of models that hear: any length of sound, window by window, in the ecosystem's forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.encoder_decoder import EncoderOutputs, encoder_output
from omniform.architectures.speech import SpeechToText
from omniform.core.errors import InputError, check_arguments
from omniform.core.generation import GenerationConfig, as_settings
from omniform.core.settings import misspelt
from omniform.engine.calls import Reader, features_of
from omniform.engine.engine import Engine
from omniform.engine.generate import Answers
from omniform.engine.generate_output import GenerateOutput
from omniform.engine.hearing.asked import Hearing
from omniform.engine.hearing.results import Part, beside, filled, together
from omniform.engine.hearing.session import Ear, Limits, Session, Sound
from omniform.engine.hearing.takes import Caller, Take, Window
from omniform.engine.hooks import NAMES
from omniform.engine.memory import decoder_bytes, free_memory
from omniform.engine.paged_state import MEMORY
from omniform.engine.settings import DEFAULT_NEW_TOKENS, Asked, table_of
from omniform.engine.streamers import Streamer
from omniform.inputs.audio.spectrogram import RecordedSpectrogram

BLOCK = 16

_OWN_WAY = frozenset({"temperature", "do_sample"})
"""What each window is told anew."""

_CALL = frozenset({"return_timestamps", "is_multilingual"})
"""Settings whose None means that nobody says, beside those about whole sounds."""


@dataclass(frozen=True, slots=True)
class Spectrogram:
    """A sound whose features were all made. Shape: [1, mel bins, frames].

    Attributes:
        model: what hears it.
        features: its spectrogram.
        frames: how many frames of it are sound.
    """

    model: SpeechToText
    features: Tensor
    frames: int

    @property
    def held(self) -> int:
        return self.features.shape[2]

    def window(self, first: int, frames: int) -> Mapping[str, Tensor]:
        return {"input_features": self.model.listener.window_of(self.features, first, frames)}


@dataclass(frozen=True, slots=True)
class Windows:
    """A recording for the model's encoder, window by window.

    Attributes:
        model: what hears it.
        sound: its features.
    """

    model: SpeechToText
    sound: RecordedSpectrogram

    @property
    def frames(self) -> int:
        return self.sound.frames

    @property
    def held(self) -> int:
        return self.frames

    def window(self, first: int, frames: int) -> Mapping[str, Tensor]:
        features = self.sound.features(first, frames).to(self.model.device, self.model.dtype)
        return {"input_features": self.model.listener.window_of(features)}


@dataclass(frozen=True, slots=True)
class Encoded:
    """One window of sound that was encoded. Shape: [1, S, D]."""

    hidden: Tensor
    frames: int

    @property
    def held(self) -> int:
        return self.frames

    def window(self, first: int, frames: int) -> Mapping[str, Tensor]:
        return {"encoder_outputs": self.hidden}


class Call:
    """One call, understood.

    Args:
        model: what hears.
        named: everything by name: inputs and settings.
        generation_config: settings under those named.
        sounds: what is to be heard, where that is no input.

    Raises:
        InputError: something that cannot be used.
        UnknownArgumentError: a name that is neither, with the nearest one.
    """

    def __init__(
        self,
        model: SpeechToText,
        named: Mapping[str, object],
        generation_config: GenerationConfig | Mapping[str, object] | None,
        sounds: Sequence[Sound] | None = None,
    ) -> None:
        self.model = model
        table = table_of(model)
        known = table.keys() | model.accepts() | model.encoder_inputs | {"encoder_outputs"}
        said = (name for name, value in named.items() if value is not None or misspelt(name, known) is not None)
        check_arguments("generate", said, known)
        silent = model.whole_settings | _CALL
        self.said = {n: v for n, v in named.items() if n in table and not (v is None and n in silent)}
        self.inputs = {n: v for n, v in named.items() if n not in table and v is not None}
        self.config = as_settings(generation_config)
        keywords = {n: v for n, v in self.said.items() if n not in _OWN_WAY}
        self.rows, self.longest = self._size() if sounds is None else (len(sounds), max(s.frames for s in sounds))
        self.long = self.longest > model.listener.window and sounds is None
        if self.said.get("assistant_model") is not None:
            keywords["begin_suppress_tokens"] = None  # what is guessed may be an end
            if self.inputs.get("decoder_input_ids") is not None:
                raise InputError(
                    "an assistant does not begin with the caller's tokens",
                    where="decoder_input_ids",
                    remedy="Pass prompt_ids, or leave the assistant out.",
                )
        self.asked = Asked(model, self.config, keywords)
        self.how = Hearing.read(model, self.asked, self.said, long=self.long)
        self.each = cast(int, self.asked.values["num_return_sequences"])
        timed = {"return_timestamps": self.how.timestamps, "num_return_sequences": 1}
        self.layers = (self.config, {**keywords, **timed})

    def _size(self) -> tuple[int, int]:
        """How many sounds there are, and the frames of the longest."""
        features, hidden = self.inputs.get("input_features"), self.inputs.get("encoder_outputs")
        if hidden is not None:
            given = (hidden,) if isinstance(hidden, Tensor) else cast("EncoderOutputs", hidden)
            encoded = encoder_output(given).last_hidden_state
            return encoded.shape[0], encoded.shape[1] * self.model.listener.stride
        if recorded := recordings_in(features):
            return len(recorded), max(one.frames for one in recorded)
        if features is None:
            raise InputError("there is nothing to hear", where="input_features", expected="a tensor", found="none")
        shape = features_of(self.model, {"input_features": features}).get("input_features")
        bands = self.model.listener.conv1.in_channels
        if shape is None or shape.dim() != 3 or shape.shape[1] != bands or not shape.numel():
            raise InputError(
                "the features do not fit the encoder",
                where="input_features",
                expected=f"shape [batch, {bands}, frames]",
                found="no tensor" if shape is None else f"shape {list(shape.shape)}",
                remedy="Make them with the checkpoint's own feature extractor.",
            )
        return shape.shape[0], shape.shape[2]

    def sounds(self) -> list[Sound]:
        """What is to be heard, row by row."""
        hidden = self.inputs.get("encoder_outputs")
        if hidden is not None:
            given = (hidden,) if isinstance(hidden, Tensor) else cast("EncoderOutputs", hidden)
            encoded = encoder_output(given).last_hidden_state.to(self.model.device, self.model.dtype)
            return [Encoded(encoded[i : i + 1], self.longest) for i in range(self.rows)]
        if recorded := recordings_in(self.inputs["input_features"]):
            return [Windows(self.model, one) for one in recorded]
        features = features_of(self.model, {"input_features": self.inputs["input_features"]})["input_features"]
        counts = [self.longest] * self.rows
        if self.long and self.rows > 1:
            known = self.known()
            if known is None:
                raise InputError(
                    "sounds of several lengths side by side need their masks",
                    where="attention_mask",
                    expected=f"shape [{self.rows}, {self.longest}]",
                    found="none",
                    remedy="Call the processor with return_attention_mask=True.",
                )
            counts = known
        else:
            self.known()  # a mask that cannot be is said, also where nothing depends on it
        return [Spectrogram(self.model, features[i : i + 1], count) for i, count in enumerate(counts)]

    def known(self) -> list[int] | None:
        """How many frames of each row are sound, as its mask says; None without one."""
        if recorded := recordings_in(self.inputs.get("input_features")):
            return [one.frames for one in recorded]
        mask = self.inputs.get("attention_mask")
        if mask is None:
            return None
        real = torch.as_tensor(mask)
        if real.dim() != 2 or real.shape[0] != self.rows:
            raise InputError(
                "a mask tells which frames are sound",
                where="attention_mask",
                expected=f"shape [{self.rows}, {self.longest}]",
                found=f"shape {list(real.shape)}",
            )
        return [int(n) for n in real.sum(-1)]

    def limits(self) -> Limits:
        """How long answers may be, and what ends and fills them."""
        values = self.asked.values
        new, whole, beams = (values[name] for name in ("max_new_tokens", "max_length", "num_beams"))
        positions = self.model.max_positions
        assert positions is not None, "a decoder of speech has a table of positions"
        return Limits(
            new if isinstance(new, int) else None,
            whole if isinstance(whole, int) else DEFAULT_NEW_TOKENS,
            positions,
            self.asked.pad_token_id,
            cast("tuple[int, ...]", values["eos_token_id"]),
            beams if isinstance(beams, int) else 1,
            values["cache_implementation"] == "static",
        )

    def openings(self, engine: Engine, caller: Caller, sounds: Sequence[Sound]) -> list[tuple[int, ...]]:
        """The tokens that each row's answers begin with; a language that nobody names is heard in the first window."""
        options = [{**own, "return_timestamps": self.how.timestamps} for own in self.asked.own(len(sounds))]
        unknown = [i for i, own in enumerate(options) if self.model.detects(own)]
        window = self.model.listener.window
        first = [
            Window(sounds[i].window(0, min(window, sounds[i].held)), (self.model.first_token(options[i]),))
            for i in unknown
        ]
        looks = caller.look(first)
        finish(engine, looks)
        heard: dict[int, int] = {}
        for i, look in zip(unknown, looks, strict=True):
            tokens = self.model.languages(options[i])
            scores = look.finished().sequences[0].logits[0]
            heard[i] = tokens[int(scores[tokens].argmax())]
        return [tuple(self.model.opening(own, heard.get(i))) for i, own in enumerate(options)]

    def starts(self) -> list[list[int]] | None:
        """What the decoder reads first, where the caller says so."""
        given = self.inputs.get("decoder_input_ids")
        if given is None:
            return None
        ids = torch.as_tensor(given)
        mask = self.inputs.get("decoder_attention_mask")
        real = torch.ones_like(ids) if mask is None else torch.as_tensor(mask)
        if ids.dim() != 2 or ids.shape[0] != self.rows or real.shape != ids.shape or ids.is_floating_point():
            raise InputError(
                "encoder and decoder have different numbers of rows",
                where="decoder_input_ids",
                expected=f"integers of shape [{self.rows}, tokens]",
                found=f"{ids.dtype} of shape {list(ids.shape)}",
            )
        return [row[own != 0].tolist() for row, own in zip(ids, real, strict=True)]

    def hang_together(self, limits: Limits, streamer: Streamer | None) -> bool:
        """Whether the rows' draws, lengths or outputs depend on one another, as in the ecosystem."""
        how, values = self.how, self.asked.values
        drawn = how.draws and values["seed"] is None
        objects = any(self.asked.parts.get(name) is not None for name in NAMES)
        shown = how.outputs or how.token_times or (how.as_outputs and how.segments) or how.whole
        marked = values["watermarking_config"] is not None
        told = how.progress is not None or streamer is not None
        plain = self.long and limits.pad in limits.ends
        return not plain or how.condition or drawn or objects or shown or marked or told

    def lead(self) -> Tensor | None:
        """The tokens of a prompt for the first window, which stand before what was said."""
        prompt = self.how.prompt
        if prompt is None or self.how.prompt_everywhere:
            return None
        return torch.tensor(prompt[1:] if prompt[0] == self.asked.values.get("prev_sot_token_id") else prompt)


def recordings_in(features: object) -> list[RecordedSpectrogram]:
    """The spectrograms that are made window by window, where features are such: one, or a list of them."""
    given = features if isinstance(features, (list, tuple)) else [features]
    return [*given] if given and all(isinstance(one, RecordedSpectrogram) for one in given) else []


def engine_for(model: SpeechToText, rows: int, beams: int, *, whole_steps: bool) -> Engine:
    """An engine with room for a window of each row, and no more: what was heard is not heard again.

    Args:
        whole_steps: the prompts of all rows are read in one step, so that rows begin together.
    """
    sizes = decoder_bytes(model)
    positions = model.max_positions or 0
    frames = model.listener.embed_positions.num_embeddings
    memory = rows * _blocks(frames) * sizes[MEMORY]
    state = rows * (beams + 1) * (_blocks(positions) + 2 * BLOCK) * sum(n for k, n in sizes.items() if k != MEMORY)
    free = free_memory(model.device) // 2
    need = 2 * max(memory, state) + 2 * BLOCK * sum(sizes.values())
    step = max(512, rows * positions) if whole_steps else None
    return Engine(model, memory=min(need, max(free, 1)), block_size=BLOCK, max_tokens_per_step=step, prefix_cache=False)


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK) * BLOCK


def generate(
    model: SpeechToText,
    inputs: object,
    generation_config: GenerationConfig | Mapping[str, object] | None,
    kwargs: Mapping[str, object],
    streamer: Streamer | None,
    tokenizer: Reader | None,
) -> Tensor | GenerateOutput | dict[str, object]:
    """Write what was said; see :func:`omniform.engine.generate.generate`.

    Returns:
        What was said of each sound, without what the decoder read first and without ends, Shape: [B, T]; with
        ``return_segments``, ``return_token_timestamps`` or ``return_dict_in_generate`` a mapping of ``sequences``,
        ``segments`` and ``token_timestamps``; for one window with ``return_dict_in_generate``, and for calls that say
        ``force_unique_generate_call``, what a single call of ``generate`` gives.
    """
    named = dict(kwargs)
    if inputs is not None:
        if named.get("input_features") is not None:
            raise InputError("the sound is given twice", where="input_features", expected="one of inputs and this name")
        named["input_features"] = inputs
    call = Call(model, named, generation_config)
    if call.asked.parts.get("past_key_values") is not None or "past_key_values" in call.inputs:
        raise InputError(
            "what is heard window by window begins anew with each",
            where="past_key_values",
            remedy="Leave it out; prompt_ids and condition_on_prev_tokens tell a window what came before.",
        )
    sounds, limits = call.sounds(), call.limits()
    rows = call.rows * call.each
    bound = call.hang_together(limits, streamer)
    engine = engine_for(model, rows, limits.beams, whole_steps=bound)
    caller = Caller(model, engine, call.layers, tokenizer, streamer)
    openings = call.openings(engine, caller, sounds)
    known = call.known() if call.how.token_times else None
    ears = [
        Ear(sounds[i], openings[i], call.lead(), call.how.begins_conditioned, None if known is None else known[i])
        for i in range(call.rows)
        for _ in range(call.each)
    ]
    starts = call.starts()
    if starts is not None:
        starts = [starts[i] for i in range(call.rows) for _ in range(call.each)]
    seed = cast("int | None", call.asked.values["seed"])
    sessions = [
        Session(
            model,
            caller,
            call.how,
            [ears[i] for i in some],
            limits,
            long=call.long,
            seed=None if seed is None else seed + some[0],
            start=None if starts is None else [starts[i] for i in some],
        )
        for some in ([range(rows)] if bound else [[i] for i in range(rows)])
    ]
    for _ in drive(engine, sessions):
        pass
    return _given_back(call, ears, sessions, limits.pad)


def finish(engine: Engine, answers: Sequence[Answers]) -> None:
    """Step an engine until some answers are there."""
    for answer in answers:
        while not answer.done:
            engine.step()


def drive(engine: Engine, sessions: Sequence[Session]) -> Iterator[Session]:
    """Step an engine until everything was heard. Yields a session whenever a round of it is over."""
    waiting: list[tuple[Session, Iterator[Take | None], Take | None]] = [(s, s.run(), None) for s in sessions]
    while waiting:
        going: list[tuple[Session, Iterator[Take | None], Take | None]] = []
        for session, run, take in waiting:
            if take is not None and not take.done:
                going.append((session, run, take))
                continue
            for following in run:
                if following is not None:
                    going.append((session, run, following))
                    break
                yield session
        waiting = going
        if waiting:
            engine.step()


def _given_back(
    call: Call, ears: Sequence[Ear], sessions: Sequence[Session], pad: int
) -> Tensor | GenerateOutput | dict[str, object]:
    """What the caller gets, of what was heard."""
    how, device = call.how, call.model.device
    last = sessions[0].last
    if how.only_outputs and last is not None:
        return together(last[0], last[1], each=call.each, pad=pad)
    _even(sessions, pad)
    like = torch.empty(0, dtype=torch.long, device=device)
    said = [[segment.tokens for segment in ear.segments] for ear in ears]
    times = None
    if how.whole:
        results = [ear.segments[0].result for ear in ears]
        said = [[cast("Tensor", r["sequences"] if isinstance(r, dict) else r)] for r in results]
    sequences = beside(said, pad, like).to(device)
    if how.token_times:
        parts = [[cast(Part, segment.result)["token_timestamps"] for segment in ear.segments] for ear in ears]
        own = [
            [cast(Tensor, t)[slice(*segment.place)] if not how.whole else cast(Tensor, t)
             for t, segment in zip(row, ear.segments, strict=True)]
            for row, ear in zip(parts, ears, strict=True)
        ]  # fmt: skip
        times = beside([row[:1] if how.whole else row for row in own], None, torch.empty(0)).to(device)
    if not (how.segments or how.outputs or how.token_times):
        return sequences
    found: dict[str, object] = {"sequences": sequences}
    if times is not None:
        found["token_timestamps"] = times
    if how.segments or how.outputs:
        found["segments"] = [[segment.as_dict() for segment in ear.segments] for ear in ears]
    return found


def _even(sessions: Sequence[Session], pad: int) -> None:
    """Fill results to the lengths that they have where all rows of a round are written side by side."""
    lengths: dict[tuple[int, int], int] = {}
    for session in sessions:
        for key, length in session.lengths.items():
            lengths[key] = max(lengths.get(key, 0), length)
    for session in sessions:
        for key, segment in session.results:
            if isinstance(segment.result, Tensor):
                segment.result = filled(segment.result, lengths[key], pad)
