"""What a task of training says of itself, and the tools that tasks share: data by columns, labels, models.

A task is a file of this package that ends with ``TASK``; whatever stands there is found, so a new one touches nothing
else.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, TypeVar, cast

from omniform.core.errors import ConfigError, DependencyError, InputError, listed, nearest
from omniform.train.recipe import Recipe, typed

if TYPE_CHECKING:
    import datasets
    from torch import nn

    from omniform.inputs.text.tokenizer import Tokenizer
    from omniform.train.metrics import EvalPrediction, Metrics
    from omniform.train.packing import PackedDataset, PackedStream
    from omniform.train.trainer import Trainer
    from omniform.train.values import Collator

RAW: Final[Mapping[str, object]] = {"remove_unused_columns": False}
"""Arguments of a training whose collator reads pictures, sounds and texts themselves."""


@dataclass(slots=True)
class Parts:
    """What a Trainer is made of.

    Attributes:
        processing_class: tokenizer or processor; it is saved with the model.
        collate: examples to a batch.
    """

    model: nn.Module
    processing_class: object
    train: datasets.Dataset | PackedDataset | PackedStream
    eval: datasets.Dataset | PackedDataset | PackedStream | None
    collate: Collator
    compute_metrics: Callable[[EvalPrediction], Metrics] | None = None
    preprocess_logits: Callable[..., object] | None = None
    trainer: str = "Trainer"
    arguments: Mapping[str, object] = field(default_factory=dict)
    """Those that the task needs, unless the recipe says otherwise."""


class Task(Protocol):
    """One kind of training."""

    name: ClassVar[str]
    columns: ClassVar[Mapping[str, Sequence[str]]]
    """What the task wants to know of an example, and the names under which data usually have it."""
    optional: ClassVar[frozenset[str]]
    """Those of them that need not be there."""

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        """Everything that a Trainer is made of."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Examples, under the task's own names of columns.

    Attributes:
        columns: the task's names of those that are there.
    """

    train: datasets.Dataset
    eval: datasets.Dataset | None
    columns: frozenset[str]

    def map(self, change: Callable[..., dict[str, object]], **kwargs: object) -> Loaded:
        """Both parts changed by a function of batches, whose columns replace the old ones."""
        train, held_out = (
            None if part is None else part.map(change, batched=True, remove_columns=part.column_names, **kwargs)
            for part in (self.train, self.eval)
        )
        assert train is not None
        return Loaded(train, held_out, self.columns)


NAMES: Final = tuple(
    sorted(
        info.name.replace("_", "-")
        for info in pkgutil.iter_modules([str(Path(__file__).parent)])
        if info.name != "base"
    )
)
"""All tasks there are."""


def task_named(name: str) -> Task:
    """A task by its name.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    if name not in NAMES:
        raise ConfigError("no such task", where="task", expected=listed(NAMES), found=name, remedy=nearest(name, NAMES))
    return cast(Task, vars(import_module(f"omniform.train.tasks.{name.replace('-', '_')}"))["TASK"])


def trainer_of(recipe: Recipe) -> Trainer:
    """A Trainer for a recipe: data read and prepared, model loaded or made, adapters put in."""
    from omniform.core.seeds import set_seed
    from omniform.train.arguments import Seq2SeqTrainingArguments, TrainingArguments
    from omniform.train.seq2seq import Seq2SeqTrainer
    from omniform.train.trainer import Trainer

    task = task_named(recipe.task)
    recipe.training_arguments(Seq2SeqTrainingArguments, {})  # a wrong one is refused before anything is loaded
    set_seed(recipe.seed)  # a model that begins from nothing begins alike each time
    parts = task.parts(recipe, loaded(recipe, task))
    seq2seq = parts.trainer == "Seq2SeqTrainer"
    kind = Seq2SeqTrainingArguments if seq2seq else TrainingArguments
    args = recipe.training_arguments(kind, parts.arguments)
    if parts.eval is None and args.eval_strategy != "no":
        raise ConfigError("there is nothing to evaluate on", where="data: eval", expected="a file, or a share of train")
    make: type[Trainer] = Seq2SeqTrainer if seq2seq else Trainer
    return make(
        model=adapted(parts.model, recipe),
        args=args,
        train_dataset=parts.train,
        eval_dataset=parts.eval,
        data_collator=parts.collate,
        processing_class=parts.processing_class,
        compute_metrics=parts.compute_metrics,
        preprocess_logits_for_metrics=parts.preprocess_logits,
    )


