"""SigLIP and its towers against the reference."""

from __future__ import annotations

import json

import pytest
import sentencepiece
import torch
from askers import PROBLEMS, Given, Labels, Nothing, Pictures, Question, Text
from harness import Head, Parity, Table
from PIL import Image

from omniform.core.errors import InputError
from omniform.hub.auto import AutoModel
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 16, "projection_size": 32, "pad_token_id": 1,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 20,
    "patch_size": 4,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "gelu": {"hidden_act": "gelu", "layer_norm_eps": 1e-2},
    "dropout": {"attention_dropout": 0.3, "num_hidden_layers": 1},
}
BASE = Nothing(("last_hidden_state", "pooler_output"))


class TestSiglipText(Parity):
    table = Table(
        model_type="siglip_text_model",
        config=transformers.SiglipTextConfig,
        tiny=TEXT,
        heads={"Model": Head("SiglipTextModel", "AutoModel", Text(BASE, vocabulary=60, embeds=None), everywhere=True)},
        variants={**VARIANTS, "as wide as it is": {"projection_size": None}},
    )


class TestSiglipVision(Parity):
    table = Table(
        model_type="siglip_vision_model",
        config=transformers.SiglipVisionConfig,
        tiny=VISION,
        heads={"Model": Head("SiglipVisionModel", "AutoModel", Pictures(BASE), everywhere=True)},
        variants={
            **VARIANTS,
            "grey": {"num_channels": 1},
            "cut off": {"image_size": 22},
            "one patch": {"image_size": 4},
        },
    )


def pictures(n: int = 3, height: int = 20, width: int = 20) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def texts(side: str = "right") -> dict[str, torch.Tensor]:
    ids, mask = padded(ragged(50, (9, 6, 2)), pad=1, side=side)
    return {"input_ids": ids, "attention_mask": mask}


def both(text=(), vision=(), **changes: object) -> object:
    return transformers.SiglipConfig(
        text_config={**TEXT, **dict(text)}, vision_config={**VISION, **dict(vision)}, **changes
    )


FIELDS = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")


def texts_and_pictures(config: object) -> list[Question]:
    inputs = {**texts(), "pixel_values": pictures()}
    unmasked = {key: value for key, value in inputs.items() if key != "attention_mask"}
    return [
        Question(inputs, FIELDS),
        Question({**unmasked, "return_loss": True}, ("loss", *FIELDS)),
        Question({**inputs, "pixel_values": pictures(2)}, FIELDS),
    ]


def lesson(config: object) -> dict[str, object]:
    return {**texts(), "pixel_values": pictures(), "return_loss": True}


def classified(labels: Labels) -> Head:
    asks = Pictures(labels, read=lambda config: config.vision_config)
    return Head(
        "SiglipForImageClassification", "AutoModelForImageClassification", asks, unused=("model.pooler",), rate=1e-3
    )


class TestSiglip(Parity):
    table = Table(
        model_type="siglip",
        config=lambda **changes: both(**changes),
        config_class=transformers.SiglipConfig,
        tiny={},
        heads={
            "Model": Head("SiglipModel", "AutoModel", Given(texts_and_pictures, lesson), everywhere=True, rate=1e-4),
            **{f"ForImageClassification, {name}": classified(labels) for name, labels in PROBLEMS.items()},
        },
        variants={
            "plain": {},
            "gelu and epsilon": {"text": {"hidden_act": "gelu"}, "vision": {"layer_norm_eps": 1e-2}},
        },
        derived=frozenset({"text_config", "vision_config"}),
    )


@pytest.mark.parametrize("size", [(20, 20), (28, 28), (12, 36), (22, 21), (8, 4)])
def test_other_sizes(tmp_path, size):
    theirs = saved_reference(transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**VISION), tmp_path)
    inputs = {"pixel_values": pictures(2, *size), "interpolate_pos_encoding": True}
    compare(AutoModel.from_pretrained(tmp_path), theirs, inputs, ["last_hidden_state", "pooler_output"])


def test_without_its_pooling_head(tmp_path):
    """As LLaVA's line keeps it: pictures have hidden states, and no vector that texts could be compared with."""
    config = transformers.SiglipVisionConfig(**VISION, vision_use_head=False)
    theirs = saved_reference(transformers.SiglipVisionModel, config, tmp_path / "tower")
    ours = AutoModel.from_pretrained(tmp_path / "tower")
    compare(ours, theirs, {"pixel_values": pictures()}, ["last_hidden_state"])
    assert ours(pictures()).pooler_output is None and ours.pooler is None
    saved_reference(transformers.SiglipModel, both(vision={"vision_use_head": False}), tmp_path / "both")
    pair = AutoModel.from_pretrained(tmp_path / "both")
    assert pair.get_text_features(**texts()).pooler_output.shape == (3, 32)
    with pytest.raises(InputError, match="vision_use_head"):
        pair(**texts(), pixel_values=pictures())


