"""SigLIP 2 and its towers against the reference: pictures of any shape, as rows of patches."""

from __future__ import annotations

import pytest
import torch
from askers import PROBLEMS, Given, Labels, Nothing, Question, Text
from harness import Head, Parity, Table
from PIL import Image

from omniform.blocks.fractions import ResampledPositions
from omniform.core.errors import ConfigError, InputError
from omniform.hub.auto import AutoModel
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 16, "projection_size": 32, "pad_token_id": 1,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_patches": 16,
    "patch_size": 2,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "gelu": {"hidden_act": "gelu", "layer_norm_eps": 1e-2},
    "dropout": {"attention_dropout": 0.3, "num_hidden_layers": 1},
}
BASE = Nothing(("last_hidden_state", "pooler_output"))
SHAPES = ((3, 5), (4, 4), (1, 7))


class TestSiglip2Text(Parity):
    table = Table(
        model_type="siglip2_text_model",
        config=transformers.Siglip2TextConfig,
        tiny=TEXT,
        heads={"Model": Head("Siglip2TextModel", "AutoModel", Text(BASE, vocabulary=60, embeds=None))},
        variants={"plain": {}, "as wide as it is": {"projection_size": None}},
    )


def pictures(shapes=SHAPES, length: int = 18, channels: int = 3) -> dict[str, torch.Tensor]:
    """Rows of patches with noise behind them too, which the mask hides."""
    generator = torch.Generator().manual_seed(1)
    counts = torch.tensor([rows * columns for rows, columns in shapes])
    return {
        "pixel_values": torch.randn(len(shapes), length, 4 * channels, generator=generator),
        "pixel_attention_mask": (torch.arange(length) < counts[:, None]).int(),
        "spatial_shapes": torch.tensor(shapes),
    }


def seen(config: object) -> list[Question]:
    """Mixed shapes, padding and what stands there included; one shape without padding; no mask."""
    channels = config.num_channels
    fields = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")
    whole = pictures(((2, 6), (2, 6)), 12, channels)
    return [
        Question(pictures(channels=channels), fields),
        Question(whole, fields),
        Question({**pictures(channels=channels), "pixel_attention_mask": None}, fields[:2]),
    ]


class TestSiglip2Vision(Parity):
    table = Table(
        model_type="siglip2_vision_model",
        config=transformers.Siglip2VisionConfig,
        tiny=VISION,
        heads={"Model": Head("Siglip2VisionModel", "AutoModel", Given(seen), everywhere=True)},
        variants={**VARIANTS, "grey": {"num_channels": 1}, "one position": {"num_patches": 1}},
    )


def texts(side: str = "right") -> dict[str, torch.Tensor]:
    ids, mask = padded(ragged(50, (9, 6, 2)), pad=1, side=side)
    return {"input_ids": ids, "attention_mask": mask}


def both(text=(), vision=(), **changes: object) -> object:
    return transformers.Siglip2Config(
        text_config={**TEXT, **dict(text)}, vision_config={**VISION, **dict(vision)}, **changes
    )


FIELDS = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")


def texts_and_pictures(config: object) -> list[Question]:
    inputs = {**texts(), **pictures()}
    unmasked = {key: value for key, value in inputs.items() if key != "attention_mask"}
    return [
        Question(inputs, FIELDS),
        Question({**unmasked, "return_loss": True}, ("loss", *FIELDS)),
        Question({**inputs, **pictures(SHAPES[:2])}, FIELDS),
    ]


def classified(labels: Labels) -> Head:
    def questions(config: object) -> list[Question]:
        given = labels.given(torch.ones(3), torch.ones(3))
        whole = pictures(((2, 6),) * 3, 12)
        return [
            Question({**pictures(), **given}, labels.fields),
            Question({**whole, **given}, (*labels.fields, "hidden_states", "attentions")),
            Question({**pictures(), "pixel_attention_mask": None}, ("logits",)),
        ]

    def lesson(config: object) -> dict[str, object]:
        return {**pictures(), **labels.given(torch.ones(3), torch.ones(3))}

    asks = Given(questions, lesson, labels.config)
    return Head(
        "Siglip2ForImageClassification", "AutoModelForImageClassification", asks, unused=("model.pooler",), rate=1e-3
    )


