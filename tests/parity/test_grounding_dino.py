"""Grounding DINO against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Case, Head, Parity, Table, ask, build, halved, match, over

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

SWIN = {
    "image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [2, 2, 2], "window_size": 2,
    "out_indices": [2, 3],
}  # fmt: skip
BERT = {
    "vocab_size": 1040, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20,
    "max_position_embeddings": 40,
}  # fmt: skip
TINY = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "num_queries": 5, "num_feature_levels": 3, "encoder_n_points": 2,
    "decoder_n_points": 3, "dropout": 0.0, "fusion_droppath": 0.0, "max_text_len": 13,
}  # fmt: skip
# Written out, its BERT adds a mask of true and false to the scores as ones and zeros: it is left as it loads itself.
for kind in (transformers.GroundingDinoModel, transformers.GroundingDinoForObjectDetection):
    kind.set_attn_implementation = lambda self, name: None
VARIANTS = {
    "plain": {},
    "heads apart": {"decoder_bbox_embed_share": False, "auxiliary_loss": True, "focal_alpha": 0.6},
    "learned": {
        "position_embedding_type": "learned", "activation_function": "gelu", "layer_norm_eps": 1e-2,
        "num_feature_levels": 2, "class_cost": 2.0, "bbox_loss_coefficient": 3.0,
    },
    "cooler": {"positional_embedding_temperature": 300, "text": {"hidden_act": "relu"}},
}  # fmt: skip


def config(**changes):
    text, swin = changes.pop("text", {}), changes.pop("swin", {})
    return transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(**{**SWIN, **swin}),
        text_config=transformers.BertConfig(**{**BERT, **text}),
        **{**TINY, **changes},
    )


def pictures(n: int = 2, height: int = 48, width: int = 40) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(5))


FULL = torch.tensor([
    [101, 20, 21, 1012, 30, 1012, 40, 41, 42, 1029, 50, 1012, 102],
    [101, 60, 1012, 61, 62, 1012, 63, 1012, 64, 65, 66, 1012, 102],
])  # fmt: skip
IDS = torch.tensor([
    [101, 20, 21, 1012, 30, 1012, 40, 41, 42, 1029, 50, 1012, 102],
    [101, 60, 1012, 61, 1012, 62, 1012, 63, 1012, 102, 0, 0, 0],
])  # fmt: skip
WORDS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
LABELS = [
    {"class_labels": torch.tensor([2, 0]), "boxes": torch.tensor([[0.4, 0.5, 0.2, 0.3], [0.6, 0.4, 0.5, 0.2]])},
    {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.3, 0.4, 0.4]])},
]  # fmt: skip
# The encoder's first: the reference's base moves its queries, if it was loaded with heads.
STATES = (
    "encoder_last_hidden_state_vision", "encoder_last_hidden_state_text", "last_hidden_state", "init_reference_points",
    "intermediate_hidden_states", "intermediate_reference_points",
)  # fmt: skip
NOTED = ("decoder_hidden_states", "encoder_vision_hidden_states", "encoder_text_hidden_states")
WEIGHTS = ("decoder_attentions", "encoder_attentions")


def covered() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, 48, 40, dtype=torch.long)
    mask[1, 30:] = 0
    mask[1, :, 33:] = 0
    return {"pixel_values": pictures(), "pixel_mask": mask}


def asked(*fields: str):
    """What is infinite, scores of padding, is compared by itself."""

    def questions(config: object) -> list[Question]:
        own = (*STATES, *fields)
        found = [
            Question(
                {"input_ids": FULL, "pixel_values": pictures()},
                (*own, "encoder_logits", "encoder_pred_boxes", "enc_outputs_class", *NOTED, *WEIGHTS),
            ),
            Question({"input_ids": FULL, **covered()}, (*own, "encoder_logits")),
            Question({**WORDS, "pixel_values": pictures()}, STATES),
        ]
        if fields:
            found.insert(1, Question({**WORDS, **covered(), "labels": LABELS}, ("loss", "pred_boxes")))
        return found

    return questions


def lesson(_: object) -> dict[str, object]:
    return {**WORDS, "pixel_values": pictures(), "labels": LABELS}


class TestGroundingDino(Parity):
    table = Table(
        model_type="grounding-dino",
        config=lambda **changes: config(**changes),
        config_class=transformers.GroundingDinoConfig,
        tiny={},
        heads={
            "Model": Head("GroundingDinoModel", "AutoModel", Given(asked(), lambda _: None)),
            "ForObjectDetection": Head(
                "GroundingDinoForObjectDetection", "AutoModelForZeroShotObjectDetection",
                Given(asked("logits", "pred_boxes"), lesson), everywhere=True,
                unused=("model.backbone.model.norm", "model.start.enc_output", "model.start.encoder_output"),
            ),
        },
        variants=VARIANTS,
        derived=frozenset({"backbone_config", "text_config"}),
    )  # fmt: skip

    @over(Table.each)
    def test_bfloat16(self, case: Case) -> None:
        """Up to the choice of places: two that are nearly as good change places where numbers are rounded."""
        small = self.table.case(case.head, case.variant, 0.05)
        built = build(small)
        question = Question({"input_ids": FULL, "pixel_values": pictures().bfloat16()}, STATES[:2])
        expected = ask(halved(built.theirs), question, "eager")
        found = ask(built.again(small, dtype="bfloat16"), question, "eager")
        for name in question.fields:
            match(found[name], expected[name], question, name, 5e-2)
        assert torch.isfinite(found["last_hidden_state"]).all()


def pair(tmp_path, **changes):
    own = transformers.GroundingDinoForObjectDetection
    theirs = saved_reference(own, config(**changes), tmp_path / "model")
    return omniform.GroundingDinoForObjectDetection.from_pretrained(tmp_path / "model"), theirs


def finite(found: torch.Tensor, expected: torch.Tensor) -> None:
    real = torch.isfinite(expected)
    assert torch.equal(found[~real], expected[~real])
    close(found[real], expected[real])


def test_loss_by_parts(tmp_path):
    ours, theirs = pair(tmp_path, auxiliary_loss=True)
    with torch.no_grad():
        found, expected = (one(**WORDS, **covered(), labels=LABELS) for one in (ours, theirs))
    for name in ("logits", "encoder_logits", "enc_outputs_class"):
        finite(found[name], expected[name])
    assert found.loss_dict.keys() == expected.loss_dict.keys()
    for name in expected.loss_dict:
        close(found.loss_dict[name], expected.loss_dict[name], name)
    for one, other in zip(found.auxiliary_outputs, expected.auxiliary_outputs, strict=True):
        assert one.keys() == other.keys()
        finite(one["logits"], other["logits"])
        close(one["label_maps"][0], other["label_maps"][0])


def test_three_pictures_of_other_phrases(tmp_path):
    """Each object is its own picture's phrase, of the third picture too."""
    ours, _ = pair(tmp_path)
    short = torch.tensor([[101, 60, 1012, 61, 62, 1012, 102, 0, 0, 0, 0, 0, 0]])
    ids = torch.cat((IDS, short))
    words = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    labels = [*LABELS, LABELS[1]]
    with torch.no_grad():
        whole = ours(**words, pixel_values=pictures(3), labels=labels)
        assert torch.isfinite(whole.loss)
    with pytest.raises(InputError, match="does not exist"):
        ours(**words, pixel_values=pictures(3), labels=[*LABELS, LABELS[0]])


