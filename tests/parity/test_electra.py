"""ELECTRA against the reference: token vectors narrower than the layers, and heads of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from askers import Choices, Inputs, Labels, Nothing, Rows, Text, Words
from harness import Head, Parity, Table, bare, classifiers, compiled, gamma
from test_bert import TINY as BERT
from test_bert import types
from torch import Tensor
from writers import Prompts

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, ragged, saved_reference, transformers

TINY = {**BERT, "embedding_size": 20}


@dataclass(frozen=True)
class Replaced:
    """Whether tokens were replaced."""

    fields: tuple[str, ...] = ("loss", "logits")
    config: dict[str, object] = field(default_factory=dict)

    def given(self, ids: Tensor, mask: Tensor) -> Inputs:
        return {"labels": ids % 2}


def text(labels: Labels, kind: type[Text] = Text) -> Text:
    return kind(labels, more=types, embeds=lambda config: config.embedding_size)


def head(name: str, labels: Labels, **options: object) -> Head:
    return Head(f"Electra{name}", f"Auto{name.replace('For', 'ModelFor')}", text(labels), **options)


class TestElectra(Parity):
    table = Table(
        model_type="electra",
        config=transformers.ElectraConfig,
        tiny=TINY,
        heads={
            "Model": head("Model", Nothing(), everywhere=True),
            "ForPreTraining": head("ForPreTraining", Replaced(), everywhere=True, but=("decoder", "crossed")),
            "ForMaskedLM": head("ForMaskedLM", Words(), everywhere=True, but=("decoder", "crossed")),
            "ForCausalLM": head("ForCausalLM", Words(), everywhere=True),
            **classifiers("Electra", more=types, embeds=lambda config: config.embedding_size),
            "ForMultipleChoice": Head(
                "ElectraForMultipleChoice",
                "AutoModelForMultipleChoice",
                text(Rows(torch.tensor([1, 0]), {}), Choices),
                everywhere=True,
                but=("wide", "relu", "untied", "decoder", "crossed"),
            ),
        },
        variants={
            "plain": {},
            "wide": {"embedding_size": 32, "type_vocab_size": 5},
            "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2, "num_attention_heads": 1},
            "untied": {"tie_word_embeddings": False},
            "decoder": {"is_decoder": True},
            "crossed": {"is_decoder": True, "add_cross_attention": True},
            "last": {"summary_type": "last", "summary_activation": "tanh"},
            "mean": {"summary_type": "mean", "summary_activation": ""},
            "unprojected": {"summary_type": "cls_index", "summary_use_proj": False},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["decoder", "crossed"],
        scale=0.3,
        spellings={"bare": bare("electra"), "gamma": gamma, "compiled": compiled},
    )


def test_reads_an_encoder_as_wide_as_its_layers(tmp_path):
    config = transformers.ElectraConfig(**{**TINY, "is_decoder": True, "add_cross_attention": True})
    theirs = saved_reference(transformers.ElectraForCausalLM, config, tmp_path / "model")
    ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    given = {"input_ids": torch.stack(ragged(97, [6, 6])), "encoder_hidden_states": torch.randn(2, 5, 32)}
    with torch.no_grad():
        close(ours(**given).logits, theirs(**given).logits)
    with pytest.raises(InputError, match="encoder_hidden_states"):
        ours(**{**given, "encoder_hidden_states": torch.randn(2, 5, 20)})


def test_labels_are_chances(tmp_path):
    config = transformers.ElectraConfig(**TINY)
    theirs = saved_reference(transformers.ElectraForPreTraining, config, tmp_path / "model")
    ours = omniform.AutoModelForPreTraining.from_pretrained(tmp_path / "model")
    ids = torch.stack(ragged(97, [6, 6]))
    with torch.no_grad():
        for labels in (ids > 40, (ids % 3).float() / 2):
            close(ours(ids, labels=labels).loss, theirs(ids, labels=labels).loss)
    with pytest.raises(InputError, match=r"labels.*-100"):
        ours(ids, labels=torch.full_like(ids, -100))


@pytest.mark.parametrize("change", [{"summary_type": "attn"}, {"summary_activation": "gleu"}])
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.AutoConfig.for_model("electra", **change)
