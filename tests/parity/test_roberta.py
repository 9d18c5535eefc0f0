"""RoBERTa and its line against the reference: positions counted from the padding token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from askers import Choices, Labels, Nothing, Rows, Text, Words
from harness import Head, Parity, Table, bare, classifiers, compiled, gamma
from safetensors.torch import load_file, save_file
from test_bert import TINY as BERT
from test_bert import types
from writers import Prompts

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

TINY = {**BERT, "max_position_embeddings": 60, "pad_token_id": 0, "type_vocab_size": 2}


VARIANTS = {
    "plain": {},
    "padding of its own": {"pad_token_id": 1},
    "padding far off": {"pad_token_id": 20},
    "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2},
    "types": {"type_vocab_size": 5},
    "untied": {"tie_word_embeddings": False},
    "decoder": {"is_decoder": True},
    "crossed": {"is_decoder": True, "add_cross_attention": True},
    "one head": {"num_attention_heads": 1, "num_hidden_layers": 1},
}
FEW = ("plain", "padding of its own", "decoder")


def table(model_type: str, name: str, *, prefix: str = "roberta", variants: Sequence[str] = FEW) -> Table:
    """A family of the line: the maths is one file's, so that names and places are what others are asked for."""

    def head(kind: str, labels: Labels, **options: object) -> Head:
        return Head(f"{name}{kind}", f"Auto{kind.replace('For', 'ModelFor')}", Text(labels, more=types), **options)

    pooled = Nothing(("last_hidden_state", "pooler_output"))
    choices = Choices(Rows(torch.tensor([1, 0]), {}), more=types)
    return Table(
        model_type=model_type,
        config=getattr(transformers, f"{name}Config"),
        tiny=TINY,
        heads={
            "Model": head("Model", pooled, everywhere=True, but=("decoder", "crossed")),
            "Model, decoder": head("Model", Nothing(config={"is_decoder": True})),
            "ForMaskedLM": head("ForMaskedLM", Words(), everywhere=variants is not FEW),
            "ForCausalLM": head("ForCausalLM", Words(), everywhere=variants is not FEW),
            **classifiers(name, more=types),
            "ForMultipleChoice": Head(f"{name}ForMultipleChoice", "AutoModelForMultipleChoice", choices),
        },
        variants={variant: VARIANTS[variant] for variant in variants},
        writes=("ForCausalLM", Prompts()),
        writing=[v for v in variants if v in ("decoder", "crossed")],
        scale=0.3,
        spellings={"bare": bare(prefix), "gamma": gamma, "compiled": compiled},
    )


class TestRoberta(Parity):
    table = table("roberta", "Roberta", variants=tuple(VARIANTS))


class TestXLMRoberta(Parity):
    table = table("xlm-roberta", "XLMRoberta")


class TestCamembert(Parity):
    table = table("camembert", "Camembert")


class TestData2VecText(Parity):
    table = table("data2vec-text", "Data2VecText", prefix="data2vec_text")


class TestRobertaPreLayerNorm(Parity):
    table = table(
        "roberta-prelayernorm",
        "RobertaPreLayerNorm",
        prefix="roberta_prelayernorm",
        variants=("plain", "relu", "decoder", "crossed"),
    )


class TestXLMRobertaXL(Parity):
    table = table("xlm-roberta-xl", "XLMRobertaXL", variants=("plain", "types", "decoder", "crossed"))


