"""Mixtral against the reference: a window, experts, routers and what they are trained by."""

from __future__ import annotations

import torch
from harness import Case, Parity, Table, bare, build, compiled, over, routed_heads
from writers import Prompts

from omniform.architectures.routed import balance_loss
from reference import close, omniform, ragged, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "num_local_experts": 4, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

TABLE = Table(
    model_type="mixtral",
    config=transformers.MixtralConfig,
    tiny=TINY,
    heads=routed_heads("Mixtral"),
    variants={
        "plain": {},
        "window, tied, gelu": {
            "sliding_window": 4, "tie_word_embeddings": True, "hidden_act": "gelu", "rms_norm_eps": 1e-2
        },
        "odd sizes": {
            "hidden_size": 36, "intermediate_size": 13, "num_local_experts": 3, "num_experts_per_tok": 1,
            "num_key_value_heads": 1, "head_dim": 16, "rope_parameters": {"rope_type": "linear", "factor": 2.0,
            "rope_theta": 1e4},
        },
        "router's loss": {"output_router_logits": True, "router_aux_loss_coef": 0.5, "num_experts_per_tok": 4},
        "jitter": {"router_jitter_noise": 0.1},
    },
    writes=("ForCausalLM", Prompts()),
    writing=["plain", "window, tied, gelu"],
    spellings={"bare": bare("model"), "compiled": compiled},
    half=0.2,  # a router that chooses another expert is no mistake of rounding
)  # fmt: skip


class TestMixtral(Parity):
    table = TABLE

    @over(lambda table: iter([table.case("ForCausalLM", "jitter")]))
    def test_jitter_in_training_alone(self, case: Case) -> None:
        built = build(case)
        ours, inputs = built.again(case), case.lesson()
        with torch.no_grad():
            still = ours(**inputs).loss
            ours.train()
            torch.manual_seed(0)
            losses = torch.stack([ours(**inputs).loss for _ in range(3)])
        assert len(set(losses.tolist())) == 3
        close(losses, still.expand(3), tolerance=0.2)

    @over(lambda table: iter([table.case("ForCausalLM", "router's loss")]))
    @torch.no_grad()
    def test_a_step_after_others_counts_its_own_tokens(self, case: Case) -> None:
        """The reference takes no mask then."""
        built = build(case)
        ids, mask = case.architecture.asks.batch()  # type: ignore[attr-defined]
        whole = built.ours(ids, attention_mask=mask)
        first = built.ours(ids[:, :7], attention_mask=mask[:, :7])
        rest = built.ours(ids[:, 7:], attention_mask=mask, past_key_values=first.past_key_values)
        rows = len(ids)
        for one, two, both in zip(first.router_logits, rest.router_logits, whole.router_logits, strict=True):
            split = torch.cat((one.view(rows, 7, -1), two.view(rows, 5, -1)), 1)
            close(split[mask.bool()], both.view(rows, 12, -1)[mask.bool()])
        close(rest.aux_loss, balance_loss(rest.router_logits, 4, mask[:, 7:]))

    @over(lambda table: iter([table.case("Model", "router's loss")]))
    @torch.no_grad()
    def test_the_base_tells_what_its_config_says(self, case: Case) -> None:
        built = build(case)
        ids = torch.stack(ragged(97, [5, 5]))
        close(built.ours(ids).router_logits, built.theirs(ids).router_logits)
        assert built.ours(ids, output_router_logits=False).router_logits is None
        rows = omniform.AutoModelForSequenceClassification.from_pretrained(built.folder)
        assert [*rows(ids)] == ["logits", "past_key_values"]


def test_balance_of_many_tokens_in_half_precision_and_under_a_mask_of_pairs() -> None:
    """Sums of bfloat16 would stop growing."""
    torch.manual_seed(0)
    scores = tuple(torch.randn(2000, 4).bfloat16() for _ in range(3))
    mask = (torch.arange(1000) < torch.tensor([[1000], [700]])).long()
    theirs = transformers.models.mixtral.modeling_mixtral.load_balancing_loss_func
    for given in (None, mask):
        close(balance_loss(scores, 2, given), theirs(scores, 4, 2, given), tolerance=1e-6)
    close(balance_loss(scores, 2, torch.zeros(2, 1, 1000, 1000)), balance_loss(scores, 2, None), tolerance=0)
