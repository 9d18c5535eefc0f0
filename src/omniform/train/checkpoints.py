"""Checkpoints ``checkpoint-N``: what is in them, and how they are written while training goes on.

Names and contents of the files are the ecosystem's; ``resume_state.pth`` and ``checkpoint_files.json`` are ours, and
others pass over them. See :mod:`.writing` for how a folder appears whole or not at all, :mod:`.exact` for what is more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.core.logs import get_logger
from omniform.train.callbacks import TrainerCallback
from omniform.train.exact import exact_state, name_of, states_of_all
from omniform.train.intervals import SaveStrategy
from omniform.train.model_files import SavesItself, plain, takes_weights, weights_of, write_model
from omniform.train.parallel import stored
from omniform.train.random_states import global_states
from omniform.train.rotation import PREFIX_CHECKPOINT_DIR, TRAINER_STATE_NAME, rotate_checkpoints
from omniform.train.safe_files import write_file
from omniform.train.state import ExportableState, states_of
from omniform.train.values import Trial
from omniform.train.wrapped import is_peft
from omniform.train.writing import Part, Staging, check_room, fits_in_memory, host_copy, nbytes_of

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

TRAINING_ARGS_NAME: Final = "training_args.bin"
OPTIMIZER_NAME: Final = "optimizer.pt"
SCHEDULER_NAME: Final = "scheduler.pt"
SCALER_NAME: Final = "scaler.pt"


# -- the methods of a Trainer: each writes its files into a folder, at once --------------------------------------------


def save_model(trainer: Trainer, output_dir: str | None = None, _internal_call: bool = False) -> None:
    """``Trainer.save_model``: model, processor and arguments; to the Hub too, where the arguments want that."""
    trainer._writer.wait()
    trainer._save(str(trainer.args.output_dir) if output_dir is None else output_dir)
    if trainer.args.push_to_hub and not _internal_call:
        trainer.push_to_hub(commit_message="Model save", revision=trainer.args.hub_revision)


def save(trainer: Trainer, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """``Trainer._save``: the same, of the processes that save.

    Of a model in parts all must call it; where its settings keep it in parts, only what stands beside it is written.
    """
    in_parts = stored.is_in_parts(trainer)
    if in_parts and state_dict is None:
        state_dict = stored.whole_model(trainer)
    if not trainer.args.should_save:
        return
    folder = Path(str(trainer.args.output_dir) if output_dir is None else output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if state_dict is not None or not in_parts:
        write_model(plain(trainer), folder, state_dict)
    _write_beside(trainer, folder)


def save_optimizer_and_scheduler(trainer: Trainer, output_dir: str) -> None:
    """``Trainer._save_optimizer_and_scheduler``; of a model in parts its weights, too."""
    in_parts = stored.is_in_parts(trainer)
    if in_parts:
        stored.save_states(trainer, output_dir)
    if not trainer.args.should_save:
        return
    for name, one in _stateful(trainer):
        by_engine = stored.schedules_itself(trainer) if name == SCHEDULER_NAME else in_parts
        if not by_engine:
            write_file(Path(output_dir) / name, one())


def save_scaler(trainer: Trainer, output_dir: str) -> None:
    """``Trainer._save_scaler``: the factor of 16-bit gradients, where there is one."""
    if trainer.accelerator.scaler is not None and trainer.args.should_save:
        write_file(Path(output_dir) / SCALER_NAME, trainer.accelerator.scaler.state_dict())


def save_rng_state(trainer: Trainer, output_dir: str) -> None:
    """``Trainer._save_rng_state``: this process's generators of random numbers."""
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    states = global_states(everywhere=trainer.args.world_size > 1)
    write_file(Path(output_dir) / name_of(trainer, "rng_state"), states)


def _stateful(trainer: Trainer) -> list[tuple[str, Callable[[], object]]]:
    found: list[tuple[str, Callable[[], object]]] = []
    if trainer.optimizer is not None:
        found.append((OPTIMIZER_NAME, trainer.optimizer.state_dict))
    if trainer.lr_scheduler is not None:
        found.append((SCHEDULER_NAME, trainer.lr_scheduler.state_dict))
    return found


@runtime_checkable
class _HasTokenizer(Protocol):
    tokenizer: object


def _write_beside(trainer: Trainer, folder: Path) -> None:
    """The processor, or the collator's tokenizer, and the arguments."""
    inputs: object = trainer.processing_class
    if inputs is None and isinstance(trainer.data_collator, _HasTokenizer):
        inputs = trainer.data_collator.tokenizer
    if isinstance(inputs, SavesItself):
        inputs.save_pretrained(os.fspath(folder))
    try:
        write_file(folder / TRAINING_ARGS_NAME, trainer.args)
    except OSError:
        raise
    except Exception as error:  # an argument of the user's own, a lambda
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        logger.warning_once("%s is not written: %s. Nothing that omniform does needs it", TRAINING_ARGS_NAME, error)


