"""What each format of few bits costs and gives: size, quality and speed of one checkpoint in all of them.

Run it with ``python benchmarks/formats.py CHECKPOINT OUT [--only int8 nf4] [--pairs 5]``. Quality is told over texts
that Python brings along (its language reference, ``pydoc_data.topics``), of which the first part teaches the formats
that learn; speed in processor time of one thread, in turn with the checkpoint itself. Beside them: bitsandbytes through
transformers (``theirs:nf4``), and llama.cpp on the GGUF files (``llama.cpp:Q4_K_M``), where these are installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.engine.engine import Engine
from omniform.export.quality import Quality, quality, scores_of, windows
from omniform.export.quantizing import settings_for
from omniform.hub.auto_inputs import AutoTokenizer
from omniform.hub.checkpoint import load_as_saved
from omniform.inputs.text.tokenizer import Tokenizer

FORMATS = (
    "itself", "int8", "int4", "nf4", "fp4", "llm-int8", "fp8", "hqq-8", "hqq-4", "hqq-3", "gptq-8", "gptq-4", "gptq-3",
    *(f"gguf:{name}" for name in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_M", "Q2_K")),
    "theirs:nf4", "theirs:int8", "llama.cpp:Q8_0", "llama.cpp:Q4_K_M", "llama.cpp:Q4_0",
)  # fmt: skip

LEARN, JUDGE = 64, 10
"""Texts of 512 tokens that are learnt from, and judged by."""

PROMPT, ANSWER = 256, 32
"""Tokens read and written where speed is told."""


def texts() -> tuple[list[str], list[str]]:
    """What is learnt from, and what is judged by."""
    from pydoc_data.topics import topics

    long = [text for _, text in sorted(topics.items()) if len(text) > 2500]
    pieces = [text[at : at + 2400] for text in long for at in range(0, len(text) - 2400, 2400)]
    return pieces[1::3][:LEARN], pieces[0::3][:JUDGE]


def size_of(place: Path) -> int:
    """Bytes of a checkpoint's weights."""
    files = [place] if place.is_file() else [*place.glob("*.safetensors")]
    return sum(file.stat().st_size for file in files)


Turn = tuple[float, float]
"""Seconds of the processor that a prompt took, and a token of the answer."""


class Speed:
    """Reads a prompt and writes an answer, a model beside another.

    Args:
        model: it.
        ids: of the prompt.
    """

    def __init__(self, model: Generative, ids: list[int]) -> None:
        self._engine = Engine(model, memory="512MB", prefix_cache=False)
        self._ids = ids

    def __call__(self) -> tuple[float, float]:
        """Seconds of the processor that the prompt took, and a token of the answer."""
        begun = time.process_time()
        self._engine.generate(self._ids, max_new_tokens=1, do_sample=False)
        read = time.process_time() - begun
        begun = time.process_time()
        self._engine.generate(self._ids, max_new_tokens=1 + ANSWER, min_new_tokens=1 + ANSWER, do_sample=False)
        return read, (time.process_time() - begun - read) / ANSWER


def made(form: str, source: Path, out: Path, tokenizer: Tokenizer, learn: list[str]) -> Path:
    """The checkpoint in a format."""
    place = source if form == "itself" else out / form.replace(":", "-")
    if form.startswith("gguf:"):
        place = place.with_suffix(".gguf")
        if not place.is_file():
            load_as_saved(source).save_gguf(place, form[5:], tokenizer=tokenizer)
        return place
    if not place.is_dir():
        settings = settings_for(form, learn, 128 if form.startswith("gptq") else None)
        if settings.quant_method == "gptq":
            settings.update(tokenizer=tokenizer)
        load_as_saved(source, quantization_config=settings).save_pretrained(place)
        tokenizer.save_pretrained(place)
    return place


def figures_of(
    name: str, nbytes: int, told: Quality, before: Callable[[], Turn], after: Callable[[], Turn], pairs: int
) -> dict[str, object]:
    """A line of the table: speed in turn with the checkpoint itself, of which the first pair does not count."""
    turns = [(before(), after()) for _ in range(pairs + 1)][1:]
    return {
        "format": name,
        "MB": nbytes / 1e6,
        "perplexity": told.perplexity,
        "divergence": told.divergence,
        "agreement": told.agreement,
        "decode_ms": 1e3 * median(b[1] for _, b in turns),
        "decode_ratio": median(a[1] / b[1] for a, b in turns),
        "prefill_ratio": median(a[0] / b[0] for a, b in turns),
    }


