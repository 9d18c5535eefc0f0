"""What a model does with adapters by the ecosystem's names, and with names at all: :class:`TakesAdapters`.

A model keeps its own paths, and hears the ecosystem's: of modules (PEFT looks for layers by them), of tensors (state
dicts, adapters' files), of the layers that a tool is to find.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from omniform.architectures.adapted import (
    ModuleName,
    adapted,
    adapters_by_our_names,
    layer_shapes,
    others_of,
    renamings,
    within_adapters,
)
from omniform.architectures.model import Model
from omniform.core.errors import InputError
from omniform.core.upstairs import upstairs
from omniform.weights.adapters import BASE
from omniform.weights.keymap import KeyTable
from omniform.weights.tensors import modules_of, named_tensors, tensors_and_ties


class TakesAdapters(Model):
    """A model that knows the ecosystem's names of its parts."""

    def load_adapter(
        self,
        peft_model_id: str | os.PathLike[str] | None = None,
        adapter_name: str | None = None,
        *,
        adapter_state_dict: Mapping[str, Tensor] | None = None,
        peft_config: object = None,
        is_trainable: bool = False,
        **where: object,
    ) -> None:
        """Put an adapter that PEFT has saved into this model, in place; needs the package ``peft``.

        Args:
            peft_model_id: a folder or a Hub id.
            adapter_name: what it is called here; ``"default"`` by default.
            adapter_state_dict, peft_config: the adapter's tensors and its config, instead of files.
            is_trainable: leave it to be trained; otherwise it is frozen and the model is in evaluation mode.
            where: where to look, as ``from_pretrained`` takes it (``revision``, ``token``, ``subfolder``, ...).

        Raises:
            DependencyError: there is no ``peft``.
            RepoError: there is no such folder or repository, or no adapter in it.
            InputError: the name is taken; there is nothing to load.
            WeightsError: it does not fit this model.
        """
        upstairs("hub.adapting:load_adapter")(
            self,
            peft_model_id,
            adapter_name,
            adapter_state_dict=adapter_state_dict,
            peft_config=peft_config,
            is_trainable=is_trainable,
            **where,
        )

    # -- spellings ---------------------------------------------------------------------------------------------------

    def key_table(self, keys: Iterable[str] = ()) -> KeyTable:
        """Where each of this model's tensors lives in a checkpoint; adapters live in files of their own.

        Args:
            keys: of the checkpoint, if its layout is another than the usual.
        """
        tensors, ties = tensors_and_ties(self)
        layers = tuple(f"{path}." for path in adapted(self))
        bases = tuple(f"{layer}{BASE}." for layer in layers)
        shapes = {
            path: tuple(tensor.shape)
            for path, tensor in tensors.items()
            if path.startswith(bases) or not path.startswith(layers)
        }
        keys_ = self.key_map().as_in(keys)
        return keys_.expand(shapes, ties) if not layers else within_adapters(keys_, shapes, ties)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """All modules by our paths, each a :class:`ModuleName`, so that PEFT finds them by the Hub's names as well."""
        skipped = len(prefix) + 1 if prefix else 0
        for path, module in super().named_modules(memo, prefix, remove_duplicate):
            yield ModuleName(path, functools.partial(self._spelled, path[skipped:])), module

    def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
        """All modules, each once unless told otherwise; nobody hears their names, so that none are made."""
        found = [module for _, module in modules_of(self)]
        return iter(dict.fromkeys(found) if remove_duplicate else found)

    def _spelled(self, path: str) -> list[str]:
        return [] if self._origin is None else others_of(path, self.key_map())

    def target_modules(self, *names: str) -> list[str]:
        """Our paths of the modules that the ecosystem knows by a name: ``query``, ``c_attn``, ``q``.

        For tools that look for them by our paths. PEFT finds them by itself (:meth:`named_modules`). A fused matrix
        (``c_attn``) is several modules of ours.

        Raises:
            InputError: a name that no module has.
        """
        found: dict[str, None] = {}
        modules = [path for path, module in self.named_modules() if module._parameters]
        for name in names:
            mine = [str(path) for path in modules if path == name or path.endswith(f".{name}")]
            if not mine:
                raise InputError("no module has this name", where="target_modules", found=repr(name)[:80])
            found.update(dict.fromkeys(mine))
        return list(found)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> object:
        """Take weights from a mapping, whose names are ours or a checkpoint's; see torch's method."""
        return super().load_state_dict(self.in_our_names(state_dict), strict, assign)

    def in_our_names(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights by our names, given by ours or a checkpoint's; what has no place here keeps its name."""
        if not isinstance(state_dict, Mapping):
            raise InputError("not a mapping of names to tensors", where="state_dict", found=type(state_dict).__name__)
        own = dict(named_tensors(self))
        if all(key in own and tensor.shape == own[key].shape for key, tensor in state_dict.items()):
            return state_dict
        made, known = adapters_by_our_names(state_dict, own, self._adapted_shapes(), self.key_map())
        table, prefixes = self.key_table(state_dict), self.origin.family.prefixes
        # A name that both use means theirs only where the shape says so (a matrix that we keep in parts).
        own = {key: held for key, held in own.items() if not _is_theirs(table, key, held, state_dict.get(key))}
        strangers = [key for key in state_dict if key not in own and key not in known]
        meanings = {key: table.canonical(key.replace(f".{BASE}.", "."), prefixes) for key in strangers}
        keys: dict[str, str] = {}
        for key, meant in meanings.items():
            if meant is not None and (key == meant or meant not in keys):
                keys[meant] = key
        made.update((key, tensor) for key, tensor in state_dict.items() if key in own)
        for path, links in table.links.items():
            if path not in made and all(link.key in keys for link in links):
                made[path] = table.read(path, lambda key: state_dict[keys[key]])
        for path, owner in tensors_and_ties(self)[1].items():
            if owner in made:
                made.setdefault(path, made[owner])
        strange = {key for key, meant in meanings.items() if meant is None and not table.is_ignored(key)}
        return {**made, **{key: state_dict[key] for key in strange}}

    def _adapted_shapes(self) -> dict[str, tuple[int, ...]]:
        layers = set(adapted(self))
        return {path: shape for path, shape in layer_shapes(self).items() if path in layers} if layers else {}

    def _speak_both(self) -> None:
        """Inside whatever module, take a state dict in either spelling."""
        self.register_load_state_dict_pre_hook(_taken)  # type: ignore[no-untyped-call]

    def _renamings(self) -> dict[str, str]:
        paths = layer_shapes(self) if any(adapted(self)) else (p for p, m in modules_of(self) if m._parameters)
        return renamings(paths, self.key_map())


def _is_theirs(table: KeyTable, key: str, own: Tensor, given: Tensor | None) -> bool:
    return given is not None and given.shape != own.shape and tuple(given.shape) == table.shapes.get(key)


def _taken(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
    assert isinstance(module, TakesAdapters)
    held = {key[len(prefix) :]: tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
    named = module.in_our_names(held)
    if named is not held:
        for key in held:
            del state_dict[prefix + key]
        state_dict.update((prefix + key, tensor) for key, tensor in named.items())
