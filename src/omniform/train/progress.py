"""What a terminal shows of a training: a bar with the loss, the rate and the time left; elsewhere plain lines.

The bar is rich's (the extra ``train``). Without rich, and where nobody looks at a terminal, each report is one line.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from omniform.train.callbacks import TrainerCallback
from omniform.train.reporting.available import installed
from omniform.train.reporting.values import number

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerControl, TrainerState

EVERY: Final = 0.2
"""Seconds between two pictures of the bar: steps that are faster cost nothing."""


NARROWEST: Final = 10
WIDEST: Final = 40
"""Letters of a bar."""


def on_a_terminal() -> bool:
    """Whether bars can be drawn: stderr is a terminal that can move its cursor, and rich is installed."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and installed("rich")


def clock(seconds: float) -> str:
    """``0:42``, ``12:05``, ``1:02:03``, ``2 d 03:04`` (hours and minutes)."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60 % 60, whole // 3600 % 24, whole // 86400
    if days:
        return f"{days} d {hours:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def short(value: float) -> str:
    """A rate in few letters: ``0.52``, ``37``, ``12.3k``, ``4.1M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{letter}"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def readable(logs: Mapping[str, object], longest: int = 100) -> dict[str, object]:
    """Logs for people: four digits of numbers, no operations counted, no text longer than ``longest`` letters."""
    found: dict[str, object] = {}
    for name, value in logs.items():
        known = number(value)
        if name == "total_flos":
            continue
        if isinstance(value, str) and len(value) > longest:
            value = f"[{len(value)} letters: more than max_str_len={longest}]"
        found[name] = f"{known:.4g}" if isinstance(known, float) else value if known is None else known
    return found


# -- bars --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bar:
    """One line: a name, a bar, how far it is, and as many facts as there is room for.

    Attributes:
        total: what it counts to; 0 where nobody knows.
        done: how far it is.
        before: where counting began (a training that goes on is not at 0).
        facts: further words, the most important first.
    """

    name: str
    total: int
    done: int = 0
    before: int = 0
    facts: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def rate(self) -> float | None:
        """Steps per second since it began."""
        passed = time.monotonic() - self.began
        return (self.done - self.before) / passed if self.done > self.before and passed > 0 else None

    def times(self) -> str:
        """``1:20, 9:30 left``."""
        passed, rate = clock(time.monotonic() - self.began), self.rate()
        if rate is None or self.done >= self.total:
            return passed
        return f"{passed}, {clock((self.total - self.done) / rate)} left"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        share = f"{100 * self.done // self.total:3d}%" if self.total else ""
        head = f"{self.done}/{self.total} {share}" if self.total else f"{self.done}"
        name = f"{self.name:<10}"  # bars below one another begin at one place
        room = options.max_width - len(name) - len(head) - 2 - NARROWEST
        words = ""
        for fact in [self.times(), *self.facts]:
            longer = f"{words} · {fact}" if words else fact
            if len(longer) + 1 <= room:
                words = longer
        line = Table.grid(padding=(0, 1, 0, 0))
        width = min(WIDEST, NARROWEST + room - len(words) - 1)
        line.add_row(
            Text(name, "bold"),
            ProgressBar(total=self.total or None, completed=self.done, width=max(4, width)),
            Text(head, "cyan"),
            Text(words, no_wrap=True, overflow="ellipsis"),
        )
        yield line


