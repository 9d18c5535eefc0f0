"""Going on from a checkpoint: found, checked before anything is computed, read back without running what it says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from omniform.core.errors import InputError, WeightsError, listed
from omniform.core.logs import get_logger
from omniform.train.callbacks import TrainerCallback
from omniform.train.checkpoints import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME
from omniform.train.exact import Exact, name_of, read_exact
from omniform.train.followed import Place
from omniform.train.model_files import has_weights, plain, read_model
from omniform.train.parallel import stored
from omniform.train.random_states import set_global_states
from omniform.train.reading import Reading
from omniform.train.rotation import PREFIX_CHECKPOINT_DIR, TRAINER_STATE_NAME, UNFINISHED, last_whole, remove_dead
from omniform.train.safe_files import read_file
from omniform.train.state import ExportableState, Kept, TrainerControl, TrainerState
from omniform.train.writing import check_files

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)


def checkpoint_to_resume(trainer: Trainer, asked: str | os.PathLike[str] | bool | None) -> str | None:
    """``Trainer._checkpoint_to_resume``: the folder to go on from; None for a fresh start.

    What dead processes left beside the checkpoints is removed.

    Raises:
        InputError: there is no checkpoint, or this is none.
        WeightsError: one of its files is not what was written; it is named.
    """
    run = Path(trainer._get_output_dir(trainer._trial))
    trainer._writer.wait()
    if trainer.args.should_save:
        remove_dead(run)
    trainer._exact, trainer._interrupted, trainer._due = None, False, (False, False)
    if asked is None or asked is False:
        return None
    if asked is True:
        found, broken = last_whole(run)
        if broken:
            logger.warning("These are no whole checkpoints, and are passed over: %s", ", ".join(map(str, broken)))
        if found is None:
            raise InputError(
                "there is no checkpoint to go on from",
                where=str(run),
                expected=f"a folder {PREFIX_CHECKPOINT_DIR}-N",
                remedy="Start with resume_from_checkpoint=None, or see that output_dir is the one of the first run.",
            )
    else:
        if not isinstance(asked, str | os.PathLike):
            raise InputError(
                "this names no checkpoint",
                where="resume_from_checkpoint",
                expected="the path of a folder checkpoint-N, or True for the last one",
                found=repr(asked),
            )
        found = Path(os.path.expanduser(asked))
        _check_folder(found)
    check_files(found)
    exact = read_exact(trainer, found)
    if exact is None:
        logger.warning(
            "%s holds no resume_state.pth (another library wrote it, or only the model was saved): training goes on "
            "from its weights and states, but not exactly as it would have",
            found,
        )
    else:
        exact.warn()
    trainer._exact = exact
    return str(found)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError("there is no such checkpoint", where="resume_from_checkpoint", found=str(folder))
    if not (folder / TRAINER_STATE_NAME).is_file():
        raise InputError(
            "this is no checkpoint of a training, which tells how far it came",
            where="resume_from_checkpoint",
            expected=f"a file {TRAINER_STATE_NAME}",
            found=f"{folder} without it",
            remedy="To begin a fresh training with its weights, load the model with from_pretrained.",
        )
    if (folder / UNFINISHED).exists():
        raise InputError("this checkpoint was not written to its end", where=str(folder / UNFINISHED))


def read_state(trainer: Trainer, checkpoint: str) -> TrainerState:
    """``Trainer._read_state``: how far the run had come.

    Raises:
        InputError: the file is damaged.
    """
    state = TrainerState.load_from_json(Path(checkpoint) / TRAINER_STATE_NAME)
    best = state.best_model_checkpoint
    if best is not None and not Path(best).is_dir():
        # The whole output folder may have been moved.
        moved = Path(checkpoint).parent / Path(best).name
        state.best_model_checkpoint = str(moved) if moved.is_dir() else None
        if not moved.is_dir():
            logger.warning("The best checkpoint, %s, is not there any more", best)
    if state.train_batch_size is not None and trainer.args.auto_find_batch_size:
        trainer._train_batch_size = state.train_batch_size
    return state


# -- what a Trainer's methods read -------------------------------------------------------------------------------------


def load_from_checkpoint(trainer: Trainer, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
    """``Trainer._load_from_checkpoint``: the weights.

    Raises:
        WeightsError: they are another model's: names and shapes that differ are named.
        InputError: there are none.
    """
    folder = Path(resume_from_checkpoint)
    if stored.is_in_parts(trainer):
        stored.load_model(trainer, resume_from_checkpoint)
        return
    if not has_weights(folder):
        if any(path.name.startswith("pytorch_model_fsdp") for path in folder.glob("*")):
            raise InputError(
                "this checkpoint was written by FSDP, in parts", where=str(folder), remedy="Train with fsdp= as then."
            )
        raise InputError("this is no valid checkpoint: it has no weights", where=str(folder))
    logger.info("Reading the model from %s", folder)
    read_model(plain(trainer, model), folder)
    if trainer._exact is not None:
        trainer._exact.weights(trainer)


def load_optimizer_and_scheduler(trainer: Trainer, checkpoint: str | None) -> None:
    """``Trainer._load_optimizer_and_scheduler``.

    Raises:
        WeightsError: they are another optimizer's, or damaged.
    """
    if checkpoint is None:
        return
    optimizer, scheduler = Path(checkpoint) / OPTIMIZER_NAME, Path(checkpoint) / SCHEDULER_NAME
    if stored.is_in_parts(trainer):
        stored.load_optimizer(trainer, checkpoint)
        if trainer.lr_scheduler is not None and scheduler.is_file() and not stored.schedules_itself(trainer):
            trainer.lr_scheduler.load_state_dict(cast("dict[str, object]", read_file(scheduler)))
        return
    if not optimizer.is_file() or not scheduler.is_file():
        logger.warning("%s holds no state of the optimizer: it begins anew", checkpoint)
        return
    assert trainer.optimizer is not None and trainer.lr_scheduler is not None
    set_optimizer(trainer.optimizer, read_file(optimizer), str(optimizer))
    trainer.lr_scheduler.load_state_dict(cast("dict[str, object]", read_file(scheduler)))


def set_optimizer(optimizer: Optimizer, state: object, where: str) -> None:
    """Give an optimizer a state, exactly: torch's own way rounds states to their parameters' dtype.

    Raises:
        WeightsError: it is of other parameters.
    """
    if not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        raise WeightsError("no state of an optimizer", where=where)
    _check_optimizer(optimizer, state, where)
    try:
        optimizer.load_state_dict(cast("dict[str, object]", state))
    except (ValueError, KeyError) as error:
        raise WeightsError("the state is of another optimizer", where=where, found=str(error)) from error
    inner = cast(Optimizer, vars(optimizer).get("optimizer", optimizer))  # accelerate's wrapper
    parameters = list(_parameters(inner))
    for number, kept in cast("Mapping[int, Mapping[str, object]]", state["state"]).items():
        held = inner.state.get(parameters[number], {})
        for name, value in kept.items():
            mine = held.get(name)
            if isinstance(value, Tensor) and isinstance(mine, Tensor) and mine.dtype != value.dtype:
                held[name] = value.to(mine.device, copy=True)


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _check_optimizer(optimizer: Optimizer, state: Mapping[str, object], where: str) -> None:
    groups = cast("Sequence[Mapping[str, Sequence[object]]]", state.get("param_groups", ()))
    found = [len(group["params"]) for group in groups]
    expected = [len(group["params"]) for group in optimizer.param_groups]
    if found != expected:
        raise WeightsError(
            "the optimizer's state is of other parameters",
            where=where,
            expected=f"groups of {expected} parameters",
            found=f"groups of {found}",
            remedy="Train the same parameters with the same optimizer, or remove the file to begin with a fresh one.",
        )
    # Releases of torch add settings to an optimizer; another one has other settings on both sides.
    for theirs, ours in zip(groups, optimizer.param_groups, strict=True):
        strange, missing = theirs.keys() - ours.keys() - _OF_SCHEDULES, ours.keys() - theirs.keys() - _OF_SCHEDULES
        if strange and missing:
            raise WeightsError(
                "the state is of another optimizer",
                where=f"{where} and optim",
                expected=f"settings {listed(sorted(missing))}",
                found=f"settings {listed(sorted(strange))}",
                remedy="Set optim to what it was then; or begin a fresh training with the checkpoint's weights.",
            )


_OF_SCHEDULES: Final = {"initial_lr"}
"""What a schedule adds to an optimizer's settings."""


