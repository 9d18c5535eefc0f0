"""Contrasts: what the model's scores are set against before anything is chosen by them.

*Guidance* sets them against those of a second row, its shadow, which reads another prompt and then whatever the row
writes. *DoLa* sets them against what the same head makes of an earlier layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.errors import InputError, brief
from omniform.engine.parts import Parts
from omniform.engine.prompts import as_prompts
from omniform.engine.request import Request, Row
from omniform.engine.runner import ChunkOutput

RELATIVE_TOP = 0.1
"""Tokens less likely than this fraction of the likeliest are no candidates of DoLa (its paper, section 2.3)."""

_FAINT = -1e-3
"""The log-probability that tokens which are no candidates have in the earlier layer."""


class Contrast(Protocol):
    """What a request's scores are set against.

    Attributes:
        reads_layers: whether it looks at the hidden states after each layer.
    """

    reads_layers: ClassVar[bool]

    def shadow(self, row: Row) -> Row | None:
        """The row that a request's first one is contrasted with; None where there is none."""
        ...

    def scores(self, output: ChunkOutput, shadow: ChunkOutput | None) -> Tensor:
        """What to choose by instead of ``output.logits``. Shape: [1, V], float32."""
        ...


class Guidance:
    """Classifier-free guidance (https://arxiv.org/abs/2306.17806, equation 7).

    Args:
        scale: 1 changes nothing; the more, the more a prompt counts for.
        negative: what the shadow reads: the prompt's last token, where nothing was said.
    """

    reads_layers: ClassVar[bool] = False

    def __init__(self, scale: float, negative: Sequence[int] | None) -> None:
        self._scale = scale
        self._negative = negative

    def shadow(self, row: Row) -> Row:
        tokens = list(row.named[-1:] if self._negative is None else self._negative)
        return Row(tokens, len(tokens), is_shadow=True)

    def scores(self, output: ChunkOutput, shadow: ChunkOutput | None) -> Tensor:
        assert shadow is not None, "rows and their shadows are read in lockstep"
        with_prompt, without = (x.logits.float().log_softmax(-1) for x in (output, shadow))
        return self._scale * (with_prompt - without) + without


class Dola:
    """Decoding by contrasting layers (https://arxiv.org/abs/2309.03883, sections 2.1 to 2.3).

    Of some earlier layers, the one whose distribution is farthest from the last one's (Jensen-Shannon divergence) is
    set against it, for each token anew.

    Args:
        layers: the candidates among the earlier layers, 0 for what the embeddings give; or ``"low"`` or ``"high"``.
        tied: whether the head is the table of tokens.
    """

    reads_layers: ClassVar[bool] = True

    def __init__(self, layers: str | Sequence[int], tied: bool) -> None:
        self._asked = layers
        self._tied = tied

    def shadow(self, row: Row) -> None:
        return None

    def scores(self, output: ChunkOutput, shadow: ChunkOutput | None) -> Tensor:
        mature = output.logits.float().log_softmax(-1)
        hidden_L1D = torch.stack([output.layers[layer][-1:] for layer in self._candidates(len(output.layers) - 1)])
        early_LV = output.project(hidden_L1D)[:, 0].float().log_softmax(-1)
        between = (mature.exp() + early_LV.exp()) / 2
        farther = _divergence(mature, between) + _divergence(early_LV, between)
        early = early_LV[farther.argmax()][None]
        likeliest = mature.amax(-1, keepdim=True)
        out = mature < likeliest + torch.tensor(RELATIVE_TOP).log()
        return (mature - early.masked_fill(out, _FAINT)).masked_fill(out, float("-inf"))

    def _candidates(self, last: int) -> list[int]:
        """The earlier layers to choose from, grouped as the authors do it."""
        # Where the head is the table of tokens, what the first layers give is the token that was read itself.
        first = min(2, last - 1) if self._tied else 0
        groups = {
            "low": range(first, min(last // 2, 20), 2) or range(first, first + 1),
            "high": range(last // 2 if last <= 40 else last - 20, last, 2),
        }
        asked = groups[self._asked] if isinstance(self._asked, str) else self._asked
        found = [layer for layer in asked if layer < last]
        if not found:
            raise InputError(
                "none of these is an earlier layer", where="dola_layers", expected=f"numbers below {last}",
                found=brief(self._asked),
            )  # fmt: skip
        return found


def _divergence(log_p: Tensor, q: Tensor) -> Tensor:
    """Kullback and Leibler's divergence of ``p`` from ``q``. Shape: [..., V] each, to [...]."""
    return (log_p.exp() * (log_p - q.log())).nansum(-1)


def contrast_of(request: Request, model: Generative) -> Contrast | None:
    """What a request's scores are set against.

    Raises:
        InputError: it asks for what does not go together, or is not there.
    """
    s = request.settings
    scale, layers = s.guidance_scale, s.dola_layers
    inside = {"penalty_alpha": s.penalty_alpha, "dola_layers": layers, "assistant_early_exit": s.guessing.early_exit}
    for name, value in inside.items():
        if value:
            model.check_shown(name)
    if scale == 1:
        if layers is None:
            return None
        _refuse_beside(request, "dola_layers")
        if model.encoder_inputs:
            raise InputError("DoLa is for decoders alone", where="dola_layers", found=type(model).__name__)
        return Dola(layers, model.config.get("tie_word_embeddings") is True)
    _refuse_beside(request, "guidance_scale")
    if layers is not None:
        raise InputError("guidance_scale and dola_layers do not go together", where="guidance_scale")
    if model.encoder_inputs:
        raise InputError("guidance is for models without an encoder", where="guidance_scale", expected="1", found=scale)
    return Guidance(scale, _negative(request, model))


def _refuse_beside(request: Request, name: str) -> None:
    if request.strategy is not None:
        beside = "num_beams > 1" if request.settings.num_beams > 1 else "penalty_alpha"
        raise InputError(f"{name} and {beside} do not go together", where=name, remedy="Leave one out.")


def negative_tokens(parts: Parts) -> int:
    """How many tokens the longest negative prompt of a call has, padding included."""
    ids = parts.get("negative_prompt_ids")
    if isinstance(ids, Tensor) and ids.dim():
        return ids.shape[-1]
    rows = ids if isinstance(ids, (list, tuple)) else ()
    return max([len(rows), *(len(row) for row in rows if isinstance(row, (list, tuple, Tensor)))])


def _negative(request: Request, model: Generative) -> Sequence[int] | None:
    """The prompt to guide away from, of this request."""
    ids, mask = (request.parts.get(f"negative_prompt_{name}") for name in ("ids", "attention_mask"))
    if ids is None:
        return None
    if mask is not None and not isinstance(mask, Tensor):
        raise InputError("a mask is rows of 0 and 1", where="negative_prompt_attention_mask", found=brief(mask))
    prompts = as_prompts(ids, mask, 0, torch.device("cpu"))
    rows = prompts.ids.shape[0]
    place = request.prompt.place if rows > 1 else 0
    if place >= rows:
        raise InputError(
            "one negative prompt per row, or one for all", where="negative_prompt_ids",
            expected=f"a row {place}", found=f"{rows} rows",
        )  # fmt: skip
    row = prompts.ids[place] if prompts.real is None else prompts.ids[place][prompts.real[place]]
    tokens: list[int] = row.tolist()
    stranger = next((t for t in tokens if not model.knows(t)), None)
    if stranger is not None:
        raise InputError("a token is not in the vocabulary", where="negative_prompt_ids", found=stranger)
    return tokens
