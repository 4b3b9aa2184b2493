"""Progress in a terminal: bars with steps/s while something runs, a line for each loop, a table at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from vintix_fast.rollout import standard_error
from vintix_fast.service.progress import Progress

LOG_EVERY = 20
"""Iterations from one line of a log to the next, where no terminal shows a bar."""


class ConsoleProgress(Progress):
    """Writes to ``console`` (standard error, so that ``--json`` has standard output to itself)."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # Not `console.is_terminal`, which FORCE_COLOR makes true of a log too: colours may go there, moving bars not.
        self._moves = console.file.isatty()
        self._shown: tuple[Bars, TaskID] | None = None

    def say(self, text: str) -> None:
        # A log gets its lines whole; in a terminal words wrap.
        self.console.print(text, highlight=False, markup=False, soft_wrap=not self._moves)

    @contextlib.contextmanager
    def _bar(self, what: str, total: int) -> Iterator[None]:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        # Without a terminal a bar would leave nothing but an empty line.
        still = not self._moves
        with Bars(*columns, console=self.console, transient=True, refresh_per_second=4, disable=still) as bars:
            self._shown = bars, bars.add_task(what, total=total, note="")
            try:
                yield
            finally:
                self._shown = None

    def _update(self, completed: int, note: str) -> None:
        if self._shown is not None:
            bars, task = self._shown
            bars.update(task, completed=completed, note=note)

    def rollout(self, what: str, num_episodes: int, max_steps: int) -> contextlib.AbstractContextManager:
        return self._bar(f"{what} (episodes)", num_episodes)

    def on_rollout_step(self, collection: Any) -> None:
        done = len(collection.episodes)
        note = f"{collection.env_steps} steps, {collection.env_steps / max(collection.seconds, 1e-9):.0f}/s"
        self._update(done, note + (f", return {collection.mean_return:.2f}" if done else ""))

    def training(self, what: str, steps: int) -> contextlib.AbstractContextManager:
        return self._bar(what, steps)

    def on_training_step(self, step: int, loss: float) -> None:
        self._update(step, f"loss {loss:.4f}")

    def on_iteration(self, iteration: int, mean_return: float, mean_length: float) -> None:
        note = f"return {mean_return:.2f}, length {mean_length:.0f}"
        self._update(iteration, note)
        if iteration % LOG_EVERY == 0 and not self._moves:
            self.say(f"iteration {iteration}: {note}")

    def on_validation(self, row: dict[str, Any]) -> None:
        held_out = f", held out {row['held_out_loss']:.4f}" if "held_out_loss" in row else ""
        self.say(f"step {row['step']}: loss {row['loss']:.4f}{held_out}, {row['tokens_per_s']:.0f} tokens/s")

    def on_loop(self, row: dict[str, Any]) -> None:
        parts = [f"loop {row['loop']}" if row["loop"] else "initial policy"]
        if "env_steps" in row:
            parts.append(
                f"collected {row['episodes']} episodes, {row['env_steps']} steps, return {row['mean_return']:.2f}"
            )
            taken = f" after {row['finetune_steps']} steps" if "finetune_steps" in row else ""
            parts.append(f"loss {row['loss']:.4f}{taken}")
        if "eval_return" in row:
            share = row.get("kept_share", 1.0)
            shortened = f", with {share:g} of the change" if share else ", by its stance alone"
            verdict = ", rejected" if not row["accepted"] else shortened if share < 1.0 else ""
            parts.append(f"evaluated: return {row['eval_return']:.2f}, length {row['eval_length']:.0f}{verdict}")
        if row.get("failures"):
            parts.append(f"{row['failures']} episodes ended by a simulation failure")
        if row.get("writer_waits"):
            parts.append(f"waited {row['writer_waits']} times for the disk, {row['writer_wait_seconds']:.1f} s")
        self.say("; ".join(parts))


def summary_table(rows: list[dict[str, Any]]) -> Table:
    """One line for each loop, at most 80 characters wide."""
    table = Table(title="Adaptation", box=box.SIMPLE_HEAD, padding=0)
    columns = (
        ("\nloop", "loop", "d"), ("\nsteps", "env_steps", "d"), ("\nreturn", "mean_return", ".2f"),
        ("\ns.e.", "standard_error", ".2f"), ("\nlength", "mean_length", ".0f"), ("\nloss", "loss", ".4f"),
        ("eval\nreturn", "eval_return", ".2f"), ("\ns.e.", "eval_standard_error", ".2f"),
        ("eval\nlength", "eval_length", ".0f"), ("collect\ns", "collect_seconds", ".0f"),
        ("train\ns", "train_seconds", ".0f"),
    )  # fmt: skip
    for title, _, _ in columns:
        table.add_column(title, justify="right", overflow="fold")
    table.add_column("\nkept")
    for row in rows:
        cells = ["" if row.get(key) is None else format(row[key], form) for _, key, form in columns]
        table.add_row(*cells, {True: "yes", False: "no", None: ""}[row.get("accepted")])
    return table


def plus_minus(mean: float, error: float | None, form: str = ".2f") -> str:
    """A mean and its standard error, if there is one, as every table of ours shows them."""
    return f"{mean:{form}}" + ("" if error is None else f" ± {error:{form}}")


def with_error(values: list[float], form: str) -> str:
    return plus_minus(sum(values) / len(values), standard_error(values), form)


def evaluation_table(evaluation: Any) -> Table:
    """Means over all episodes, then by episode number, with their standard errors."""
    summary = evaluation.summary()
    title = f"{summary['robot']}: {summary['episodes']} episodes, {summary['env_steps_per_s']:.0f} steps/s"
    table = Table(title=title, caption="mean ± standard error")
    for title in ("episodes", "return", "spread", "length", "fell"):
        table.add_column(title, justify="right")
    rows = {"all": evaluation.episodes}
    rows |= {f"number {episodes[0].number + 1}": episodes for episodes in evaluation.by_number()}
    for what, episodes in rows.items():
        returns = [e.return_ for e in episodes]
        table.add_row(
            what, with_error(returns, ".2f"), f"{np.std(returns):.2f}",
            with_error([float(e.length) for e in episodes], ".0f"),
            f"{sum(e.terminated for e in episodes)}/{len(episodes)}",
        )  # fmt: skip
    return table


def histories_table(card: dict[str, Any]) -> Table:
    """How episodes go along the learning histories of one robot."""
    table = Table(title=f"{card['robot']}: {card['histories']} histories", box=box.SIMPLE_HEAD, padding=0)
    for title in ("from step", "episodes", "return", "length", "fell"):
        table.add_column(title, justify="right")
    for row in card["return_along_history"]:
        table.add_row(
            f"{row['from_step']:.0f}", f"{row['episodes']}", f"{row['mean_return']:.2f}", f"{row['mean_length']:.0f}",
            f"{row['fell']:.0%}",
        )  # fmt: skip
    return table
