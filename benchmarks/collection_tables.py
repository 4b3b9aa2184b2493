"""How `vintix-fast bench` shows what its parts measured: tables for a terminal, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from vintix_fast.report.plots import BLUE, GRAY, GREEN, RED
from vintix_fast.service.metrics import new_figure, save_figure

ROWS = {
    "bare_simulator_steps_per_s": "bare simulator", "task_steps_per_s": "+ task", "policy_steps_per_s": "+ policy",
    "collection_steps_per_s": "+ writer",
}  # fmt: skip
SHARES = {
    "simulate_fraction": "simu-\nlator", "task_fraction": "\ntask", "policy_fraction": "\npolicy",
    "write_fraction": "\nwrite", "writer_wait_fraction": "writer\nwaits",
}  # fmt: skip


def speed_table(settings: list[dict[str, Any]]) -> Table:
    """Steps/s of every row of every setting."""
    table = Table(title="Environment steps/s", box=box.SIMPLE_HEAD, padding=(0, 1))
    for title in ("envs", "context"):
        table.add_column(title, justify="right")
    table.add_column("")
    for title in ("steps/s", "of bare", "x plain"):
        table.add_column(title, justify="right")
    for setting in settings:
        bare, plain = setting["bare_simulator_steps_per_s"], setting.get("plain_steps_per_s")
        for at, (key, name) in enumerate(ROWS.items()):
            head = (f"{setting['num_envs']}", f"{setting['context_len']}") if at == 0 else ("", "")
            ratio = f"{setting[key] / plain:,.0f}" if plain else ""
            table.add_row(*head, name, f"{setting[key]:,.0f}", f"{setting[key] / bare:.0%}", ratio)
        table.add_section()
    return table


def step_table(settings: list[dict[str, Any]]) -> Table:
    """What a collected step is made of, and decoding alone against the memory's bandwidth."""
    table = Table(title="A step of all environments", box=box.SIMPLE_HEAD, padding=0)
    decoding = ("decode\nms", "band-\nwidth", "cache\nMB/env")
    for title in ("\nenvs", "\ncontext", "step\nms", *SHARES.values(), *decoding, "\nfalls"):
        table.add_column(title, justify="right")
    for s in settings:
        fraction = s["decode_bandwidth_fraction"]
        table.add_row(
            f"{s['num_envs']}", f"{s['context_len']}", f"{1e3 * s['step_seconds']:.2f}",
            *(f"{s[key]:.1%}" for key in SHARES), f"{1e3 * s['decode_seconds']:.2f}",
            "" if fraction is None else f"{fraction:.0%}", f"{s['cache_bytes_per_env'] / 1e6:.1f}",
            f"{s['falls']}",
        )  # fmt: skip
    return table


def training_table(result: dict[str, Any]) -> Table:
    """The plain trainer, and each improvement added in turn."""
    table = Table(title="Fine-tuning", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    for title in ("tokens/s", "x plain", "s a step", "of the multiplication peak"):
        table.add_column(title, justify="right")
    for row in result["rows"]:
        table.add_row(
            row["name"], f"{row['tokens_per_s']:,.0f}", f"{row['ratio']:.1f}", f"{row['step_s']:.3f}",
            f"{row['matmul_peak_fraction']:.0%}",
        )  # fmt: skip
    return table


def writer_table(numbers: dict[str, Any]) -> Table:
    """The three ways to the disk."""
    title = f"Writing {numbers['megabytes']:.0f} MB: {numbers['num_envs']} environments, {numbers['steps']} steps"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    for name in ("MB/s", "caller's time, µs/step", "queue", "waits"):
        table.add_column(name, justify="right")
    table.add_row(
        "writer", f"{numbers['core_mb_per_s']:.0f}", f"{numbers['append_us_per_step']:.0f}",
        f"{numbers['max_queue_depth']} of {numbers['queue_capacity']}",
        f"{numbers['waits']}, {numbers['wait_seconds']:.2f} s",
    )  # fmt: skip
    table.add_row("h5py, synchronous", f"{numbers['h5py_mb_per_s']:.0f}", f"{numbers['h5py_us_per_step']:.0f}", "", "")
    table.add_row(
        "plain file", f"{numbers['plain_file_mb_per_s']:.0f}", f"{numbers['plain_file_us_per_step']:.0f}", "", ""
    )
    return table


def plot_scaling(path: Path, settings: list[dict[str, Any]], robot: str) -> None:
    """Steps/s against environments: the simulator, and collection at each context."""
    figure, axes = new_figure(size_in=(8, 4.8))
    contexts = sorted({s["context_len"] for s in settings})
    longest = [s for s in settings if s["context_len"] == contexts[-1]]
    envs = [s["num_envs"] for s in longest]
    axes.plot(envs, [s["bare_simulator_steps_per_s"] for s in longest], "o-", color=GRAY, label="bare simulator")
    for context, color in zip(contexts, (BLUE, GREEN)[-len(contexts) :], strict=True):
        speeds = [s["collection_steps_per_s"] for s in settings if s["context_len"] == context]
        axes.plot(envs, speeds, "o-", color=color, label=f"collection, context {context} (full), written to disk")
    if "plain_steps_per_s" in longest[0]:
        plain = longest[0]["plain_steps_per_s"]
        label = f"plain way, context {contexts[-1]}: {plain:.1f} steps/s"
        axes.axhline(plain, color=RED, linestyle="--", linewidth=1.2, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(envs, [str(n) for n in envs])
    axes.set_xlabel("environments side by side")
    axes.set_ylabel(f"environment steps/s, {robot}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    save_figure(figure, path)
