"""What a notebook shows of a training: a bar and a table of losses, as HTML below the cell."""

from __future__ import annotations

import html
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, cast

from omniform.train.callbacks import TrainerCallback
from omniform.train.progress import ProgressCallback, length, short
from omniform.train.reporting.values import flat, number

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerControl, TrainerState

__all__ = [
    "NotebookProgressBar", "NotebookProgressCallback", "NotebookTrainingTracker", "format_time", "html_progress_bar",
    "is_in_notebook", "text_to_html_table",
]  # fmt: skip

Row = dict[str, object]

_NOT_SHOWN: Final = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def is_in_notebook() -> bool:
    """Whether this runs in a notebook's kernel (Jupyter, Colab, VS Code, marimo). Nothing is imported to find out."""
    if "marimo" in sys.modules:
        return True
    ipython = sys.modules.get("IPython")
    shell = vars(ipython).get("get_ipython") if ipython is not None else None
    running = shell() if callable(shell) else None
    return running is not None and "IPKernelApp" in running.config


def default_progress() -> type[TrainerCallback]:
    """What shows progress here: a table in a notebook, else a bar or lines."""
    return NotebookProgressCallback if is_in_notebook() else ProgressCallback


class _Output(Protocol):
    def update(self, shown: object) -> None: ...


def show(code: str) -> _Output:
    """Show HTML below the cell; what is given back can replace it."""
    display = import_module("IPython.display")
    return cast(_Output, display.display(display.HTML(code), display_id=True))


def replace(output: _Output, code: str) -> None:
    """Show other HTML in its place."""
    output.update(import_module("IPython.display").HTML(code))


def format_time(t: float) -> str:
    """Seconds as ``mm:ss`` or ``h:mm:ss``."""
    whole = int(t)
    hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def html_progress_bar(value: object, total: object, prefix: str, label: str, width: int = 300) -> str:
    """A bar between two texts; ``width`` in pixels."""
    bar = (
        f'<progress value="{value}" max="{total}" style="width:{width}px;height:20px;vertical-align:middle"></progress>'
    )
    return f"<div>{html.escape(prefix)} {bar} {html.escape(label)}</div>\n"


def text_to_html_table(items: Sequence[Sequence[object]]) -> str:
    """A table; the first row is its head. Numbers have six places."""
    head = "".join(f"<th>{html.escape(str(item))}</th>" for item in items[0])
    rows = "".join(f"<tr>{''.join(f'<td>{_cell(item)}</td>' for item in line)}</tr>\n" for line in items[1:])
    return (
        '<table border="1" class="dataframe">\n<thead><tr style="text-align:left">'
        f"{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
    )


def _cell(value: object) -> str:
    known = number(value)
    return f"{known:.6f}" if isinstance(known, float) else html.escape(str(value if known is None else known))


class NotebookProgressBar:
    """A bar below a cell.

    Args:
        total: what it counts to.
        prefix: a text before it.
        leave: whether it stays when it is full.
        parent: what shows it together with others.
        width: pixels.
    """

    update_every = 0.2
    """Seconds between two pictures."""

    def __init__(
        self,
        total: int,
        prefix: str | None = None,
        leave: bool = True,
        parent: NotebookTrainingTracker | None = None,
        width: int = 300,
    ) -> None:
        self.total, self.prefix, self.leave, self.parent, self.width = total, prefix or "", leave, parent, width
        self.value = 0
        self.comment = ""
        self.output: _Output | None = None
        self._began: float | None = None
        self._first = 0
        self._drawn = 0.0
        if "VSCODE_PID" in os.environ:
            self.update_every = 0.5  # it is slow to show HTML

    def update(self, value: int, force_update: bool = False, comment: str | None = None) -> None:
        """Move it to ``value``; it is drawn only now and then, unless that is forced or the end is reached."""
        now = time.monotonic()
        if self._began is None:
            self._began, self._first, force_update = now, value, True
        self.value = value
        self.comment = self.comment if comment is None else comment
        if force_update or value >= self.total or now - self._drawn >= self.update_every:
            self._drawn = now
            self.display()
        if value >= self.total and not self.leave:
            self.close()

    @property
    def label(self) -> str:
        """``[ 120/1000 02:10 < 15:53, 0.92 it/s, Epoch 1.20/10]``."""
        passed = 0.0 if self._began is None else time.monotonic() - self._began
        words = f"{self.value:>{len(str(self.total))}}/{self.total} {format_time(passed)}"
        if self.value > self._first and passed > 0:
            rate = (self.value - self._first) / passed
            left = "" if self.value >= self.total else f" < {format_time((self.total - self.value) / rate)}"
            words += f"{left}, {short(rate)} it/s"
        return f"[{words}{f', {self.comment}' if self.comment else ''}]"

    @property
    def html_code(self) -> str:
        """What is shown."""
        return html_progress_bar(self.value, self.total, self.prefix, self.label, self.width)

    def display(self) -> None:
        """Show it, or let the parent do so."""
        if self.parent is not None:
            self.parent.display()
        elif self.output is None:
            self.output = show(self.html_code)
        else:
            replace(self.output, self.html_code)

    def close(self) -> None:
        """Take it away."""
        if self.parent is None and self.output is not None:
            replace(self.output, "")


