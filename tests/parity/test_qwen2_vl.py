"""Qwen2-VL and Qwen2.5-VL against the reference: pictures and films of any sizes among the tokens."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from askers import Given, Nothing, Text, counted
from harness import Head, Parity, Table, build
from sighted import SPECIAL, TEXT, Sights, goes_on

from reference import check_round_trip, close, compare, omniform, saved_reference, transformers

ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]}}
VISION = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "mlp_ratio": 2}
WINDOWED = {
    "depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "intermediate_size": 24, "out_hidden_size": 16,
    "window_size": 8, "fullatt_block_indexes": [1], "tokens_per_second": 3,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "other sections": {"text": {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}},
    "tied": {"tie_word_embeddings": True},
    "windows": {"text": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}},
    "stretched": {
        "text": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "mrope_section": [1, 1, 2]}}
    },
    "dynamic": {
        "text": {
            "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "mrope_section": [1, 1, 2]},
            "max_position_embeddings": 12,
        }
    },
}  # fmt: skip


def table(model_type, prefix, vision, sights):
    def config(**changes):
        text, seen = changes.pop("text", {}), changes.pop("vision", {})
        return getattr(transformers, f"{prefix}Config")(
            text_config={**TEXT, **ROPE, **text}, vision_config={**vision, **seen}, **SPECIAL, **changes
        )

    return Table(
        model_type=model_type,
        config=config,
        config_class=getattr(transformers, f"{prefix}Config"),
        tiny={},
        heads={
            "Model": Head(f"{prefix}Model", "AutoModel", Given(lambda _: sights.read("last_hidden_state"))),
            "ForConditionalGeneration": Head(
                f"{prefix}ForConditionalGeneration", "AutoModelForImageTextToText",
                Given(lambda _: sights.written_on(), lambda _: sights.lesson()), everywhere=True,
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", sights),
        writing=["plain", "windows"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"in memory": in_memory},
    )  # fmt: skip


def in_memory(key):
    """As today's modules are called."""
    if key.startswith("model.") and not key.startswith("model.language_model"):
        return key.replace("model.", "model.language_model.", 1)
    return f"model.{key}" if key.startswith("visual") else key


class TestQwen2VL(Parity):
    table = table("qwen2_vl", "Qwen2VL", VISION, Sights())


class TestQwen25VL(Parity):
    table = table("qwen2_5_vl", "Qwen2_5_VL", WINDOWED, Sights(timed=True))


def text_table(model_type, prefix):
    config = getattr(transformers, f"{prefix}TextConfig")
    return Table(
        model_type=f"{model_type}_text",
        config=config,
        tiny={**TEXT, **ROPE},
        heads={
            "Model": Head(f"{prefix}TextModel", "AutoModel", Text(Nothing(), positions=counted), everywhere=True),
        },
        variants={name: change.get("text", {}) for name, change in VARIANTS.items() if name in ("plain", "windows")},
    )


class TestQwen2VLText(Parity):
    table = text_table("qwen2_vl", "Qwen2VL")


class TestQwen25VLText(Parity):
    table = text_table("qwen2_5_vl", "Qwen2_5_VL")


@pytest.mark.parametrize("prefix", ["Qwen2VL", "Qwen2_5_VL"])
def test_configs_and_files_of_first_releases(tmp_path, prefix):
    """The decoder's keys among those of the whole, parts named after it, ``mrope``, the tables tied in the decoder."""
    kind = {"Qwen2VL": TestQwen2VL, "Qwen2_5_VL": TestQwen25VL}[prefix]
    table = kind.table
    theirs = saved_reference(
        getattr(transformers, f"{prefix}ForConditionalGeneration"), table.config(), tmp_path / "new", scale=0.2
    )
    raw = json.loads((tmp_path / "new" / "config.json").read_text())
    text, old = raw.pop("text_config"), tmp_path / "old"
    rope = text.pop("rope_parameters")
    flat = {**{k: v for k, v in text.items() if k != "layer_types"}, **raw, "rope_theta": rope["rope_theta"]}
    flat |= {"rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}, "tie_word_embeddings": False}
    flat["vision_config"] = {**flat["vision_config"], "model_type": table.model_type, "in_chans": 3}
    shutil.copytree(tmp_path / "new", old)
    (old / "config.json").write_text(json.dumps(flat))
    again = getattr(transformers, f"{prefix}ForConditionalGeneration").from_pretrained(old).eval()
    ours = omniform.AutoModelForImageTextToText.from_pretrained(old)
    assert not ours.config.unknown
    row = table.writes[1].rows()[0]
    compare(ours, theirs, row, ("logits",))
    compare(ours, again, row, ("logits",))
    check_round_trip(old, ours, tmp_path / "again")
    assert ours.config.text_config.hidden_size == 16 and ours.config.vision_config.model_type.endswith("vision")


@torch.no_grad()
def test_traced_with_what_is_known_of_pictures():
    """Where tokens stand is computed from ids without a look at one: a program holds for other texts."""
    ours = build(TestQwen25VL.table.case("ForConditionalGeneration")).ours
    row = {name: x for name, x in Sights(timed=True).rows()[1].items() if name != "mm_token_type_ids"}
    facts = {
        "image": [(1, 4, 4)],
        "video": ours.model.medium("video").facts({n: row[n] for n in row if "video" in n or "second" in n}),
    }
    program = torch.export.export(ours, (), {**row, "media_facts": facts, "use_cache": False}, strict=False).module()
    for first in (6, 19):
        row["input_ids"] = row["input_ids"].clone()
        row["input_ids"][0, 0] = first
        found = program(**row, media_facts=facts, use_cache=False).logits
        torch.testing.assert_close(found, ours(**row).logits)


@torch.no_grad()
def test_positions_of_the_callers_own():
    """Of one axis, of three, and of four, the first of which counts the tokens of each text."""
    built = build(TestQwen2VL.table.case("ForConditionalGeneration"))
    ids = torch.randint(20, 80, (2, 8))
    text = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]] * 2)
    three = torch.stack([text, text * 2, text + 3])
    from test_qwen3_vl import TestQwen3VL as Newer

    other = build(Newer.table.case("ForConditionalGeneration"))
    for places in (text + 5, three, torch.cat([text[None], three])):
        given = {"input_ids": ids, "position_ids": places, "use_cache": False}
        for pair in (built, other):
            compare(pair.ours, pair.theirs, given, ("logits",))
        for name in ("get_rope_index", "get_image_features", "get_video_features"):
            assert callable(getattr(built.ours.model, name))
    row = Sights().rows()[0]
    pictures = {name: row[name] for name in ("pixel_values", "image_grid_thw")}
    found, expected = (m.get_image_features(**pictures) for m in (built.ours, built.theirs))
    close(found.pooler_output, expected.pooler_output)
    grids = {"image_grid_thw": row["image_grid_thw"]}
    found = built.ours.model.get_rope_index(row["input_ids"], row["mm_token_type_ids"], **grids)
    expected = built.theirs.model.get_rope_index(row["input_ids"], row["mm_token_type_ids"], **grids)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_goes_on_from_a_cache():
    built = build(TestQwen25VL.table.case("ForConditionalGeneration", scale=0.3))
    goes_on(built.ours, built.theirs, Sights(timed=True).rows()[1])
