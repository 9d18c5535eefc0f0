"""Small checkpoints of every format that keeps matrices packed, dense and of experts; made anew on demand, once."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gptq_written import words
from quantize_checkpoints import IDS, SMALL, rewritten
from safetensors.torch import load_file, save_file
from test_awq_format import packer as awq
from test_awq_format import settings as awq_settings
from test_compressed_tensors import eight, naive, packed
from test_compressed_tensors import settings as compressed_settings

from reference import omniform

WIDE = {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": False}
EXPERTS = {**WIDE, "num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "llama": (WIDE, "LlamaForCausalLM"),
    "mixtral": (EXPERTS, "MixtralForCausalLM"),
    "gpt_oss": ({**EXPERTS, "head_dim": 16, "sliding_window": 4,
                 "layer_types": ["sliding_attention", "full_attention"]}, "GptOssForCausalLM"),
}  # fmt: skip


def plain(family, folder):
    """A folder of plain weights in bfloat16, all at random."""
    keys, name = FAMILIES[family]
    torch.manual_seed(3)
    model = getattr(omniform, name)(omniform.AutoConfig.for_model(family, **keys)).to(torch.bfloat16)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (1.0 if p.dim() == 1 else 0.0))
    model.save_pretrained(folder)
    return folder


def made_by(settings, family, folder):
    """Quantized on loading by this library, and saved."""
    kind = getattr(omniform, FAMILIES[family][1])
    kind.from_pretrained(plain(family, folder / "plain"), quantization_config=settings()).save_pretrained(folder / "q")
    return folder / "q"


def rewritten_by(settings, pack, family, folder):
    """A plain folder, rewritten as another tool does."""
    rewritten(plain(family, folder / "plain"), folder / "q", settings, pack)
    return folder / "q"


def gptq(bits, group, *, act=False):
    """Rounded to nearest, in the published layout (:mod:`gptq_written`)."""

    def made(name, weight):
        x = weight.float().numpy()
        outs, ins = x.shape
        g_idx = np.arange(ins) // group
        if act:
            g_idx = g_idx[np.random.default_rng(len(name)).permutation(ins)]
        zero = 2 ** (bits - 1)
        scales = np.stack([np.abs(x[:, g_idx == g]).max(1) / (zero - 1) for g in range(ins // group)]).astype(
            np.float16
        )
        wide = scales.astype(np.float32)[g_idx].T
        codes = np.clip(np.round(x / wide) + zero, 0, 2**bits - 1).astype(int)
        held = {
            "qweight": np.stack([words(row, bits) for row in codes], 1),
            "qzeros": np.stack([words(np.full(outs, zero - 1), bits) for _ in scales]),
            "scales": scales,
            "g_idx": g_idx.astype(np.int32),
        }
        numbers = torch.from_numpy((codes - zero) * wide)
        return {key: torch.from_numpy(np.ascontiguousarray(x)) for key, x in held.items()}, numbers

    return made


def gguf(kind, family, folder):
    """A file of blocks."""
    model = omniform.AutoModelForCausalLM.from_pretrained(plain(family, folder / "plain"))
    model.save_gguf(folder / "q.gguf", type=kind)
    return folder / "q.gguf"


def gpt_oss(family, folder):
    """Experts as gpt-oss publishes them: random bytes, and powers around one for their groups."""
    plain(family, folder / "q")
    path = folder / "q" / "model.safetensors"
    held = load_file(path)
    for key in [key for key in held if key.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, ins, outs = held.pop(key).shape
        held[f"{key}_blocks"] = torch.randint(0, 256, (experts, outs, ins // 32, 16), dtype=torch.uint8)
        held[f"{key}_scales"] = torch.randint(121, 126, (experts, outs, ins // 32), dtype=torch.uint8)
    save_file(held, path, {"format": "pt"})
    config = json.loads((folder / "q" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (folder / "q" / "config.json").write_text(json.dumps(config))
    return folder / "q"


def _bnb(**how):
    return lambda: omniform.BitsAndBytesConfig(**how)


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}
WAYS = {
    "int8": partial(made_by, lambda: omniform.NativeConfig(bits=8)),
    "int4": partial(made_by, lambda: omniform.NativeConfig(bits=4, group_size=32)),
    "bnb 8bit": partial(made_by, _bnb(load_in_8bit=True)),
    "bnb nf4": partial(made_by, _bnb(**NF4)),
    "bnb nf4 double": partial(made_by, _bnb(**NF4, bnb_4bit_use_double_quant=True)),
    "bnb fp4": partial(made_by, _bnb(**{**NF4, "bnb_4bit_quant_type": "fp4"})),
    "gptq 4": partial(rewritten_by, {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, gptq(4, 32)),
    "gptq 4 act": partial(
        rewritten_by,
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": True},
        gptq(4, 32, act=True),
    ),
    "gptq 3": partial(rewritten_by, {"quant_method": "gptq", "bits": 3, "group_size": 32, "sym": True}, gptq(3, 32)),
    "awq gemm": partial(rewritten_by, awq_settings("gemm", 32), awq("gemm", 32)),
    "awq gemv": partial(rewritten_by, awq_settings("gemv", 32), awq("gemv", 32)),
    "ct packed 4": partial(
        rewritten_by, compressed_settings("pack-quantized", 4, 32, False), packed(4, 32, False)
    ),
    "ct int 8": partial(rewritten_by, compressed_settings("int-quantized", 8, -1, True), naive(8, -1, True)),
    "ct float 8": partial(
        rewritten_by,
        compressed_settings("float-quantized", 8, -1, True, kind="float", strategy="channel"),
        eight((1, 0)),
    ),
    "fp8 blocks": partial(made_by, lambda: omniform.FineGrainedFP8Config(weight_block_size=(32, 32))),
    "mxfp4": gpt_oss,
    "gguf Q4_0": partial(gguf, "Q4_0"),
    "gguf Q8_0": partial(gguf, "Q8_0"),
}  # fmt: skip
CASES = [
    *((name, "llama") for name in WAYS if name != "mxfp4"),
    *((name, "mixtral") for name in WAYS if name != "mxfp4"),
    ("mxfp4", "gpt_oss"),
]


def made(case, folder: Path):
    """Where the checkpoint of a case is; it is written there if it is not yet."""
    name, family = case
    own = folder / f"{name}-{family}".replace(" ", "-")
    found = own / ("q.gguf" if name.startswith("gguf") else "q")
    if not found.exists():
        own.mkdir(parents=True, exist_ok=True)
        found = WAYS[name](family, own)
    return found


def loaded(path, **how):
    """The model."""
    return omniform.AutoModelForCausalLM.from_pretrained(path, **how).eval()


def scores(model, ids=IDS):
    """What it says of a prompt."""
    with torch.no_grad():
        return model(ids.to(model.device)).logits.float()
