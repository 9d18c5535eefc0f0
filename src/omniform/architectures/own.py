"""Models of the user's own: plain torch modules under :class:`~omniform.architectures.named.PreTrainedModel`.

What a class body of the ecosystem says about its weights is read here: which are tied, which a checkpoint may lack or
hold too many of, how fresh ones begin. No family's class comes by here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.blocks.pytorch_utils import Conv1D
from omniform.core.errors import ConfigError
from omniform.weights.tensors import modules_of, named_tensors, tie

if TYPE_CHECKING:
    from omniform.architectures.named import PreTrainedModel

Begin = Callable[[nn.Module], object]


@runtime_checkable
class Resets(Protocol):
    """A module that fills itself anew, as torch's own do."""

    def reset_parameters(self) -> None: ...


class Yielding:
    """A method of omniform's that gives way to a part of the same name in a model of the user's own (``score``)."""

    NAMES: ClassVar[frozenset[str]] = frozenset({"score", "step", "stream", "astream", "arrive", "targets"})

    def __init__(self, name: str, kind: type) -> None:
        self._name = name
        self._method: Callable[..., object] = next(vars(base)[name] for base in kind.__mro__ if name in vars(base))

    def __get__(self, model: nn.Module | None, kind: type) -> object:
        if model is None:
            return self._method
        held = model.__dict__
        for parts in (held.get("_modules"), held.get("_parameters"), held.get("_buffers")):
            if parts and self._name in parts:
                return parts[self._name]
        return self._method.__get__(model, kind)


_TAKEN: set[str] = set()


def is_taken(name: str) -> bool:
    """Whether omniform itself keeps something under a name in every model."""
    if not _TAKEN:
        from omniform.architectures.named import PreTrainedModel

        ours = [base for base in PreTrainedModel.__mro__ if base.__module__.startswith("omniform.")]
        _TAKEN.update(name for base in ours for name in (*vars(base), *vars(base).get("__annotations__", ())))
        _TAKEN.update(("attn_backend", "generation_config", "spelling", "transforms", "keymap", "placed_at"))
        _TAKEN.difference_update(Yielding.NAMES, ("loss_function",))
    return name in _TAKEN


def said(kind: type, name: str) -> object:
    """What a class, or one that it inherits from, says of its weights; None where only omniform's own base speaks."""
    for base in kind.__mro__:
        if name in vars(base):
            return None if base.__module__.startswith("omniform.") else cast(object, vars(base)[name])
    return None


def patterns(kind: type, name: str) -> list[re.Pattern[str]]:
    """Regular expressions that a class lists.

    Raises:
        ConfigError: one of them is none.
    """
    listed = said(kind, name)
    try:
        return [re.compile(str(one)) for one in cast("Iterable[object]", listed or ())]
    except re.error as error:
        raise ConfigError("no regular expression", where=f"{kind.__name__}.{name}", found=str(error)) from error


# -- ties ------------------------------------------------------------------------------------------------------------


def tie_declared(model: PreTrainedModel) -> None:
    """Tie what the class says, where its config wants that (``tie_word_embeddings``).

    A mapping names each weight and the one that it is; a list (of older releases) means that the projection onto the
    vocabulary is the table of tokens.

    Raises:
        ConfigError: a name that no weight has.
    """
    named = said(type(model), "_tied_weights_keys")
    if not named or model.config.get("tie_word_embeddings", False) is not True:
        return
    if isinstance(named, Mapping):
        for target, source in declared_ties(model, named).items():
            tie(model, target, source)
        return
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if isinstance(head, nn.Linear) and isinstance(table, nn.Embedding):
        head.weight = table.weight


def declared_ties(model: PreTrainedModel, named: Mapping[str, str]) -> dict[str, str]:
    """Each tied weight's path and the path of the one that it is, patterns and modules' names written out."""
    paths = [path for path, _ in named_tensors(model)]
    found: dict[str, str] = {}
    for target, source in named.items():
        targets, sources = ([p for p in paths if re.match(one, p)] for one in (target, source))
        targets = [path for path in targets if path not in sources]
        if not sources or len(targets) % len(sources):
            raise ConfigError(
                "no weights to tie",
                where=f"{type(model).__name__}._tied_weights_keys",
                expected="patterns of equally many weights",
                found=f"{target!r}: {len(targets)}, {source!r}: {len(sources)}",
            )
        found.update({path: sources[number % len(sources)] for number, path in enumerate(sorted(targets))})
    return found


# -- fresh weights ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def begin(model: PreTrainedModel, fresh: set[str] | None = None) -> None:
    """Give fresh weights to a model, inner modules first: as its ``_init_weights`` says, or the usual way.

    Args:
        fresh: paths of the tensors that need them; all by default. What stands beside them in a module is kept.
    """
    owners = {path: module for path, module in modules_of(model) if _is_own(module)}
    done = tuple(f"{path}." for path, module in modules_of(model) if fresh is None and path and _has_begun(module))
    seen: set[int] = set()
    for path, module in reversed_tree(model):
        if id(module) in seen or f"{path}.".startswith(done):
            continue
        seen.add(id(module))
        held = [*module._parameters.items(), *module._buffers.items()]
        inside = {name: f"{path}.{name}" if path else name for name, tensor in held if tensor is not None}
        new = {name for name, whole in inside.items() if fresh is None or whole in fresh}
        kept: dict[str, Tensor] = {}
        if fresh is not None:
            if not new:
                continue
            tensors = {**module._parameters, **module._buffers}
            kept = {name: cast(Tensor, tensors[name]).clone() for name in inside if name not in new}
            if isinstance(module, Resets) and type(module).__module__.startswith(("torch.", Conv1D.__module__)):
                module.reset_parameters()
        _beginning(owners, path, model)(module)
        for name, value in kept.items():
            cast(Tensor, {**module._parameters, **module._buffers}[name]).copy_(value)


def reversed_tree(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules by their paths, each after those within it."""
    for name, child in module._modules.items():
        if child is not None:
            yield from reversed_tree(child, f"{path}.{name}" if path else name)
    yield path, module


def _is_own(module: nn.Module) -> bool:
    from omniform.architectures.named import PreTrainedModel

    return isinstance(module, PreTrainedModel) and module.place is None


def _has_begun(module: nn.Module) -> bool:
    """Whether a part is a model that has given its own weights a beginning already."""
    from omniform.architectures.named import PreTrainedModel

    return isinstance(module, PreTrainedModel) and (module.place is not None or module.begun)


def _beginning(owners: Mapping[str, nn.Module], path: str, model: PreTrainedModel) -> Begin:
    """How the modules at a path begin: as the innermost model of the user's own around them says."""
    while True:
        owner = owners.get(path)
        if owner is not None:
            return cast("PreTrainedModel", owner)._init_weights
        if not path:
            return model._init_weights
        path = path.rpartition(".")[0]


@torch.no_grad()
def usual_beginning(module: nn.Module, std: float) -> None:
    """Matrices and tables from a normal distribution, biases with zeros, norms with ones; what else there is, stays."""
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if isinstance(module, (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)):
        if weight is not None:
            weight.normal_(0.0, std)
        if bias is not None:
            bias.zero_()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()
    elif isinstance(module, nn.MultiheadAttention):
        module._reset_parameters()
    elif isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)) or (
        weight is not None and weight.dim() == 1 and type(module).__name__.endswith("Norm")
    ):
        if weight is not None:
            weight.fill_(1.0)
        if bias is not None:
            bias.zero_()
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
