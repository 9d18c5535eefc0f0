"""BridgeTower against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Inputs, Question, noise
from harness import Head, Parity, Table, compiled, gamma

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, padded, ragged, saved_reference, transformers

TEXT = {
    "vocab_size": 60, "hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 20,
}  # fmt: skip
VISION = {"hidden_size": 64, "num_hidden_layers": 3, "image_size": 12, "patch_size": 4}
LAYERS = {"num_hidden_layers": 2, "hidden_size": 64}
TAPS = ("hidden_states", "attentions")


def config(text=(), vision=(), **changes: object) -> object:
    sides = {"text_config": {**TEXT, **dict(text)}, "vision_config": {**VISION, **dict(vision)}}
    return transformers.BridgeTowerConfig(**sides, **{**LAYERS, "contrastive_hidden_size": 10,
        "logit_scale_init_value": 2.6592, **changes})  # fmt: skip


def pictures(height: int = 12, width: int = 12) -> Inputs:
    return {"pixel_values": noise(3, 3, height, width)}


def rows(side: str = "right") -> Inputs:
    ids, mask = padded(ragged(60, [9, 4, 1]), pad=1, side=side)
    return {"input_ids": ids, "attention_mask": mask}


def asked(*fields: str, labels: Inputs | None = None, taps: tuple[str, ...] = TAPS) -> Given:
    labels = labels or {}
    outputs = tuple(f for f in fields if f != "loss")

    def questions(config: object) -> list[Question]:
        whole = {"input_ids": torch.stack(ragged(60, [9] * 3, seed=2)), **pictures()}
        embeds = {"image_embeds": noise(3, 10, config.vision_config.hidden_size), "image_token_type_idx": 0}
        more = [Question({**rows(), **pictures(), **labels}, fields)] if "loss" in fields else []
        return [
            Question(whole, (*outputs, *taps)),
            *more,
            Question({**rows("left"), **pictures()}, outputs),
            Question(
                {**rows(), **embeds},
                outputs,
            )
            if "text_features" in fields
            else Question({**rows(), **pictures(), "pixel_mask": torch.ones(3, 12, 12)}, outputs),
        ]

    return Given(questions, (lambda _: {**rows(), **pictures(), **labels}) if labels else None)


WORDS = rows()["input_ids"].masked_fill(rows()["attention_mask"] == 0, -100)
ALONE = ("model.text_model.pooler", "model.vision_model.separate_norms")
UNPOOLED = ("model.cross_modal_text_pooler", "model.cross_modal_image_pooler", "model.cross_modal_image_layers.1")


class TestBridgeTower(Parity):
    table = Table(
        model_type="bridgetower",
        config=config,
        config_class=transformers.BridgeTowerConfig,
        tiny={},
        heads={
            "Model": Head(
                "BridgeTowerModel", "AutoModel", asked("text_features", "image_features", "pooler_output"),
                everywhere=True,
            ),
            "ForMaskedLM": Head(
                "BridgeTowerForMaskedLM", "", asked("loss", "logits", labels={"labels": WORDS}),
                unused=(*ALONE, *UNPOOLED),
            ),
            "ForImageAndTextRetrieval": Head(
                "BridgeTowerForImageAndTextRetrieval", "",
                asked("loss", "logits", labels={"labels": torch.tensor([1, 0, 1])}), unused=ALONE, rate=1e-3,
            ),
            "ForContrastiveLearning": Head(
                "BridgeTowerForContrastiveLearning", "",
                asked("loss", "logits", "text_embeds", "image_embeds", "cross_embeds", labels={"return_loss": True}),
                unused=ALONE, rate=1e-3,
            ),
        },
        variants={
            "plain": {},
            "wide pictures": {"vision": {"hidden_size": 128}},
            "scaled": {"link_tower_type": "scaled_add", "share_cross_modal_transformer_layers": False},
            "interpolated": {"link_tower_type": "interpolate", "layer_norm_eps": 1e-2, "num_hidden_layers": 4},
            "one layer": {"num_hidden_layers": 1, "vision": {"remove_last_layer": True, "num_hidden_layers": 4}},
            "own norms": {"vision": {"share_layernorm": False, "layer_norm_eps": 1e-2, "stop_gradient": True}},
            "a decoder": {"text": {"is_decoder": True, "add_cross_attention": True, "type_vocab_size": 2}},
            "relu": {"text": {"hidden_act": "relu", "layer_norm_eps": 1e-2, "pad_token_id": 2}, "hidden_act": "relu"},
        },
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled, "gamma": gamma},
    )  # fmt: skip


def pair(folder, head: str, **changes: object):
    theirs = saved_reference(getattr(transformers, head), config(**changes), folder)
    return getattr(omniform, head).from_pretrained(folder), theirs


def test_tied_scores_and_another_activation(tmp_path):
    ours, theirs = pair(tmp_path, "BridgeTowerForMaskedLM", tie_word_embeddings=True, hidden_act="relu",
        layer_norm_eps=1e-2)  # fmt: skip
    with torch.no_grad():
        close(ours(**rows(), **pictures()).logits, theirs(**rows(), **pictures()).logits)
    assert ours.get_output_embeddings().weight is ours.get_input_embeddings().weight


@pytest.mark.parametrize("size", [(20, 20), (8, 24), (13, 12)])
def test_pictures_of_other_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path, "BridgeTowerModel")
    inputs = {**rows(), **pictures(*size), "interpolate_pos_encoding": True}
    with torch.no_grad():
        close(ours(**inputs).pooler_output, theirs(**inputs).pooler_output)


def test_which_patch_a_word_looked_at(tmp_path):
    """The reference has no weights of this kind to show: they are compared with what its modules compute."""
    ours, theirs = pair(tmp_path, "BridgeTowerModel")
    inputs = {**rows(), **pictures()}
    seen = []
    for layers in (theirs.cross_modal_text_layers, theirs.cross_modal_image_layers):
        for layer in layers:
            layer.crossattention.self.register_forward_hook(lambda _, __, out: seen.append(out[1]))
    with torch.no_grad():
        found, _ = ours(**inputs, output_attentions=True).cross_attentions, theirs(**inputs)
    close([weights for two in found for weights in two], seen)
    assert found[0][0].shape == (3, 4, 9, 10) and found[0][1].shape == (3, 4, 10, 9)
    assert "cross_attentions" not in ours(**inputs)


def test_dropout_falls_on_the_same_places(tmp_path):
    dropped = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}
    ours, theirs = pair(tmp_path, "BridgeTowerModel", text=dropped)
    ours.set_attn_implementation("eager")
    found = []
    for model in (ours, theirs):
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(**rows(), **pictures()).pooler_output)
    close(*found)


def test_one_bridge_for_all(tmp_path):
    """The reference makes it and cannot run it; it is the same bridge again and again."""
    many, theirs = pair(tmp_path, "BridgeTowerModel", num_hidden_layers=3)
    one = omniform.BridgeTowerModel(omniform.BridgeTowerConfig.from_dict(
        {**theirs.config.to_dict(), "share_link_tower_layers": True})).eval()  # fmt: skip
    kept = {k: v for k, v in many.state_dict().items() if "link_tower" not in k}
    for kind in ("text", "image"):
        path = f"cross_modal_{kind}_link_tower"
        towers = getattr(many, path)
        towers[1].load_state_dict(towers[0].state_dict())
        kept |= {f"{path}.{name}": value for name, value in towers[0].state_dict().items()}
    one.load_state_dict(kept)
    with torch.no_grad():
        close(one(**rows(), **pictures()).pooler_output, many(**rows(), **pictures()).pooler_output)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 32}, "hidden_size.*64, text_config"),
        ({"num_hidden_layers": 5}, "at most 4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"vision_config": {**VISION, "num_hidden_layers": 2}}, "vision_config: num_hidden_layers"),
        ({"vision_config": {**VISION, "hidden_size": 72}}, "multiple of 64"),
        ({"link_tower_type": "ad"}, "Did you mean 'add'"),
    ],
)
def test_bad_configs(changes, words):
    with pytest.raises(ConfigError, match=words):
        omniform.AutoConfig.for_model("bridgetower", **{**LAYERS, "text_config": TEXT, "vision_config": VISION,
            **changes})  # fmt: skip


def test_bad_inputs(tmp_path):
    ours, _ = pair(tmp_path, "BridgeTowerModel")
    for wrong, words in (
        ({"pixel_values": None}, "neither"),
        ({"image_embeds": noise(3, 10, 64)}, "both"),
        ({"pixel_values": noise(2, 3, 12, 12)}, "2 pictures"),
        ({"pixel_values": noise(3, 3, 12, 16)}, "interpolate_pos_encoding"),
        ({"attention_mask": torch.ones(3, 4)}, "attention_mask"),
        ({"attention_mask": torch.ones(3, 1, 9, 9)}, "one by one"),
        ({"input_ids": torch.full((3, 9), 60)}, "60"),
    ):
        with pytest.raises(InputError, match=words):
            ours(**{**rows(), **pictures(), **wrong})
    shared = omniform.BridgeTowerConfig.from_dict({**ours.config.to_dict(),
        "share_cross_modal_transformer_layers": False})  # fmt: skip
    with pytest.raises(ConfigError, match="share_cross_modal_transformer_layers"):
        omniform.BridgeTowerForContrastiveLearning(shared)