def ours(form: str, source: Path, out: Path, pairs: int) -> dict[str, object]:
    """A format's figures, and the checkpoint's own beside them."""
    tokenizer = cast(Tokenizer, AutoTokenizer.from_pretrained(source))
    learn, judge = texts()
    begun = time.process_time()
    place = made(form, source, out, tokenizer, learn)
    spent = time.process_time() - begun
    before, after = load_as_saved(source), load_as_saved(place)
    rows = [list(map(int, tokenizer(text)["input_ids"])) for text in judge]
    told = quality([*windows(rows)], scores_of(after), scores_of(before))
    assert isinstance(before, Generative) and isinstance(after, Generative)
    ids = [token for row in rows for token in row][:PROMPT]
    figures = figures_of(form, size_of(place), told, Speed(before, ids), Speed(after, ids), pairs)
    return {**figures, "made_s": spent}


def theirs(form: str, source: Path, pairs: int) -> dict[str, object]:
    """bitsandbytes, through transformers, beside the checkpoint in omniform."""
    import transformers

    given = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if form == "nf4" else {"load_in_8bit": True}
    config = transformers.BitsAndBytesConfig(**given)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto", quantization_config=config).eval()
    tokenizer = cast(Tokenizer, AutoTokenizer.from_pretrained(source))
    _, judge = texts()
    rows = [list(map(int, tokenizer(text)["input_ids"])) for text in judge]

    def scores(ids: Tensor) -> Tensor:
        with torch.inference_mode():
            return cast(Tensor, model(ids).logits).float()

    before = load_as_saved(source)
    told = quality([*windows(rows)], scores, scores_of(before))
    assert isinstance(before, Generative)
    ids = [token for row in rows for token in row][:PROMPT]
    prompt = torch.tensor([ids])

    def speed() -> tuple[float, float]:
        def write(count: int) -> float:
            begun = time.process_time()
            model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False)
            return time.process_time() - begun

        read = write(1)
        return read, (write(1 + ANSWER) - read) / ANSWER

    return figures_of(f"theirs:{form}", model.get_memory_footprint(), told, Speed(before, ids), speed, pairs)


def llama_cpp(form: str, source: Path, out: Path, pairs: int) -> dict[str, object]:
    """llama.cpp on the file of that type, beside the checkpoint in omniform."""
    import llama_cpp
    import numpy as np

    tokenizer = cast(Tokenizer, AutoTokenizer.from_pretrained(source))
    place = made(f"gguf:{form}", source, out, tokenizer, [])
    llama = llama_cpp.Llama(str(place), n_ctx=1024, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False)
    _, judge = texts()
    rows = [list(map(int, tokenizer(text)["input_ids"])) for text in judge]

    def scores(ids: Tensor) -> Tensor:
        llama.reset()
        llama.eval(ids[0].tolist())
        return torch.from_numpy(np.array(llama.scores[: ids.shape[1]], dtype=np.float32))[None]

    before = load_as_saved(source)
    told = quality([*windows(rows)], scores, scores_of(before))
    assert isinstance(before, Generative)
    ids = [token for row in rows for token in row][:PROMPT]
    fast = llama_cpp.Llama(str(place), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)

    def speed() -> tuple[float, float]:
        def timed(tokens: list[int]) -> float:
            begun = time.process_time()
            fast.eval(tokens)
            return time.process_time() - begun

        fast.reset()
        read = timed(ids)
        return read, sum(timed([ids[at]]) for at in range(ANSWER)) / ANSWER

    return figures_of(f"llama.cpp:{form}", size_of(place), told, Speed(before, ids), speed, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, help="where the formats are kept")
    parser.add_argument("--only", nargs="*", default=FORMATS)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="make the formats anew")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.again:
        shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True, exist_ok=True)
    for form in given.only:
        kind, _, name = form.partition(":")
        work: dict[str, Callable[[], dict[str, object]]] = {
            "theirs": lambda name=name: theirs(name, given.checkpoint, given.pairs),
            "llama.cpp": lambda name=name: llama_cpp(name, given.checkpoint, given.out, given.pairs),
        }
        figures = work.get(kind, lambda form=form: ours(form, given.checkpoint, given.out, given.pairs))()
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}), flush=True)


if __name__ == "__main__":
    main()
