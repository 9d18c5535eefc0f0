"""Qwen3-VL against the reference: films with the time between their frames, and what is told to the first layers."""

from __future__ import annotations

import torch
from askers import Given, Question
from harness import Head, Parity, Table, build
from safetensors.torch import load_file, save_file
from sighted import SPECIAL, TEXT, Sights, goes_on, shown

from reference import check_round_trip, compare, omniform, saved_reference, transformers

ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1]}, "head_dim": 8}
VISION = {
    "depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "intermediate_size": 24, "out_hidden_size": 16,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
SIGHTS = Sights(stamped=True)
VARIANTS = {
    "plain": {},
    "other sections": {"text": {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2, 1]}}},
    "tied": {"tie_word_embeddings": True, "text": {"attention_bias": True}},
    "told to the last layer": {"vision": {"deepstack_visual_indexes": [1, 0]}},
    "not told": {"vision": {"deepstack_visual_indexes": []}},
    "one layer": {"text": {"num_hidden_layers": 1}, "vision": {"deepstack_visual_indexes": [0, 1]}},
}


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}


def table(model_type, prefix, variants, **more):
    def config(**changes):
        text, seen = changes.pop("text", {}), changes.pop("vision", {})
        return getattr(transformers, f"{prefix}Config")(
            text_config={**TEXT, **ROPE, **more, **text}, vision_config={**VISION, **seen}, **SPECIAL, **changes
        )

    return Table(
        model_type=model_type,
        config=config,
        config_class=getattr(transformers, f"{prefix}Config"),
        tiny={},
        heads={
            "Model": Head(f"{prefix}Model", "AutoModel", Given(lambda _: SIGHTS.read("last_hidden_state"))),
            "ForConditionalGeneration": Head(
                f"{prefix}ForConditionalGeneration", "AutoModelForImageTextToText",
                Given(lambda c: [*SIGHTS.written_on(), *routes(c)], lambda _: SIGHTS.lesson()), everywhere=True,
            ),
        },
        variants=variants,
        writes=("ForConditionalGeneration", SIGHTS),
        writing=["plain"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
    )  # fmt: skip


def routes(config):
    """Which experts were chosen, where there are some."""
    if "num_local_experts" not in config.text_config.to_dict():
        return []
    asked = {**SIGHTS.lesson(), "output_router_logits": True}
    real = asked["attention_mask"].bool()
    row = {**SIGHTS.rows()[1], "output_router_logits": True}
    return [Question(asked, ("loss", "aux_loss", "logits"), real), Question(row, ("aux_loss", "router_logits"))]


class TestQwen3VL(Parity):
    table = table("qwen3_vl", "Qwen3VL", VARIANTS)


class TestQwen3VLMoe(Parity):
    table = table(
        "qwen3_vl_moe", "Qwen3VLMoe",
        {
            "plain": {},
            "some dense": {"text": {"mlp_only_layers": [0]}},
            "told unasked": {"text": {"output_router_logits": True, "router_aux_loss_coef": 0.3}},
        },
        **EXPERTS,
    )  # fmt: skip


def test_experts_that_lie_the_other_way_round(tmp_path):
    """As the published files have them; saved again, they lie as they did."""
    theirs = saved_reference(
        transformers.Qwen3VLMoeForConditionalGeneration, TestQwen3VLMoe.table.config(), tmp_path / "model", scale=0.2
    )
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    turned = {k: x.transpose(1, 2).contiguous() if ".experts." in k else x for k, x in tensors.items()}
    save_file(turned, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    theirs.set_experts_implementation("eager")  # its kernels take no odd sizes
    ours = omniform.AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    batch = SIGHTS.rows()[0]
    compare(ours, theirs, batch, ("logits",))
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


def text_table(model_type, prefix, **more):
    return Table(
        model_type=f"{model_type}_text",
        config=getattr(transformers, f"{prefix}TextConfig"),
        tiny={**TEXT, **ROPE, **more},
        heads={"Model": Head(f"{prefix}TextModel", "AutoModel", Given(told), everywhere=True)},
        variants={"plain": {}, "biases": {"attention_bias": True}},
    )


def told(config):
    """Text alone, and text to whose first layer something is told."""
    torch.manual_seed(3)
    ids, marked = torch.randint(3, 97, (2, 7)), torch.tensor([[0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0]]).bool()
    deep = [torch.randn(4, 16)]
    fields = ("last_hidden_state", "hidden_states", "attentions")
    yield Question({"input_ids": ids}, fields)
    yield Question({"input_ids": ids, "visual_pos_masks": marked, "deepstack_visual_embeds": deep}, fields)


class TestQwen3VLText(Parity):
    table = text_table("qwen3_vl", "Qwen3VL")


class TestQwen3VLMoeText(Parity):
    table = text_table("qwen3_vl_moe", "Qwen3VLMoe", **EXPERTS)


class TestQwen3VLMoeVision(Parity):
    table = Table(
        model_type="qwen3_vl_moe_vision",
        config=transformers.Qwen3VLMoeVisionConfig,
        tiny=VISION,
        heads={"Model": Head("Qwen3VLMoeVisionModel", "AutoModel", Given(shown))},
    )


def test_goes_on_from_a_cache():
    built = build(TestQwen3VL.table.case("ForConditionalGeneration", scale=0.3))
    goes_on(built.ours, built.theirs, SIGHTS.rows()[1])