def load_scaler(trainer: Trainer, checkpoint: str | None) -> None:
    """``Trainer._load_scaler``."""
    path = Path(checkpoint or "") / SCALER_NAME
    if checkpoint is not None and trainer.accelerator.scaler is not None and path.is_file():
        trainer.accelerator.scaler.load_state_dict(cast("dict[str, object]", read_file(path)))


def load_rng_state(trainer: Trainer, checkpoint: str | None) -> None:
    """``Trainer._load_rng_state``: the global generators of random numbers, of this process."""
    states = read_rng_state(trainer, checkpoint)
    if states is None:
        return
    if left := set_global_states(states):
        logger.warning("The checkpoint has no states of the generators of %s: their numbers differ", ", ".join(left))


def read_rng_state(trainer: Trainer, checkpoint: str | None) -> Mapping[str, object] | None:
    """The states in ``rng_state.pth`` (``rng_state_N.pth``); None where there is no such file."""
    path = Path(checkpoint or "") / name_of(trainer, "rng_state")
    if checkpoint is None or not path.is_file():
        return None
    states = read_file(path)
    if not isinstance(states, Mapping) or not states.keys() >= {"python", "numpy", "cpu"}:
        raise WeightsError("these are no states of generators", where=str(path))
    return states


# -- callbacks ---------------------------------------------------------------------------------------------------------


