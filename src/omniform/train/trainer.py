"""The Trainer: one object that holds a model, its data and its arguments, and trains.

Its methods are the ecosystem's, so that scripts and subclasses written for it work. None holds any logic: they are
functions of the modules beside this one that take the Trainer, and call back through it whatever a subclass may have
overridden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from omniform.core.logs import get_logger
from omniform.train import (
    checkpoints,
    counting,
    data,
    evaluating,
    loop,
    optimizing,
    processes,
    publishing,
    reports,
    resume,
    search,
    setup,
    steps,
    wrapped,
)
from omniform.train.arguments import TrainingArguments
from omniform.train.callbacks import CallbackHandler, DefaultFlowCallback, PrinterCallback, TrainerCallback
from omniform.train.data import Loader
from omniform.train.decay import get_decay_parameter_names
from omniform.train.exact import Exact
from omniform.train.guard import LossGuard
from omniform.train.just_in_time import JITCheckpointCallback
from omniform.train.memory import TrainerMemoryTracker
from omniform.train.metrics import EvalLoopOutput, PredictionOutput, TrainOutput, keep_metrics, metrics_format
from omniform.train.notebook import default_progress
from omniform.train.optimizer_context import Made
from omniform.train.optimizers import get_optimizer_cls_and_kwargs
from omniform.train.publishing import PushInProgress
from omniform.train.reading import Reading
from omniform.train.reporting.table import get_reporting_integration_callbacks
from omniform.train.schedulers import Scheduler
from omniform.train.search import BestRun, Search
from omniform.train.smoothing import LabelSmoother
from omniform.train.state import TrainerControl
from omniform.train.values import Collator, Examples, Inputs, Items, Loss, Trial
from omniform.train.writing import Writer

if TYPE_CHECKING:
    from concurrent.futures import Future

    from accelerate import Accelerator
    from huggingface_hub import CommitInfo

logger = get_logger(__name__)

Metrics = dict[str, float]


DEFAULT_CALLBACKS: list[type[TrainerCallback]] = [DefaultFlowCallback]
DEFAULT_PROGRESS_CALLBACK: type[TrainerCallback] = default_progress()
"""Bars on a terminal, or a table in a notebook; scripts change it."""


class Trainer:
    """Trains a model, evaluates it, saves it and goes on where it was stopped.

    Args:
        model: what learns: one of ours, one that PEFT stands around, or any module whose ``forward`` gives a loss.
        args: how; by default a plain ``TrainingArguments`` that writes to ``tmp_trainer``.
        data_collator: makes a batch of examples; by default it pads, where there is a tokenizer.
        train_dataset: what it learns from. Columns of a ``datasets.Dataset`` that the model does not take are left out.
        eval_dataset: what it is measured on; several by name.
        processing_class: the tokenizer or processor that is saved with the model.
        model_init: makes the model anew for every ``train()``; instead of ``model``.
        compute_loss_func: ``(outputs, labels, num_items_in_batch)`` to a loss, which is a sum divided by that number.
        compute_metrics: an :class:`~omniform.EvalPrediction` to numbers by name.
        callbacks: further :class:`~omniform.TrainerCallback`, behind the usual ones.
        optimizers: an optimizer and a schedule, instead of those that the arguments ask for.
        optimizer_cls_and_kwargs: a class of optimizers and its keywords, instead of ``args.optim``.
        preprocess_logits_for_metrics: what is kept of each batch's outputs, given them and the labels.

    Attributes:
        model: the model itself.
        model_wrapped: as it is called: with whatever processes, precision or compilation put around it.
        accelerator: the :class:`accelerate.Accelerator`.
        state: how far it has come.
        control: what the callbacks want next.
        loss_is_scaled_for_ga: for subclasses with a loss of their own: whether ``compute_loss`` gives a part of the
            step's mean already (True), or a batch's own mean (False). None: found out; see :mod:`.counting`.

    Raises:
        InputError: arguments that contradict one another or the data.
        DependencyError: accelerate is not installed.
    """

    loss_is_scaled_for_ga: bool | None = None

    accelerator: Accelerator
    gather_function: Callable[..., object]
    is_deepspeed_enabled: bool
    is_model_parallel: bool
    place_model_on_device: bool
    is_fsdp_enabled: bool
    deepspeed: nn.Module | None = None

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Collator | None = None,
        train_dataset: Examples | None = None,
        eval_dataset: Examples | Mapping[str, Examples] | None = None,
        processing_class: object = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[..., Metrics] | None = None,
        callbacks: Sequence[type[TrainerCallback] | TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, Scheduler | None] = (None, None),
        optimizer_cls_and_kwargs: Made | None = None,
        preprocess_logits_for_metrics: Callable[[object, object], object] | None = None,
    ) -> None:
        self.args = TrainingArguments(output_dir="tmp_trainer") if args is None else args
        loop.seed(self.args)  # before the model is made
        self.model_init = model_init
        self.model = cast(nn.Module, model)  # what makes the Accelerator may look at it
        self.create_accelerator_and_postprocess()
        self.memory_tracker = TrainerMemoryTracker(self.args.skip_memory_metrics)
        self.memory_tracker.start()
        setup.set_log_level(self.args)
        self.model = setup.given_model(self, model)
        self.model_wrapped: nn.Module = self.model
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.processing_class = processing_class
        self.data_collator = setup.default_collator(processing_class) if data_collator is None else data_collator
        self.compute_loss_func = compute_loss_func
        self.compute_metrics = compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.optimizer, self.lr_scheduler = optimizers
        self._given_optimizer = self.optimizer is not None
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self.neftune_noise_alpha = self.args.neftune_noise_alpha
        setup.place(self)
        self._look_at_model()
        self._begin_counters()
        self._validate_args()
        self._begin_callbacks(callbacks or ())
        self.memory_tracker.stop_and_update_metrics()

    def _look_at_model(self) -> None:
        """What the model's loss is like."""
        kind = type(wrapped.without_adapters(self.model))
        self.model_accepts_loss_kwargs = counting.divides(self.model)
        self.label_names = wrapped.find_labels(kind) if self.args.label_names is None else self.args.label_names
        self.can_return_loss = wrapped.can_return_loss(kind)
        self.label_smoother: LabelSmoother | None = setup.smoother(self)
        self._shifts_labels = counting.shifts(self.model)

    def _begin_counters(self) -> None:
        self.is_in_train = False
        self.control = TrainerControl()
        self.hub_model_id: str | None = None
        self.current_flos = 0.0
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self.model_preparation_time: float | None = None
        self._train_batch_size = self.args.train_batch_size
        self._created_lr_scheduler = False
        self._signature_columns: list[str] | None = None
        self._eval_dataloaders: dict[str, Loader] = {}
        self._writer = Writer()
        self._reading: Reading | None = None
        self._exact: Exact | None = None
        self._best_before: str | None = None
        self._interrupted, self._due = False, (False, False)
        self.push_in_progress: PushInProgress | None = None
        self._counted: tuple[nn.Module, int] | None = None
        self._trial: Trial = None
        self.search: Search | None = None
        # Of the step under way: what its batches' means count for, and whether the loss was divided already.
        self._share = 1.0
        self._idle: Inputs | None = None  # a batch without a row of this process's own
        self._divided: bool | None = None
        self._tr_loss = torch.tensor(0.0, device=self.args.device)
        self._step_loss = torch.zeros_like(self._tr_loss)  # of the step under way, whatever it is
        self._total_loss_scalar, self._begun_at_step = 0.0, 0
        self._globalstep_last_logged = self._initial_global_step = self._initial_num_input_tokens_seen = 0

    def _begin_callbacks(self, callbacks: Sequence[type[TrainerCallback] | TrainerCallback]) -> None:
        guards = () if any(one is LossGuard or isinstance(one, LossGuard) for one in callbacks) else (LossGuard,)
        self.callback_handler = CallbackHandler(
            [*DEFAULT_CALLBACKS, *get_reporting_integration_callbacks(self.args.report_to), *guards, *callbacks],
            self.model,
            self.processing_class,
            self.optimizer,
            self.lr_scheduler,
        )
        self.add_callback(PrinterCallback if self.args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)
        if self.args.enable_jit_checkpoint:
            last = JITCheckpointCallback()
            last.set_trainer(self)
            self.add_callback(last)
        self.state = self._new_state()
        self._event("on_init_end")

    def _event(self, name: str, **told: object) -> None:
        """Tell the callbacks of an event, and take over what they want."""
        tell = cast("Callable[..., TrainerControl]", getattr(self.callback_handler, name))
        self.control = tell(self.args, self.state, self.control, **told)

    # -- what others call ----------------------------------------------------------------------------------------------

    get_train_dataloader = data.train_loader
    num_examples = data.count_examples
    set_initial_training_values = loop.schedule_of
    get_total_train_batch_size = loop.examples_of_a_step
    get_learning_rates = optimizing.learning_rates
    get_optimizer_group = optimizing.group_of
    get_num_trainable_parameters = reports.learning_parameters
    floating_point_ops = reports.operations
    save_state = reports.save_state

    def get_eval_dataloader(self, eval_dataset: str | Examples | None = None) -> Loader:
        """The loader of what is measured on: of a dataset, of one of several by name, or of the trainer's."""
        return data.eval_loader(self, eval_dataset)

    def get_test_dataloader(self, test_dataset: Examples) -> Loader:
        """The loader of what is predicted."""
        return self._get_dataloader(test_dataset, "test", self.args.eval_batch_size, self._get_eval_sampler)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Make both, unless the user gave them."""
        self.create_optimizer()
        self.create_scheduler(num_training_steps=num_training_steps)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Make the optimizer, unless the user gave one."""
        return optimizing.create_optimizer(self, self.model if model is None else model)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Scheduler:
        """Make the schedule of learning rates, unless the user gave one."""
        return optimizing.create_scheduler(self, num_training_steps, optimizer)

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: nn.Module | None = None) -> Made:
        """The class of optimizers that the arguments name, and its keywords."""
        return get_optimizer_cls_and_kwargs(args, model)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that weight decay makes smaller."""
        return get_decay_parameter_names(model)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Trial = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, from the start or from a checkpoint.

        Args:
            resume_from_checkpoint: its folder; True: the last one in ``args.output_dir``.
            trial: of a hyperparameter search.
            ignore_keys_for_eval: outputs that evaluations on the way leave out.
        """
        return loop.train(self, resume_from_checkpoint, trial, ignore_keys_for_eval)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], Items]:
        """The batches of a step, and what their loss is the mean over."""
        return steps.take(self, epoch_iterator, num_batches, device)

    def training_step(self, model: nn.Module, inputs: Inputs, num_items_in_batch: Items = None) -> Tensor:
        """Forward and backward of one batch; the loss, without its graph."""
        return steps.training_step(self, model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: nn.Module, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Items = None
    ) -> Loss:
        """The loss of a batch: what the model says, or ``compute_loss_func``, or smoothed.

        A subclass may override it. Its loss counts as divided if it divides by ``num_items_in_batch``, itself or by
        calling this one, and as the batch's own mean otherwise, unless ``loss_is_scaled_for_ga`` says it.
        """
        loss, outputs = steps.compute_loss(self, model, inputs, num_items_in_batch, loss_only=not return_outputs)
        return (loss, outputs) if return_outputs else loss

    def compute_loss_context_manager(self) -> AbstractContextManager[object]:
        """Around the forward and the loss."""
        return self.autocast_smart_context_manager()

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[object]:
        """Nothing: accelerate has put mixed precision around the model."""
        return contextlib.nullcontext()

    def log(self, logs: Metrics, start_time: float | None = None) -> None:
        """Keep a report in ``state.log_history``, and show it to the callbacks."""
        reports.log(self, logs, start_time)

    def add_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        """Put one more behind the others."""
        self.callback_handler.add_callback(callback)

    def pop_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> TrainerCallback | None:
        """Take one out, or the first of a class, and give it back; None where there is none."""
        return self.callback_handler.pop_callback(callback)

    def remove_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        """Take one out, or the first of a class."""
        self.callback_handler.remove_callback(callback)

    def is_local_process_zero(self) -> bool:
        """Whether this is the main process of its machine."""
        return self.args.local_process_index == 0

    def is_world_process_zero(self) -> bool:
        """Whether this is the main process of all machines."""
        return self.args.process_index == 0

    def end(self) -> None:
        """Close the trackers and the group of processes: the last call of a script."""
        self.accelerator.end_training()

    def evaluate(
        self,
        eval_dataset: str | Examples | Mapping[str, Examples] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Metrics:
        """Evaluate, report the metrics to the callbacks and into ``state.log_history``.

        Args:
            eval_dataset: instead of the Trainer's own; several by name are evaluated one by one.
            ignore_keys: outputs that are left out.
            metric_key_prefix: what names of metrics begin with: ``eval_loss``.
        """
        return evaluating.evaluate(self, eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Examples, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Outputs, labels where there are any, and metrics of them; rows of unlike lengths are filled with -100."""
        return evaluating.predict(self, test_dataset, ignore_keys, metric_key_prefix)

    def evaluation_loop(
        self,
        dataloader: Loader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """What both of them do, for a loader; with labels and without.

        Args:
            description: ``"Evaluation"``, or ``"Prediction"``, whose outputs are kept even if metrics are computed
                batch by batch.
            prediction_loss_only: whether outputs are dropped at once; by default as the arguments say.
        """
        return evaluating.evaluation_loop(
            self, dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )

    def prediction_step(
        self, model: nn.Module, inputs: Inputs, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, object, object]:
        """Loss, outputs and labels of one batch, without gradients."""
        return evaluating.prediction_step(self, model, inputs, prediction_loss_only, ignore_keys)

    def hyperparameter_search(
        self,
        hp_space: Callable[..., dict[str, object]] | None = None,
        compute_objective: Callable[[Metrics], float | list[float]] | None = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: str | None = None,
        hp_name: Callable[..., str] | None = None,
        **kwargs: object,
    ) -> BestRun | list[BestRun]:
        """Train many times, each with other settings, for the best objective; needs ``model_init``.

        Args:
            hp_space: the settings of a trial; by default rate, epochs, seed and batch size.
            compute_objective: a number, or several, from the metrics; by default their sum, or the loss alone.
            n_trials: how many runs.
            direction: ``"minimize"`` or ``"maximize"``; one for each objective, where there are several.
            backend: ``"optuna"`` or ``"ray"``; by default the first that is installed.
            hp_name: a run's folder below ``output_dir``.
            kwargs: the backend's own: of ``optuna.create_study`` and ``Study.optimize``, or of ``ray.tune.run``.

        Returns:
            The best run; with several objectives, all that no other beats in each of them.
        """
        return search.hyperparameter_search(
            self, hp_space, compute_objective, n_trials, direction, backend, hp_name, kwargs
        )

    log_metrics = reports.log_metrics
    metrics_format = staticmethod(metrics_format)
    hp_search_backend, hp_name = property(search.backend_of), property(search.namer_of)

    def save_metrics(self, split: str, metrics: Mapping[str, object], combined: bool = True) -> None:
        """Write ``{split}_results.json``, and with ``combined`` add to ``all_results.json``, in the main process."""
        if self.is_world_process_zero():
            keep_metrics(str(self.args.output_dir), split, metrics, combined)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, for ``from_pretrained``, with its processor and the arguments."""
        checkpoints.save_model(self, output_dir, _internal_call)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: object,
    ) -> CommitInfo | Future[object] | None:
        """Save the model and its card, and push them; ``kwargs`` are those of :meth:`create_model_card`."""
        return publishing.push_to_hub(self, commit_message, blocking, token, revision, private, **kwargs)

    create_model_card = publishing.create_model_card
    init_hf_repo = publishing.init_hf_repo

    # -- the steps between, for subclasses to override: each is a function that takes the Trainer ----------------------

    create_accelerator_and_postprocess = processes.create_accelerator
    _build_accelerator_args = processes.accelerator_options
    _wrap_model = processes.wrap
    prepared_for_evaluation = processes.for_evaluation
    get_tp_size, get_cp_size, get_sp_size = processes.tp_size, processes.cp_size, processes.sp_size

    call_model_init = setup.call_model_init
    _move_model_to_device = setup.move
    _validate_args = setup.validate

    _get_dataloader = data.loader_of
    _get_train_sampler = data.train_sampler
    _get_eval_sampler = data.eval_sampler
    _set_signature_columns_if_needed = data.see_columns
    _remove_unused_columns = data.remove_unused
    _get_collator_with_removed_columns = data.without_unused

    _get_learning_rate = optimizing.learning_rate

    _inner_training_loop = loop.inner_training_loop
    _new_state = loop.new_state
    _init_training_state = loop.begin_state
    _prepare_for_training = loop.prepare
    _finalize_training = loop.finalize

    optimizer_mode = steps.set_mode
    _get_num_items_in_batch = counting.count_items
    _prepare_input = steps.on_device
    _prepare_inputs = steps.prepare_inputs
    _prepare_context_parallel_inputs = steps.context_inputs
    _track_num_input_tokens = steps.count_tokens
    _clip_grad_norm = steps.clip
    _get_grad_norm = steps.grad_norm

    store_flos = reports.store_flos
    _maybe_log_save_evaluate = reports.after_step
    _determine_best_metric = reports.determine_best
    _save = checkpoints.save
    _save_checkpoint = checkpoints.save_checkpoint
    _save_optimizer_and_scheduler = checkpoints.save_optimizer_and_scheduler
    _save_scaler = checkpoints.save_scaler
    _save_rng_state = checkpoints.save_rng_state
    _get_output_dir = search.folder_of
    _finish_writing = checkpoints.finish_writing
    _rotate_at_end = checkpoints.rotate_at_end
    _checkpoint_to_resume = resume.checkpoint_to_resume
    _read_state = resume.read_state
    _load_from_checkpoint = resume.load_from_checkpoint
    _load_optimizer_and_scheduler = resume.load_optimizer_and_scheduler
    _load_scaler = resume.load_scaler
    _load_rng_state = resume.load_rng_state
    _load_callback_state = resume.load_callback_state
    _load_best_model = resume.load_best_model
    _push_from_checkpoint = publishing.push_from_checkpoint
    _finish_current_push = publishing.finish_current_push

    _evaluate = evaluating.on_the_way
    _hp_search_setup = search.begin
    _report_to_hp_search = search.report


__all__ = ["DEFAULT_CALLBACKS", "DEFAULT_PROGRESS_CALLBACK", "Trainer", "logger"]
