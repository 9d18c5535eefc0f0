"""LXMERT against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Inputs, Question, noise
from harness import Head, Parity, Table, bare, compiled, gamma

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "l_layers": 2,
    "r_layers": 1, "x_layers": 2, "max_position_embeddings": 20, "visual_feat_dim": 10, "num_qa_labels": 7,
    "num_object_labels": 6, "num_attr_labels": 5,
}  # fmt: skip
TAPS = (
    "language_hidden_states", "vision_hidden_states", "language_attentions", "vision_attentions",
    "cross_encoder_attentions",
)  # fmt: skip
OUTPUTS = ("language_output", "vision_output", "pooled_output")
SCORES = ("prediction_logits", "cross_relationship_score", "question_answering_score")


def rows(config: object, side: str = "right") -> Inputs:
    """Texts and regions of several numbers."""
    ids, mask = padded(ragged(60, [9, 4, 1]), side=side)
    seen = (torch.arange(5) < torch.tensor([5, 3, 1])[:, None]).long()
    return {**whole(config), "input_ids": ids, "attention_mask": mask, "visual_attention_mask": seen}


def whole(config: object) -> Inputs:
    regions = {"visual_feats": noise(3, 5, config.visual_feat_dim), "visual_pos": noise(3, 5, config.visual_pos_dim)}
    return {"input_ids": torch.stack(ragged(60, [9] * 3, seed=2)), **regions}


def told(config: object) -> Inputs:
    """Labels of every task."""
    given = rows(config)
    words = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    shares = noise(3, 5, seed=4).abs()
    kinds = {"obj": config.num_object_labels, "attr": config.num_attr_labels}
    regions = {name: (torch.arange(15).view(3, 5) % count, shares) for name, count in kinds.items()}
    regions["feat"] = (noise(3, 5, config.visual_feat_dim, seed=6) * 3, shares)
    return {"labels": words, "obj_labels": regions, "matched_label": torch.tensor([1, 0, 1]),
        "ans": torch.tensor([6, 0, 3])}  # fmt: skip


def asked(*fields: str, labels=None) -> Given:
    outputs = tuple(f for f in fields if f != "loss")

    def questions(config: object) -> list[Question]:
        types = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1]).expand(3, 9)
        yield Question(whole(config), (*outputs, *TAPS))
        if labels is not None:
            for names in ([*labels(config)], *([[name] for name in labels(config)] if len(labels(config)) > 1 else ())):
                given = {name: labels(config)[name] for name in names}
                yield Question({**rows(config), **given}, fields if len(names) > 1 else ("loss",))
        yield Question({**rows(config, "left"), "token_type_ids": types}, (*outputs, "language_hidden_states"))
        embeds = {**rows(config), "inputs_embeds": noise(3, 9, config.hidden_size), "input_ids": None}
        if labels is None:
            yield Question(embeds, (*outputs, *TAPS[:2]))

    return Given(questions, None if labels is None else lambda config: {**rows(config), **labels(config)})


class TestLxmert(Parity):
    table = Table(
        model_type="lxmert",
        config=transformers.LxmertConfig,
        tiny=TINY,
        heads={
            "Model": Head("LxmertModel", "AutoModel", asked(*OUTPUTS), everywhere=True),
            "ForPreTraining": Head(
                "LxmertForPreTraining", "AutoModelForPreTraining", asked("loss", *SCORES, labels=told),
                everywhere=True, but=("relu", "words alone", "regions alone", "other widths"),
            ),
            "ForQuestionAnswering": Head(
                "LxmertForQuestionAnswering", "AutoModelForQuestionAnswering",
                asked("loss", "question_answering_score", labels=lambda _: {"labels": torch.tensor([6, 0, 3])}),
                unused=("model.cross_layers.1.regions",),
            ),
        },
        variants={
            "plain": {},
            "relu": {"hidden_act": "relu", "type_vocab_size": 3},
            "words alone": {"r_layers": 0, "num_attention_heads": 2},
            "regions alone": {"l_layers": 0, "x_layers": 1},
            "other widths": {"visual_feat_dim": 6, "visual_pos_dim": 3},
            "few tasks": {"task_qa": False, "task_mask_lm": False, "visual_attr_loss": False,
                "visual_loss_normalizer": 2.0},
            "no regions to guess": {"task_obj_predict": False, "task_matched": False, "tie_word_embeddings": False},
            "objects only": {"visual_feat_loss": False, "visual_attr_loss": False},
        },
        spellings={"bare": bare("lxmert"), "compiled": compiled, "gamma": gamma},
    )  # fmt: skip


def test_dropout_falls_on_the_same_places(tmp_path):
    config = transformers.LxmertConfig(**TINY, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    theirs = saved_reference(transformers.LxmertModel, config, tmp_path)
    found = []
    for model in (omniform.LxmertModel.from_pretrained(tmp_path, attn_implementation="eager"), theirs):
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(**rows(config)))
    close([found[0][name] for name in OUTPUTS], [found[1][name] for name in OUTPUTS])


@pytest.mark.parametrize("side", ["right", "left"])
def test_regions_that_are_masked_change_nothing(tmp_path, side):
    config = transformers.LxmertConfig(**TINY)
    saved_reference(transformers.LxmertModel, config, tmp_path)
    ours = omniform.LxmertModel.from_pretrained(tmp_path)
    given = rows(config, side)
    other = {**given, "visual_feats": given["visual_feats"] + 9 * (1 - given["visual_attention_mask"][..., None])}
    with torch.no_grad():
        close(ours(**other).pooled_output, ours(**given).pooled_output, tolerance=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"visual_feats": None}, "visual_feats.*detector"),
        ({"visual_feats": noise(3, 5, 9)}, r"\[3, regions, 10\]"),
        ({"visual_pos": noise(3, 4, 4)}, r"\[3, 5, 4\]"),
        ({"visual_pos": torch.ones(3, 5, 4, dtype=torch.long)}, "floating-point"),
        ({"visual_feats": noise(2, 5, 10)}, "visual_feats"),
        ({"visual_attention_mask": torch.ones(3, 4)}, "mask"),
        ({"visual_attention_mask": torch.ones(3, 1, 5, 5)}, "one by one"),
        ({"token_type_ids": torch.full((3, 9), 2)}, "token_type_ids"),
        ({"input_ids": torch.full((3, 9), 60)}, "60"),
    ],
)
def test_bad_inputs(tmp_path, changes, words):
    config = transformers.LxmertConfig(**TINY)
    saved_reference(transformers.LxmertForPreTraining, config, tmp_path)
    ours = omniform.LxmertForPreTraining.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=words):
        ours(**{**rows(config), **changes})


def test_bad_labels_and_configs(tmp_path):
    config = transformers.LxmertConfig(**TINY)
    saved_reference(transformers.LxmertForPreTraining, config, tmp_path)
    ours = omniform.LxmertForPreTraining.from_pretrained(tmp_path)
    good = told(config)["obj_labels"]
    with pytest.raises(InputError, match="attr"):
        ours(**rows(config), obj_labels={"obj": good["obj"]})
    with pytest.raises(InputError, match="obj_labels: obj"):
        ours(**rows(config), obj_labels={**good, "obj": (good["obj"][0][:, :4], good["obj"][1])})
    for wrong in ({**good, "obj": (good["obj"][0] + 6, good["obj"][1])}, {**good, "obj": good["obj"][0]}, 3):
        with pytest.raises(InputError, match="obj_labels"):
            ours(**rows(config), obj_labels=wrong)
    with pytest.raises(InputError, match="ans"):
        ours(**rows(config), ans=torch.tensor([7, 0, 0]))
    with pytest.raises(ConfigError, match="r_layers"):
        omniform.AutoConfig.for_model("lxmert", r_layers=0, x_layers=0)
