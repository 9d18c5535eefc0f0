"""Decoders whose layers send tokens to experts, and what their routers are trained by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, cast

import torch
from torch import Tensor

from omniform.architectures.decoder import CausalLM, TextDecoder
from omniform.architectures.decoder_family import Adjust, DecoderHeads, HasText
from omniform.architectures.lean import LossOnly
from omniform.architectures.losses import share_of
from omniform.core.config import Common
from omniform.core.outputs import BaseModelOutput, MoECausalLMOutput
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap, Layout, Rule
from omniform.weights.links import Link, Share, stacked


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How tokens are sent to experts, and what the routers are trained by.

    Attributes:
        experts: how many there are in a layer.
        top: how many of them a token goes through.
        unasked: whether the routers' scores are returned where nobody says.
        coefficient: what the loss of balance counts for beside that of the tokens.
    """

    experts: int
    top: int
    unasked: bool
    coefficient: float

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        experts: int,
        top: int,
        names: tuple[str, ...] = ("num_experts", "num_local_experts"),
        coefficient: float = 0.001,
        least: int = 1,
    ) -> Self:
        """The fields under their usual names; the arguments are their defaults.

        Args:
            names: of the number of experts, the one that counts first.
            least: how many experts there are at least.
        """
        count, each = r.integer(names[0], experts, also=names[1:], least=least), r.integer("num_experts_per_tok", top)
        if count and each > count:
            raise r.fail("num_experts_per_tok", f"at most {count} ({names[0]})", each)
        return cls(
            experts=count,
            top=each,
            unasked=r.flag("output_router_logits", False),
            coefficient=r.number("router_aux_loss_coef", coefficient),
        )

    def told(self, model: TextDecoder) -> TextDecoder:
        """A decoder that returns its routers' scores unasked, if the config says so."""
        model.routes_unasked = self.unasked
        return model


def read_sparse(r: ConfigReader, layers: int, experts: int) -> tuple[bool, ...]:
    """Which layers have experts: ``mlp_only_layers`` have none, nor has what ``decoder_sparse_step`` steps over."""
    dense, every = r.integers("mlp_only_layers", ()), r.integer("decoder_sparse_step", 1)
    return tuple(i not in dense and experts > 0 and (i + 1) % every == 0 for i in range(layers))


def expert_keys(
    count: int, *, block: str = "mlp", gate: str = "gate", names: Sequence[str] = ("gate_proj", "up_proj", "down_proj")
) -> KeyMap:
    """Where the experts of :class:`~omniform.blocks.moe.Experts` lie: one by one, or stacked as in newer files.

    Args:
        count: how many there are.
        block: what the checkpoint calls the feed-forward, where they lie one by one.
        gate: what it calls the router then.
        names: of one expert's gate, up and down.
    """
    ours, each = "layers.{i}.mlp", f"layers.{{i}}.{block}.experts.{{n}}"
    in_gate, in_up, out = (f"{each}.{name}" for name in names)
    rules: dict[str, Rule] = {
        f"{ours}.gate": f"layers.{{i}}.{block}.{gate}",
        f"{ours}.experts.gate_up_proj": tuple(
            Link(key, ours=(Share(part, 2),), each=count) for part, key in enumerate((in_gate, in_up))
        ),
        f"{ours}.experts.down_proj": stacked(out, count),
    }
    return KeyMap(rules, layouts=(Layout(r"\.mlp\.experts\.gate_up_proj$", STACKED_KEYS),))


STACKED_KEYS: dict[str, Rule] = {
    f"layers.{{i}}.mlp.{path}": f"layers.{{i}}.mlp.{key}"
    for path, key in (
        ("gate", "gate"),
        ("experts.gate_up_proj", "experts.gate_up_proj"),
        ("experts.gate_up_proj.weight", "experts.gate_up_proj"),
        ("experts.down_proj", "experts.down_proj"),
        ("experts.down_proj.weight", "experts.down_proj"),
    )
}
"""Where newer files have the experts of a layer: in two stacks, which are parameters and no modules."""