class TestSiglip2(Parity):
    table = Table(
        model_type="siglip2",
        config=lambda **changes: both(**changes),
        config_class=transformers.Siglip2Config,
        tiny={},
        heads={
            "Model": Head(
                "Siglip2Model",
                "AutoModel",
                Given(texts_and_pictures, lambda config: {**texts(), **pictures(), "return_loss": True}),
                everywhere=True,
                rate=1e-4,
            ),
            **{f"ForImageClassification, {name}": classified(labels) for name, labels in PROBLEMS.items()},
        },
        variants={"plain": {}, "gelu": {"text": {"hidden_act": "gelu"}, "vision": {"hidden_act": "gelu"}}},
        derived=frozenset({"text_config", "vision_config"}),
    )


@pytest.mark.parametrize("shapes", [((4, 4),), ((8, 2), (2, 8)), ((1, 1), (9, 9)), ((17, 2), (5, 16))])
def test_positions_of_any_shape(tmp_path, shapes):
    theirs = saved_reference(transformers.Siglip2VisionModel, transformers.Siglip2VisionConfig(**VISION), tmp_path)
    length = max(rows * columns for rows, columns in shapes) + 1
    compare(AutoModel.from_pretrained(tmp_path), theirs, pictures(shapes, length), ["last_hidden_state"])


def test_positions_of_one_column():
    """As those of one row, turned; torch's own resampling of them on the CPU, the reference's, repeats the first."""
    learned = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(2))
    positions = ResampledPositions(4, 3)
    positions.load_state_dict({"weight": learned.flatten(0, 1)})
    column = positions(torch.tensor([[17, 1]]), 17)
    positions.load_state_dict({"weight": learned.transpose(0, 1).flatten(0, 1)})
    torch.testing.assert_close(column, positions(torch.tensor([[1, 17]]), 17))
    assert not torch.equal(column[0, 0], column[0, -1])


def test_without_its_pooling_head(tmp_path):
    config = transformers.Siglip2VisionConfig(**VISION, vision_use_head=False)
    theirs = saved_reference(transformers.Siglip2VisionModel, config, tmp_path / "tower")
    ours = AutoModel.from_pretrained(tmp_path / "tower")
    compare(ours, theirs, pictures(), ["last_hidden_state"])
    assert ours(**pictures()).pooler_output is None
    saved_reference(transformers.Siglip2Model, both(vision={"vision_use_head": False}), tmp_path / "both")
    with pytest.raises(InputError, match="vision_use_head"):
        AutoModel.from_pretrained(tmp_path / "both")(**texts(), **pictures())


def test_features_and_what_is_seen_on_the_way(tmp_path):
    theirs = saved_reference(transformers.Siglip2Model, both(), tmp_path)
    ours = AutoModel.from_pretrained(tmp_path)
    inputs = {**texts("left"), **pictures()}
    with torch.no_grad():
        theirs.set_attn_implementation("eager")
        found = ours(**inputs, output_hidden_states=True, output_attentions=True)
        expected = theirs(**inputs, output_hidden_states=True, output_attentions=True)
        assert found.keys() == list(expected.keys())
        close(found.vision_model_output.to_tuple(), expected.vision_model_output.to_tuple())
        close(ours.get_text_features(**texts()).to_tuple(), theirs.get_text_features(**texts()).to_tuple())
        close(ours.get_image_features(**pictures()).to_tuple(), theirs.get_image_features(**pictures()).to_tuple())
        order = ("input_ids", "pixel_values", "pixel_attention_mask", "spatial_shapes", "attention_mask")
        placed = ours(*(inputs[name] for name in order)).logits_per_image
        torch.testing.assert_close(placed, found.logits_per_image)


