"""Low-rank adapters without PEFT: put into a model, taken out of it, told apart from its own weights.

A transform like any other: :class:`Lora` replaces the layers that an adapter is for, and fills what it added. A file's
own tensors say which layers those are; a config alone says it by their names, ours or the ecosystem's. PEFT's layers
and these have the same children, so that paths, files and state dicts are the same whoever made them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.core.errors import InputError, WeightsError, listed
from omniform.transforms.lora_config import LoraConfig
from omniform.transforms.lora_layers import AdapterLayer, LoraEmbedding, LoraLinear, Mix, SavedModule
from omniform.weights.adapters import BASE, divided, layer_shapes, others_of
from omniform.weights.keymap import KeyMap
from omniform.weights.tensors import modules_of, tensors_and_ties
from omniform.weights.transform import Transform

LOW, TABLE = "lora_A.weight", "lora_embedding_A"


@runtime_checkable
class Switched(Protocol):
    """A layer with adapters, PEFT's or ours."""

    @property
    def active_adapters(self) -> list[str]: ...

    def set_adapter(self, adapter_names: str | Sequence[str], inference_mode: bool = False) -> None: ...

    def enable_adapters(self, enabled: bool) -> None: ...


class Lora(Transform):
    """One adapter.

    Args:
        config: which layers, and how much of what is added counts.
        name: what the adapter is called in the model.
        tensors: what it adds, by the names of its file without PEFT's own before them; None for one that is new.
        is_trainable: leave it to be trained.
    """

    def __init__(
        self, config: LoraConfig, name: str, tensors: Mapping[str, Tensor] | None = None, *, is_trainable: bool = False
    ) -> None:
        self._config, self._name, self._trainable = config, name, is_trainable
        self._tensors = tensors
        self._parts: dict[str, dict[str, Tensor]] = {}

    def prepare(self, model: nn.Module, keys: KeyMap) -> KeyMap:
        shapes = layer_shapes(model)
        refuse_others(model)
        config, mix = self._config, mix_of(model)
        if self._tensors is None:
            wanted = {path: {} for path in shapes if config.means([path, *others_of(path, keys)])}  # type: ignore[var-annotated]
        else:
            self._parts = wanted = divided(self._tensors, shapes, keys)
        saved = _saved(model, config, keys)
        inside = tuple(f"{path}." for path in saved)
        layers = [path for path in wanted if path not in saved and not path.startswith(inside)]
        if not layers and not saved:
            raise InputError("the adapter is for no layer of this model", where="target_modules")
        for path in layers:
            names = [path, *others_of(path, keys)]
            self._add(model, path, wanted[path], names, mix)
        for path in saved:
            module = model.get_submodule(path)
            if not isinstance(module, SavedModule):
                module = _swapped(model, path, SavedModule(module, mix))
            assert isinstance(module, SavedModule)
            module.modules_to_save[self._name] = copy.deepcopy(module.original_module)
        return keys

    def finish(self, model: nn.Module) -> None:
        with torch.no_grad():
            for path, kinds in self._parts.items():
                for kind, tensor in kinds.items():
                    self._fill(model, path, kind, tensor)
        for module in layers_of(model):
            module.set_adapter(self._name, inference_mode=not self._trainable)

    def _add(self, model: nn.Module, path: str, given: Mapping[str, Tensor], names: Sequence[str], mix: Mix) -> None:
        config, layer = self._config, model.get_submodule(path)
        if not isinstance(layer, AdapterLayer):
            layer = _swapped(model, path, _around(layer, path, mix))
        rank = next((given[key].shape[0] for key in (LOW, TABLE) if key in given), config.rank(names))
        alpha = config.alpha(names)
        scale = config.scale(rank, alpha)
        if isinstance(layer, LoraLinear):
            biased, weighed = "lora_B.bias" in given or config.lora_bias, config.use_dora
            drop = config.lora_dropout
            layer.add(self._name, rank, alpha, scale, bias=biased, weighed=weighed, drop=drop)
        elif isinstance(layer, LoraEmbedding):
            layer.add(self._name, rank, alpha, scale)

    def _fill(self, model: nn.Module, path: str, kind: str, tensor: Tensor) -> None:
        module, inner = _holder(model, path)
        if isinstance(module, SavedModule):
            own: Mapping[str, Tensor] = dict(module.modules_to_save[self._name].named_parameters())
            kind = f"{inner}.{kind}" if inner else kind
        elif isinstance(module, AdapterLayer) and kind.startswith(f"{BASE}."):
            self._base(module, f"{path}.{kind}", tensor, kind)
            return
        elif isinstance(module, AdapterLayer):
            own = module.tensors(self._name)
            kind = "lora_magnitude_vector" if kind.startswith("lora_magnitude_vector") else kind
        else:
            own = {}
        if kind not in own or own[kind].shape != tensor.shape:
            raise WeightsError(
                "the adapter does not fit this model",
                where=f"{path}.{kind}",
                expected=list(own[kind].shape) if kind in own else listed(own),
                found=f"a tensor of shape {list(tensor.shape)}",
            )
        own[kind].copy_(tensor)

    def _base(self, layer: AdapterLayer, where: str, tensor: Tensor, kind: str) -> None:
        """The layer's own weights, which the file holds as well."""
        own = layer.base_layer._parameters.get(kind.removeprefix(f"{BASE}."))
        layer.with_base.add(self._name)
        if own is not None and own.shape == tensor.shape and torch.equal(own, tensor.to(own)):
            return
        if own is None or own.shape != tensor.shape or len(layer.r) > 1:
            raise WeightsError(
                "the adapter was trained over other weights than this model's",
                where=where,
                expected=None if own is None else list(own.shape),
                found=list(tensor.shape),
                remedy="Resize the tokens' table first, or load it into a model without other adapters.",
            )
        own.copy_(tensor)


