"""PaliGemma against the reference: pictures and a question, read in both directions, and an answer written behind."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from askers import Given, Inputs, Question
from harness import Head, Parity, Table, build, compiled
from torch import Tensor
from writers import Feed

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, padded, saved_reference, transformers

IMAGE = 95
TEXT = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 2,
    "eos_token_id": 1,
}  # fmt: skip
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 8, "vision_use_head": False,
}  # fmt: skip
GEMMA2 = {"model_type": "gemma2", "sliding_window": 6, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0}

VARIANTS = {
    "plain": {},
    "second": {"text": GEMMA2},
    "untied": {"tie_word_embeddings": False, "text": {"attention_bias": True, "num_key_value_heads": 1}},
    "beyond the table": {"image_token_index": 97, "vision": {"vision_use_head": True, "hidden_act": "gelu"}},
    "one way": {"text": {"use_bidirectional_attention": False, "rms_norm_eps": 1e-2}},
}


def config(**changes):
    text, vision = changes.pop("text", {}), changes.pop("vision", {})
    return transformers.PaliGemmaConfig(
        text_config={"model_type": "gemma", **TEXT, **text},
        vision_config={"model_type": "siglip_vision_model", **VISION, **vision},
        **{"image_token_index": IMAGE, "projection_dim": 32, "vocab_size": 97, "hidden_size": 32, **changes},
    )


def rows(image: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Two pictures with an answer, none, one without an answer: ids, types and pixels of each."""
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    made = [([image] * 8 + [2, 11, 12, 13, 14], 4, pixels[:2]), ([2, 31, 32, 33], 1, pixels[:0])]
    made.append(([image] * 4 + [2, 21, 22, 23, 24, 25], 0, pixels[2:]))
    return [
        (torch.tensor(ids), torch.tensor([0] * (len(ids) - answer) + [1] * answer), own) for ids, answer, own in made
    ]


def mixed(image: int, side: str = "right") -> Inputs:
    parts = rows(image)
    ids, mask = padded([ids for ids, _, _ in parts], 0, side)
    types, _ = padded([types for _, types, _ in parts], 0, side)
    return {
        "input_ids": ids, "attention_mask": mask, "token_type_ids": types,
        "pixel_values": torch.cat([own for *_, own in parts]),
    }  # fmt: skip


def one(image: int) -> Inputs:
    ids, types, pixels = rows(image)[0]
    return {"input_ids": ids[None], "token_type_ids": types[None], "pixel_values": pixels}


def asked(*fields: str):
    def questions(config):
        image = config.image_token_id
        for side in ("right", "left"):
            batch = mixed(image, side)
            real = batch["attention_mask"].bool()
            yield Question(batch, (*fields, "image_hidden_states", "hidden_states"), real)
        yield Question(one(image), (*fields, "attentions"))
        if "logits" in fields:
            labels = batch["input_ids"].masked_fill(batch["token_type_ids"] == 0, -100)
            yield Question({**batch, "labels": labels}, ("loss",))

    return questions


def lesson(config):
    batch = mixed(config.image_token_id)
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["token_type_ids"] == 0, -100)}


@dataclass(frozen=True)
class Answers:
    """Prompts with pictures, to be answered."""

    image: int = IMAGE

    def feed(self, config: object) -> Feed:
        ids, types, pixels = rows(config.image_token_id)[0]  # type: ignore[attr-defined]
        first = {"pixel_values": pixels, "token_type_ids": types[None, :9]}
        return Feed(ids[None], first=first, beginning=9)

    def together(self) -> Inputs:
        return mixed(self.image, "left")

    def alone(self) -> list[Inputs]:
        return [
            {
                "input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None], "token_type_ids": types[None],
                **({"pixel_values": pixels} if len(pixels) else {}),
            }
            for ids, types, pixels in rows(self.image)
        ]  # fmt: skip

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, row["input_ids"].shape[1] :].tolist()

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


