"""ESM against the reference: stored frequencies, masks dropped from the input, contacts."""

from __future__ import annotations

import json

import pytest
import torch
from askers import Labels, Nothing, Text, Words
from harness import Head, Parity, Table, bare, classifiers, compiled, gamma
from safetensors.torch import load_file, save_file
from test_bert import TINY as BERT

from omniform.core.errors import ConfigError, InputError
from reference import check_round_trip, close, compare, omniform, padded, ragged, saved_reference, transformers

TINY = {**{k: v for k, v in BERT.items() if k != "type_vocab_size"}, "pad_token_id": 0, "mask_token_id": 7}
ROTARY = {"position_embedding_type": "rotary"}


def head(name: str, labels: Labels, **options: object) -> Head:
    return Head(f"Esm{name}", f"Auto{name.replace('For', 'ModelFor')}", Text(labels), unused=IDLE, **options)


IDLE = ("model.contact_head",)
ROWS = {
    name: Head(h.reference, h.auto, h.asks, unused=IDLE)
    for name, h in classifiers("Esm").items()
    if "QuestionAnswering" not in name
}


class TestEsm(Parity):
    table = Table(
        model_type="esm",
        config=transformers.EsmConfig,
        tiny=TINY,
        heads={
            "Model": head("Model", Nothing(("last_hidden_state", "pooler_output")), everywhere=True),
            "ForMaskedLM": head("ForMaskedLM", Words(), everywhere=True),
            **ROWS,
        },
        variants={
            "plain": {},
            "rotary": ROTARY,
            "masks dropped": {"token_dropout": True, "pad_token_id": 1},
            "as esm-2": {**ROTARY, "token_dropout": True, "layer_norm_eps": 1e-2, "num_attention_heads": 2},
            "as esm-1b, untied": {"token_dropout": True, "emb_layer_norm_before": True, "tie_word_embeddings": False},
        },
        spellings={"bare": bare("esm"), "gamma": gamma, "compiled": compiled},
    )


STARRED = "esm.encoder.layer.*.attention.self.rotary_embeddings.inv_freq"
"""What the reference writes frequencies under."""


def pair(tmp_path, name="MaskedLM", scale=0.2, **changes):
    config = transformers.EsmConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"EsmFor{name}"), config, tmp_path / "model", scale=scale)
    return getattr(omniform, f"AutoModelFor{name}").from_pretrained(tmp_path / "model"), theirs


@pytest.mark.parametrize("positions", [{}, ROTARY])
@pytest.mark.parametrize("side", ["left", "right"])
def test_masks_and_contacts(tmp_path, side, positions):
    ours, theirs = pair(tmp_path, token_dropout=True, **positions)
    ids, mask = padded(ragged(97, [12, 7, 5]), side=side)
    ids[:, 5:7] = torch.where(mask[:, 5:7] == 1, torch.tensor([7, 2]), ids[:, 5:7])
    compare(ours, theirs, {"input_ids": ids, "attention_mask": mask}, ["logits", "hidden_states"])
    compare(ours, theirs, {"input_ids": ids, "position_ids": torch.arange(3, 15)[None]}, ["logits"])
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        close(ours.predict_contacts(ids, mask), theirs.predict_contacts(ids, mask))
        base = omniform.AutoModel.from_pretrained(tmp_path / "model")
        close(base.predict_contacts(ids, mask), theirs.predict_contacts(ids, mask))


