"""Checkpoints as Meta and Mistral lay them out: ``consolidated.safetensors`` beside ``params.json``, under their names.

Names and sizes are those of mistral-inference (https://github.com/mistralai/mistral-inference, ``ModelArgs``) and of
Meta's llama (https://github.com/meta-llama/llama). Their rotary embedding turns neighbours, the Hub's turns halves of a
head, so that the rows of queries and keys stand in another order.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, cast

from torch import Tensor

from omniform.core.errors import InputError, WeightsError, brief
from omniform.weights.safetensors import map_tensors, read_header

WEIGHTS: Final = "consolidated.safetensors"
PARAMS: Final = "params.json"

NAMES: Final[Mapping[str, str]] = {
    "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output",
    "model.layers.#.self_attn.q_proj": "layers.#.attention.wq",
    "model.layers.#.self_attn.k_proj": "layers.#.attention.wk",
    "model.layers.#.self_attn.v_proj": "layers.#.attention.wv",
    "model.layers.#.self_attn.o_proj": "layers.#.attention.wo",
    "model.layers.#.mlp.gate_proj": "layers.#.feed_forward.w1",
    "model.layers.#.mlp.up_proj": "layers.#.feed_forward.w3",
    "model.layers.#.mlp.down_proj": "layers.#.feed_forward.w2",
    "model.layers.#.input_layernorm": "layers.#.attention_norm",
    "model.layers.#.post_attention_layernorm": "layers.#.ffn_norm",
}  # fmt: skip
"""The Hub's names of modules, ``#`` for a layer's number, to those of this layout."""

TURNED: Final = {"attention.wq": "n_heads", "attention.wk": "n_kv_heads"}
"""Matrices whose rows stand in another order, and how many heads they are of."""

_BACK: Final = {theirs: ours for ours, theirs in NAMES.items()}
_SCALED: Final = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""Llama 3.1's scaling of the rotary embedding, which ``use_scaled_rope`` stands for."""

_PLAIN: Final = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "partial_rotary_factor": 1.0}
"""What every model in this layout does, and no key of it says."""

KEPT: Final = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "head_dim": "head_dim", "hidden_dim": "intermediate_size",
    "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size", "rope_theta": "rope_theta", "max_seq_len": "max_position_embeddings",
}  # fmt: skip
"""Keys of ``params.json``, and what configs of the Hub call them."""


def renamed(key: str, table: Mapping[str, str]) -> str | None:
    """A tensor's other name; None where the table has none."""
    module, _, kind = key.rpartition(".")
    found = re.search(r"(?<=layers\.)\d+(?=\.)", module)
    number = found.group() if found else ""
    other = table.get(re.sub(r"(?<=layers\.)\d+(?=\.)", "#", module))
    return None if other is None or kind != "weight" else f"{other.replace('#', number)}.{kind}"


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows of the Hub's order, where a pair lies half a head apart, to pairs side by side. Shape: [H * D, I]."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def halves(weight: Tensor, heads: int) -> Tensor:
    """The other way round. Shape: [H * D, I]."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def _heads_of(name: str, params: Mapping[str, object]) -> int | None:
    """How many heads a matrix is of whose rows are in another order; None of all others."""
    counted = next((TURNED[part] for part in TURNED if f".{part}." in name), None)
    return None if counted is None else cast(int, params[counted])


def to_native(tensors: Mapping[str, Tensor], params: Mapping[str, object]) -> dict[str, Tensor]:
    """A checkpoint's tensors in this layout.

    Raises:
        InputError: one has no name there.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = renamed(key, NAMES)
        if name is None:
            raise InputError("this layout has no name for a tensor", where="layout", expected="Llama's", found=key)
        heads = _heads_of(name, params)
        found[name] = tensor if heads is None else neighbours(tensor, heads)
    return found


