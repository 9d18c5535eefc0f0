"""Takes: windows that are heard side by side in one go, each a request of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omniform.architectures.speech import SpeechToText
from omniform.core.state import DenseState
from omniform.engine.cache_calls import CacheUse
from omniform.engine.calls import Reader
from omniform.engine.engine import Engine
from omniform.engine.feeds import Feed, NoFeed, feed_of
from omniform.engine.generate import Answers, Job, check_streamable, enqueue
from omniform.engine.generate_output import KINDS, GenerateOutput, output_of, rows_of
from omniform.engine.replay import Replay
from omniform.engine.request import Completion, Prompt
from omniform.engine.settings import Asked
from omniform.engine.streamers import Streamer

_NO_RULES: Mapping[str, object] = {
    "max_new_tokens": 1, "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "output_logits": True,
    "return_timestamps": False, "return_dict_in_generate": True, "guidance_scale": None, "penalty_alpha": None,
    "dola_layers": None, "min_length": None, "min_new_tokens": None, "forced_eos_token_id": None,
    "forced_bos_token_id": None, "force_words_ids": None, "prompt_lookup_num_tokens": None, "stop_strings": None,
    "assistant_early_exit": None, "num_beam_groups": 1, "logprobs": None, "prompt_logprobs": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """A window that is to be heard.

    Attributes:
        encoder: what the encoder reads, or what it gave, of one row.
        tokens: what the decoder reads first.
        inputs: what the encoder reads, where it has been read already.
    """

    encoder: Mapping[str, Tensor]
    tokens: tuple[int, ...]
    inputs: Mapping[str, Tensor] | None = None

    @property
    def named(self) -> Mapping[str, Tensor]:
        """What a forward reads."""
        return self.encoder if self.inputs is None else self.inputs


@dataclass(slots=True)
class Take:
    """Some windows of one call that are in the engine.

    Attributes:
        job: them, as a call of ``generate``.
        answers: what they give.
        feed: tells somebody of them as they come.
        looks: the scores after other prompts for the same windows, which are looked at beside them.
    """

    job: Job
    answers: list[Answers]
    feed: Feed
    looks: list[Answers] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether all are over; raises what ended one of them, if that was an error."""
        self.feed.step()
        over = [answer.done for answer in (*self.answers, *self.looks)]
        if all(over):
            self.feed.end()
        return all(over)

    def first_scores(self) -> list[Tensor]:
        """The model's scores after the prompt of each look. Shape: [V] each."""
        return [look.finished().sequences[0].logits[0] for look in self.looks]

    def rows(self) -> tuple[Tensor, Tensor]:
        """The prompts, and what was written after them. Shape: [B, T] and [B, new]."""
        return rows_of(self._found, self.job.given, self.job.settings(1), self.job.model.device)

    def output(self, *, shows: bool) -> GenerateOutput:
        """What ``generate`` gives of such a call.

        Args:
            shows: whether somebody will look at more than what the rows were chosen by.
        """
        job, found = self.job, self._found
        prompt, written = self.rows()
        seen: Mapping[str, object] = {}
        cache: DenseState | None = None
        settings = job.settings(1)
        if shows:
            replay = Replay(job.model, job.prompts, job.named, job.asked)
            seen = replay.shown(prompt, written, found)
            replay.note_past_ends(prompt, written, found, settings)
            cache = job.cache(self.answers)
        return output_of(job.model, settings, job.asked, found, torch.cat((prompt, written), dim=1), seen, cache)

    @property
    def kind(self) -> type[GenerateOutput]:
        """Of what ``generate`` gives."""
        return KINDS[self.job.settings(1).num_beams > 1, True]

    @property
    def _found(self) -> list[Completion]:
        return [answer.finished() for answer in self.answers]


class Caller:
    """Puts the windows of one call into an engine.

    Args:
        model: what hears.
        engine: where.
        layers: the call's settings and objects, the later over the earlier ones.
        tokenizer: reads answers for stop strings.
        streamer: gets tokens as they come.
    """

    def __init__(
        self,
        model: SpeechToText,
        engine: Engine,
        layers: Sequence[Mapping[str, object]],
        tokenizer: Reader | None,
        streamer: Streamer | None,
    ) -> None:
        self._model = model
        self._engine = engine
        self._layers = layers
        self._tokenizer = tokenizer
        self._streamer = streamer
        self._told: set[str] = set()

    def begin(
        self, windows: Sequence[Window], width: int, settings: Mapping[str, object], *, seed: int | None, keeps: bool
    ) -> Take:
        """Begin to hear windows.

        Args:
            width: columns of the prompts, shorter ones filled in front.
            settings: over those of the call.
            seed: what draws begin from; None for torch's global generator.
            keeps: whether the state of the decoder is wanted.
        """
        seeded = {} if seed is None else {"seed": seed}
        asked = Asked(self._model, *self._layers, {**settings, **seeded}, told=self._told)
        prompts = [Prompt(w.tokens, (), w.encoder, place=i) for i, w in enumerate(windows)]
        pad = asked.pad_token_id
        given = torch.tensor(
            [[pad] * (width - len(w.tokens)) + list(w.tokens) for w in windows], device=self._model.device
        )
        together = {name: torch.cat([w.named[name] for w in windows]) for name in windows[0].named}
        named: dict[str, object] = {**together, "decoder_input_ids": given}
        caches = CacheUse.read(self._model, asked, named) if keeps else CacheUse(None, None)
        job = Job(self._model, prompts, asked, given, self._tokenizer, caches, named)
        read = job.settings(1)
        if self._streamer is not None:
            check_streamable(read, self._streamer)
        answers = job.answers()
        enqueue(self._engine, job, answers)
        each = read.num_return_sequences
        feed: Feed = NoFeed()
        if self._streamer is not None:
            feed = feed_of(self._streamer, answers, given, each=each, pad=read.pad_token_id)
        return Take(job, answers, feed)

    def look(self, windows: Sequence[Window]) -> list[Answers]:
        """Have the scores after the prompts of windows computed, without any rule."""
        asked = Asked(self._model, dict(_NO_RULES), told={"cut"})
        answers = [Answers() for _ in windows]
        for window, answer in zip(windows, answers, strict=True):
            self._engine.enqueue(Prompt(window.tokens, (), window.encoder), asked, answer)
        return answers
