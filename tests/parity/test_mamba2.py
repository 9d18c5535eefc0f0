"""Mamba 2 against the reference: no attention at all, a state of fixed size."""

from __future__ import annotations

from askers import Nothing, Question, Text, Words
from harness import Case, Head, Parity, Table, ask, bare, build, compiled, match, over
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "state_size": 6,
    "n_groups": 2, "expand": 2, "conv_kernel": 4, "chunk_size": 8, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
TAPS = ("hidden_states",)


class TestMamba2(Parity):
    table = Table(
        model_type="mamba2",
        config=transformers.Mamba2Config,
        tiny=TINY,
        heads={
            "Model": Head("Mamba2Model", "AutoModel", Text(Nothing(), taps=TAPS)),
            "ForCausalLM": Head(
                "Mamba2ForCausalLM", "AutoModelForCausalLM", Text(Words(), taps=TAPS), everywhere=True
            ),
        },
        variants={
            "plain": {},
            "tied, one group, narrow stream": {
                "tie_word_embeddings": True, "n_groups": 1, "residual_in_fp32": False, "conv_kernel": 2,
            },
            "no bias, wide heads, epsilon": {
                "use_conv_bias": False, "num_heads": 4, "head_dim": 24, "expand": 3, "layer_norm_epsilon": 1e-2,
                "n_groups": 4,
            },
            "limited": {"time_step_limit": (0.3, 0.7), "hidden_act": "gelu"},
            "biases": {"use_bias": True},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "tied, one group, narrow stream", "no bias, wide heads, epsilon"],
        spellings={
            "bare": bare("backbone"), "compiled": compiled,
            "first": lambda key: key.replace("embeddings.", "embedding."),
        },
    )  # fmt: skip

    @over(lambda table: iter([table.case("ForCausalLM", variant) for variant in ("plain", "biases")]))
    def test_padding_in_front(self, case: Case) -> None:
        """With biases, the reference's convolutions see what its projections make of nothing."""
        ids, mask = case.architecture.asks.batch("left")  # type: ignore[attr-defined]
        question = Question({"input_ids": ids, "attention_mask": mask}, ("logits",), real=mask.bool())
        built = build(case)
        found, expected = (ask(model, question, "eager") for model in (built.ours, built.theirs))
        match(found["logits"], expected["logits"], question, case.variant)
