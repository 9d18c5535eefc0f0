"""Gemma 3 with pictures against the reference: pooled patches that see one another, in windows too."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from askers import Given, Inputs, Question
from harness import Head, Parity, Table, build, compiled
from safetensors.torch import load_file, save_file
from test_gemma3 import TINY
from test_paligemma import VISION
from torch import Tensor
from writers import Feed

from omniform.core.errors import ConfigError
from reference import close, omniform, padded, saved_reference, transformers

IMAGE, BEGIN, END = 95, 93, 94
VARIANTS = {
    "plain": {},
    "wide windows": {"text": {"sliding_window": 9, "final_logit_softcapping": 1.5}},
    "pooled": {"mm_tokens_per_image": 4, "vision": {"patch_size": 4, "layer_norm_eps": 1e-3, "vision_use_head": True}},
    "cut off": {"mm_tokens_per_image": 4, "vision": {"patch_size": 3, "image_size": 15}},
    "untied": {"tie_word_embeddings": False, "text": {"attention_bias": True}},
    "beyond the table": {"image_token_index": 97},
}


def config(**changes):
    text, vision = changes.pop("text", {}), changes.pop("vision", {})
    return transformers.Gemma3Config(
        text_config={**TINY, "max_position_embeddings": 128, **text},
        vision_config={"model_type": "siglip_vision_model", **VISION, **vision},
        **{"image_token_index": IMAGE, "mm_tokens_per_image": 4, "boi_token_index": BEGIN, "eoi_token_index": END}
        | changes,
    )


def rows(config) -> list[tuple[Tensor, Tensor]]:
    """Two pictures, none, one; and two side by side: ids and pixels of each."""
    image, edge = config.image_token_id, config.vision_config.image_size
    seen = [BEGIN, *[image] * 4, END]
    made = [[2, 7, *seen, 9, *seen, 11, 12], [2, 31, 32], [2, *seen, 21, 22, 23], [2, *[image] * 8, 5, 6]]
    pixels = torch.randn(5, 3, edge, edge, generator=torch.Generator().manual_seed(3)).split([2, 0, 1, 2])
    return [(torch.tensor(ids), own) for ids, own in zip(made, pixels, strict=True)]


def mixed(config, side: str = "right") -> Inputs:
    parts = rows(config)
    ids, mask = padded([ids for ids, _ in parts], 0, side)
    types = (ids == config.image_token_id).long()
    pixels = torch.cat([own for _, own in parts])
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "pixel_values": pixels}


def alone(config) -> list[Inputs]:
    return [
        {
            "input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None],
            "token_type_ids": (ids == config.image_token_id).long()[None],
            **({"pixel_values": pixels} if len(pixels) else {}),
        }
        for ids, pixels in rows(config)
    ]  # fmt: skip


def asked(*fields: str):
    def questions(config):

        for side in ("right", "left"):
            batch = mixed(config, side)
            real = batch["attention_mask"].bool()
            yield Question(batch, (*fields, "hidden_states"), real)
        first = alone(config)[0]
        first.pop("attention_mask")
        yield Question(first, (*fields, "attentions"))
        first.pop("token_type_ids")
        yield Question(first, fields)
        if "logits" in fields:
            yield Question(taught(config, mixed(config)), ("loss",))

    return questions


def classified(config):
    for side in ("right", "left"):
        yield Question({**mixed(config, side), "labels": torch.tensor([0, 2, 1, 1])}, ("loss", "logits"))


def taught(config, batch: Inputs) -> Inputs:
    told = batch["attention_mask"].bool() & (batch["input_ids"] != config.image_token_id)
    return {**batch, "labels": batch["input_ids"].masked_fill(~told, -100)}


def lesson(config):
    return taught(config, mixed(config))


@dataclass(frozen=True)
class Prompts:
    """Prompts with pictures."""

    def feed(self, config: object) -> Feed:
        ids, pixels = rows(config)[0]
        first = {"pixel_values": pixels, "token_type_ids": (ids == config.image_token_id).long()[None, :-1]}  # type: ignore[attr-defined]
        return Feed(ids[None], first=first, beginning=len(ids) - 1)

    def together(self) -> Inputs:
        return mixed(config(), "left")

    def alone(self) -> list[Inputs]:
        return alone(config())

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, row["input_ids"].shape[1] :].tolist()

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


class TestGemma3Vision(Parity):
    table = Table(
        model_type="gemma3",
        config=lambda **changes: config(**changes),
        config_class=transformers.Gemma3Config,
        tiny={},
        heads={
            "Model": Head("Gemma3Model", "AutoModel", Given(asked("last_hidden_state", "image_hidden_states"))),
            "ForConditionalGeneration": Head(
                "Gemma3ForConditionalGeneration", "AutoModelForImageTextToText",
                Given(asked("logits", "image_hidden_states"), lesson), everywhere=True,
            ),
            "ForSequenceClassification": Head(
                "Gemma3ForSequenceClassification", "AutoModelForSequenceClassification",
                Given(classified, config={"num_labels": 3}),
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", Prompts()),
        writing=["plain", "wide windows"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


def test_files_spelled_as_their_modules(tmp_path) -> None:
    """Keys as modules are called today, and classifiers' files."""
    theirs = saved_reference(transformers.Gemma3ForConditionalGeneration, config(), tmp_path, scale=0.3)
    tensors = {name: x.contiguous() for name, x in theirs.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(ours).__name__ == "Gemma3ForConditionalGeneration"
    batch = mixed(config())
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        close(ours(**batch).logits[real], theirs(**batch).logits[real])
    ours.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_fresh_weights_begin_as_the_references() -> None:
    """Pictures say nothing at first; heads begin as the whole does, layers as their own families."""
    raw = config(initializer_range=0.5, tie_word_embeddings=False, text={"initializer_range": 0.1}).to_dict()
    torch.manual_seed(0)
    ours = omniform.AutoModelForImageTextToText.from_config(omniform.Gemma3Config.from_dict(raw))
    assert not ours.model.multi_modal_projector.mm_input_projection_weight.any()
    assert not ours.model.multi_modal_projector.mm_soft_emb_norm.weight.any()
    assert 0.4 < ours.lm_head.weight.std() < 0.6
    assert 0.08 < ours.model.language_model.layers[0].mlp.up_proj.weight.std() < 0.12


def test_pictures_vectors_and_vectors_of_a_caller() -> None:
    built = build(TestGemma3Vision.table.case("ForConditionalGeneration"))
    given = mixed(built.theirs.config)
    with torch.no_grad():
        found = built.ours.get_image_features(given["pixel_values"])
        expected = built.theirs.get_image_features(given["pixel_values"], return_dict=True)
    close(found.pooler_output, expected.pooler_output)
    bare = {name: x for name, x in given.items() if name != "pixel_values"}
    close(built.ours(**bare, mm_encoder_outputs={"image": found}).logits, built.ours(**given).logits)
    shown = built.ours.generate(
        **Prompts().alone()[0], max_new_tokens=3, do_sample=False, output_hidden_states=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    expected = built.theirs.generate(
        **Prompts().alone()[0], max_new_tokens=3, do_sample=False, output_hidden_states=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert shown.sequences.tolist() == expected.sequences.tolist()
    close(shown.hidden_states[0], expected.hidden_states[0])


def test_what_does_not_fit() -> None:
    for count in (9, 0, 25):
        raw = config().to_dict() | {"mm_tokens_per_image": count}
        with pytest.raises(ConfigError, match="mm_tokens_per_image"):
            omniform.AutoModel.from_config(omniform.Gemma3Config.from_dict(raw))


def test_first_files() -> None:
    """Configs of the first releases: parts that say little, several tokens that end a text."""
    raw = json.loads(
        """{"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
        "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
        "model_type": "gemma3", "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type":
        "gemma3_text", "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024}, "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152, "image_size": 896,
        "intermediate_size": 4304, "model_type": "siglip_vision_model", "num_attention_heads": 16,
        "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": false}}"""
    )
    ours, theirs = omniform.Gemma3Config.from_dict(raw), transformers.Gemma3Config.from_dict(raw)
    assert not ours.unknown
    assert ours.text_config.rope_parameters == theirs.text_config.rope_parameters
    assert (ours.image_token_id, ours.mm_tokens_per_image) == (theirs.image_token_id, theirs.mm_tokens_per_image)