@pytest.mark.parametrize("head", ["Siglip2VisionModel", "Siglip2TextModel"])
def test_a_tower_from_a_folder_of_both(tmp_path, head):
    theirs = saved_reference(transformers.Siglip2Model, both(), tmp_path / "both")
    ours = getattr(omniform, head).from_pretrained(tmp_path / "both")
    vision = "Vision" in head
    inputs = pictures() if vision else texts()
    compare(ours, theirs.vision_model if vision else theirs.text_model, inputs, ["last_hidden_state", "pooler_output"])
    ours.save_pretrained(tmp_path / "tower")
    again = getattr(transformers, head).from_pretrained(tmp_path / "tower")
    compare(ours, again, inputs, ["last_hidden_state", "pooler_output"])


def test_what_does_not_fit_is_said():
    model = omniform.Siglip2VisionModel(omniform.Siglip2VisionConfig(**VISION)).eval()
    good = pictures()
    for wrong, text in (
        ({"spatial_shapes": None}, "do not fit"),
        ({"spatial_shapes": torch.tensor([[3, 5], [4, 4], [0, 7]])}, "do not fit"),
        ({"spatial_shapes": good["spatial_shapes"][:2]}, "do not fit"),
        ({"spatial_shapes": torch.tensor([[3, 5], [4, 4], [3, 7]])}, "do not fit"),
        ({"pixel_values": good["pixel_values"][..., :-1]}, "do not fit the model"),
        ({"pixel_attention_mask": good["pixel_attention_mask"][:, 1:]}, "do not cover"),
    ):
        with pytest.raises(InputError, match=text):
            model(**{**good, **wrong})
    with pytest.raises(ConfigError, match="num_patches"):
        omniform.Siglip2VisionModel(omniform.Siglip2VisionConfig(**{**VISION, "num_patches": 15}))


def test_fresh_weights_begin_as_the_references():
    wide = {"hidden_size": 96, "intermediate_size": 128}
    config = both(text=wide, vision={**wide, "num_patches": 64})
    torch.manual_seed(0)
    expected = transformers.Siglip2Model(config).vision_model.state_dict()
    found = omniform.Siglip2Model(omniform.Siglip2Config(**config.to_dict())).vision_model
    for name, x in (
        ("embeddings.patch_embedding", found.projection),
        ("embeddings.position_embedding", found.positions),
    ):
        assert x.weight.std().item() == pytest.approx(expected[f"{name}.weight"].std().item(), rel=0.1), name
    probe = expected["head.probe"].std().item()
    assert found.pooler.probe.std().item() == pytest.approx(probe, rel=0.4)


def test_its_processor(tmp_path):
    """Texts of 64 small letters and padding on the left; pictures as 256 patches, whatever the file says."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4} | {
        x: n for n, x in enumerate("▁abcdefghijklmnopqrstuvwxyz!", 5)
    }
    tokenizer = transformers.Siglip2Tokenizer(vocab=vocabulary, merges=[])
    processor = transformers.Siglip2Processor(transformers.Siglip2ImageProcessor(max_num_patches=9), tokenizer)
    processor.save_pretrained(tmp_path)
    ours, theirs = (library.AutoProcessor.from_pretrained(tmp_path) for library in (omniform, transformers))
    assert type(ours).__name__ == type(theirs).__name__ == "Siglip2Processor"
    image = Image.effect_noise((31, 17), 80).convert("RGB")
    asked = {"text": ["A Red circle!", "two dogs"], "images": [image, image.rotate(90, expand=True)]}
    for how in (
        {},
        {"padding": True, "max_num_patches": 12},
        {"padding": "max_length", "max_length": 7, "images_kwargs": {"patch_size": 4}},
    ):
        found, expected = (one(**asked, **how, return_tensors="pt") for one in (ours, theirs))
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():
            close(found[name], value, name)
    ours.save_pretrained(tmp_path / "again")
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "again")
    for one in (asked, {"text": "a hill"}, {"images": image}):
        for name, value in theirs(**one, return_tensors="pt").items():
            close(again(**one, return_tensors="pt")[name], value, name)