# -- a checkpoint ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """A checkpoint to be written: what is done now, in this thread, and what may be done later, beside."""

    target: Path
    now: Sequence[Part]
    later: Sequence[Part]
    limit: int | None
    best: str | None


def save_checkpoint(trainer: Trainer, model: nn.Module, trial: Trial) -> None:
    """``Trainer._save_checkpoint``: everything that is needed to go on from here."""
    _settle(trainer)
    if trial is None:
        trainer.store_flos()
    run = Path(trainer._get_output_dir(trial=trial))
    target = run / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    before = trainer.state.best_model_checkpoint
    _note_best(trainer, run, target)
    trainer._best_before = before
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        _save_together(trainer, target)
        return
    states = [] if trainer.args.save_only_model else states_of_all(trainer, _own_states(trainer))
    if not trainer.args.should_save:
        return
    _keep_callbacks(trainer)
    aside = not _is_awaited(trainer)
    job = _job(trainer, target, states, aside and fits_in_memory(_size(trainer)))
    try:
        check_room(target, [*job.now, *job.later])
        staging = Staging(target)
    except OSError as error:
        trainer._writer.run(_raising(error))
        _settle(trainer)
        return
    trainer._writer.run(lambda: staging.write(job.now))
    if trainer._writer.refused is None:
        begin = trainer._writer.start if aside else trainer._writer.run
        begin(lambda: _finish(staging, job))
    else:
        staging.discard()
    if not aside:
        _settle(trainer)
        if trainer.args.push_to_hub and target.is_dir():
            trainer._push_from_checkpoint(str(target))


def _raising(error: OSError) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def _finish(staging: Staging, job: _Job) -> None:
    try:
        staging.write(job.later)
        staging.finish()
    finally:
        staging.discard()
    rotate_checkpoints(job.target.parent, job.limit, job.best)


def _settle(trainer: Trainer) -> None:
    """Wait for the checkpoint before this one. The best one is not one that could not be written."""
    trainer._writer.wait()
    best = trainer.state.best_model_checkpoint
    if trainer._writer.refused is not None and best is not None and not Path(best).is_dir():
        trainer.state.best_model_checkpoint = trainer._best_before


def finish_writing(trainer: Trainer) -> None:
    """Wait until the last checkpoint is written, or has failed."""
    _settle(trainer)
    if trainer._writer.refused is not None:
        logger.error("The last checkpoint was not written: %s", trainer._writer.refused)


def _note_best(trainer: Trainer, run: Path, target: Path) -> None:
    step = trainer.state.best_global_step
    if not step or trainer.args.save_strategy == SaveStrategy.NO:
        return
    best = run / f"{PREFIX_CHECKPOINT_DIR}-{step}"
    if best == target or best.is_dir():
        trainer.state.best_model_checkpoint = str(best)


def _keep_callbacks(trainer: Trainer) -> None:
    kept = [one for one in [*trainer.callback_handler.callbacks, trainer.control] if isinstance(one, ExportableState)]
    trainer.state.stateful_callbacks = states_of(kept)


def _is_awaited(trainer: Trainer) -> bool:
    """Whether somebody looks into the folder as soon as it is saved: a callback's ``on_save``, or a push."""
    listening = any(type(one).on_save is not TrainerCallback.on_save for one in trainer.callback_handler.callbacks)
    return listening or trainer.args.push_to_hub


def _is_own(trainer: Trainer, *names: str) -> bool:
    """Whether a subclass, or somebody from outside, has put other methods in the place of ours."""
    from omniform.train.trainer import Trainer as Ours

    own = vars(Ours)
    return any(
        name in vars(trainer) or next(vars(k)[name] for k in type(trainer).__mro__ if name in vars(k)) is not own[name]
        for name in names
    )


def _own_states(trainer: Trainer) -> dict[str, object]:
    return {
        "process": trainer.args.process_index,
        "random": global_states(everywhere=trainer.args.world_size > 1),
        "resume": exact_state(trainer),
    }


def _size(trainer: Trainer) -> int:
    weights = sum(one.numel() * one.element_size() for one in plain(trainer).parameters())
    return weights if trainer.args.save_only_model else 3 * weights


