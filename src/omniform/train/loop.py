"""A training run from its start to its end."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.core.errors import InputError
from omniform.core.logs import get_logger
from omniform.core.seeds import enable_full_determinism, set_seed
from omniform.train import guard, resume
from omniform.train.agreeing import agree, has_to_agree
from omniform.train.anew import Beginning
from omniform.train.batch_size import find_executable_batch_size
from omniform.train.data import Loader, has_length
from omniform.train.evaluating import check_evaluations
from omniform.train.followed import Place
from omniform.train.metrics import TrainOutput, speed_metrics
from omniform.train.neftune import activate_neftune, deactivate_neftune
from omniform.train.parallel import spread, stored
from omniform.train.parallel.peers import together
from omniform.train.specials import align_special_tokens
from omniform.train.state import ExportableState, TrainerState
from omniform.train.steps import accumulate, step_optimizer
from omniform.train.values import Inputs, Schedule, Trial
from omniform.train.wrapped import without_adapters

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

STATE_NAME = "trainer_state.json"


@dataclass(slots=True)
class Run:
    """What stays the same in one run of the loop.

    Attributes:
        model: as it is called: wrapped for processes, precision, compilation.
        resumed: the checkpoint's folder; None for a fresh start.
        place: where in the data it stands; None once it was gone on from.
        agrees: whether processes have to ask one another what their callbacks want.
        over: whether the training that is gone on with had come to its end.
    """

    model: nn.Module
    loader: Loader
    schedule: Schedule
    started: float
    trial: Trial = None
    ignore_keys: list[str] | None = None
    resumed: str | None = None
    place: Place | None = None
    agrees: bool = False
    over: bool = False


def seed(args: TrainingArguments) -> None:
    """Seed all generators, as the arguments say."""
    enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)


def train(
    trainer: Trainer, resume_from_checkpoint: str | bool | None, trial: Trial, ignore_keys: list[str] | None
) -> TrainOutput:
    """``Trainer.train``: make the model ready, find the checkpoint, run."""
    trainer.memory_tracker.start()
    trainer.is_in_train = True
    if trainer.model_init is not None:
        _fresh_model(trainer, trial)
    args = trainer.args
    if (args.fp16_full_eval or args.bf16_full_eval) and not trainer.is_model_parallel and trainer.model_init is None:
        trainer._move_model_to_device(trainer.model, args.device)
    if args.activation_checkpointing:
        recompute(trainer)
    align_special_tokens(trainer.model, trainer.processing_class)
    noise = None
    if trainer.neftune_noise_alpha is not None:
        noise = activate_neftune(trainer.model, trainer.neftune_noise_alpha)
    trainer._hp_search_setup(trial)
    checkpoint = trainer._checkpoint_to_resume(resume_from_checkpoint)
    if checkpoint is not None and not trainer.is_deepspeed_enabled and not trainer.is_fsdp_enabled:
        trainer._load_from_checkpoint(checkpoint)
    try:
        run: Callable[..., TrainOutput] = trainer._inner_training_loop
        if args.auto_find_batch_size:
            run = Beginning.of(trainer).tried(trainer)
        run = find_executable_batch_size(run, trainer._train_batch_size, args.auto_find_batch_size)
        with together():
            return run(
                args=args,
                resume_from_checkpoint=checkpoint,
                trial=trial,
                ignore_keys_for_eval=ignore_keys,
            )
    except BaseException:
        trainer.callback_handler.abandon()
        raise
    finally:
        trainer._reading = None
        if noise is not None:
            deactivate_neftune(trainer.model, noise)
        trainer.is_in_train = False


def _fresh_model(trainer: Trainer, trial: Trial) -> None:
    seed(trainer.args)
    trainer.model = trainer.call_model_init(trial)
    trainer.optimizer = trainer.lr_scheduler = None
    if trainer.place_model_on_device:
        trainer._move_model_to_device(trainer.model, trainer.args.device)
    trainer.model_wrapped = trainer.model


@runtime_checkable
class Recomputes(Protocol):
    """A model that can keep its layers' inputs only, and compute the layers again for their gradients."""

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, object] | None = None) -> None: ...


@runtime_checkable
class RecomputesSome(Protocol):
    """The same of models that choose layers, and where their inputs wait."""

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, object] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None: ...


