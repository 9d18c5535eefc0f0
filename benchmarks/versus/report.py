"""Tables of the results, for the terminal and for ``docs/benchmarks.md``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table; every column but the first ``words`` holds numbers."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: int = 1

    def text(self) -> str:
        """For a terminal."""
        widths = [max(len(row[k]) for row in (self.head, *self.rows)) for k in range(len(self.head))]

        def line(row: Sequence[str]) -> str:
            cells = (
                c.ljust(w) if k < self.words else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
            )
            return "  ".join(cells).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([self.title, "", line(self.head), rule, *map(line, self.rows)])

    def markdown(self) -> str:
        """For a page."""
        marks = ("---" if k < self.words else "---:" for k in range(len(self.head)))
        rows = [self.head, tuple(marks), *self.rows]
        return "\n".join([f"**{self.title}**", "", *("| " + " | ".join(row) + " |" for row in rows)])


def tables(results: Results) -> Iterator[Table]:
    """What was measured, in the order of interest; nothing for what was not."""
    compared = list(_compared(results))
    if compared:
        head = ("what", "against", "omniform", "other", "ratio", "pair by pair", "to reach")
        yield Table(f"Side by side, medians of {results['pairs']} pairs", head, compared, words=2)
    alone = list(_bounds(results))
    if alone:
        yield Table("By itself", ("what", "omniform", "to reach"), alone)
    spread = list(_spread(results))
    if spread:
        yield Table("All of them: median, least, most", ("what", "who", "median", "least", "most"), spread, words=2)
    same = list(_same(results))
    if same:
        yield Table(
            "Greedy answers, omniform's beside the others'",
            ("what", "against", "equal rows", "equal entries", "must be"),
            same,
            words=2,
        )
    steps = results["workloads"].get("steps", {}).get("facts", {}).get("omniform")
    if steps:
        yield _profile(steps[0])


def _compared(results: Results) -> Iterator[tuple[str, ...]]:
    for workload in results["workloads"].values():
        for figure in workload["figures"]:
            for name, ratio in figure["ratios"].items():
                pairs = ratio["pairs"]
                # Several ways of a library: the best is the one that counts.
                aims = [aim for aim in figure["aims"] if aim["against"] == name]
                most = max(aims, key=lambda aim: aim["ratio"], default=None)
                verdict = "" if most is None else f"{most['ratio']:g} x, {'reached' if most['reached'] else 'MISSED'}"
                yield (
                    figure["title"],
                    name,
                    value_of(figure["medians"][figure["ours"]], figure["unit"]),
                    value_of(figure["medians"][name], figure["unit"]),
                    f"{ratio['of_medians']:.2f} x",
                    f"{ratio['median_of_pairs']:.2f} x ({min(pairs):.2f} to {max(pairs):.2f})",
                    verdict,
                )


def _bounds(results: Results) -> Iterator[tuple[str, ...]]:
    for workload in results["workloads"].values():
        for figure in workload["figures"]:
            if figure["within"] is not None:
                side = "at least" if figure["better"] == "higher" else "at most"
                verdict = "reached" if figure["within"] else "MISSED"
                found = value_of(figure["medians"][figure["ours"]], figure["unit"])
                yield (figure["title"], found, f"{side} {value_of(figure['bound'], figure['unit'])}, {verdict}")


def _spread(results: Results) -> Iterator[tuple[str, ...]]:
    for workload in results["workloads"].values():
        for figure in workload["figures"]:
            for name, values in figure["samples"].items():
                numbers = (figure["medians"][name], min(values), max(values))
                yield (figure["title"], name, *(value_of(number, figure["unit"]) for number in numbers))


def _same(results: Results) -> Iterator[tuple[str, ...]]:
    for key, workload in results["workloads"].items():
        for name, found in workload["agreement"].items():
            must = found["must_be_all"]
            verdict = "" if not must else "all, as it is" if found["equal_rows"] == found["rows"] else "all, IT IS NOT"
            share = f"{found['share']:.1%}"
            yield (key, name, f"{found['equal_rows']} of {found['rows']}", share, verdict)


def _profile(facts: dict[str, Any]) -> Table:
    profiles = list(facts["profiles"].values())
    head = ("", *(f"{p['rows']} row" + "s" * (p["rows"] > 1) for p in profiles))
    rows = [("a step", *(f"{p['step_ms']:.2f} ms" for p in profiles))]
    for part in profiles[0].get("parts_ms", {}):
        each = ((p["parts_ms"][part], p["step_ms"]) for p in profiles)
        rows.append((f"- {part}", *(f"{spent:.2f} ms, {spent / whole:.0%}" for spent, whole in each)))
    for phase in profiles[0]["phases_ms"]:
        rows.append((f"engine's clock: {phase}", *(f"{p['phases_ms'][phase]:.2f} ms" for p in profiles)))
    rows.append(("new tokens per second", *(f"{p['tokens_per_s']:.1f}" for p in profiles)))
    rows.append(("of the steps that the memory allows", *(f"{p['share_of_limit']:.0%}" for p in profiles)))
    speed, weights = facts["read_bytes_per_s"] / 1e9, facts["weight_bytes_per_step"] / 1e6
    limit = facts["limit_steps_per_s"]
    title = (
        f"A decoding step; the memory reads {speed:.1f} GB/s, a step {weights:.0f} MB of weights: {limit:.1f} steps/s"
    )
    return Table(title, head, rows)


def value_of(number: float, unit: str) -> str:
    """A number in about three digits, and its unit."""
    digits = 0 if number >= 1000 else 1 if number >= 100 else 2 if number >= 1 else 3
    return f"{number:,.{digits}f} {unit}".rstrip()


def troubles(results: Results) -> Iterator[str]:
    """What a reader must know beside the tables: what was left out, what failed, what is not as it must be."""
    for key, workload in results["workloads"].items():
        for name, reason in workload["skipped"].items():
            yield f"{key}: {name} was left out: {reason.rstrip('.')}."
        for name, reason in workload["failed"].items():
            yield f"{key}: {name} FAILED: {reason}"
        for name, facts in workload["facts"].items():
            for kernels in sorted({fact["kernels"] for fact in facts if "kernels" in fact}):
                yield f"{key}: kernels of {name}: {kernels}."
        for check in workload["checks"]:
            found = ", ".join(map(str, sorted(set(check["found"])))) or "nothing"
            verdict = "as it must be" if check["ok"] else f"MUST BE {check['expected']}"
            yield f"{key}: {check['fact'].replace('_', ' ')} of omniform: {found}, {verdict}."
    if results["clock"] == "cpu":
        yield "Seconds are those that the processor worked for the process and its threads, not those on the wall."
    elif results["machine"]["load_average"] > 0.5:
        busy = results["machine"]["load_average"]
        yield f"The machine was not idle when it began (load average {busy:.2f}): do not quote these numbers."
    if results["tiny"]:
        yield "Tiny sizes: a test of the benchmark, and no measurement."


def failed(results: Results) -> bool:
    """Whether something could not be measured, or is not as it must be; a ratio that was missed is a result."""
    for workload in results["workloads"].values():
        if workload["failed"] or not all(check["ok"] for check in workload["checks"]):
            return True
        if any(f["must_be_all"] and f["equal_rows"] < f["rows"] for f in workload["agreement"].values()):
            return True
    return False


def conditions(results: Results) -> str:
    """The machine and the versions, in a line or two."""
    machine, packages = results["machine"], results["software"]
    named = ", ".join(f"{name} {number}" for name, number in packages.items() if number is not None)
    where = machine.get("gpu") or f"{machine['cpu']} ({', '.join(machine['cpu_extensions']) or 'no extensions named'})"
    threads = f"{results['threads']} thread" + "s" * (results["threads"] > 1)
    clock = {"wall": "wall time", "cpu": "processor time"}[results["clock"]]
    held = f", OMNIFORM_CPU={results['cpu']}" if results["cpu"] else ""
    how = f"{machine['cores']} cores, {threads}, {clock}{held}"
    return f"{results['date'][:10]}; {where}, {how}; {named}; commit {results['commit']}."


def text(results: Results) -> str:
    """Everything, for a terminal."""
    parts = [conditions(results), *(table.text() for table in tables(results)), "\n".join(troubles(results))]
    return "\n\n".join(part for part in parts if part)


def markdown(results: Results) -> str:
    """Everything, for a page."""
    model = results["model"]
    what = f"Model: {model['name']}, {model['parameters'] / 1e6:.0f}M parameters, {model['dtype']}, random weights."
    done = "\n".join(f"- {key}: {workload['title']}" for key, workload in results["workloads"].items())
    notes = "\n".join(f"- {line}" for line in troubles(results))
    parts = [f"{conditions(results)} {what}", done, *(table.markdown() for table in tables(results)), notes]
    return "\n\n".join(part for part in parts if part) + "\n"