def _job(trainer: Trainer, target: Path, states: Sequence[Mapping[str, object]], aside: bool) -> _Job:
    now: list[Part] = []
    later: list[Part] = []
    if _is_own(trainer, "save_model", "_save"):
        now.append(Part(lambda folder: trainer.save_model(str(folder), _internal_call=True), _size(trainer)))
    else:
        model = _model_part(plain(trainer), aside)
        (later if aside and takes_weights(plain(trainer)) else now).append(model)
        now.append(Part(lambda folder: _write_beside(trainer, folder)))
    if not trainer.args.save_only_model:
        if _is_own(trainer, "_save_optimizer_and_scheduler"):
            now.append(Part(lambda folder: trainer._save_optimizer_and_scheduler(str(folder))))
        else:
            later += [_kept(name, one(), aside) for name, one in _stateful(trainer)]
        if _is_own(trainer, "_save_scaler"):
            now.append(Part(lambda folder: trainer._save_scaler(str(folder))))
        elif trainer.accelerator.scaler is not None:
            later.append(_kept(SCALER_NAME, trainer.accelerator.scaler.state_dict(), aside))
        later += _state_parts(trainer, states)
        if _is_own(trainer, "_save_rng_state"):
            now.append(Part(lambda folder: trainer._save_rng_state(str(folder))))
    text = trainer.state.to_json_text()
    later.append(Part(lambda folder: (folder / TRAINER_STATE_NAME).write_text(text, "utf-8"), len(text)))
    limit = trainer.args.save_total_limit
    return _Job(target, now, later, limit, trainer.state.best_model_checkpoint)


def _model_part(model: nn.Module, aside: bool) -> Part:
    weights = weights_of(model)
    if not aside or not takes_weights(model):
        return Part(lambda folder: write_model(model, folder), nbytes_of(weights))
    if is_peft(model):  # what does not learn stays as it is while it is written
        moving = {name: one for name, one in weights.items() if one.requires_grad or not isinstance(one, nn.Parameter)}
        copied = cast("dict[str, Tensor]", host_copy(moving))
        return Part(lambda folder: write_model(model, folder, {**weights, **copied}), nbytes_of(moving))
    kept = cast("dict[str, Tensor]", host_copy(weights))
    return Part(lambda folder: write_model(model, folder, kept), nbytes_of(kept))


def _kept(name: str, state: object, aside: bool) -> Part:
    value = host_copy(state) if aside else state
    return Part(lambda folder: write_file(folder / name, value), nbytes_of(value))


def _state_parts(trainer: Trainer, states: Sequence[Mapping[str, object]]) -> list[Part]:
    parts = []
    for one in states:
        number = f"_{one['process']}" if trainer.args.world_size > 1 else ""
        for stem, value in (("rng_state", one["random"]), ("resume_state", one["resume"])):
            parts.append(_kept(f"{stem}{number}.pth", value, aside=False))
    return parts


# -- many processes whose parts of a model are written by each of them -------------------------------------------------


def _save_together(trainer: Trainer, target: Path) -> None:
    """All processes write into one folder, which then gets its name; nothing is written beside the training."""
    staging = Staging(target) if trainer.args.should_save else None
    named: list[object] = [None if staging is None else str(staging.folder)]
    if trainer.args.world_size > 1 and not trainer.args.save_on_each_node:
        torch.distributed.broadcast_object_list(named)
    elif named[0] is None:  # the folder of this machine's first process
        raise RuntimeError("save_on_each_node does not go with models whose parts are written by all processes")
    folder = str(named[0])
    trainer.save_model(folder, _internal_call=True)
    if not trainer.args.save_only_model:
        trainer._save_optimizer_and_scheduler(folder)
        trainer._save_scaler(folder)
        trainer._save_rng_state(folder)
        write_file(Path(folder) / name_of(trainer, "resume_state"), exact_state(trainer))
    trainer.accelerator.wait_for_everyone()
    if staging is not None:
        _keep_callbacks(trainer)
        (Path(folder) / TRAINER_STATE_NAME).write_text(trainer.state.to_json_text(), "utf-8")
        staging.finish()
        rotate_checkpoints(target.parent, trainer.args.save_total_limit, trainer.state.best_model_checkpoint)
    trainer.accelerator.wait_for_everyone()
    if trainer.args.push_to_hub:
        trainer._push_from_checkpoint(str(target))


# -- at the end --------------------------------------------------------------------------------------------------------


def rotate_at_end(trainer: Trainer, trial: Trial) -> None:
    """``Trainer._rotate_at_end``: with a limit of one, the best checkpoint alone stays."""
    best = trainer.state.best_model_checkpoint
    if not trainer.args.should_save or best is None or trainer.args.save_total_limit != 1:
        return
    from omniform.train.rotation import remove, sort_checkpoints

    for name in sort_checkpoints(trainer._get_output_dir(trial)):
        if Path(best).is_dir() and not os.path.samefile(name, best):
            remove(Path(name))