def test_longer_texts_than_are_read(tmp_path):
    """Words beyond the longest text are not read; the reference fails there."""
    ours, _ = pair(tmp_path)
    ids = torch.cat((IDS[:1, :-1], IDS[:1, 1:]), 1)
    with torch.no_grad():
        found = ours(input_ids=ids, pixel_values=pictures(1))
    assert found.logits.shape == (1, 5, 13) and torch.isfinite(found.logits).all()


def test_queries_that_learn_where_they_stand():
    """The reference fails to make such a model."""
    raw = config().to_dict()
    made = omniform.GroundingDinoConfig(**{k: v for k, v in raw.items() if k != "model_type"} | {"two_stage": False})
    model = omniform.GroundingDinoForObjectDetection(made).eval()
    with torch.no_grad():
        found = model(**WORDS, pixel_values=pictures(), labels=LABELS)
    assert torch.isfinite(found.loss) and found.encoder_logits is None and "loss_ce_enc" not in found.loss_dict


def test_too_few_places(tmp_path):
    ours, _ = pair(tmp_path, num_queries=50)
    with pytest.raises(InputError, match="too small"):
        ours(**WORDS, pixel_values=pictures(2, 16, 16))


def test_wider_backbones(tmp_path):
    resnet = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", out_features=["stage1", "stage2"]
    )
    made = config()
    made.backbone_config = resnet
    theirs = saved_reference(transformers.GroundingDinoForObjectDetection, made, tmp_path / "model")
    ours = omniform.AutoModelForZeroShotObjectDetection.from_pretrained(tmp_path / "model")
    compare(ours, theirs, {"input_ids": FULL, **covered()}, ["logits", "pred_boxes"])


@pytest.mark.parametrize(
    "change",
    [{"embedding_init_target": False}, {"query_dim": 2}, {"d_model": 30}, {"encoder_attention_heads": 3}],
)
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.GroundingDinoConfig(**{**TINY, **change})
