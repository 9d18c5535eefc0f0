"""Small checkpoints in which others' tools keep linear layers quantized: a folder of plain weights, written over."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file, save_file

from reference import omniform

SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
FAMILIES = {
    "llama": (SMALL, "LlamaForCausalLM"),
    "qwen2": ({**SMALL, "num_key_value_heads": 2}, "Qwen2ForCausalLM"),
    "phi3": ({**SMALL, "num_key_value_heads": 2}, "Phi3ForCausalLM"),
    "gpt_neox": (SMALL, "GPTNeoXForCausalLM"),
    "mixtral": ({**SMALL, "num_local_experts": 2, "num_key_value_heads": 2}, "MixtralForCausalLM"),
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def plain(family, folder, dtype=torch.float32):
    """A folder of plain weights, all at random; returns the model's class."""
    keys, name = FAMILIES[family]
    torch.manual_seed(3)
    kind = getattr(omniform, name)
    model = kind(omniform.AutoConfig.for_model(family, **keys)).to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (1.0 if p.dim() == 1 else 0.0))
    model.save_pretrained(folder)
    return kind


def rewritten(source, target, settings, packed, twin=None):
    """A folder with its layers' matrices replaced.

    Args:
        settings: ``quantization_config``.
        packed: makes of a matrix what a file holds of it, by the names within its module, and the numbers these mean;
            or None, where the layer stays.
        twin: where a folder of those numbers is written to.
    """
    tensors = load_file(source / "model.safetensors")
    made, dense, layers = {}, {}, []
    for key, tensor in tensors.items():
        is_layer = tensor.dim() == 2 and "embed" not in key and "lm_head" not in key and ".gate.w" not in key
        found = packed(key.removesuffix(".weight"), tensor) if is_layer else None
        if found is None:
            made[key] = dense[key] = tensor
            continue
        layers.append(key.removesuffix(".weight"))
        held, numbers = found
        made |= {f"{key.removesuffix('.weight')}.{name}": one.contiguous() for name, one in held.items()}
        dense[key] = numbers.to(tensor.dtype).contiguous()
    config = json.loads((source / "config.json").read_text())
    for folder, held, said in ((target, made, {"quantization_config": settings}), (twin, dense, {})):
        if folder is not None:
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps({**config, **said}))
            save_file(held, folder / "model.safetensors", {"format": "pt"})
    return layers


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def same_tensors(one, other):
    """Whether two folders hold the same tensors, bit for bit."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    for key, tensor in first.items():
        assert tensor.dtype == second[key].dtype and tensor.shape == second[key].shape, key
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), second[key].reshape(-1).view(torch.uint8)), key
