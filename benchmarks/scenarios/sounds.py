"""Long sounds: their log-mels, and what is said in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from omniform_bench import SECONDS, Kind, Scenario, at_least

RATE = 16000
COMMAND = Path(__file__).parents[2] / "examples/sounds/command.wav"
ANSWER = 4096
"""About how many numbers of log-mels are told."""


@dataclass(frozen=True, kw_only=True)
class Mels(Scenario):
    """A long sound through Whisper's feature extractor.

    Attributes:
        bands: of its log-mels.
        seconds: of the sound.
    """

    bands: int = 80
    seconds: int = 3600
    NEEDS: ClassVar = ("preprocess",)
    GIVES: ClassVar = {"preprocessing.latency": SECONDS, "preprocessing.throughput": Kind("s/s", "higher")}

    def check(self) -> None:
        """There is a sound."""
        at_least(1, bands=self.bands, seconds=self.seconds)

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Make the sound."""
        backend.prepare()
        read = self.reading(backend)

        def sample() -> dict[str, float]:
            started = job.now()
            read()
            spent = max(job.now() - started, 1e-9)
            return {"preprocessing.latency": spent, "preprocessing.throughput": self.seconds / spent}

        return sample

    def reading(self, backend: Any) -> Callable[[], Any]:
        """Reads the sound."""
        made = backend.library.WhisperFeatureExtractor(feature_size=self.bands)
        asked = {"sampling_rate": RATE, "truncation": False, "padding": "longest", "return_tensors": "np"}
        return partial(made, noise(self.seconds), **asked)

    def answer(self, backend: Any) -> Sequence[float]:
        """Numbers from everywhere in them."""
        flat = self.reading(backend)()["input_features"].reshape(-1)
        return [float(number) for number in flat[:: max(len(flat) // ANSWER, 1)]]


def noise(seconds: float) -> Any:
    """A sound that is louder and quieter by turns."""
    import numpy as np

    samples = np.random.default_rng(0).standard_normal(round(seconds * RATE), dtype=np.float32) * 0.1
    return samples * (1 + np.sin(np.arange(len(samples), dtype=np.float32) / RATE))


@dataclass(frozen=True, kw_only=True)
class LongForm(Scenario):
    """Files of different lengths are written down in one batch, window after window.

    They hold spoken commands between silences, so that answers of the bundled recogniser are as short and as sure as
    real ones.

    Attributes:
        seconds: of each file.
        settings: of ``generate``, beside those of ``way``.
        way: ``greedy``, or ``authors``: as Whisper's authors do, anew at higher temperatures where a text does not
            convince.
    """

    seconds: tuple[int, ...] = (35, 190, 60, 45, 120, 31, 240, 90)
    way: str = "greedy"
    settings: Mapping[str, object] = field(default_factory=dict)
    NEEDS: ClassVar = ("write",)
    GIVES: ClassVar = {"transcription.latency": SECONDS, "transcription.throughput": Kind("s/s", "higher")}

    WAYS: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "greedy": {"do_sample": False},
        "authors": {
            "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "compression_ratio_threshold": 1.35,
            "logprob_threshold": -1.0, "no_speech_threshold": 0.6, "condition_on_prev_tokens": False,
        },
    }  # fmt: skip

    def check(self) -> None:
        """The way is known."""
        if self.way not in self.WAYS:
            raise ValueError(f"way is {self.way!r}, and must be one of {', '.join(self.WAYS)}")

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Load, and read the files into log-mels, which is not measured."""
        backend.prepare()
        write = self.writing(backend)

        def sample() -> dict[str, float]:
            started = job.now()
            write()
            spent = max(job.now() - started, 1e-9)
            return {"transcription.latency": spent, "transcription.throughput": sum(self.seconds) / spent}

        return sample

    def writing(self, backend: Any) -> Callable[[], Any]:
        """Writes all files down."""
        library = backend.library
        reader = library.AutoFeatureExtractor.from_pretrained(backend.job.model)
        spoken = heard()
        given = reader(
            [talk(spoken, seconds, seed) for seed, seconds in enumerate(self.seconds)], sampling_rate=RATE,
            truncation=False, padding="longest", return_attention_mask=True, return_tensors="pt",
        )  # fmt: skip
        model = library.WhisperForConditionalGeneration.from_pretrained(backend.job.model, dtype="float32").eval()
        asked = {**self.WAYS[self.way], "return_timestamps": True, **self.settings}
        inputs = {key: given[key] for key in ("input_features", "attention_mask")}

        def write() -> Any:
            with backend.torch.inference_mode():
                backend.torch.manual_seed(0)
                return model.generate(**inputs, **asked)

        return write

    def answer(self, backend: Any) -> Sequence[float]:
        """All tokens: they are the same."""
        return [float(token) for row in self.writing(backend)().tolist() for token in row]


def heard() -> Any:
    """The samples of a spoken command."""
    import wave

    import numpy as np

    with wave.open(str(COMMAND)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768


def talk(spoken: Any, seconds: float, seed: int) -> Any:
    """Commands with silences of different lengths between them."""
    import numpy as np

    luck = np.random.default_rng(seed)
    pieces: list[Any] = []
    while sum(map(len, pieces)) < seconds * RATE:
        pieces += [spoken, np.zeros(round(luck.uniform(0.2, 2.0) * RATE), dtype=np.float32)]
    sound = np.concatenate(pieces)[: round(seconds * RATE)]
    return sound + 1e-3 * luck.standard_normal(len(sound), dtype=np.float32)
