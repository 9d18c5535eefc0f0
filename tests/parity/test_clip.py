"""CLIP and its towers against the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from askers import PROBLEMS, Given, Labels, Nothing, Pictures, Question, Text, counted, ended
from harness import Head, Parity, Table, compiled
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError, WeightsError
from omniform.hub.auto import AutoModel
from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    padded,
    ragged,
    saved_reference,
    trains,
    transformers,
)

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 16, "eos_token_id": 59, "bos_token_id": 58, "projection_dim": 12,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 20,
    "patch_size": 4, "projection_dim": 12,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "gelu": {"hidden_act": "gelu", "layer_norm_eps": 1e-2},
    "tanh": {"hidden_act": "gelu_new", "attention_dropout": 0.3},
    "one layer": {"num_hidden_layers": 1},
}
VISION_VARIANTS = {
    **VARIANTS,
    "grey": {"num_channels": 1},
    "cut off": {"image_size": 22},
    "one patch": {"image_size": 4},
}


class WithProjection(AutoModel):
    tasks = ("image-embedding", "text-embedding")


def pair(folder: Path, head: str, config: object, scale: float = 0.2, auto: type = AutoModel):
    theirs = saved_reference(getattr(transformers, head), config, folder, scale=scale)
    return auto.from_pretrained(folder), theirs


def pictures(n: int = 2, channels: int = 3, height: int = 20, width: int = 20) -> torch.Tensor:
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1))


def texts(lengths=(9, 6, 2), eos: int = 59, side: str = "right") -> dict[str, torch.Tensor]:
    rows = [torch.cat((row, torch.tensor([eos]))) for row in ragged(50, lengths)]
    ids, mask = padded(rows, pad=1, side=side)
    return {"input_ids": ids, "attention_mask": mask}


def projected(vector: str) -> Nothing:
    return Nothing(("last_hidden_state", vector))


def text(vector: str) -> Text:
    return Text(projected(vector), vocabulary=50, rows=ended(59), positions=counted, embeds=None, lengths=(10, 7, 3))


class TestCLIPText(Parity):
    table = Table(
        model_type="clip_text_model",
        config=transformers.CLIPTextConfig,
        tiny=TEXT,
        heads={
            "Model": Head("CLIPTextModel", "AutoModel", text("pooler_output"), everywhere=True),
            "WithProjection": Head("CLIPTextModelWithProjection", "", text("text_embeds"), everywhere=True),
        },
        variants=VARIANTS,
    )


class TestCLIPVision(Parity):
    table = Table(
        model_type="clip_vision_model",
        config=transformers.CLIPVisionConfig,
        tiny=VISION,
        heads={
            "Model": Head("CLIPVisionModel", "AutoModel", Pictures(projected("pooler_output")), everywhere=True),
            "WithProjection": Head(
                "CLIPVisionModelWithProjection", "", Pictures(projected("image_embeds")), everywhere=True
            ),
        },
        variants=VISION_VARIANTS,
    )


def texts_and_pictures(config: object) -> list[Question]:
    inputs = {**texts(), "pixel_values": pictures(3)}
    fields = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
    return [Question(inputs, fields), Question({**inputs, "return_loss": True}, ("loss", *fields))]


def lesson(config: object) -> dict[str, object]:
    return {**texts(), "pixel_values": pictures(3), "return_loss": True}


def classified(labels: Labels) -> Head:
    asks = Pictures(labels, read=lambda config: config.vision_config)
    return Head(
        "CLIPForImageClassification", "AutoModelForImageClassification", asks, unused=("model.pooler",), rate=1e-3
    )


class TestCLIP(Parity):
    table = Table(
        model_type="clip",
        config=lambda **changes: both(**changes),
        config_class=transformers.CLIPConfig,
        tiny={},
        heads={
            "Model": Head("CLIPModel", "AutoModel", Given(texts_and_pictures, lesson), everywhere=True, rate=1e-4),
            **{f"ForImageClassification, {name}": classified(labels) for name, labels in PROBLEMS.items()},
            "ForImageClassification, no classes": classified(Nothing(("logits",), {"num_labels": 0})),
        },
        variants={
            "plain": {},
            "gelu and epsilon": {"text": {"hidden_act": "gelu"}, "vision": {"layer_norm_eps": 1e-2}},
            "another scale": {"logit_scale_init_value": 1.5},
        },
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )


@pytest.mark.parametrize("size", [(20, 20), (28, 28), (12, 36), (22, 21), (8, 4)])
def test_other_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path, "CLIPVisionModel", transformers.CLIPVisionConfig(**VISION))
    inputs = {"pixel_values": pictures(2, 3, *size), "interpolate_pos_encoding": True}
    compare(ours, theirs, inputs, ["last_hidden_state", "pooler_output"])


def test_hidden_states_without_the_layers_above(tmp_path):
    ours, theirs = pair(tmp_path, "CLIPVisionModel", transformers.CLIPVisionConfig(**VISION))
    with torch.no_grad():
        expected = theirs(pictures(), output_hidden_states=True).hidden_states
        close(ours.hidden_at(pictures(), [-2, 0, 3, -1]), [expected[i] for i in (-2, 0, 3, -1)])
        ours.layers[2] = torch.nn.Identity()  # would fail if it were called with a context
        close(ours.hidden_at(pictures(), [-2]), [expected[-2]])
        close(ours.hidden_at(pictures(), []), [])
    for outside in (4, -5):
        with pytest.raises(InputError, match="-4 to 3"):
            ours.hidden_at(pictures(), [outside])


@pytest.mark.parametrize("eos", [2, 59, 7])
def test_which_token_stands_for_the_text(tmp_path, eos):
    """Ends repeated, ends missing, and the eos id 2 of old files, which means the highest id."""
    ours, theirs = pair(tmp_path, "CLIPTextModel", transformers.CLIPTextConfig(**{**TEXT, "eos_token_id": eos}))
    rows = [[5, 59, 4, 59], [3, 2, 2, 40], [7, 40, 7, 2], [41, 40, 41, 3]]
    compare(ours, theirs, {"input_ids": torch.tensor(rows)}, ["pooler_output"])


def both(text=(), vision=(), **changes: object) -> object:
    return transformers.CLIPConfig(
        text_config={**TEXT, **dict(text)}, vision_config={**VISION, **dict(vision)}, projection_dim=10, **changes
    )


@pytest.mark.parametrize("scale", [0.2])
@pytest.mark.parametrize(
    "changes",
    [{}, {"text": {"hidden_act": "gelu"}, "vision": {"layer_norm_eps": 1e-2}}, {"logit_scale_init_value": 1.5}],
)
def test_both(tmp_path, changes, scale):
    ours, theirs = pair(tmp_path / "model", "CLIPModel", both(**changes), scale)
    inputs = {**texts(), "pixel_values": pictures(3), "return_loss": True}
    fields = ["loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
    compare(ours, theirs, inputs, fields)
    with torch.no_grad():
        found = ours(**inputs, output_hidden_states=True, output_attentions=True)
        theirs.set_attn_implementation("eager")
        expected = theirs(**inputs, output_hidden_states=True, output_attentions=True)
        assert found.keys() == list(expected.keys())
        close(found.vision_model_output.to_tuple(), expected.vision_model_output.to_tuple())
        close(found.text_model_output.pooler_output, expected.text_model_output.pooler_output)
        assert found.text_model_output.keys() == list(expected.text_model_output.keys())
        assert len(found.to_tuple()[-1]) == 4
        del inputs["return_loss"], inputs["pixel_values"]
        mine, other = ours.get_text_features(**inputs), theirs.get_text_features(**inputs)
        close(mine.pooler_output, other.pooler_output)
        mine, other = ours.get_image_features(pictures()), theirs.get_image_features(pictures())
        close(mine.to_tuple(), other.to_tuple())
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


def test_more_texts_than_pictures_and_other_sizes(tmp_path):
    ours, theirs = pair(tmp_path, "CLIPModel", both())
    inputs = {**texts(), "pixel_values": pictures(2, 3, 24, 32), "interpolate_pos_encoding": True}
    compare(ours, theirs, inputs, ["logits_per_image", "logits_per_text"])
    with pytest.raises(InputError, match="one text per picture"):
        ours(**inputs, return_loss=True)


def test_training(tmp_path):
    ours, _ = pair(tmp_path / "both", "CLIPModel", both(), scale=0.05)
    trains(ours, {**texts(), "pixel_values": pictures(3), "return_loss": True}, rate=1e-3)
    config = both(num_labels=3)
    saved_reference(transformers.CLIPForImageClassification, config, tmp_path / "head", scale=0.05)
    head = omniform.AutoModelForImageClassification.from_pretrained(tmp_path / "head")
    trains(head, {"pixel_values": pictures(3), "labels": torch.tensor([0, 2, 1])}, unused=("model.pooler",))


def test_attention_dropout_falls_on_the_same_places(tmp_path):
    ours, theirs = pair(tmp_path, "CLIPVisionModel", transformers.CLIPVisionConfig(**VISION, attention_dropout=0.3))
    outputs = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            outputs.append(model(pictures()).last_hidden_state)
    close(*outputs)
    with torch.no_grad():
        assert not torch.equal(outputs[0], ours.eval()(pictures()).last_hidden_state)


def rewritten(folder: Path, rename, extra=()) -> None:
    """Rewrite a checkpoint's keys as old files spell them."""
    tensors = {rename(k): v for k, v in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, **dict(extra)}, folder / "model.safetensors")


