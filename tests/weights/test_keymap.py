"""The key table: templates, prefixes, shares, ties, aliases, collisions, and reading as the inverse of writing."""

from __future__ import annotations

import pytest
import torch

from omniform.core.errors import WeightsError
from omniform.weights.keymap import KeyMap, Piece, is_current, split, transposed, unsqueezed


def shapes(*paths: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(paths, (2, 2))


def keys(table) -> dict[str, str]:
    return {path: piece.key for path, piece in table.pieces.items()}


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
        {"norm": "ln_f", "layers.{i}.q": split("h.{i}.qkv", 0, 3)}, [(r"^old\.", "h."), (r"gain$", "weight")]
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


PIECES = [
    ([Piece("k")], (3, 4), (3, 4)),
    ([Piece("k")], (5,), (5,)),
    ([transposed("k")], (3, 4), (4, 3)),
    ([transposed("k")], (5,), (5,)),
    ([unsqueezed("k", 2)], (6,), (1, 1, 6)),
    ([split("k", i, 3) for i in range(3)], (3, 4), (3, 12)),
    ([split("k", i, 3) for i in range(3)], (4,), (12,)),
    ([split("k", i, 3, transposed=True) for i in range(3)], (5, 4), (4, 15)),
    ([split("k", i, 2, transposed=True) for i in range(2)], (5,), (10,)),
]


@pytest.mark.parametrize(("pieces", "ours", "theirs"), PIECES)
def test_writing_is_the_inverse_of_reading(pieces, ours, theirs):
    keymap = KeyMap({f"m{i}": piece for i, piece in enumerate(pieces)})
    table = keymap.expand({f"m{i}": ours for i in range(len(pieces))})
    assert table.shapes == {"k": theirs}
    whole = torch.arange(float(torch.Size(theirs).numel())).view(theirs)
    mine = {path: piece.read(whole) for path, piece in table.pieces.items()}
    assert all(tuple(t.shape) == ours for t in mine.values())
    assert all(t.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr() for t in mine.values())  # views
    assert torch.equal(table.write(mine)["k"], whole)
    # The shares are distinct and in order.
    together = torch.cat([t.flatten() for t in mine.values()])
    assert torch.equal(together.sort().values, whole.flatten())


def test_a_split_reads_the_part_it_says():
    whole = torch.arange(24.0).view(2, 12)
    assert torch.equal(split("k", 1, 3).read(whole), whole[:, 4:8])
    assert torch.equal(split("k", 2, 3, transposed=True).read(whole), whole[:, 8:].t())


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
    assert is_current("LayerNorm.weight") and not is_current("LayerNorm.gamma") and not is_current("module.x")


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
