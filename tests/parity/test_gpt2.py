"""GPT-2 against the reference."""

from __future__ import annotations

import json

import pytest
import torch
from askers import Text, Words, counted
from harness import Head, Parity, Table, bare, compiled, decoder_heads
from safetensors.torch import load_file, save_file
from writers import Prompts

from omniform.core.errors import ConfigError, InputError
from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    padded,
    ragged,
    saved_reference,
    transformers,
)

TINY = {
    "vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 48,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "inner": {"n_inner": 40, "layer_norm_epsilon": 1e-2},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "unscaled": {"scale_attn_weights": False},
    "by depth": {"scale_attn_by_inverse_layer_idx": True},
    "unscaled by depth": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "upcast": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    "untied": {"tie_word_embeddings": False},
    "cross-attention unused": {"add_cross_attention": True},
}

HEADS = {
    "Model": "AutoModel",
    "LMHeadModel": "AutoModelForCausalLM",
    "DoubleHeadsModel": "AutoModelForMultipleChoice",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
}


def pair(tmp_path, head="LMHeadModel", scale=0.2, **changes):
    config = transformers.GPT2Config(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"GPT2{head}"), config, tmp_path / "model", scale=scale)
    return getattr(omniform, HEADS[head]).from_pretrained(tmp_path / "model"), theirs


def test_generate(tmp_path):
    ours, theirs = pair(tmp_path)
    ids, mask = padded(ragged(97, [9, 4]), side="left")
    settings = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    assert ours.generate(ids, **settings).tolist() == theirs.generate(ids, **settings).tolist()
    assert ours.generate(ids, max_new_tokens=45).shape[1] <= 49  # 48 positions, and a last token that nobody reads
    with pytest.raises(InputError, match="at most 48"):
        ours.generate(torch.full((1, 49), 5), max_new_tokens=1)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention(tmp_path, implementation, masked):
    ours, theirs = pair(tmp_path, add_cross_attention=True, scale_attn_by_inverse_layer_idx=True)
    ours.set_attn_implementation(implementation)
    theirs.set_attn_implementation("eager")
    ids, mask = padded(ragged(97, [9, 4]))
    memory = torch.randn(2, 5, 32)
    heard = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]) if masked else None
    inputs = {"encoder_hidden_states": memory, "encoder_attention_mask": heard}
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask, output_attentions=True, **inputs)
        found = ours(ids, attention_mask=mask, output_attentions=True, **inputs)
        close(found.logits[mask.bool()], expected.logits[mask.bool()])
        close(found.cross_attentions[2][0], expected.cross_attentions[2][0])
        first = ours(ids[:, :3], **inputs)
        rest = ours(ids[:, 3:], past_key_values=first.past_key_values, **inputs)
        close(torch.cat([first.logits, rest.logits], 1), theirs(ids, **inputs).logits)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")
    with pytest.raises(InputError, match="encoder_hidden_states"):
        ours(ids, encoder_hidden_states=memory[..., :8])
    with pytest.raises(InputError, match="encoder_attention_mask"):
        ours(ids, encoder_hidden_states=memory, encoder_attention_mask=torch.ones(2, 4))


def test_classifier_without_padding_token(tmp_path):
    ours, theirs = pair(tmp_path, "ForSequenceClassification", pad_token_id=None)
    ids = torch.stack(ragged(97, [8]))
    compare(ours, theirs, {"input_ids": ids}, ["logits"])
    with pytest.raises(InputError, match="pad_token_id"):
        ours(ids.repeat(2, 1))


def types(ids):
    """Token types of GPT-2 are tokens too."""
    return {"token_type_ids": ids.flip(1)}


HEADS_OF_GPT2 = decoder_heads("GPT2", more=types)


class TestGPT2(Parity):
    table = Table(
        model_type="gpt2",
        config=transformers.GPT2Config,
        tiny=TINY,
        heads={
            **{name: head for name, head in HEADS_OF_GPT2.items() if name != "ForCausalLM"},
            "LMHeadModel": Head(
                "GPT2LMHeadModel", "AutoModelForCausalLM", Text(Words(), positions=counted, more=types), everywhere=True
            ),
        },
        variants=VARIANTS,
        writes=("LMHeadModel", Prompts()),
        writing=["plain", "by depth", "unscaled", "untied", "relu"],
        feeding=["plain", "by depth", "untied"],
        scale=0.8,
        spellings={"bare": bare("transformer"), "compiled": compiled},
    )


SUMMARIES = {
    "plain": {},
    "activated": {"summary_activation": "tanh"},
    "to width": {"summary_proj_to_labels": False, "summary_activation": "gelu"},
    "no projection": {"summary_use_proj": False},
    "last": {"summary_type": "last"},
    "first": {"summary_type": "first"},
    "mean": {"summary_type": "mean"},
}


