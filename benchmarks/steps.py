"""What a step costs outside the model, and what beams cost beside as many greedy rows, the reference's beside it.

    python benchmarks/steps.py                       # a Llama of 8 layers of 512, 32,000 tokens, one thread
    python benchmarks/steps.py --vocabulary 150000 --layers 2 --hidden 64

Outside the model is all of an engine's step but embedding, decoder and output matrix: planning, building the context,
choosing tokens, stop strings, text, sinks. It is the process's own time, so that others on the machine count little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from versus.theirs import stand_in_for_torchvision

import omniform

ROWS = (1, 16, 64)
WAYS: dict[str, dict[str, object]] = {
    "greedy": {},
    "greedy, text and two stop strings": {"stop_strings": ["%%%%", "#@"]},
    "top_k=50, top_p=0.9": {"do_sample": True, "top_k": 50, "top_p": 0.9},
}


class Letters:
    """A tokenizer whose tokens are letters, so that none of its own time is counted."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join([chr(97 + token % 26) for token in token_ids])


class Meter:
    """Adds up the time within some calls."""

    def __init__(self) -> None:
        self.spent = 0.0

    def on(self, call: Callable[..., object]) -> Callable[..., object]:
        """The same call, counted."""

        def counted(*args: object, **kwargs: object) -> object:
            started = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent += time.process_time() - started

        return counted


class Sink:
    """Reads what comes as a streamer does."""

    def __init__(self, tokenizer: Letters) -> None:
        self.over = False
        self._tokenizer = tokenizer

    def piece(self, row: object, token: int, logprob: object) -> None:
        self._tokenizer.decode([token])

    def end(self, completion: object, error: BaseException | None) -> None:
        self.over = True
        if error is not None:
            raise error


def prompts(rows: int, vocabulary: int) -> list[list[int]]:
    g = torch.Generator().manual_seed(1)
    return [torch.randint(3, vocabulary, (int(n),), generator=g).tolist() for n in torch.randint(16, 64, (rows,))]


def outside(model: omniform.LlamaForCausalLM, rows: int, how: dict[str, object], steps: int) -> float:
    """Median milliseconds of a step outside the model, when all rows write."""
    from omniform.engine.calls import read_call

    engine, tokenizer, meter = omniform.Engine(model, memory="400MB"), Letters(), Meter()
    owned = {"decode": model.decoder, "embed": model, "project": model}
    plain = {name: getattr(owner, name) for name, owner in owned.items()}
    for name, owner in owned.items():
        setattr(owner, name, meter.on(plain[name]))
    try:
        for prompt in prompts(rows, model.config.vocab_size):
            call = read_call(model, tokenizer, prompt, {**how, "max_new_tokens": steps + 20, "eos_token_id": None})
            engine.enqueue(call.prompt, call.settings, Sink(tokenizer), tokenizer=tokenizer, parts=call.parts)
        for _ in range(16):
            engine.step()
        took = []
        for _ in range(steps):
            meter.spent, started = 0.0, time.process_time()
            engine.step()
            took.append(time.process_time() - started - meter.spent)
        while engine.step():
            pass
    finally:
        for name, owner in owned.items():
            setattr(owner, name, plain[name])
    return statistics.median(took) * 1e3


def per_step(model: torch.nn.Module, ids: torch.Tensor, tokens: int, **how: object) -> float:
    """Milliseconds of a step of ``generate``."""
    started = time.process_time()
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, eos_token_id=None, pad_token_id=0,
        do_sample=False, **how,
    )  # fmt: skip
    return (time.process_time() - started) / tokens * 1e3


def beams(ours: torch.nn.Module, theirs: torch.nn.Module, vocabulary: int, tokens: int, turns: int) -> None:
    """Four beams beside four greedy rows, of both libraries, turn by turn."""
    one, four = (torch.randint(3, vocabulary, (n, 32), generator=torch.Generator().manual_seed(n)) for n in (1, 4))
    ways = {
        f"{name}, {kind}": (model, ids, how)
        for name, model in (("omniform", ours), ("transformers", theirs))
        for kind, ids, how in (("4 beams", one, {"num_beams": 4}), ("4 greedy rows", four, {}))
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for way, (model, ids, how) in ways.items():
            spent = per_step(model, ids, tokens, **how)
            if turn:  # the first warms up
                took[way].append(spent)
    for way, each in took.items():
        print(f"{way:40s}{statistics.median(each):9.2f} ms a step")
    for name in ("omniform", "transformers"):
        pairs = zip(took[f"{name}, 4 greedy rows"], took[f"{name}, 4 beams"], strict=True)
        print(f"{name + ', beams over greedy':40s}{statistics.median(g / b for g, b in pairs):9.2f} x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--turns", type=int, default=5)
    how = parser.parse_args()
    torch.set_num_threads(1)
    stand_in_for_torchvision()
    transformers.logging.set_verbosity_error()
    sizes = {
        "vocab_size": how.vocabulary, "hidden_size": how.hidden, "intermediate_size": 2 * how.hidden,
        "num_hidden_layers": how.layers, "num_attention_heads": 8, "num_key_value_heads": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()
    ours = omniform.LlamaForCausalLM(omniform.AutoConfig.for_model("llama", **sizes)).eval()
    ours.load_state_dict(theirs.state_dict())
    for way, asked in WAYS.items():
        for rows in ROWS:
            print(f"{way + f', {rows} rows':40s}{outside(ours, rows, asked, how.steps):9.2f} ms outside the model")
    beams(ours, theirs, how.vocabulary, how.steps, how.turns)


if __name__ == "__main__":
    main()
