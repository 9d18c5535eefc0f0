"""From files to a model: choose the architecture, build it on the meta device, fill it from the mapped weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from omniform.architectures.family import Architecture, Family
from omniform.architectures.model import Model, Origin
from omniform.architectures.named import PreTrainedModel
from omniform.architectures.own import begin, patterns
from omniform.blocks.layers import crossing_parts
from omniform.blocks.poolers import ComputedPart, optional_parts
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, WeightsError, listed
from omniform.core.own_config import is_own
from omniform.hub.devices import as_device, need_device
from omniform.hub.fill import Loading, fill, visits
from omniform.hub.partitioned import partition
from omniform.hub.place import Layout, Placement, Stored, check_folder, place
from omniform.hub.weights import WeightFiles
from omniform.models import registry
from omniform.models.registry import known_families
from omniform.transforms.quantize.quantizer import Quantizing
from omniform.weights.init import NoInitialising, initialise
from omniform.weights.keymap import KeyMap, KeyTable, Shaped, is_unwrapped
from omniform.weights.tensors import assign, passing_bytes, tensors_and_ties
from omniform.weights.transform import Transform, kept_dtypes, prepared

log = logging.getLogger("omniform")

M = TypeVar("M", bound=Model)


@dataclass(slots=True, eq=False)
class LoadReport(Mapping[str, object]):
    """What loading found; also readable as the ecosystem's mapping of ``missing_keys``, ``unexpected_keys``,
    ``mismatched_keys`` and ``error_msgs``.

    Attributes:
        missing: tensors of the model that the checkpoint lacks, with their shapes.
        unexpected: keys of the checkpoint that the model has no place for, with their shapes.
        mismatched: keys whose shape differs: expected, found.
        fresh: tensors that were newly made because they belong to a new task head.
        fresh_keys: the same, as the checkpoint spells them.
        unused: keys left out because they belong to another head of the same checkpoint.
        left_out: keys of what the family trains beside the model and nobody computes (predictions further ahead).
        anew: keys of the wrong shape that were made anew: expected, found.
    """

    missing: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unexpected: dict[str, tuple[int, ...]] = field(default_factory=dict)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    fresh_keys: tuple[str, ...] = ()
    unused: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    anew: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> object:
        return self._entries()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __len__(self) -> int:
        return len(self._entries())

    def _entries(self) -> dict[str, object]:
        # What was loaded has no other faults than these: the rest is an error.
        return {
            "missing_keys": set(self.fresh_keys) - set(self.anew),
            "unexpected_keys": set(self.unused),
            "mismatched_keys": {(key, found, expected) for key, (expected, found) in self.anew.items()},
            "error_msgs": [],
        }

    def check(self, where: str) -> None:
        """Raise :class:`WeightsError`, naming every offending tensor, unless all is well."""
        lines = [f"missing {key}, shape {list(shape)}" for key, shape in self.missing.items()]
        lines += [f"unexpected {key}, shape {list(shape)}" for key, shape in self.unexpected.items()]
        lines += [
            f"{key} has the wrong shape: expected {list(want)}, found {list(got)}"
            for key, (want, got) in self.mismatched.items()
        ]
        if not lines:
            return
        shown = lines[:10] + ([f"... and {len(lines) - 10} more"] if len(lines) > 10 else [])
        remedy = "Does config.json belong to these weights?"
        if self.mismatched and not self.missing and not self.unexpected:
            remedy = "For a new head pass ignore_mismatched_sizes=True."
        raise WeightsError(
            "the weights do not fit the model:\n  " + "\n  ".join(shown) + "\n", where=where, remedy=remedy
        )


class Described(Protocol):
    """A tensor, or a header's word for one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...


def build_on_meta(
    config: ModelConfig,
    kind: type[PreTrainedModel],
    name: str = "",
    dtype: torch.dtype | None = None,
    **options: object,
) -> PreTrainedModel:
    """The model's modules, holding no memory; those of a class of the user's own, holding none that was written to.

    Args:
        dtype: what the constructor of a class of the user's own finds as torch's default.
        options: what the class's constructor takes beside the config.
    """
    # What a constructor of the user's own computes (tables of positions) has its values; unset memory costs nothing.
    where = torch.device("cpu" if kind.place is None else "meta")
    before = torch.get_default_dtype()
    try:
        if kind.place is None:
            torch.set_default_dtype(dtype or before)
        with where, NoInitialising():
            model = kind(config, **options)  # type: ignore[arg-type]
    except (RuntimeError, OverflowError, MemoryError) as error:  # torch's way to say that a size is too big to count
        raise ConfigError(
            "no model can have these sizes", where=name or config.model_type, found=str(error).split("\n")[0][:200]
        ) from error
    finally:
        torch.set_default_dtype(before)
    return model.bind(replace(model.origin, name_or_path=name))


