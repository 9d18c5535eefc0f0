"""Slow halves in float32 tiles against torch's own loop, side by side in one process, turn by turn.

    python benchmarks/halves.py --dtype float16             # as this machine is
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 DNNL_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
        python benchmarks/halves.py --dtype bfloat16 --limited  # as on a machine with AVX2 and nothing newer

Times are those of the processor, which other processes that want it do not lengthen: run it with OMP_NUM_THREADS=1.
``--limited`` also takes oneDNN away from torch's own side: torch asks the machine itself, not these variables, whether
oneDNN may multiply bfloat16, and on a machine with AVX2 alone it may not.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import omniform
from omniform.transforms import widen as widening

LLAMA = {
    "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12,
    "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 2048, "eos_token_id": -1,
}  # fmt: skip
VIT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 6}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--limited", action="store_true")
    parser.add_argument("--turns", type=int, default=5)
    how = parser.parse_args()
    dtype = getattr(torch, how.dtype)
    if how.limited:
        torch.backends.mkldnn.set_flags(False)
    widening.slow_dtypes = lambda: frozenset({dtype})
    threads = torch.get_num_threads()
    print(f"{torch.backends.cpu.get_cpu_capability()}, {threads} threads, torch {torch.__version__}, {dtype}")
    print("| what | torch's own | tiles | ratio, median of pairs |")
    print("| --- | ---: | ---: | ---: |")
    torch.manual_seed(0)
    llama = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("llama", **LLAMA), dtype=dtype)
    for tokens in (8, 16, 64, 256):
        ids = torch.randint(3, 30000, (1, tokens))
        compare(f"Llama of 0.2B, a prompt of {tokens} tokens", llama, partial(_read, ids=ids), how.turns)
    one = torch.randint(3, 30000, (1, 1))
    compare("the same, one token", llama, lambda m: m(input_ids=one), how.turns)
    vit = omniform.AutoModelForImageClassification.from_config(omniform.AutoConfig.for_model("vit", **VIT), dtype=dtype)
    pixels = torch.randn(2, 3, 224, 224, dtype=dtype)
    compare("ViT of six layers, two pictures", vit, lambda m: m(pixel_values=pixels), how.turns)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB, scratch {widening.SCRATCH * 4 / 2**20:.0f} MB a thread")


def _read(model: nn.Module, ids: Tensor) -> object:
    return model(input_ids=ids)


def compare(what: str, model: nn.Module, call: Callable[[nn.Module], object], turns: int) -> None:
    """Both ways in turn, one to warm up."""
    model.eval()
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(turns + 1):
        for tiles in (False, True):
            _set(model, tiles)
            with torch.no_grad():
                started = time.process_time()
                call(model)
            if turn:
                times[tiles].append(time.process_time() - started)
    ratios = [own / tiles for own, tiles in zip(times[False], times[True], strict=True)]
    own, tiles = (statistics.median(times[way]) * 1000 for way in (False, True))
    spread = f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"| {what} | {own:.1f} ms | {tiles:.1f} ms | {spread} |", flush=True)


def _set(model: nn.Module, tiles: bool) -> None:
    if tiles:
        widening.widen(model)
        return
    plain = {wide: kind for kind, wide in widening.WIDENED.items()}
    for module in model.modules():
        module.__class__ = plain.get(type(module), type(module))


if __name__ == "__main__":
    main()
