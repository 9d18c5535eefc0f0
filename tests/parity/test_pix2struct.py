"""Pix2Struct against the reference: encoder, decoder, and both."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from askers import Given, Question, TextToText, Words, noise
from harness import Head, Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import omniform, padded, ragged, saved_reference, transformers

VISION = {
    "hidden_size": 16, "patch_embed_hidden_size": 12, "d_ff": 20, "d_kv": 6, "num_hidden_layers": 2,
    "num_attention_heads": 2, "seq_len": 9,
}  # fmt: skip
TEXT = {
    "vocab_size": 97, "hidden_size": 16, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
}  # fmt: skip
BOTH = {"vision_config": VISION, "text_config": TEXT}


def patches(lengths=(7, 4, 1)):
    """Rows of patches of several lengths, zeros behind, and which are real."""
    made = torch.zeros(len(lengths), max(lengths), 14)
    for row, length in enumerate(lengths):
        made[row, :length, 2:] = noise(3, 8, 12)[row % 3, :length]
        made[row, :length, 0] = torch.arange(length) // 3 + 1
        made[row, :length, 1] = torch.arange(length) % 3 + 1
    return made, (made.sum(-1) != 0).float()


@dataclass(frozen=True)
class Read(TextToText):
    """Patches of several pictures, and a decoder's rows."""

    def sources(self, side="right"):
        made, mask = patches()
        return {"flattened_patches": made, "attention_mask": mask}

    def long_sources(self):
        made, mask = patches((8, 8))
        return {"flattened_patches": made, "attention_mask": mask}


def seen(config):
    (made, mask), taps = patches(), ("hidden_states", "attentions")
    real = mask.bool()
    yield Question({"flattened_patches": made[:1], "attention_mask": mask[:1]}, ("last_hidden_state", *taps))
    yield Question({"flattened_patches": made, "attention_mask": mask}, ("last_hidden_state",), real)
    yield Question({"flattened_patches": made}, ("last_hidden_state",), real)
    yield Question({"flattened_patches": made, "attention_mask": torch.ones_like(mask)}, ("last_hidden_state",))


def alone(config):
    ids, mask = padded(ragged(97, (9, 6, 2)), pad=0)
    memory = {"encoder_hidden_states": noise(3, 5, 16), "encoder_attention_mask": padded(ragged(9, (5, 4, 1)))[1]}
    real, taps = mask.bool(), ("hidden_states", "attentions", "cross_attentions")
    yield Question({"input_ids": ids[:1], "encoder_hidden_states": memory["encoder_hidden_states"][:1]},
                   ("logits", *taps))  # fmt: skip
    yield Question({"input_ids": ids, "attention_mask": mask, **memory}, ("logits",), real)
    yield Question({"input_ids": ids, "attention_mask": mask}, ("logits",), real)
    labels = ids.masked_fill(~real, -100)
    yield Question({"input_ids": ids, "attention_mask": mask, **memory, "labels": labels}, ("loss", "logits"), real)


class TestVision(Parity):
    table = Table(
        model_type="pix2struct_vision_model",
        config=transformers.Pix2StructVisionConfig,
        tiny=VISION,
        heads={"Model": Head("Pix2StructVisionModel", "AutoModel", Given(seen), everywhere=True)},
        variants={"plain": {}, "relu": {"dense_act_fn": "relu", "layer_norm_eps": 1e-2}},
        derived=frozenset({"initializer_range"}),
    )


class TestText(Parity):
    table = Table(
        model_type="pix2struct_text_model",
        config=transformers.Pix2StructTextConfig,
        tiny={**TEXT, "initializer_range": 0.02},
        heads={
            "Model": Head(
                "Pix2StructTextModel", "AutoModelForCausalLM",
                Given(alone, lambda config: [*alone(config)][3].inputs), everywhere=True,
            )
        },
        variants={"plain": {}, "tied": {"tie_word_embeddings": True, "dense_act_fn": "relu"}},
        derived=frozenset({"use_cache"}),
    )  # fmt: skip


class TestBoth(Parity):
    table = Table(
        model_type="pix2struct",
        config=transformers.Pix2StructConfig,
        tiny=BOTH,
        heads={
            "ForConditionalGeneration": Head(
                "Pix2StructForConditionalGeneration", "AutoModelForImageTextToText", Read(Words()), everywhere=True
            )
        },
        variants={"plain": {}, "tied": {"tie_word_embeddings": True}},
        derived=frozenset({"vision_config", "text_config"}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pix2struct")
    config = transformers.Pix2StructConfig(**BOTH)
    theirs = saved_reference(transformers.Pix2StructForConditionalGeneration, config, folder, scale=0.5)
    return omniform.Pix2StructForConditionalGeneration.from_pretrained(folder), theirs


def test_written_token_for_token(pair):
    ours, theirs = pair
    made, mask = patches()
    begun = torch.tensor([[5, 7], [5, 9], [5, 11]])
    masked = {"flattened_patches": made, "attention_mask": mask}
    for given in (masked, {"flattened_patches": made}):
        for settings in ({}, {"num_beams": 3}, {"decoder_input_ids": begun}, {"use_cache": False}):
            expected = theirs.generate(**given, **settings, max_new_tokens=7)
            assert ours.generate(**given, **settings, max_new_tokens=7).tolist() == expected.tolist()


def test_bad_inputs(pair):
    with pytest.raises(InputError, match="flattened_patches"):
        pair[0](flattened_patches=torch.zeros(1, 3, 9), decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ConfigError, match="another width"):
        omniform.Pix2StructForConditionalGeneration(
            omniform.Pix2StructConfig(vision_config={**VISION, "hidden_size": 12}, text_config=TEXT)
        )