def adapted(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The model with the adapter that the recipe asks for."""
    if recipe.adapter is None:
        return model
    try:
        import peft
    except ImportError as error:
        raise DependencyError("adapters are trained with PEFT", where="adapter", remedy="pip install peft") from error
    known = peft.LoraConfig.__dataclass_fields__
    for key in recipe.adapter:
        if key not in known:
            raise ConfigError("LoRA has no such setting", where=f"adapter: {key}", remedy=nearest(key, known))
    return cast("nn.Module", peft.get_peft_model(model, peft.LoraConfig(**recipe.adapter)))


Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class NoOptions:
    """Of a task that has none of its own."""


def no_options(recipe: Recipe) -> None:
    """Refuse options of a task that has none."""
    typed(NoOptions, recipe.options, "options")


def options_of(recipe: Recipe, kind: type[Options]) -> Options:
    """The task's own options."""
    return typed(kind, recipe.options, "options")


# --- data

_READERS: Final = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text",
    ".arrow": "arrow",
}  # fmt: skip


def loaded(recipe: Recipe, task: Task) -> Loaded:
    """The recipe's examples, their columns under the task's names.

    Raises:
        ConfigError: no such file, or a column is missing: which, and what there is.
        DependencyError: the package ``datasets`` is not installed.
    """
    train = _dataset(recipe, recipe.data.train, "data: train")
    held_out: datasets.Dataset | None = None
    if isinstance(recipe.data.eval, str):
        held_out = _dataset(recipe, recipe.data.eval, "data: eval")
    elif recipe.data.eval is not None:
        if not 0 < recipe.data.eval < 1:
            raise ConfigError(
                "this is no share", where="data: eval", expected="between 0 and 1", found=recipe.data.eval
            )
        both = train.train_test_split(test_size=recipe.data.eval, seed=0)
        train, held_out = both["train"], both["test"]
    train = _limited(train, recipe.data.limit, "data: limit")
    held_out = None if held_out is None else _limited(held_out, recipe.data.eval_limit, "data: eval_limit")
    names = _columns(recipe, task, train.column_names)
    for theirs in names.values():
        if held_out is not None and theirs not in held_out.column_names:
            raise ConfigError(
                "a column of the training data is missing",
                where="data: eval",
                expected=theirs,
                found=listed(held_out.column_names),
            )
    train, held_out = (None if part is None else _named(recipe, part, names) for part in (train, held_out))
    assert train is not None
    return Loaded(train, held_out, frozenset(names))


def _named(recipe: Recipe, part: datasets.Dataset, names: Mapping[str, str]) -> datasets.Dataset:
    """Examples under the task's names of columns; names of media files as the recipe means them."""
    renamed = {theirs: ours for ours, theirs in names.items() if theirs != ours}
    part = part.select_columns(list(names.values())).rename_columns(renamed)
    for column in names.keys() & {"image", "images", "audio"}:
        files = part[0][column]
        if isinstance(files, str):
            part = part.map(lambda row, column=column: {column: recipe.path(row[column])})
        elif isinstance(files, list) and files and isinstance(files[0], str):
            part = part.map(lambda row, column=column: {column: [recipe.path(name) for name in row[column]]})
    return part


