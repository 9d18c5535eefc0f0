"""What ``tp_plan`` and ``pp_plan`` ask for: which processes hold a model together, and where this one's part goes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Final

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from omniform.core.errors import InputError, brief
from omniform.core.ranks import Ranks
from omniform.hub.options import LoadOptions
from omniform.weights.keymap import Shaped

PLANS: Final = {"tp": "layers divided among processes", "pp": "layers in processes one after another"}
"""How a model is divided, in words, by what its options begin with."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Which processes hold a model together.

    Attributes:
        among: all of them.
        tensor: those that compute the same layers, each a part of them; None where each computes them alone.
        stages: those that compute layers one after another; None where each computes all of them.
    """

    among: Ranks
    tensor: Ranks | None
    stages: Ranks | None


def ranks_asked(options: LoadOptions) -> Shares | None:
    """The processes that are to hold a model together; None where nobody asks for that.

    A group of processes is made where there is none yet, of what ``torchrun`` has put into the environment.

    Raises:
        InputError: a plan that is not ``"auto"``, sizes without a plan or that do not fit, ``device_map`` beside it,
            or no other processes.
    """
    options = _configured(options)
    plans = {"tp": options.tp_plan, "pp": options.pp_plan}
    sizes = {"tp": options.tp_size, "pp": options.pp_size}
    asked = [kind for kind, plan in plans.items() if plan is not None]
    for kind in PLANS:
        _check(kind, plans[kind], sizes[kind])
    if not asked:
        if options.device_mesh is not None:
            raise InputError(
                "nobody says how to divide the model", where="device_mesh", remedy="Pass tp_plan='auto' too."
            )
        return None
    if options.device_map is not None:
        raise InputError(
            f"every process has its own device with a {asked[0]}_plan", where="device_map",
            found=brief(options.device_map), remedy="Leave device_map out.",
        )  # fmt: skip
    _begin(asked[0])
    if options.device_mesh is not None:
        return _of_mesh(options.device_mesh, asked, sizes)
    return _of_world(asked, sizes)


def _check(kind: str, plan: object, size: object) -> None:
    if plan is None and size not in (None, 1):
        raise InputError(
            "nobody says how to divide the model", where=f"{kind}_size", remedy=f"Pass {kind}_plan='auto' too."
        )
    if plan not in (None, "auto"):
        raise InputError(
            "plans are derived from the model's blocks", where=f"{kind}_plan", expected="'auto'", found=brief(plan)
        )
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise InputError("no number of processes", where=f"{kind}_size", expected="an integer >= 1", found=brief(size))


def _configured(options: LoadOptions) -> LoadOptions:
    """The same options, with what the ecosystem's ``DistributedConfig`` says in their own words."""
    given = options.distributed_config
    if given is None:
        return options
    told = {f.name: getattr(given, f.name) for f in fields(given)} if is_dataclass(given) else given
    if not isinstance(told, Mapping):
        raise InputError(
            "not how a model is spread", where="distributed_config", expected="a DistributedConfig", found=brief(given)
        )
    if any(value is not None for value in (options.tp_plan, options.pp_plan, options.tp_size, options.pp_size)):
        raise InputError("this is said twice", where="distributed_config", remedy="Leave tp_plan and pp_plan out.")
    known = {"tp_size", "tp_plan", "pp_size"}
    harmless: tuple[object, ...] = (None, False, 1, {}, "auto")
    other = next((name for name, value in told.items() if name not in known and value not in harmless), None)
    if other is not None:
        raise InputError(
            "a model is divided by tp_size and pp_size", where=f"distributed_config: {other}", found=brief(told[other])
        )
    tp_size, pp_size, plan = told.get("tp_size"), told.get("pp_size"), told.get("tp_plan")
    plan = "auto" if plan is None and tp_size not in (None, 1) else plan
    return replace(
        options,
        tp_size=tp_size if plan is not None else None,
        tp_plan=plan if tp_size != 1 else None,
        pp_size=pp_size,
        pp_plan="auto" if pp_size not in (None, 1) else None,
    )


