"""ALBERT against the reference: layers that run several times, in groups; narrow embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from askers import Choices, Labels, Nothing, Rows, Text, Words
from harness import Head, Parity, Table, bare, classifiers, compiled, gamma
from test_bert import types

from reference import omniform, transformers

TINY = {
    "vocab_size": 97, "embedding_size": 12, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 3, "max_position_embeddings": 60,
}  # fmt: skip


@dataclass(frozen=True)
class WordsAndOrder(Words):
    """The two labels of pre-training."""

    fields: tuple[str, ...] = ("loss", "prediction_logits", "sop_logits")

    def given(self, ids, mask):
        return {**super().given(ids, mask), "sentence_order_label": torch.tensor([1, 0, 1])}


def head(name: str, labels: Labels, **options: object) -> Head:
    asked = Text(labels, more=types, embeds=lambda config: config.embedding_size)
    return Head(f"Albert{name}", f"Auto{name.replace('For', 'ModelFor')}", asked, **options)


class TestAlbert(Parity):
    table = Table(
        model_type="albert",
        config=transformers.AlbertConfig,
        tiny=TINY,
        heads={
            "Model": head("Model", Nothing(("last_hidden_state", "pooler_output")), everywhere=True),
            "ForPreTraining": head("ForPreTraining", WordsAndOrder()),
            "ForMaskedLM": head("ForMaskedLM", Words(), everywhere=True),
            **classifiers("Albert", more=types, embeds=None),
            "ForMultipleChoice": Head(
                "AlbertForMultipleChoice", "AutoModelForMultipleChoice",
                Choices(Rows(torch.tensor([1, 0]), {}), more=types),
            ),
        },
        variants={
            "plain": {},
            "groups, uneven": {"num_hidden_groups": 2},
            "groups of two": {
                "num_hidden_groups": 2, "inner_group_num": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-2
            },
            "untied, as wide": {"tie_word_embeddings": False, "embedding_size": 24, "type_vocab_size": 3},
        },
        spellings={"bare": bare("albert"), "gamma": gamma, "compiled": compiled},
    )  # fmt: skip


def test_a_layer_is_there_once():
    config = omniform.AutoConfig.for_model("albert", **TINY, num_memory_blocks=0, net_structure_type=0, gap_size=0)
    model = omniform.AutoModelForMaskedLM.from_config(config)
    assert not config.unknown
    assert len(model.model.layers) == 1 and model.model.order == (0, 0, 0)
