"""Checkpoints of random weights, for measuring: nothing of speed depends on what weights are.

No end-of-sequence token is set, so that every answer has the length that was asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from omniform.core.errors import ConfigError, OmniformError, nearest

PREFIX: Final = "made:"
FORMAT: Final = 1
"""Part of a folder's name: raised when a new version writes other files."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama: of hidden states, layers, heads, heads of keys, a head, the MLP, the vocabulary."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int
    positions: int = 4096

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name, and its shape."""
        wide, narrow = self.heads * self.head, self.kv_heads * self.head
        named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.width)}
        for number in range(self.layers):
            layer = f"model.layers.{number}"
            named |= {
                f"{layer}.self_attn.q_proj.weight": (wide, self.width),
                f"{layer}.self_attn.k_proj.weight": (narrow, self.width),
                f"{layer}.self_attn.v_proj.weight": (narrow, self.width),
                f"{layer}.self_attn.o_proj.weight": (self.width, wide),
                f"{layer}.mlp.gate_proj.weight": (self.mlp, self.width),
                f"{layer}.mlp.up_proj.weight": (self.mlp, self.width),
                f"{layer}.mlp.down_proj.weight": (self.width, self.mlp),
                f"{layer}.input_layernorm.weight": (self.width,),
                f"{layer}.post_attention_layernorm.weight": (self.width,),
            }
        return named | {"model.norm.weight": (self.width,), "lm_head.weight": (self.vocabulary, self.width)}

    def config(self) -> dict[str, object]:
        """The checkpoint's ``config.json``."""
        return {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": self.width,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head, "intermediate_size": self.mlp, "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False, "bos_token_id": 1,
            "eos_token_id": None, "pad_token_id": 0, "dtype": "bfloat16",
        }  # fmt: skip


SHAPES: Final[Mapping[str, Shape]] = {
    "llama-tiny": Shape(64, 2, 4, 2, 16, 128, 512),
    "llama-60m": Shape(512, 8, 8, 4, 64, 1408, 16000),
    "llama-400m": Shape(1024, 24, 16, 4, 64, 3584, 32000),
}


def cache_folder() -> Path:
    """Where what measuring makes is kept: ``OMNIFORM_BENCH_CACHE``, or ``~/.cache/omniform/bench``."""
    named = os.environ.get("OMNIFORM_BENCH_CACHE")
    return Path(named).expanduser() if named else Path("~/.cache/omniform/bench").expanduser()


def made(name: str, cache: Path | None = None) -> Path:
    """The folder of a checkpoint, made where it is not there yet.

    Args:
        name: of its shape.

    Raises:
        ConfigError: there is no such shape.
    """
    if name not in SHAPES:
        raise ConfigError(f"no checkpoint {name!r} is made", where="model", expected="a config.json, or a name",
                          remedy=nearest(name, SHAPES))  # fmt: skip
    return _kept(f"{name}-{FORMAT}", cache, lambda folder: _write(folder, SHAPES[name]))


def made_of(path: Path, cache: Path | None = None) -> Path:
    """The folder of a checkpoint of random weights, of any family, made where it is not there yet.

    Args:
        path: a raw ``config.json`` by any name, whose first architecture is made in the dtype it names; or a folder
            that holds one and what is to lie beside the weights: a tokenizer's files, a processor's.

    Raises:
        ConfigError: there is no such file, or it is no config.
    """
    beside = [] if path.is_file() else sorted(one for one in path.glob("*") if one.is_file())
    config = path if path.is_file() else path / "config.json"
    try:
        contents = [(one.name, one.read_bytes()) for one in [config, *beside]]
    except OSError as error:
        raise ConfigError("no checkpoint is made of this", where=str(config), found=error.strerror) from None
    named = hashlib.sha256(b"\0".join(name.encode() + b"\0" + content for name, content in contents)).hexdigest()[:12]

    def write(folder: Path) -> None:
        (folder / "config.json").write_bytes(contents[0][1])
        _fill(folder)
        for name, content in contents[1:]:
            if name != "config.json":
                (folder / name).write_bytes(content)

    return _kept(f"{path.stem}-{named}-{FORMAT}", cache, write)


def _kept(name: str, cache: Path | None, write: Callable[[Path], object]) -> Path:
    """A folder of the cache, written whole or not at all.

    Raises:
        ConfigError: it cannot be written there.
    """
    from safetensors import SafetensorError

    folder = (cache or cache_folder()) / "models" / name
    try:
        return folder if (folder / "model.safetensors").is_file() else _made(folder, write)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OmniformError):  # of what it is made of, and not of where it goes
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError("the checkpoint cannot be kept", where=str(folder), found=why,
                          remedy="Name another folder: OMNIFORM_BENCH_CACHE.") from None  # fmt: skip


def _made(folder: Path, write: Callable[[Path], object]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        write(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:  # somebody else was faster
            if not (folder / "model.safetensors").is_file():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _fill(folder: Path) -> None:
    """Random weights beside a config."""
    import torch

    from omniform.hub.auto import AutoConfig
    from omniform.hub.checkpoint import class_from_config, saved_class

    config = AutoConfig.from_pretrained(str(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = class_from_config(saved_class(config), config)
    model.save_pretrained(str(folder), max_shard_size="1000GB")


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


def is_file(name: str) -> bool:
    """Whether what is to be made (``made:`` aside) is a file or a folder, and no name."""
    return name.endswith(".json") or "/" in name


def model_folder(name: str) -> str:
    """What a config's ``model`` stands for: a made or a bundled checkpoint's folder, or the name as it is.

    Raises:
        ConfigError: no such checkpoint is made.
    """
    if name.startswith(PREFIX):
        own = name.removeprefix(PREFIX)
        return str(made_of(Path(own).expanduser()) if is_file(own) else made(own))
    from omniform.hub.bundled import ASSETS

    bundled = ASSETS / name
    if name and "/" not in name and (bundled / "config.json").is_file():
        return str(bundled)
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
