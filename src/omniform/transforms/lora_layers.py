"""Layers with low-rank adapters (https://arxiv.org/abs/2106.09685), named inside as PEFT's.

A layer holds any number of adapters; those that are active add up. A step of an engine may say for each of its tokens
which adapter it is for (:class:`Mix`): then every token gets its own, or none, in the same matmuls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.core.errors import InputError

TOGETHER = 64
"""Steps of at most so many tokens multiply by the adapters of all; longer ones by each with its own tokens."""


Names = tuple[str, ...]


@dataclass(slots=True)
class Mix:
    """Which adapters each token of a step is for; shared by all layers of a model, and empty outside of steps.

    Attributes:
        names: by the number of tokens that a layer is given, since the last layer of a step reads on for some of them
            only: for every token the names of its adapters.
        everyone: those of all tokens, however many there are; None where tokens differ, or nobody says.
        columns: what was made of them for a layer's ranks, kept for the step.
    """

    names: dict[int, tuple[Names, ...]] = field(default_factory=dict)
    everyone: Names | None = None
    columns: dict[tuple[int, tuple[tuple[str, int, float], ...]], Tensor] = field(default_factory=dict)

    @contextmanager
    def of(self, *each: Sequence[Names]) -> Iterator[None]:
        """Say it for one step: for all of its tokens, for those that are wanted, for those that have scores."""
        alike = {names for tokens in each for names in tokens}
        if len(alike) == 1:
            with self.all(alike.pop()):
                yield
            return
        self.names = {len(tokens): tuple(tokens) for tokens in each}
        try:
            yield
        finally:
            self.names, self.columns = {}, {}

    @contextmanager
    def all(self, names: Names) -> Iterator[None]:
        """Say it for everything that is computed inside."""
        self.everyone = names
        try:
            yield
        finally:
            self.everyone = None

    def tokens(self, count: int) -> tuple[Names, ...]:
        """The adapters of each of so many tokens.

        Raises:
            InputError: the step has no such number of tokens: a layer reads something else.
        """
        found = self.names.get(count)
        if found is None:
            raise InputError(
                "a layer of this model reads other tokens than the step's, so rows cannot have adapters of their own",
                where="adapter",
                expected=" or ".join(map(str, self.names)),
                found=count,
                remedy="Answer requests of different adapters one after the other.",
            )
        return found


class AdapterLayer(nn.Module, ABC):
    """A layer and its adapters.

    Args:
        base: the layer.
        mix: which adapter each token of a step is for.

    Attributes:
        r, lora_alpha, scaling: of each adapter, its rank, its alpha and what it counts.
        merged_adapters: those that are in the layer's own weights now.
        with_base: those whose files hold the layer's own weights too, as of tables that were resized.
    """

    def __init__(self, base: nn.Module, mix: Mix) -> None:
        super().__init__()
        self.base_layer = base
        self.r: dict[str, int] = {}
        self.lora_alpha: dict[str, float] = {}
        self.scaling: dict[str, float] = {}
        self.dropout: dict[str, float] = {}
        self.merged_adapters: list[str] = []
        self.with_base: set[str] = set()
        self._active: list[str] = []
        self._on = True
        self._mix = (mix,)  # shared, so no part of the layer
        self._told = ""
        self.train(base.training)

    @property
    def active_adapters(self) -> list[str]:
        """The adapters that are computed with."""
        return list(self._active)

    @property
    def active_adapter(self) -> list[str]:
        """PEFT's other name for the same."""
        return self.active_adapters

    @property
    def weight(self) -> Tensor:
        """The layer's own."""
        weight = self.base_layer._parameters["weight"]
        assert weight is not None
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The layer's own."""
        return self.base_layer._parameters.get("bias")

    def set_adapter(self, adapter_names: str | Sequence[str], inference_mode: bool = False) -> None:
        """Compute with these, and train them, if anything is trained."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._active = names
        for name in self.r:
            for tensor in self.tensors(name).values():
                tensor.requires_grad_(name in names and not inference_mode)
        self.note()

    def enable_adapters(self, enabled: bool) -> None:
        """Compute with the active ones, or with none."""
        self._on = enabled
        self.note()

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget one."""
        if adapter_name in self.merged_adapters:
            self.unmerge()
        for table in (self.r, self.lora_alpha, self.scaling, self.dropout):
            table.pop(adapter_name, None)
        for child in self._modules.values():
            if isinstance(child, (nn.ModuleDict, nn.ParameterDict)) and adapter_name in child:
                del child[adapter_name]
        self._active = [name for name in self._active if name != adapter_name]
        self.note()

    def used(self) -> list[str]:
        """The adapters of this layer that add something now."""
        everyone = self._mix[0].everyone
        names = self._active if everyone is None else everyone
        return [name for name in names if name in self.r] if self._on and not self.merged_adapters else []

    def note(self) -> None:
        """Keep what is computed with as a text, which those who watch a model's settings see."""
        self._told = f"{self._active} {self._on} {self.scaling} {self.merged_adapters}"

    @abstractmethod
    def tensors(self, name: str) -> dict[str, Tensor]:
        """An adapter's tensors, by PEFT's names of them without its own."""

    @abstractmethod
    def delta(self, name: str) -> Tensor:
        """What an adapter adds to the weight."""

    def shift(self, name: str) -> Tensor | None:
        """What an adapter adds to the bias."""
        return None

    def joined(self, name: str) -> Tensor:
        """The weight with an adapter in it."""
        return self.weight + self.delta(name)

    def parted(self, name: str) -> Tensor:
        """The weight without the adapter that was last put into it."""
        return self.weight - self.delta(name)

    def merge(self, safe_merge: bool = False, adapter_names: Sequence[str] | None = None) -> None:
        """Add adapters to the layer's own weights.

        Raises:
            InputError: ``safe_merge``, and the sum would not be finite.
        """
        for name in self._active if adapter_names is None else adapter_names:
            if name not in self.r or name in self.merged_adapters:
                continue
            with torch.no_grad():
                found = self.joined(name).to(self.weight.dtype)
                if safe_merge and not bool(torch.isfinite(found).all()):
                    raise InputError("the weights would not be finite", where="merge", found=name)
                shift = self.shift(name)
                self.weight.copy_(found)
                if shift is not None and self.bias is not None:
                    self.bias.add_(shift)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take merged adapters out of the layer's own weights again."""
        with torch.no_grad():
            while self.merged_adapters:
                shift = self.shift(self.merged_adapters[-1])
                if shift is not None and self.bias is not None:
                    self.bias.sub_(shift)
                self.weight.copy_(self.parted(self.merged_adapters.pop()).to(self.weight.dtype))


