"""Idefics3 and SmolVLM against the reference: pictures of several rows, padded, among the tokens of a decoder."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from askers import Given, Inputs, Question
from harness import Head, Parity, Table, build
from test_phi4_multimodal import towers
from torch import Tensor
from writers import Feed

from omniform.core.errors import InputError
from reference import close, padded, transformers

IMAGE = 95
TEXT = {
    "vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True, "vision": {"hidden_act": "gelu", "layer_norm_eps": 1e-3}},
    "four": {"scale_factor": 4},
    "one": {"scale_factor": 1, "vision": {"image_size": 8}},
    "qwen": {"text": {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}},
}


def config(name="Idefics3", **changes):
    text, vision = changes.pop("text", {}), changes.pop("vision", {})
    return getattr(transformers, f"{name}Config")(
        text_config={"model_type": "llama", **TEXT, **text}, vision_config={**VISION, **vision},
        image_token_id=IMAGE, **changes,
    )  # fmt: skip


def rows_of(config):
    """Two pictures, none, and one in a corner of its frame."""
    size, factor = config.vision_config.image_size, config.scale_factor
    n = (size // config.vision_config.patch_size // factor) ** 2
    rows = [[1, 7, *[IMAGE] * n, 9, *[IMAGE] * n, 11, 12], [1, 31, 32], [1, *[IMAGE] * n, 21]]
    pixels = torch.randn(3, 2, 3, size, size, generator=torch.Generator().manual_seed(1))
    marks = torch.ones(3, 2, size, size, dtype=torch.long)
    pixels[1], pixels[2, 1], marks[1], marks[2, 1] = 0, 0, 0, 0
    marks[2, 0, size - 5 :], marks[2, 0, :, size - 9 :] = 0, 0
    return [torch.tensor(row) for row in rows], {"pixel_values": pixels, "pixel_attention_mask": marks}


def mixed(config, side: str = "right") -> Inputs:
    rows, given = rows_of(config)
    ids, mask = padded(rows, 0, side)
    return {"input_ids": ids, "attention_mask": mask, **given}


def questions(*fields):
    def asked(config):
        batch, left = mixed(config), mixed(config, "left")
        real = batch["attention_mask"].bool()
        # SmolVLM's output holds the tower's, in this place.
        told = ("image_hidden_states",) if config.model_type == "idefics3" else ()
        yield Question(batch, (*fields, *told, "hidden_states"), real)
        alone = {name: x[:1] for name, x in batch.items() if name != "pixel_attention_mask"}
        yield Question(alone, (*fields, "attentions"))
        yield Question(left, fields, left["attention_mask"].bool())
        if "logits" in fields:
            yield Question({**batch, "labels": batch["input_ids"].masked_fill(~real, -100)}, ("loss",), real)

    return asked


def lesson(config):
    batch = mixed(config)
    return {**batch, "labels": batch["input_ids"]}


@dataclass(frozen=True)
class Rows:
    """Rows to write on from."""

    def feed(self, config: object) -> Feed:
        rows, given = rows_of(config)
        return Feed(rows[0][None], first={k: x[:1] for k, x in given.items()}, beginning=len(rows[0]) - 2)

    def together(self) -> Inputs:
        return mixed(globals()["config"](), "left")

    def alone(self) -> list[Inputs]:
        rows, given = rows_of(globals()["config"]())
        pictures = [given, {}, {k: x[:, :1] for k, x in given.items()}]
        return [
            {"input_ids": row[None], "attention_mask": torch.ones_like(row)[None],
             **{k: x[number, None] for k, x in own.items()}}
            for number, (row, own) in enumerate(zip(rows, pictures, strict=True))
        ]  # fmt: skip

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, row["input_ids"].shape[1] :].tolist()

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


def table(name: str, **more: object) -> Table:
    asked = Given(questions("last_hidden_state")), Given(questions("logits"), lesson)
    return Table(
        model_type=name.lower(),
        config=lambda **changes: config(name, **changes),
        config_class=getattr(transformers, f"{name}Config"),
        tiny={},
        heads={
            "Model": Head(f"{name}Model", "AutoModel", asked[0]),
            "ForConditionalGeneration": Head(
                f"{name}ForConditionalGeneration", "AutoModelForImageTextToText", asked[1], everywhere=True
            ),
        },
        writes=("ForConditionalGeneration", Rows()),
        writing=["plain"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
        **more,
    )


class TestIdefics3(Parity):
    table = table("Idefics3", variants=VARIANTS)


class TestSmolVLM(Parity):
    table = table("SmolVLM")


def tower(name: str) -> Table:
    return Table(
        model_type=f"{name.lower()}_vision",
        config=getattr(transformers, f"{name}VisionConfig"),
        tiny=VISION,
        heads={"Model": Head(f"{name}VisionTransformer", "AutoModel", Given(towers(4, "last_hidden_state")))},
        variants={"plain": {}},
    )


class TestIdefics3Tower(Parity):
    table = tower("Idefics3")


class TestSmolVLMTower(Parity):
    table = tower("SmolVLM")


def test_features_of_each_row():
    built = build(TestIdefics3.table.case("ForConditionalGeneration"))
    _, given = rows_of(built.theirs.config)
    with torch.no_grad():
        found = built.ours.get_image_features(**given)
        expected = built.theirs.get_image_features(**given, return_dict=True)
    close(found.last_hidden_state, expected.last_hidden_state)
    close(list(found.pooler_output), list(expected.pooler_output))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b["input_ids"].__setitem__((0, 3), 5), "placeholder"),
        (lambda b: b.pop("pixel_values"), "0 image"),
        (lambda b: b.update(pixel_values=b["pixel_values"][0]), "rows of pictures"),
        (lambda b: b.update(pixel_values=b["pixel_values"][..., :12]), "square"),
        (lambda b: b.update(pixel_attention_mask=b["pixel_attention_mask"][:, :1]), "pixel_attention_mask"),
    ],
)
def test_pictures_that_do_not_match_the_text(change, says):
    built = build(TestIdefics3.table.case("ForConditionalGeneration"))
    batch = mixed(built.theirs.config)
    change(batch)
    for call in (built.ours, built.ours.generate):
        with pytest.raises(InputError, match=says):
            call(**batch)
