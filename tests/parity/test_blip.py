"""BLIP against the reference: captions, answers to questions, matches, and both towers."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Nothing, Question, Text, Words, noise
from harness import Head, Parity, Table
from safetensors.torch import load_file, save_file

from omniform.core.errors import InputError
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "encoder_hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 24, "bos_token_id": 58, "sep_token_id": 57, "eos_token_id": 2,
    "projection_dim": 12,
}  # fmt: skip
VISION = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8, "projection_dim": 12,
}  # fmt: skip


def config(**changes):
    text, vision = changes.pop("text", {}), changes.pop("vision", {})
    return transformers.BlipConfig(
        text_config={**TEXT, **text}, vision_config={**VISION, **vision}, projection_dim=10,
        image_text_hidden_size=11, **changes,
    )  # fmt: skip


def pictures(rows=3):
    return noise(rows, 3, 16, 16)


def texts(lengths=(7, 4, 2), side="right"):
    ids, mask = padded(ragged(57, lengths), side=side)
    return {"input_ids": ids, "attention_mask": mask}


class TestBlipText(Parity):
    table = Table(
        model_type="blip_text_model",
        config=transformers.BlipTextConfig,
        tiny=TEXT,
        heads={
            "Model": Head(
                "BlipTextModel", "AutoModel",
                Text(Nothing(("last_hidden_state", "pooler_output")), vocabulary=57, embeds=None),
            ),
            "LMHead": Head(
                "BlipTextLMHeadModel", "AutoModelForCausalLM", Text(Words(), vocabulary=57, embeds=None),
                everywhere=True,
                unused=("model.layers.0.encoder_attn", "model.layers.1.encoder_attn"),
            ),
        },
        variants={
            "plain": {},
            "smoothed": {"label_smoothing": 0.3, "layer_norm_eps": 1e-3},
            "alone": {"is_decoder": False, "hidden_act": "relu"},
            "untied": {"tie_word_embeddings": False},
        },
    )  # fmt: skip


def looked(config):
    pixels = noise(2, 3, config.image_size, config.image_size)
    fields = ("last_hidden_state", "pooler_output")
    other = {"pixel_values": noise(2, 3, 12 + config.image_size, 17), "interpolate_pos_encoding": True}
    return [Question({"pixel_values": pixels}, (*fields, "hidden_states", "attentions")), Question(other, fields)]


class TestBlipVision(Parity):
    table = Table(
        model_type="blip_vision_model",
        config=transformers.BlipVisionConfig,
        tiny=VISION,
        heads={"Model": Head("BlipVisionModel", "AutoModel", Given(looked), everywhere=True)},
        variants={
            "plain": {},
            "other": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-2, "image_size": 24, "attention_dropout": 0.3},
        },
    )


def compared(_):
    inputs = {**texts(), "pixel_values": pictures()}
    fields = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
    return [Question(inputs, fields), Question({**inputs, "return_loss": True}, ("loss", *fields))]


SEEN = ("image_embeds", "last_hidden_state")
TAPS = ("hidden_states", "attentions")


def captioned(_):
    for side in ("right", "left"):
        inputs = {**texts(side=side), "pixel_values": pictures()}
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        yield Question({k: v[:1] for k, v in inputs.items()}, ("logits", *SEEN, *TAPS))
        real = inputs["attention_mask"].bool()
        if side == "right":  # a mask on the left loses its first label to vectors that mean nothing
            yield Question({**inputs, "labels": labels}, ("loss", "logits", *SEEN), real)
        yield Question(inputs, ("logits",), real)
    large = {**texts(), "pixel_values": noise(3, 3, 24, 16), "interpolate_pos_encoding": True}
    yield Question(large, ("logits",), large["attention_mask"].bool())


def answered(_):
    answers, mask = padded(ragged(57, (5, 3, 2), seed=3))
    inputs = {**texts(), "pixel_values": pictures(), "labels": answers.masked_fill(mask == 0, -100)}
    plain = {**inputs, "decoder_input_ids": answers, "decoder_attention_mask": mask}
    return [Question(plain, ("loss", *SEEN, *TAPS)), Question({**inputs, "labels": answers}, ("loss", *SEEN))]


def matched(_):
    inputs = {**texts(), "pixel_values": pictures()}
    real = inputs["attention_mask"].bool()
    apart = {**inputs, "use_itm_head": False}
    return [
        Question(inputs, ("itm_score", "last_hidden_state", *TAPS)),
        Question(apart, ("itm_score",)),
        Question(inputs, ("question_embeds",), real),
        Question(apart, ("question_embeds",), real),
    ]


def lesson(asked):
    return lambda config: next(q.inputs for q in asked(config) if "loss" in q.fields)


TASKED = "AutoModelForVisualQuestionAnswering"


class TestBlip(Parity):
    table = Table(
        model_type="blip",
        config=lambda **changes: config(**changes),
        config_class=transformers.BlipConfig,
        tiny={},
        heads={
            "Model": Head(
                "BlipModel", "AutoModelForZeroShotImageClassification", Given(compared, lesson(compared)), rate=1e-4,
                unused=("text_model.layers.0.encoder_attn", "text_model.layers.1.encoder_attn"),
            ),
            "ForConditionalGeneration": Head(
                "BlipForConditionalGeneration", "AutoModelForImageTextToText", Given(captioned, lesson(captioned)),
                everywhere=True,
            ),
            "ForQuestionAnswering": Head("BlipForQuestionAnswering", TASKED, Given(answered, lesson(answered))),
            "ForImageTextRetrieval": Head("BlipForImageTextRetrieval", "", Given(matched)),
        },
        variants={
            "plain": {},
            "text": {"text": {"hidden_act": "relu", "label_smoothing": 0.2, "layer_norm_eps": 1e-3}},
            "vision": {"vision": {"hidden_act": "quick_gelu", "hidden_size": 16}, "tie_word_embeddings": False},
        },
        derived=frozenset({"text_config", "vision_config"}),
    )  # fmt: skip


def pair(folder, head, scale=0.4, **changes):
    theirs = saved_reference(getattr(transformers, f"BlipFor{head}"), config(**changes), folder, scale=scale)
    return getattr(omniform, f"BlipFor{head}").from_pretrained(folder), theirs


SETTINGS = [{}, {"num_beams": 3, "num_return_sequences": 2}, {"repetition_penalty": 1.3, "min_new_tokens": 6}]


@pytest.mark.parametrize("settings", SETTINGS)
def test_captions_token_for_token(tmp_path, settings):
    ours, theirs = pair(tmp_path, "ConditionalGeneration")
    prompt, mask = texts((4, 4, 4))["input_ids"], torch.ones(3, 4, dtype=torch.long)
    calls = [
        {"pixel_values": pictures()},
        {"pixel_values": pictures(), "input_ids": prompt},
        {"pixel_values": pictures(), "input_ids": prompt, "attention_mask": mask},
        {"pixel_values": noise(2, 3, 24, 32), "interpolate_pos_encoding": True},
    ]
    for call in calls:
        given = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in call.items()}  # it writes into prompts
        expected = theirs.generate(**given, **settings, max_new_tokens=8)
        assert ours.generate(**call, **settings, max_new_tokens=8).tolist() == expected.tolist()
    assert ours.generate(pictures()).tolist() == theirs.generate(pictures()).tolist()  # to the usual length


def test_captions_show_their_steps(tmp_path):
    ours, theirs = pair(tmp_path, "ConditionalGeneration")
    asked = {
        "return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True, "output_attentions": True,
    }  # fmt: skip
    found = ours.generate(pictures(), max_new_tokens=5, **asked)
    expected = theirs.generate(pictures(), max_new_tokens=5, **asked)
    for name in ("sequences", "scores", "hidden_states", "attentions"):
        close(found[name], expected[name], name)


@pytest.mark.parametrize("settings", SETTINGS)
def test_answers_token_for_token(tmp_path, settings):
    ours, theirs = pair(tmp_path, "QuestionAnswering")
    for call in (texts((4, 4, 4)), texts((7, 4, 2)), {"input_ids": texts((5, 5, 5))["input_ids"]}):
        given = {**call, "pixel_values": pictures()}
        expected = theirs.generate(**given, **settings, max_new_tokens=8)
        assert ours.generate(**given, **settings, max_new_tokens=8).tolist() == expected.tolist()


def test_an_engine_answers_as_each_alone(tmp_path):
    """Captions with and without a beginning side by side; a picture that comes again is not looked at again."""
    ours, theirs = pair(tmp_path, "ConditionalGeneration")
    engine, seen = omniform.Engine(ours), pictures()
    prompts = [{"pixel_values": seen[i : i + 1]} for i in (0, 1, 0)]
    prompts.append({"pixel_values": seen[:1], "input_ids": torch.tensor([[1, 5, 9, 57]])})
    expected = [theirs.generate(**{k: v.clone() for k, v in p.items()}, max_new_tokens=6)[0] for p in prompts]
    handles = [engine.submit(p, max_new_tokens=6) for p in prompts]
    for handle, row, begun in zip(handles, expected, (1, 1, 1, 3), strict=True):
        answer = row[begun:].tolist()
        ended = answer[: answer.index(57)] if 57 in answer else answer
        assert [t for t in handle.result().sequences[0].tokens if t != 57] == ended
    assert engine.stats().encoder_runs == 2 and engine.stats().encoder_hits == 2


def test_towers_and_texts_of_one(tmp_path):
    ours, theirs = pair(tmp_path, "QuestionAnswering")
    inputs = {"input_ids": texts()["input_ids"]}
    close(ours.text_encoder(**inputs).last_hidden_state, theirs.text_encoder(**inputs).last_hidden_state)
    compare(ours.vision_model, theirs.vision_model, {"pixel_values": pictures()}, ["pooler_output", "hidden_states"])
    saved_reference(transformers.BlipModel, config(), tmp_path / "both")
    mine, other = (m.BlipModel.from_pretrained(tmp_path / "both").eval() for m in (omniform, transformers))
    with torch.no_grad():
        found, expected = (m.get_multimodal_features(**texts(), pixel_values=pictures()) for m in (mine, other))
        close(found, expected)
        close(mine.get_text_features(**texts()).pooler_output, other.get_text_features(**texts()).pooler_output)
        seen = (m.get_image_features(pictures()).pooler_output for m in (mine, other))
        close(*seen)


def test_a_text_that_is_told_to_write(tmp_path):
    theirs = saved_reference(transformers.BlipTextModel, transformers.BlipTextConfig(**TEXT), tmp_path)
    ours = omniform.BlipTextModel.from_pretrained(tmp_path)
    memory = {"encoder_hidden_states": noise(3, 6, 32), "encoder_attention_mask": texts((6, 3, 1))["attention_mask"]}
    compare(ours, theirs, {**texts((4, 4, 4)), **memory}, ["last_hidden_state", "attentions", "cross_attentions"])
    ids, vectors = texts((6, 6, 6))["input_ids"], noise(3, 4, 24)
    with torch.no_grad():
        expected = theirs(inputs_embeds=vectors.clone())  # it writes into them
        close(ours(inputs_embeds=vectors).last_hidden_state, expected.last_hidden_state)
        expected = theirs(ids, is_decoder=True, **memory).last_hidden_state
        first = ours(ids[:, :4], is_decoder=True, use_cache=True, **memory)
        rest = ours(ids[:, 4:], is_decoder=True, past_key_values=first.past_key_values, **memory)
    close(torch.cat((first.last_hidden_state, rest.last_hidden_state), dim=1), expected)


def test_old_files_hold_positions(tmp_path):
    _, theirs = pair(tmp_path, "ImageTextRetrieval")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "text_encoder.embeddings.position_ids": torch.arange(24)[None]}, path, {"format": "pt"})
    again = omniform.BlipForImageTextRetrieval.from_pretrained(tmp_path)
    compare(again, theirs, {**texts(), "pixel_values": pictures()}, ["itm_score"])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"pixel_values": noise(1, 3, 24, 16)}, "interpolate_pos_encoding=True"),
        ({"pixel_values": noise(1, 3, 16, 16), "input_ids": [5]}, "rows of token ids"),
        ({"input_ids": torch.tensor([[1, 2]])}, "pixel_values"),
    ],
)
def test_calls_that_cannot_be(tmp_path, call, says):
    ours, _ = pair(tmp_path, "ConditionalGeneration")
    with pytest.raises(InputError, match=says):
        ours.generate(**call)


def test_answers_need_a_beginning(tmp_path):
    ours, _ = pair(tmp_path, "QuestionAnswering")
    with pytest.raises(InputError, match="call generate"):
        ours(**texts(), pixel_values=pictures())
    with pytest.raises(InputError, match="both are needed"):
        ours.generate(input_ids=texts()["input_ids"])
