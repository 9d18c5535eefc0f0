"""Speed on one GPU: single rows, ragged batches and prompts, beside transformers on the same card and weights.

``python benchmarks/gpu.py [ours] [theirs] [compiled] [profile]``: a Llama of 1.2B random parameters, made on the card.
Medians of three after one to warm up. A step's time is what further tokens cost: the difference of two runs.
vLLM is measured by nobody here: the machine that the project is lent has no network to fetch it by.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

SHAPE = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5,
}  # fmt: skip
ON = "cuda" if torch.cuda.is_available() else "cpu"
FEW, MORE = 16, 144


def synchronised() -> None:
    if ON == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The median of some runs after one to warm up."""
    work()
    found = []
    for _ in range(repeats):
        synchronised()
        began = time.perf_counter()
        work()
        synchronised()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def rows(count: int, least: int, most: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(least, most + 1, (count,), generator=generator).tolist()
    return [torch.randint(3, SHAPE["vocab_size"], (n,), generator=generator).tolist() for n in lengths]


CASES = {"1 row of 128": rows(1, 128, 128), "24 rows of 64 to 512": rows(24, 64, 512)}
PROMPTS = {"1 prompt of 2048": rows(1, 2048, 2048), "24 prompts of 256 to 1024": rows(24, 256, 1024)}


def theirs() -> object:
    import transformers

    torch.manual_seed(0)
    with torch.device(ON):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).to(torch.bfloat16)
    return model.eval()


def twin(model: object) -> object:
    """Ours, of the very same weights."""
    import omniform

    with torch.device("meta"):
        ours = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("llama", **SHAPE))
    ours.load_state_dict(model.state_dict(), assign=True)  # type: ignore[attr-defined]
    ours.tie_weights()
    return ours.eval()


def bandwidth() -> float:
    """Bytes a second that a copy within the card's memory reads and writes."""
    x = torch.empty(1 << 30, dtype=torch.uint8, device=ON)
    y = torch.empty_like(x)
    return 2 * x.numel() / seconds(lambda: y.copy_(x), 5)


def measure_ours(model: object, told: dict[str, object]) -> None:
    from omniform.engine.engine import Engine

    engine = Engine(model, memory="16GB" if ON == "cuda" else "1GB", prefix_cache=False)  # type: ignore[arg-type]
    for name, prompts in CASES.items():

        def run(new: int, prompts: list[list[int]] = prompts) -> None:
            engine.generate_batch(prompts, max_new_tokens=new, eos_token_id=None)

        few, more = seconds(lambda: run(FEW)), seconds(lambda: run(MORE))
        told[name] = {"step_ms": 1e3 * (more - few) / (MORE - FEW), "whole_s": more, "new": MORE}
        print("ours", name, told[name], flush=True)
    for name, prompts in PROMPTS.items():
        took = seconds(lambda prompts=prompts: engine.generate_batch(prompts, max_new_tokens=1))
        told[name] = {"ms": 1e3 * took, "tokens": sum(map(len, prompts))}
        print("ours", name, told[name], flush=True)
    told["graphs"] = str(engine.stats().graphs)
    played = engine._recorded
    if ON == "cuda" and played is not None:
        for shape, record in played._records.items():

            def often(record: object = record) -> None:
                record.told.clear()  # type: ignore[attr-defined]
                record.told.upload()  # type: ignore[attr-defined]
                for _ in range(50):
                    record.play()  # type: ignore[attr-defined]

            told[f"graph {shape.rows} x {shape.keys}"] = {"ms": 1e3 * seconds(often) / 50}
    prompt = torch.tensor(CASES["1 row of 128"], device=ON)
    took = seconds(lambda: model.generate(prompt, max_new_tokens=MORE, eos_token_id=None))  # type: ignore[attr-defined]
    told["generate, 1 row of 128"] = {"whole_s": took, "new": MORE}
    print("ours", {k: v for k, v in told.items() if "g" in k}, flush=True)


def profiled(model: object) -> None:
    """Where the time of a played step goes."""
    from torch.profiler import ProfilerActivity, profile

    from omniform.engine.engine import Engine

    engine = Engine(model, memory="16GB", prefix_cache=False)  # type: ignore[arg-type]
    for prompts in CASES.values():
        engine.generate_batch(prompts, max_new_tokens=24, eos_token_id=None)
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
            engine.generate_batch(prompts, max_new_tokens=40, eos_token_id=None)
        print(seen.key_averages().table(sort_by="cuda_time_total", row_limit=28, max_name_column_width=70))
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        engine.generate_batch(PROMPTS["1 prompt of 2048"], max_new_tokens=1)
    print(seen.key_averages().table(sort_by="cuda_time_total", row_limit=14, max_name_column_width=70))
    print("engine seconds", engine.stats().seconds, engine.stats().steps)


def padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=ON)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=ON)
    return {"input_ids": ids, "attention_mask": mask}


def measure_theirs(model: object, told: dict[str, object], **how: object) -> None:
    for name, prompts in CASES.items():
        inputs = padded(prompts)

        def run(new: int, inputs: dict[str, torch.Tensor] = inputs) -> None:
            model.generate(  # type: ignore[attr-defined]
                **inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0, **how
            )

        few, more = seconds(lambda: run(FEW), 2), seconds(lambda: run(MORE), 2)
        told[name] = {"step_ms": 1e3 * (more - few) / (MORE - FEW), "whole_s": more, "new": MORE}
        print("theirs", how, name, told[name], flush=True)
    if how:
        return
    for name, prompts in PROMPTS.items():
        inputs = padded(prompts)
        took = seconds(
            lambda inputs=inputs: model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)
        )  # type: ignore[attr-defined]
        told[name] = {"ms": 1e3 * took, "tokens": sum(map(len, prompts))}
        print("theirs", name, told[name], flush=True)


@torch.inference_mode()
def main() -> None:
    asked = sys.argv[1:] or ["ours", "theirs"]
    model = theirs()
    found: dict[str, dict[str, object]] = {"machine": {"torch": torch.__version__}}
    if ON == "cuda":
        found["machine"] |= {"card": torch.cuda.get_device_name(), "copy_GB_s": bandwidth() / 1e9}
    found["machine"]["weights_GB"] = sum(p.nbytes for p in model.parameters()) / 1e9  # type: ignore[attr-defined]
    print(found["machine"], flush=True)
    if "ours" in asked or "profile" in asked:
        ours = twin(model)
        if "ours" in asked:
            measure_ours(ours, found.setdefault("ours", {}))
        if "profile" in asked:
            profiled(ours)
    if "theirs" in asked:
        measure_theirs(model, found.setdefault("theirs", {}))
    if "compiled" in asked:
        measure_theirs(model, found.setdefault("theirs, static cache, compiled", {}), cache_implementation="static")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