def table_of(model: Model) -> KeyTable:
    """Where each of a model's tensors lives in a checkpoint."""
    shapes, ties = tensors_and_ties(model)
    return keymap_of(model).expand({p: tuple(t.shape) for p, t in shapes.items()}, ties)


def keymap_of(model: Model) -> KeyMap:
    """Where modules live in a checkpoint: as the family says, or as transforms have left it."""
    return model.key_map()


def lay_out(model: Model, keys: Iterable[str] | Mapping[str, Shaped]) -> None:
    """Have a model read, and write, the layout that a checkpoint with these keys lies in."""
    usual = keymap_of(model)
    found = usual.as_in(keys)
    if found is not usual:
        model.keymap = found


def transformed(model: M, transforms: Sequence[Transform]) -> M:
    """The same model, still on the meta device, with other modules in it."""
    if transforms:
        model.keymap = prepared(model, keymap_of(model), transforms)
        model.transforms = tuple(transforms)
    return model


def from_scratch(config: ModelConfig, kind: type[PreTrainedModel], dtype: torch.dtype) -> PreTrainedModel:
    """A model with fresh weights."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        return kind(config)
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ConfigError(
            "no model can have these sizes", where=config.model_type, found=str(error).split("\n")[0][:200]
        ) from error
    finally:
        torch.set_default_dtype(before)


@torch.inference_mode(False)  # or the weights could not be trained later
def load_weights(model: Model, files: WeightFiles, how: Loading) -> LoadReport:
    """Fill a model that was built on the meta device, and hang in what brings its parts together.

    Args:
        how: as what, and where to.

    Raises:
        WeightsError: tensors are missing, unexpected or mis-shaped; nothing was filled.
        InputError: the places do not suit the model or this machine; nothing was filled.
    """
    where = model.name_or_path
    held = files.tensors(how.dtype)
    if model.state_dict(keep_vars=True).keys() == held.keys():
        # What ``model.state_dict()`` gave, in a file or by hand: our names, which the table turns into the Hub's.
        renamed = _in_their_names(model, held)
        if renamed.keys() != held.keys():
            held, files = renamed, WeightFiles({}, files.pickles, given=renamed)
    described: Mapping[str, Described] = held if files.gguf is None else files.gguf.entries
    lay_out(model, described)
    untie_what_differs(model, held, partial(_equal, held))
    table = table_of(model)
    keys, report = match(model, table, described, how.ignore_mismatched_sizes)
    report.check(where)
    layout = layout_of(model, table, keys, described, how.dtype, files)
    placement = placed(layout, how)
    views = _views(table, keys, held)
    del held, described
    mine = isinstance(model, PreTrainedModel) and model.place is None
    made = {path: tensor for path, tensor in tensors_and_ties(model)[0].items() if mine and path not in views}
    report.fresh = fill(model, views, layout, placement, how)
    for transform in (*model.transforms, visits(model, placement), *_suited(placement)):
        transform.finish(model)
    model.placed_at = {} if how.device_map is None else placement.device_map
    if model.origin.architecture.name in model.config.common.architectures:
        # Saved again, the weights keep the layout and the names that they came in, gamma and beta too.
        model.spelling = {key: found for key, found in keys.items() if found != key and is_unwrapped(found)}
    if isinstance(model, PreTrainedModel) and model.place is None:
        _begin_own(model, report.fresh, made, placement)
    elif report.fresh:
        initialise(model, model.config.common.initializer_range, set(report.fresh), model.beginnings())
        _forget_what_follows(model, report)
    quiet = patterns(type(model), "_keys_to_ignore_on_load_missing")
    if told := [path for path in report.fresh if not any(one.search(table.key(path)) for one in quiet)]:
        log.warning("%s: newly made, to be trained: %s", where, listed(told))
    report.fresh_keys = tuple(table.key(path) for path in report.fresh)
    if idle := [*report.unused, *report.left_out]:
        log.info("%s: not used by %s: %s", where, model.origin.architecture.name, listed(idle))
    partition(model)
    return report


def _suited(placement: Placement) -> tuple[Transform, ...]:
    """What has a model compute as suits this machine; imported when a model is loaded, not with the doors."""
    from omniform.transforms.lower import Lower
    from omniform.transforms.pack import Pack
    from omniform.transforms.widen import Widen

    # What visits is packed for nobody.
    return (Widen(),) if "disk" in placement.places.values() else (Pack(), Widen(), Lower())


def _begin_own(model: PreTrainedModel, fresh: list[str], made: Mapping[str, Tensor], placement: Placement) -> None:
    """Fresh weights of a model of the user's own, from what its constructor made; its buffers go where it lies."""
    tensors = tensors_and_ties(model)[0]
    with torch.no_grad():
        for path in fresh:
            tensors[path].copy_(made[path])
    if fresh:
        begin(model, set(fresh))
    main = as_device(placement.main)
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers.get(name)
            module._buffers[name] = None if buffer is None else buffer.to(main)