class NotebookTrainingTracker(NotebookProgressBar):
    """A bar with a table of metrics and, while it evaluates, a second bar.

    Args:
        num_steps: what the bar counts to.
        column_names: of the table; by default those of the first row.
    """

    def __init__(self, num_steps: int, column_names: Sequence[str] | None = None) -> None:
        super().__init__(num_steps)
        self._columns = list(column_names or ())
        self._rows: list[Row] = []
        self.child_bar: NotebookProgressBar | None = None

    @property
    def inner_table(self) -> list[list[object]] | None:
        """The table's rows, the first its head; None as long as nothing is known of it."""
        if not self._columns:
            return None
        return [[*self._columns], *([row.get(name, "No Log") for name in self._columns] for row in self._rows)]

    @property
    def html_code(self) -> str:
        """What is shown."""
        table = self.inner_table
        child = "" if self.child_bar is None else self.child_bar.html_code
        return super().html_code + ("" if table is None else text_to_html_table(table)) + child

    def write_line(self, values: Mapping[str, object]) -> None:
        """Add a row; one with the same first column is completed. New names are new columns."""
        self._columns += [name for name in values if name not in self._columns]
        first = self._columns[0]
        if self._rows and first in values and self._rows[-1].get(first) == values[first]:
            self._rows[-1].update(values)
        else:
            self._rows.append(dict(values))
        if self.output is not None:
            self.display()

    def add_child(self, total: int, prefix: str | None = None, width: int = 300) -> NotebookProgressBar:
        """A second bar, below the table."""
        self.child_bar = NotebookProgressBar(total, prefix=prefix, parent=self, width=width)
        return self.child_bar

    def remove_child(self) -> None:
        """Take the second bar away."""
        self.child_bar = None
        self.display()


class NotebookProgressCallback(TrainerCallback):
    """Shows how training and evaluation go on, below a notebook's cell."""

    def __init__(self) -> None:
        self.training_tracker: NotebookTrainingTracker | None = None
        self.prediction_bar: NotebookProgressBar | None = None

    def __getstate__(self) -> dict[str, object]:
        # A cell cannot be sent to another process.
        return {"training_tracker": None, "prediction_bar": None}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object
    ) -> None:
        """Show the bar and the table's head."""
        if not state.is_world_process_zero:
            return
        columns = [_first_column(args), "Training Loss"]
        if args.eval_strategy != "no":
            columns.append("Validation Loss")
        self.training_tracker = NotebookTrainingTracker(state.max_steps, columns)
        self.training_tracker.update(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:
        """Move the bar."""
        if self.training_tracker is not None:
            self.training_tracker.update(state.global_step, comment=_epoch(state))

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: object = None,
        **kw: object,
    ) -> None:
        """Move the second bar."""
        total = length(eval_dataloader)
        if not total or not state.is_world_process_zero:
            return
        if self.prediction_bar is None:
            tracker = self.training_tracker
            self.prediction_bar = NotebookProgressBar(total) if tracker is None else tracker.add_child(total)
        self.prediction_bar.update(self.prediction_bar.value + 1)

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:
        """Take the second bar away."""
        if self.prediction_bar is not None:
            self.prediction_bar.close()
        self.prediction_bar = None

    def on_log(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        **kw: object,
    ) -> None:
        """A row of the table, where nothing is evaluated."""
        if self.training_tracker is not None and args.eval_strategy == "no" and logs and "loss" in logs:
            self.training_tracker.write_line({"Step": state.global_step, "Training Loss": logs["loss"]})

    def on_evaluate(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, object] | None = None,
        **kw: object,
    ) -> None:
        """A row of the table: the last loss and the metrics."""
        if not state.is_world_process_zero:
            return
        row = _row(args, state, metrics or {})
        if self.training_tracker is not None:
            self.training_tracker.write_line(row)
            self.training_tracker.remove_child()
        else:
            self.on_predict(args, state, control)
            show(text_to_html_table([list(row), list(row.values())]))
        self.prediction_bar = None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:
        """Leave bar and table as they are."""
        if self.training_tracker is not None:
            self.training_tracker.update(state.global_step, force_update=True, comment=_epoch(state))
        self.training_tracker = None


def _first_column(args: TrainingArguments) -> str:
    return "Epoch" if args.eval_strategy == "epoch" else "Step"


def _epoch(state: TrainerState) -> str:
    epoch = state.epoch or 0
    return f"Epoch {int(epoch) if epoch == int(epoch) else f'{epoch:.2f}'}/{state.num_train_epochs}"


def _row(args: TrainingArguments, state: TrainerState, metrics: Mapping[str, object]) -> Row:
    first = _first_column(args)
    losses = [logs["loss"] for logs in state.log_history if "loss" in logs]
    row: Row = {
        first: int(state.epoch or 0) if first == "Epoch" else state.global_step,
        "Training Loss": losses[-1] if losses else "No log",
        "Validation Loss": "No log",
    }
    for name, value in flat(metrics, "_").items():
        _, _, rest = name.partition("_")
        if not rest or rest.endswith(_NOT_SHOWN) or name == "total_flos":
            continue
        words = " ".join(word.capitalize() for word in rest.split("_"))
        row["Validation Loss" if rest == "loss" else words] = value
    return row
