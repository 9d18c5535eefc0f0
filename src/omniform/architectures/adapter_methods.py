"""What a model does with adapters by the ecosystem's names, and with names at all: :class:`TakesAdapters`.

A model keeps its own paths, and hears the ecosystem's: of modules (PEFT looks for layers by them), of tensors (state
dicts, adapters' files), of the layers that a tool is to find.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn

from omniform.architectures.adapted import ModuleName, renamings, within_adapters
from omniform.architectures.model import Model
from omniform.core.errors import InputError
from omniform.core.upstairs import upstairs
from omniform.weights.adapters import BASE, adapted, adapters_by_our_names, layer_shapes, others_of
from omniform.weights.keymap import KeyTable
from omniform.weights.tensors import modules_of, named_tensors, tensors_and_ties
from omniform.weights.transform import Transform


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What loading an adapter found, by the ecosystem's names: an adapter that does not fit is an error."""

    missing_keys: frozenset[str] = frozenset()
    unexpected_keys: frozenset[str] = frozenset()
    mismatched_keys: frozenset[str] = frozenset()
    error_msgs: tuple[str, ...] = ()


class TakesAdapters(Model):
    """A model that knows the ecosystem's names of its parts."""

    # -- adapters ----------------------------------------------------------------------------------------------------

    _hf_peft_config_loaded: ClassVar[bool] = False
    _hotswap_enabled: ClassVar[bool] = False

    def load_adapter(
        self,
        peft_model_id: str | os.PathLike[str] | None = None,
        adapter_name: str | None = None,
        peft_config: object = None,
        adapter_state_dict: Mapping[str, Tensor] | None = None,
        low_cpu_mem_usage: bool = False,
        is_trainable: bool = False,
        hotswap: bool | str = "auto",
        local_files_only: bool = False,
        adapter_kwargs: Mapping[str, object] | None = None,
        **where: object,
    ) -> AdapterReport:
        """Put an adapter that was saved into this model, in place.

        Args:
            peft_model_id: a folder or a Hub id.
            adapter_name: what it is called here; ``"default"`` by default.
            peft_config, adapter_state_dict: the adapter's config and its tensors, instead of files.
            low_cpu_mem_usage: memory is mapped, whatever it says.
            is_trainable: leave it to be trained; otherwise it is frozen and the model is in evaluation mode.
            hotswap: it takes the place of the one that has its name; ``"auto"`` after :meth:`enable_peft_hotswap`.
            adapter_kwargs: where to look, as by keyword.
            where: where to look, as ``from_pretrained`` takes it (``revision``, ``token``, ``subfolder``, ...).

        Raises:
            ConfigError: it is of a kind that needs the package ``peft``, which is not installed.
            RepoError: there is no such folder or repository, or no adapter in it.
            InputError: the name is taken; there is nothing to load.
            WeightsError: it does not fit this model.
        """
        found = {**where, **({"local_files_only": True} if local_files_only else {})}
        report = upstairs("hub.adapting:load_adapter")(
            self,
            peft_model_id,
            adapter_name,
            peft_config,
            adapter_state_dict,
            is_trainable=is_trainable,
            hotswap=hotswap,
            adapter_kwargs=adapter_kwargs,
            **found,
        )
        return cast(AdapterReport, report)

    def enable_peft_hotswap(self, target_rank: int = 128, check_compiled: str = "error") -> None:
        """Have :meth:`load_adapter` replace an adapter of the same name, whatever their ranks.

        Args:
            target_rank: the highest rank; any rank is taken.
            check_compiled: what to do where there is an adapter already: ``"error"``, ``"warn"`` or ``"ignore"``.
        """
        if vars(self).get("peft_config") and check_compiled == "error":
            raise InputError(
                "there is an adapter already", where="enable_peft_hotswap", remedy="Call it before the first."
            )
        self.__dict__["_hotswap_enabled"] = True

    def add_adapter(self, adapter_config: object, adapter_name: str | None = None) -> None:
        """Put a new adapter into this model, to be trained, and compute with it.

        Args:
            adapter_config: one of PEFT's; without PEFT a :class:`~omniform.transforms.lora_config.LoraConfig`, or a
                mapping of its fields.
            adapter_name: what it is called here; ``"default"`` by default.
        """
        upstairs("hub.adapting:add_adapter")(self, adapter_config, adapter_name)

    def set_adapter(self, adapter_name: str | Sequence[str]) -> None:
        """Compute with one adapter, or with several; an unknown name is refused with the nearest."""
        upstairs("hub.adapting:set_adapter")(self, adapter_name)

    def disable_adapters(self) -> None:
        """Compute without adapters, which stay."""
        upstairs("hub.adapting:enable_adapters")(self, enabled=False)

    def enable_adapters(self) -> None:
        """Compute with the active adapters again."""
        upstairs("hub.adapting:enable_adapters")(self, enabled=True)

    def active_adapters(self) -> list[str]:
        """The adapters that this model computes with."""
        return cast("list[str]", upstairs("hub.adapting:active_adapters")(self))

    def active_adapter(self) -> str:
        """The first of them."""
        return self.active_adapters()[0]

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """An adapter's tensors, without its name: the active one's by default."""
        found = upstairs("hub.adapting:get_adapter_state_dict")(self, adapter_name, state_dict)
        return cast("dict[str, Tensor]", found)

    def delete_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Take adapters out of this model."""
        upstairs("hub.adapting:delete_adapter")(self, adapter_names)

    def merge_adapters(
        self, adapter_names: Sequence[str] | None = None, *, safe_merge: bool = False, unload: bool = False
    ) -> None:
        """Put adapters into the weights: the active ones, or named ones.

        Args:
            safe_merge: refuse weights that would not be finite.
            unload: put plain layers in the places of those with adapters, so that the model is as any other.
        """
        upstairs("hub.adapting:merge_adapters")(self, adapter_names, safe_merge=safe_merge, unload=unload)

    def unmerge_adapters(self) -> None:
        """Take merged adapters out of the weights again."""
        upstairs("hub.adapting:unmerge_adapters")(self)

    def add_weighted_adapter(self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str) -> None:
        """One adapter that adds what several add, each so many times."""
        upstairs("hub.adapting:add_weighted_adapter")(self, adapters, weights, adapter_name)

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

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All parameters, each once, in the order of ``named_parameters``; nobody hears their names here either.

        One after another as they are asked for: who wants the first alone, as steps do that ask where a model lies,
        does not wait for all.
        """
        seen: set[nn.Parameter] = set()
        for _, module in modules_of(self) if recurse else (("", self),):
            for parameter in module._parameters.values():
                if parameter is not None and parameter not in seen:
                    seen.add(parameter)
                    yield parameter

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

    def key_map_with(self, edit: Transform) -> None:
        """Have a transform change this model now, and know where its new modules live."""
        found = edit.prepare(self, self.key_map())
        if found is not self.key_map() and self.keymap is not None:
            self.keymap = found

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
