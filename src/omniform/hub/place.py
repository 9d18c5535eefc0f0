"""Where each part of a model goes: from a user's ``device_map`` to a place for every tensor.

What is never split is found in the structure: a child of an ``nn.ModuleList`` (one transformer layer, whose parts add
to one another), and whatever has no ``nn.ModuleList`` inside (a table, a head, a projector). Tied weights count once
and lie together.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from omniform.core.errors import InputError, listed, nearest
from omniform.hub.devices import Place, as_device, bounds, place_named

log = logging.getLogger("omniform")

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a model, as it will be held.

    Attributes:
        key: the checkpoint's key.
        nbytes: its bytes, in the dtype it is loaded as.
        mapped: whether the checkpoint's file holds just these bytes, so that they can be used where they lie.
        dtype: what it is loaded as.
    """

    key: str
    nbytes: int
    mapped: bool
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Part:
    """What lies in one place and is brought to its device as a whole.

    Attributes:
        path: its module path.
        tensors: paths of its tensors; those that are tied to another part's are among them.
        nbytes: bytes of the tensors that are counted here: tied ones count where they come first.
        place: where it lies.
    """

    path: str
    tensors: tuple[str, ...]
    nbytes: int
    place: Place


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model's tensors lie.

    Attributes:
        device_map: module paths, spelled as in the checkpoint, and places: as the ecosystem shows it.
        parts: what is placed as a whole, in the order of the modules.
        places: the place of every tensor by path.
        main: the device that takes the inputs, and that parts which lie elsewhere are brought to.
    """

    device_map: Mapping[str, Place]
    parts: tuple[Part, ...]
    places: Mapping[str, Place]
    main: Place

    @property
    def is_single(self) -> bool:
        """Whether everything lies in one place and stays there."""
        return set(self.places.values()) <= {self.main}

    def runs_on(self, part: Part) -> Place:
        """The device that computes a part."""
        return self.main if part.place in ("cpu", "disk") else part.place

    def held(self) -> dict[Place, int]:
        """Bytes of weights by place."""
        total: Counter[Place] = Counter()
        for part in self.parts:
            total[part.place] += part.nbytes
        return dict(total)


@dataclass(frozen=True, slots=True)
class Layout:
    """What placing needs to know of a model.

    Attributes:
        model: on the meta device.
        stored: its tensors, by path.
        ties: paths of tensors that are others', and these.
        spelled: how the checkpoint spells module paths.
        beside: bytes of buffers that no file holds, by the paths of their modules.
    """

    model: nn.Module
    stored: Mapping[str, Stored]
    ties: Mapping[str, str]
    spelled: Mapping[str, str]
    beside: Mapping[str, int]


def place(layout: Layout, device_map: object, max_memory: object, *, has_folder: bool) -> Placement:
    """Decide where everything goes.

    Args:
        device_map: a strategy, a device, a mapping of module paths to devices, or None for the default device.
        max_memory: bounds by device, for the strategies.
        has_folder: whether there is a folder for weights that cannot be used where they lie in the checkpoint.

    Raises:
        InputError: no such device or strategy, a mapping that leaves out weights, weights that fit nowhere, arguments
            that do not go together.
    """
    if isinstance(device_map, str) and device_map in STRATEGIES:
        room = bounds(max_memory)
        parts = tuple(_parts(layout, {}))
        found = _arranged(parts, layout, device_map, room, has_folder)
        places = {path: found[part.path] for part in parts for path in part.tensors}
        return _placement(layout, places, None)
    if max_memory is not None:
        raise InputError(
            "max_memory bounds a placement that is made here",
            where="max_memory",
            expected="device_map=" + " or ".join(map(repr, STRATEGIES)),
            found=f"device_map={device_map!r}"[:200],
        )
    if isinstance(device_map, Mapping):
        mapped = {_path(key): place_named(value, f"device_map: {key!r}") for key, value in device_map.items()}
        return _placement(layout, _by_mapping(layout, mapped), mapped)
    place = _default() if device_map is None else _single(device_map)
    return _placement(layout, dict.fromkeys([*layout.stored, *layout.ties], place), {"": place})


def check_folder(layout: Layout, placement: Placement, has_folder: bool) -> None:
    """Raise :class:`InputError` if weights go to disk that no file holds as they are, and no folder is given."""
    homeless = {p for p, s in layout.stored.items() if placement.places[p] == "disk" and not s.mapped}
    if homeless and not has_folder:
        nbytes = sum(layout.stored[path].nbytes for path in homeless)
        raise InputError(
            f"{nbytes:,} bytes go to disk that the checkpoint does not hold in this form, as {min(homeless)}",
            where="offload_folder",
            expected="a folder for them",
            remedy="Pass offload_folder=..., or keep the checkpoint's own dtype.",
        )


def _single(device_map: object) -> Place:
    if not isinstance(device_map, (str, int, torch.device)):
        expected = f"a device, a mapping of module paths to devices, or {', '.join(STRATEGIES)}"
        raise InputError("no such placement", where="device_map", expected=expected, found=repr(device_map)[:200])
    if isinstance(device_map, str) and device_map != "disk":
        try:
            torch.device(device_map)
        except RuntimeError:
            if not device_map.isdigit():
                remedy = nearest(device_map, (*STRATEGIES, "cpu", "cuda", "disk"))
                raise InputError(
                    "no such placement", where="device_map", found=repr(device_map), remedy=remedy
                ) from None
    return place_named(device_map, "device_map")


def _default() -> Place:
    device = torch.get_default_device()
    return place_named(device, "torch.get_default_device()")


def _path(key: object) -> str:
    if not isinstance(key, str):
        raise InputError("no module path", where="device_map", expected="text", found=repr(key))
    return key


# -- parts -----------------------------------------------------------------------------------------------------------


def _parts(layout: Layout, places: Mapping[str, Place]) -> Iterator[Part]:
    """The parts of a model, as finely as they have to be told apart; with no places given, as coarsely as may be."""
    counted: set[str] = set()

    def part(path: str, tensors: Sequence[str]) -> Part:
        owners = [layout.ties.get(tensor, tensor) for tensor in tensors]
        new = [owner for owner in dict.fromkeys(owners) if owner not in counted]
        counted.update(new)
        modules = {tensor.rpartition(".")[0] for tensor in tensors} & layout.beside.keys() - counted
        counted.update(modules)
        nbytes = sum(layout.stored[o].nbytes for o in new) + sum(layout.beside[m] for m in modules)
        return Part(path, tuple(tensors), nbytes, places.get(tensors[0], "cpu"))

    def visit(path: str, module: nn.Module, whole: bool) -> Iterator[Part]:
        inside = _beneath(layout, path)
        if not inside:
            return
        agreed = len({places.get(tensor, "cpu") for tensor in inside}) == 1
        if agreed and (whole or not any(isinstance(m, nn.ModuleList) for m in module.modules())):
            yield part(path, inside)
            return
        own = [tensor for tensor in inside if tensor.rpartition(".")[0] == path]
        for place in dict.fromkeys(places.get(tensor, "cpu") for tensor in own):
            yield part(path, [tensor for tensor in own if places.get(tensor, "cpu") == place])
        for name, child in module.named_children():
            yield from visit(f"{path}.{name}" if path else name, child, isinstance(module, nn.ModuleList))

    yield from visit("", layout.model, False)


def _beneath(layout: Layout, path: str) -> list[str]:
    head = f"{path}." if path else ""
    return [tensor for tensor in (*layout.stored, *layout.ties) if tensor.startswith(head)]


def _placement(layout: Layout, places: Mapping[str, Place], given: Mapping[str, Place] | None) -> Placement:
    """A placement from the places of tensors; what is tied lies where the tensor that counts does."""
    moved = [path for path, owner in layout.ties.items() if places[path] != places[owner]]
    if moved:
        log.warning("tied weights lie in one place, that of the first: %s", listed(moved))
    places = {**places, **{path: places[owner] for path, owner in layout.ties.items()}}
    parts = tuple(_parts(layout, places))
    computing = [p.place for p in parts if p.place not in ("cpu", "disk")]
    device_map = given or _shown(layout, parts)
    return Placement(device_map, parts, places, computing[0] if computing else "cpu")


def _shown(layout: Layout, parts: Sequence[Part]) -> dict[str, Place]:
    """Places by module path, what agrees shown as one."""

    def visit(path: str, inside: Sequence[Part]) -> Iterator[tuple[str, Place]]:
        places = {part.place for part in inside}
        if len(places) == 1:
            yield layout.spelled.get(path, path), inside[0].place
            return
        depth = path.count(".") + 2 if path else 1
        groups: dict[str, list[Part]] = {}
        for part in inside:
            groups.setdefault(".".join(part.path.split(".")[:depth]), []).append(part)
        for head, group in groups.items():
            if head == path or (head == "" and not path):
                for part in group:
                    yield layout.spelled.get(part.path, part.path), part.place
            else:
                yield from visit(head, group)

    return dict(visit("", parts))


# -- a user's mapping ------------------------------------------------------------------------------------------------


def _by_mapping(layout: Layout, given: Mapping[str, Place]) -> dict[str, Place]:
    """The place of every tensor; the most specific path that covers it, in our spelling or the checkpoint's, counts."""
    places: dict[str, Place] = {}
    used: set[str] = set()
    missing = []
    keys = {path: stored.key for path, stored in layout.stored.items()}
    keys.update({path: layout.spelled.get(path, path) for path in layout.ties})
    for path, key in keys.items():
        covering = [head for name in (key, path) for head in _heads(name) if head in given]
        used.update(covering)
        if covering:
            places[path] = given[max(covering, key=lambda head: (head != "", head.count(".")))]
        elif path not in layout.ties:
            missing.append(key)
    for path in layout.ties.keys() - places.keys():
        places[path] = places.get(layout.ties[path], "cpu")
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(
            "the mapping does not say where all weights go",
            where="device_map",
            expected="a place for " + ", ".join(missing[:5]) + more,
            remedy="The path '' stands for the whole model.",
        )
    strangers = [path for path in given if path not in used]
    if strangers:
        # The ecosystem's maps list modules that hold no weights too (dropouts, rotary tables).
        log.warning("device_map: no weights lie under %s", listed(map(repr, strangers)))
    return places


