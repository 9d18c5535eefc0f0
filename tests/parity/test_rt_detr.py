"""RT-DETR and its second version against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from convs import conv_heads
from harness import Case, Head, Parity, Table, build, filled, halved, over

from omniform.core.errors import ConfigError, InputError
from omniform.core.outputs import BaseModelOutput
from omniform.hub.load import table_of
from omniform.models import registry
from reference import close, compare, omniform, saved_reference, transformers

RESNET = {
    "embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 2, 1, 1], "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip

TINY = {
    "encoder_hidden_dim": 16, "encoder_in_channels": [12, 16, 20], "encoder_ffn_dim": 20, "encoder_attention_heads": 2,
    "d_model": 24, "num_queries": 6, "decoder_in_channels": [16, 16, 16], "decoder_ffn_dim": 20, "decoder_layers": 2,
    "decoder_attention_heads": 3, "decoder_n_points": 2, "num_denoising": 8, "num_labels": 7,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "norms first": {"normalize_before": True, "encoder_layers": 2, "encoder_activation_function": "relu"},
    "two maps attended": {"encode_proj_layers": [1, 2], "positional_encoding_temperature": 20},
    "no attention": {"encoder_layers": 0, "decoder_activation_function": "gelu"},
    "no places": {"eval_size": 64},
    "wide blocks": {"hidden_expansion": 1.5, "activation_function": "gelu", "layer_norm_eps": 1e-3,
        "batch_norm_eps": 1e-3},
    "coarser maps": {"num_feature_levels": 5, "d_model": 16, "decoder_attention_heads": 2},
    "no copies": {"num_denoising": 0, "auxiliary_loss": False},
    "anchors of a size": {"anchor_image_size": [96, 64]},
    "norms that train": {"freeze_backbone_batch_norms": False},
    "one layer": {"decoder_layers": 1, "with_box_refine": False},
}  # fmt: skip

STATES = [
    "last_hidden_state", "intermediate_hidden_states", "intermediate_reference_points", "decoder_hidden_states",
    "decoder_attentions", "cross_attentions", "encoder_last_hidden_state", "encoder_hidden_states",
    "encoder_attentions", "init_reference_points", "enc_outputs_class", "enc_outputs_coord_logits",
]  # fmt: skip
DETECTIONS = ["logits", "pred_boxes", "intermediate_logits", *STATES]


def config(family: str = "RTDetr", backbone: dict[str, object] | None = None, **changes: object):
    resnet = transformers.RTDetrResNetConfig(**{**RESNET, **(backbone or {})})
    made = {"backbone_config": resnet, **TINY, **changes}
    if family == "RTDetrV2":
        made["decoder_n_levels"] = made.get("num_feature_levels", 3)
    return getattr(transformers, f"{family}Config")(**made)


def pair(tmp_path, family: str = "RTDetr", head: str = "ForObjectDetection", scale: float = 0.2, **changes: object):
    made = config(family, **changes)
    theirs = saved_reference(getattr(transformers, f"{family}{head}"), made, tmp_path / "model", scale=scale)
    auto = omniform.AutoModel if head == "Model" else omniform.AutoModelForObjectDetection
    return auto.from_pretrained(tmp_path / "model"), theirs


def pictures(size: tuple[int, int] = (96, 64), rows: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(seed))}


def objects(*counts: int, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "class_labels": torch.randint(0, 7, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.4 + 0.1,
        }
        for n in counts
    ]


def seen(*fields: str):
    def questions(config: object) -> list[Question]:
        asked = [Question(pictures(), fields)]
        if "logits" in fields:
            asked.append(
                Question({**pictures(), "labels": objects(2, 1)}, ("loss", "enc_topk_logits", "enc_topk_bboxes"))
            )
        if config.anchor_image_size is None:
            asked.append(Question({**pictures((64, 160), 1), "pixel_mask": torch.ones(1, 64, 160)}, fields))
        return asked

    return questions


def lesson(config: object) -> dict[str, object]:
    return {**pictures(), "labels": objects(2, 3)}


def table(family: str, model_type: str, variants: dict[str, dict[str, object]]) -> Table:
    return Table(
        model_type=model_type,
        config=lambda **changes: config(family, **changes),
        config_class=getattr(transformers, f"{family}Config"),
        tiny={},
        heads={
            "Model": Head(f"{family}Model", "AutoModel", Given(seen(*STATES))),
            "ForObjectDetection": Head(
                f"{family}ForObjectDetection", "AutoModelForObjectDetection", Given(seen(*DETECTIONS), lesson),
                everywhere=True,
            ),
        },
        variants=variants,
        derived=frozenset({"backbone_config"}),
        spellings={"as in memory": renamed},
        tolerance=1e-3,  # some maps hold numbers of a thousand and more
    )  # fmt: skip


def renamed(key: str) -> str:
    key = key.replace("encoder.encoder.0", "encoder.aifi.0").replace("self_attn.out_proj", "self_attn.o_proj")
    return key.replace(".fc", ".mlp.fc")


class Detectors:
    """What the table cannot ask in its own way."""

    @over(Table.plain)
    def test_bfloat16(self, case: Case) -> None:
        """Of the encoder: which places become queries is another matter with every rounding."""
        built = build(case)
        ours, theirs = built.again(case, dtype="bfloat16"), halved(built.theirs)
        pixels = pictures()["pixel_values"].bfloat16()
        with torch.no_grad():
            found, expected = ours(pixels), theirs(pixels)
        for name in ("encoder_last_hidden_state", "enc_outputs_class"):
            mine, other = (o[name] if isinstance(o[name], torch.Tensor) else o[name][0] for o in (found, expected))
            scale = other.float().abs().max()
            close(mine.float() / scale, other.float() / scale, name, 5e-2)

    @over(Table.beyond_base)
    def test_base_and_head_load_one_another(self, case: Case, tmp_path) -> None:
        """A head's base moves no boxes once it is alone."""
        first = self.table.case("Model")
        base, head = build(first), build(case)
        made, report = case.architecture.load(base.folder, output_loading_info=True)
        assert not report.unexpected and all("_embed." in name for name in report.fresh), report
        alone, report = first.architecture.load(head.folder, output_loading_info=True)
        assert not report.unexpected and not report.fresh
        theirs = getattr(transformers, first.architecture.reference).from_pretrained(head.folder).eval()
        compare(alone, theirs, pictures(), ["last_hidden_state", "intermediate_reference_points"])
        compare(made.base_model, made.base_model, pictures(), ["encoder_last_hidden_state"])


