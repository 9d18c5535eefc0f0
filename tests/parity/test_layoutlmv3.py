"""LayoutLMv3 against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import PROBLEMS, Given, Inputs, Question, Rows, noise
from harness import Head, Parity, Table, bare, compiled, gamma

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 20, "coordinate_size": 4, "shape_size": 4, "input_size": 12, "patch_size": 4,
    "rel_pos_bins": 8, "max_rel_pos": 12, "rel_2d_pos_bins": 16, "max_rel_2d_pos": 200,
}  # fmt: skip
TAPS = ("hidden_states", "attentions")


def boxes(rows: int = 3, words: int = 9) -> torch.Tensor:
    """Some of them the wrong way round."""
    return torch.randint(0, 1001, (rows, words, 4), generator=torch.Generator().manual_seed(5))


def rows(side: str = "right") -> Inputs:
    ids, mask = padded(ragged(60, [9, 4, 1]), pad=1, side=side)
    return {"input_ids": ids, "attention_mask": mask, "bbox": boxes()}


PAGES = {"pixel_values": noise(3, 3, 12, 12)}


def asked(*fields: str, labels: Inputs | None = None, config: Inputs | None = None, pages_alone: bool = False) -> Given:
    labels = labels or {}
    outputs = tuple(f for f in fields if f != "loss")

    def questions(config: object) -> list[Question]:
        seen = PAGES if config.visual_embed else {}
        types = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1]).expand(3, 9)
        whole = {"input_ids": torch.stack(ragged(60, [9] * 3, seed=2)), "bbox": boxes()}
        found = [Question({**whole, **seen}, (*outputs, *TAPS))]
        found += [Question({**rows(), **seen, **labels}, fields)] if labels else []
        found += [
            Question({**rows("left"), **seen, "token_type_ids": types}, outputs),
            Question({**rows()}, outputs),
            Question({"input_ids": whole["input_ids"], **seen}, outputs),
            Question({**whole, **seen, "position_ids": types + 3}, outputs),
        ]
        if seen:
            found.append(Question({"inputs_embeds": noise(3, 9, 24), "bbox": boxes(), **seen}, outputs))
        if pages_alone and seen:
            found.append(Question(seen, (*outputs, "hidden_states")))
        return found

    return Given(questions, (lambda _: {**rows(), **PAGES, **labels}) if labels else None, config or {})


def classified(labels: Rows) -> Head:
    return Head(
        "LayoutLMv3ForSequenceClassification", "AutoModelForSequenceClassification",
        asked("loss", "logits", labels={"labels": labels.labels}, config=dict(labels.config)), unused=BIASES,
    )  # fmt: skip


WORDS = rows()["input_ids"].masked_fill(rows()["attention_mask"] == 0, -100)
BIASES = ("model.order_bias", "model.x_bias", "model.y_bias")
ANSWERS = {"start_positions": torch.tensor([1, 2, 18]), "end_positions": torch.tensor([3, 5, 90])}


class TestLayoutLMv3(Parity):
    table = Table(
        model_type="layoutlmv3",
        config=transformers.LayoutLMv3Config,
        tiny=TINY,
        heads={
            "Model": Head("LayoutLMv3Model", "AutoModel", asked("last_hidden_state", pages_alone=True),
                everywhere=True),
            **{f"ForTokenClassification, {n}": Head(
                "LayoutLMv3ForTokenClassification", "AutoModelForTokenClassification",
                asked("loss", "logits", labels={"labels": WORDS.clamp(max=n - 1)}, config={"num_labels": n}),
                unused=BIASES,
            ) for n in (4, 11)},
            "ForQuestionAnswering": Head(
                "LayoutLMv3ForQuestionAnswering", "AutoModelForDocumentQuestionAnswering",
                asked("loss", "start_logits", "end_logits", labels=ANSWERS), unused=BIASES,
            ),
            **{f"ForSequenceClassification, {name}": classified(labels) for name, labels in PROBLEMS.items()},
        },
        variants={
            "plain": {},
            "without places on the page": {"has_spatial_attention_bias": False, "hidden_act": "relu"},
            "without order": {"has_relative_attention_bias": False, "layer_norm_eps": 1e-2},
            "neither": {"has_relative_attention_bias": False, "has_spatial_attention_bias": False, "pad_token_id": 2},
            "no page": {"visual_embed": False, "type_vocab_size": 3},
            "cut off": {"input_size": 14, "num_channels": 3, "max_2d_position_embeddings": 1024},
        },
        spellings={"bare": bare("layoutlmv3"), "compiled": compiled, "gamma": gamma},
    )  # fmt: skip


def pair(folder, head: str, **changes: object):
    config = transformers.LayoutLMv3Config(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, head), config, folder)
    return getattr(omniform, head).from_pretrained(folder), theirs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bbox": boxes(3, 8)}, r"\[3, 9, 4\]"),
        ({"bbox": boxes() + 1000}, "0 to 1023"),
        ({"bbox": boxes() - 1000}, "outside the page"),
        ({"bbox": boxes().float()}, "whole numbers"),
        ({"pixel_values": noise(3, 3, 16, 16)}, "batch, 3, 12, 12"),
        ({"pixel_values": noise(2, 3, 12, 12)}, "2 pages"),
        ({"input_ids": None, "pixel_values": None, "bbox": None}, "input_ids"),
        ({"attention_mask": torch.ones(3, 1, 9, 9)}, "one by one"),
        ({"input_ids": torch.full((3, 9), 60)}, "60"),
    ],
)
def test_bad_inputs(tmp_path, changes, words):
    ours, _ = pair(tmp_path, "LayoutLMv3Model")
    with pytest.raises(InputError, match=words):
        ours(**{**rows(), **PAGES, **changes})


def test_a_model_of_words_alone_and_bad_configs(tmp_path):
    ours, _ = pair(tmp_path, "LayoutLMv3Model", visual_embed=False)
    with pytest.raises(InputError, match="visual_embed"):
        ours(**rows(), **PAGES)
    for wrong in ({"hidden_size": 32}, {"text_embed": False}, {"patch_size": 13}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            omniform.LayoutLMv3Config(**{**TINY, **wrong})


def test_dropout_falls_on_the_same_places(tmp_path):
    ours, theirs = pair(tmp_path, "LayoutLMv3Model", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    ours.set_attn_implementation("eager")
    found = []
    for model in (ours, theirs):
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(**rows(), **PAGES).last_hidden_state)
    close(*found)


def test_padding_changes_nothing(tmp_path):
    ours, _ = pair(tmp_path, "LayoutLMv3ForTokenClassification")
    given = rows()
    other = {**given, "bbox": given["bbox"] * given["attention_mask"][..., None]}
    real = given["attention_mask"].bool()
    with torch.no_grad():
        close(ours(**other, **PAGES).logits[real], ours(**given, **PAGES).logits[real], tolerance=1e-5)