def load_callback_state(trainer: Trainer) -> None:
    """``Trainer._load_callback_state``: what the callbacks had counted.

    With ``restore_callback_states_from_checkpoint`` they are made again as they were then. Without it they stay the
    user's own, and go on counting where they were, provided that they are set as they were then.
    """
    handler = trainer.callback_handler
    own = [*handler.callbacks, trainer.control]
    unknown = []
    for name, kept in trainer.state.stateful_callbacks.items():
        mine = [one for one in own if type(one).__name__ == name and isinstance(one, ExportableState)]
        if not mine:
            unknown.append(name)
        for callback, state in zip(mine, kept if isinstance(kept, list) else [kept], strict=False):
            _restore(trainer, callback, state)
    if unknown:
        logger.warning("The checkpoint has states of callbacks that are not there now: %s", ", ".join(unknown))


def _restore(trainer: Trainer, callback: ExportableState, state: Kept) -> None:
    if isinstance(callback, TrainerControl):
        if trainer.args.restore_callback_states_from_checkpoint:
            trainer.control = TrainerControl.from_state(state)
        return
    if trainer.args.restore_callback_states_from_checkpoint:
        callbacks = trainer.callback_handler.callbacks
        made = type(callback).from_state(state)
        callbacks[callbacks.index(cast(TrainerCallback, callback))] = cast(TrainerCallback, made)
        return
    if callback.state().get("args", {}) != state.get("args", {}):
        logger.warning(
            "%s was set otherwise when the checkpoint was written, and begins anew; "
            "restore_callback_states_from_checkpoint=True takes it as it was",
            type(callback).__name__,
        )
        return
    for name, value in state.get("attributes", {}).items():
        setattr(callback, name, value)


# -- the loop ----------------------------------------------------------------------------------------------------------


def begin_reading(trainer: Trainer, loader: object) -> Reading:
    """Follow the loader that is trained from."""
    trainer._reading = Reading(
        cast("Iterator[object]", loader), dataset=trainer.train_dataset, collator=trainer.data_collator
    )
    return trainer._reading


def place_of(trainer: Trainer, checkpoint: str, epoch: int, batches: int, steps_in_epoch: int) -> Place:
    """The place that a checkpoint stands at: the very one, or about the one that its count of steps says.

    Args:
        epoch: the epoch that its steps lead to.
        batches: batches of it that are done.
        steps_in_epoch: batches of an epoch, as it is now.
    """
    exact, reading = trainer._exact, trainer._reading
    assert reading is not None
    skips = not trainer.args.ignore_data_skip
    if exact is not None and exact.place is not None and (skips or exact.place.ended):
        reading.go_on(exact.place)
        return exact.place
    if exact is not None and skips:  # other batches, or another number of processes: the same share of the epoch
        epoch, batches = int(trainer.state.epoch), round(trainer.state.epoch % 1 * steps_in_epoch)
    here = reading.place()
    states = read_rng_state(trainer, checkpoint)
    now = here.now if states is None else {"global": states, "own": here.now["own"]}
    batches = batches if skips else 0
    begin = here.now if batches else now  # an epoch that begins draws its order from the states of the checkpoint
    return Place(epoch, batches, False, begin, (), now, {})


def take_what_is_due(trainer: Trainer, place: Place) -> bool:
    """Whether the checkpoint was written, in haste, before an evaluation that was due; the control wants it then."""
    exact = trainer._exact
    if exact is None or not any(exact.due):
        return False
    trainer.control.should_evaluate, trainer.control.should_save = exact.due
    trainer.control.should_log = False
    return True


def go_on_with_losses(trainer: Trainer) -> None:
    """Take over the loss since the last report."""
    if trainer._exact is not None:
        trainer._exact.losses(trainer)


def was_over(trainer: Trainer) -> bool:
    """Whether the checkpoint was written by a training that a callback then ended, and nothing was changed since."""
    exact: Exact | None = trainer._exact
    return exact is not None and exact.stopped and not exact.differences


def load_best_model(trainer: Trainer) -> None:
    """``Trainer._load_best_model``: the weights of the best checkpoint.

    Raises:
        WeightsError: they are damaged.
    """
    best = trainer.state.best_model_checkpoint
    if best is not None and stored.is_in_parts(trainer):
        stored.load_model(trainer, best)
        return
    if best is None or not has_weights(Path(best)):
        logger.warning(
            "The best model is not at %s any more: the model stays as it is. On machines without a common disk, "
            "save_on_each_node=True keeps it on each",
            best,
        )
        return
    logger.info("The best model is that of %s (%s)", best, trainer.state.best_metric)
    read_model(plain(trainer), Path(best))