@pytest.mark.parametrize("name", ["Roberta", "XLMRoberta", "Camembert"])
def test_published_folder(tmp_path, name):
    """Masked language models hold copies of the table and of its bias, a stray buffer, and a pooler."""
    made = getattr(transformers, f"{name}ForMaskedLM")
    theirs = saved_reference(made, getattr(transformers, f"{name}Config")(**TINY), tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    copies = {
        "lm_head.decoder.weight": weights["roberta.embeddings.word_embeddings.weight"].clone(),
        "lm_head.decoder.bias": weights["lm_head.bias"].clone(),
        "roberta.embeddings.position_ids": torch.arange(60)[None],
        "roberta.pooler.dense.weight": torch.randn(32, 32),
        "roberta.pooler.dense.bias": torch.randn(32),
    }
    save_file({**weights, **copies}, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    ours, report = omniform.AutoModelForMaskedLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report.fresh and not report.unexpected and ours.lm_head.decoder.weight is ours.model.embed_tokens.weight
    compare(ours, theirs, {"input_ids": torch.stack(ragged(97, [9, 9]))}, ["logits"])
    base, report = omniform.AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report.fresh and base.pooler is not None


def pair(tmp_path, head="Model", auto="AutoModel", **changes):
    config = transformers.RobertaConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Roberta{head}"), config, tmp_path / "model")
    return getattr(omniform, auto).from_pretrained(tmp_path / "model"), theirs


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0, 1, 20])
def test_padding_is_not_counted(tmp_path, side, pad):
    """Wherever it stands, masked or not, and in the midst of a row too; and positions that are given count from 0."""
    ours, theirs = pair(tmp_path, pad_token_id=pad)
    ids, mask = padded([row.clamp(min=21) for row in ragged(97, [12, 7, 1])], pad=pad, side=side)
    compare(ours, theirs, {"input_ids": ids, "attention_mask": mask}, ["last_hidden_state", "hidden_states"])
    ids[0, 5] = pad
    compare(ours, theirs, {"input_ids": ids}, ["last_hidden_state", "hidden_states"])
    places = {"position_ids": torch.arange(48, 60)[None]}
    compare(ours, theirs, {"input_ids": ids, **places}, ["last_hidden_state"])


def test_a_cache_counts_on(tmp_path):
    ours, theirs = pair(tmp_path, "ForCausalLM", "AutoModelForCausalLM", is_decoder=True, pad_token_id=1)
    ids = torch.stack(ragged(97, [9, 9]))
    with torch.no_grad():
        first = ours(ids[:, :4])
        rest = ours(ids[:, 4:], past_key_values=first.past_key_values)
        close(torch.cat([first.logits, rest.logits], 1), theirs(ids).logits)


def test_limits(tmp_path):
    ours, _ = pair(tmp_path, pad_token_id=1)
    assert ours.max_positions == 58
    with pytest.raises(InputError, match="at most 58 tokens; found 59"):
        ours(torch.full((1, 59), 5))
    with pytest.raises(InputError, match="at most 60"):
        ours(torch.full((1, 5), 5), position_ids=torch.full((1, 5), 60))
    for pad in (None, -1, 59):
        with pytest.raises(ConfigError, match="pad_token_id"):
            omniform.AutoConfig.for_model("roberta", **{**TINY, "pad_token_id": pad})


def test_without_a_pooler(tmp_path):
    _, theirs = pair(tmp_path, pad_token_id=1)
    ours = omniform.AutoModel.from_pretrained(tmp_path / "model", add_pooling_layer=False)
    ids = torch.stack(ragged(97, [9, 9]))
    assert ours(ids).pooler_output is None
    compare(ours, theirs, {"input_ids": ids}, ["last_hidden_state"])


@pytest.mark.parametrize("name", ["XLMRobertaXL", "XLMRoberta"])
def test_labels_of_padding(tmp_path, name):
    """XL's loss leaves them out; the others' does not."""
    config = getattr(transformers, f"{name}Config")(**{**TINY, "num_labels": 3})
    theirs = saved_reference(getattr(transformers, f"{name}ForTokenClassification"), config, tmp_path / "model")
    ours = omniform.AutoModelForTokenClassification.from_pretrained(tmp_path / "model")
    ids, mask = padded(ragged(97, [9, 5, 2], low=4), pad=1)
    compare(ours, theirs, {"input_ids": ids, "attention_mask": mask, "labels": ids % 3}, ["loss"])
    compare(ours, theirs, {"input_ids": ids, "labels": ids % 3}, ["loss"])
