"""Phi-3 against the reference: fused projections, long and short rotary factors, part of a head turned."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from harness import Case, Parity, Table, bare, build, compiled, decoder_heads, over
from safetensors.torch import save_file
from torch import nn
from writers import Prompts

from omniform.core.errors import ConfigError
from omniform.models.registry import known_families
from reference import close, omniform, ragged, randomise, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "original_max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}


def longrope(trained: int, **more: object) -> dict[str, object]:
    """Rows of up to ``trained`` tokens have short factors, longer ones long ones."""
    settings = {"rope_type": "longrope", "rope_theta": 1e4, **FACTORS, **more}
    return {
        "rope_parameters": {**settings, "original_max_position_embeddings": trained},
        "original_max_position_embeddings": trained,
    }


PARTLY = {"short_factor": [1.0, 1.2], "long_factor": [2.0, 5.0], "partial_rotary_factor": 0.5}

TABLE = Table(
    model_type="phi3",
    config=transformers.Phi3Config,
    tiny=TINY,
    heads=decoder_heads("Phi3", without=["ForQuestionAnswering"]),
    variants={
        "plain": {},
        "one key head": {"num_key_value_heads": 1},
        "all key heads": {"num_key_value_heads": None},
        "tied": {"tie_word_embeddings": True},
        "epsilon": {"rms_norm_eps": 1e-2, "hidden_act": "gelu"},
        "window": {"sliding_window": 4},
        "window of one": {"sliding_window": 1},
        "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        "half of a head": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
        },
        "short": longrope(32),
        "short, to the token": longrope(14),
        "long": longrope(6),
        "long, half of a head": longrope(6, **PARTLY),
        "short, half of a head": longrope(32, **PARTLY),
        "as trained": {**longrope(32), "max_position_embeddings": 32},
    },
    writes=("ForCausalLM", Prompts()),
    writing=["plain", "one key head", "window", "half of a head", "short"],
    spellings={"bare": bare("model"), "compiled": compiled},
)


def both(raw: dict[str, object], folder: Path, ours: Mapping[str, object] = {}) -> tuple[nn.Module, nn.Module]:
    """Ours and the reference's for a ``config.json`` as it was written by hand, with the same weights.

    Args:
        ours: what stands in the file that we read instead.
    """
    torch.manual_seed(0)
    theirs = transformers.Phi3Model(transformers.Phi3Config(**copy.deepcopy(raw))).eval()
    randomise(theirs)
    (folder / "config.json").write_text(json.dumps({"model_type": "phi3", **raw, **ours}))
    save_file(theirs.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return omniform.AutoModel.from_pretrained(folder), theirs


class TestPhi3(Parity):
    table = TABLE

    @over(lambda table: iter([table.case("ForCausalLM", "short, to the token"), table.case("ForCausalLM", "long")]))
    @torch.no_grad()
    def test_rows_on_both_sides_of_what_it_was_trained_on(self, case: Case) -> None:
        built = build(case)
        for length in (1, 5, 6, 7, 13, 14, 15, 16, 30):
            ids = torch.stack(ragged(97, [length, length]))
            expected = copy.deepcopy(built.theirs)(ids).logits
            close(built.ours(ids).logits, expected, f"{length} tokens")

    @pytest.mark.parametrize("spelt", [{"type": "su"}, {"type": "yarn"}, {"rope_type": "su"}, {"type": "longrope"}])
    def test_long_factors_under_their_first_names(self, spelt: dict[str, str], tmp_path: Path) -> None:
        """The first releases say ``rope_scaling``, and name its kind as they did that week."""
        now = {**TINY, "original_max_position_embeddings": 6, "rope_scaling": {"rope_type": "longrope", **FACTORS}}
        ours, theirs = both(now, tmp_path, {"rope_scaling": {**spelt, **FACTORS}})
        for length in (4, 9):
            ids = torch.stack(ragged(97, [length]))
            close(ours(ids).last_hidden_state, theirs(ids).last_hidden_state, f"{length} tokens")

    def test_drops_out_branches_and_no_embeddings(self, tmp_path: Path) -> None:
        """All branches dropped out leave the embeddings, which the reference never drops out."""
        ours, theirs = both({**TINY, "resid_pdrop": 1.0, "embd_pdrop": 0.9}, tmp_path)
        ids = torch.stack(ragged(97, [5]))
        close(ours.train()(ids).last_hidden_state, theirs.train()(ids).last_hidden_state)

    def test_what_it_does_not_have_is_refused(self) -> None:
        for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
            with pytest.raises(ConfigError, match=name):
                omniform.AutoConfig.for_model("phi3", **TINY, **{name: True})
        factors = {"rope_type": "longrope", **FACTORS, "short_factor": [1.0]}
        with pytest.raises(ConfigError, match="short_factor"):
            omniform.AutoConfig.for_model("phi3", **TINY, rope_parameters=factors)

    @pytest.mark.parametrize("trained", [10, 12, 15])
    def test_writes_across_what_it_was_trained_on(self, trained: int) -> None:
        """The reference computes a row's keys anew when it outgrows the short factors."""
        assert "phi3" in known_families()
        table = Table(
            model_type="phi3", config=transformers.Phi3Config, tiny={**TINY, **longrope(trained)}, heads=TABLE.heads,
            writes=TABLE.writes, variants={f"trained on {trained}": {}},
        )  # fmt: skip
        built = build(table.case("ForCausalLM", f"trained on {trained}", scale=0.4))
        for row in ragged(97, [9, 4]):
            asked = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": 0}
            mask = torch.ones_like(row)[None]
            expected = copy.deepcopy(built.theirs).generate(row[None], attention_mask=mask, **asked)
            assert built.ours.generate(row[None], **asked).tolist() == expected.tolist()
