"""Peak memory of a Llama of 1 GB: a cold process that loads it and writes 8 tokens, beyond what it took before loading.

One process for each row of the table, one after another: bfloat16, int8, int4 and a GGUF file, without and with a cache
of packed matrices (``OMNIFORM_PACK_CACHE``: empty, then filled). With ``--formats nf4 hqq-4 gptq-4 ...`` instead: a
checkpoint in each of these, and, without texts to learn from, what quantizing it on loading takes. Peak memory is the
kernel's own (``VmHWM``), pages of mapped files included; the bytes of the weights are those of the matrices as they are
packed and of the rest as it is stored (``get_memory_footprint``). Run it with ``python benchmarks/memory_native.py
[--folder FOLDER] [--moe]``; it takes 4 GB of disk. GGUF needs the ``gguf`` package. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPES = {
    "llama": {
        "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 18, "num_attention_heads": 24,
        "num_key_value_heads": 6, "head_dim": 64, "vocab_size": 32000, "max_position_embeddings": 2048,
    },
    "qwen3_moe": {
        "hidden_size": 1024, "intermediate_size": 2048, "moe_intermediate_size": 512, "num_hidden_layers": 8,
        "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000, "num_experts": 32,
        "num_experts_per_tok": 4, "mlp_only_layers": [], "max_position_embeddings": 2048,
    },
}  # fmt: skip

MAKE = """
import json, sys, torch, omniform
from pathlib import Path
folder, family, shape = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.manual_seed(0)
config = omniform.AutoConfig.for_model(family, **shape)
model = omniform.AutoModelForCausalLM.from_config(config, dtype="bfloat16")
model.save_pretrained(folder / "bf16", max_shard_size="200MB")
"""

GGUF = """
import json, sys
from pathlib import Path
import gguf, torch
from safetensors.torch import load_file
sys.path.insert(0, sys.argv[3])
from versus.gguf_file import _in_pairs, name_there
folder, path = Path(sys.argv[1]) / "bf16", Path(sys.argv[2])
config = json.loads((folder / "config.json").read_text())
writer = gguf.GGUFWriter(path, "llama")
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_block_count(config["num_hidden_layers"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(config["num_attention_heads"])
writer.add_head_count_kv(config["num_key_value_heads"])
writer.add_rope_dimension_count(config["head_dim"])
writer.add_layer_norm_rms_eps(1e-6)
writer.add_vocab_size(config["vocab_size"])
writer.add_tokenizer_model("no_vocab")
kind = gguf.GGMLQuantizationType.Q4_0
for file in sorted(folder.glob("*.safetensors")):
    for name, tensor in load_file(file).items():
        tensor = tensor.float()
        if "q_proj" in name or "k_proj" in name:
            tensor = _in_pairs(tensor, config["head_dim"])
        if tensor.dim() == 1:
            writer.add_tensor(name_there(name), tensor.numpy())
        else:
            writer.add_tensor(name_there(name), gguf.quantize(tensor.contiguous().numpy(), kind), raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""

PROBE = """
import json, sys, torch, omniform
from omniform import AutoModelForCausalLM
from omniform.engine import engine
from omniform.export.quantizing import settings_for
from omniform.hub import checkpoint
from omniform.transforms import lower
import omniform.models.llama

def memory(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

torch.ones(64, 64) @ torch.ones(64, 64)
path, dtype, target = sys.argv[1:4]
settings = {"quantization_config": settings_for(target, [], None)} if target else {}
before = memory("VmRSS:")
open("/proc/self/clear_refs", "w").write("5")
model = AutoModelForCausalLM.from_pretrained(path, **settings, **({} if dtype == "auto" else {"dtype": dtype}))
loaded = memory("VmHWM:")
model.generate(torch.arange(3, 35)[None], max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
parts = {name: memory(name) - (before if name == "VmRSS:" else 0) for name in ("VmRSS:", "RssAnon:", "RssFile:")}
print(json.dumps({"weights": model.get_memory_footprint(), "peak": memory("VmHWM:") - before, "before": before,
                  "loaded": loaded - before, **parts}))
"""


FORMAT = """
import sys
from pathlib import Path
from omniform import AutoModelForCausalLM
from omniform.export.quantizing import settings_for
source, place, target = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
settings = settings_for(target, [], None)
if target.startswith("gptq"):
    import torch
    settings.update(dataset=[torch.randint(3, 32000, (256,)).tolist() for _ in range(2)])
AutoModelForCausalLM.from_pretrained(source, quantization_config=settings).save_pretrained(place)
"""


def probe(path: Path, dtype: str, cache: Path | None, target: str = "") -> dict[str, int]:
    """What one process took; with a target, it is quantized as it is loaded."""
    env = {**os.environ, "OMNIFORM_PACK_CACHE": "" if cache is None else str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path), dtype, target], env=env, check=True, capture_output=True, text=True
    )
    made: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return made


def ready(folder: Path, family: str) -> list[tuple[str, Path, str]]:
    """The checkpoints, made where they are not there yet: a name, where, and the dtype to ask for."""
    own = folder / family
    if not (own / "bf16" / "config.json").is_file():
        own.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-c", MAKE, str(own), family, json.dumps(SHAPES[family])], check=True)
    rows = [("bfloat16", own / "bf16", "auto"), ("int8", own / "bf16", "int8"), ("int4", own / "bf16", "int4")]
    if family == "llama":
        path = own / "q4_0.gguf"
        if not path.is_file():
            here = str(Path(__file__).parent)
            subprocess.run([sys.executable, "-c", GGUF, str(own), str(path), here], check=True)
        rows.append(("GGUF, Q4_0", path, "auto"))
    return rows


def formats(folder: Path, targets: list[str]) -> None:
    """The table of checkpoints in few bits."""
    source = ready(folder, "llama")[0][1]
    print("| format | bytes of its files | peak, read | of the files | peak, made on loading | of the files |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for target in targets:
        place = folder / target
        if not place.is_dir():
            subprocess.run([sys.executable, "-c", FORMAT, str(source), str(place), target], check=True)
        files = sum(file.stat().st_size for file in place.glob("*.safetensors"))
        read = probe(place, "auto", None)["peak"]
        made = None if target.startswith("gptq") else probe(source, "auto", None, target)["peak"]
        told = "| |" if made is None else f"{made / 1e6:,.1f} MB | {made / files:.3f} |"
        print(f"| {target} | {files / 1e6:,.1f} MB | {read / 1e6:,.1f} MB | {read / files:.3f} | {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "omniform-memory")
    parser.add_argument("--moe", action="store_true", help="a mixture of experts instead")
    parser.add_argument("--only", default="", help="rows whose names begin so")
    parser.add_argument("--formats", nargs="*", default=[], metavar="TARGET", help="as omniform quantize --to has them")
    asked = parser.parse_args()
    if asked.formats:
        formats(asked.folder, asked.formats)
        return
    rows = ready(asked.folder, "qwen3_moe" if asked.moe else "llama")
    print("| weights | pack cache | bytes of the weights | peak beyond | when loaded | peak, over the weights |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, path, dtype in rows:
        if not name.startswith(asked.only):
            continue
        cache = asked.folder / "cache"
        for kept in ("none", "empty", "filled"):
            if kept == "empty":
                shutil.rmtree(cache, ignore_errors=True)
            took = probe(path, dtype, None if kept == "none" else cache)
            over = took["peak"] - took["weights"]
            figures = f"{took['weights'] / 1e6:,.1f} MB | {over / 1e6:+,.1f} MB | {took['loaded'] / 1e6:,.1f} MB"
            print(f"| {name} | {kept} | {figures} | {took['peak'] / took['weights']:.3f} |", flush=True)
            print(took, file=sys.stderr)


if __name__ == "__main__":
    main()