class TestRTDetr(Detectors, Parity):
    table = table("RTDetr", "rt_detr", VARIANTS)


class TestRTDetrV2(Detectors, Parity):
    table = table("RTDetrV2", "rt_detr_v2", {
        "plain": {},
        "discrete": {"decoder_method": "discrete"},
        "scaled": {"decoder_offset_scale": 1.7, "num_feature_levels": 4, "d_model": 16, "decoder_attention_heads": 2},
    })  # fmt: skip


LOSSES = {
    "plain": {},
    "last layer alone": {"auxiliary_loss": False},
    "by softmax": {"use_focal_loss": False},
    "weights": {
        "matcher_alpha": 0.4, "matcher_gamma": 1.5, "matcher_class_cost": 1.0, "matcher_bbox_cost": 3.0,
        "matcher_giou_cost": 4.0, "focal_loss_alpha": 0.5, "focal_loss_gamma": 1.5, "weight_loss_vfl": 2.0,
        "weight_loss_bbox": 3.0, "weight_loss_giou": 0.5, "eos_coefficient": 0.3,
    },
}  # fmt: skip


COUNTS = ((0, 4), (0, 0), (9, 3))


def same_losses(found, expected) -> None:
    close(found.loss, expected.loss, "loss")
    assert list(found.loss_dict) == list(expected.loss_dict)
    for name, value in expected.loss_dict.items():
        close(found.loss_dict[name], value, name)
    assert filled(found) == filled(expected)
    for mine, other in zip(found.auxiliary_outputs or [], expected.auxiliary_outputs or [], strict=True):
        close(mine["logits"], other["logits"], "auxiliary logits")
        close(mine["pred_boxes"], other["pred_boxes"], "auxiliary boxes")


@pytest.mark.parametrize(("variant", "counts"), [*((v, (2, 1)) for v in LOSSES), *(("plain", c) for c in COUNTS)])
def test_losses(tmp_path, variant, counts):
    ours, theirs = pair(tmp_path, **LOSSES[variant])
    inputs = {**pictures(), "labels": objects(*counts)}
    same_losses(ours(**inputs), theirs(**inputs))


COPIES = {
    "plain": {},
    "no noise of boxes": {"box_noise_scale": 0.0},
    "no noise of labels": {"label_noise_ratio": 0.0, "box_noise_scale": 0.4},
    "all labels": {"label_noise_ratio": 2.0, "num_denoising": 100},
    "fewer than objects": {"num_denoising": 2},
    "none": {"num_denoising": 0},
    "last layer alone": {"auxiliary_loss": False},
    "dropout": {"dropout": 0.2, "attention_dropout": 0.1, "activation_dropout": 0.3},
}