def _forget_what_follows(model: Model, report: LoadReport) -> None:
    """What was made because it follows from the config is neither to be trained nor written back."""
    for path, part in model.named_modules():
        made = [fresh for fresh in report.fresh if fresh.startswith(f"{path}.")]
        if isinstance(part, ComputedPart) and made:
            part.forget()
            report.fresh = [fresh for fresh in report.fresh if fresh not in made]


def _in_their_names(model: Model, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    table = table_of(model)
    written = table.write({path: held[path] for path in table.links})
    return {**written, **{key: held[path] for key, path in table.copies.items()}}


def _views(table: KeyTable, keys: Mapping[str, str], held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors that the checkpoint holds: views of its own, or assembled from several."""
    there = [path for path, links in table.links.items() if all(link.key in keys for link in links)]
    return {path: table.read(path, lambda key: held[keys[key]]) for path in there}


def placed(layout: Layout, how: Loading) -> Placement:
    """Where everything goes, on this machine.

    Raises:
        InputError: the places do not suit the model or this machine.
    """
    placement = place(layout, how.device_map, how.max_memory, has_folder=how.offload_folder is not None)
    for name in dict.fromkeys(placement.places.values()):
        need_device(name, "device_map")
    check_folder(layout, placement, how.offload_folder is not None)
    return placement


def layout_of(
    model: Model,
    table: KeyTable,
    keys: Mapping[str, str],
    held: Mapping[str, Described],
    dtype: torch.dtype | None,
    files: WeightFiles,
) -> Layout:
    """What a model's tensors will be once loaded.

    Args:
        keys: the table's key to the checkpoint's; what it lacks is made anew.
        held: the checkpoint's tensors, or what its headers say of them.
        dtype: of the floating-point tensors; None for the checkpoint's own.

    Raises:
        WeightsError: the checkpoint holds whole numbers where the model computes with others.
    """
    tensors, ties = tensors_and_ties(model)
    stored: dict[str, Stored] = {}
    kept = kept_dtypes(model)
    for path in table.links:
        ours, key = tensors[path], keys.get(table.key(path))
        if key is None:
            kind = dtype or model.config.common.dtype or torch.float32
            kind = kind if ours.is_floating_point() and path not in kept else ours.dtype
            stored[path] = Stored(table.key(path), ours.numel() * kind.itemsize, True, kind)
            continue
        found = held[key].dtype
        if ours.is_floating_point() and not found.is_floating_point:
            raise WeightsError(
                f"{key} does not hold weights as they are computed with",
                where=model.name_or_path,
                expected="floating-point numbers",
                found=str(found).removeprefix("torch."),
                remedy="Is this a quantized checkpoint?",
            )
        kind = dtype if dtype is not None and found.is_floating_point and path not in kept else found
        mapped = kind == found and table.is_view(path) and files.is_mapped(key)
        stored[path] = Stored(table.key(path), ours.numel() * kind.itemsize, mapped, kind)
    for transform in model.transforms:
        for path, nbytes in transform.takes(model).items():
            owner = ties.get(path, path)  # what is tied is read by another as it is
            beside = stored[owner].nbytes if owner != path or not stored[owner].mapped else 0
            stored[owner] = replace(stored[owner], nbytes=nbytes + beside)
    spelled = keymap_of(model).spelled([*(path for path, _ in model.named_modules() if path), *ties])
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):  # templates tell of its children only
            spelled[path] = spelled[f"{path}.0"].rpartition(".")[0]
    spelled |= _gathered(spelled, table)
    return Layout(model, stored, ties, spelled, passing_bytes(model))


def _gathered(spelled: Mapping[str, str], table: KeyTable) -> dict[str, str]:
    """Modules that a checkpoint has none for, by where it keeps all that is in them (GPT-2's embeddings: ``wpe``)."""
    inside: dict[str, list[str]] = {}
    for own in table.links:
        parts = own.split(".")
        for depth in range(1, len(parts)):
            inside.setdefault(".".join(parts[:depth]), []).append(table.key(own))
    found: dict[str, str] = {}
    for path, keys in inside.items():
        name = spelled.get(path, path)
        if not any(key.startswith(f"{name}.") for key in keys):
            common = [
                parts[0] for parts in zip(*(key.split(".")[:-1] for key in keys), strict=False) if len(set(parts)) == 1
            ]
            found[path] = ".".join(common) or name
    return found


def untie_what_differs(model: Model, held: Iterable[str], alike: Callable[[str, str], bool]) -> None:
    """Give a tied tensor its own memory where the checkpoint holds it beside its owner, with other values.

    The weights tell better than the config whether they were trained apart (T5 1.1 and its kin).

    Args:
        held: the checkpoint's keys.
        alike: whether what two keys hold is the same.
    """
    table = table_of(model)
    if not table.duplicates:
        return
    prefixes = model.origin.family.prefixes
    spelled = {meant: key for key in held if (meant := table.canonical(key, prefixes)) is not None}
    tensors = model.state_dict(keep_vars=True)
    for copy, owner in table.duplicates.items():
        if copy not in spelled or owner not in spelled:
            continue
        if not alike(spelled[copy], spelled[owner]):
            path = table.copies[copy]
            assign(model, path, torch.empty_like(tensors[path]))
            if path in keymap_of(model).owners:  # what it is tied to lies in another process
                others = {own: to for own, to in keymap_of(model).owners.items() if own != path}
                model.keymap = replace(keymap_of(model), owners=others)
            log.warning("%s: %s differs from %s, which it is usually tied to", model.name_or_path, copy, owner)


def _equal(held: Mapping[str, Tensor], one: str, other: str) -> bool:
    return torch.equal(held[one], held[other])


def match(
    model: Model, table: KeyTable, held: Mapping[str, Described], ignore_mismatched_sizes: bool
) -> tuple[dict[str, str], LoadReport]:
    """Which of a checkpoint's keys fills which of the table's.

    Returns:
        The table's key to the checkpoint's, and what did not match.
    """
    report = LoadReport()
    origin = model.origin
    prefixes = origin.family.prefixes
    keys, strangers = _spelled(table, held, prefixes)
    report.left_out = [key for key in held if table.is_left_out(key)]
    for key in list(keys):
        want, got = table.shapes[key], tuple(held[keys[key]].shape)
        if want != got and ignore_mismatched_sizes:
            report.anew[key] = (want, got)
            del keys[key]
        elif want != got:
            report.mismatched[key] = (want, got)
    absent = {key: shape for key, shape in table.shapes.items() if key not in keys and key not in report.anew}
    if strangers or absent:
        # What belongs to another head than the one asked for may be left out; what its writer lacked is made anew.
        family = _family_of(model)
        foreign = _is_anothers(model) and bool(keys)
        prefixes = tuple(dict.fromkeys((*prefixes, *family.prefixes)))
        writers = other_architectures(origin, family)
        alone = family is origin.family and isinstance(model, PreTrainedModel) and model.place is None
        relatives = [] if alone else [a for a in family.architectures.values() if a not in writers]
        tables = [_table_of_another(origin, family, a, held) for a in writers]
        spare = _spare(model, table, keys)
        report.missing = {
            k: s
            for k, s in absent.items()
            if k not in spare and not foreign and all(t.canonical(k, prefixes) for t in tables)
        }
        extra = patterns(type(model), "_keys_to_ignore_on_load_unexpected")
        unknown = [key for key in strangers if not foreign and not any(one.search(key) for one in extra)]
        packed = any(isinstance(transform, Quantizing) for transform in model.transforms)
        unknown = _unplaced(unknown, tables, prefixes, packed=packed)
        for relative in relatives:
            if not unknown:
                break
            unknown = _unplaced(unknown, [_table_of_another(origin, family, relative, held)], prefixes, packed=packed)
        report.unused = sorted(set(strangers) - set(unknown))
        report.unexpected = {k: tuple(held[k].shape) for k in unknown}
    return keys, report


def _family_of(model: Model) -> Family:
    """The family whose checkpoints a model reads: its own, or for a class of the user's own that of its config."""
    family = model.origin.family
    mine = isinstance(model, PreTrainedModel) and model.place is None and not is_own(type(model.config))
    return registry.family(family.model_type) if mine and family.model_type in known_families() else family


def _is_anothers(model: Model) -> bool:
    """Whether a checkpoint of the user's own was written by another class than the one that reads it: a head beside."""
    names = model.config.common.architectures
    return is_own(type(model.config)) and bool(names) and model.origin.architecture.name not in names


def _spare(model: Model, table: KeyTable, keys: Mapping[str, str]) -> set[str]:
    """Keys that a checkpoint may lack: of parts that need not be there and are not, and of the user's own modules.

    A class of the user's own adds to an architecture what no checkpoint of that architecture holds.
    """
    spare: set[str] = set()
    # A text's model may become a decoder that looks at an encoder: it has not learnt yet what that says.
    added = crossing_parts(model) if model.config.get("add_cross_attention") is True else []
    for part in (*optional_parts(model), *added):
        inside = {link.key for path, links in table.links.items() if path.startswith(f"{part}.") for link in links}
        if not inside & keys.keys():
            spare |= inside
    plain = model.origin.family.classes[model.origin.architecture.name]
    may_lack = patterns(type(model), "_keys_to_ignore_on_load_missing")
    spare |= {key for key in table.shapes if any(one.search(key) for one in may_lack)}
    if isinstance(model, PreTrainedModel) and model.place is None:
        return spare
    if plain.place is not None and plain not in (type(model), *vars(type(model)).get("made_of", ())):
        spare |= table.shapes.keys() - table_of(build_on_meta(model.config, plain)).shapes.keys()
    return spare


def _table_of_another(origin: Origin, family: Family, other: Architecture, held: Iterable[str]) -> KeyTable:
    """Where the tensors of another architecture live, in the layout of a checkpoint with these keys."""
    model = build_on_meta(origin.config, family.classes[other.name])
    lay_out(model, held)
    return table_of(model)


def _unplaced(keys: list[str], tables: list[KeyTable], prefixes: tuple[str, ...], *, packed: bool) -> list[str]:
    """The keys that no table has a place for.

    Args:
        packed: whether weights may be quantized, so that a matrix has other tensors than its ``weight``.
    """

    def has(table: KeyTable, key: str) -> bool:
        if table.canonical(key, prefixes) or table.is_ignored(key):
            return True
        module = key.rpartition(".")[0]
        whose = (module, module.rpartition(".")[0]) if packed else ()
        return any(table.canonical(f"{one}.weight", prefixes) is not None for one in whose if one)

    return [key for key in keys if not any(has(table, key) for table in tables)]


def _spelled(
    table: KeyTable, held: Mapping[str, Described], prefixes: tuple[str, ...]
) -> tuple[dict[str, str], list[str]]:
    keys: dict[str, str] = {}
    copies: dict[str, str] = {}
    strangers = []
    for key in held:
        meant = table.canonical(key, prefixes)
        if meant is None:
            if not table.is_ignored(key) and not table.is_elsewhere(key, prefixes):
                strangers.append(key)
        elif meant in table.duplicates:
            copies.setdefault(table.duplicates[meant], key)
        elif key == meant or meant not in keys:
            keys[meant] = key
    for meant, key in copies.items():
        keys.setdefault(meant, key)
    return keys, strangers


def other_architectures(origin: Origin, family: Family) -> list[Architecture]:
    """The architectures that the checkpoint may have been written by, if not the one that is asked for."""
    if origin.architecture.name in origin.config.common.architectures:
        return []
    named = [family.architectures[n] for n in origin.config.common.architectures if n in family.architectures]
    return named or [a for a in family.architectures.values() if a is not origin.architecture]