def _begin(kind: str) -> None:
    """Have a group of processes."""
    if dist.is_initialized():
        return
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            "there are no processes to divide the model among",
            where=f"{kind}_plan",
            expected="a process group, or torchrun's environment",
            found=f"no {', '.join(missing)}",
            remedy="Start the program with torchrun --nproc-per-node=2.",
        )
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def _of_world(asked: list[str], sizes: Mapping[str, object]) -> Shares:
    """All processes; with both plans, those of one stage are neighbours."""
    count = dist.get_world_size()
    among = Ranks(dist.get_rank(), count, where=f"{asked[0]}_plan")
    if len(asked) == 1:
        size = sizes[asked[0]]
        if size not in (None, count):
            other = "pp" if asked[0] == "tp" else "tp"
            raise InputError(
                "there are not so many processes", where=f"{asked[0]}_size", expected=count, found=size,
                remedy=f"Pass {other}_plan='auto' too, or a device_mesh that has a '{asked[0]}' dimension.",
            )  # fmt: skip
        return Shares(among, among if "tp" in asked else None, among if "pp" in asked else None)
    tp, pp = sizes["tp"], sizes["pp"]
    if tp is None and pp is None:
        raise InputError(
            "nobody says how many processes divide a layer", where="tp_size",
            remedy=f"Pass tp_size, pp_size or both: their product is the number of processes, {count}.",
        )  # fmt: skip
    tp = tp if isinstance(tp, int) else count // pp  # type: ignore[operator] # a checked size
    pp = pp if isinstance(pp, int) else count // tp
    if tp * pp != count:
        raise InputError(
            "the processes cannot be shared out so", where="tp_size, pp_size",
            expected=f"sizes whose product is {count}, the number of processes", found=f"{tp} and {pp}",
        )  # fmt: skip
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (pp, tp), mesh_dim_names=("pp", "tp"))
    return _grouped(among, mesh, ("pp", "tp"))


def _grouped(among: Ranks, mesh: DeviceMesh, names: tuple[str, ...]) -> Shares:
    found = {}
    for name in names:
        one = mesh if mesh.ndim == 1 else mesh[name]
        if one.size() > 1:
            found[name] = Ranks(one.get_local_rank(), one.size(), one.get_group(), f"{name}_plan", among.lead)
    return Shares(among, found.get("tp"), found.get("pp"))


def _of_mesh(mesh: object, asked: list[str], sizes: Mapping[str, object]) -> Shares:
    if not isinstance(mesh, DeviceMesh):
        raise InputError("no device mesh", where="device_mesh", expected="a DeviceMesh", found=type(mesh).__name__)
    names = mesh.mesh_dim_names or ()
    missing = next((kind for kind in asked if kind not in names), None)
    if missing is not None and (mesh.ndim > 1 or len(asked) > 1):
        raise InputError(
            "a mesh of several dimensions says which is for this", where="device_mesh",
            expected=f"a dimension called '{missing}'", found=brief(names),
        )  # fmt: skip
    for kind in asked:
        there = mesh.size() if mesh.ndim == 1 else mesh[kind].size()
        if sizes[kind] not in (None, there):
            raise InputError(
                "there are not so many processes", where=f"{kind}_size", expected=there, found=sizes[kind]
            )  # fmt: skip
    if len(asked) == 1:
        one = mesh if mesh.ndim == 1 else mesh[asked[0]]
        ranks = Ranks(one.get_local_rank(), one.size(), one.get_group(), f"{asked[0]}_plan")
        return Shares(ranks, ranks if "tp" in asked else None, ranks if "pp" in asked else None)
    if mesh.ndim > 2 or mesh.size() != dist.get_world_size():
        raise InputError(
            "with both plans a model is held by all processes", where="device_mesh",
            expected=f"dimensions 'pp' and 'tp' of {dist.get_world_size()} processes",
            found=f"{brief(names)}, {mesh.size()}",
        )  # fmt: skip
    return _grouped(Ranks(dist.get_rank(), dist.get_world_size()), mesh, ("pp", "tp"))


def check_alike(among: Ranks, config: Mapping[str, object], weights: Mapping[str, Shaped]) -> None:
    """See that all processes load the same: otherwise they would compute nonsense together, or wait for ever.

    Args:
        config: of the checkpoint, as it was read.
        weights: its tensors, as far as its files' headers tell.

    Raises:
        InputError: they do not; it says what differs, and where.
    """
    shapes = sorted((key, list(held.shape)) for key, held in weights.items())
    facts = {
        "torch": str(torch.__version__),
        "config.json": _digest(json.dumps(config, sort_keys=True, default=str)),
        "the weights' names and shapes": _digest(json.dumps(shapes)),
    }
    mine = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8, device=among.device)
    told = [among.shown(mine if rank == among.rank else None, rank, among.device) for rank in range(among.count)]
    first, *others = (json.loads(bytes(one.tolist())) for one in told)
    for rank, other in enumerate(others, 1):
        name = next((name for name in facts if other.get(name) != first.get(name)), None)
        if name is not None:
            raise InputError(
                f"the processes do not load the same: {name} differs", where=among.where,
                expected=f"{first.get(name)}, as in process 0", found=f"{other.get(name)} in process {rank}",
                remedy="Have the same packages and the same checkpoint in all of them.",
            )  # fmt: skip


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def own_device(options: LoadOptions) -> LoadOptions:
    """The same options with this process's own GPU as the place, where there are GPUs."""
    if not torch.cuda.is_available() or (options.device_mesh is not None and _is_on_cpu(options.device_mesh)):
        return options
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return replace(options, device_map=f"cuda:{number}")


def _is_on_cpu(mesh: object) -> bool:
    return isinstance(mesh, DeviceMesh) and mesh.device_type == "cpu"
