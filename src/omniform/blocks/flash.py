"""``flash_attention_2`` and ``flash_attention_3``: kernels of the packages ``flash_attn`` and ``flash_attn_interface``.

Both take rows end to end with the places where they begin, so that padding is left out rather than masked, and count a
causal query's place from the end of its row, which is where new tokens stand (https://arxiv.org/abs/2307.08691,
https://arxiv.org/abs/2407.08608). What a call says is put into the words of the package that is installed, read off its
functions' signatures.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.blocks.kernels import Extras
from omniform.blocks.scores import Scores
from omniform.core.context import Backend, Mask, Seen
from omniform.core.end_to_end import EndToEnd
from omniform.core.errors import DependencyError, InputError
from omniform.core.packed import PackedMask
from omniform.core.rules import Both, Causal, Full, Rule, Window

PACKAGES: Final = {
    "flash_attention_2": ("flash_attn", "pip install flash-attn --no-build-isolation"),
    "flash_attention_3": ("flash_attn_interface", "Build hopper/ of github.com/Dao-AILab/flash-attention."),
}
"""Which package each name means, and how it is installed."""

DEVICES: Final = frozenset({"cuda"})
"""Where they run; AMD's devices go by the same name."""

DTYPES: Final = (torch.float16, torch.bfloat16)

WIDEST: Final = 256
"""Numbers of a head that they take at most."""

Function = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Reach:
    """A rule in the packages' words.

    Attributes:
        causal: nothing ahead is seen.
        window: how many tokens before and behind its own a query sees; -1 for all.
    """

    causal: bool
    window: tuple[int, int]

    @classmethod
    def of(cls, rule: Rule) -> Reach | None:
        """None for a rule that they have no words for."""
        match rule:
            case Full():
                return cls(False, (-1, -1))
            case Causal():
                return cls(True, (-1, -1))
            case Window(size):
                return cls(False, (size - 1, size - 1))
            case Both(Causal(), Window(size)) | Both(Window(size), Causal()):
                return cls(True, (size - 1, 0))
        return None


@dataclass(frozen=True, slots=True)
class FlashAttention:
    """One of the packages.

    Attributes:
        name: what it is asked for by.
        whole: its function of rows of one length. Shape: [B, T, H, D].
        ragged: its function of rows end to end. Shape: [N, H, D].
        takes: the names of that function's arguments.
    """

    name: Backend
    whole: Function
    ragged: Function
    takes: frozenset[str]

    def lacks(self, rule: Rule | None, scores: Scores, *, biased: bool, sinks: bool) -> str | None:
        if biased:
            return "it adds nothing to scores"
        if sinks and "s_aux" not in self.takes:
            return "it knows of no sinks"
        if scores.cap is not None and "softcap" not in self.takes:
            return "this release of it bounds no scores"
        if rule is not None and Reach.of(rule) is None:
            return f"it has no words for {rule}"
        return None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | PackedMask, extras: Extras) -> str | None:
        if q.device.type not in DEVICES:
            return f"it does not run on {q.device.type}"
        if q.dtype not in DTYPES:
            return f"it computes in float16 and bfloat16, not in {str(q.dtype).removeprefix('torch.')}"
        if max(q.shape[-1], v.shape[-1]) > WIDEST:
            return f"its heads have at most {WIDEST} numbers"
        if extras.dropout and "dropout_p" not in self.takes:
            return "it drops no attention weights"
        if isinstance(mask, PackedMask):
            return "it has no words for tokens that see one another in both directions" if mask.joins else None
        if mask.seen is None:
            return None if mask.causal or mask.allowed is None else "it takes no masks, only rules and padding"
        windowed = Reach.of(mask.seen.rule) not in (Reach(True, (-1, -1)), Reach(False, (-1, -1)))
        if windowed and mask.seen.padding is not None:
            return "it would not count padding within a window"
        return None

    def named(self, prompt: bool) -> str:
        return self.name

    def padded(self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Mask, extras: Extras) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BHTD, k_BGSD, v_BGSD))
        seen = mask.seen
        reach = Reach.of(Causal() if mask.causal else Full() if seen is None else seen.rule)
        assert reach is not None, "asked before"
        if seen is None or seen.padding is None:
            out = self._call(self.whole, q, k, v, reach, extras)
        else:
            out = self._unpadded(q, k, v, seen, mask, reach, extras)
        return out.transpose(1, 2)

    def packed(self, q_NHD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, mask: PackedMask, extras: Extras) -> Tensor:
        whole, reach = EndToEnd.of(mask), Reach.of(mask.rule)
        assert reach is not None, "asked before"
        k_MGD, v_MGD = (whole.taken(x)[0].transpose(0, 1) for x in (k_1GSD, v_1GSD))
        return self._call(
            self.ragged, q_NHD, k_MGD, v_MGD, reach, extras,
            cu_seqlens_q=whole.queries.starts, cu_seqlens_k=whole.keys.starts,
            max_seqlen_q=whole.queries.longest, max_seqlen_k=whole.keys.longest,
        )  # fmt: skip

    def _unpadded(
        self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, seen: Seen, mask: Mask, reach: Reach, extras: Extras
    ) -> Tensor:
        """Rows with padding: real tokens come first, in order, and the kernel never hears of the others.

        How many are real is known on the device only, and stays there. Shape: [B, T, H, Dv].
        """
        assert seen.padding is not None, "asked before"
        padding = seen.padding.expand(len(k_BSGD), -1)
        keys = mask.once("real keys", lambda: RealFirst.of(padding))
        queries = len(q_BTHD), q_BTHD.shape[1]
        # Padding that asks, asks in vain; where places count, it must not be counted.
        asking = padding[:, -queries[1] :] if reach.causal else padding.new_ones(queries)
        first = mask.once(("real queries", queries[1]), lambda: RealFirst.of(asking))
        out = self._call(
            self.ragged, first.taken(q_BTHD), keys.taken(k_BSGD), keys.taken(v_BSGD), reach, extras,
            cu_seqlens_q=first.starts, cu_seqlens_k=keys.starts,
            max_seqlen_q=queries[1], max_seqlen_k=padding.shape[1],
        )  # fmt: skip
        return first.back(out, queries)

    def _call(
        self, function: Function, q: Tensor, k: Tensor, v: Tensor, reach: Reach, extras: Extras, **rows: Tensor | int
    ) -> Tensor:
        width, values = q.shape[-1], v.shape[-1]
        widest = max(width, values)
        # It takes queries, keys and values of one width; zeros behind them change nothing.
        q, k, v = (x if x.shape[-1] == widest else F.pad(x, (0, widest - x.shape[-1])) for x in (q, k, v))
        told: dict[str, object] = {
            "softmax_scale": extras.scores.scale, "causal": reach.causal, "window_size": reach.window,
        }  # fmt: skip
        if extras.scores.cap is not None:
            told["softcap"] = extras.scores.cap
        if extras.sinks is not None:
            told["s_aux"] = extras.sinks.to(q.dtype)
        if extras.dropout:
            told["dropout_p"] = extras.dropout
        out = function(q, k, v, **rows, **told)
        return (out[0] if isinstance(out, tuple) else out)[..., :values]