def _dataset(recipe: Recipe, name: str, where: str) -> datasets.Dataset:
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(
            "data are read with the package datasets", where=where, remedy="pip install datasets"
        ) from error
    path = Path(recipe.path(name))
    if path.is_file():
        if not path.stat().st_size:
            raise ConfigError("there are no examples", where=where, found=f"an empty file, {path}")
        if path.suffix not in _READERS:
            raise ConfigError(
                "no reader for this kind of file", where=where, expected=listed(_READERS), found=str(path)
            )
        extra = {"delimiter": "\t"} if path.suffix == ".tsv" else {}
        kind, given = _READERS[path.suffix], {"data_files": str(path), "split": "train", **extra}
    elif path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "state.json").exists():
            return cast("datasets.Dataset", datasets.load_from_disk(str(path)))
        sounds = any(p.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg") for p in path.rglob("*"))
        kind, given = "audiofolder" if sounds else "imagefolder", {"data_dir": str(path), "split": "train"}
    elif path.suffix in _READERS or name.startswith((".", "/")):
        raise ConfigError("no such file", where=where, found=str(path))
    else:
        kind, given = name, {"split": recipe.data.split}
    # A bar for every file that is read, and every column that is made, would say little; what fails, we say.
    datasets.disable_progress_bars()
    loud = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        found = cast("datasets.Dataset", datasets.load_dataset(kind, **given))
    except (OSError, ValueError, StopIteration, datasets.exceptions.DatasetGenerationError) as error:
        raise ConfigError("the data cannot be read", where=where, found=" ".join(str(error).split())[:300]) from error
    finally:
        datasets.logging.set_verbosity(loud)
    if not len(found):
        raise ConfigError("there are no examples", where=where, found=name)
    return found


def _limited(dataset: datasets.Dataset, limit: int | None, where: str) -> datasets.Dataset:
    if limit is not None and limit < 1:
        raise ConfigError("so few are none", where=where, expected="at least 1", found=limit)
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def _columns(recipe: Recipe, task: Task, there: Sequence[str]) -> dict[str, str]:
    """The task's name of each column and the data's."""
    for ours, theirs in recipe.data.columns.items():
        if ours not in task.columns:
            raise ConfigError(
                "the task has no such column",
                where=f"data: columns: {ours}",
                expected=listed(task.columns),
                remedy=nearest(ours, task.columns),
            )
        if theirs not in there:
            raise ConfigError(
                "the data have no such column",
                where=f"data: columns: {ours}",
                expected=listed(there),
                found=theirs,
                remedy=nearest(theirs, there),
            )
    names = dict(recipe.data.columns)
    for ours, usual in task.columns.items():
        found = next((name for name in usual if name in there), None)
        if ours not in names and found is not None and found not in names.values():
            names[ours] = found
        if ours not in names and ours not in task.optional:
            raise ConfigError(
                f"which column is the {ours}?",
                where="data: columns",
                expected=f"{ours}: one of {listed(there)}",
                remedy=f"columns: {{{ours}: ...}}",
            )
    return names


# --- labels and models


def class_names(values: Iterable[object]) -> list[str]:
    """The names of classes, from labels that are numbers from 0 on or names, in a fixed order."""
    found = set(values)
    if found and all(isinstance(v, int) and not isinstance(v, bool) for v in found):
        numbers = cast("set[int]", found)
        if min(numbers) < 0:
            raise InputError("labels are counted from 0", where="label", found=min(numbers))
        return [str(n) for n in range(max(numbers) + 1)]
    return sorted(str(v) for v in found)


def names_of(dataset: datasets.Dataset, column: str) -> list[str]:
    """The classes of a column: those that the data declare, else those that occur.

    Raises:
        ConfigError: there are none.
    """
    declared = dataset.features.to_dict()[column]
    while isinstance(declared, dict | list) and "names" not in declared:
        declared = declared[0] if isinstance(declared, list) else declared.get("feature")
    if declared is not None:
        return list(declared["names"])
    values = dataset[column]
    names = class_names(x for v in values for x in (v if isinstance(v, list) else [v]) if x is not None)
    if not names:
        raise ConfigError("no example has a label", where=f"data: columns: {column}", expected="classes")
    return names


def model_of(recipe: Recipe, auto: str, **config: object) -> nn.Module:
    """The recipe's model under a head: loaded, or made from nothing where a config stands in the recipe.

    Args:
        auto: the Auto class.
        config: what the data say of it (labels, sizes of vocabularies).
    """
    from omniform.hub import auto as autos

    kind: type[autos.AutoModel] = vars(autos)[auto]
    if isinstance(recipe.model, str):
        fits = {"ignore_mismatched_sizes": True} if {"id2label", "vocab_size"} & config.keys() else {}
        return cast("nn.Module", kind.from_pretrained(recipe.path(recipe.model), **config, **fits, **recipe.loading))
    given = dict(recipe.model)
    model_type = given.pop("model_type", None)
    if not isinstance(model_type, str):
        raise ConfigError(
            "a model that begins from nothing has a type", where="model", expected="model_type: llama, ..."
        )
    return cast("nn.Module", kind.from_config(autos.AutoConfig.for_model(model_type, **{**config, **given})))


def labels_config(names: Sequence[str]) -> dict[str, object]:
    """A config's words for classes."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def numbered(labels: Sequence[object], names: Sequence[str]) -> list[int]:
    """Labels as numbers of these classes.

    Raises:
        InputError: one is none of them; which example has it.
    """
    numbers = {name: i for i, name in enumerate(names)}
    made = []
    for row, label in enumerate(labels):
        found = label if isinstance(label, int) and not isinstance(label, bool) else numbers.get(str(label))
        if found is None or not 0 <= found < len(names):
            raise InputError("no such label", where=f"label, example {row}", expected=listed(names), found=label)
        made.append(found)
    return made


def sizes_of(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, object]:
    """What a model that begins from nothing takes from its tokenizer: the vocabulary's size, the special tokens."""
    if isinstance(recipe.model, str):
        return {}
    named = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return {"vocab_size": len(tokenizer), **{name: number for name, number in named.items() if number is not None}}


def tokenizer_of(recipe: Recipe, texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """The recipe's tokenizer; one made of the training texts where the model begins from nothing without one."""
    if recipe.processor is not None or isinstance(recipe.model, str):
        return cast("Tokenizer", processor_of(recipe))
    from omniform.train.fresh_tokenizer import byte_level

    return byte_level(texts, vocab_size)


def processor_of(recipe: Recipe, auto: str = "AutoTokenizer") -> object:
    """The recipe's tokenizer or processor: its own, the model's, or one made of the settings in the recipe.

    Args:
        auto: the Auto class that loads it.
    """
    from omniform.hub import auto_inputs

    name = recipe.model if recipe.processor is None else recipe.processor
    if isinstance(name, str):
        return vars(auto_inputs)[auto].from_pretrained(recipe.path(name))
    if name is recipe.model:
        raise ConfigError(
            "a model that begins from nothing brings no tokenizer or processor",
            where="processor",
            expected="a folder or a Hub id, or an image processor's settings",
        )
    from omniform.inputs.images.kinds import image_processor

    return image_processor(dict(name), where="processor")