class RoutedCausalLM(CausalLM):
    """A language model of experts that writes.

    Attributes:
        top: how many experts a token goes through.
        unasked: whether the routers' scores are returned where nobody says.
        coefficient: what the loss of balance counts for beside that of the tokens.
    """

    top: int
    unasked: bool = False
    coefficient: float = 0.0

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: Tensor | int = 0,
        output_router_logits: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        loss_only: LossOnly | bool | None = None,
        **inputs: object,
    ) -> MoECausalLMOutput:
        """Next-token scores; see :meth:`CausalLM.forward`.

        Args:
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
            output_router_logits: whether to return the routers' scores and how unevenly they send tokens.
            loss_only: that nobody looks at the scores.
        """
        asked = self.unasked if output_router_logits is None else output_router_logits
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask, "output_router_logits": asked}
        out = cast(BaseModelOutput, self.model(**inputs))
        logits, loss = self.scored(out.last_hidden_state, labels, logits_to_keep, num_items_in_batch, loss_only)
        uneven = self.uneven(out.router_logits, attention_mask) if out.router_logits else None
        if labels is not None and loss is not None and uneven is not None:
            loss = loss + self.coefficient * uneven * share_of(labels[..., 1:], num_items_in_batch)
        return MoECausalLMOutput(
            loss=loss,
            aux_loss=uneven,
            logits=logits,
            past_key_values=out.past_key_values,
            **out.noted(),
            router_logits=out.router_logits,
        )

    def uneven(self, scores: Sequence[Tensor], mask_BT: Tensor | None) -> Tensor | None:
        """How unevenly the routers send tokens to experts; None where nobody minds. See :func:`balance_loss`."""
        return balance_loss(scores, self.top, mask_BT)


class UnbalancedCausalLM(RoutedCausalLM):
    """A language model of experts whose routers keep their balance without a loss (DeepSeek-V3)."""

    def uneven(self, scores: Sequence[Tensor], mask_BT: Tensor | None) -> Tensor | None:
        return None


class HasRouting(HasText, Protocol):
    """A config of a decoder with experts."""

    @property
    def routing(self) -> Routing: ...


R = TypeVar("R", bound=HasRouting)


def routed_writer(
    build: Callable[[R], TextDecoder],
    adjust: Callable[[R], Adjust | None] = lambda _: None,
    kind: type[RoutedCausalLM] = RoutedCausalLM,
) -> Callable[[R, Common], RoutedCausalLM]:
    """What makes the decoder that writes, for :func:`~omniform.architectures.decoder_family.decoder_family`."""
    heads = DecoderHeads(build, lambda c: c.text)

    def causal_lm(c: R, _: Common) -> RoutedCausalLM:
        model, how = build(c), c.routing
        return kind(
            model=model,
            lm_head=heads.lm_head(c, model),
            adjust=adjust(c),
            top=how.top,
            unasked=how.unasked,
            coefficient=how.coefficient,
        )

    return causal_lm


def balance_loss(scores: Sequence[Tensor], top: int, mask_BT: Tensor | None) -> Tensor:
    """How unevenly routers send tokens to experts (https://arxiv.org/abs/2101.03961, equations 4 to 6).

    Args:
        scores: of each layer's router. Shape: [N, E] each.
        top: how many experts a token goes through.
        mask_BT: 1 for the tokens that count, the last of them those of this step; None, or a mask of pairs, for all.
    """
    sent = likely = scores[0].new_zeros(scores[0].shape[-1], dtype=torch.float32)
    counts = sent.new_ones(scores[0].shape[0])
    if mask_BT is not None and mask_BT.dim() == 2:  # of the others nobody can say which tokens are padding
        new = counts.shape[0] // mask_BT.shape[0]  # what a state holds has been counted when it was read
        counts = mask_BT[:, -new:].flatten().to(counts)
    for layer in scores:  # one at a time: each layer's are as large as all tokens' features
        rows = layer.softmax(-1).float()
        sent = sent.index_add(0, rows.topk(top, dim=-1).indices.flatten(), counts.repeat_interleave(top))
        likely = likely + (rows * counts[:, None]).sum(0)
    total = counts.sum() * len(scores)
    uneven: Tensor = ((sent / total) * (likely / total)).sum() * len(sent)
    return uneven