def _heads(path: str) -> list[str]:
    pieces = path.split(".")
    return [".".join(pieces[:n]) for n in range(len(pieces) + 1)]


# -- strategies ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """Parts that share weights, and so a place."""

    paths: tuple[str, ...]
    nbytes: int
    mappable: bool


def _arranged(
    parts: Sequence[Part], layout: Layout, strategy: str, room: Mapping[Place, int], has_folder: bool
) -> dict[str, Place]:
    groups = _groups(parts, layout)
    main = next((place for place in room if place not in ("cpu", "disk")), "cpu")
    total = sum(group.nbytes for group in groups)
    found = _filled(groups, _evened(groups, strategy, room), {})
    if found is None or any(place in ("cpu", "disk") and place != main for place in found.values()):
        # What visits the computing device needs room there, beside what stays.
        largest = max(group.nbytes for group in groups)
        spare = {main: largest} if main in room else {}
        found = _filled(groups, {**room, "disk": room.get("disk", total)}, spare)
    have = sum(room.values())
    shown = ", ".join(f"{place}: {nbytes:,} bytes" for place, nbytes in room.items())
    if found is None:
        raise InputError(
            f"the weights take {total:,} bytes, in parts of up to {max(g.nbytes for g in groups):,}, and do not fit",
            where="max_memory",
            expected=f"{max(total - have, 1):,} bytes more",
            found=shown,
        )
    homeless = sum(g.nbytes for g in groups if found[g.paths[0]] == "disk" and not g.mappable)
    if homeless and not has_folder:
        raise InputError(
            f"the weights take {total:,} bytes and do not fit into memory, and the checkpoint does not hold them as "
            "they are loaded",
            where="max_memory",
            expected=f"{max(total - have, 1):,} bytes more, or a folder to keep {homeless:,} bytes in",
            found=shown,
            remedy="Pass offload_folder=..., or keep the checkpoint's own dtype.",
        )
    return found


