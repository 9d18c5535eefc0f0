"""One pass over a window of sound: what is said in it, and when."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from statistics import median
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.speech import SpeechToText
from omniform.core.context import Memory, StepContext
from omniform.engine.engine import Engine
from omniform.engine.hearing.agreement import ENDINGS, Pass
from omniform.engine.hearing.alignment import Heads, head_count, token_times
from omniform.engine.settings import Asked
from omniform.inputs.audio import WhisperFeatureExtractor
from omniform.inputs.text.spoken_words import Word
from omniform.inputs.text.whisper import WhisperTokenizer

Span = tuple[float, float]

_STEP = 0.02  # seconds from one of the encoder's frames to the next
_LONGEST = 0.7  # seconds; what takes twice as long as this, or as a usual word, begins with silence


class Listener:
    """Hears windows of sound, each from the words on that are known of it.

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
        self._settings = {**settings, "do_sample": False, "num_beams": 1, "num_return_sequences": 1}
        self._silence, self._unlikely = no_speech_threshold, logprob_threshold
        self._repetition = compression_ratio_threshold
        self._engine = Engine(model, prefix_cache=False)
        asked = Asked(model, settings)
        self._options, self._known = asked.own(1)[0], asked.known
        self._opening: list[int] = []
        self._opening_known = False
        self._special = frozenset(tokenizer.all_special_ids)
        self._off = self._known.get("no_timestamps_token_id")

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
        """Write down a window.

        Args:
            samples: Shape: [n], at :attr:`rate`, at most :attr:`window` of them.
            before: tokens of what was said before it.
            said: tokens of what is known to be said in it, from its beginning on.

        Returns:
            The words after these.
        """
        with torch.inference_mode():
            memory = self._encoded(samples)
            opening = self._opened(memory, known=bool(said))
            lead = self._lead(before)
            written, likely = self._written(memory, [*lead, *opening, *said], fresh=not said)
            if not written:
                return Pass()
            if self._is_silent(memory, [*lead, opening[0]], likely) or self._repeats([*said, *written]):
                return Pass(doubtful=True)
            words = self._tokenizer.words_of(written, self._language(opening))
            frames = samples.shape[0] // self._extractor.hop_length
            times = self._times(memory, [*lead, *opening, *said], written, len(said), frames)
        return Pass(words, _spans(words, times, fresh=not said))

    # -- the steps of a pass -------------------------------------------------------------------------------------------

    def _encoded(self, samples: Tensor) -> Memory:
        features = self._extractor(samples, sampling_rate=self.rate, return_tensors="pt")["input_features"]
        assert isinstance(features, Tensor)
        return self._model.encode(input_features=features.to(self._model.device, self._model.dtype))

    def _opened(self, memory: Memory, *, known: bool) -> list[int]:
        """The tokens that a transcript begins with. The language is heard anew until words are known."""
        if not self._opening or not self._opening_known:
            self._opening = self._model.decoder_prompt(memory, self._options)[0].tolist()
        self._opening_known |= known
        return self._opening

    def _lead(self, before: Sequence[int]) -> list[int]:
        mark = self._known.get("prev_sot_token_id") or self._tokenizer.token_id("<|startofprev|>")
        return [mark, *before] if before and isinstance(mark, int) else []

    def _written(self, memory: Memory, prefix: list[int], *, fresh: bool) -> tuple[list[int], float]:
        """What is written after the tokens that are known, and the mean log-probability of its tokens."""
        room = self.positions - len(prefix)
        if room < 1:
            return [], 0.0
        asked = {"max_new_tokens": room, "logprobs": 0, **self._settings}
        if not fresh:
            asked["begin_suppress_tokens"] = None  # all may have been said
        inputs = {"encoder_outputs": (memory.hidden,), "decoder_input_ids": torch.tensor([prefix])}
        answer = self._engine.generate(inputs, **asked).sequences[0]
        tokens = answer.tokens
        end = next((i for i, token in enumerate(tokens) if self._is_no_text(token)), len(tokens))
        chances = [one.logprob for one in answer.logprobs or ()]
        return tokens[:end], sum(chances) / max(1, len(chances))

    def _is_no_text(self, token: int) -> bool:
        return token in self._special or (isinstance(self._off, int) and token >= self._off)

    def _is_silent(self, memory: Memory, prefix: list[int], likely: float) -> bool:
        """Whether nobody speaks: a token says so where a transcript begins, and what was written is unlikely."""
        if self._silence is None or not isinstance(self._off, int):
            return False
        if self._unlikely is not None and likely >= self._unlikely:
            return False
        embeds = self._model.embed(torch.tensor([prefix], device=memory.hidden.device))
        positions = torch.arange(len(prefix), device=embeds.device)[None]
        ctx = StepContext(positions=positions, memory=memory, backend=self._model.attn_backend)
        scores = self._model.project(self._model.decode(embeds, ctx)[0, -1])
        return float(scores.float().softmax(-1)[self._off - 1]) > self._silence

    def _repeats(self, tokens: Sequence[int]) -> bool:
        text = str(self._tokenizer.decode(list(tokens))).encode()
        return self._repetition is not None and len(text) > self._repetition * len(zlib.compress(text))

    def _language(self, opening: Sequence[int]) -> str | None:
        names = (self._tokenizer.id_token(token) or "" for token in opening[1:2])
        return next((name[2:-2] for name in names if name.startswith("<|")), None)

    def _times(self, memory: Memory, prefix: list[int], written: list[int], said: int, frames: int) -> list[float]:
        """When each written token ends, and before them when the first begins: one more number than tokens."""
        # The token that is read says where the next one is; so the last of the opening tells where the first begins.
        first = len(prefix) - said - 1
        width = self._model.config.get("median_filter_width", 7)
        times = token_times(
            self._model,
            memory,
            torch.tensor([[*prefix, *written, written[-1]]], device=memory.hidden.device),
            prompt=first,
            heads=self._heads(),
            frames=frames,
            median=width if isinstance(width, int) else 7,
        )
        return cast("list[float]", times[0, len(prefix) - 1 : -1].tolist())

    def _heads(self) -> Heads:
        """Those that the checkpoint names, else all of the upper half, as Whisper's own code has it."""
        named = self._known.get("alignment_heads")
        if isinstance(named, (list, tuple)) and named:
            return cast(Heads, named)
        layers = len(self._model.decoder.layers)
        return [
            (layer, head) for layer in range(layers // 2, layers) for head in range(head_count(self._model.decoder))
        ]


def _spans(words: Sequence[Word], times: Sequence[float], *, fresh: bool) -> list[Span]:
    """When words begin and end.

    A path gives every moment to a word, silence too: a word at the beginning of a sentence that takes much longer than
    words do is said at its end.

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
        if opens and end - begin > longest:
            begin = end - longest
        found.append((begin, end))
    return found
