"""Loading a 400M-parameter Llama: omniform beside the reference and beside reading the bytes.

In fresh processes, in turn: seconds to load, seconds to the first token's scores, and peak memory beyond what importing
takes; the file in the dtype that is asked for, and in another; sharded safetensors and ``.bin`` shards; and one forward
with all layers on disk (the reference's needs accelerate; without it, it is left out). Run it with
``python benchmarks/load.py [--runs N] [--folder FOLDER] [--json FILE]``; the folder takes 4 GB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

SHAPE = {
    "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000,
}  # fmt: skip

MAKE = """
import json, sys, torch, omniform
from pathlib import Path
folder, shape = Path(sys.argv[1]), json.loads(sys.argv[2])
config = omniform.AutoConfig.for_model("llama", **shape)
for dtype in ("bfloat16", "float32"):
    torch.manual_seed(0)
    model = omniform.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder / dtype, max_shard_size="200MB" if dtype == "bfloat16" else "400MB")
    if dtype == "bfloat16":
        (folder / "bin").mkdir(exist_ok=True)
        index = json.loads((folder / dtype / "model.safetensors.index.json").read_text())
        tensors, shards = model.state_dict(), {}
        for key, name in index["weight_map"].items():
            name = name.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
            index["weight_map"][key] = name
            shards.setdefault(name, {})[key] = tensors[key].clone()
        for name, held in shards.items():
            torch.save(held, folder / "bin" / name)
        (folder / "bin" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        (folder / "bin" / "config.json").write_text((folder / dtype / "config.json").read_text())
"""

PROBE = """
import json, sys, time, torch
library, folder, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if library == "omniform":
    from omniform import AutoModelForCausalLM
    import omniform.models.llama
else:
    # torchvision has no CPU build for this torch; without these operators the reference cannot import it.
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    import transformers
    from transformers import AutoModelForCausalLM
    import transformers.models.llama.modeling_llama
    transformers.utils.logging.disable_progress_bar()

def status(name):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(name))

open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = status("VmRSS")
started = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(folder, **options)
loaded = time.perf_counter() - started
peak_loading = status("VmHWM") - before
with torch.no_grad():
    model(torch.tensor([[1, 2, 3, 4]]))
first = time.perf_counter() - started
open("/proc/self/clear_refs", "w").write("5")
started = time.perf_counter()
with torch.no_grad():
    model(torch.tensor([[1, 2, 3, 4]]))
again = time.perf_counter() - started
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps({"load_s": loaded, "first_s": first, "again_s": again, "load_peak": peak_loading,
                  "run_peak": status("VmHWM") - before, "weights": weights}))
"""

READ = """
import json, sys, time
from pathlib import Path
room = bytearray(2**24)
started = time.perf_counter()
total = 0
for path in sorted(Path(sys.argv[2]).iterdir()):
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(room):
            total += count
print(json.dumps({"load_s": time.perf_counter() - started, "bytes": total}))
"""

CASES = {
    "bf16 file as bf16": ("bfloat16", {"dtype": "bfloat16"}),
    "bf16 file as float32": ("bfloat16", {"dtype": "float32"}),
    "float32 file as bf16": ("float32", {"dtype": "bfloat16"}),
    "bf16 .bin shards": ("bin", {"dtype": "bfloat16"}),
    "bf16 .bin shards as float32": ("bin", {"dtype": "float32"}),
}

DISK = {
    "model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}  # fmt: skip


def probe(code: str, library: str, folder: Path, options: dict[str, object]) -> dict[str, float] | None:
    """What one fresh process measures; None if it cannot."""
    command = [sys.executable, "-c", code, library, str(folder), json.dumps(options)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        print(f"{library}: {found.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(found.stdout.splitlines()[-1])


def measured(folder: Path, options: dict[str, object], runs: int) -> dict[str, dict[str, float]]:
    """Medians by who reads, in turn; the first round fills the disk cache and is left out."""
    found: dict[str, list[dict[str, float]]] = {"bytes": [], "omniform": [], "transformers": []}
    for _ in range(runs + 1):
        for who, results in found.items():
            result = probe(READ if who == "bytes" else PROBE, who, folder, options)
            if result is not None:
                results.append(result)
    return {
        who: {name: statistics.median(r[name] for r in results[1:]) for name in results[0]}
        for who, results in found.items()
        if len(results) > 1
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench400m"))
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not (given.folder / "float32" / "config.json").exists():
        subprocess.run([sys.executable, "-c", MAKE, str(given.folder), json.dumps(SHAPE)], check=True)
    offload = {"dtype": "bfloat16", "device_map": DISK, "offload_folder": str(given.folder / "offload")}
    cases = {**CASES, "all layers on disk": ("bfloat16", offload)}
    results = {}
    for name, (folder, options) in cases.items():
        if given.only and given.only not in name:
            continue
        results[name] = measured(given.folder / folder, options, given.runs)
        print(f"\n{name}")
        for who, r in results[name].items():
            line = f"  {who:<14} load {r['load_s']:7.3f} s"
            if "first_s" in r:
                line += f"  first token {r['first_s']:7.3f} s  again {r['again_s']:7.3f} s"
                line += f"  peak loading {r['load_peak'] / r['weights']:5.2f} x"
                line += f"  running {r['run_peak'] / r['weights']:5.2f} x"
            print(line)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