class TestPaliGemma(Parity):
    table = Table(
        model_type="paligemma",
        config=lambda **changes: config(**changes),
        config_class=transformers.PaliGemmaConfig,
        tiny={},
        heads={
            "Model": Head("PaliGemmaModel", "AutoModel", Given(asked("last_hidden_state"))),
            "ForConditionalGeneration": Head(
                "PaliGemmaForConditionalGeneration", "AutoModelForImageTextToText", Given(asked("logits"), lesson),
                everywhere=True,
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", Answers()),
        writing=["plain", "second"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


def test_rows_without_types_are_read_as_the_implementation_does() -> None:
    """The kernel's own masks see all of an unpadded row; written masks, and padded rows, what comes before."""
    built = build(TestPaliGemma.table.case("ForConditionalGeneration"))
    alone = {name: x for name, x in one(IMAGE).items() if name != "token_type_ids"}
    whole = {**alone, "attention_mask": torch.ones_like(alone["input_ids"])}
    batch = {name: x for name, x in mixed(IMAGE).items() if name != "token_type_ids"}
    for backend in ("sdpa", "eager"):
        built.theirs.set_attn_implementation(backend)
        built.ours.set_attn_implementation(backend)
        with torch.no_grad():
            close(built.ours(**alone).logits, built.theirs(**alone).logits)
            close(built.ours(**whole).logits, built.theirs(**whole).logits)
            real = batch["attention_mask"].bool()
            close(built.ours(**batch).logits[real], built.theirs(**batch).logits[real])
    built.ours.set_attn_implementation("sdpa")
    expected = built.theirs.generate(**whole, max_new_tokens=4, do_sample=False)
    assert built.ours.generate(**whole, max_new_tokens=4, do_sample=False).tolist() == expected.tolist()


def test_pictures_vectors() -> None:
    built = build(TestPaliGemma.table.case("ForConditionalGeneration"))
    pixels = mixed(IMAGE)["pixel_values"]
    with torch.no_grad():
        found = built.ours.get_image_features(pixels)
        expected = built.theirs.get_image_features(pixels, return_dict=True)
    close(found.pooler_output, expected.pooler_output)
    close(found.last_hidden_state, expected.last_hidden_state)
    given = {name: x for name, x in mixed(IMAGE).items() if name != "pixel_values"}
    close(built.ours(**given, mm_encoder_outputs={"image": found}).logits, built.ours(**mixed(IMAGE)).logits)


def test_placeholders_beyond_the_table_are_written_on(tmp_path) -> None:
    changes = {"image_token_index": 97}
    theirs = saved_reference(transformers.PaliGemmaForConditionalGeneration, config(**changes), tmp_path, scale=0.3)
    ours = omniform.AutoModelForImageTextToText.from_pretrained(tmp_path)
    for row in Answers(97).alone():
        expected = theirs.generate(**row, max_new_tokens=4, do_sample=False)
        assert ours.generate(**row, max_new_tokens=4, do_sample=False).tolist() == expected.tolist()
    with pytest.raises(InputError, match="vocabulary"):
        ours(input_ids=torch.tensor([[2, 98]]))


def test_what_does_not_fit() -> None:
    ours = build(TestPaliGemma.table.case("ForConditionalGeneration")).ours
    with pytest.raises(InputError, match="token_type_ids"):
        ours(**{**one(IMAGE), "token_type_ids": torch.zeros(3, 4)})
    with pytest.raises(InputError, match="token_type_ids: there is one number"):
        ours.generate(**{**one(IMAGE), "token_type_ids": torch.zeros(1, 4, dtype=torch.long)})
    with pytest.raises(InputError, match="up to one of its tokens"):
        ours.generate(torch.tensor([[2, 3, 4]]), token_type_ids=torch.tensor([[0, 1, 0]]))
    with pytest.raises(InputError, match="placeholder"):
        ours(**{**one(IMAGE), "pixel_values": one(IMAGE)["pixel_values"][:1]})
    with pytest.raises(ConfigError, match="projection_dim"):
        omniform.AutoModel.from_config(omniform.PaliGemmaConfig.from_dict(config(projection_dim=12).to_dict()))