@pytest.mark.parametrize("where", ["layers", "model"])
def test_published_folder(tmp_path, where):
    """As ``facebook/esm2_t6_8M_UR50D`` is: frequencies in every layer, a table of positions that nobody reads."""
    _, theirs = pair(tmp_path, **ROTARY, token_dropout=True)
    folder, ids = tmp_path / "model", torch.stack(ragged(97, [9, 9]))
    weights = load_file(folder / "model.safetensors")
    frequencies = weights.pop(STARRED)
    weights |= {STARRED.replace("*", str(i)): frequencies.clone() for i in range(3)} if where == "layers" else {}
    weights |= {"esm.rotary_embeddings.inv_freq": frequencies} if where == "model" else {}
    weights["esm.embeddings.position_embeddings.weight"] = torch.randn(40, 32)
    weights["esm.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    raw = json.loads((folder / "config.json").read_text())
    strays = {"hidden_act": "gelu", "classifier_dropout": None, "esmfold_config": None, "vocab_list": None}
    (folder / "config.json").write_text(json.dumps({**raw, **strays, "is_folding_model": False}))
    ours, report = omniform.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not report.fresh and not report.unexpected and not ours.config.unknown
    compare(ours, theirs, {"input_ids": ids}, ["logits"])
    ours.save_pretrained(tmp_path / "again")
    again = omniform.AutoModelForMaskedLM.from_pretrained(tmp_path / "again")
    compare(again, theirs, {"input_ids": ids}, ["logits"])


def test_frequencies_stay_as_wide_as_they_are_stored(tmp_path):
    """Rounded to a half, they would turn the last of 500 tokens by another angle."""
    config = transformers.EsmConfig(**{**TINY, **ROTARY, "hidden_size": 64, "max_position_embeddings": 600})
    transformers.EsmForMaskedLM(config).save_pretrained(tmp_path / "model")
    ours = omniform.AutoModelForMaskedLM.from_pretrained(tmp_path / "model", dtype="bfloat16")
    theirs = transformers.EsmForMaskedLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).eval()
    rotary = ours.model.layers[0].self_attn.positions
    assert torch.equal(rotary.inv_freq, theirs.esm.rotary_embeddings.inv_freq)
    assert rotary.inv_freq.dtype is torch.float32 and rotary is ours.model.layers[1].self_attn.positions
    compare(ours, theirs, {"input_ids": torch.stack(ragged(97, [500], low=8))}, ["logits"], tolerance=3e-2)


def test_frequencies_that_are_in_no_file(tmp_path):
    _, theirs = pair(tmp_path, **ROTARY)
    folder = tmp_path / "model"
    weights = load_file(folder / "model.safetensors")
    weights.pop(STARRED)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    theirs = transformers.EsmForMaskedLM.from_pretrained(folder).eval()
    ours = omniform.AutoModelForMaskedLM.from_pretrained(folder)
    compare(ours, theirs, {"input_ids": torch.stack(ragged(97, [9, 9]))}, ["logits"])


def test_from_scratch_and_back(tmp_path):
    config = omniform.AutoConfig.for_model("esm", **{**TINY, **ROTARY})
    made = omniform.AutoModelForMaskedLM.from_config(config)
    made.save_pretrained(tmp_path / "made")
    theirs = transformers.EsmForMaskedLM.from_pretrained(tmp_path / "made").eval()
    compare(made.eval(), theirs, {"input_ids": torch.stack(ragged(97, [9, 9]))}, ["logits"])
    check_round_trip(tmp_path / "made", made, tmp_path / "again")


@pytest.mark.parametrize(
    "change",
    [
        {"is_folding_model": True},
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"pad_token_id": 39},
        {"position_embedding_type": "relative_key"},
        {"mask_token_id": None, "token_dropout": True},
    ],
)
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.AutoConfig.for_model("esm", **{**TINY, **change})


def test_positions_need_a_padding_token():
    with pytest.raises(ConfigError, match="pad_token_id"):
        omniform.AutoModel.from_config(omniform.AutoConfig.for_model("esm", **{**TINY, "pad_token_id": None}))


def test_limits(tmp_path):
    ours, _ = pair(tmp_path, pad_token_id=1)
    with pytest.raises(InputError, match="at most 38 tokens; found 39"):
        ours(torch.full((1, 39), 5))
    ours, _ = pair(tmp_path, **ROTARY)
    assert ours(torch.full((1, 60), 5)).logits.shape == (1, 60, 97)
