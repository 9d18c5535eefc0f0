"""Twenty-four requests at once: texts, pictures, sounds, and a picture that comes again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from omniform_bench import SECONDS, SPEED, Scenario

RATE = 16000
WORDS = ("what", "is", "the", "colour", "of", "this", "circle", "and", "where", "does", "it", "stand", "who", "speaks")
IMAGE, SOUND = "<image>", "<sound>"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a text, and the media in it, by number: equal numbers are equal items."""

    words: int
    pictures: tuple[int, ...] = ()
    sounds: tuple[int, ...] = ()

    @property
    def kind(self) -> tuple[int, int]:
        """Requests of one kind share a batch where somebody makes batches."""
        return len(self.pictures), len(self.sounds)

    def text(self) -> str:
        """Its text, with the markers of its media in front."""
        import numpy as np

        words = np.random.default_rng(self.words).choice(WORDS, self.words)
        return " ".join([IMAGE] * len(self.pictures) + [SOUND] * len(self.sounds) + [*words])


REQUESTS: Sequence[Request] = (
    *(Request(words) for words in (5, 60, 12, 30, 8, 90, 20, 15)),
    *(Request(words, (number,)) for number, words in enumerate((6, 9, 14, 7, 22))),
    *(Request(words, (0,)) for words in (11, 5, 8)),
    *(Request(words, (10 + 3 * number, 11 + 3 * number, 12 + 3 * number)) for number, words in enumerate((6, 10, 8))),
    *(Request(words, (), (2 * number, 2 * number + 1)) for number, words in enumerate((5, 9, 6, 12, 7))),
)
"""Eight texts, five pictures, three more questions about the first of them, three times three pictures, five times two
sounds."""


@dataclass(frozen=True, kw_only=True)
class Mixed(Scenario):
    """All of them are answered by a Phi-4-multimodal: by an engine, or as a contender's option ``way`` says: ``alone``,
    one after another, or in ``batches`` of like ones.

    Attributes:
        new_tokens: of every answer.
        edge: rows and columns of a picture.
        seconds: of a sound.
    """

    new_tokens: int = 16
    edge: int = 448
    seconds: float = 3.0
    NEEDS: ClassVar = ("write",)
    GIVES: ClassVar = {"requests.latency": SECONDS, "requests.throughput": SPEED}

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Load, and read all inputs, which is not measured."""
        backend.prepare()
        auto = backend.library.AutoModelForCausalLM
        backend.model = auto.from_pretrained(job.model, dtype="float32").eval()
        answer = self.answering(backend)

        def sample() -> dict[str, float]:
            started = job.now()
            answer()
            spent = max(job.now() - started, 1e-9)
            return {"requests.latency": spent, "requests.throughput": len(REQUESTS) * self.new_tokens / spent}

        return sample

    def answering(self, backend: Any) -> Callable[[], list[list[int]]]:
        """Answers all requests, in their order."""
        reader = self.reader(backend.library)
        # A placeholder that a model writes would be looked for a picture.
        placeholders = reader.tokenizer.convert_tokens_to_ids([IMAGE, SOUND])
        asked = {"max_new_tokens": self.new_tokens, "min_new_tokens": self.new_tokens, "do_sample": False,
                 "suppress_tokens": placeholders}  # fmt: skip
        way = backend.options["options"].get("way", "engine")
        kinds = dict.fromkeys(request.kind for request in REQUESTS)
        groups = [[at for at, one in enumerate(REQUESTS) if one.kind == kind] for kind in kinds]
        if way != "batches":
            groups = [[at] for at in range(len(REQUESTS))]
        read = [self.read(reader, [REQUESTS[at] for at in group]) for group in groups]
        return partial(_engine if way == "engine" else _generate, backend, groups, read, asked)

    def answer(self, backend: Any) -> Sequence[float]:
        """All tokens: they are the same."""
        return [float(token) for row in self.answering(backend)() for token in row]

    def reader(self, library: Any) -> Any:
        """The library's processor, over a tokenizer of a few words."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        vocabulary = {word: number for number, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", *WORDS))}
        made = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = library.PreTrainedTokenizerFast(
            tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
            extra_special_tokens={"image_token": IMAGE, "audio_token": SOUND},
        )  # fmt: skip
        pictures = library.Phi4MultimodalImageProcessor(size={"height": self.edge, "width": self.edge})
        return library.Phi4MultimodalProcessor(pictures, library.Phi4MultimodalFeatureExtractor(), tokenizer)

    def read(self, reader: Any, requests: Sequence[Request]) -> dict[str, Any]:
        """The inputs of some requests in one batch."""
        import numpy as np
        from PIL import Image

        media: dict[str, Any] = {}
        pictures = [number for request in requests for number in request.pictures]
        sounds = [number for request in requests for number in request.sounds]
        if pictures:
            shape = self.edge, self.edge, 3
            chances = [np.random.default_rng(100 + number) for number in pictures]
            media["images"] = [Image.fromarray(one.integers(0, 256, shape, dtype=np.uint8)) for one in chances]
        if sounds:
            chances = [np.random.default_rng(200 + number) for number in sounds]
            heard = [one.standard_normal(round(self.seconds * RATE)).astype(np.float32) for one in chances]
            media |= {"audio": heard, "sampling_rate": RATE}
        texts = [request.text() for request in requests]
        return dict(reader(text=texts, padding=True, padding_side="left", return_tensors="pt", **media))


def _engine(backend: Any, groups: Any, read: Sequence[Any], asked: dict[str, Any]) -> list[list[int]]:
    """An engine that is given all of them at once, and knows nothing of those before."""
    return [list(one.tokens) for one in backend.library.Engine(backend.model).generate_batch(read, **asked)]


def _generate(backend: Any, groups: Any, read: Sequence[Any], asked: dict[str, Any]) -> list[list[int]]:
    """Batch after batch."""
    rows: dict[int, list[int]] = {}
    for group, inputs in zip(groups, read, strict=True):
        with backend.torch.inference_mode():
            written = backend.model.generate(**inputs, **asked)[:, inputs["input_ids"].shape[1] :].tolist()
        rows.update(zip(group, written, strict=True))
    return [rows[at] for at in range(len(REQUESTS))]
