"""InstructBLIP against the reference: over a decoder and over an encoder-decoder, queries with instructions in mind."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question, noise
from harness import Head, Parity, Table
from test_blip_2 import IMAGE, OPT, QFORMER, SETTINGS, T5, VISION, config, flat, lesson, looked, pair, pictures, words

from omniform.core.errors import InputError
from reference import close, omniform, padded, ragged, transformers

LLAMA = {
    "model_type": "llama", "vocab_size": 62, "hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 40, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 59,
}  # fmt: skip
INSTRUCT = {name: value for name, value in QFORMER.items() if name != "use_qformer_text_input"}


def instructed(text=LLAMA, **changes):
    return config("InstructBlip", text, **changes)


def asked(lengths=(5, 3, 1)):
    ids, mask = padded(ragged(50, lengths, seed=7))
    return {"qformer_input_ids": ids, "qformer_attention_mask": mask}


def batch(lengths=(6, 4, 2), side="right", size=16):
    rows = len(lengths)
    return {"pixel_values": pictures(rows, size), **asked((5, 3, 1)[:rows]), **words(lengths, side)}


class TestInstructBlipVision(Parity):
    table = Table(
        model_type="instructblip_vision_model",
        config=transformers.InstructBlipVisionConfig,
        tiny=VISION,
        heads={"Model": Head("InstructBlipVisionModel", "AutoModel", Given(looked), everywhere=True)},
        variants={"plain": {"qkv_bias": False}},
    )


def queried(config):
    texts = asked((4, 2))
    ids, width = texts["qformer_input_ids"], config.hidden_size
    seen = {"query_embeds": noise(2, 3, width), "encoder_hidden_states": noise(2, 5, config.encoder_hidden_size)}
    mask = torch.cat((torch.ones(2, 3, dtype=torch.long), texts["qformer_attention_mask"]), dim=1)
    taps = ("last_hidden_state", "pooler_output", "hidden_states", "attentions", "cross_attentions")
    yield Question({"input_ids": ids, **seen}, taps)
    yield Question({"input_ids": ids, "attention_mask": mask, **seen}, ("last_hidden_state",), mask.bool())
    part = {"encoder_attention_mask": torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])}
    yield Question({"input_ids": ids, **seen, **part}, ("last_hidden_state",))
    yield Question({"input_ids": ids}, ("last_hidden_state", "attentions"))


class TestInstructBlipQFormer(Parity):
    table = Table(
        model_type="instructblip_qformer",
        config=transformers.InstructBlipQFormerConfig,
        tiny=INSTRUCT,
        heads={"Model": Head("InstructBlipQFormerModel", "AutoModel", Given(queried), everywhere=True)},
        variants={"plain": {}, "other": {"cross_attention_frequency": 1, "hidden_act": "relu", "layer_norm_eps": 1e-2}},
    )


def answered(config):
    for side in ("right", "left"):
        inputs = batch(side=side)
        real = inputs["attention_mask"].bool()
        labels = inputs["input_ids"].masked_fill(~real, -100)
        yield Question({**inputs, "labels": labels}, ("loss", "logits") if side == "right" else ("logits",), real)
    bare = {name: value for name, value in batch((4, 4, 4)).items() if "mask" not in name}
    yield Question(bare, ("logits",))
    yield Question({**batch((4, 4, 4), size=24), "interpolate_pos_encoding": True}, ("logits",))


def written(config):
    answers, mask = padded(ragged(50, (4, 3, 1), seed=5))
    begun = {"decoder_input_ids": answers, "decoder_attention_mask": mask}
    labels = answers.masked_fill(mask == 0, -100)
    return [
        Question({**batch(), "labels": labels}, ("loss", "logits")),
        Question({**batch(), **begun}, ("logits",), mask.bool()),
    ]


# The text's way through the last layer of queries leads nowhere.
UNREAD = ("qformer.layers.2.mlp", "qformer.layers.2.final_layer_norm")


class TestInstructBlip(Parity):
    table = Table(
        model_type="instructblip",
        config=lambda **changes: instructed(**changes),
        config_class=transformers.InstructBlipConfig,
        tiny={},
        heads={
            "ForConditionalGeneration": Head(
                "InstructBlipForConditionalGeneration", "AutoModelForImageTextToText",
                Given(answered, lesson(answered)), everywhere=True, unused=UNREAD,
            ),
            "ForConditionalGeneration, T5": Head(
                "InstructBlipForConditionalGeneration", "AutoModelForMultimodalLM",
                Given(written, lesson(written), {"text": T5}), unused=UNREAD,
            ),
        },
        variants={"plain": {}, "opt": {"text": OPT, "vision": {"hidden_size": 32}}},
        derived=frozenset({"text_config", "vision_config", "qformer_config"}),
    )  # fmt: skip


def both(folder, text=LLAMA, head="ForConditionalGeneration"):
    return pair(folder, text, head, "InstructBlip")


@pytest.mark.parametrize("text", [LLAMA, T5], ids=["llama", "t5"])
def test_all_that_led_to_an_answer_is_told(tmp_path, text):
    flags = {"output_hidden_states": True, "output_attentions": True}
    call = batch((4, 4, 4))
    if text is T5:
        call["decoder_input_ids"] = words((3, 3, 3), places=False)["input_ids"]
    for head in ("ForConditionalGeneration", "Model"):
        ours, theirs = both(tmp_path / head, text, head)
        theirs.set_attn_implementation("eager")
        with torch.no_grad():
            flat(ours(**call, **flags), theirs(**call, **flags), head)
            if head != "Model":
                flat(*(m.get_image_features(pictures(), **asked()) for m in (ours, theirs)), "features")


@pytest.mark.parametrize("text", [LLAMA, T5], ids=["llama", "t5"])
def test_written_token_for_token(tmp_path, text):
    ours, theirs = both(tmp_path, text)
    calls = [
        ({"pixel_values": pictures(), **asked()}, {}),
        (batch((4, 4, 4)), SETTINGS[0]),
        (batch(side="left"), SETTINGS[1]),
        ({**batch((4, 4, 4), size=24), "interpolate_pos_encoding": True}, {}),
    ]
    for call, settings in calls:
        expected = theirs.generate(**call, **settings, max_new_tokens=7)
        assert ours.generate(**call, **settings, max_new_tokens=7).tolist() == expected.tolist(), list(call)


@pytest.mark.parametrize("text", [LLAMA, T5], ids=["llama", "t5"])
def test_an_engine_answers_as_each_alone(tmp_path, text):
    """Instructions of several lengths side by side; a picture that is asked the same again is not looked at again."""
    ours, theirs = both(tmp_path, text)
    engine, seen, ids = omniform.Engine(ours), pictures(), ragged(50, (4, 2, 4), seed=3)
    prompts = [
        {"pixel_values": seen[i : i + 1], "qformer_input_ids": ids[j][None], "input_ids": words((3,))["input_ids"]}
        for i, j in ((0, 0), (1, 1), (0, 1), (0, 0))
    ]
    handles = [engine.submit(prompt, max_new_tokens=6) for prompt in prompts]
    for handle, prompt in zip(handles, prompts, strict=True):
        expected = theirs.generate(**prompt, max_new_tokens=6)[0].tolist()
        result = handle.result()
        whole = [*result.decoder_prompt, *result.sequences[0].tokens]
        assert whole == expected[: len(whole)] and not {*expected[len(whole) :]} - {1, 59, 0}
    assert engine.stats().encoder_runs == 3 and engine.stats().encoder_hits == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"qformer_input_ids": None}, "no instruction"),
        ({"qformer_input_ids": torch.ones(2, 3, dtype=torch.long)}, "one instruction for each picture"),
        ({"qformer_input_ids": torch.full((3, 5), 50)}, "input_ids: a token id lies outside"),
        ({"qformer_attention_mask": torch.ones(3, 2)}, "does not cover the instruction"),
        ({"input_ids": torch.full((3, 9), IMAGE)}, "27 placeholder tokens"),
    ],
)
def test_what_does_not_fit(tmp_path, change, says):
    ours, _ = both(tmp_path)
    with pytest.raises(InputError, match=says):
        ours(**{**batch(), **change})
    if "27" not in says:
        with pytest.raises(InputError, match=says):
            ours.generate(**{**batch(), **change})


def test_queries_read_a_text_alone(tmp_path):
    ours, _ = both(tmp_path)
    with torch.no_grad(), pytest.raises(InputError, match="neither queries nor a text"):
        ours.qformer()
    close(
        ours.qformer(torch.tensor([[3, 4]])).pooler_output, ours.qformer(torch.tensor([[3, 4]])).last_hidden_state[:, 0]
    )
