"""OWL-ViT and OWLv2 against the reference: both towers, what texts name, what pictures show."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Nothing, Pictures, Question, Text, ended
from harness import Head, Parity, Table, compiled

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 16, "eos_token_id": 59, "bos_token_id": 58,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 20,
    "patch_size": 5,
}  # fmt: skip
VARIANTS = {"plain": {}, "gelu": {"hidden_act": "gelu", "layer_norm_eps": 1e-2}}


def config(name):
    def make(**changes):
        text, vision = changes.pop("text", {}), changes.pop("vision", {})
        parts = {
            "text_config": getattr(transformers, f"{name}TextConfig")(**{**TEXT, **text}),
            "vision_config": getattr(transformers, f"{name}VisionConfig")(**{**VISION, **vision}),
        }
        return getattr(transformers, f"{name}Config")(**parts, **{"projection_dim": 24, **changes})

    return make


def pictures(n: int = 2, height: int = 20, width: int = 20) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def queries(lengths=(9, 6, 2, 5), eos: int = 59) -> dict[str, torch.Tensor]:
    rows = [torch.cat((row, torch.tensor([eos]))) for row in ragged(50, lengths)]
    ids, mask = padded(rows, pad=0)
    return {"input_ids": ids, "attention_mask": mask}


def compared(_: object) -> list[Question]:
    inputs = {**queries((9, 6)), "pixel_values": pictures()}
    fields = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
    return [Question(inputs, fields), Question({**inputs, "return_loss": True}, ("loss", *fields))]


FOUND = ("logits", "pred_boxes", "text_embeds", "image_embeds", "class_embeds")


def found(name: str):
    fields = (*FOUND, "objectness_logits") if name == "Owlv2" else FOUND

    def questions(_: object) -> list[Question]:
        inputs = {**queries(), "pixel_values": pictures()}
        hidden = {**inputs, "input_ids": inputs["input_ids"].clone()}
        hidden["input_ids"][1] = 0  # no query
        one = {name: value[:3] for name, value in inputs.items()} | {"pixel_values": pictures(1)}
        return [Question(inputs, fields), Question(hidden, fields), Question(one, fields)]

    return questions


def lesson(_: object) -> dict[str, object]:
    return {**queries((9, 6)), "pixel_values": pictures(), "return_loss": True}


def table(model_type: str, name: str) -> Table:
    return Table(
        model_type=model_type,
        config=lambda **changes: config(name)(**changes),
        config_class=getattr(transformers, f"{name}Config"),
        tiny={},
        heads={
            "Model": Head(f"{name}Model", "AutoModel", Given(compared, lesson), rate=1e-4),
            "ForObjectDetection": Head(
                f"{name}ForObjectDetection", "AutoModelForZeroShotObjectDetection",
                Given(found(name), lambda _: None), everywhere=True,
            ),
        },
        variants={
            "plain": {},
            "gelu and epsilon": {"text": {"hidden_act": "gelu"}, "vision": {"layer_norm_eps": 1e-2}},
            "another scale": {"logit_scale_init_value": 1.5, "vision": {"patch_size": 4}},
        },
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


class TestOwlViT(Parity):
    table = table("owlvit", "OwlViT")


class TestOwlv2(Parity):
    table = table("owlv2", "Owlv2")


class TestText(Parity):
    table = Table(
        model_type="owlvit_text_model",
        config=transformers.OwlViTTextConfig,
        tiny=TEXT,
        heads={
            "Model": Head(
                "OwlViTTextModel", "AutoModel",
                Text(Nothing(("last_hidden_state", "pooler_output")), vocabulary=50, rows=ended(59), embeds=None,
                    lengths=(10, 7, 3)),
                everywhere=True,
            )
        },
        variants=VARIANTS,
    )  # fmt: skip


class TestVision(Parity):
    table = Table(
        model_type="owlv2_vision_model",
        config=transformers.Owlv2VisionConfig,
        tiny=VISION,
        heads={
            "Model": Head(
                "Owlv2VisionModel", "AutoModel", Pictures(Nothing(("last_hidden_state", "pooler_output"))),
                everywhere=True,
            )
        },
        variants=VARIANTS,
    )  # fmt: skip


def pair(tmp_path, name, scale=0.2, head="ForObjectDetection"):
    theirs = saved_reference(getattr(transformers, name + head), config(name)(), tmp_path / "model", scale=scale)
    return getattr(omniform, name + head).from_pretrained(tmp_path / "model"), theirs


@pytest.mark.parametrize("name", ["OwlViT", "Owlv2"])
@pytest.mark.parametrize("size", [(20, 20), (30, 25), (10, 40)])
def test_other_sizes(tmp_path, name, size):
    ours, theirs = pair(tmp_path, name)
    compare(ours, theirs, {**queries(), "pixel_values": pictures(2, *size), "interpolate_pos_encoding": True}, [*FOUND])
    call = {"pixel_values": pictures(2, *size), "query_pixel_values": pictures(3, *size)[1:]}
    with torch.no_grad():
        for sized in (True,) if size != (20, 20) else (True, False):
            found = ours.image_guided_detection(**call, interpolate_pos_encoding=sized)
            expected = theirs.image_guided_detection(**call, interpolate_pos_encoding=sized)
            assert list(found) == list(expected)
            for field in expected:
                if field != "vision_model_output":
                    close(found[field], expected[field], field)
            close(found.to_tuple()[-1][0], expected.to_tuple()[-1][0], "the tower's")


@pytest.mark.parametrize("name", ["OwlViT", "Owlv2"])
@pytest.mark.parametrize("seed", range(4))
def test_what_a_picture_is_about(tmp_path, name, seed):
    """The patch that a query is taken from, with boxes of many sizes."""
    ours, theirs = pair(tmp_path, name, scale=0.3)
    torch.manual_seed(seed)
    call = {"pixel_values": torch.randn(3, 3, 20, 20), "query_pixel_values": torch.randn(3, 3, 20, 20)}
    with torch.no_grad():
        close(ours.image_guided_detection(**call).logits, theirs.image_guided_detection(**call).logits)


@pytest.mark.parametrize("name", ["OwlViT", "Owlv2"])
def test_features(tmp_path, name):
    ours, theirs = pair(tmp_path, name, head="Model")
    with torch.no_grad():
        for asked, given in (("image", {"pixel_values": pictures()}), ("text", queries())):
            found, expected = (getattr(one, f"get_{asked}_features")(**given) for one in (ours, theirs))
            for field in ("last_hidden_state", "pooler_output"):
                close(found[field], expected[field], field)
    compare(ours, theirs, {**queries((9, 6)), "pixel_values": pictures()}, ["text_embeds"])
    whole = ours(**queries((9, 6)), pixel_values=pictures(), output_hidden_states=True)
    assert len(whole.vision_model_output.hidden_states) == 3


def test_bad_calls(tmp_path):
    ours, _ = pair(tmp_path, "OwlViT")
    with pytest.raises(InputError, match="multiple of 3"):
        ours(**queries(), pixel_values=pictures(3))
    for query in (None, pictures(1)):
        with pytest.raises(InputError, match="query_pixel_values"):
            ours.image_guided_detection(pictures(), query)


def test_widths_that_do_not_fit():
    made = omniform.OwlViTConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)
    omniform.OwlViTModel(made)
    with pytest.raises(ConfigError, match="class_head"):
        omniform.OwlViTForObjectDetection(made)
