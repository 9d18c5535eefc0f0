"""Every argument of a training: what it says, what it may be, and what becomes of it here.

One table, by name. An argument is *used*; or *inert*: it is taken, changes nothing, and a word says so; or *refused*
with the remedy, if it is set to anything but its default. The ecosystem's own class is walked in a test, so that no
argument of it is missing here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from omniform.core.errors import InputError, brief
from omniform.core.logs import get_logger
from omniform.train.argument_kinds import Anything, Flag, Kind, Number, OneOf, Text, Texts, Whole, Word
from omniform.train.intervals import HubStrategy, IntervalStrategy, OptimizerNames, SaveStrategy, SchedulerType

LOG_LEVELS: Final = {
    "detail": 10,
    "debug": 10,
    "info": 20,
    "warning": 30,
    "error": 40,
    "critical": 50,
    "passive": -1,
}
"""Levels of logging by name; ``passive`` leaves the level as it is."""

SAMPLING: Final = ("random", "sequential", "group_by_length", "batch_rebalance")
BACKENDS: Final = ("nccl", "gloo", "mpi", "xccl")
ABSENT_BACKENDS: Final = ("hccl", "cncl", "mccl")
METHODS: Final = ("fork", "spawn", "forkserver")


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument.

    Args:
        help: what it does, in a sentence (shown by ``--help``).
        kind: what it may be.
        choices: words that command lines offer, where they are not those of the kind.
        inert: why it changes nothing here; said once, when it is set.
        refused: why it cannot be set, and what to do instead.
        switch: on a command line the name alone means True.
    """

    help: str
    kind: Kind = field(default_factory=Anything)
    choices: tuple[str, ...] = ()
    inert: str | None = None
    refused: str | None = None
    switch: bool = False

    def read(self, name: str, value: object, default: object) -> object:
        """The value as it is kept.

        Raises:
            InputError: it is not of the argument's kind, or the argument cannot be set.
        """
        kept = self.kind.read(name, value)
        if kept is not None and kept is not False and kept != default:
            if self.refused:
                raise InputError("cannot be set", where=name, found=brief(value), remedy=self.refused)
            if self.inert:
                get_logger().warning_once(f"{name}={brief(value)} changes nothing: {self.inert}")
        return kept


def _backend(name: str, value: object) -> object:
    if value in ABSENT_BACKENDS:
        raise InputError("cannot be this", where=name, found=brief(value), expected=f"one of {', '.join(BACKENDS)}")
    return OneOf(BACKENDS, none=True).read(name, value)


_LEVELS: Final = tuple(LOG_LEVELS)