def from_native(tensors: Mapping[str, Tensor], params: Mapping[str, object], where: str) -> dict[str, Tensor]:
    """The other way round.

    Raises:
        WeightsError: a tensor's name is none of this layout.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        key = renamed(name, _BACK)
        if key is None:
            raise WeightsError("a tensor has no place", where=where, expected=", ".join(_BACK), found=name)
        heads = _heads_of(name, params)
        found[key] = tensor if heads is None else halves(tensor, heads)
    return found


def params_of(config: Mapping[str, object]) -> dict[str, object]:
    """What ``params.json`` says.

    Args:
        config: all that the model's config says, defaults included.

    Raises:
        InputError: the config says something that this layout cannot; it is named.
    """
    for name, value in _PLAIN.items():
        if config.get(name, value) != value:
            raise InputError("params.json cannot tell this", where=name, expected=value, found=brief(config[name]))
    kinds = config.get("layer_types")
    if isinstance(kinds, (list, tuple)) and len({*kinds}) > 1:
        raise InputError("params.json cannot tell this", where="layer_types", expected="one kind", found=brief(kinds))
    params = {theirs: config[ours] for theirs, ours in KEPT.items()}
    if config.get("sliding_window") is not None:
        params["sliding_window"] = config["sliding_window"]
    if config.get("tie_word_embeddings"):
        params["tied_embeddings"] = True
    scaling = cast("Mapping[str, object]", config.get("rope_scaling") or {})
    kind = scaling.get("rope_type", "default")
    if kind == "llama3" and all(scaling.get(name) == value for name, value in _SCALED.items()):
        params["use_scaled_rope"] = True
        params["original_max_seq_len"] = scaling.get("original_max_position_embeddings", 8192)
    elif kind != "default":
        raise InputError(
            "params.json cannot tell this", where="rope_scaling", expected=f"none, or llama3's with {_SCALED}",
            found=brief(dict(scaling)),
        )  # fmt: skip
    return params


def config_of(params: Mapping[str, object], where: str) -> dict[str, object]:
    """The config of a folder in this layout.

    Raises:
        WeightsError: a size is missing, or there are experts or scales, which are not read.
    """
    optional = ("n_kv_heads", "head_dim", "rope_theta", "max_seq_len")
    missing = [name for name in KEPT if name not in params and name not in optional]
    if missing:
        raise WeightsError("the sizes are not all there", where=where, expected=", ".join(KEPT), found=str(missing))
    for name in ("moe", "yarn", "quantization", "vision_encoder", "multimodal"):
        if params.get(name):
            raise WeightsError("this layout is read of plain Llamas and Mistrals only", where=where, found=name)
    llama = "use_scaled_rope" in params or "multiple_of" in params
    config: dict[str, object] = {
        "model_type": "llama" if llama else "mistral",
        "architectures": ["LlamaForCausalLM" if llama else "MistralForCausalLM"],
        **{ours: params[theirs] for theirs, ours in KEPT.items() if params.get(theirs) is not None},
        "tie_word_embeddings": bool(params.get("tied_embeddings", False)),
    }
    config.setdefault("num_key_value_heads", params["n_heads"])
    config.setdefault("max_position_embeddings", 32768)
    if not llama:
        config["sliding_window"] = params.get("sliding_window")
    if params.get("use_scaled_rope"):
        length = params.get("original_max_seq_len", 8192)
        config["rope_scaling"] = {"rope_type": "llama3", **_SCALED, "original_max_position_embeddings": length}
    return config


@lru_cache(maxsize=8)
def config_file(folder: Path, changed: int) -> Path:
    """The config of a folder as a file, in a folder of this process that goes when it ends.

    Args:
        folder: with ``params.json``.
        changed: when that was written, in nanoseconds.

    Raises:
        RepoError: it is no JSON.
        WeightsError: as :func:`config_of`.
    """
    from omniform.hub.files import read_json

    config = config_of(read_json(folder / PARAMS), str(folder / PARAMS))
    made = Path(tempfile.mkdtemp(prefix="omniform-consolidated-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    path = made / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def native_config(folder: Path) -> Path | None:
    """The config of a folder that has none and is in this layout; None of any other."""
    params = folder / PARAMS
    if not params.is_file() or not (folder / WEIGHTS).is_file():
        return None
    return config_file(folder, params.stat().st_mtime_ns)


def native_tensors(folder: Path) -> dict[str, Tensor] | None:
    """The tensors of a folder in this layout by the Hub's names, mapped but for queries and keys; None of any other.

    Raises:
        WeightsError: the file is damaged, or holds something else.
    """
    from omniform.hub.files import read_json

    path = folder / WEIGHTS
    if not (folder / PARAMS).is_file() or not path.is_file():
        return None
    params = read_json(folder / PARAMS)
    params.setdefault("n_kv_heads", params.get("n_heads"))
    return from_native(map_tensors(path, read_header(path)), params, str(path))