class Screen:
    """The lines at the bottom of a terminal; whatever is printed meanwhile appears above them.

    No thread draws and the cursor stays visible, so that nothing goes on after a training that broke off.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console, Group
        from rich.live import Live

        self._group = Group
        self.bars: list[Bar] = []
        self.console = console or Console(file=sys.stderr)
        # What is printed goes above the bars, unless it goes into a file.
        to_file = sys.stdout is None or not sys.stdout.isatty()
        self._live = Live(console=self.console, auto_refresh=False, redirect_stdout=not to_file)
        self._drawn = 0.0
        self._live.start()
        self.console.show_cursor(True)
        self._stop = weakref.finalize(self, self._live.stop)

    def draw(self, now: bool = False) -> None:
        """Draw the bars, if they were not drawn just now."""
        moment = time.monotonic()
        if now or moment - self._drawn >= EVERY:
            self._drawn = moment
            self._live.update(self._group(*self.bars), refresh=True)

    def close(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        self.draw(now=True)
        self._stop()


@runtime_checkable
class _Schedules(Protocol):
    def get_last_lr(self) -> list[float]: ...


class ProgressCallback(TrainerCallback):
    """Shows how training and evaluation go on.

    On a terminal: a bar with the steps, the time, the loss, the rate; a second one while it evaluates; reports are
    printed above them. Elsewhere: the reports, one a line.

    Args:
        max_str_len: longer texts in reports are not shown.
    """

    def __init__(self, max_str_len: int = 100) -> None:
        self.max_str_len = max_str_len
        self.training_bar: Bar | None = None
        self.prediction_bar: Bar | None = None
        self._screen: Screen | None = None
        self._training = False  # a lone evaluation prints nothing
        self._loss: str | None = None
        self._rates: Sequence[object] = ()
        self._tokens_before = 0

    def __getstate__(self) -> dict[str, object]:
        # A terminal cannot be sent to another process.
        return {**vars(self), "_screen": None, "training_bar": None, "prediction_bar": None}

    def _add(self, bar: Bar) -> Bar | None:
        if not on_a_terminal():
            return None
        if self._screen is None:
            self._screen = Screen()
        self._screen.bars.append(bar)
        self._screen.draw(now=True)
        return bar

    def _remove(self, bar: Bar) -> None:
        if self._screen is None:
            return
        if len(self._screen.bars) > 1:
            self._screen.bars.remove(bar)
            self._screen.draw(now=True)
        else:
            self._close()

    def _close(self) -> None:
        if self._screen is not None:
            self._screen.close()
        self._screen = self.training_bar = self.prediction_bar = None

    def abandon(self) -> None:
        """Leave the bars as they are, and the terminal to the error."""
        self._training = False
        self._close()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object
    ) -> None:
        """Draw the bar."""
        if state.is_world_process_zero:
            self._close()
            self._training = True
            self._loss, self._tokens_before = None, state.tokens_read
            step = state.global_step
            self.training_bar = self._add(Bar("Training", state.max_steps, step, step))

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        lr_scheduler: object = None,
        **kw: object,
    ) -> None:
        """Move the bar."""
        bar = self.training_bar
        if bar is not None and self._screen is not None:
            bar.done = state.global_step
            self._rates = lr_scheduler.get_last_lr()[:1] if isinstance(lr_scheduler, _Schedules) else ()
            bar.facts = self._facts(bar, state)
            self._screen.draw()

    def _facts(self, bar: Bar, state: TrainerState) -> list[str]:
        """The most important first."""
        facts = [] if self._loss is None else [f"loss {self._loss}"]
        seconds = max(time.monotonic() - bar.began, 1e-6)
        tokens = state.tokens_read - self._tokens_before
        steps = bar.rate()
        if tokens:
            facts.append(f"{short(tokens / seconds)} tokens/s")
        facts.append(f"epoch {state.epoch or 0:.2f}/{state.num_train_epochs}")
        facts += [f"lr {number(rate) or 0:.3g}" for rate in self._rates]
        return facts if steps is None else [*facts, f"{short(steps)} steps/s"]

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: object = None,
        **kw: object,
    ) -> None:
        """Move the second bar."""
        if not state.is_world_process_zero:
            return
        if self.prediction_bar is None:
            self.prediction_bar = self._add(Bar("Evaluating", length(eval_dataloader)))
        if self.prediction_bar is not None and self._screen is not None:
            self.prediction_bar.done += 1
            self._screen.draw()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:
        """Take the second bar away."""
        if self.prediction_bar is not None:
            self._remove(self.prediction_bar)
            self.prediction_bar = None

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:
        """Take the second bar away."""
        self.on_evaluate(args, state, control)

    def on_log(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        **kw: object,
    ) -> None:
        """Print the report."""
        if not self._training or logs is None:
            return
        shown = readable(logs, self.max_str_len)
        if "loss" in shown:
            self._loss = str(shown["loss"])
        if self.training_bar is not None:
            self.training_bar.facts = self._facts(self.training_bar, state)
        print(shown, flush=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:
        """Leave the bar as it is."""
        if self.training_bar is not None:
            self.training_bar.done = state.global_step
        self._training = False
        self._close()


def length(data: object) -> int:
    """How many batches a loader gives; 0 where it cannot know."""
    try:
        return len(data) if isinstance(data, Sized) else 0
    except TypeError:  # a stream's loader has the method and no answer
        return 0


__all__ = ["ProgressCallback"]