class LoraLinear(AdapterLayer):
    """A linear layer with adapters: ``x -> W x + scale * B A x``."""

    base_layer: nn.Linear

    def __init__(self, base: nn.Linear, mix: Mix) -> None:
        super().__init__(base, mix)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.lora_magnitude_vector = nn.ParameterDict()
        self._norms: dict[str, Tensor] = {}

    def add(self, name: str, rank: int, alpha: float, scale: float, *, bias: bool, weighed: bool, drop: float) -> None:
        """Make room for an adapter, which begins by adding nothing."""
        at = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.lora_A[name] = low = nn.Linear(self.in_features, rank, bias=False, **at)
        self.lora_B[name] = high = nn.Linear(rank, self.out_features, bias=bias, **at)
        if not self.weight.is_meta:
            nn.init.kaiming_uniform_(low.weight, a=5**0.5)
            for tensor in high.parameters():
                nn.init.zeros_(tensor)
        self.r[name], self.lora_alpha[name], self.scaling[name], self.dropout[name] = rank, alpha, scale, drop
        if weighed:
            self.lora_magnitude_vector[name] = nn.Parameter(self._norm(name).detach().clone())

    def tensors(self, name: str) -> dict[str, Tensor]:
        if name not in self.r:
            return {}
        found: dict[str, Tensor] = {}
        for end, part in self._parts(name):
            found |= {f"lora_{end}.{key}": tensor for key, tensor in part.named_parameters()}
        if name in self.lora_magnitude_vector:
            found["lora_magnitude_vector"] = self.lora_magnitude_vector[name]
        return found

    def _parts(self, name: str) -> tuple[tuple[str, nn.Module], tuple[str, nn.Module]]:
        return ("A", self.lora_A[name]), ("B", self.lora_B[name])

    def _low(self, name: str) -> Tensor:
        (_, low), (_, high) = self._parts(name)
        return torch.mm(_weight(high), _weight(low)) * self.scaling[name]

    def _norm(self, name: str) -> Tensor:
        """Lengths of the rows of what the layer and an adapter are together. Shape: [out]."""
        whole = self.weight.detach() + self._low(name).detach()
        return cast(Tensor, torch.linalg.vector_norm(whole, dim=1))

    def delta(self, name: str) -> Tensor:
        return self._low(name)

    def shift(self, name: str) -> Tensor | None:
        own = self.lora_B[name]._parameters.get("bias")
        if own is not None and self.bias is None:
            raise InputError("the layer has no bias that the adapter's could be put into", where="merge", found=name)
        return None if own is None else own * self.scaling[name]

    def joined(self, name: str) -> Tensor:
        if name not in self.lora_magnitude_vector:
            return super().joined(name)
        self._norms[name] = (self.lora_magnitude_vector[name] / self._norm(name)).detach()[:, None]
        return self._norms[name] * (self.weight + self._low(name))

    def parted(self, name: str) -> Tensor:
        if name not in self.lora_magnitude_vector:
            return super().parted(name)
        return self.weight / self._norms.pop(name) - self._low(name)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        y: Tensor = self.base_layer(x)
        mix = self._mix[0]
        if mix.names and self._on:
            return self._mixed(x, y, mix)
        for name in self.used():
            y = y + self._added(name, x, y).to(y.dtype)
        return y

    def _added(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        (_, low), (_, high) = self._parts(name)
        near = x.to(_weight(low).dtype)
        if self.training and self.dropout[name]:
            near = F.dropout(near, self.dropout[name])
        far: Tensor = high(low(near)) * self.scaling[name]
        if name not in self.lora_magnitude_vector:
            return far
        factor = self.lora_magnitude_vector[name] / self._norm(name)
        if near is not x and self.dropout[name]:
            plain = F.linear(near, self.weight)
        else:
            plain = y if self.bias is None else y - self.bias
        return cast(Tensor, (factor - 1) * plain + factor * far)

    def _mixed(self, x: Tensor, y: Tensor, mix: Mix) -> Tensor:
        """Every token with its own adapter. Shape: [1, N, in] and [1, N, out], or without the one."""
        flat, out = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        names = mix.tokens(len(flat))
        here = [name for name in dict.fromkeys(one for each in names for one in each) if name in self.r]
        if not here:
            return y
        special = any(name in self.lora_magnitude_vector for name in here) or len(names) > TOGETHER
        if special or any(self.lora_B[name]._parameters.get("bias") is not None for name in here):
            out = out.clone()
            for name in here:
                at = torch.tensor([n for n, each in enumerate(names) if name in each], device=x.device)
                out[at] += self._added(name, flat[at], out[at]).to(out.dtype)
            return out.view_as(y)
        lows = torch.cat([_weight(self.lora_A[name]) for name in here])
        highs = torch.cat([_weight(self.lora_B[name]) for name in here], dim=1)
        columns = self._columns(names, here, mix, lows)
        return y + ((flat.to(lows.dtype) @ lows.t() * columns) @ highs.t()).view_as(y).to(y.dtype)

    def _columns(self, names: Sequence[Names], here: Sequence[str], mix: Mix, like: Tensor) -> Tensor:
        """What the columns of each adapter count for each token: its scale for its own tokens. Shape: [N, sum of r]."""
        key = len(names), tuple((name, self.r[name], self.scaling[name]) for name in here)
        found = mix.columns.get(key)
        if found is None:
            rows = [[self.scaling[one] * (one in each) for one in here for _ in range(self.r[one])] for each in names]
            found = mix.columns[key] = torch.tensor(rows, dtype=like.dtype, device=like.device)
        return found

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: r={rank}" for name, rank in self.r.items())


class LoraEmbedding(AdapterLayer):
    """A table with adapters."""

    base_layer: nn.Embedding

    def __init__(self, base: nn.Embedding, mix: Mix) -> None:
        super().__init__(base, mix)
        self.num_embeddings, self.embedding_dim = base.num_embeddings, base.embedding_dim
        self.lora_embedding_A, self.lora_embedding_B = nn.ParameterDict(), nn.ParameterDict()

    def add(self, name: str, rank: int, alpha: float, scale: float) -> None:
        """Make room for an adapter, which begins by adding nothing."""
        like = self.weight
        self.lora_embedding_A[name] = nn.Parameter(like.new_zeros(rank, self.num_embeddings))
        self.lora_embedding_B[name] = nn.Parameter(torch.randn(self.embedding_dim, rank).to(like))
        self.r[name], self.lora_alpha[name], self.scaling[name] = rank, alpha, scale

    def tensors(self, name: str) -> dict[str, Tensor]:
        if name not in self.r:
            return {}
        return {"lora_embedding_A": self.lora_embedding_A[name], "lora_embedding_B": self.lora_embedding_B[name]}

    def delta(self, name: str) -> Tensor:
        low, high = self.lora_embedding_A[name], self.lora_embedding_B[name]
        return cast(Tensor, (high @ low).t() * self.scaling[name])

    def forward(self, ids: Tensor) -> Tensor:
        """Shape: [...] to [..., D]."""
        y: Tensor = self.base_layer(ids)
        mix = self._mix[0]
        if not (mix.names and self._on):
            for name in self.used():
                y = y + self._added(name, ids)
            return y
        names = mix.tokens(ids.numel())
        flat, out = ids.reshape(-1), y.reshape(-1, y.shape[-1]).clone()
        for name in [name for name in dict.fromkeys(one for each in names for one in each) if name in self.r]:
            at = torch.tensor([n for n, each in enumerate(names) if name in each], device=ids.device)
            out[at] += self._added(name, flat[at])
        return out.view_as(y)

    def _added(self, name: str, ids: Tensor) -> Tensor:
        near = F.embedding(ids, self.lora_embedding_A[name].t())
        return cast(Tensor, (near @ self.lora_embedding_B[name].t()) * self.scaling[name])


class SavedModule(nn.Module):
    """A module, and others that adapters have in its place (``modules_to_save``)."""

    def __init__(self, module: nn.Module, mix: Mix) -> None:
        super().__init__()
        self.original_module = module
        self.modules_to_save = nn.ModuleDict()
        self._active: list[str] = []
        self._on = True
        self._told = ""
        self._mix = (mix,)

    @property
    def active_adapters(self) -> list[str]:
        """The adapters that are computed with."""
        return list(self._active)

    @property
    def weight(self) -> Tensor | None:
        """That of the module that is computed with."""
        return self.now()._parameters.get("weight")

    @property
    def bias(self) -> Tensor | None:
        """That of the module that is computed with."""
        return self.now()._parameters.get("bias")

    def set_adapter(self, adapter_names: str | Sequence[str], inference_mode: bool = False) -> None:
        """Compute with these."""
        self._active = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        for name, module in self.modules_to_save.items():
            module.requires_grad_(name in self._active and not inference_mode)
        self._told = f"{self._active} {self._on}"

    def enable_adapters(self, enabled: bool) -> None:
        """Compute with the active one, or with the module itself."""
        self._on = enabled
        self._told = f"{self._active} {self._on}"

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget one."""
        if adapter_name in self.modules_to_save:
            del self.modules_to_save[adapter_name]
        self._active = [name for name in self._active if name != adapter_name]

    def now(self) -> nn.Module:
        """The module that is computed with."""
        everyone = self._mix[0].everyone
        names = self._active if everyone is None else everyone
        mine = [name for name in names if name in self.modules_to_save] if self._on else []
        return self.modules_to_save[mine[0]] if mine else self.original_module

    def forward(self, *args: Tensor, **kwargs: object) -> object:
        """As the module's own."""
        mix = self._mix[0]
        if not (mix.names and self._on) or not args:
            return self.now()(*args, **kwargs)
        x = args[0]
        flat = x.reshape(-1, x.shape[-1]) if x.is_floating_point() else x.reshape(-1)
        names = mix.tokens(len(flat))
        made: Tensor = self.original_module(flat).clone()
        for name in {one for each in names for one in each if one in self.modules_to_save}:
            at = torch.tensor([n for n, each in enumerate(names) if name in each], device=x.device)
            made[at] = self.modules_to_save[name](flat[at])
        lead = x.shape[:-1] if x.is_floating_point() else x.shape
        return made.view(*lead, made.shape[-1])


def _weight(module: nn.Module) -> Tensor:
    weight = module._parameters["weight"]
    assert weight is not None
    return weight
