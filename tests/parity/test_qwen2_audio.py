"""Qwen2-Audio and its encoder against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table
from hearers import Heard, Row, together

from omniform.core.errors import InputError
from reference import check_round_trip, compare, omniform, saved_reference, transformers

AUDIO, PAD, BANDS, FRAMES = 24, 11, 6, 12
TEXT = {
    "vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SOUND = {
    "d_model": 8, "encoder_ffn_dim": 12, "encoder_layers": 2, "encoder_attention_heads": 2, "num_mel_bins": BANDS,
    "max_source_positions": FRAMES,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "tied": {"text": {"tie_word_embeddings": True}, "audio": {"activation_function": "relu"}, "audio_token_index": 30},
    "scaled": {"audio": {"scale_embedding": True, "encoder_attention_heads": 4},
               "text": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}},
}  # fmt: skip


def config(**changes):
    text, audio = {**TEXT, **changes.pop("text", {})}, {**SOUND, **changes.pop("audio", {})}
    changes.setdefault("audio_token_index", AUDIO)
    return transformers.Qwen2AudioConfig(
        text_config=transformers.Qwen2Config(**text),
        audio_config=transformers.Qwen2AudioEncoderConfig(**audio),
        **changes,
    )


def sounds(seed: int, *frames: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    marks = torch.arange(2 * FRAMES)[None] < torch.tensor(frames)[:, None]
    features = torch.randn(len(frames), BANDS, 2 * FRAMES, generator=generator)
    return {"input_features": features, "feature_attention_mask": marks.int()}


def vectors(frames: int) -> int:
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def rows(config, wide: bool = True) -> list[Row]:
    """Two sounds, one of a whole window; text alone; one sound. With one placeholder each, if not ``wide``."""
    token = config.audio_token_id

    def placed(frames: int) -> list[int]:
        return [token] * (vectors(frames) if wide else 1)

    return [
        (torch.tensor([1, 7, *placed(24), 9, *placed(10), 11, 12, 13]), sounds(0, 24, 10)),
        (torch.tensor([1, 31, 32, 33]), {}),
        (torch.tensor([1, *placed(15), 21, 22]), sounds(1, 15)),
    ]


def questions(*fields):
    def asked(config):
        made = rows(config)
        batch = together(made, PAD)
        real = batch["attention_mask"].bool()
        yield Question(together(made[:1], PAD), (*fields, "hidden_states", "attentions"))
        yield Question(batch, (*fields, "attention_mask"), real)
        yield Question(together(made, PAD, "left"), fields, together(made, PAD, "left")["attention_mask"].bool())
        if "logits" in fields:
            # The reference leaves out what the mask does, whatever is to be answered there.
            yield Question({**batch, "labels": batch["input_ids"]}, ("loss",), real)

    return asked


def lesson(config):
    batch = together(rows(config), PAD)
    return {**batch, "labels": batch["input_ids"]}


class TestQwen2Audio(Parity):
    table = Table(
        model_type="qwen2_audio",
        config=lambda **changes: config(**changes),
        config_class=transformers.Qwen2AudioConfig,
        tiny={},
        heads={
            "Model": Head("Qwen2AudioModel", "AutoModel", Given(questions("last_hidden_state"))),
            "ForConditionalGeneration": Head(
                "Qwen2AudioForConditionalGeneration", "AutoModelForMultimodalLM", Given(questions("logits"), lesson),
                everywhere=True,
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", Heard(lambda: rows(config()), PAD)),
        writing=["plain"],
        feeding=[],  # the reference takes no logits_to_keep
        scale=0.3,
        derived=frozenset({"text_config", "audio_config"}),
    )  # fmt: skip


def pair(tmp_path, head="ForConditionalGeneration", **changes):
    theirs = saved_reference(getattr(transformers, f"Qwen2Audio{head}"), config(**changes), tmp_path / "model")
    return getattr(omniform, f"Qwen2Audio{head}").from_pretrained(tmp_path / "model"), theirs


def test_cached_equals_uncached(tmp_path):
    """In pieces, the sounds with the first of them, as tools hand them over with every token, too."""
    ours, _ = pair(tmp_path)
    ids, heard = rows(config())[0]
    expected = ours(ids[None], **heard).logits
    for more in ({}, heard):
        first = ours(ids[None, :-2], **heard)
        past, found = first.past_key_values, [first.logits]
        for token in ids[-2:]:
            found.append(ours(token[None, None], past_key_values=past, **more).logits)
        torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-4, rtol=1e-4)
    last = ours(ids[None], **heard, logits_to_keep=2).logits
    torch.testing.assert_close(last, expected[:, -2:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("which", [slice(0, 1), slice(0, 3), slice(0, 3, 2)])
def test_prompts_with_one_placeholder_for_each_sound(tmp_path, side, which):
    ours, theirs = pair(tmp_path)
    made = rows(config(), wide=False)[which]
    batch = together(made, PAD, side)
    # The first token of a row is not told by what stands before it: padding, which the reference has as zeros.
    labels = batch["input_ids"].masked_fill((batch["attention_mask"].cumsum(1) <= 1), -100)
    labels = labels.masked_fill(batch["attention_mask"] == 0, -100)
    for model in (ours, theirs):
        model.padding_side = side
    theirs.config.ignore_index = -100
    with torch.no_grad():
        found, expected = ours(**batch, labels=labels), theirs(**batch, labels=labels)
    real = expected.attention_mask.bool()
    assert torch.equal(found.attention_mask, expected.attention_mask)
    torch.testing.assert_close(found.logits[real], expected.logits[real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-4, rtol=1e-4)
    wide = together(rows(config())[which], PAD, "left")
    answer = ours.generate(**wide, max_new_tokens=6)[:, wide["input_ids"].shape[1] :]
    assert ours.generate(**batch, max_new_tokens=6)[:, -answer.shape[1] :].tolist() == answer.tolist()


def test_a_batch_that_is_filled_up_on_either_side(tmp_path):
    ours, _ = pair(tmp_path)
    batch = together(rows(config(), wide=False), PAD, "left")
    batch["attention_mask"][0, -1] = 0
    with pytest.raises(InputError, match="either side"):
        ours(**batch)


def test_encoder(tmp_path):
    settings = transformers.Qwen2AudioEncoderConfig(**SOUND)
    theirs = saved_reference(transformers.Qwen2AudioEncoder, settings, tmp_path / "model")
    ours = omniform.AutoModel.from_pretrained(tmp_path / "model")
    assert type(ours).__name__ == "Qwen2AudioEncoder" and not ours.embed_positions.weight.requires_grad
    features = sounds(0, 24, 24)["input_features"]
    compare(ours, theirs, {"input_features": features}, ["last_hidden_state", "hidden_states", "attentions"])
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")
    with pytest.raises(InputError, match="do not fit the encoder"):
        ours(features[..., :-2])


def test_features_alone(tmp_path):
    ours, _ = pair(tmp_path)
    batch = together(rows(config()), PAD)
    expected = ours(**batch).logits
    ready = ours.model.get_audio_features(batch.pop("input_features"), batch.pop("feature_attention_mask"))
    assert [len(one) for one in ready.pooler_output] == [vectors(24), vectors(10), vectors(15)]
    torch.testing.assert_close(ours(**batch, mm_encoder_outputs={"audio": ready}).logits, expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"feature_attention_mask": torch.ones(2, 24)}, "does not cover"),
        ({"feature_attention_mask": torch.ones(3, 24)}, "placeholder"),
        ({"feature_attention_mask": torch.zeros(3, 24)}, "too short"),
    ],
)
def test_what_does_not_fit(tmp_path, change, says):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=says):
        ours(**{**together(rows(config()), PAD), **change})