def _holder(model: nn.Module, path: str) -> tuple[nn.Module | None, str]:
    """The adapted module at a path or above it, and the rest of the path."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            module = model.get_submodule(".".join(parts[:count]))
        except AttributeError:
            continue
        if isinstance(module, (SavedModule, AdapterLayer)):
            return module, ".".join(parts[count:])
    return None, path


def _around(layer: nn.Module, path: str, mix: Mix) -> AdapterLayer:
    if isinstance(layer, nn.Linear):
        return LoraLinear(layer, mix)
    if isinstance(layer, nn.Embedding):
        return LoraEmbedding(layer, mix)
    raise InputError(
        "only linear layers and tables are adapted",
        where=path,
        found=type(layer).__name__,
        remedy="pip install peft",
    )


def _swapped(model: nn.Module, path: str, made: nn.Module) -> nn.Module:
    parent, _, leaf = path.rpartition(".")
    model.get_submodule(parent)._modules[leaf] = made
    return made


def _saved(model: nn.Module, config: LoraConfig, keys: KeyMap) -> list[str]:
    """Our paths of the modules that are trained as a whole."""
    ends = tuple(f".{end}" for end in config.modules_to_save)
    paths = [path for path, _ in modules_of(model) if ends and path]
    found = [p for p in paths if any(f".{name}".endswith(ends) for name in (p, *others_of(p, keys)))]
    return [path for path in found if not any(path.startswith(f"{other}.") for other in found)]


def layers_of(model: nn.Module) -> Iterator[Switched]:
    """The layers with adapters, and the modules that adapters have others of."""
    seen: set[int] = set()
    for _, module in modules_of(model):
        added = BASE in module._modules or "modules_to_save" in module._modules
        if added and isinstance(module, Switched) and id(module) not in seen:
            seen.add(id(module))
            yield module


def mix_of(model: nn.Module) -> Mix:
    """What says which adapter a step's tokens are for; one for a model."""
    found = (m._mix[0] for m in layers_of(model) if isinstance(m, (AdapterLayer, SavedModule)))
    return next(found, Mix())


