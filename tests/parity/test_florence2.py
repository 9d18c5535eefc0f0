"""Florence-2 against the reference: pictures in the text that an encoder-decoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from askers import STREAMS, Given, Inputs, Question
from harness import Head, Parity, Table, compiled
from torch import Tensor
from writers import Feed

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

IMAGE, LENGTH = 95, 13
TEXT = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 48, "max_position_embeddings": 60,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
VISION = {
    "depths": [1, 2], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
    "patch_prenorm": [False, True], "embed_dim": [16, 24], "num_heads": [2, 4], "num_groups": [4, 2], "window_size": 3,
    "projection_dim": 32, "max_position_embeddings": 8, "max_temporal_embeddings": 5,
}  # fmt: skip


def config(**changes: dict[str, object]) -> object:
    text, vision = changes.pop("text", {}), changes.pop("vision", {})
    return transformers.Florence2Config(
        text_config=transformers.BartConfig(**{**TEXT, **text}),
        vision_config=transformers.Florence2VisionConfig(**{**VISION, **vision}),
        image_token_id=IMAGE,
        **changes,
    )


def pictures(n: int, height: int = 28, width: int = 20) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def sources(counts: Sequence[int] = (1, 0, 2), side: str = "right") -> Inputs:
    """Rows with so many pictures each."""
    texts = ragged(90, [9, 5, 3])
    rows = [torch.cat((torch.full((LENGTH * n,), IMAGE), text)) for n, text in zip(counts, texts, strict=True)]
    ids, mask = padded(rows, side=side)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pictures(sum(counts))}


def asked(*fields: str):
    def questions(config: object) -> list[Question]:
        answers, _ = padded(ragged(90, [7, 4, 1], seed=1))
        batch = {**sources(), "decoder_input_ids": answers}
        fewer = [name for name in STREAMS if name != "decoder_attentions"]
        made = [Question(batch, (*fields, "encoder_last_hidden_state", *fewer), None)]
        made.append(Question(sources((1, 1, 1), "left"), fields))
        text = {name: value for name, value in sources((0, 0, 0)).items() if name != "pixel_values"}
        made.append(Question(text, fields))
        if fields == ("logits",):
            made.append(Question({**sources(), "labels": answers.masked_fill(answers == 0, -100)}, ("loss", "logits")))
        return made

    return questions


def lesson(config: object) -> Inputs:
    answers, mask = padded(ragged(90, [7, 4, 1], seed=1))
    return {**sources(), "labels": answers.masked_fill(mask == 0, -100)}


@dataclass(frozen=True)
class Illustrated:
    """Texts with pictures in front, answered by texts."""

    def feed(self, config: object) -> Feed:
        answers = torch.stack(ragged(97, [14] * 3, seed=5))
        return Feed(answers, "decoder_input_ids", always=sources())

    def together(self) -> Inputs:
        return sources()

    def alone(self) -> list[Inputs]:
        batch, at, rows = sources(), 0, []
        for row, count in enumerate((1, 0, 2)):
            real = batch["attention_mask"][row].bool()
            ids = batch["input_ids"][row][real][None]
            own = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            rows.append({**own, "pixel_values": batch["pixel_values"][at : at + count]} if count else own)
            at += count
        return rows

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, 1:].tolist()

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


class TestTower(Parity):
    table = Table(
        model_type="florence_vision",
        config=transformers.Florence2VisionConfig,
        tiny=VISION,
        heads={
            "Backbone": Head(
                "Florence2VisionBackbone", "AutoModel",
                Given(lambda c: [
                    Question({"hidden_states": pictures(2)}, ("last_hidden_state", "hidden_states", "attentions")),
                    Question({"hidden_states": pictures(1, 21, 35)}, ("last_hidden_state",)),
                ], lambda c: None),
                everywhere=True,
            ),
        },
        variants={
            "plain": {},
            "no bias": {"qkv_bias": False, "mlp_ratio": 2.0, "activation_function": "relu"},
            "norms": {"patch_prenorm": [True, False], "patch_padding": [0, 2], "window_size": 4},
            "one stage": {
                "embed_dim": [12], "num_heads": [3], "num_groups": [6], "depths": [1], "patch_prenorm": [False],
            },
        },
    )  # fmt: skip


class TestFlorence2(Parity):
    table = Table(
        model_type="florence2",
        config=lambda **changes: config(**changes),
        config_class=transformers.Florence2Config,
        tiny={},
        heads={
            "Model": Head("Florence2Model", "AutoModel", Given(asked("last_hidden_state"), lambda c: None)),
            "ForConditionalGeneration": Head(
                "Florence2ForConditionalGeneration", "AutoModelForImageTextToText", Given(asked("logits"), lesson),
                everywhere=True,
            ),
        },
        variants={
            "plain": {},
            "untied": {"text": {"tie_word_embeddings": False}},
            "untied head": {"tie_word_embeddings": False},
            "scaled": {"text": {"scale_embedding": True, "activation_function": "relu"}},
            "another start": {"text": {"decoder_start_token_id": 5, "pad_token_id": 3}},
        },
        writes=("ForConditionalGeneration", Illustrated()),
        writing=["plain", "untied"],
        scale=0.4,
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


def pair(tmp_path, scale=0.4, **changes):
    own = transformers.Florence2ForConditionalGeneration
    theirs = saved_reference(own, config(**changes), tmp_path / "model", scale=scale)
    return omniform.Florence2ForConditionalGeneration.from_pretrained(tmp_path / "model"), theirs


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_beams(tmp_path, beams, side):
    ours, theirs = pair(tmp_path)
    batch = sources(side=side)
    how = {"num_beams": beams, "max_new_tokens": 9, "num_return_sequences": beams, "no_repeat_ngram_size": 2}
    assert ours.generate(**batch, **how).tolist() == theirs.generate(**batch, **how).tolist()


def test_vectors_instead_of_ids(tmp_path):
    """Placeholders are found by their own vector."""
    ours, theirs = pair(tmp_path)
    batch = sources((1, 1, 1))
    with torch.no_grad():
        embeds = theirs.get_input_embeddings()(batch.pop("input_ids"))
    answers = torch.stack(ragged(90, [4] * 3, seed=1))
    compare(ours, theirs, {**batch, "inputs_embeds": embeds, "decoder_input_ids": answers}, ["logits"])


def test_features(tmp_path):
    # In float64: maps reach hundreds beside small numbers, whose float32 digits are another machine's already.
    ours, theirs = (model.double() for model in pair(tmp_path))
    seen = pictures(2).double()
    found, expected = ours.get_image_features(seen), theirs.get_image_features(seen)
    assert ours.model.vision_tower.grid(28, 20) == (4, 3)
    for name in ("last_hidden_state", "pooler_output"):
        close(found[name], expected[name], name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b["input_ids"][0].__setitem__(3, 5), r"placeholder"),
        (lambda b: b.update(pixel_values=b["pixel_values"][:2]), r"26 placeholder tokens for 2 image.*39 placeholder"),
        (lambda b: b.update(pixel_values=pictures(3, 200, 20)), r"placeholder"),
        (lambda b: b.update(pixel_values=torch.randn(3, 28, 20)), r"shape"),
        (lambda b: b.update(pixel_values=torch.randn(3, 1, 28, 20)), r"shape"),
    ],
)
def test_pictures_that_do_not_match_the_text(tmp_path, change, says):
    ours, _ = pair(tmp_path)
    batch = sources()
    change(batch)
    with pytest.raises(InputError, match=says):
        ours(**batch)
    with pytest.raises(InputError, match=says):
        ours.generate(**batch)


def test_a_map_beyond_the_tables(tmp_path):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match="8"):
        ours.get_image_features(pictures(1, 100, 20))


@pytest.mark.parametrize(
    "change",
    [{"vision": {"num_heads": [2, 5]}}, {"vision": {"depths": [1]}}, {"vision": {"num_groups": [4]}}],
)
def test_bad_configs(change):
    raw = {"model_type": "florence2", "text_config": TEXT, "vision_config": {**VISION, **change["vision"]}}
    with pytest.raises(ConfigError, match=next(iter(change["vision"]))):
        omniform.Florence2Config(**{k: v for k, v in raw.items() if k != "model_type"})
