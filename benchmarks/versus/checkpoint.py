"""The benchmark's checkpoint: a Llama with random weights, written without either library.

Nothing of speed depends on the weights' values, so no trained checkpoint is needed. No end-of-sequence token is set:
every answer has exactly the length that was asked for.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

FORMAT = 1
"""Part of the folder's name: raised when a new version writes other files."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama.

    Attributes:
        width: of the hidden states.
        head: width of one attention head.
        mlp: inner width of the MLP.
        vocabulary: number of tokens.
        positions: longest sequence.
    """

    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int
    positions: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name in the checkpoint, and its shape."""
        wide, narrow = self.heads * self.head, self.kv_heads * self.head
        named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.width)}
        for number in range(self.layers):
            layer = f"model.layers.{number}"
            named[f"{layer}.self_attn.q_proj.weight"] = (wide, self.width)
            named[f"{layer}.self_attn.k_proj.weight"] = (narrow, self.width)
            named[f"{layer}.self_attn.v_proj.weight"] = (narrow, self.width)
            named[f"{layer}.self_attn.o_proj.weight"] = (self.width, wide)
            named[f"{layer}.mlp.gate_proj.weight"] = (self.mlp, self.width)
            named[f"{layer}.mlp.up_proj.weight"] = (self.mlp, self.width)
            named[f"{layer}.mlp.down_proj.weight"] = (self.width, self.mlp)
            named[f"{layer}.input_layernorm.weight"] = (self.width,)
            named[f"{layer}.post_attention_layernorm.weight"] = (self.width,)
        named["model.norm.weight"] = (self.width,)
        named["lm_head.weight"] = (self.vocabulary, self.width)
        return named

    def parameters(self) -> int:
        """How many numbers the checkpoint holds."""
        return sum(_numbers(shape) for shape in self.tensors().values())

    def read_per_step(self) -> int:
        """Bytes of weights that a decoding step reads: all of them but the embedding table, of which it reads a row."""
        return 2 * (self.parameters() - self.vocabulary * self.width)

    def config(self) -> dict[str, object]:
        """The checkpoint's ``config.json``."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head,
            "intermediate_size": self.mlp,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "attention_bias": False,
            "bos_token_id": 1,
            "eos_token_id": None,
            "pad_token_id": 0,
            "dtype": "bfloat16",
        }


FULL = Shape(
    "llama-400m", width=1024, layers=24, heads=16, kv_heads=4, head=64, mlp=3584, vocabulary=32000, positions=4096
)
TINY = Shape("llama-tiny", width=64, layers=2, heads=4, kv_heads=2, head=16, mlp=128, vocabulary=512, positions=1024)


def _numbers(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def checkpoint(cache: Path, shape: Shape) -> Path:
    """The checkpoint's folder under ``cache``, made if it is not there yet."""
    folder = cache / f"{shape.name}-{FORMAT}"
    if not (folder / "model.safetensors").is_file():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write(unfinished, shape)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return folder


def _write(folder: Path, shape: Shape) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, sizes in shape.tensors().items():
        if len(sizes) == 1:
            tensors[name] = torch.ones(sizes, dtype=torch.bfloat16)
        else:
            tensors[name] = torch.empty(sizes, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2), encoding="utf-8")
    settings = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def description(shape: Shape) -> dict[str, object]:
    """What the report says of the checkpoint."""
    return {**asdict(shape), "parameters": shape.parameters(), "bytes": 2 * shape.parameters(), "dtype": "bfloat16"}
