"""DeBERTa-v2 and v3 against the reference: attention to relative positions, from content and to content."""

from __future__ import annotations

import torch
from askers import Choices, Nothing, Rows, Text, Words
from harness import Head, Parity, Table, bare, classifiers, compiled, gamma

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 40, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False, "pooler_dropout": 0.0,
}  # fmt: skip
V3 = {"position_buckets": 4, "norm_rel_ebd": "layer_norm", "share_att_key": True, "max_relative_positions": -1}
CONVOLUTION = {"conv_kernel_size": 3, "conv_act": "gelu"}
XLARGE = {**V3, **CONVOLUTION, "attention_head_size": 8}


TABLE = Table(
    model_type="deberta-v2",
    config=transformers.DebertaV2Config,
    tiny={**TINY, **V3},
    heads={
        "Model": Head("DebertaV2Model", "AutoModel", Text(Nothing()), everywhere=True),
        "ForMaskedLM": Head("DebertaV2ForMaskedLM", "AutoModelForMaskedLM", Text(Words()), everywhere=True),
        "Model, narrow embeddings": Head(
            "DebertaV2Model", "AutoModel", Text(Nothing(config={"embedding_size": 20}), embeds=None)
        ),
        **classifiers("DebertaV2"),
        "ForMultipleChoice": Head(
            "DebertaV2ForMultipleChoice", "AutoModelForMultipleChoice",
            Choices(Rows(torch.tensor([1, 0]), {})),
        ),
    },
    variants={
        "plain": {},
        "as in v1": {**TINY, "position_buckets": -1, "norm_rel_ebd": "none", "share_att_key": False},
        "from content": {"pos_att_type": ["c2p"]},
        "to content": {"pos_att_type": ["p2c"]},
        "by a text": {"pos_att_type": "c2p|p2c"},
        "keys of their own": {"share_att_key": False},
        "from content, keys of their own": {"share_att_key": False, "pos_att_type": ["c2p"]},
        "to content, keys of their own": {"share_att_key": False, "pos_att_type": ["p2c"]},
        "no buckets": {"position_buckets": -1},
        "no buckets, a near maximum": {"position_buckets": -1, "max_relative_positions": 5},
        "many buckets": {"position_buckets": 30},
        "buckets, a near maximum": {"position_buckets": 4, "max_relative_positions": 9},
        "positions unnormed": {"norm_rel_ebd": "none"},
        "no relative positions": {"relative_attention": False, "pos_att_type": None, "position_biased_input": True},
        "absolute positions too": {"position_biased_input": True},
        "types": {"type_vocab_size": 3},
        "convolution": CONVOLUTION,
        "convolution of five in groups": {"conv_kernel_size": 5, "conv_act": "tanh", "conv_groups": 4},
        "xlarge": XLARGE,
        "epsilon": {"layer_norm_eps": 1e-2, "hidden_act": "gelu_new"},
        "new head": {"legacy": False},
        "new head, untied": {"legacy": False, "tie_word_embeddings": False},
        "untied": {"tie_word_embeddings": False},
    },
    spellings={"bare": bare("deberta"), "gamma": gamma, "compiled": compiled},
)  # fmt: skip


class TestDebertaV2(Parity):
    table = TABLE