@pytest.mark.parametrize(
    ("family", "variant", "counts"),
    [
        *(("RTDetr", v, (2, 3)) for v in COPIES),
        ("RTDetr", "plain", (0, 0)),
        ("RTDetr", "plain", (4, 0)),
        ("RTDetrV2", "plain", (2, 3)),
    ],
)
def test_training(tmp_path, family, variant, counts):
    """Noisy copies, losses and gradients, with the same random numbers."""
    ours, theirs = pair(tmp_path, family, scale=0.05, **COPIES[variant])
    inputs = {**pictures(), "labels": objects(*counts)}
    outputs = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        model.requires_grad_(True)
        torch.manual_seed(3)
        outputs.append(model.train()(**inputs))
        outputs[-1].loss.backward()
    found, expected = outputs
    close(found.logits, expected.logits, "logits")
    close(found.init_reference_points, expected.init_reference_points)
    same_losses(found, expected)
    told = expected.denoising_meta_values
    if told is not None:
        close(found.denoising_meta_values["dn_positive_idx"], told["dn_positive_idx"])
        assert found.denoising_meta_values["dn_num_group"] == told["dn_num_group"]
        assert found.denoising_meta_values["dn_num_split"] == told["dn_num_split"]
    table, theirs = table_of(ours), dict(theirs.named_parameters())
    keys = ours.key_map()
    for path, parameter in ours.named_parameters():
        wanted = theirs[keys.module(table.key(path))].grad
        if wanted is None:
            assert parameter.grad is None or not parameter.grad.any(), path
        else:
            scale = wanted.abs().max().clamp(min=1e-3)
            close(parameter.grad / scale, wanted / scale, path, 2e-3)


def test_losses_of_several_batches(tmp_path):
    ours, _ = pair(tmp_path)
    inputs = {**pictures(), "labels": objects(2, 1)}
    assert ours.loss_items(inputs) == 3
    close(ours(**inputs, num_items_in_batch=6).loss, ours(**inputs).loss / 2)
    close(ours(**inputs, num_items_in_batch=torch.tensor(12)).loss, ours(**inputs).loss / 4)


def test_learned_queries(tmp_path):
    """The reference cannot run these: it takes a table for a tensor."""
    ours, theirs = pair(tmp_path, learn_initial_query=True)
    theirs.model.weight_embedding = theirs.model.weight_embedding.weight
    compare(ours, theirs, pictures(), ["logits", "pred_boxes"])


def test_maps_and_encoders_of_the_callers(tmp_path):
    ours, theirs = pair(tmp_path)
    maps = [torch.randn(2, 16, 12 // 2**i, 8 // 2**i) for i in range(3)]
    with torch.no_grad():
        given = transformers.modeling_outputs.BaseModelOutput(maps)
        expected = theirs(pictures()["pixel_values"], encoder_outputs=given)
        close(ours(**pictures(), encoder_outputs=BaseModelOutput(maps)).logits, expected.logits)
        # The reference's says that it takes these, and does not.
        model, pixels = ours.model, pictures()["pixel_values"]
        projected = [p(m) for p, m in zip(model.encoder_input_proj, model.backbone.maps(pixels), strict=True)]
        close(ours(inputs_embeds=projected).logits, ours(pixels).logits)


@pytest.mark.parametrize("size", [(65, 97), (70, 33)])
def test_pictures_of_any_size(tmp_path, size):
    """The reference refuses maps that are not halves of one another."""
    ours, theirs = pair(tmp_path, "RTDetr")
    with pytest.raises(RuntimeError):
        theirs(**pictures(size))
    assert ours(**pictures(size)).logits.isfinite().all()


BACKBONES = {
    "bottleneck": {"layer_type": "bottleneck"},
    "stride in the first convolution": {"layer_type": "bottleneck", "downsample_in_bottleneck": True},
    "first stage halves": {"downsample_in_first_stage": True, "embedding_size": 6},
    "first bottleneck widens": {"embedding_size": 6, "layer_type": "bottleneck"},
    "silu": {"hidden_act": "silu", "depths": [2, 1, 2, 1]},
    "equal widths": {"hidden_sizes": [8, 8, 8, 8], "out_features": None, "out_indices": [1, -1]},
}


class TestRTDetrResNet(Parity):
    table = Table(
        model_type="rt_detr_resnet",
        config=transformers.RTDetrResNetConfig,
        tiny=RESNET,
        heads={"Backbone": conv_heads("RTDetrResNet")["Backbone"]},
        variants={"plain": {}, **BACKBONES},
        tolerance=1e-3,
    )


def test_another_backbone(tmp_path):
    resnet = transformers.ResNetConfig(**{**RESNET, "depths": [1, 1, 1, 1]})
    made = transformers.RTDetrConfig(**{**TINY, "backbone_config": resnet})
    theirs = saved_reference(transformers.RTDetrForObjectDetection, made, tmp_path / "model", scale=0.05)
    ours = omniform.AutoModelForObjectDetection.from_pretrained(tmp_path / "model")
    compare(ours, theirs, pictures(), ["logits", "pred_boxes"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"encoder_hidden_dim": 18, "encoder_attention_heads": 3}, "encoder_hidden_dim"),
        ({"encode_proj_layers": [3]}, "encode_proj_layers"),
        ({"decoder_in_channels": [16, 16]}, "decoder_in_channels"),
        ({"num_feature_levels": 2}, "num_feature_levels"),
        ({"decoder_attention_heads": 5}, "decoder_attention_heads"),
        ({"activation_function": "wavy"}, "activation_function"),
        ({"backbone_config": {**RESNET, "model_type": "rt_detr_resnet", "embedding_size": 6}}, "hidden_sizes"),
    ],
)
def test_configs_refused(changes, error):
    with pytest.raises(ConfigError, match=error):
        registry.config_of({**config().to_dict(), **changes})


