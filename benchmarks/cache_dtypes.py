"""What keys and values in few bits cost and bring: ``python benchmarks/cache_dtypes.py MODEL TEXT [tokens ...]``.

MODEL is a folder or a GGUF file that has a tokenizer, computed in bfloat16.

One process, one thread, every way in turn. Quality: the text in stretches of 512 tokens; the model's own next-token
distributions beside those of each way. Speed: the processor's time of a token after so many others.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

import omniform
from omniform.engine.engine import Engine
from omniform.engine.runner import Runner

WAYS = (None, "int8", "int4")
STRETCH, MOST = 512, 4096


@torch.inference_mode()
def logits_of(engine: Engine, tokens: list[int]) -> torch.Tensor:
    """The scores after every token but the last. Shape: [len(tokens) - 1, V]."""
    found: list[torch.Tensor] = []
    run = Runner.run

    def watched(self: Runner, *plan: object, **how: object) -> object:
        made = run(self, *plan, **how)
        found.extend(output.project(output.hidden).float() for output in made[0])
        return made

    Runner.run = watched  # type: ignore[method-assign,assignment]
    try:
        engine.score([(tokens[:1], tokens[1:])])
    finally:
        Runner.run = run  # type: ignore[method-assign]
    return torch.cat(found)[: len(tokens) - 1]


def quality(model: omniform.Model, tokens: list[int]) -> None:
    """Perplexity, and how far the distributions are from the model's own."""
    engines = {way: Engine(model, memory="256MB", cache_dtype=way) for way in WAYS}
    lost, apart, same = ({way: [] for way in WAYS} for _ in range(3))
    for at in range(0, len(tokens) - STRETCH + 1, STRETCH):
        some = tokens[at : at + STRETCH]
        own = logits_of(engines[None], some).log_softmax(-1)
        for way, engine in engines.items():
            found = own if way is None else logits_of(engine, some).log_softmax(-1)
            lost[way].append(-found.gather(1, torch.tensor(some[1:])[:, None])[:, 0])
            apart[way].append((own.exp() * (own - found)).sum(-1))
            same[way].append((own.argmax(-1) == found.argmax(-1)).float())
    for way in WAYS:
        loss, kl, top = (torch.cat(x[way]) for x in (lost, apart, same))
        print(f"{way or model.dtype}: perplexity {loss.mean().exp():.3f}, KL mean {kl.mean():.5f}, "
              f"99th {kl.quantile(0.99):.4f}, same first token {top.mean():.2%} of {len(kl)}", flush=True)  # fmt: skip


def speed(model: omniform.Model, tokens: list[int], length: int, rounds: int = 24) -> None:
    """The processor's time of one token behind so many."""
    memory = "1GB"
    prompt = (tokens * (length // len(tokens) + 1))[:length]
    engines = {way: Engine(model, memory=memory, cache_dtype=way) for way in WAYS}
    each: dict[str | None, list[float]] = {way: [] for way in WAYS}
    for engine in engines.values():
        engine.generate(prompt, max_new_tokens=1)  # read once; later requests begin with what is known
    for _ in range(3):
        for way, engine in engines.items():
            marks: list[float] = []
            run = Runner.run

            def watched(self: Runner, *plan: object, marks: list[float] = marks, run=run, **how: object) -> object:  # type: ignore[no-untyped-def]
                begun = time.process_time()
                made = run(self, *plan, **how)
                marks.append(time.process_time() - begun)
                return made

            Runner.run = watched  # type: ignore[method-assign]
            try:
                engine.generate(prompt, max_new_tokens=rounds, min_new_tokens=rounds, do_sample=False)
            finally:
                Runner.run = run  # type: ignore[method-assign]
            each[way] += marks[2:]
    base = torch.tensor(each[None]).median()
    for way in WAYS:
        took = torch.tensor(each[way]).median()
        blocks = engines[way].stats().blocks_total
        print(f"after {length}, {way or model.dtype}: {1000 * took:.2f} ms a token, {base / took:.2f}x, "
              f"{blocks} blocks in {memory}", flush=True)  # fmt: skip


def main() -> None:
    path, text, *lengths = sys.argv[1:]
    model = omniform.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    reader = omniform.AutoTokenizer.from_pretrained(path)
    tokens = reader(Path(text).read_text())["input_ids"]
    tokens = tokens[0].tolist() if isinstance(tokens, torch.Tensor) else list(tokens)
    torch.set_num_threads(1)
    quality(model, tokens[:MOST])
    for length in map(int, lengths):
        speed(model, tokens, length)


if __name__ == "__main__":
    main()
