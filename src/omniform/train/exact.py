"""What a checkpoint holds besides the ecosystem's files, so that a training goes on bit for bit.

``resume_state.pth`` (``resume_state_N.pth`` of process N): the place in the data with all generators' states, the loss
since the last report, what callbacks count, weights that are in no other file, and what the training was like.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.core.logs import get_logger
from omniform.train.data import has_length
from omniform.train.followed import Place
from omniform.train.model_files import plain, read_unsaved, unsaved
from omniform.train.safe_files import read_file

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

VERSION: Final = 1
SETTINGS: Final = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "seed", "data_seed",
    "train_sampling_strategy", "dataloader_num_workers", "dataloader_drop_last", "dataloader_persistent_workers",
    "ignore_data_skip", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "optim_args", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16", "fp16", "tf32", "label_smoothing_factor",
    "neftune_noise_alpha", "average_tokens_across_devices", "torch_compile", "full_determinism",
)  # fmt: skip
"""Arguments that decide what comes next."""


def name_of(trainer: Trainer, stem: str) -> str:
    """The name of a process's own file."""
    return f"{stem}_{trainer.args.process_index}.pth" if trainer.args.world_size > 1 else f"{stem}.pth"


def likeness(trainer: Trainer) -> dict[str, object]:
    """What decides the numbers to come, by name: arguments, processes, the data's length."""
    args = vars(trainer.args)
    found: dict[str, object] = {name: _plain(args[name]) for name in SETTINGS if name in args}
    found["world_size"] = trainer.args.world_size
    found["device"] = trainer.args.device.type
    dataset = trainer.train_dataset
    found["examples in train_dataset"] = len(dataset) if dataset is not None and has_length(dataset) else None  # type: ignore[arg-type]
    return found


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return str(value.value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def exact_state(trainer: Trainer) -> dict[str, object]:
    """This process's state, as plain values."""
    reading = trainer._reading
    return {
        "version": VERSION,
        "like": likeness(trainer),
        "place": None if reading is None else reading.place().to_save(),
        "loss": trainer._tr_loss.detach().clone().cpu(),
        "total_loss": float(trainer._total_loss_scalar),
        "last_logged": trainer._globalstep_last_logged,
        "initial_step": trainer._initial_global_step,
        "stopped": trainer.control.should_training_stop and not trainer._interrupted,
        "due": list(trainer._due),
        "unsaved": {name: one.detach().cpu().clone() for name, one in unsaved(plain(trainer)).items()},
    }


class Exact:
    """What was read from a checkpoint's ``resume_state.pth``.

    Attributes:
        place: where in the data it stood.
        stopped: whether training had been stopped by a callback.
        due: whether an evaluation, and a checkpoint after it, were still to come.
        differences: what is different now: by name, then and now.
    """

    def __init__(self, state: Mapping[str, object], trainer: Trainer, where: str) -> None:
        self._state, self._where = state, where
        self.differences = _differences(cast("Mapping[str, object]", state["like"]), likeness(trainer))
        place = state["place"]
        same = not {"world_size", "per_device_train_batch_size", "examples in train_dataset"} & self.differences.keys()
        self.place = Place.from_saved(cast("Mapping[str, object]", place)) if same and place is not None else None
        self.stopped = bool(state["stopped"])
        evaluate, save = cast("list[bool]", state["due"])
        self.due = (bool(evaluate), bool(save))

    def weights(self, trainer: Trainer) -> None:
        """Put back weights that no other file holds."""
        tensors = cast("dict[str, Tensor]", self._state["unsaved"])
        if tensors:
            read_unsaved(plain(trainer), tensors, self._where)

    def losses(self, trainer: Trainer) -> None:
        """Go on with the sums of losses that are not reported yet."""
        state = self._state
        trainer._tr_loss = cast(Tensor, state["loss"]).to(trainer.args.device)
        trainer._total_loss_scalar = float(cast(float, state["total_loss"]))
        trainer._globalstep_last_logged = int(cast(int, state["last_logged"]))
        trainer._initial_global_step = int(cast(int, state["initial_step"]))

    def warn(self) -> None:
        """Say what is different, once."""
        if self.differences:
            logger.warning(
                "Training goes on from %s, but not exactly as it would have: %s",
                self._where,
                "; ".join(f"{name}: {then!r} then, {now!r} now" for name, (then, now) in self.differences.items()),
            )


def _differences(then: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    return {name: (then[name], now[name]) for name in then if name in now and then[name] != now[name]}


def read_exact(trainer: Trainer, checkpoint: Path) -> Exact | None:
    """What a checkpoint holds besides; None where another library wrote it, or only the model was saved.

    Raises:
        WeightsError: the file is damaged.
    """
    path = checkpoint / name_of(trainer, "resume_state")
    if not path.is_file():
        others = sorted(checkpoint.glob("resume_state*.pth"))
        if not others:
            return None
        path = others[0]  # of another number of processes: it tells so
    state = read_file(path)
    if not isinstance(state, Mapping) or "like" not in state:
        raise WeightsError("this is no state of a training", where=str(path))
    if state.get("version") != VERSION:
        raise WeightsError(
            "another release of omniform wrote this", where=str(path), expected=VERSION, found=state.get("version")
        )
    return Exact(state, trainer, str(checkpoint))


def states_of_all(trainer: Trainer, state: dict[str, object]) -> list[dict[str, object]]:
    """The same kind of state of every process, in their order."""
    if trainer.args.world_size <= 1:
        return [state]
    gathered: list[dict[str, object] | None] = [None] * trainer.args.world_size
    torch.distributed.all_gather_object(gathered, state)
    return cast("list[dict[str, object]]", gathered)
