"""DistilBERT against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Choices, Labels, Nothing, Rows, Text, Words
from harness import Head, Parity, Table, bare, classifiers, compiled, gamma

from omniform.core.errors import InputError
from reference import close, omniform, transformers

TINY = {
    "vocab_size": 97, "dim": 24, "hidden_dim": 20, "n_layers": 2, "n_heads": 3, "max_position_embeddings": 60,
}  # fmt: skip


def head(name: str, labels: Labels, **options: object) -> Head:
    return Head(f"DistilBert{name}", f"Auto{name.replace('For', 'ModelFor')}", Text(labels), **options)


class TestDistilBert(Parity):
    table = Table(
        model_type="distilbert",
        config=transformers.DistilBertConfig,
        tiny=TINY,
        heads={
            "Model": head("Model", Nothing(), everywhere=True),
            "ForMaskedLM": head("ForMaskedLM", Words(), everywhere=True),
            **classifiers("DistilBert"),
            "ForMultipleChoice": Head(
                "DistilBertForMultipleChoice", "AutoModelForMultipleChoice", Choices(Rows(torch.tensor([1, 0]), {}))
            ),
        },
        variants={
            "plain": {},
            "sinusoidal, relu": {"sinusoidal_pos_embds": True, "activation": "relu"},
            "untied": {"tie_word_embeddings": False, "n_heads": 1, "n_layers": 1},
        },
        spellings={"bare": bare("distilbert"), "gamma": gamma, "compiled": compiled},
    )


def test_sinusoids_are_where_a_model_begins():
    config = {**TINY, "sinusoidal_pos_embds": True}
    theirs = transformers.DistilBertModel(transformers.DistilBertConfig(**config))
    ours = omniform.AutoModel.from_config(omniform.AutoConfig.for_model("distilbert", **config))
    close(ours.embeddings.embed_positions.weight, theirs.embeddings.position_embeddings.weight, tolerance=1e-6)
    assert ours.embeddings.embed_positions.weight.requires_grad


def test_names_of_old_and_new_files():
    generic = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "tie_weights_": True}
    config = omniform.AutoConfig.for_model("distilbert", hidden_dim=20, **generic)
    assert (config.dim, config.n_heads, config.n_layers, config.unknown) == (24, 3, 2, ())
    model = omniform.AutoModel.from_config(omniform.AutoConfig.for_model("distilbert", **TINY)).eval()
    ids = torch.arange(1, 4)[None]
    # BERT's tokenizer, which folders without a class of their own get, hands them over.
    close(model(ids, token_type_ids=ids * 0 + 1).last_hidden_state, model(ids).last_hidden_state)
    with pytest.raises(InputError, match="at most 60 tokens"):
        model(torch.ones(1, 61, dtype=torch.long))
