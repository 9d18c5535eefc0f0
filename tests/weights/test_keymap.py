"""The key table: templates, prefixes, shares, ties, aliases, collisions, and reading as the inverse of writing."""

from __future__ import annotations

import pytest
import torch

from omniform.core.errors import WeightsError
from omniform.weights.keymap import KeyMap, is_unwrapped
from omniform.weights.links import (
    Groups,
    Link,
    Rows,
    fused,
    interleaved,
    split,
    stacked,
    transposed,
    unsqueezed,
)


def shapes(*paths: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(paths, (2, 2))


def keys(table) -> dict[str, str]:
    return {path: table.key(path) for path in table.links}


def test_what_no_rule_matches_is_the_same_on_both_sides():
    assert keys(KeyMap({}).expand(shapes("a.weight", "b"))) == {"a.weight": "a.weight", "b": "b"}


def test_templates_keep_what_follows():
    table = KeyMap({"layers.{i}.self_attn.q_proj": "h.{i}.attn.q", "norm": "ln_f"}).expand(
        shapes(
            "layers.0.self_attn.q_proj.weight", "layers.11.self_attn.q_proj.lora_A.weight",
            "layers.0.self_attn.q_proj_norm.weight", "norm.weight", "norms.weight",
        )
    )  # fmt: skip
    assert keys(table) == {
        "layers.0.self_attn.q_proj.weight": "h.0.attn.q.weight",
        "layers.11.self_attn.q_proj.lora_A.weight": "h.11.attn.q.lora_A.weight",
        "layers.0.self_attn.q_proj_norm.weight": "layers.0.self_attn.q_proj_norm.weight",  # another module
        "norm.weight": "ln_f.weight",
        "norms.weight": "norms.weight",
    }


def test_numbers_may_change_places_and_names_of_numbers_differ():
    table = KeyMap({"stages.{i}.layers.{j}": "layer.{j}.of.{i}"}).expand(shapes("stages.1.layers.22.weight"))
    assert keys(table) == {"stages.1.layers.22.weight": "layer.22.of.1.weight"}
    # {i} stands for a number and for nothing else.
    assert keys(KeyMap({"layers.{i}": "h.{i}"}).expand(shapes("layers.x.w"))) == {"layers.x.w": "layers.x.w"}


def test_the_longest_template_wins():
    keymap = KeyMap({"layers.{i}": "h.{i}", "layers.{i}.mlp": "h.{i}.ffn", "layers.0.mlp.fc": "special"})
    table = keymap.expand(shapes("layers.0.mlp.fc.weight", "layers.1.mlp.fc.weight", "layers.1.norm.weight"))
    assert sorted(keys(table).values()) == ["h.1.ffn.fc.weight", "h.1.norm.weight", "special.weight"]


def test_a_map_moves_into_a_bigger_model():
    inner = KeyMap(
        {"norm": "ln_f", "layers.{i}.q": split("h.{i}.qkv", 0, 1)}, [(r"^old\.", "h."), (r"gain$", "weight")]
    )
    table = inner.under("model", "transformer").expand(
        {"model.norm.weight": (2,), "model.layers.3.q.weight": (2, 2), "model.other": (2,), "lm_head.weight": (2, 2)}
    )
    assert keys(table) == {
        "model.norm.weight": "transformer.ln_f.weight",
        "model.layers.3.q.weight": "transformer.h.3.qkv.weight",
        "model.other": "transformer.other",
        "lm_head.weight": "lm_head.weight",
    }
    assert table.canonical("transformer.ln_f.gain") == "transformer.ln_f.weight"
    assert table.canonical("transformer.old.3.qkv.weight") == "transformer.h.3.qkv.weight"
    assert table.canonical("old.3.qkv.weight") is None


def test_a_base_without_a_prefix():
    table = KeyMap({"norm": "ln_f"}).under("model", "").expand(shapes("model.norm.weight", "model.embed.weight"))
    assert keys(table) == {"model.norm.weight": "ln_f.weight", "model.embed.weight": "embed.weight"}


def test_maps_join_and_the_right_one_wins():
    joined = KeyMap({"a": "1", "b": "2"}, [("x", "y")], ["s"]) | KeyMap({"b": "3"}, [("z", "w")], ["t"])
    assert joined.rules == {"a": "1", "b": "3"}
    assert tuple(joined.aliases) == (("x", "y"), ("z", "w")) and tuple(joined.ignored) == ("s", "t")


WHOLE = [
    ([Link("k")], (3, 4), (3, 4)),
    ([Link("k")], (5,), (5,)),
    ([transposed("k")], (3, 4), (4, 3)),
    ([transposed("k")], (5,), (5,)),
    ([unsqueezed("k", 2)], (6,), (1, 1, 6)),
    ([split("k", i, 3) for i in range(3)], (3, 4), (9, 4)),
    ([split("k", i, 3) for i in range(3)], (4,), (12,)),
    ([split("k", i, 3, transposed=True) for i in range(3)], (5, 4), (4, 15)),
    ([split("k", i, 2, transposed=True) for i in range(2)], (5,), (10,)),
]


@pytest.mark.parametrize(("links", "ours", "theirs"), WHOLE)
def test_writing_is_the_inverse_of_reading(links, ours, theirs):
    table = KeyMap({f"m{i}": link for i, link in enumerate(links)}).expand({f"m{i}": ours for i in range(len(links))})
    assert table.shapes == {"k": theirs}
    whole = torch.arange(float(torch.Size(theirs).numel())).view(theirs)
    mine = {path: table.read(path, {"k": whole}.__getitem__) for path in table.links}
    assert all(tuple(t.shape) == ours for t in mine.values())
    assert all(table.is_view(path) for path in mine)
    assert all(t.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr() for t in mine.values())  # views
    assert torch.equal(table.write(mine)["k"], whole)
    # The shares are distinct and in order.
    together = torch.cat([t.flatten() for t in mine.values()])
    assert torch.equal(together.sort().values, whole.flatten())


def round_trip(table, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Ours, after checking that they write back to what was stored."""
    assert {key: tuple(t.shape) for key, t in stored.items()} == dict(table.shapes)
    ours = {path: table.read(path, stored.__getitem__) for path in table.links}
    assert {path: tuple(t.shape) for path, t in ours.items()} == dict(table.ours)
    again = table.write(ours)
    assert again.keys() == stored.keys() and all(torch.equal(again[key], t) for key, t in stored.items())
    return ours


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


def test_fused_layers_of_unequal_widths_split_weights_biases_and_packed_forms_alike():
    keymap = KeyMap(fused("l.{i}.qkv", {"layers.{i}.q": 4, "layers.{i}.k": 2, "layers.{i}.v": 2}))
    sizes = {"q": 4, "k": 2, "v": 2}
    shapes = {f"layers.1.{name}.weight": (n, 3) for name, n in sizes.items()}
    shapes |= {f"layers.1.{name}.bias": (n,) for name, n in sizes.items()}
    shapes |= {f"layers.1.{name}.qweight": (5, n) for name, n in sizes.items()}  # packed along the inputs
    shapes |= {f"layers.1.{name}.scales": (2, n) for name, n in sizes.items()}
    stored = {"l.1.qkv.weight": numbers(8, 3), "l.1.qkv.bias": numbers(8)}
    stored |= {"l.1.qkv.qweight": numbers(5, 8), "l.1.qkv.scales": numbers(2, 8)}
    ours = round_trip(keymap.expand(shapes), stored)
    assert torch.equal(ours["layers.1.k.weight"], stored["l.1.qkv.weight"][4:6])
    assert torch.equal(ours["layers.1.v.qweight"], stored["l.1.qkv.qweight"][:, 6:])


def test_heads_that_lie_interleaved():
    # Per group: two heads of q, one of k, one of v, each 3 wide.
    keymap = KeyMap(interleaved("qkv", 2, {"q": 6, "k": 3, "v": 3}))
    stored = {"qkv.weight": numbers(24, 5), "qkv.bias": numbers(24)}
    shapes = {
        "q.weight": (12, 5),
        "k.weight": (6, 5),
        "v.weight": (6, 5),
        "q.bias": (12,),
        "k.bias": (6,),
        "v.bias": (6,),
    }
    table = keymap.expand(shapes)
    ours = round_trip(table, stored)
    assert not table.is_view("q.weight")
    assert torch.equal(ours["k.weight"], stored["qkv.weight"].view(2, 12, 5)[:, 6:9].reshape(6, 5))


def test_experts_one_by_one_and_stacked():
    one_by_one = KeyMap(
        {
            "layers.{i}.experts.gate_up": (
                Link("layers.{i}.experts.{n}.gate.weight", ours=(Rows(0, 4),), each=3),
                Link("layers.{i}.experts.{n}.up.weight", ours=(Rows(4, 8),), each=3),
            ),
            "layers.{i}.experts.down": stacked("layers.{i}.experts.{n}.down.weight", 3),
        }
    )
    shapes = {"layers.7.experts.gate_up": (3, 8, 5), "layers.7.experts.down": (3, 5, 4)}
    stored = {}
    for n in range(3):
        stored |= {f"layers.7.experts.{n}.{name}.weight": numbers(4, 5) + 100 * n for name in ("gate", "up")}
        stored[f"layers.7.experts.{n}.down.weight"] = numbers(5, 4) - n
    ours = round_trip(one_by_one.expand(shapes), stored)
    assert torch.equal(ours["layers.7.experts.gate_up"][2, :4], stored["layers.7.experts.2.gate.weight"])
    # One of several that lie stacked in the checkpoint, and apart with us.
    apart = KeyMap({f"e.{n}": Link("all", (Rows(n, n + 1, axis=0),), (Groups(1, axis=0),)) for n in range(2)})
    ours = round_trip(apart.expand({"e.0.w": (3, 4), "e.1.w": (3, 4)}), {"all.w": numbers(2, 3, 4)})
    assert torch.equal(ours["e.1.w"], numbers(2, 3, 4)[1])


def test_links_that_leave_numbers_without_a_place_are_refused():
    with pytest.raises(WeightsError, match="k: links cover 8 of 12"):
        KeyMap({"a": Link("k", (Rows(0, 2),)), "b": Link("k", (Rows(4, 6),))}).expand({"a": (2, 2), "b": (2, 2)})
    with pytest.raises(WeightsError, match="a: links cover 4 of 8"):
        KeyMap({"a": Link("k", ours=(Rows(0, 2),))}).expand({"a": (4, 2)})


def test_collisions_are_refused():
    with pytest.raises(WeightsError, match=r"b.weight and a.weight both map to x.weight"):
        KeyMap({"a": "x", "b": "x"}).expand(shapes("a.weight", "b.weight"))
    with pytest.raises(WeightsError, match="both map to k"):
        KeyMap({"a": split("k", 0, 2), "b": split("k", 0, 2)}).expand(shapes("a", "b"))
    KeyMap({"a": split("k", 0, 2), "b": split("k", 1, 2)}).expand(shapes("a", "b"))


def test_ties():
    table = KeyMap({"model": "base"}).expand(
        shapes("model.embed.weight"), ties={"lm_head.weight": "model.embed.weight"}
    )
    assert set(table.shapes) == {"base.embed.weight"}
    assert table.duplicates == {"lm_head.weight": "base.embed.weight"}
    assert table.copies == {"lm_head.weight": "lm_head.weight"}
    assert table.canonical("lm_head.weight") == "lm_head.weight"
    # A second name that maps to a key which is wanted anyway is no copy.
    same = KeyMap({"a": "x", "b": "x"}).expand(shapes("a"), ties={"b": "a"})
    assert not same.duplicates and set(same.shapes) == {"x"}


def test_old_spellings():
    table = KeyMap({}, aliases=[(r"\.wide\.", ".fc1.")]).expand(
        shapes(
            "LayerNorm.weight", "LayerNorm.bias", "mlp.fc1.weight", "gamma", "conv.parametrizations.weight.original0"
        )
    )
    assert table.canonical("LayerNorm.gamma") == "LayerNorm.weight"
    assert table.canonical("LayerNorm.beta") == "LayerNorm.bias"
    assert table.canonical("mlp.wide.weight") == "mlp.fc1.weight"
    assert table.canonical("module.mlp.wide.weight") == "mlp.fc1.weight"
    assert table.canonical("_orig_mod.mlp.fc1.weight") == "mlp.fc1.weight"
    assert table.canonical("conv.weight_g") == "conv.parametrizations.weight.original0"
    assert table.canonical("gamma") == "gamma"  # what exists under its own name is not renamed
    assert table.canonical("mlp.fc2.weight") is None
    assert is_unwrapped("LayerNorm.gamma") and not is_unwrapped("module.x") and not is_unwrapped("_orig_mod.x")


def test_prefixes_that_files_lack_or_have_too_many_of():
    table = KeyMap({}).expand(shapes("model.embed.weight", "norm.weight"))
    assert table.canonical("embed.weight", ["model"]) == "model.embed.weight"
    assert table.canonical("model.norm.weight", ["model"]) == "norm.weight"
    assert table.canonical("model.model.embed.weight", ["model"]) == "model.embed.weight"
    assert table.canonical("embed.weight") is None
    assert table.canonical("modelnorm.weight", ["model"]) is None


def test_strays():
    table = KeyMap({}, ignored=[r"attn\.masked_bias$"]).expand(shapes("a"))
    for key in (
        "embeddings.position_ids", "position_ids", "layers.0.self_attn.rotary_emb.inv_freq", "bn.num_batches_tracked",
        "h.0.attn.masked_bias",
    ):  # fmt: skip
        assert table.is_ignored(key), key
    for key in ("position_ids.weight", "my_position_ids", "inv_freq", "masked_bias"):
        assert not table.is_ignored(key), key


@pytest.mark.parametrize(
    "path", ["a.b{i}.c", "weird {name}", "a..b", "", "ünïcode", "a.{0}", "x" * 300], ids=lambda p: p[:12]
)
def test_odd_paths_are_kept(path):
    assert keys(KeyMap({"layers.{i}": "h.{i}"}).expand({path: (1,)})) == {path: path}
