"""One pass over what is kept of a stream: what is said in it, and when."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.speech import SpeechToText
from omniform.core.context import Memory, StepContext
from omniform.engine.hearing.agreement import ENDINGS, Pass
from omniform.engine.hearing.alignment import heads_of, token_times
from omniform.engine.hearing.generate import engine_for
from omniform.engine.hearing.segments import mean_logprob
from omniform.engine.settings import Asked
from omniform.inputs.audio import WhisperFeatureExtractor
from omniform.inputs.text.spoken_words import Word
from omniform.inputs.text.whisper import WhisperTokenizer

Span = tuple[float, float]

_LONGEST = 0.7  # seconds; what takes twice as long as this, or as a usual word, begins with silence


@dataclass(frozen=True, slots=True)
class _Known:
    """What the decoder reads first.

    Attributes:
        lead: what came before, behind the token that says so.
        opening: the tokens that a transcript begins with.
        said: what is known to be said.
    """

    lead: list[int]
    opening: list[int]
    said: list[int]

    @property
    def tokens(self) -> list[int]:
        return [*self.lead, *self.opening, *self.said]


@dataclass(frozen=True, slots=True)
class _Text:
    """What was written: its tokens, and their mean log-probability, that of the end included."""

    tokens: list[int]
    likely: float


class Listener:
    """Hears windows of a stream, each from the words on that are known of it.

    Args:
        model: what hears.
        extractor: makes features of samples.
        tokenizer: reads what was written.
        settings: those of ``generate``, over ``generation_config.json``.
        no_speech_threshold: what is more likely no speech than this, and unlikely as text, is not believed; None: all
            is.
        logprob_threshold: text is unlikely whose tokens have a mean log-probability below this.
        compression_ratio_threshold: what compresses better than this repeats itself, and is not believed.
    """

    def __init__(
        self,
        model: SpeechToText,
        extractor: WhisperFeatureExtractor,
        tokenizer: WhisperTokenizer,
        settings: Mapping[str, object],
        *,
        no_speech_threshold: float | None = 0.6,
        logprob_threshold: float | None = -1.0,
        compression_ratio_threshold: float | None = 2.4,
    ) -> None:
        self._model, self._extractor, self._tokenizer = model, extractor, tokenizer
        settings = {**settings, "return_timestamps": False}  # times are those of the words
        self._settings = {**settings, "num_beams": 1, "num_return_sequences": 1}
        self._silence, self._unlikely = no_speech_threshold, logprob_threshold
        self._repetition = compression_ratio_threshold
        self._engine = engine_for(model, rows=1, beams=1, whole_steps=False)
        asked = Asked(model, settings)
        self._options, self._known = asked.own(1)[0], asked.known
        self._opening: list[int] = []
        self._opening_known = False
        self._special = frozenset(tokenizer.all_special_ids)
        self._off = self._known.get("no_timestamps_token_id")
        self._settings["suppress_tokens"] = self._suppressed(asked)

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self._extractor.sampling_rate

    @property
    def window(self) -> int:
        """Samples that are heard at once."""
        return self._extractor.n_samples

    @property
    def positions(self) -> int:
        """How many tokens the decoder can read and write."""
        return self._model.max_positions or 448

    def hear(self, samples: Tensor, before: Sequence[int], said: Sequence[int]) -> Pass:
        """Write down a window of which more will come.

        Args:
            samples: Shape: [n], at :attr:`rate`, at most :attr:`window` of them.
            before: tokens of what was said before it.
            said: tokens of what is known to be said in it, from its beginning on.

        Returns:
            The words after these.
        """
        with torch.inference_mode():
            memory = self._encoded(samples)
            known = _Known(self._lead(before), self._opened(memory), list(said))
            self._opening_known |= bool(said)
            text = self._written(memory, known)
            if self._is_silent(memory, known, text) or self._repeats(known, text):
                return Pass(doubtful=True)
            return self._pass(samples, memory, known, text)

    # -- the steps of a pass -------------------------------------------------------------------------------------------

    def _encoded(self, samples: Tensor) -> Memory:
        features = self._extractor(samples, sampling_rate=self.rate, return_tensors="pt")["input_features"]
        assert isinstance(features, Tensor)
        return self._model.encode(input_features=features.to(self._model.device, self._model.dtype))

    def _opened(self, memory: Memory) -> list[int]:
        """The tokens that a transcript begins with. The language is heard anew until words are known."""
        if not self._opening_known:
            self._opening = self._model.decoder_prompt(memory, self._options)[0].tolist()
        return self._opening

    def _lead(self, before: Sequence[int]) -> list[int]:
        mark = self._known.get("prev_sot_token_id") or self._tokenizer.token_id("<|startofprev|>")
        return [mark, *before] if before and isinstance(mark, int) else []

    def _written(self, memory: Memory, known: _Known) -> _Text:
        """What is written after the tokens that are known."""
        room = self.positions - len(known.tokens)
        if room < 1:
            return _Text([], 0.0)
        noted = {"return_dict_in_generate": True, "output_scores": True}
        asked = {"max_new_tokens": room, **self._settings, "do_sample": False, **noted}
        if known.said:
            asked["begin_suppress_tokens"] = None  # all may have been said
        inputs = {"encoder_outputs": (memory.hidden,), "decoder_input_ids": torch.tensor([known.tokens])}
        answer = self._engine.generate(inputs, **asked).sequences[0]
        tokens = answer.tokens
        end = next((i for i, token in enumerate(tokens) if self._is_no_text(token)), len(tokens))
        return _Text(tokens[:end], mean_logprob(answer.scores, torch.tensor(tokens), None))

    def _suppressed(self, asked: Asked) -> list[int]:
        """What is not to be written: timestamps and special tokens, but for the end, beside what the settings say."""
        said, ends = (asked.values[name] for name in ("suppress_tokens", "eos_token_id"))
        vocabulary = self._model.vocabulary or 0
        silent = {token for token in range(vocabulary) if self._is_no_text(token)}
        return sorted({*cast("tuple[int, ...]", said or ()), *(silent - {*cast("tuple[int, ...]", ends)})})

    def _is_no_text(self, token: int) -> bool:
        return token in self._special or (isinstance(self._off, int) and token >= self._off)

    def _is_silent(self, memory: Memory, known: _Known, text: _Text) -> bool:
        """Whether nobody speaks: a token says so where a transcript begins, and what was written is unlikely."""
        if self._silence is None or not isinstance(self._off, int) or not text.tokens:
            return False
        if self._unlikely is not None and text.likely >= self._unlikely:
            return False
        embeds = self._model.embed(torch.tensor([[*known.lead, known.opening[0]]], device=memory.hidden.device))
        positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
        ctx = StepContext(positions=positions, memory=memory, backend=self._model.attn_backend)
        scores = self._model.project(self._model.decode(embeds, ctx)[0, -1])
        return float(scores.float().softmax(-1)[self._off - 1]) > self._silence

    def _repeats(self, known: _Known, text: _Text) -> bool:
        whole = str(self._tokenizer.decode([*known.said, *text.tokens])).encode()
        return self._repetition is not None and len(whole) > self._repetition * len(zlib.compress(whole))

    def _pass(self, samples: Tensor, memory: Memory, known: _Known, text: _Text) -> Pass:
        if not text.tokens:
            return Pass()
        words = self._tokenizer.words_of(text.tokens, self._language(known.opening))
        times = self._times(memory, known, text.tokens, samples.shape[0] // self._extractor.hop_length)
        return Pass(words, spans_of(words, times, fresh=not known.said))

    def _language(self, opening: Sequence[int]) -> str | None:
        names = (self._tokenizer.id_token(token) or "" for token in opening[1:2])
        return next((name[2:-2] for name in names if name.startswith("<|")), None)

    def _times(self, memory: Memory, known: _Known, written: list[int], frames: int) -> list[float]:
        """When each written token ends, and before them when the first begins: one more number than tokens."""
        count = len(known.tokens)
        width = self._model.config.get("median_filter_width", 7)
        times = token_times(
            self._model,
            memory,
            torch.tensor([[*known.tokens, *written, written[-1]]], device=memory.hidden.device),
            # The token that is read says where the next one is: the last of the opening, where the first begins.
            prompt=count - len(known.said) - 1,
            heads=heads_of(self._model.decoder, self._known.get("alignment_heads")),
            frames=frames,
            median=width if isinstance(width, int) else 7,
        )
        return cast("list[float]", times[0, count - 1 : -1].tolist())


def spans_of(words: Sequence[Word], times: Sequence[float], *, fresh: bool) -> list[Span]:
    """When words begin and end.

    A path gives every moment to a word, silence too. Where a word takes much longer than words do, the first of a
    sentence is said at its end, and the last of all at its beginning.

    Args:
        times: when each token ends, and before them when the first begins.
        fresh: whether the first word is the first of the window.
    """
    spans = [(times[word.places[0]], times[word.places[-1] + 1]) for word in words]
    lengths = [end - begin for begin, end in spans if end > begin]
    longest = 2 * min(_LONGEST, median(lengths)) if lengths else 0.0
    found: list[Span] = []
    for place, (begin, end) in enumerate(spans):
        opens = fresh if place == 0 else words[place - 1].text.rstrip().endswith(ENDINGS)
        if end - begin > longest and (opens or place == len(words) - 1):
            begin, end = (end - longest, end) if opens else (begin, begin + longest)
        found.append((begin, end))
    return found
