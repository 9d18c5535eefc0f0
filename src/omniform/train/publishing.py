"""A training on the Hub: its repository, its card, and what is pushed when (``hub_strategy``).

Files go in threads beside the training. A push that fails is said, and ends nothing: the files lie in ``output_dir``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omniform.core.errors import RepoError
from omniform.core.logs import get_logger
from omniform.hub import cards
from omniform.hub.folders import files_in
from omniform.hub.push import CARD, Sending, send, sending_of
from omniform.train.checkpoints import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME
from omniform.train.intervals import HubStrategy, SaveStrategy
from omniform.train.model_files import plain
from omniform.train.rotation import PREFIX_CHECKPOINT_DIR, TRAINER_STATE_NAME
from omniform.train.writing import MANIFEST

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, EvalResult

    from omniform.train.trainer import Trainer

__all__ = [
    "PushInProgress",
]

logger = get_logger(__name__)

_OF_TRAINING: Final = {OPTIMIZER_NAME, SCHEDULER_NAME, SCALER_NAME, TRAINER_STATE_NAME, MANIFEST}
BEGIN: Final = "<!-- omniform: training; what stands up to the end mark is written anew -->"
END: Final = "<!-- omniform: training end -->"
_SECTION: Final = re.compile(r"<!-- omniform: training;.*?-->.*?<!-- omniform: training end -->\n*", re.DOTALL)
_TABLES: Final = ("csv", "json", "pandas", "parquet", "text")
_TIMES: Final = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch", "step")


class PushInProgress:
    """Pushes that run beside the training."""

    def __init__(self, jobs: list[Future[object]] | None = None) -> None:
        self.jobs = [] if jobs is None else jobs

    def is_done(self) -> bool:
        """Whether all are over."""
        return all(job.done() for job in self.jobs)

    def wait_until_done(self) -> None:
        """Wait for all, and say what failed."""
        wait(self.jobs)
        for job in self.jobs:
            if error := job.exception():
                logger.error("Something could not be pushed: %s", error)
        self.jobs.clear()


def _folder(trainer: Trainer) -> Path:
    return Path(str(trainer.args.output_dir))


def _start(work: Callable[[], object]) -> Future[object]:
    pool = ThreadPoolExecutor(1, "omniform-push")
    try:
        return pool.submit(work)
    finally:
        pool.shutdown(wait=False)


# -- the methods of a Trainer ------------------------------------------------------------------------------------------


def init_hf_repo(trainer: Trainer, token: str | None = None, private: bool | None = None) -> None:
    """``Trainer.init_hf_repo``: make the repository, unless it is there.

    Raises:
        RepoError: there is no token, or the Hub refuses.
    """
    if not trainer.is_world_process_zero():
        return
    from huggingface_hub import HfApi

    from omniform.hub.refusals import refused

    sending = _sending(trainer, token, private, None)
    try:
        made = HfApi(token=sending.token, library_name="omniform").create_repo(
            sending.repo_id, private=sending.private, exist_ok=True
        )
    except Exception as error:  # whatever the client raises
        raise refused(error, sending) from error
    trainer.hub_model_id = str(made.repo_id)
    trainer.push_in_progress = None


def _sending(trainer: Trainer, token: str | None, private: bool | None, revision: str | None) -> Sending:
    args = trainer.args
    name = trainer.hub_model_id or args.hub_model_id or _folder(trainer).absolute().name
    given = {
        "repo_id": name,
        "token": args.hub_token if token is None else token,
        "private": args.hub_private_repo if private is None else private,
        "revision": args.hub_revision if revision is None else revision,
    }
    made = sending_of(True, args.output_dir, {key: value for key, value in given.items() if value is not None})
    assert made is not None
    return made


def push_to_hub(
    trainer: Trainer,
    commit_message: str | None = "End of training",
    blocking: bool = True,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    **card: object,
) -> CommitInfo | Future[object] | None:
    """``Trainer.push_to_hub``: save the model, write its card, and push both with what lies beside (logs of reporters).

    Returns:
        The commit; where it is not waited for, its future. None in processes that push nothing.
    """
    trainer._event("on_push_begin")
    if trainer.hub_model_id is None:
        trainer.init_hf_repo(token=token, private=private)
    trainer.save_model(_internal_call=True)
    if not trainer.is_world_process_zero():
        return None
    if card.get("model_name") is None:
        card["model_name"] = (trainer.args.hub_model_id or _folder(trainer).absolute().name).split("/")[-1]
    trainer.create_model_card(**card)  # type: ignore[arg-type]
    trainer._finish_current_push()
    sending = _with_message(_sending(trainer, token, private, revision), commit_message)
    if blocking:
        return _push(trainer, sending)
    job = _start(lambda: _push(trainer, sending))
    trainer.push_in_progress = PushInProgress([job])
    return job


def _with_message(sending: Sending, message: str | None) -> Sending:
    from dataclasses import replace

    return replace(sending, commit_message=message)


def _push(trainer: Trainer, sending: Sending) -> CommitInfo:
    folder = _folder(trainer)
    return send(plain(trainer), folder, files_to_push(folder), sending)


def files_to_push(folder: Path) -> list[str]:
    """What of ``output_dir`` goes to the Hub: all but checkpoints, hidden files and those that begin with ``_``."""
    return [
        name
        for name in files_in(folder)
        if not name.startswith((f"{PREFIX_CHECKPOINT_DIR}-", "_", ".")) and "/." not in name and "/_" not in name
    ]


def push_from_checkpoint(trainer: Trainer, checkpoint_folder: str) -> None:
    """``Trainer._push_from_checkpoint``: what ``hub_strategy`` wants pushed at a checkpoint."""
    args = trainer.args
    strategy = HubStrategy(args.hub_strategy)
    if not trainer.is_world_process_zero() or strategy == HubStrategy.END:
        return
    running = trainer.push_in_progress
    if not args.hub_always_push and running is not None and not running.is_done():
        return
    trainer._event("on_push_begin")
    if trainer.hub_model_id is None:
        trainer.init_hf_repo()
    checkpoint, folder = Path(checkpoint_folder), _folder(trainer)
    for name in files_in(checkpoint):
        if name not in _OF_TRAINING and not name.startswith(("rng_state", "resume_state")) and name != CARD:
            _put(checkpoint / name, folder / name)
    by_steps = args.save_strategy == SaveStrategy.STEPS
    when = f"step {trainer.state.global_step}" if by_steps else f"epoch {int(trainer.state.epoch)}"
    message = f"Training in progress, {when}"
    sending = _with_message(_sending(trainer, None, None, None), message)
    jobs = [_start(lambda: _push(trainer, sending))]
    if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
        first = jobs[0]
        jobs.append(_start(lambda: (wait([first]), _push_folder(checkpoint, place, sending, message))))
    if running is None or running.is_done():
        trainer.push_in_progress = PushInProgress(jobs)
    else:
        running.jobs.extend(jobs)


def _push_folder(checkpoint: Path, place: str, sending: Sending, message: str) -> object:
    from huggingface_hub import HfApi

    from omniform.hub.refusals import refused

    try:
        return HfApi(token=sending.token, library_name="omniform").upload_folder(
            repo_id=sending.repo_id,
            folder_path=checkpoint,
            path_in_repo=place,
            commit_message=f"{message}, checkpoint",
            revision=sending.revision,
        )
    except Exception as error:  # whatever the client raises
        raise refused(error, sending) from error


def _put(path: Path, target: Path) -> None:
    """A file under a second name: at once, and without copying where the disk can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        try:
            os.link(path, beside)
        except OSError:  # not every file system has hard links
            shutil.copy2(path, beside)
        os.replace(beside, target)
    except OSError as error:
        raise RepoError("the folder cannot be written", where=str(target), found=error.strerror) from error