def test_levels_of_the_second_version():
    with pytest.raises(ConfigError, match="decoder_n_levels"):
        registry.config_of({**config("RTDetrV2").to_dict(), "decoder_n_levels": 4})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"pixel_values": torch.randn(2, 1, 96, 64)}, "pixel_values"),
        ({"pixel_values": torch.randn(2, 3, 16, 8)}, "too small"),
        ({"pixel_mask": torch.ones(2, 64, 90)}, "pixel_mask"),
        ({"pixel_values": None}, "pixel_values"),
        ({"labels": objects(1)}, "labels"),
        ({"labels": [{"boxes": torch.rand(1, 4), "class_labels": torch.tensor([7])}] * 2}, "0 to 6"),
        ({"labels": [{"boxes": -torch.rand(1, 4), "class_labels": torch.tensor([6])}] * 2}, "negative"),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_inputs_refused(tmp_path, change, where, training):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=where):
        ours.train(training)(**{**pictures(), **change})


def test_anchors_of_another_size(tmp_path):
    ours, _ = pair(tmp_path, anchor_image_size=[96, 96])
    with pytest.raises(InputError, match="anchor_image_size"):
        ours(**pictures())
    assert ours.train()(**pictures()).logits.isfinite().all()


def test_boxes_of_no_size_and_predictions_that_are_no_numbers(tmp_path):
    ours, theirs = pair(tmp_path)
    labels = [
        {"class_labels": torch.tensor([1, 2]), "boxes": torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.2, 0.3, 0.1, 0.0]])}
    ]
    inputs = {**pictures(rows=1), "labels": labels}
    same_losses(ours(**inputs), theirs(**inputs))
    lost = ours(pixel_values=pictures(rows=1)["pixel_values"] * float("nan"), labels=labels)
    assert lost.loss.isnan()


def test_fresh_weights(tmp_path):
    made = config(initializer_bias_prior_prob=0.2, learn_initial_query=True)
    torch.manual_seed(0)
    theirs = transformers.RTDetrForObjectDetection(made)
    ours = omniform.AutoModelForObjectDetection.from_config(registry.config_of(made.to_dict()))
    table, mine = table_of(ours), ours.state_dict()
    keys = ours.key_map()
    expected = theirs.state_dict()
    for path in table.links:
        a, b = mine[path].float(), expected[keys.module(table.key(path))].float()
        assert a.shape == b.shape
        spread = max(b.std().item(), 1e-6) if b.numel() > 1 else 1.0
        if b.numel() < 24 or spread < 1e-5:
            assert (a - a.mean()).abs().max() < 1e-4 or spread > 1e-4, path
            close(a.mean(), b.mean(), path, 0.05)
        else:
            assert 0.5 < a.std().item() / spread < 2, (path, a.std(), spread)


@pytest.mark.parametrize("head", ["Model", "ForObjectDetection"])
def test_tuples_have_the_same_places(tmp_path, head):
    """Without heads in the decoder, its scores are there, and empty."""
    ours, theirs = pair(tmp_path, head=head)
    with torch.no_grad():
        found, expected = (m(**pictures(), return_dict=False) for m in (ours, theirs))
    assert [type(x) for x in found[:4]] == [type(x) for x in expected[:4]] and len(found) == len(expected)
