"""``first_only``: of a step's last layer, only the first tokens are computed; what is told of rows stays the same."""

from __future__ import annotations

import pytest
import torch

from omniform import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification
from reference import randomise

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
DISTILBERT = {"vocab_size": 40, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 32}
KINDS = {
    "bert": SIZES, "roberta": SIZES, "electra": {**SIZES, "embedding_size": 16}, "mpnet": SIZES,
    "albert": {**SIZES, "embedding_size": 16}, "distilbert": DISTILBERT, "deberta-v2": SIZES,
    "modernbert": {**SIZES, "classifier_pooling": "cls", "global_attn_every_n_layers": 2, "local_attention": 4},
}  # fmt: skip
IDS = torch.tensor([[2, 5, 9, 11, 7, 3], [2, 6, 8, 3, 0, 0], [2, 3, 0, 0, 0, 0]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["sdpa", "eager"])
@torch.no_grad()
def test_rows_are_told_the_same(kind: str, how: str) -> None:
    config = AutoConfig.for_model(kind, **KINDS[kind], num_labels=3)
    model = randomise(AutoModelForSequenceClassification.from_config(config, attn_implementation=how)).eval()
    if kind == "deberta-v2":  # whose pooler is the head's own
        assert not model.reads_first
        return
    assert model.reads_first
    for mask in (None, (IDS != 0).long()):
        whole = model(input_ids=IDS, attention_mask=mask).logits
        assert torch.allclose(model(input_ids=IDS, attention_mask=mask, first_only=True).logits, whole, atol=1e-5)
        hidden = model.base_model(input_ids=IDS, attention_mask=mask).last_hidden_state
        first = model.base_model(input_ids=IDS, attention_mask=mask, first_only=True).last_hidden_state
        assert first.shape == (3, 1, 16) and torch.allclose(first, hidden[:, :1], atol=1e-5)


@torch.no_grad()
def test_less_is_computed() -> None:
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **SIZES)).eval()
    seen: dict[int, int] = {}
    for number, layer in enumerate(model.base_model.layers):
        layer.mlp.register_forward_hook(lambda m, i, out, number=number: seen.update({number: out.shape[1]}))
    model(input_ids=IDS, first_only=True)
    assert seen == {0: 6, 1: 1}
    model(input_ids=IDS)
    assert seen == {0: 6, 1: 6}


def test_who_reads_more_says_so() -> None:
    mean = AutoConfig.for_model("modernbert", **{**KINDS["modernbert"], "classifier_pooling": "mean"})
    assert not AutoModelForSequenceClassification.from_config(mean).reads_first
    assert "first_only" in AutoModelForTokenClassification.from_config(AutoConfig.for_model("bert", **SIZES)).accepts()
