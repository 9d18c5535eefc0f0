"""BLIP-2 against the reference: over a decoder and over an encoder-decoder, the towers, and what matches."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question, noise
from harness import Head, Parity, Table
from safetensors.torch import load_file

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, padded, ragged, saved_reference, transformers

IMAGE, QUERIES = 60, 3
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
QFORMER = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "max_position_embeddings": 20, "encoder_hidden_size": 24, "use_qformer_text_input": True,
}  # fmt: skip
OPT = {
    "model_type": "opt", "vocab_size": 62, "hidden_size": 20, "ffn_dim": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 40, "word_embed_proj_dim": 20, "eos_token_id": 59,
}  # fmt: skip
T5 = {
    "model_type": "t5", "vocab_size": 62, "d_model": 20, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
    "decoder_start_token_id": 0, "bos_token_id": 5, "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
}  # fmt: skip


def config(family="Blip2", text=OPT, **changes):
    vision, qformer = changes.pop("vision", {}), changes.pop("qformer", {})
    queries = {k: v for k, v in QFORMER.items() if family == "Blip2" or k != "use_qformer_text_input"}
    return getattr(transformers, f"{family}Config")(
        vision_config={**VISION, **vision}, qformer_config={**queries, **qformer}, text_config=dict(text),
        **{"num_query_tokens": QUERIES, "image_text_hidden_size": 7, "image_token_index": IMAGE, **changes},
    )  # fmt: skip


def pictures(rows=3, size=16):
    return noise(rows, 3, size, size)


def words(lengths=(6, 4, 2), side="right", vocabulary=50, places=True):
    """Texts, with the places of pictures in front of all, even of their padding."""
    ids, mask = padded(ragged(vocabulary, lengths), pad=1, side=side)
    if places:
        ids = torch.cat((torch.full((len(ids), QUERIES), IMAGE), ids), dim=1)
        mask = torch.cat((torch.ones(len(ids), QUERIES, dtype=torch.long), mask), dim=1)
    return {"input_ids": ids, "attention_mask": mask}


def flat(found, expected, what):
    """The same entries in outputs within outputs."""
    assert list(found.keys()) == list(expected.keys()), what
    for name in expected:
        if name in ("past_key_values",):
            continue
        one, other = found[name], expected[name]
        flat(one, other, f"{what}.{name}") if hasattr(other, "keys") else close(one, other, f"{what}.{name}")


def looked(config):
    size = config.image_size
    fields = ("last_hidden_state", "pooler_output")
    other = {"pixel_values": noise(2, 3, size + 8, size), "interpolate_pos_encoding": True}
    return [
        Question({"pixel_values": pictures(2, size)}, (*fields, "hidden_states", "attentions")),
        Question(other, fields),
    ]


class TestBlip2Vision(Parity):
    table = Table(
        model_type="blip_2_vision_model",
        config=transformers.Blip2VisionConfig,
        tiny=VISION,
        heads={"Model": Head("Blip2VisionModel", "AutoModel", Given(looked), everywhere=True)},
        variants={"plain": {}, "no biases": {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-2}},
    )


def queried(config):
    memory = noise(2, 5, config.encoder_hidden_size)
    seen = {"encoder_hidden_states": memory, "encoder_attention_mask": torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])}
    asked = {"query_embeds": noise(2, 6, config.hidden_size, seed=3), **seen}
    fields = ("last_hidden_state", "pooler_output")
    taps = ("hidden_states", "attentions", "cross_attentions")
    yield Question({**asked, "encoder_attention_mask": None}, (*fields, *taps))
    yield Question(asked, fields)
    if config.use_qformer_text_input:
        mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
        whole = {**asked, "encoder_attention_mask": None, "query_length": 3, "attention_mask": mask}
        yield Question(whole, ("last_hidden_state",), mask.bool())
        alone = {"query_embeds": asked["query_embeds"], "query_length": 0}
        yield Question(alone, (*fields, "attentions"))


class TestBlip2QFormer(Parity):
    table = Table(
        model_type="blip_2_qformer",
        config=transformers.Blip2QFormerConfig,
        tiny=QFORMER,
        heads={"Model": Head("Blip2QFormerModel", "AutoModel", Given(queried), everywhere=True)},
        variants={
            "plain": {},
            "without a text": {"use_qformer_text_input": False, "hidden_act": "relu"},
            "every third": {"cross_attention_frequency": 3, "layer_norm_eps": 1e-2},
        },
    )


def answered(lesson=False):
    def ask(config):
        for side in ("right", "left"):
            inputs = {**words(side=side), "pixel_values": pictures()}
            real = inputs["attention_mask"].bool()
            yield Question({k: v[:1] for k, v in inputs.items()}, ("logits",))
            labels = inputs["input_ids"].masked_fill(~real, -100)
            yield Question({**inputs, "labels": labels}, ("loss", "logits") if side == "right" else ("logits",), real)
        short = {**words((4,)), "pixel_values": pictures(1)}
        labels = short["input_ids"][:, QUERIES:]  # of the text alone
        yield Question({**short, "labels": labels}, ("loss", "logits"))
        large = {**words((4, 4, 4)), "pixel_values": pictures(size=24), "interpolate_pos_encoding": True}
        yield Question(large, ("logits",))

    return ask


def written(config):
    inputs = {**words(), "pixel_values": pictures()}
    answers, mask = padded(ragged(50, (4, 3, 1), seed=5))
    labels = answers.masked_fill(mask == 0, -100)
    begun = {**inputs, "decoder_input_ids": answers, "decoder_attention_mask": mask}
    return [Question({**inputs, "labels": labels}, ("loss", "logits")), Question(begun, ("logits",), mask.bool())]


def lesson(asked):
    return lambda config: next(q.inputs for q in asked(config) if "loss" in q.fields)


def towers(config):
    return [
        Question({"pixel_values": pictures()}, ("image_embeds", "last_hidden_state", "hidden_states", "attentions"))
    ]


def read(config):
    inputs = words(places=False)
    real = inputs["attention_mask"].bool()
    fields = ("text_embeds", "last_hidden_state")
    plain = {"input_ids": inputs["input_ids"]}
    return [Question(plain, (*fields, "hidden_states", "attentions")), Question(inputs, fields, real)]


def matched(config):
    inputs = {**words(places=config.image_token_index is not None), "pixel_values": pictures()}
    fields = ("logits_per_image", "logits_per_text")
    told = {**inputs, "use_image_text_matching_head": True}
    return [Question(inputs, (*fields, "text_embeds", "image_embeds")), Question(told, fields)]


ASKED = "AutoModelForVisualQuestionAnswering"
UNREAD = tuple(f"qformer.layers.{i}.{part}" for i in range(3) for part in ("mlp", "final_layer_norm"))


class TestBlip2(Parity):
    table = Table(
        model_type="blip-2",
        config=lambda **changes: config(**changes),
        config_class=transformers.Blip2Config,
        tiny={},
        heads={
            "Model": Head("Blip2Model", "AutoModel", Given(answered(), lesson(answered())), rate=1e-3, unused=UNREAD),
            "ForConditionalGeneration": Head(
                "Blip2ForConditionalGeneration", ASKED, Given(answered(), lesson(answered())), everywhere=True,
                unused=UNREAD,
            ),
            "ForConditionalGeneration, T5": Head(
                "Blip2ForConditionalGeneration", "AutoModelForImageTextToText",
                Given(written, lesson(written), {"text": T5}), unused=UNREAD,
            ),
            "Model, T5": Head(
                "Blip2Model", "AutoModel", Given(written, lesson(written), {"text": T5}), unused=UNREAD
            ),
            "TextModelWithProjection": Head("Blip2TextModelWithProjection", "", Given(read)),
            "VisionModelWithProjection": Head("Blip2VisionModelWithProjection", "", Given(towers)),
            "ForImageTextRetrieval": Head(
                "Blip2ForImageTextRetrieval", "AutoModelForZeroShotImageClassification", Given(matched)
            ),
            "ForImageTextRetrieval, old": Head(
                "Blip2ForImageTextRetrieval", "", Given(matched, None, {"image_token_index": None})
            ),
        },
        variants={
            "plain": {},
            "other parts": {
                "vision": {"qkv_bias": False, "hidden_size": 32},
                "qformer": {"cross_attention_frequency": 1, "use_qformer_text_input": False},
                "text": {**OPT, "do_layer_norm_before": False, "activation_function": "gelu"},
            },
        },
        derived=frozenset({"text_config", "vision_config", "qformer_config"}),
    )  # fmt: skip


def pair(folder, text=OPT, head="ForConditionalGeneration", family="Blip2", scale=0.4, **changes):
    made = config(family, text, **changes)
    theirs = saved_reference(getattr(transformers, family + head), made, folder, scale=scale)
    return getattr(omniform, family + head).from_pretrained(folder), theirs


@pytest.mark.parametrize("text", [OPT, T5], ids=["opt", "t5"])
def test_all_that_led_to_an_answer_is_told(tmp_path, text):
    flags = {"output_hidden_states": True, "output_attentions": True}
    call = {**words((4, 4, 4)), "pixel_values": pictures()}
    if text is T5:
        call["decoder_input_ids"] = words((3, 3, 3), places=False)["input_ids"]
    for head in ("ForConditionalGeneration", "Model"):
        ours, theirs = pair(tmp_path / head, text, head)
        theirs.set_attn_implementation("eager")
        with torch.no_grad():
            flat(ours(**call, **flags), theirs(**call, **flags), head)
            found, expected = (m.get_image_features(pictures()) for m in (ours, theirs))
            flat(found, expected, "features")
            if head == "Model":
                close(ours.get_qformer_features(pictures()), theirs.get_qformer_features(pictures()))
                text_only = words((4, 4, 4), places=False)
                flat(ours.get_text_features(**text_only), theirs.get_text_features(**text_only), "text")
                assert not ours.can_generate()


SETTINGS = [{"num_beams": 3, "num_return_sequences": 2}, {"repetition_penalty": 1.3, "min_new_tokens": 6}]


@pytest.mark.parametrize("text", [OPT, T5], ids=["opt", "t5"])
def test_written_token_for_token(tmp_path, text):
    ours, theirs = pair(tmp_path, text)
    calls = [
        ({"pixel_values": pictures()}, {}),
        ({"pixel_values": pictures(), **words((4, 4, 4))}, {}),
        ({"pixel_values": pictures(), "input_ids": words((5, 5, 5))["input_ids"]}, SETTINGS[0]),
        ({"pixel_values": pictures(), **words(side="left")}, SETTINGS[1]),
        ({"pixel_values": pictures(size=24), "interpolate_pos_encoding": True}, {"do_sample": False}),
    ]
    for call, settings in calls:
        expected = theirs.generate(**call, **settings, max_new_tokens=7)
        assert ours.generate(**call, **settings, max_new_tokens=7).tolist() == expected.tolist(), list(call)
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True}
    call = {"pixel_values": pictures(), **words((4, 4, 4))}
    found, expected = (m.generate(**call, **asked, max_new_tokens=4) for m in (ours, theirs))
    name = "hidden_states" if text is OPT else "decoder_hidden_states"
    close(found.scores, expected.scores)
    close(found[name], expected[name])


@pytest.mark.parametrize("text", [OPT, T5], ids=["opt", "t5"])
def test_an_engine_answers_as_each_alone(tmp_path, text):
    ours, theirs = pair(tmp_path, text)
    engine, seen = omniform.Engine(ours), pictures()
    prompts = [{"pixel_values": seen[i : i + 1]} for i in (0, 1, 0)]
    prompts += [{"pixel_values": seen[:1], "input_ids": words((n,))["input_ids"]} for n in (2, 5)]
    handles = [engine.submit(prompt, max_new_tokens=6) for prompt in prompts]
    for handle, prompt in zip(handles, prompts, strict=True):
        expected = theirs.generate(**prompt, max_new_tokens=6)[0].tolist()
        result = handle.result()
        whole = [*result.decoder_prompt, *result.sequences[0].tokens]
        assert whole == expected[: len(whole)] and not {*expected[len(whole) :]} - {1, 59, 0}
    assert engine.stats().encoder_runs == (2 if text is OPT else 4)


@pytest.mark.parametrize("text", [OPT, T5], ids=["opt", "t5"])
def test_old_files_put_pictures_in_front_of_all(tmp_path, text):
    """Without a token for pictures, what the model reads is what the one with it reads."""
    new, _ = pair(tmp_path / "new", text)
    old, _ = pair(tmp_path / "old", text, image_token_index=None)
    old.load_state_dict(new.state_dict())
    named, bare = words((5, 5, 5)), words((5, 5, 5), places=False)
    answers = {"decoder_input_ids": bare["input_ids"]} if text is T5 else {}
    with torch.no_grad():
        close(
            old(**bare, pixel_values=pictures(), **answers).logits,
            new(**named, pixel_values=pictures(), **answers).logits,
        )
    for mine, other in (({}, {}), (bare, named), (words(places=False), words())):
        found = old.generate(pixel_values=pictures(), **mine, max_new_tokens=6)
        expected = new.generate(pixel_values=pictures(), **other, max_new_tokens=6)
        assert found.tolist() == (expected if text is T5 else expected[:, QUERIES:]).tolist()
    shown = {"return_dict_in_generate": True, "output_hidden_states": True, "max_new_tokens": 3}
    found, expected = old.generate(pictures(), **bare, **shown), new.generate(pictures(), **named, **shown)
    name = "hidden_states" if text is OPT else "decoder_hidden_states"
    close(found[name], expected[name])


def test_towers_from_a_file_of_all(tmp_path):
    _, whole = pair(tmp_path)
    ours = omniform.Blip2VisionModelWithProjection.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    close(ours.vision_model(pictures()).last_hidden_state, whole.vision_model(pictures()).last_hidden_state)
    assert "query_tokens" in load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({**words((4, 4, 4)), "pixel_values": pictures(2)}, "6 placeholder tokens for 2 image"),
        ({**words((4, 4, 4)), "pixel_values": pictures(4)}, "12 placeholder tokens for 4 image"),
        ({**words((4, 4, 4)), "pixel_values": pictures(3, 24)}, "interpolate_pos_encoding=True"),
        ({"input_ids": torch.tensor([[70, 3]])}, "outside the vocabulary"),
    ],
)
def test_what_does_not_fit(tmp_path, call, says):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=says):
        ours(**call)
    with pytest.raises(InputError, match=says):
        ours.generate(**call)


def test_parts_that_do_not_fit(tmp_path):
    narrow = {**OPT, "word_embed_proj_dim": 12}
    with pytest.raises(ConfigError, match=r"language_model does not fit behind language_projection.*20.*12"):
        omniform.Blip2ForConditionalGeneration(omniform.Blip2Config(text_config=narrow, vision_config=VISION))
    with pytest.raises(InputError, match="queries have nothing to look at"):
        omniform.Blip2QFormerModel(omniform.Blip2QFormerConfig(**QFORMER))(query_embeds=noise(1, 3, 16))


def test_training_begins_as_the_reference_does():
    made = omniform.Blip2Config(text_config=OPT, vision_config=VISION, qformer_config=QFORMER)
    model = omniform.Blip2ForConditionalGeneration(made)
    assert not model.query_tokens.any() and model.vision_model.layers[0].self_attn.q_proj.weight.std() < 1e-8
    assert 0.01 < model.qformer.layers[0].self_attn.q_proj.weight.std() < 0.03
    compare_none = model.language_model.get_input_embeddings().weight.std()
    assert 0.01 < compare_none < 0.03
