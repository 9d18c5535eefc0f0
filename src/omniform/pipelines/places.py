"""Where a pipeline computes."""

from __future__ import annotations

import torch

from omniform.architectures.model import Model
from omniform.core.errors import InputError, brief


def place_of(model: Model, device: object) -> torch.device:
    """Where a pipeline computes: where its caller says, else on the first accelerator if there is one.

    Raises:
        InputError: there is no such device, or the model lies in several places and is to be moved.
    """
    spread = {*model.placed_at.values()} if isinstance(model, Model) else set()
    if len(spread) > 1 or "disk" in spread:
        if device is not None:
            raise InputError(
                "a model that lies in several places is not moved",
                where="device",
                found=brief(device),
                remedy="Leave device out, or load without device_map.",
            )
        return model.device
    if device is None or (isinstance(device, int) and not isinstance(device, bool)):
        index = 0 if device is None else int(device)
        if index >= 0 and torch.cuda.is_available():
            return _checked(torch.device("cuda", index), device)
        if index >= 0 and torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    if not isinstance(device, (str, torch.device)):
        raise InputError("no such device", where="device", expected="an index or a name", found=brief(device))
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InputError(
            "no such device", where="device", expected="'cpu', 'cuda:0' or another", found=brief(device)
        ) from None
    return _checked(place, device)


def _checked(place: torch.device, said: object) -> torch.device:
    if place.type == "cuda":
        there = torch.cuda.device_count()
        index = 0 if place.index is None else place.index
        if index >= there:
            raise InputError("there is no such device", where="device", expected=f"one of {there}", found=brief(said))
        return torch.device("cuda", index)
    return place
