"""Makes the checkpoints in data/compressed with compressed-tensors itself, and what that package reads from them.

Run by hand, where torch, transformers and compressed-tensors are installed; the tests need none of the last:

    python tests/quantize/make_compressed.py tests/quantize/data/compressed

Beside each checkpoint lies ``oracle.json``: of each layer the dtype, the first numbers and the SHA-256 of the weights
that the package decompresses, and the logits of a plain model with those (``plain``) and with activations rounded as
the package does (``active``).
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2MoeConfig

IDS = [[1, 5, 9, 2, 14, 3, 7]]
TINY = {"vocab_size": 16, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
WIDE = {**TINY, "hidden_size": 128, "intermediate_size": 160, "num_key_value_heads": 1}
HALF = {**WIDE, "intermediate_size": 128}
EXPERTS = {**TINY, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 3,
           "num_experts_per_tok": 2, "decoder_sparse_step": 1}  # fmt: skip
BIASED = {**TINY, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}

DYNAMIC = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}


def weights(bits, strategy, **more):
    return {"num_bits": bits, "type": "int", "strategy": strategy, "symmetric": True, **more}


def group(w, **more):
    return {"targets": ["Linear"], "weights": w, **more}


def preset(name, **more):
    return {**preset_name_to_scheme(name, ["Linear"]).model_dump(), **more}


# name -> (model, its config, dtype, config groups, further settings, forced format)
CASES = {
    "w4a16-g32": ("llama", TINY, "bfloat16", {"group_0": group(weights(4, "group", group_size=32))}, {}),
    "w4a16-g32-asym": ("llama", BIASED, "bfloat16",
                       {"group_0": group(weights(4, "group", group_size=32, symmetric=False))}, {}),
    "w4a16-g32-float32": ("llama", TINY, "float32",
                          {"group_0": group(weights(4, "group", group_size=32, symmetric=False))}, {}),
    "w4a16-g128-actorder": ("llama", HALF, "float16",
                            {"group_0": group(weights(4, "group", group_size=128, actorder="weight"))}, {}),
    "w4a16-channel": ("llama", TINY, "bfloat16", {"group_0": group(weights(4, "channel", symmetric=False))}, {}),
    "w4a16-tensor": ("llama", TINY, "bfloat16", {"group_0": group(weights(4, "tensor"))}, {}),
    "w4a16-tensor-asym": ("llama", TINY, "bfloat16", {"group_0": group(weights(4, "tensor", symmetric=False))}, {}),
    "w2a16": ("llama", TINY, "bfloat16", {"group_0": group(weights(2, "group", group_size=16))}, {}),
    "w3a16": ("llama", TINY, "bfloat16", {"group_0": group(weights(3, "group", group_size=32, symmetric=False))}, {}),
    "w5a16": ("llama", BIASED, "bfloat16", {"group_0": group(weights(5, "channel"))}, {}),
    "w6a16": ("llama", TINY, "bfloat16", {"group_0": group(weights(6, "group", group_size=32, symmetric=False))}, {}),
    "w8a16-g32": ("llama", TINY, "bfloat16",
                  {"group_0": group(weights(8, "group", group_size=32, symmetric=False))}, {}),
    "w8a16-channel": ("llama", TINY, "float16", {"group_0": group(weights(8, "channel"))}, {}),
    "w4a8": ("llama", TINY, "bfloat16",
             {"group_0": group(weights(4, "group", group_size=32), input_activations=DYNAMIC)}, {}),
    "w8a8": ("llama", BIASED, "bfloat16", {"group_0": preset("W8A8")}, {}),
    "w8a8-static": ("llama", TINY, "bfloat16",
                    {"group_0": group(weights(8, "tensor"), input_activations=weights(8, "tensor"))}, {}),
    "w8a8-static-asym": ("llama", TINY, "float32",
                         {"group_0": group(weights(8, "channel", symmetric=False),
                                           input_activations=weights(8, "tensor", symmetric=False))}, {}),
    "naive-int8": ("llama", TINY, "bfloat16",
                   {"group_0": group(weights(8, "group", group_size=32, symmetric=False), format="naive-quantized")},
                   {}),
    "fp8": ("llama", TINY, "bfloat16", {"group_0": preset("FP8")}, {}),
    "fp8-dynamic": ("llama", BIASED, "bfloat16", {"group_0": preset("FP8_DYNAMIC")}, {}),
    "fp8-block": ("llama", WIDE, "bfloat16", {"group_0": preset("FP8_BLOCK")}, {}),
    "fp8-group": ("llama", TINY, "bfloat16",
                  {"group_0": group(weights(8, "group", group_size=32, type="float"))}, {}),
    "w4afp8": ("llama", TINY, "bfloat16",
               {"group_0": {**preset("W4AFP8"), "weights": weights(4, "group", group_size=32)}}, {}),
    "nvfp4": ("llama", TINY, "bfloat16", {"group_0": preset("NVFP4")}, {}),
    "nvfp4a16": ("llama", BIASED, "bfloat16", {"group_0": preset("NVFP4A16")}, {}),
    "mxfp4": ("llama", TINY, "bfloat16", {"group_0": preset("MXFP4")}, {}),
    "mxfp4a16": ("llama", TINY, "float32", {"group_0": preset("MXFP4A16")}, {}),
    "mxfp6": ("llama", TINY, "bfloat16", {"group_0": preset("MXFP6A16")}, {}),
    "mxfp8": ("llama", TINY, "bfloat16", {"group_0": preset("MXFP8")}, {}),
    "kv-fp8": ("llama", TINY, "bfloat16", {"group_0": preset("FP8_DYNAMIC")},
               {"kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False,
                                    "symmetric": True}}),
    "mixed": ("llama", {**TINY, "num_hidden_layers": 2}, "bfloat16",
              {"attention": {**preset("FP8_DYNAMIC"), "targets": ["re:.*self_attn.[qkvo]_proj$"]},
               "down": {**preset("NVFP4A16"), "targets": ["model.layers.1.mlp.down_proj"]},
               "rest": group(weights(4, "group", group_size=32))},
              {"ignore": ["lm_head", "re:.*layers\\.0\\.mlp\\.up_proj", "re:layers\\.0\\.mlp\\.gate_proj"]}),
    "qwen2-moe-w4": ("qwen2_moe", EXPERTS, "bfloat16",
                     {"group_0": group(weights(4, "group", group_size=32, symmetric=False))},
                     {"ignore": ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$"]}),
    "qwen2-moe-fp8": ("qwen2_moe", EXPERTS, "bfloat16", {"group_0": preset("FP8_DYNAMIC")},
                      {"ignore": ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$"]}),
    "qwen2-moe-nvfp4": ("qwen2_moe", EXPERTS, "bfloat16", {"group_0": preset("NVFP4A16")},
                        {"ignore": ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$"]}),
}  # fmt: skip


class Expert(nn.Module):
    """An expert as checkpoints hold it: linear layers of its own."""

    def __init__(self, gate_up, down):
        super().__init__()
        gate, up = gate_up.chunk(2)
        for name, weight in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
            layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
            setattr(self, name, layer)


def made(kind, config, dtype):
    torch.manual_seed(len(json.dumps(config)))
    settings = (LlamaConfig if kind == "llama" else Qwen2MoeConfig)(**config)
    model = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p, dtype=torch.float32) * 0.15 + (1.0 if p.dim() == 1 else 0.0))
    return model


def taken_apart(model):
    """A model whose experts are layers of their own, which the package quantizes one by one."""
    model = copy.deepcopy(model)
    for layer in model.model.layers:
        experts = getattr(layer.mlp, "experts", None)
        if experts is not None:
            pairs = zip(experts.gate_up_proj.data, experts.down_proj.data, strict=True)
            layer.mlp.experts = nn.ModuleList(Expert(*pair) for pair in pairs)
    return model


def ranges(x, args):
    """Least and most of what shares a scale, as the package's observers give them."""
    if args.strategy in ("group", "tensor_group"):
        x = x.unflatten(-1, (-1, args.group_size))
        return x.amin(-1), x.amax(-1)
    if args.strategy == "channel":
        return x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    if args.strategy == "block":
        rows, columns = args.block_structure
        padded = nn.functional.pad(x, (0, -x.shape[1] % columns, 0, -x.shape[0] % rows))
        wide = padded.view(padded.shape[0] // rows, rows, -1, columns)
        return wide.amin((1, 3)), wide.amax((1, 3))
    return x.amin().reshape(1), x.amax().reshape(1)


def calibrate(model):
    """Scales and zeros of every layer, from its weights, and of activations from made-up ones."""
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if not isinstance(module, nn.Linear) or scheme is None:
            continue
        held = {"weight": (scheme.weights, module.weight.data)}
        if scheme.input_activations is not None and scheme.input_activations.dynamic is not True:
            held["input"] = (scheme.input_activations, torch.tensor([[-1.75, 2.5]], dtype=module.weight.dtype))
        for name, (args, values) in held.items():
            whole = None
            if args.strategy == "tensor_group":
                whole = generate_gparam(values.amin(), values.amax())
                getattr(module, f"{name}_global_scale").data.copy_(whole)
            if args.dynamic == "local":
                continue
            scale, zero = calculate_qparams(*ranges(values, args), args, global_scale=whole)
            getattr(module, f"{name}_scale").data.copy_(scale.reshape(getattr(module, f"{name}_scale").shape))
            kept = getattr(module, f"{name}_zero_point", None)
            if kept is not None and not args.symmetric:
                kept.data.copy_(zero.reshape(kept.shape))
    for module in model.modules():
        for name in ("k_scale", "v_scale"):
            if name in module._parameters:
                module._parameters[name].data.fill_(0.03125)


def plain_of(model, decompressed):
    """A plain model with decompressed weights, in float32."""
    model = copy.deepcopy(model).float()
    with torch.no_grad():
        for name, weight in decompressed.items():
            parts = name.split(".")
            if "experts" not in parts:
                model.get_submodule(name).weight.copy_(weight)
                continue
            experts, number = model.get_submodule(name.partition(".experts.")[0]).experts, int(parts[-2])
            if parts[-1] == "down_proj":
                experts.down_proj[number].copy_(weight)
            else:
                half = experts.gate_up_proj[number].chunk(2)[parts[-1] == "up_proj"]
                half.copy_(weight)
    return model


def logits(model):
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits[0].float().tolist()


def one(name, folder):
    kind, config, dtype, groups, more = CASES[name]
    shutil.rmtree(folder, ignore_errors=True)
    model = made(kind, config, dtype)
    apart = taken_apart(model)
    groups = {key: QuantizationScheme(**value) for key, value in groups.items()}
    ignore = more.get("ignore", ["lm_head"])
    settings = QuantizationConfig(config_groups=groups, **{**more, "ignore": ignore})
    apply_quantization_config(apart, settings, show_progress=False)
    calibrate(apart)
    compressor = ModelCompressor.from_pretrained_model(apart)
    compressor.compress_model(apart)
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    held = {key: tensor.contiguous() for key, tensor in apart.state_dict().items()}
    if model.config.tie_word_embeddings:
        held.pop("lm_head.weight")
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    compressor.update_config(str(folder))
    if "ignore" in more:  # what people wrote, where the package lists the layers that it came to
        said = json.loads((folder / "config.json").read_text())
        said["quantization_config"]["ignore"] = ignore
        (folder / "config.json").write_text(json.dumps(said, indent=2, sort_keys=True))
    compressor.decompress_model(apart)
    read = {n: m.weight.data for n, m in apart.named_modules() if getattr(m, "quantization_scheme", None) is not None
            and isinstance(m, nn.Linear)}  # fmt: skip
    told = {}
    for layer, weight in read.items():
        raw = (weight + 0.0).contiguous().view(torch.uint8).numpy().tobytes()  # noughts without a sign
        told[layer] = {"dtype": str(weight.dtype).removeprefix("torch."), "sha256": hashlib.sha256(raw).hexdigest(),
                       "first": weight.flatten()[:6].float().tolist()}  # fmt: skip
    oracle = {"layers": told, "plain": logits(plain_of(model, read))}
    if kind == "llama" and name != "fp8-block":  # which has inputs that are no whole groups of 128
        oracle["active"] = logits(apart.float())
    (folder / "oracle.json").write_text(json.dumps(oracle) + "\n")


if __name__ == "__main__":
    chosen = sys.argv[2:] or list(CASES)
    for name in chosen:
        try:
            one(name, Path(sys.argv[1]) / name)
        except Exception as error:
            print(name, type(error).__name__, str(error)[:300])
        else:
            print(name, sum(f.stat().st_size for f in (Path(sys.argv[1]) / name).iterdir()))