def recompute(trainer: Trainer) -> None:
    """Do as ``args.activation_checkpointing`` asks.

    Raises:
        InputError: the model cannot.
    """
    options = dict(cast("dict[str, object] | None", trainer.args.activation_checkpointing_kwargs) or {})
    model = without_adapters(trainer.model)
    if isinstance(model, RecomputesSome):
        every, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
        model.activation_checkpointing_enable(options or None, cast(int, every), cast(bool, offload))
    elif isinstance(model, Recomputes):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options or None)
    else:
        raise InputError(
            "this model does not know how to compute layers again",
            where="activation_checkpointing",
            expected="a method gradient_checkpointing_enable",
            found=type(model).__name__,
        )


def inner_training_loop(
    trainer: Trainer,
    batch_size: int | None = None,
    args: TrainingArguments | None = None,
    resume_from_checkpoint: str | None = None,
    trial: Trial = None,
    ignore_keys_for_eval: list[str] | None = None,
) -> TrainOutput:
    """``Trainer._inner_training_loop``: everything with one batch size."""
    trainer.accelerator.free_memory()
    if batch_size is not None:
        trainer._train_batch_size = batch_size
    args, resumed, ignore_keys = trainer.args if args is None else args, resume_from_checkpoint, ignore_keys_for_eval
    loader = trainer.get_train_dataloader()
    schedule = Schedule(*trainer.set_initial_training_values(args, loader))  # a subclass may give a plain tuple
    epochs_done, batches_done = trainer._init_training_state(
        schedule.max_steps, schedule.num_update_steps_per_epoch, schedule.num_train_epochs, resumed, trial
    )
    model, loader = trainer._prepare_for_training(schedule.max_steps, loader, resumed)
    _tell(trainer, schedule, resumed)
    run = Run(model, loader, schedule, time.time(), trial, ignore_keys, resumed)
    resume.begin_reading(trainer, loader)
    trainer._initial_num_input_tokens_seen = trainer.state.num_input_tokens_seen
    trainer._initial_global_step = trainer._globalstep_last_logged = trainer.state.global_step
    trainer._begun_at_step = trainer.state.global_step
    trainer._tr_loss = torch.tensor(0.0, device=args.device)
    trainer._total_loss_scalar = 0.0
    resume.go_on_with_losses(trainer)
    model.zero_grad()
    check_evaluations(trainer)
    trainer._event("on_train_begin")
    run.agrees = has_to_agree(trainer)
    if args.eval_on_start and trainer._exact is None:
        trainer._evaluate(trial, ignore_keys, skip_scheduler=True)
    first = _go_on(trainer, run, epochs_done, batches_done)
    for epoch in range(first, schedule.num_train_epochs):
        if run.over and run.place is None:
            break
        trainer._event("on_epoch_begin")
        run_epoch(trainer, run, epoch)
        if trainer.control.should_training_stop:
            break
    return trainer._finalize_training(trial, schedule.num_train_samples, run.started)


def _tell(trainer: Trainer, schedule: Schedule, resumed: str | None) -> None:
    logger.info(
        "Training: %s examples, %s epochs of %s steps, %s steps in all; a step has %s examples in %s batches of %s per "
        "process; %s parameters learn",
        *(schedule.num_examples, schedule.num_train_epochs, schedule.num_update_steps_per_epoch, schedule.max_steps),
        *(schedule.total_train_batch_size, trainer.args.gradient_accumulation_steps, trainer._train_batch_size),
        trainer.get_num_trainable_parameters(),
    )
    if resumed is not None:
        logger.info("Going on from %s, after step %s", resumed, trainer.state.global_step)


# -- how much there is to do -------------------------------------------------------------------------------------------