def finish_current_push(trainer: Trainer) -> None:
    """``Trainer._finish_current_push``: wait for what is still being sent."""
    if trainer.push_in_progress is not None:
        trainer.push_in_progress.wait_until_done()


# -- the card ----------------------------------------------------------------------------------------------------------


def create_model_card(
    trainer: Trainer,
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    dataset_args: str | list[str] | None = None,
) -> None:
    """``Trainer.create_model_card``: a ``README.md`` in ``output_dir`` with what is known of the training.

    Words of a user's own in a card that is there already stay.
    """
    if not trainer.is_world_process_zero():
        return
    folder = _folder(trainer)
    path = folder / CARD
    folder.mkdir(parents=True, exist_ok=True)
    written = path.read_text("utf-8") if path.is_file() else None
    model = plain(trainer)
    names = [tags] if isinstance(tags, str) else list(tags or ())
    base = finetuned_from or _base_of(model)
    card = cards.model_card(
        model,
        trainer.hub_model_id or trainer.args.hub_model_id or folder.absolute().name,
        language=language,
        license=license,
        tags=list(dict.fromkeys([*names, *_model_tags(model), "generated_from_trainer"])),
        model_name=model_name or folder.absolute().name,
        finetuned_from=base,
        tasks=tasks[0] if isinstance(tasks, list) else tasks,
        datasets=dataset_tags or _dataset_of(trainer),
        eval_results=_results(trainer, tasks, dataset_tags, dataset, dataset_args),
        files=files_to_push(folder),
        written=None if written is None else _SECTION.sub("", written),
    )
    path.write_text(f"{str(card).rstrip()}\n\n{_section(trainer, base)}\n", "utf-8")


