"""Checkpoints as Meta and Mistral lay them out: ``consolidated.safetensors`` beside ``params.json``, under their names.

Names and sizes are those of mistral-inference (https://github.com/mistralai/mistral-inference, ``ModelArgs``) and of
Meta's llama (https://github.com/meta-llama/llama). Their rotary embedding turns neighbours, the Hub's turns halves of a
head, so that the rows of queries and keys stand in another order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

from torch import Tensor

from omniform.core.errors import InputError, WeightsError, brief

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

_INERT: Final = frozenset({
    "model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "bos_token_id", "eos_token_id",
    "pad_token_id", "attention_dropout", "initializer_range", "use_cache", "pretraining_tp", "_name_or_path",
    "id2label", "label2id", "return_dict", "output_hidden_states", "output_attentions", "num_labels",
    "is_encoder_decoder",
    "omniform_version", "tokenizer_class",
})  # fmt: skip
"""Keys of a config that a reader of this layout has no use for."""


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


def params_of(config: Mapping[str, object], dims: Mapping[str, int]) -> dict[str, object]:
    """What ``params.json`` says.

    Args:
        config: the checkpoint's, as it is written.
        dims: sizes that a config may leave to its family: see :func:`omniform.export.checkpoints.consolidated`.

    Raises:
        InputError: the config says something that this layout cannot; it is named.
    """
    told = dict(config)
    rope = cast("Mapping[str, object]", told.pop("rope_parameters", None) or {})
    scaling = cast("Mapping[str, object]", told.pop("rope_scaling", None) or rope)
    theta = told.pop("rope_theta", None) or rope.get("rope_theta") or 10000.0
    plain = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    for name, value in plain.items():
        if told.pop(name, value) not in (value, "swish" if name == "hidden_act" else value):
            raise InputError("params.json cannot tell this", where=name, expected=value, found=brief(config[name]))
    params: dict[str, object] = {
        "dim": dims["hidden_size"], "n_layers": dims["num_hidden_layers"], "head_dim": dims["head_dim"],
        "hidden_dim": dims["intermediate_size"], "n_heads": dims["num_attention_heads"],
        "n_kv_heads": dims["num_key_value_heads"], "norm_eps": told.pop("rms_norm_eps", 1e-6),
        "vocab_size": dims["vocab_size"], "rope_theta": theta, "max_seq_len": dims["max_position_embeddings"],
    }  # fmt: skip
    window, tied = told.pop("sliding_window", None), told.pop("tie_word_embeddings", False)
    if window is not None:
        params["sliding_window"] = window
    if tied:
        params["tied_embeddings"] = True
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "llama3" and all(scaling.get(name) == value for name, value in _SCALED.items()):
        params["use_scaled_rope"] = True
        params["original_max_seq_len"] = scaling.get("original_max_position_embeddings", 8192)
    elif kind != "default":
        raise InputError(
            "params.json cannot tell this", where="rope_scaling", expected=f"none, or llama3's with {_SCALED}",
            found=brief(dict(scaling)),
        )  # fmt: skip
    left = sorted(name for name, value in told.items() if name not in _INERT and name not in dims and value is not None)
    if left:
        raise InputError("params.json cannot tell this", where=left[0], found=brief(told[left[0]]))
    return params


def config_of(params: Mapping[str, object], where: str) -> dict[str, object]:
    """The config of a folder in this layout.

    Raises:
        WeightsError: a size is missing, or there are experts or scales that are not read.
    """
    known = {
        "dim": "hidden_size", "n_layers": "num_hidden_layers", "hidden_dim": "intermediate_size",
        "n_heads": "num_attention_heads", "vocab_size": "vocab_size", "norm_eps": "rms_norm_eps",
    }  # fmt: skip
    missing = [name for name in known if name not in params]
    for name in ("moe", "yarn", "quantization", "vision_encoder", "multimodal"):
        if params.get(name):
            raise WeightsError("this layout is read of plain Llamas and Mistrals only", where=where, found=name)
    if missing:
        raise WeightsError("the sizes are not all there", where=where, expected=", ".join(known), found=str(missing))
    heads = params.get("n_kv_heads") or params["n_heads"]
    config: dict[str, object] = {ours: params[name] for name, ours in known.items()}
    llama = "use_scaled_rope" in params or "multiple_of" in params
    config |= {
        "model_type": "llama" if llama else "mistral",
        "architectures": ["LlamaForCausalLM" if llama else "MistralForCausalLM"],
        "num_key_value_heads": heads, "hidden_act": "silu", "rope_theta": params.get("rope_theta", 10000.0),
        "head_dim": params.get("head_dim") or cast(int, params["dim"]) // cast(int, params["n_heads"]),
        "max_position_embeddings": params.get("max_seq_len") or params.get("max_position_embeddings") or 32768,
        "tie_word_embeddings": bool(params.get("tied_embeddings", False)),
    }  # fmt: skip
    if not llama:
        config["sliding_window"] = params.get("sliding_window")
    if params.get("use_scaled_rope"):
        length = params.get("original_max_seq_len", 8192)
        config["rope_scaling"] = {"rope_type": "llama3", **_SCALED, "original_max_position_embeddings": length}
    return config
