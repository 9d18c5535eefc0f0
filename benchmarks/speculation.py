"""Prompt lookup on an editing task, omniform beside the reference, turn by turn in one process.

    python benchmarks/speculation.py            # trains the small model first, two minutes or so; kept in --cache

The task: a text of letters is to be written again with every letter ``a`` replaced by ``b``, where the first two tokens
of the prompt say which ``a`` and ``b`` are meant. A Llama of two layers learns it here. So that a step costs what it
costs in a larger model (150 million parameters, in bfloat16), layers and widths are then added whose weights are zero
where they would add something: they are computed like any others and change nothing. What is measured is therefore the
cost of steps of such a model, and how many steps its answers take; how often guesses come true is the task's doing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from versus.theirs import stand_in_for_torchvision

import omniform

LETTERS, LENGTH = 60, 32
SEPARATOR, END = 60, 61
CONFIG = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": END,
    "pad_token_id": 63, "tie_word_embeddings": False,
}  # fmt: skip
LARGER = {
    "hidden_size": 768, "num_hidden_layers": 16, "intermediate_size": 3072, "num_attention_heads": 48,
    "num_key_value_heads": 48,
}  # fmt: skip


def examples(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Prompts and answers. Shape: [B, 2 + length + 1] and [B, length + 1]."""
    text = torch.randint(0, LETTERS, (rows, length), generator=generator)
    pairs = torch.randint(0, LETTERS, (rows, 2), generator=generator)
    pairs[:, 0] = text[:, length // 2]  # something is there to replace
    answer = torch.where(text == pairs[:, :1], pairs[:, 1:], text)
    prompt = torch.cat([pairs, text, torch.full((rows, 1), SEPARATOR)], 1)
    return prompt, torch.cat([answer, torch.full((rows, 1), END)], 1)


def taught(folder: Path, seconds: float) -> None:
    """Train the model and keep it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("llama", **CONFIG)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    generator = torch.Generator().manual_seed(1)
    begun, step, loss = time.monotonic(), 0, 9.0
    while time.monotonic() - begun < seconds and loss > 0.004:
        prompt, answer = examples(8, LENGTH, generator)
        ids = torch.cat([prompt, answer], 1)
        labels = torch.cat([torch.full_like(prompt, -100), answer], 1)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, step / 30) * min(1.0, 300 / (step + 1)) ** 0.5
        found = model(input_ids=ids, labels=labels).loss
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss, step = float(found.detach()), step + 1
        if step % 50 == 0:
            print(f"step {step}, loss {loss:.4f}", file=sys.stderr)
    enlarged(model.state_dict()).save_pretrained(folder)


def enlarged(small: dict[str, Tensor]) -> omniform.Model:
    """A larger model that computes the same: what is wider or deeper adds zeros, and norms make up for the width."""
    whole = omniform.AutoModelForCausalLM.from_config(
        omniform.AutoConfig.for_model("llama", **{**CONFIG, **LARGER}), dtype=torch.bfloat16
    )
    weights = {name: value.clone() for name, value in whole.state_dict().items()}
    for name, value in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight", "lm_head.weight")):
            value.zero_()
    wider = (CONFIG["hidden_size"] / LARGER["hidden_size"]) ** 0.5
    for name, value in small.items():
        corner = tuple(slice(0, n) for n in value.shape)
        weights[name][corner] = value.bfloat16() * (wider if value.dim() == 1 else 1)
    whole.load_state_dict(weights)
    return whole


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "omniform-benchmarks" / "editing")
    parser.add_argument("--train", type=float, default=150.0, help="seconds at most")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--guesses", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1)
    how = parser.parse_args()
    if not (how.cache / "config.json").is_file():
        taught(how.cache, how.train)
    torch.set_num_threads(how.threads)
    stand_in_for_torchvision()
    import transformers

    ours = omniform.AutoModelForCausalLM.from_pretrained(how.cache)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(how.cache).eval()
    generator = torch.Generator().manual_seed(7)
    tasks = [examples(how.rows, LENGTH, generator) for _ in range(how.turns)]
    lookup = {"prompt_lookup_num_tokens": how.guesses}
    asked = {"max_new_tokens": LENGTH + 1, "do_sample": False}
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "omniform, greedy": lambda ids: ours.generate(ids, **asked),
        "omniform, prompt lookup": lambda ids: ours.generate(ids, **asked, **lookup),
        "reference, greedy": lambda ids: theirs.generate(ids, attention_mask=torch.ones_like(ids), **asked),
    }
    if how.rows == 1:  # the reference guesses for one row at a time
        ways["reference, prompt lookup"] = lambda ids: theirs.generate(
            ids, attention_mask=torch.ones_like(ids), **asked, **lookup
        )
    times: dict[str, list[float]] = {name: [] for name in ways}
    right = 0
    with torch.inference_mode():
        for turn, (ids, answer) in enumerate([tasks[0], *tasks]):  # the first one warms up
            written = {}
            for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
                begun = time.perf_counter()
                written[name] = way(ids)
                if turn:
                    times[name].append(time.perf_counter() - begun)
            assert all(torch.equal(w, written["omniform, greedy"]) for w in written.values()), "the same tokens"
            if turn:
                right += int((written["omniform, greedy"][:, ids.shape[1] :] == answer).all(1).sum())
        told = ours.generate(tasks[0][0], **asked, **lookup, return_dict_in_generate=True).speculation
    print(f"{how.rows} rows of {LENGTH} letters, {right} of {how.rows * how.turns} answers as wanted; "
          f"{told.accepted} of {told.drafted} guesses came true, {told.steps} steps for {how.rows} rows")  # fmt: skip
    print("| way | seconds, median | times greedy |\n| --- | ---: | ---: |")
    for name, taken in times.items():
        greedy = statistics.median(times[name.split(",")[0] + ", greedy"])
        print(f"| {name} | {statistics.median(taken):.3f} | {greedy / statistics.median(taken):.2f} |")


if __name__ == "__main__":
    main()
