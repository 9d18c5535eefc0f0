"""What families may say and no other test needs them to: usual labels, old names of heads, positions from ids."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.encoder_family import STACK_KEYS, EncoderHeads, EncoderText
from omniform.architectures.family import Builder
from omniform.blocks.embeddings import PositionTable, ScaledEmbedding, TypedEmbeddings, twin
from omniform.core.errors import InputError
from omniform.models import llama, registry
from omniform.weights.keymap import KeyMap
from reference import close, omniform, saved_reference, transformers

TINY = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 20,
}  # fmt: skip


class Backwards(TypedEmbeddings):
    """Rows that count down from the end of the table, of which they may use half."""

    @property
    def positions(self):
        return self.embed_positions.positions // 2

    @property
    def position_ids(self):
        return self.embed_positions.positions

    def count(self, input_ids, tokens, past):
        rows = torch.arange(past, past + tokens.shape[1], device=tokens.device)
        return (self.position_ids - 1 - rows)[None]


def build(c, pooler):
    embeddings = Backwards(
        embed_positions=PositionTable(c.max_positions, c.dim),
        embed_token_types=nn.Embedding(c.token_types, c.dim),
        norm=c.norm(),
    )
    return c.stack(embeddings, pooler)


heads = EncoderHeads(build, lambda c: c)
FAMILY = (
    Builder("backwards", EncoderText.read, KeyMap(STACK_KEYS), prefix="bert")
    .public(config="BackwardsConfig", labels=3)
    .base("BackwardsModel", heads.bare)
    .head("BackwardsLM", "causal-lm", heads.causal_lm)
    .head(
        "BackwardsForTokenClassification",
        "token-classification",
        heads.token_classifier,
        KeyMap({"classifier": "tags"}, aliases=((r"^labels\.", "tags."),)),
    )
    .done()
)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {"backwards": FAMILY})


def model(name: str = "Model", **changes: object):
    torch.manual_seed(0)
    config = omniform.AutoConfig.for_model("backwards", **{**TINY, **changes})
    return getattr(omniform, f"Auto{name}").from_config(config).eval()


def test_positions_from_the_embeddings():
    """The embeddings say where tokens stand, in one step and in several; a caller may name any position."""
    ids = torch.tensor([[5, 6, 7, 8]])
    places = torch.tensor([[19, 18, 17, 16]])
    base = model()
    close(base(ids).last_hidden_state, base(ids, position_ids=places).last_hidden_state)
    writer = model("ModelForCausalLM", is_decoder=True)
    first = writer(ids[:, :3])
    rest = writer(ids[:, 3:], past_key_values=first.past_key_values)
    close(torch.cat([first.logits, rest.logits], 1), writer(ids, position_ids=places).logits)
    with pytest.raises(InputError, match="at most 10 tokens; found 11"):
        base(torch.ones(1, 11, dtype=torch.long))
    with pytest.raises(InputError, match="at most 20"):
        base(ids, position_ids=places + 1)


def test_labels_where_the_config_says_nothing(tmp_path):
    tags = model("ModelForTokenClassification")
    assert tags.config.num_labels == 3 and tags(torch.tensor([[5]])).logits.shape[-1] == 3
    tags.save_pretrained(tmp_path)
    assert omniform.AutoModelForTokenClassification.from_pretrained(tmp_path).config.num_labels == 3
    assert FAMILY.config_class(num_labels=2).num_labels == 2 == omniform.BertConfig().num_labels


def test_old_names_of_a_heads_own_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    tags = model("ModelForTokenClassification")
    tags.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {"tags.weight", "tags.bias"} < weights.keys()
    old = {key.replace("tags.", "labels."): tensor for key, tensor in weights.items()}
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    again, report = omniform.AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report.fresh and not report.unused and torch.equal(again.classifier.weight, tags.classifier.weight)


def test_a_family_without_a_classifier_of_tokens():
    family = decoder_family("few", "Few", llama.read, llama.build, classified=["sequence"], answers=None).done()
    assert [*family.architectures] == ["FewModel", "FewForCausalLM", "FewForSequenceClassification"]
    assert family.public.row == "causal LM, sequence classification"


def test_a_twin_is_of_the_same_kind():
    table = ScaledEmbedding(7, 4, 3.0)
    other = twin(table)
    assert other.weight is table.weight and other is not table
    assert torch.equal(other(torch.tensor([2])), table.weight[2:3] * 3)


def test_more_tokens_are_read_by_both_sides():
    """Tables that share a matrix learn of its new size together."""
    config = omniform.AutoConfig.for_model("t5", vocab_size=61, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4)
    t5 = omniform.AutoModelForSeq2SeqLM.from_config(config).eval()
    t5.resize_token_embeddings(70)
    found = t5(torch.tensor([[69]]), decoder_input_ids=torch.tensor([[69]]))
    assert found.logits.shape[-1] == 70
    with pytest.raises(InputError, match="0 to 69"):
        t5(torch.tensor([[70]]), decoder_input_ids=torch.tensor([[0]]))


def test_settings_of_generation_in_an_old_config(tmp_path):
    """A folder of before generation_config.json: its config says how it writes, as in the reference."""
    config = transformers.GPT2Config(
        vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=40, bos_token_id=1, eos_token_id=2
    )
    saved_reference(transformers.GPT2LMHeadModel, config, tmp_path, scale=0.5)
    (tmp_path / "generation_config.json").unlink()
    path = tmp_path / "config.json"
    own = {"no_repeat_ngram_size": 1, "forced_eos_token_id": 7, "max_length": 12, "num_beams": 2}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6]])
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids)).tolist()
    assert ours.generate(ids).tolist() == expected and expected[0][-1] == 7 and len(expected[0]) == 12
    told, known = ours.generation_config.to_diff_dict(), theirs.generation_config.to_diff_dict()
    assert known.items() <= told.items() and not any(told[name] for name in told.keys() - known.keys())
    built = omniform.AutoModelForCausalLM.from_config(ours.config)
    assert built.generation_config.num_beams == 2