TABLE: Final[dict[str, Argument]] = {
    "output_dir": Argument("Folder for checkpoints and predictions.", Text()),
    "per_device_train_batch_size": Argument("Rows of a training batch on each device.", Whole(1)),
    "num_train_epochs": Argument("How often the training set is gone through; may be a fraction.", Number()),
    "max_steps": Argument("Steps to train for, whatever num_train_epochs says, if above 0.", Whole()),
    "learning_rate": Argument("The highest learning rate.", Number(0.0)),
    "lr_scheduler_type": Argument("How the learning rate changes over the steps.", Word(SchedulerType)),
    "lr_scheduler_kwargs": Argument("Further arguments of the schedule."),
    "warmup_steps": Argument("Steps until the full learning rate; below 1, a share of all steps.", Number(0.0)),
    "optim": Argument("The optimizer.", Word(OptimizerNames)),
    "optim_args": Argument("Further arguments of the optimizer: 'name=value,name=value'.", Text()),
    "weight_decay": Argument("Decay of weights; biases and norms are left out.", Number(0.0)),
    "adam_beta1": Argument("How long Adam's first moment remembers.", Number(0.0, 1.0)),
    "adam_beta2": Argument("How long Adam's second moment remembers.", Number(0.0, 1.0)),
    "adam_epsilon": Argument("Keeps Adam from dividing by zero.", Number(0.0)),
    "optim_target_modules": Argument("Modules that GaLore and APOLLO project."),
    "gradient_accumulation_steps": Argument("Batches whose gradients make one step.", Whole(1)),
    "average_tokens_across_devices": Argument("Count what is scored over all processes.", Flag()),
    "max_grad_norm": Argument(
        "Longer gradients are cut to this norm; 0: none is.", Number(0.0, none=True, infinite=True)
    ),
    "label_smoothing_factor": Argument("Share of the target that is spread over all labels.", Number(0.0, 1.0)),
    "bf16": Argument("Compute in bfloat16 where that is safe.", Flag()),
    "fp16": Argument("Compute in float16 where that is safe, with scaled losses.", Flag()),
    "bf16_full_eval": Argument("Evaluate wholly in bfloat16.", Flag()),
    "fp16_full_eval": Argument("Evaluate wholly in float16.", Flag()),
    "tf32": Argument("Let float32 products use TensorFloat-32 (Ampere and newer).", Flag()),
    "activation_checkpointing": Argument("Compute activations anew instead of keeping them.", Flag(), switch=True),
    "activation_checkpointing_kwargs": Argument("Arguments of activation checkpointing, such as use_reentrant."),
    "gradient_checkpointing": Argument("An older name of activation_checkpointing.", Flag(), switch=True),
    "gradient_checkpointing_kwargs": Argument("An older name of activation_checkpointing_kwargs."),
    "torch_compile": Argument("Compile the model.", Flag()),
    "torch_compile_backend": Argument("What compiles it.", Text()),
    "torch_compile_mode": Argument("How it is compiled.", Text()),
    "use_liger_kernel": Argument(
        "Kernels of the package liger-kernel.", Flag(), inert="they replace transformers' classes; omniform has its own"
    ),
    "liger_kernel_config": Argument("Which of them.", inert="they replace transformers' classes; omniform has its own"),
    "use_cache": Argument("Keep keys and values while training; for some PEFT methods.", Flag()),
    "neftune_noise_alpha": Argument("Noise on embeddings while training (NEFTune).", Number(0.0, none=True)),
    "torch_empty_cache_steps": Argument("Free the device's cached memory every so many steps.", Whole(1, none=True)),
    "auto_find_batch_size": Argument("Try smaller training batches while memory runs out.", Flag()),
    "logging_strategy": Argument("When the loss is logged.", Word(IntervalStrategy)),
    "logging_steps": Argument("Steps between logs; below 1, a share of all steps.", Number(0.0)),
    "logging_first_step": Argument("Log the first step too.", Flag()),
    "log_on_each_node": Argument("Log once on each machine.", Flag()),
    "logging_nan_inf_filter": Argument("Leave losses that are no numbers out of what is logged.", Flag()),
    "include_num_input_tokens_seen": Argument("Count the tokens that were read: all, non_padding or no."),
    "log_level": Argument("What the main process says.", OneOf(_LEVELS), _LEVELS),
    "log_level_replica": Argument("What the other processes say.", OneOf(_LEVELS), _LEVELS),
    "disable_tqdm": Argument("Show no progress bar.", Flag()),
    "report_to": Argument("Where to report: names of tools, 'all' or 'none'."),
    "run_name": Argument("The run's name where it is reported.", Text()),
    "project": Argument("The project's name where it is reported.", Text()),
    "trackio_space_id": Argument("The Space that Trackio logs to.", Text()),
    "trackio_bucket_id": Argument("The bucket that Trackio logs to.", Text()),
    "trackio_static_space_id": Argument("The Space that shows Trackio's results."),
    "eval_strategy": Argument("When the model is evaluated.", Word(IntervalStrategy)),
    "eval_steps": Argument("Steps between evaluations; below 1, a share of all steps.", Number(0.0, none=True)),
    "eval_delay": Argument("Steps or epochs before the first evaluation.", Number(0.0)),
    "per_device_eval_batch_size": Argument("Rows of an evaluation batch on each device.", Whole(1)),
    "prediction_loss_only": Argument("Evaluate the loss alone.", Flag()),
    "eval_on_start": Argument("Evaluate before the first step.", Flag()),
    "eval_do_concat_batches": Argument("Put the batches of an evaluation together.", Flag()),
    "eval_use_gather_object": Argument("Gather objects that are no tensors from all processes.", Flag()),
    "eval_accumulation_steps": Argument("Batches after which predictions leave the device.", Whole(1, none=True)),
    "include_for_metrics": Argument("What compute_metrics is given besides: inputs, loss.", Texts()),
    "batch_eval_metrics": Argument("Call compute_metrics after each batch.", Flag()),
    "save_only_model": Argument("Save no optimizer, schedule and random states: nothing can be resumed.", Flag()),
    "save_strategy": Argument("When a checkpoint is written.", Word(SaveStrategy)),
    "save_steps": Argument("Steps between checkpoints; below 1, a share of all steps.", Number(0.0)),
    "save_on_each_node": Argument("Write checkpoints on each machine.", Flag()),
    "save_total_limit": Argument("So many checkpoints are kept, the best among them.", Whole(none=True)),
    "enable_jit_checkpoint": Argument("Write a checkpoint and stop when asked to end (SIGTERM).", Flag()),
    "push_to_hub": Argument("Push to the Hub what is saved.", Flag()),
    "hub_token": Argument("The token for it.", Text()),
    "hub_private_repo": Argument("Make the repository private.", Flag()),
    "hub_model_id": Argument("The repository.", Text()),
    "hub_strategy": Argument("What is pushed, and when.", Word(HubStrategy)),
    "hub_always_push": Argument("Push although the last push has not ended.", Flag()),
    "hub_revision": Argument("The branch that is pushed to.", Text()),
    "load_best_model_at_end": Argument("Load the best checkpoint when training ends.", Flag()),
    "metric_for_best_model": Argument("The metric that tells which is best.", Text()),
    "greater_is_better": Argument("Whether more of it is better.", Flag()),
    "ignore_data_skip": Argument("Begin the data anew when training is resumed.", Flag()),
    "restore_callback_states_from_checkpoint": Argument("Take the callbacks' states from the checkpoint.", Flag()),
    "full_determinism": Argument("Ask for the same numbers in every run, at some cost.", Flag()),
    "seed": Argument("The seed of all generators.", Whole(0, most=2**32 - 1)),
    "data_seed": Argument("The seed of the data's order, if another.", Whole(0, none=True)),
    "use_cpu": Argument("Train on the CPU.", Flag()),
    "accelerator_config": Argument("Settings of accelerate's Accelerator: a dict or a JSON file."),
    "parallelism_config": Argument("accelerate's ParallelismConfig."),
    "dataloader_drop_last": Argument("Leave out the last batch if it is not full.", Flag()),
    "dataloader_num_workers": Argument("Processes that load data.", Whole(0)),
    "dataloader_pin_memory": Argument("Load into pinned memory.", Flag()),
    "dataloader_persistent_workers": Argument("Keep the workers from one epoch to the next.", Flag()),
    "dataloader_prefetch_factor": Argument("Batches that each worker loads ahead.", Whole(1, none=True)),
    "dataloader_multiprocessing_context": Argument("How workers are started.", OneOf(METHODS, none=True), METHODS),
    "dataloader_in_order": Argument("Take batches in the order in which they were asked for.", Flag()),
    "remove_unused_columns": Argument("Leave out columns that the model's forward does not take.", Flag()),
    "label_names": Argument("Names of the inputs that are labels.", Texts()),
    "train_sampling_strategy": Argument("In which order rows are trained on.", OneOf(SAMPLING), SAMPLING),
    "length_column_name": Argument("The column that holds rows' lengths.", Text()),
    "ddp_find_unused_parameters": Argument("find_unused_parameters of DistributedDataParallel.", Flag()),
    "ddp_bucket_cap_mb": Argument("bucket_cap_mb of DistributedDataParallel.", Whole(1, none=True)),
    "ddp_broadcast_buffers": Argument("broadcast_buffers of DistributedDataParallel.", Flag()),
    "ddp_static_graph": Argument("static_graph of DistributedDataParallel.", Flag()),
    "ddp_backend": Argument("What processes talk through.", Anything(_backend), BACKENDS + ABSENT_BACKENDS),
    "ddp_timeout": Argument("Seconds that processes wait for each other.", Whole(1)),
    "fsdp": Argument("Shard the model over the processes.", switch=True),
    "fsdp_config": Argument("How: a dict or a JSON file."),
    "deepspeed": Argument("DeepSpeed's configuration: a dict or a JSON file."),
    "debug": Argument("What is watched; nothing can be."),
    "skip_memory_metrics": Argument("Report no memory.", Flag()),
    "do_train": Argument("For scripts: train.", Flag()),
    "do_eval": Argument("For scripts: evaluate.", Flag()),
    "do_predict": Argument("For scripts: predict.", Flag()),
    "resume_from_checkpoint": Argument("For scripts: the checkpoint to go on from."),
    "local_rank": Argument("Given by old launchers; read local_process_index.", Whole()),
    # Seq2SeqTrainingArguments
    "sortish_sampler": Argument(
        "Batches of texts about as long.", Flag(), inert="say train_sampling_strategy='group_by_length'"
    ),
    "predict_with_generate": Argument("Let the model write when it is evaluated.", Flag()),
    "generation_max_length": Argument("How much it may write then.", Whole(1, none=True)),
    "generation_num_beams": Argument("With how many beams.", Whole(1, none=True)),
    "generation_config": Argument("Or a whole GenerationConfig, or where one is."),
}
"""Every argument, in the order of the ecosystem's classes."""