def examples_of_a_step(trainer: Trainer, args: TrainingArguments) -> int:
    """``Trainer.get_total_train_batch_size``: examples in a step, over all batches and processes."""
    replicas = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
    return trainer._train_batch_size * args.gradient_accumulation_steps * (args.world_size // replicas)


def schedule_of(trainer: Trainer, args: TrainingArguments, dataloader: Loader) -> Schedule:
    """``Trainer.set_initial_training_values``: steps and epochs, from ``max_steps`` or from the data's length.

    Raises:
        InputError: the data's length is unknown and ``max_steps`` is not given, or no batch would be read.
    """
    per_step = args.gradient_accumulation_steps
    total = trainer.get_total_train_batch_size(args)
    if not has_length(dataloader):
        if args.max_steps <= 0:
            raise InputError(
                "the length of the dataset is unknown, so the number of steps is too",
                where="max_steps",
                expected="a positive number, for a dataset without a length",
                found=args.max_steps,
            )
        samples = args.max_steps * total
        return Schedule(sys.maxsize, args.max_steps, samples, samples, total, args.max_steps * per_step, args.max_steps)
    batches = len(cast(Sized, dataloader)) * trainer.get_sp_size()
    if not batches:
        raise InputError(
            "the dataset has fewer examples than one batch, and short batches are dropped",
            where="dataloader_drop_last",
            expected=f"at least {total // per_step} examples",
            found=f"{trainer.num_examples(dataloader)}",
        )
    steps = math.ceil(batches / per_step)
    examples = trainer.num_examples(dataloader)
    if args.max_steps > 0:
        samples = args.max_steps * total
        return Schedule(math.ceil(args.max_steps / steps), steps, examples, samples, total, batches, args.max_steps)
    return Schedule(
        math.ceil(args.num_train_epochs),
        steps,
        examples,
        examples * args.num_train_epochs,
        total,
        batches,
        math.ceil(args.num_train_epochs * steps),
    )


def begin_state(
    trainer: Trainer,
    max_steps: int,
    num_update_steps_per_epoch: int,
    num_train_epochs: int,
    resume_from_checkpoint: str | None,
    trial: Trial,
) -> tuple[int, int]:
    """``Trainer._init_training_state``: a fresh state, or the checkpoint's; how many epochs and batches it has done."""
    trainer.state = trainer._new_state()
    trainer.state.is_hyper_param_search = trial is not None
    trainer.state.train_batch_size = trainer._train_batch_size
    trainer.state.compute_steps(trainer.args, max_steps)
    epochs_done = batches_done = 0
    if resume_from_checkpoint is not None and (Path(resume_from_checkpoint) / STATE_NAME).is_file():
        trainer.state = trainer._read_state(resume_from_checkpoint)
        trainer._load_callback_state()
        epochs_done, steps = divmod(trainer.state.global_step, num_update_steps_per_epoch)
        if not trainer.args.ignore_data_skip:
            batches_done = steps * trainer.args.gradient_accumulation_steps
    trainer.state.max_steps = max_steps
    trainer.state.num_train_epochs = num_train_epochs
    trainer.state.is_local_process_zero = trainer.is_local_process_zero()
    trainer.state.is_world_process_zero = trainer.is_world_process_zero()
    return epochs_done, batches_done


def new_state(trainer: Trainer) -> TrainerState:
    """A state that knows whose states are kept with it."""
    kept = [one for one in [*trainer.callback_handler.callbacks, trainer.control] if isinstance(one, ExportableState)]
    return TrainerState(
        is_local_process_zero=trainer.is_local_process_zero(),
        is_world_process_zero=trainer.is_world_process_zero(),
        stateful_callbacks=kept,  # type: ignore[arg-type] # it asks them
    )


def prepare(
    trainer: Trainer, max_steps: int, train_dataloader: Loader, resume_from_checkpoint: str | None
) -> tuple[nn.Module, Loader]:
    """``Trainer._prepare_for_training``: optimizer and schedule made, everything wrapped, the checkpoint's state in."""
    if trainer._created_lr_scheduler:  # made for another number of steps
        trainer.lr_scheduler = None
        trainer._created_lr_scheduler = False
    model = spread.with_optimizer(trainer, max_steps)
    trainer.create_scheduler(num_training_steps=max_steps)
    trainer.model_wrapped = model
    if resume_from_checkpoint is not None:
        if stored.is_in_parts(trainer):  # which can be read only where the parts lie
            trainer._load_from_checkpoint(resume_from_checkpoint, model)
        trainer._load_optimizer_and_scheduler(resume_from_checkpoint)
        trainer._load_scaler(resume_from_checkpoint)
    handler = trainer.callback_handler
    handler.model, handler.optimizer, handler.lr_scheduler = trainer.model, trainer.optimizer, trainer.lr_scheduler
    handler.train_dataloader = train_dataloader
    return model, train_dataloader


def _go_on(trainer: Trainer, run: Run, epoch: int, batches: int) -> int:
    """Take over a checkpoint's place in the data, and do what was still due there; the epoch to begin with."""
    if run.resumed is None:
        return 0
    place = resume.place_of(trainer, run.resumed, epoch, batches, run.schedule.steps_in_epoch)
    run.over = resume.was_over(trainer)
    trainer.control.should_training_stop |= run.over
    if resume.take_what_is_due(trainer, place):
        _what_is_due(trainer, run, place.epoch, None, None)
        assert trainer._reading is not None
        place = trainer._reading.revised(place)
    if place.ended:
        return place.epoch + 1
    run.place = place
    return place.epoch


# -- an epoch ----------------------------------------------------------------------------------------------------------


@runtime_checkable
class KnowsEpochs(Protocol):
    """A loader or a sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int) -> None: ...


def run_epoch(trainer: Trainer, run: Run, epoch: int) -> None:
    """One pass over the data: step by step, with what is due after each; then what is due after an epoch."""
    batches, read = _begin_epoch(trainer, run, epoch)
    per_step = trainer.args.gradient_accumulation_steps
    norm: Tensor | float | None = None
    rate: float | None = None
    done = math.ceil(read / per_step)
    while done < run.schedule.num_update_steps_per_epoch and not run.over:
        wanted = min(per_step, run.schedule.steps_in_epoch - read)
        taken, items = trainer.get_batch_samples(batches, wanted, trainer.args.device)
        if not taken:
            break
        trainer._event("on_step_begin")
        if accumulate(trainer, run.model, taken, items):
            guard.check(trainer, run, epoch, read, len(taken))
            norm, rate = step_optimizer(trainer, run.model)
            done += 1
            read += len(taken)
            trainer.state.global_step += 1
            trainer.state.epoch = epoch + read / run.schedule.steps_in_epoch
            trainer._event("on_step_end")
            _what_is_due(trainer, run, epoch, norm, rate)
        if trainer.control.should_epoch_stop or trainer.control.should_training_stop:
            break
    if not read:
        logger.warning(
            "This epoch had no example: training ends at step %s of %s (a stream may be shorter than max_steps)",
            trainer.state.global_step,
            run.schedule.max_steps,
        )
        trainer.control.should_training_stop = True
    if trainer._interrupted:  # whoever goes on from the checkpoint comes to the epoch's end
        return
    trainer._event("on_epoch_end")
    assert trainer._reading is not None
    trainer._reading.end()
    _what_is_due(trainer, run, epoch, norm, rate)


def _begin_epoch(trainer: Trainer, run: Run, epoch: int) -> tuple[Iterator[Inputs], int]:
    """The epoch's batches, and how many of them are done already."""
    place, run.place = run.place, None
    if isinstance(run.loader, KnowsEpochs):
        run.loader.set_epoch(epoch)
    assert trainer._reading is not None
    batches = trainer._reading.read(epoch, place)
    if not trainer._reading.settled and trainer.control.should_training_stop:
        trainer._reading.settle()
    return cast("Iterator[Inputs]", batches), trainer._reading.handed


def _what_is_due(trainer: Trainer, run: Run, epoch: int, norm: Tensor | float | None, rate: float | None) -> None:
    if run.agrees:
        agree(trainer)
    wanted = trainer.control
    more = run.agrees and (wanted.should_log or wanted.should_evaluate or wanted.should_save)
    trainer._maybe_log_save_evaluate(
        trainer._tr_loss, norm, run.model, run.trial, epoch, run.ignore_keys, run.started, learning_rate=rate
    )
    if more:  # callbacks were told of it, and may want something else now
        agree(trainer)


# -- the end -----------------------------------------------------------------------------------------------------------


def finalize(trainer: Trainer, trial: Trial, num_train_samples: float, start_time: float) -> TrainOutput:
    """``Trainer._finalize_training``: the mean loss, speeds, the best model, a last word to the callbacks."""
    trainer._finish_writing()
    trainer._total_loss_scalar += trainer._tr_loss.item()
    steps = trainer.state.global_step - trainer._initial_global_step
    loss = trainer._total_loss_scalar / max(steps, 0.001)
    here = trainer.state.global_step - trainer._begun_at_step  # the loss is of the whole training, speeds of this call
    share = here / max(trainer.state.max_steps, 1)
    metrics = speed_metrics("train", start_time, num_samples=round(num_train_samples * share), num_steps=here)
    trainer.store_flos()
    metrics |= {"total_flos": trainer.state.total_flos, "train_loss": loss}
    trainer.memory_tracker.stop_and_update_metrics(metrics)
    trainer.log(metrics)
    best = trainer.state.best_model_checkpoint
    if trainer.args.load_best_model_at_end and best is not None and not trainer._interrupted:
        trainer._load_best_model()
    trainer._rotate_at_end(trial)
    trainer._event("on_train_end")
    trainer._finish_current_push()
    return TrainOutput(trainer.state.global_step, loss, metrics)