def _model_tags(model: object) -> list[str]:
    found = vars(model).get("model_tags")
    return [found] if isinstance(found, str) else list(found or ())


def _base_of(model: object) -> str | None:
    from omniform.architectures.model import Model

    name = model.config.name_or_path if isinstance(model, Model) else ""
    return name if name and not os.path.isdir(name) and name.count("/") <= 1 else None


def _dataset_of(trainer: Trainer) -> list[str] | None:
    import sys

    library = sys.modules.get("datasets")
    one = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
    if library is None or not isinstance(one, (library.Dataset, library.IterableDataset)):
        return None
    name = one.builder_name
    return None if name is None or name in _TABLES else [str(name)]


def _results(
    trainer: Trainer,
    tasks: str | list[str] | None,
    dataset_tags: str | list[str] | None,
    dataset: str | list[str] | None,
    dataset_args: str | list[str] | None,
) -> list[EvalResult] | None:
    """The last evaluation, for ``model-index``, where the task and the data are named."""
    from huggingface_hub import EvalResult

    last = next((one for one in reversed(trainer.state.log_history) if "eval_loss" in one), None)
    tags = [dataset_tags] if isinstance(dataset_tags, str) else dataset_tags or _dataset_of(trainer)
    if last is None or not tasks or not tags:
        return None
    task = tasks[0] if isinstance(tasks, list) else tasks
    title = dataset[0] if isinstance(dataset, list) else dataset or tags[0]
    config = dataset_args[0] if isinstance(dataset_args, list) else dataset_args
    return [
        EvalResult(
            task_type=task,
            dataset_type=tags[0],
            dataset_name=title,
            dataset_config=config,
            metric_type=name.removeprefix("eval_"),
            metric_name=name.removeprefix("eval_").replace("_", " ").capitalize(),
            metric_value=value,
        )
        for name, value in last.items()
        if name.removeprefix("eval_") not in _TIMES
    ]


def _section(trainer: Trainer, base: str | None) -> str:
    args = trainer.args
    settings: dict[str, object] = {
        "learning_rate": args.learning_rate, "train_batch_size": args.train_batch_size,
        "eval_batch_size": args.eval_batch_size, "seed": args.seed, "num_devices": args.world_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps, "optimizer": str(args.optim),
        "lr_scheduler_type": str(args.lr_scheduler_type), "warmup_steps": args.warmup_steps,
    }  # fmt: skip
    settings |= {"training_steps": args.max_steps} if args.max_steps > 0 else {"num_epochs": args.num_train_epochs}
    lines = [BEGIN, "## Training", "", f"Trained with omniform{f' from {base}' if base else ''}.", ""]
    lines += [f"- {name}: {value}" for name, value in settings.items()]
    rows = _rows(trainer.state.log_history)
    if rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines += ["", _line(names), _line([":---:"] * len(names))]
        lines += [_line([_number(row.get(name, "")) for name in names]) for row in rows]
    return "\n".join([*lines, "", END])


def _rows(history: Sequence[dict[str, float]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    loss: object = "not logged"
    for one in history:
        loss = one.get("loss", loss)
        if "eval_loss" in one:
            metrics = {name.removeprefix("eval_"): value for name, value in one.items() if name.startswith("eval_")}
            shown = {name: value for name, value in metrics.items() if name not in _TIMES and name != "loss"}
            rows.append(
                {"training loss": loss, "epoch": one.get("epoch"), "step": one.get("step"),
                 "validation loss": metrics["loss"], **shown}
            )  # fmt: skip
    return rows


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _number(value: object) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
