"""``vintix-fast convert``: models and trajectories in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from vintix_fast.cli.common import PlainJson, result_console, show


def convert(
    path: Annotated[
        Path,
        Argument(help="a checkpoint directory; or a trajectories.h5, or the --output-dir of an `adapt` or `distil`"),
    ],
    to: Annotated[
        str,
        Option(help="safetensors or pth: a checkpoint's weights; minari or lerobot: trajectories as a data set"),
    ],
    output_dir: Annotated[Path, Option(help="a new or an empty directory")],
    json: PlainJson = False,
) -> Any:
    """Write a checkpoint or trajectories in another format: safetensors, a Minari or a LeRobot (v3.0) data set."""
    from vintix_fast.service.bundled import checkpoint_path
    from vintix_fast.sharing.convert import convert as run

    out = result_console(json)
    said = run(checkpoint_path(path), to, output_dir, lambda text: show(out, text))
    show(out, f"Written: {output_dir}: {said}")
    return {"output_dir": output_dir, "to": to, "written": said}