@dataclass(frozen=True, slots=True)
class RealFirst:
    """The real tokens of all rows first, row by row, and padding behind them.

    Attributes:
        order: which token of all comes where. Shape: [B * T].
        real: whether it is a real one. Shape: [B * T].
        starts: where each row's real ones begin, and the end of the last. Shape: [B + 1], int32.
    """

    order: Tensor
    real: Tensor
    starts: Tensor

    @classmethod
    def of(cls, padding_BT: Tensor) -> RealFirst:
        flat = padding_BT.flatten()
        order = torch.argsort((~flat).to(torch.int8), stable=True)
        starts = F.pad(padding_BT.sum(1).cumsum(0), (1, 0)).to(torch.int32)
        return cls(order, flat[order], starts)

    def taken(self, x_BTHD: Tensor) -> Tensor:
        """Shape: [B, T, H, D] to [B * T, H, D]; zeros in place of padding, which nobody computes gradients of."""
        return torch.where(self.real[:, None, None], x_BTHD.flatten(0, 1)[self.order], 0)

    def back(self, x_NHD: Tensor, shape: tuple[int, int]) -> Tensor:
        """Shape: [B * T, H, D] to [B, T, H, D]; padding gets zeros: the kernel has left it as it was."""
        whole = torch.where(self.real[:, None, None], x_NHD, 0)
        return torch.zeros_like(whole).index_copy(0, self.order, whole).view(*shape, *whole.shape[1:])


def flash_attention(name: Backend) -> FlashAttention:
    """The kernel of a name.

    Raises:
        DependencyError: its package is not installed, cannot be imported, or is too old.
    """
    package, remedy = PACKAGES[name]
    try:
        module = importlib.import_module(package)
    except (ImportError, OSError) as error:  # built for another torch, it lacks symbols
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        raise DependencyError(
            f"the package {package} is not installed" if missing else f"the package {package} cannot be imported",
            where=f'attn_implementation="{name}"',
            found=None if missing else str(error),
            remedy=f'{remedy} attn_implementation="sdpa" needs no package.',
        ) from error
    whole, ragged = vars(module).get("flash_attn_func"), vars(module).get("flash_attn_varlen_func")
    takes = frozenset(inspect.signature(ragged).parameters) if callable(ragged) else frozenset[str]()
    if not callable(whole) or "window_size" not in takes:
        raise DependencyError(
            f"this release of {package} is too old",
            where=f'attn_implementation="{name}"',
            expected="flash_attn_varlen_func with window_size: 2.3 or newer",
            remedy=remedy,
        )
    return FlashAttention(name, cast(Function, whole), cast(Function, ragged), takes)


def check_device(name: Backend) -> None:
    """Raise :class:`InputError` where there is no device that the kernel runs on."""
    if "cpu" not in DEVICES and not torch.cuda.is_available():
        raise InputError(
            "this attention kernel runs on CUDA devices, and there is none",
            where="attn_implementation",
            found=repr(name),
            remedy='Leave it out, or use "sdpa".',
        )