@pytest.mark.parametrize("choices", [False, True])
@pytest.mark.parametrize("variant", SUMMARIES)
def test_double_heads(tmp_path, variant, choices):
    ours, theirs = pair(tmp_path, "DoubleHeadsModel", **SUMMARIES[variant])
    assert type(ours).__name__ == "GPT2DoubleHeadsModel"
    ids = torch.stack(ragged(97, [7] * 6))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    places = torch.tensor([6, 4, 6, 0, 2, 3])
    if choices:
        ids, mask, places = ids.view(2, 3, 7), mask.view(2, 3, 7), places.view(2, 3)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids}
    compare(ours, theirs, inputs, ["logits", "mc_logits"])
    if SUMMARIES[variant].get("summary_type", "cls_index") == "cls_index":
        compare(ours, theirs, {**inputs, "mc_token_ids": places}, ["mc_logits"])
        with pytest.raises(InputError, match="mc_token_ids"):
            ours(ids, mc_token_ids=places + 1)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


def test_double_heads_losses(tmp_path):
    ours, theirs = pair(tmp_path, "DoubleHeadsModel", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ids = torch.stack(ragged(97, [7] * 6)).view(2, 3, 7)
    inputs = {"input_ids": ids, "labels": ids, "mc_labels": torch.tensor([2, 0])}
    compare(ours, theirs, inputs, ["loss", "mc_loss", "logits", "attentions"])
    losses = []
    optimizer = torch.optim.AdamW(ours.train().parameters(), lr=1e-2)
    for _ in range(5):
        out = ours(**inputs)
        (out.loss + out.mc_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((out.loss + out.mc_loss).item())
    assert losses[-1] < losses[0]


def test_published_layout(tmp_path):
    """The original folder: no prefix, the causal mask among the weights, old keys in the config."""
    _, theirs = pair(tmp_path)
    folder = tmp_path / "model"
    weights = {k.removeprefix("transformer."): t for k, t in load_file(folder / "model.safetensors").items()}
    for i in range(3):
        weights[f"h.{i}.attn.bias"] = torch.ones(1, 1, 48, 48).tril()
        weights[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 1,
        "embd_pdrop": 0.1, "eos_token_id": 2, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2", "n_ctx": 48, "n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 48,
        "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 97,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    ids = torch.stack(ragged(97, [9]))
    again = omniform.AutoModelForCausalLM.from_pretrained(folder)
    assert not again.config.unknown
    with torch.no_grad():
        close(again(ids).logits, theirs(ids).logits)
        close(omniform.AutoModel.from_pretrained(folder)(ids).last_hidden_state, theirs.transformer(ids)[0])


def test_generic_config_names(tmp_path):
    _, theirs = pair(tmp_path)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    names = {
        "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
    }  # fmt: skip
    path.write_text(json.dumps({names.get(k, k): v for k, v in config.items()}))
    ids = torch.stack(ragged(97, [9]))
    with torch.no_grad():
        close(omniform.AutoModelForCausalLM.from_pretrained(path.parent)(ids).logits, theirs(ids).logits)


def test_defaults_left_out():
    config = omniform.AutoConfig.for_model("gpt2")
    reference = transformers.GPT2Config()
    for name in ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "layer_norm_epsilon", "resid_pdrop"):
        assert getattr(config, name) == getattr(reference, name)
    assert config.hidden_size == 768 and config.num_hidden_layers == 12


def test_bad_input(tmp_path):
    ours, _ = pair(tmp_path)
    ids = torch.stack(ragged(97, [40]))
    with pytest.raises(InputError, match="at most 48 tokens; found 49 tokens"):
        ours(torch.ones(1, 49, dtype=torch.long))
    with pytest.raises(InputError, match="at most 48"):
        ours(ids[:, :9], past_key_values=ours(ids).past_key_values)
    with pytest.raises(InputError, match="at most 48"):
        ours(inputs_embeds=torch.zeros(1, 49, 32))
    with pytest.raises(InputError, match="position_ids"):
        ours(ids, position_ids=torch.arange(40)[None] - 1)
    with pytest.raises(InputError, match="found 97"):
        ours(torch.tensor([[97]]))
    with pytest.raises(InputError, match="token_type_ids"):
        ours(ids, token_type_ids=ids + 97)
    with pytest.raises(InputError, match="token_type_ids"):
        ours(ids, token_type_ids=ids[:, 1:])
    with pytest.raises(InputError, match="cross-attention"):
        ours(ids, encoder_hidden_states=torch.zeros(1, 3, 32))


@pytest.mark.parametrize(
    "change", [{"n_head": 5}, {"summary_type": "attn"}, {"activation_function": "gleu"}, {"n_layer": -1}]
)
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.AutoConfig.for_model("gpt2", **change)


@pytest.mark.parametrize("name", ["resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"])
def test_training_drops_out(tmp_path, name):
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"), 0.0)
    ours, _ = pair(tmp_path, "DoubleHeadsModel", **off | {name: 0.5})
    ids = torch.stack(ragged(97, [9]))
    ours.train()
    with torch.no_grad():
        assert not torch.equal(ours(ids).mc_logits, ours(ids).mc_logits)


@pytest.mark.parametrize("extra", [{}, {"classifier_dropout": 0.3}, {"hidden_dropout": 0.4}])
def test_classifier_dropout(tmp_path, extra):
    ours, theirs = pair(tmp_path, "ForTokenClassification", **extra)
    assert ours.dropout == theirs.dropout.p
