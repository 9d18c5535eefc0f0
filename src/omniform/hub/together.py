"""What ``tp_plan`` asks for: which processes hold a model together, and where this one's part goes."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from omniform.core.errors import InputError, brief
from omniform.core.ranks import Ranks
from omniform.hub.options import LoadOptions


def ranks_asked(options: LoadOptions) -> Ranks | None:
    """The processes that are to hold a model together; None where nobody asks for that.

    A group of processes is made where there is none yet, of what ``torchrun`` has put into the environment.

    Raises:
        InputError: a plan that is not ``"auto"``, a size without a plan or that does not fit, ``device_map`` beside it,
            or no other processes.
    """
    plan, size, mesh = options.tp_plan, options.tp_size, options.device_mesh
    if plan is None:
        if size not in (None, 1) or mesh is not None:
            where = "tp_size" if mesh is None else "device_mesh"
            raise InputError("nobody says how to divide the model", where=where, remedy="Pass tp_plan='auto' too.")
        return None
    if plan != "auto":
        raise InputError(
            "plans are derived from the model's blocks", where="tp_plan", expected="'auto'", found=brief(plan)
        )
    if options.device_map is not None:
        raise InputError(
            "every process has its own device with a tp_plan", where="device_map", found=brief(options.device_map),
            remedy="Leave device_map out.",
        )  # fmt: skip
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise InputError("no number of processes", where="tp_size", expected="an integer >= 1", found=brief(size))
    _begin()
    ranks = _of_mesh(mesh) if mesh is not None else Ranks(dist.get_rank(), dist.get_world_size())
    if size is not None and size != ranks.count:
        raise InputError(
            "there are not so many processes", where="tp_size", expected=ranks.count, found=size,
            remedy="With more processes than that, pass a device_mesh that has a 'tp' dimension.",
        )  # fmt: skip
    return ranks


def _begin() -> None:
    """Have a group of processes."""
    if dist.is_initialized():
        return
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            "there are no processes to divide the model among",
            where="tp_plan",
            expected="a process group, or torchrun's environment",
            found=f"no {', '.join(missing)}",
            remedy="Start the program with torchrun --nproc-per-node=2.",
        )
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def _of_mesh(mesh: object) -> Ranks:
    if not isinstance(mesh, DeviceMesh):
        raise InputError("no device mesh", where="device_mesh", expected="a DeviceMesh", found=type(mesh).__name__)
    if mesh.ndim > 1:
        names = mesh.mesh_dim_names or ()
        if "tp" not in names:
            raise InputError(
                "a mesh of several dimensions says which is for this", where="device_mesh",
                expected="a dimension called 'tp'", found=brief(names),
            )  # fmt: skip
        mesh = mesh["tp"]
    return Ranks(mesh.get_local_rank(), mesh.size(), mesh.get_group())


def own_device(options: LoadOptions) -> LoadOptions:
    """The same options with this process's own GPU as the place, where there are GPUs."""
    if not torch.cuda.is_available() or (options.device_mesh is not None and _is_on_cpu(options.device_mesh)):
        return options
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return replace(options, device_map=f"cuda:{number}")


def _is_on_cpu(mesh: object) -> bool:
    return isinstance(mesh, DeviceMesh) and mesh.device_type == "cpu"