@pytest.mark.parametrize("side", ["left", "right"])
def test_features_and_what_is_seen_on_the_way(tmp_path, side):
    theirs = saved_reference(transformers.SiglipModel, both(), tmp_path)
    ours = AutoModel.from_pretrained(tmp_path)
    inputs = {**texts(side), "pixel_values": pictures()}
    with torch.no_grad():
        theirs.set_attn_implementation("eager")
        found = ours(**inputs, output_hidden_states=True, output_attentions=True)
        expected = theirs(**inputs, output_hidden_states=True, output_attentions=True)
        assert found.keys() == list(expected.keys())
        close(found.vision_model_output.to_tuple(), expected.vision_model_output.to_tuple())
        assert found.text_model_output.keys() == list(expected.text_model_output.keys())
        images = inputs.pop("pixel_values")
        close(ours.get_text_features(**inputs).pooler_output, theirs.get_text_features(**inputs).pooler_output)
        close(ours.get_image_features(images).to_tuple(), theirs.get_image_features(images).to_tuple())
    with pytest.raises(InputError, match="one text per picture"):
        ours(**inputs, pixel_values=images[:2], return_loss=True)
    with pytest.raises(TypeError, match="get_image_features has no argument"):
        ours.get_image_features(images, interpolate=True)


@pytest.mark.parametrize("head", ["SiglipVisionModel", "SiglipTextModel"])
def test_a_tower_from_a_folder_of_both(tmp_path, head):
    theirs = saved_reference(transformers.SiglipModel, both(), tmp_path / "both")
    ours = getattr(omniform, head).from_pretrained(tmp_path / "both")
    vision = "Vision" in head
    inputs = {"pixel_values": pictures()} if vision else texts()
    compare(ours, theirs.vision_model if vision else theirs.text_model, inputs, ["last_hidden_state", "pooler_output"])
    ours.save_pretrained(tmp_path / "tower")
    again = getattr(transformers, head).from_pretrained(tmp_path / "tower")
    compare(ours, again, inputs, ["last_hidden_state", "pooler_output"])
    whole = json.loads((tmp_path / "both" / "config.json").read_text())
    part = whole["vision_config" if vision else "text_config"]
    (tmp_path / "both" / "config.json").write_text(json.dumps(part))
    compare(AutoModel.from_pretrained(tmp_path / "both"), again, inputs, ["pooler_output"])


def test_defaults_and_fresh_weights_are_the_references():
    theirs = transformers.SiglipConfig()
    ours = omniform.AutoConfig.for_model("siglip")
    for part in ("text_config", "vision_config"):
        for name, value in getattr(theirs, part).to_dict().items():
            if name in {**TEXT, **VISION, "hidden_act": 0, "layer_norm_eps": 0, "eos_token_id": 0, "bos_token_id": 0}:
                assert getattr(getattr(ours, part), name) == value, (part, name)
    wide = {"hidden_size": 96, "intermediate_size": 128}
    config = both(text=wide, vision=wide)
    torch.manual_seed(0)
    expected = transformers.SiglipModel(config).state_dict()
    fresh = omniform.SiglipModel(omniform.SiglipConfig(**config.to_dict()))
    found = dict(fresh.state_dict())
    theirs_by_size = sorted((tuple(x.shape), x.float().std().item()) for x in expected.values() if x.dim() > 1)
    stacked = {"q_proj", "k_proj", "v_proj"}
    ours_by_size = sorted(
        (tuple(x.shape), x.float().std().item())
        for name, x in found.items()
        if x.dim() > 1 and not (name.startswith("vision_model.pooler") and name.split(".")[2] in stacked)
    )
    theirs_by_size = [pair for pair in theirs_by_size if pair[0] != (288, 96)]  # torch's own three in one
    assert [shape for shape, _ in ours_by_size] == [shape for shape, _ in theirs_by_size]
    for (shape, mine), (_, other) in zip(ours_by_size, theirs_by_size, strict=True):
        assert mine == pytest.approx(other, rel=0.25), shape
    for part in stacked:
        std = found[f"vision_model.pooler.{part}.weight"].std().item()
        assert std == pytest.approx(expected["vision_model.head.attention.in_proj_weight"].std().item(), rel=0.1)
    assert fresh.logit_scale.shape == (1,) and not fresh.logit_scale.any() and not fresh.logit_bias.any()


def test_its_processor(tmp_path):
    """Texts of one length, or as long as the longest; pictures squeezed to a square."""
    words = ["a red circle on a white background", "two dogs and a cat run over the hill", "an old house near a lake"]
    (tmp_path / "words.txt").write_text("\n".join(words * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "words.txt"), model_prefix=str(tmp_path / "spiece"), vocab_size=60, bos_id=-1, pad_id=-1,
        hard_vocab_limit=False, eos_id=1, unk_id=0, add_dummy_prefix=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"))
    size = {"height": 20, "width": 24}
    transformers.SiglipProcessor(transformers.SiglipImageProcessor(size=size), tokenizer).save_pretrained(tmp_path)
    ours, theirs = (library.AutoProcessor.from_pretrained(tmp_path) for library in (omniform, transformers))
    assert type(ours).__name__ == type(theirs).__name__ == "SiglipProcessor"
    image = Image.effect_noise((31, 17), 80)
    asked = {"text": ["A Red circle!", "two dogs, a cat; over ▁ hills"], "images": [image.convert("RGB"), image]}
    fixed = {"padding": "max_length", "max_length": 7, "truncation": True}
    for how in ({"padding": True}, {"padding": "max_length"}, fixed):
        found, expected = (one(**asked, **how, return_tensors="pt") for one in (ours, theirs))
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():
            close(found[name], value, name)
    ours.save_pretrained(tmp_path / "again")
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "again")
    ids = [one(text="a hill", padding="max_length")["input_ids"] for one in (again, theirs)]
    assert ids[0] == ids[1]
