"""The most memory that a piece of work takes: each time in a process of its own, which has imported everything."""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from omniform_bench import Kind, Scenario, tokens

BYTES = Kind("B")
RATE = 16000


def held(what: str) -> float:
    """Bytes that this process holds (``VmRSS``), or held at most since :func:`beyond` began (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith(f"{what}:")).split()[1])


@contextmanager
def beyond() -> Iterator[dict[str, float]]:
    """The most that the work within takes: ``memory.beyond`` what was held before it, and ``memory.whole``."""
    found: dict[str, float] = {}
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = held("VmRSS")
    yield found
    found |= {"memory.beyond": max(held("VmHWM") - before, 1.0), "memory.whole": held("VmHWM")}


@dataclass(frozen=True, kw_only=True)
class Once(Scenario):
    """A model is loaded and works once: it computes a forward, or writes some tokens.

    Attributes:
        task: what it is loaded for.
        inputs: of a forward, as the scenario ``forward`` has them; where there are none, it writes.
        batch: rows of a forward.
        prompt_tokens, new_tokens: read and written.
    """

    task: str = "text-generation"
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    batch: int = 1
    prompt_tokens: int = 32
    new_tokens: int = 8
    NEEDS: ClassVar = ("load", "forward", "write")
    GIVES: ClassVar = {
        "memory.beyond": BYTES, "memory.whole": BYTES, "memory.loaded": BYTES, "weights.size": BYTES,
        "memory.share": Kind("x"),
    }  # fmt: skip
    FRESH: ClassVar = True

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Import, and let torch take what a first product takes."""
        backend.prepare()
        torch = backend.torch
        torch.ones(64, 64) @ torch.ones(64, 64)
        auto = job.backend["load_class"] or "AutoModelForCausalLM"
        getattr(backend.library, auto)  # its modules count as imported

        def sample() -> dict[str, float]:
            with beyond() as found:
                backend.load(self.task)
                loaded = held("VmHWM")
                if self.inputs:
                    backend.forward(backend.shaped(self.inputs, self.batch))
                else:
                    backend.write([tokens("once", self.prompt_tokens, backend.vocabulary())], self.new_tokens)
            size = float(backend.model.get_memory_footprint())
            before = found["memory.whole"] - found["memory.beyond"]
            share = found["memory.beyond"] / size
            return {**found, "memory.loaded": loaded - before, "weights.size": size, "memory.share": share}

        return sample


@dataclass(frozen=True, kw_only=True)
class LargePicture(Scenario):
    """A very large picture becomes what a model is given, from its file.

    Attributes:
        processor: the family's name in the class: ``ViT`` of ``ViTImageProcessor``.
        side: rows and columns.
    """

    processor: str = "ViT"
    side: int = 12000
    NEEDS: ClassVar = ("preprocess",)
    GIVES: ClassVar = {"memory.of_decoded": Kind("x"), "memory.beyond": BYTES, "memory.whole": BYTES}
    FRESH: ClassVar = True

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Write the file once; read a small one before, since what is imported only then is no part of it."""
        backend.prepare()
        from PIL import Image

        processor = getattr(backend.library, f"{self.processor}ImageProcessor")()
        processor(Image.new("RGB", (64, 64)), return_tensors="pt")
        file = self.file()
        more: dict[str, Any] = {}
        if job.backend["kind"] == "omniform":  # by default it refuses what Pillow warns of
            from omniform.inputs.media_access import MediaAccess

            more["media_access"] = MediaAccess(max_pixels=2 * self.side**2)
        Image.MAX_IMAGE_PIXELS = None

        def sample() -> dict[str, float]:
            with beyond() as found, Image.open(file) as picture:
                processor(picture, return_tensors="pt", **more)
            return {"memory.of_decoded": found["memory.beyond"] / (3 * self.side**2), **found}

        return sample

    def file(self) -> Path:
        """A picture that compresses well; written in another process, whose memory is not this one's."""
        path = Path(tempfile.gettempdir()) / f"omniform-large-{self.side}.png"
        if not path.is_file():
            import subprocess
            import sys

            code = (
                "import sys, os; from PIL import Image; side, path = int(sys.argv[1]), sys.argv[2]\n"
                "bands = [Image.linear_gradient('L').rotate(angle).resize((side, side)) for angle in (0, 90, 180)]\n"
                "unfinished = f'{path}.{os.getpid()}.png'\n"
                "Image.merge('RGB', bands).save(unfinished, compress_level=1); os.replace(unfinished, path)"
            )
            subprocess.run([sys.executable, "-c", code, str(self.side), str(path)], check=True)
        return path


@dataclass(frozen=True, kw_only=True)
class LongSound(Scenario):
    """A long file is written down by the bundled recogniser, which has heard five seconds before.

    Attributes:
        door: ``hear``, which tells words as they come, or ``transcribe``.
        seconds: of the file.
    """

    door: str = "hear"
    seconds: int = 3600
    NEEDS: ClassVar = ("engine",)
    GIVES: ClassVar = {"memory.beyond": BYTES, "memory.whole": BYTES}
    FRESH: ClassVar = True

    def check(self) -> None:
        """The door is one of two."""
        if self.door not in ("hear", "transcribe"):
            raise ValueError(f"door is {self.door!r}, and must be hear or transcribe")

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Load, and listen to a little."""
        backend.prepare()
        from omniform.engine.hearing.hear import hear

        model = backend.library.WhisperForConditionalGeneration.from_pretrained(job.model)
        reader = backend.library.AutoProcessor.from_pretrained(job.model)

        def listen(source: object) -> object:
            if self.door == "transcribe":
                return list(model.transcribe(source, processor=reader))
            return list(hear(model, reader, source, words=True))

        listen((noise(5, 0), RATE))

        def sample() -> dict[str, float]:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "long.wav"
                write(file, self.seconds)
                with beyond() as found:
                    listen(str(file))
            return found

        return sample


def noise(seconds: int, seed: int) -> Any:
    """A sound that is louder and quieter by turns."""
    import numpy as np

    samples = np.random.default_rng(seed).standard_normal(seconds * RATE, dtype=np.float32) * 0.1
    return samples * (1 + np.sin(np.arange(len(samples), dtype=np.float32) / RATE))


def write(path: Path, seconds: int) -> None:
    """A file of so many seconds, written minute by minute."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        for first in range(0, seconds, 60):
            samples = noise(min(60, seconds - first), first) * 0.05
            file.writeframes((samples * 32767).astype("<i2").tobytes())
