"""Mamba and Falcon Mamba against the reference: a state for every channel."""

from __future__ import annotations

from askers import Nothing, Question, Text, Words
from harness import Case, Head, Parity, Table, ask, bare, build, compiled, match, over
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 6, "expand": 2, "conv_kernel": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TAPS = ("hidden_states",)


def table(model_type: str, prefix: str, **variants: dict[str, object]) -> Table:
    """What both are asked."""
    return Table(
        model_type=model_type,
        config=getattr(transformers, f"{prefix}Config"),
        tiny=TINY,
        heads={
            "Model": Head(f"{prefix}Model", "AutoModel", Text(Nothing(), taps=TAPS)),
            "ForCausalLM": Head(
                f"{prefix}ForCausalLM", "AutoModelForCausalLM", Text(Words(), taps=TAPS), everywhere=True
            ),
        },
        variants={
            "plain": {},
            "untied, narrow stream": {
                "tie_word_embeddings": False, "residual_in_fp32": False, "conv_kernel": 2, "time_step_rank": 5,
                "expand": 16, "intermediate_size": 40,
            },
            **variants,
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "untied, narrow stream"],
        spellings={"bare": bare("backbone"), "compiled": compiled},
    )  # fmt: skip


class TestMamba(Parity):
    table = table(
        "mamba",
        "Mamba",
        **{
            "no bias, epsilon": {"use_conv_bias": False, "expand": 3, "layer_norm_epsilon": 1e-2, "hidden_act": "gelu"},
            "biases": {"use_bias": True},
        },
    )

    @over(lambda table: iter([table.case("ForCausalLM", "biases")]))
    def test_padding_in_front(self, case: Case) -> None:
        """With biases, the reference's convolutions see what its projections make of nothing."""
        ids, mask = case.architecture.asks.batch("left")  # type: ignore[attr-defined]
        question = Question({"input_ids": ids, "attention_mask": mask}, ("logits",), real=mask.bool())
        built = build(case)
        found, expected = (ask(model, question, "eager") for model in (built.ours, built.theirs))
        match(found["logits"], expected["logits"], question, case.variant)


class TestFalconMamba(Parity):
    table = table("falcon_mamba", "FalconMamba", epsilon={"mixer_rms_eps": 1e-2})