def patched(folder: Path, change) -> None:
    """Rewrite a checkpoint's config."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("tower", ["text", "vision"])
@pytest.mark.parametrize("projection", [False, True])
def test_prefix_missing_or_extra(tmp_path, tower, projection):
    head = f"CLIP{tower.capitalize()}Model" + "WithProjection" * projection
    config = transformers.CLIPTextConfig(**TEXT) if tower == "text" else transformers.CLIPVisionConfig(**VISION)
    _, theirs = pair(tmp_path, head, config, auto=WithProjection if projection else AutoModel)
    inputs = {"input_ids": texts()["input_ids"]} if tower == "text" else {"pixel_values": pictures()}
    prefix = f"{tower}_model."
    buffer = {f"{prefix}embeddings.position_ids": torch.arange(16)[None]}
    if projection:
        rewritten(tmp_path, lambda k: k.removeprefix(prefix), buffer)
    else:
        rewritten(tmp_path, lambda k: prefix + k, buffer)
    compare(
        (WithProjection if projection else AutoModel).from_pretrained(tmp_path), theirs, inputs, ["last_hidden_state"]
    )


def test_stray_buffers_and_old_config_keys(tmp_path):
    """``*_config_dict`` counts, with the defaults for what it leaves out, whatever ``*_config`` says."""
    _, theirs = pair(tmp_path, "CLIPModel", both(text={"eos_token_id": 2}))
    extra = {f"{t}_model.embeddings.position_ids": torch.arange(9)[None] for t in ("text", "vision")}
    rewritten(tmp_path, lambda k: k, extra)

    def change(config: dict) -> None:
        config["text_config_dict"], config["vision_config_dict"] = config["text_config"], config["vision_config"]
        config["text_config"] = {"hidden_size": 999, "layer_norm_eps": 3.0}
        config["vision_config_dict"].pop("model_type")
        config["vision_config"] = None

    patched(tmp_path, change)
    ours = AutoModel.from_pretrained(tmp_path)
    reread = transformers.CLIPModel.from_pretrained(tmp_path)
    inputs = {**texts(), "pixel_values": pictures()}
    compare(ours, theirs, inputs, ["logits_per_image"])
    compare(ours, reread, inputs, ["logits_per_image"])
    assert ours.config.text_config.hidden_size == 24 and ours.config.vision_config.patch_size == 4


def test_defaults_left_out():
    ours = omniform.AutoConfig.for_model("clip")
    theirs = transformers.CLIPConfig()
    for part in ("text_config", "vision_config"):
        for name, value in getattr(theirs, part).to_dict().items():
            if name in ("hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "hidden_act",
                        "num_attention_heads", "layer_norm_eps", "attention_dropout", "vocab_size", "eos_token_id",
                        "pad_token_id", "bos_token_id", "max_position_embeddings", "num_channels"):  # fmt: skip
                assert getattr(getattr(ours, part), name) == value, (part, name)
    assert ours.logit_scale_init_value == theirs.logit_scale_init_value and ours.projection_dim == theirs.projection_dim


def test_towers_from_a_file_of_both(tmp_path):
    _, theirs = pair(tmp_path, "CLIPModel", both())
    whole = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(whole["vision_config"]))
    compare(AutoModel.from_pretrained(tmp_path), theirs.vision_model, {"pixel_values": pictures()}, ["pooler_output"])
    (tmp_path / "config.json").write_text(json.dumps(whole["text_config"]))
    tower = omniform.AutoModelForTextEncoding.from_pretrained(tmp_path)
    compare(tower, theirs.text_model, {"input_ids": texts()["input_ids"]}, ["pooler_output"])


def test_classifier_from_a_base_checkpoint(tmp_path):
    _, theirs = pair(tmp_path, "CLIPModel", both())
    ours, report = omniform.AutoModelForImageClassification.from_pretrained(
        tmp_path, num_labels=4, output_loading_info=True
    )
    assert sorted(report.fresh) == ["classifier.bias", "classifier.weight"]
    with torch.no_grad():
        close(ours.model(pictures()).pooler_output, theirs.vision_model(pictures()).pooler_output)
        assert ours(pictures()).logits.shape == (2, 4)


def test_fresh_model_starts_from_the_configured_scale():
    config = omniform.AutoConfig.for_model("clip", logit_scale_init_value=1.25, text_config=TEXT, vision_config=VISION)
    model = AutoModel.from_config(config)
    assert model.logit_scale.item() == 1.25
    assert 0.08 < model.vision_model.class_token.weight.std() < 0.3  # its width to the power of -1/2


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": torch.zeros(1, 3, 20, 24)}, "interpolate_pos_encoding=True"),
        ({"pixel_values": torch.zeros(1, 4, 20, 20)}, "batch, 3, 20, 20"),
        ({"pixel_values": torch.zeros(3, 20, 20)}, "shape"),
        ({"pixel_values": torch.zeros(1, 3, 20, 20, dtype=torch.uint8)}, "floating-point"),
        ({"pixel_values": torch.zeros(1, 3, 3, 20), "interpolate_pos_encoding": True}, "smaller than a patch"),
        ({"pixel_values": None}, "pixel_values"),
        ({"input_ids": None}, "input_ids"),
        ({"input_ids": torch.zeros(1, 17, dtype=torch.long)}, "at most 16"),
        ({"input_ids": torch.tensor([[60]])}, "60"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask"),
        ({"position_ids": torch.full((3, 10), 16)}, "at most 16"),
        ({"position_ids": torch.full((3, 10), -1)}, "position_ids"),
        ({"position_ids": torch.zeros(4, 10, dtype=torch.long)}, "position_ids"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "input_ids"),
        ({"input_ids": [[1, 2]]}, "return_tensors"),
        ({"pixel_values": [[1.0]]}, "return_tensors"),
        ({"pixel_values": torch.zeros(0, 3, 20, 20)}, "pixel_values"),
    ],
)
def test_bad_inputs(tmp_path, inputs, words):
    ours, _ = pair(tmp_path, "CLIPModel", both())
    with pytest.raises(InputError, match=words):
        ours(**{**texts(), "pixel_values": pictures(), **inputs})


@pytest.mark.parametrize(
    "change",
    [
        {"vision_config": {"patch_size": 300}},
        {"vision_config": {"num_attention_heads": 5}},
        {"text_config": {"hidden_act": "swoosh"}},
        {"text_config": {"model_type": "clip_vision_model"}},
        {"text_config": 5},
    ],
)
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("clip", **change)


def test_unknown_arguments(tmp_path):
    ours, _ = pair(tmp_path, "CLIPModel", both())
    with pytest.raises(TypeError, match="Did you mean 'position_ids'"):
        ours(**texts(), pixel_values=pictures(), positions_ids=None)
    with pytest.raises(TypeError, match="get_image_features has no argument 'interpolate'"):
        ours.get_image_features(pictures(), interpolate=True)


def test_missing_and_foreign_weights(tmp_path):
    pair(tmp_path, "CLIPModel", both())
    rewritten(tmp_path, lambda k: k.replace("vision_model.pre_layrnorm", "vision_model.pre_layernorm"))
    with pytest.raises(WeightsError, match=r"missing vision_model\.pre_layrnorm"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "head",
    ["CLIPVisionModel", "CLIPTextModel", "CLIPVisionModelWithProjection", "CLIPTextModelWithProjection"],
)
def test_a_tower_by_its_class_from_a_folder_of_both(tmp_path, head):
    """The tower takes its own part of the config along, so that it can be saved and loaded as itself."""
    saved_reference(
        transformers.CLIPModel, both(text={"projection_dim": 10}, vision={"projection_dim": 10}), tmp_path / "both"
    )
    ours = getattr(omniform, head).from_pretrained(tmp_path / "both")
    theirs = getattr(transformers, head).from_pretrained(tmp_path / "both")
    inputs = {"pixel_values": pictures()} if "Vision" in head else {"input_ids": texts()["input_ids"]}
    field = {"CLIPVisionModelWithProjection": "image_embeds", "CLIPTextModelWithProjection": "text_embeds"}
    compare(ours, theirs, inputs, ["last_hidden_state", field.get(head, "pooler_output")])
    assert ours.config.model_type == ("clip_vision_model" if "Vision" in head else "clip_text_model")
    ours.save_pretrained(tmp_path / "tower")
    again = getattr(transformers, head).from_pretrained(tmp_path / "tower")
    compare(ours, again, inputs, [field.get(head, "pooler_output")])


def test_unknown_keys_of_a_part_are_named():
    config = omniform.AutoConfig.for_model("clip", text_config={"hiden_size": 3}, vision_config={"hidden_size": 24})
    assert config.unknown == ("text_config.hiden_size",)
    assert config.parts["vision_config"].hidden_size == 24


def test_tasks(tmp_path):
    pair(tmp_path, "CLIPModel", both())
    for auto in (omniform.AutoModelForZeroShotImageClassification, omniform.CLIPModel, AutoModel):
        assert type(auto.from_pretrained(tmp_path)).__name__ == "CLIPModel"
