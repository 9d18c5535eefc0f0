"""GPT against the reference, which keeps no keys and values: it is asked for none."""

from __future__ import annotations

import copy

import harness
import pytest
import torch
from askers import Text, Words, counted
from harness import Case, Head, Parity, Table, bare, decoder_heads, over
from writers import Prompts

from reference import check_round_trip, compare, omniform, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def more(ids):
    """Token types are tokens too."""
    return {"token_type_ids": ids.flip(1), "use_cache": False}


HEADS = decoder_heads("OpenAIGPT", without=["ForCausalLM", "ForToken", "ForQuestion"], more=more, embeds=None)


class TestGPT(Parity):
    table = Table(
        model_type="openai-gpt",
        config=transformers.OpenAIGPTConfig,
        tiny=TINY,
        heads={
            **HEADS,
            "LMHeadModel": Head(
                "OpenAIGPTLMHeadModel",
                "AutoModelForCausalLM",
                Text(Words(), positions=counted, more=more, embeds=None),
                everywhere=True,
            ),
        },
        variants={
            "plain": {},
            "relu": {"afn": "relu", "layer_norm_epsilon": 1e-2},
            "swish, untied": {"afn": "swish", "tie_word_embeddings": False},
        },
        writes=("LMHeadModel", Prompts()),
        scale=0.8,
        spellings={"bare": bare("transformer")},
    )

    @over(Table.each)
    def test_bfloat16(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        """The reference's causal mask is in no file, and still of the model's dtype."""
        monkeypatch.setattr(harness, "halved", lambda theirs: copy.deepcopy(theirs).bfloat16())
        super().test_bfloat16(case)


@pytest.mark.parametrize("summary", [{}, {"summary_proj_to_labels": False, "summary_activation": "gelu"}])
def test_double_heads(tmp_path, summary):
    config = transformers.OpenAIGPTConfig(**{**TINY, **summary})
    theirs = saved_reference(transformers.OpenAIGPTDoubleHeadsModel, config, tmp_path / "model", scale=0.2)
    ours = omniform.AutoModelForMultipleChoice.from_pretrained(tmp_path / "model")
    ids = torch.stack(ragged(97, [7] * 6)).view(2, 3, 7)
    places = torch.tensor([[6, 4, 6], [0, 2, 3]])
    compare(ours, theirs, {"input_ids": ids, "mc_token_ids": places}, ["logits", "mc_logits"])
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")
