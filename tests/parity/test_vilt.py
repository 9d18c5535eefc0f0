"""ViLT against the reference: which patches are read, and in which order, is left to chance in both, and the same."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Inputs, Question, noise
from harness import Head, Parity, Table, bare, compiled, gamma
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 20, "image_size": 12, "patch_size": 4, "num_images": 2, "modality_type_vocab_size": 3,
}  # fmt: skip
TAPS = ("hidden_states", "attentions")


def rows(side: str = "right") -> Inputs:
    ids, mask = padded(ragged(60, [9, 4, 1]), side=side)
    return {"input_ids": ids, "attention_mask": mask}


def pictures(height: int = 12, width: int = 12) -> Inputs:
    return {"pixel_values": noise(3, 3, height, width)}


def several_sizes() -> Inputs:
    """One of odd size that fills the batch, one wide, one of a single patch."""
    mask = torch.zeros(3, 22, 25, dtype=torch.long)
    for row, (height, width) in zip(mask, [(22, 25), (8, 24), (4, 4)], strict=True):
        row[:height, :width] = 1
    return {**pictures(22, 25), "pixel_mask": mask}


def asked(*fields: str, labels: Inputs | None = None, config: Inputs | None = None) -> Given:
    labels = labels or {}
    outputs = tuple(f for f in fields if f != "loss")

    def questions(config: object) -> list[Question]:
        whole = {"input_ids": torch.stack(ragged(60, [9] * 3, seed=2))}
        types = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1]).expand(3, 9)
        embeds = {"inputs_embeds": noise(3, 9, config.hidden_size), "attention_mask": rows()["attention_mask"]}
        seen = {"image_embeds": noise(3, 5, config.hidden_size), "pixel_mask": torch.tensor([[1] * 5, [1] * 3 + [0] * 2,
            [1] + [0] * 4])}  # fmt: skip
        more = [Question({**rows(), **several_sizes(), **labels}, fields)] if labels else []
        return [
            Question({**whole, **pictures()}, (*outputs, *TAPS)),
            *more,
            Question({**rows("left"), **several_sizes(), "token_type_ids": types}, (*outputs, "hidden_states")),
            Question({**embeds, **pictures(12, 30)}, outputs),
            Question({**rows(), **seen}, outputs),
        ]

    return Given(questions, (lambda _: {**rows(), **several_sizes(), **labels}) if labels else None, config or {})


def compared() -> Given:
    """Two pictures for each text."""
    labels = {"labels": torch.tensor([1, 0, 2])}

    def questions(config: object) -> list[Question]:
        two = {"pixel_values": noise(3, 2, 3, 12, 16), "pixel_mask": torch.ones(3, 2, 12, 16, dtype=torch.long)}
        two["pixel_mask"][1, 0, :, 8:] = 0
        seen = {"image_embeds": noise(3, 2, 5, config.hidden_size), "pixel_mask": torch.ones(3, 2, 1, 5)}
        return [
            Question({**rows(), **two}, ("logits", *TAPS)),
            Question({**rows(), **two, **labels}, ("loss", "logits")),
            Question({**rows("left"), **seen}, ("logits",)),
        ]

    def lesson(_: object) -> Inputs:
        return {**rows(), "pixel_values": noise(3, 2, 3, 12, 16), **labels}

    return Given(questions, lesson, {"num_labels": 3})


WORDS = rows()["input_ids"].masked_fill(rows()["attention_mask"] == 0, -100)


class TestVilt(Parity):
    table = Table(
        model_type="vilt",
        config=transformers.ViltConfig,
        tiny=TINY,
        heads={
            "Model": Head("ViltModel", "AutoModel", asked("last_hidden_state", "pooler_output"), everywhere=True),
            "ForMaskedLM": Head(
                "ViltForMaskedLM", "", asked("loss", "logits", labels={"labels": WORDS}), unused=("model.pooler",)
            ),
            "ForQuestionAnswering": Head(
                "ViltForQuestionAnswering", "AutoModelForVisualQuestionAnswering",
                asked("loss", "logits", labels={"labels": noise(3, 5).abs().clamp(max=1)}, config={"num_labels": 5}),
            ),
            "ForImageAndTextRetrieval": Head("ViltForImageAndTextRetrieval", "", asked("logits")),
            "ForImagesAndTextClassification": Head("ViltForImagesAndTextClassification", "", compared()),
            "ForTokenClassification": Head(
                "ViltForTokenClassification", "",
                asked("loss", "logits", labels={"labels": WORDS.clamp(max=3)}, config={"num_labels": 4}),
            ),
        },
        variants={
            "plain": {},
            "few patches": {"max_image_length": 6},
            "more than there are": {"max_image_length": 99, "num_channels": 3, "image_size": 16},
            "no biases": {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-2, "type_vocab_size": 3},
            "one place": {"image_size": 4},
        },
        spellings={"bare": bare("vilt"), "compiled": compiled, "gamma": gamma},
    )  # fmt: skip


def pair(folder, head: str, **changes: object):
    theirs = saved_reference(getattr(transformers, head), transformers.ViltConfig(**{**TINY, **changes}), folder)
    return getattr(omniform, head).from_pretrained(folder), theirs


def test_what_words_say_does_not_depend_on_the_order_of_patches(tmp_path):
    ours, _ = pair(tmp_path, "ViltForMaskedLM")
    with torch.no_grad():
        found = [ours(**rows(), **several_sizes()).logits for _ in range(2)]
        close(*found, tolerance=1e-5)
        bare_call = type(ours).forward(ours, **rows(), **several_sizes())  # no call arrives: all patches, in order
    close(bare_call.logits, found[0], tolerance=1e-5)


def test_dropout_falls_on_the_same_places(tmp_path):
    ours, theirs = pair(tmp_path, "ViltModel", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    ours.set_attn_implementation("eager")
    found = []
    for model in (ours, theirs):
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(**rows(), **several_sizes()).last_hidden_state)
    close(*found)


def test_masked_pixels_change_nothing(tmp_path):
    ours, _ = pair(tmp_path, "ViltModel")
    given = several_sizes()
    other = {**given, "pixel_values": given["pixel_values"] + 5 * (1 - given["pixel_mask"][:, None])}
    with torch.no_grad():
        close(ours(**rows(), **other).pooler_output, ours(**rows(), **given).pooler_output, tolerance=1e-5)


def test_the_bias_of_old_files(tmp_path):
    ours, _ = pair(tmp_path, "ViltForMaskedLM")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["mlm_score.bias"] = tensors.pop("mlm_score.decoder.bias")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    again, report = omniform.ViltForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report.fresh and torch.equal(again.lm_head.decoder.bias, ours.lm_head.decoder.bias)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pixel_values": None}, "neither"),
        ({"image_embeds": noise(3, 4, 24)}, "both"),
        ({"pixel_values": noise(2, 3, 12, 12)}, "2 pictures"),
        ({"pixel_values": noise(3, 3, 3, 12)}, "smaller than a patch"),
        ({"pixel_values": noise(3, 4, 12, 12)}, "batch, 3"),
        ({"pixel_mask": torch.zeros(3, 12, 12)}, "pixel_mask, row 0"),
        ({"pixel_mask": torch.ones(2, 12, 12)}, "pixel_mask"),
        ({"pixel_values": None, "image_embeds": noise(3, 4, 9)}, "image_embeds"),
        ({"pixel_values": None, "image_embeds": noise(3, 4, 24), "pixel_mask": torch.ones(3, 5)}, "pixel_mask"),
        ({"input_ids": torch.full((3, 9), 60)}, "60"),
        ({"patch_index": torch.full((3, 2), 9)}, "patch_index"),
        ({"input_ids": torch.ones(3, 21, dtype=torch.long), "attention_mask": None}, "at most 20"),
    ],
)
def test_bad_inputs(tmp_path, changes, words):
    ours, _ = pair(tmp_path, "ViltModel")
    with pytest.raises(InputError, match=words):
        ours(**{**rows(), **pictures(), **changes})


def test_bad_calls_of_heads(tmp_path):
    compare, _ = pair(tmp_path / "two", "ViltForImagesAndTextClassification", num_labels=3)
    with pytest.raises(InputError, match="2 for each text"):
        compare(**rows(), **pictures())
    rank, _ = pair(tmp_path / "rank", "ViltForImageAndTextRetrieval")
    with pytest.raises(InputError, match="no labels"):
        rank(**rows(), **pictures(), labels=torch.tensor([1, 0, 1]))
    for wrong in ({"num_images": -1}, {"num_images": 3}):
        with pytest.raises(ConfigError, match="num_images"):
            omniform.ViltForImagesAndTextClassification(omniform.ViltConfig(**{**TINY, **wrong}))
    with pytest.raises(ConfigError, match="max_image_length"):
        omniform.ViltConfig(**{**TINY, "max_image_length": 0})