def refuse_others(model: nn.Module) -> None:
    """Raise :class:`InputError` where a model holds layers that PEFT has made."""
    other = next((m for m in layers_of(model) if not isinstance(m, (AdapterLayer, SavedModule))), None)
    if other is not None:
        raise InputError(
            "this model has adapters of PEFT's layers, which omniform's own do not join",
            where=type(model).__name__,
            found=type(other).__name__,
            remedy="Take the model before PEFT has changed it, or model.delete_adapter(...) first.",
        )


def adapter_names(model: nn.Module) -> list[str]:
    """The names of the adapters of our own layers."""
    found: dict[str, None] = {}
    for layer in layers_of(model):
        if isinstance(layer, AdapterLayer):
            found |= dict.fromkeys(layer.r)
        elif isinstance(layer, SavedModule):
            found |= dict.fromkeys(layer.modules_to_save)
    return list(found)


def tensors_of(model: nn.Module, name: str) -> dict[str, Tensor]:
    """An adapter's tensors by our paths, without its name: what a file holds of it."""
    found: dict[str, Tensor] = {}
    for path, module in modules_of(model):
        if isinstance(module, AdapterLayer):
            found |= {f"{path}.{key}": tensor for key, tensor in module.tensors(name).items()}
            if name in module.with_base:
                found[f"{path}.{BASE}.weight"] = module.weight
        elif isinstance(module, SavedModule) and name in module.modules_to_save:
            found |= {f"{path}.{key}": tensor for key, tensor in module.modules_to_save[name].named_parameters()}
    return found


def weighted(model: nn.Module, names: Sequence[str], weights: Sequence[float], new: str) -> None:
    """One adapter that adds what several add, each so many times: their ``A`` one below the other.

    Raises:
        InputError: not one number per adapter, or one that is not there; the lengths of rows are learned apart.
    """
    if len(names) != len(weights):
        raise InputError("not one number per adapter", where="weights", expected=len(names), found=len(weights))
    for layer in layers_of(model):
        if not isinstance(layer, LoraLinear):
            continue
        mine = [(name, weight) for name, weight in zip(names, weights, strict=True) if name in layer.r]
        if any(name in layer.lora_magnitude_vector for name, _ in mine):
            raise InputError("adapters of lengths apart (DoRA) are not summed", where="adapters", found=listed(names))
        if not mine:
            continue
        rank = sum(layer.r[name] for name, _ in mine)
        layer.add(new, rank, rank, 1.0, bias=False, weighed=False, drop=0.0)
        tensors = [layer.tensors(name) for name, _ in mine]
        scales = [layer.scaling[name] * weight for name, weight in mine]
        with torch.no_grad():
            own = layer.tensors(new)
            own[LOW].copy_(torch.cat([each[LOW] for each in tensors]))
            highs = [each["lora_B.weight"] * scale for each, scale in zip(tensors, scales, strict=True)]
            own["lora_B.weight"].copy_(torch.cat(highs, dim=1))


def refuse_tied(model: nn.Module) -> None:
    """Raise :class:`InputError` where an adapted table is another layer's weight as well: merging would change both."""
    ties = tensors_and_ties(model)[1]
    shared = {*ties, *ties.values()}
    for path, module in modules_of(model):
        if isinstance(module, AdapterLayer) and f"{path}.{BASE}.weight" in shared:
            raise InputError(
                "these weights are tied to another layer's, which has no such adapter",
                where=path,
                remedy="Compute with the adapter unmerged, or load the model with tie_word_embeddings=False.",
            )


def unloaded(model: nn.Module) -> None:
    """Put the plain layers back in their places, with whatever was merged into them."""
    for path, module in list(modules_of(model)):
        if isinstance(module, AdapterLayer):
            _swapped(model, path, module.base_layer)
        elif isinstance(module, SavedModule):
            _swapped(model, path, module.now() if module.active_adapters else module.original_module)
