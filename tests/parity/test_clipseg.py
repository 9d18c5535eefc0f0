"""CLIPSeg against the reference: both towers, and pixels that a text or a picture asks for."""

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
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
OWN = {
    "projection_dim": 12, "extract_layers": [0, 2], "reduce_dim": 8, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 20,
}  # fmt: skip


def config(**changes):
    text, vision = changes.pop("text", {}), changes.pop("vision", {})
    return transformers.CLIPSegConfig(
        text_config=transformers.CLIPSegTextConfig(**{**TEXT, **text}),
        vision_config=transformers.CLIPSegVisionConfig(**{**VISION, **vision}),
        **{**OWN, **changes},
    )


def pictures(n: int = 2, edge: int = 16) -> torch.Tensor:
    return torch.randn(n, 3, edge, edge, generator=torch.Generator().manual_seed(1))


def texts() -> dict[str, torch.Tensor]:
    rows = [torch.cat((row, torch.tensor([59]))) for row in ragged(50, (9, 4))]
    ids, mask = padded(rows, pad=1)
    return {"input_ids": ids, "attention_mask": mask}


def compared(_: object) -> list[Question]:
    inputs = {**texts(), "pixel_values": pictures()}
    fields = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
    return [Question(inputs, fields), Question({**inputs, "return_loss": True}, ("loss", *fields))]


def found(_: object) -> list[Question]:
    fields = ("logits", "conditional_embeddings", "pooled_output")
    inputs = {**texts(), "pixel_values": pictures()}
    labels = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(2))
    vectors = torch.randn(2, 12, generator=torch.Generator().manual_seed(3))
    return [
        Question(inputs, fields),
        Question({**inputs, "labels": labels}, ("loss", *fields)),
        Question({"pixel_values": pictures(), "conditional_pixel_values": pictures(3)[1:]}, fields),
        Question({"pixel_values": pictures(), "conditional_embeddings": vectors}, fields),
    ]


def lesson(_: object) -> dict[str, object]:
    return {**texts(), "pixel_values": pictures(), "labels": torch.rand(2, 16, 16).round()}


class TestCLIPSeg(Parity):
    table = Table(
        model_type="clipseg",
        config=lambda **changes: config(**changes),
        config_class=transformers.CLIPSegConfig,
        tiny={},
        heads={
            "Model": Head(
                "CLIPSegModel", "AutoModel",
                Given(compared, lambda _: {**texts(), "pixel_values": pictures(), "return_loss": True}), rate=1e-4,
            ),
            "ForImageSegmentation": Head(
                "CLIPSegForImageSegmentation", "", Given(found, lesson), everywhere=True, unused=("model",),
            ),
        },
        variants={
            "plain": {},
            "several steps": {
                "use_complex_transposed_convolution": True, "conditional_layer": 1, "vision": {"patch_size": 16},
            },
            "numbers": {"vision": {"layer_norm_eps": 1e-2, "hidden_act": "gelu"}, "extract_layers": [1],
                "text": {"eos_token_id": 2}},
        },
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


class TestText(Parity):
    table = Table(
        model_type="clipseg_text_model",
        config=transformers.CLIPSegTextConfig,
        tiny=TEXT,
        heads={
            "Model": Head(
                "CLIPSegTextModel", "AutoModel",
                Text(Nothing(("last_hidden_state", "pooler_output")), vocabulary=50, rows=ended(59), embeds=None,
                    lengths=(10, 7, 3)),
            )
        },
    )  # fmt: skip


class TestVision(Parity):
    table = Table(
        model_type="clipseg_vision_model",
        config=transformers.CLIPSegVisionConfig,
        tiny=VISION,
        heads={
            "Model": Head("CLIPSegVisionModel", "AutoModel", Pictures(Nothing(("last_hidden_state", "pooler_output"))))
        },
    )


def pair(tmp_path, **changes):
    own = transformers.CLIPSegForImageSegmentation
    theirs = saved_reference(own, config(**changes), tmp_path / "model")
    return omniform.CLIPSegForImageSegmentation.from_pretrained(tmp_path / "model"), theirs


@pytest.mark.parametrize("edge", [16, 24, 8])
def test_other_sizes(tmp_path, edge):
    ours, theirs = pair(tmp_path)
    compare(ours, theirs, {**texts(), "pixel_values": pictures(2, edge)}, ["logits", "pooled_output"])
    with torch.no_grad():
        close(
            ours.model.get_image_features(pictures(2, edge)).pooler_output,
            theirs.clip.get_image_features(pictures(2, edge)).pooler_output,
        )


def test_what_is_seen_on_the_way(tmp_path):
    ours, theirs = pair(tmp_path)
    theirs.set_attn_implementation("eager")
    call = {**texts(), "pixel_values": pictures(), "output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        found, expected = ours(**call), theirs(**call)
    # The reference's narrow layers tell no weights, whatever they are asked.
    for part, name in (
        ("vision_model_output", "hidden_states"), ("vision_model_output", "attentions"),
        ("decoder_output", "hidden_states"),
    ):  # fmt: skip
        for one, two in zip(found[part][name], expected[part][name], strict=True):
            close(one, two, f"{part}, {name}")
    assert [weights.shape for weights in found.decoder_output.attentions] == [(2, 2, 17, 17)] * 2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({}, "one thing"),
        ({"input_ids": torch.tensor([[3, 59]])}, "input_ids"),
        ({"conditional_pixel_values": pictures(3)}, "conditional_pixel_values"),
        ({"conditional_embeddings": torch.randn(2, 5)}, "conditions do not fit"),
        ({**texts(), "labels": torch.ones(2, 3, 3)}, "labels"),
        ({**texts(), "labels": torch.full((2, 16, 16), 3.0)}, "no chance"),
    ],
)
def test_bad_calls(tmp_path, call, says):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=says):
        ours(pixel_values=pictures(), **call)


@pytest.mark.parametrize("change", [{"extract_layers": [7]}, {"decoder_num_attention_heads": 3}])
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.CLIPSegConfig(text_config=TEXT, vision_config=VISION, **{**OWN, **change})