def _groups(parts: Sequence[Part], layout: Layout) -> list[_Group]:
    home = {tensor: part.path for part in parts for tensor in part.tensors}
    leader = {part.path: part.path for part in parts}
    for tensor, owner in layout.ties.items():
        leader[home[tensor]] = leader[home[owner]]
    members: dict[str, list[Part]] = {}
    for part in parts:
        members.setdefault(leader[part.path], []).append(part)
    return [
        _Group(
            tuple(part.path for part in group),
            sum(part.nbytes for part in group),
            all(layout.stored[layout.ties.get(t, t)].mapped for part in group for t in part.tensors),
        )
        for group in members.values()
    ]


def _evened(groups: Sequence[_Group], strategy: str, room: Mapping[Place, int]) -> dict[Place, int]:
    """Bounds under which the accelerators get even shares."""
    computing = [place for place in room if place not in ("cpu", "disk") and room[place]]
    total = sum(group.nbytes for group in groups)
    shares = len(computing) - 1 if strategy == "balanced_low_0" else len(computing)
    if strategy == "sequential" or len(computing) < 2 or total > sum(room[place] for place in computing):
        return dict(room)
    # A share is filled to within one part of its bound; what that leaves over goes to the last.
    share = -(-total // shares) + max(group.nbytes for group in groups) // 2
    even = {**room, **{place: min(room[place], share) for place in computing[:-1]}}
    if strategy == "balanced_low_0":
        rest = sum(even[place] for place in computing[1:])
        even[computing[0]] = min(room[computing[0]], max(0, total - rest))
    return even


def _filled(groups: Sequence[_Group], room: Mapping[Place, int], spare: Mapping[Place, int]) -> dict[str, Place] | None:
    """Places filled one after another, in the order of the modules; None if they do not hold everything."""
    places = list(room)
    left = {place: room[place] - spare.get(place, 0) for place in places}
    found: dict[str, Place] = {}
    for group in groups:
        while places and left[places[0]] < group.nbytes:
            places.pop(0)  # never back to an earlier one: layers that follow one another lie together
        if not places:
            return None
        left[places[0]] -= group.nbytes
        found.update(dict.fromkeys(group.paths, places[0]))
    return found


def devices_of(placement: Placement) -> list[torch.device]:
    """The torch devices that a placement needs."""
    return [as_device(place) for place in dict.fromkeys(placement.places.values())]
