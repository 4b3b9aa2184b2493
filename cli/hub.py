"""``vintix-fast push`` and ``vintix-fast pull``: models to the Hugging Face Hub and from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from vintix_fast.cli.common import PlainJson, result_console, show

Repo = Annotated[str, Argument(help="the repository: OWNER/NAME", metavar="REPO")]


def push(
    path: Annotated[
        Path, Argument(help="the --output-dir of an `adapt` run (its best model), a checkpoint, or builtin:<name>")
    ],
    repo: Repo,
    json: PlainJson = False,
) -> Any:
    """Put a model on the Hugging Face Hub, with a card that tells its returns.

    A repository that is not there is made, as a private one.  Log in before: `hf auth login`, or HF_TOKEN.
    """
    from vintix_fast.service.bundled import checkpoint_path
    from vintix_fast.service.extras import need

    need("hub", "push")
    from vintix_fast.sharing.hub import push as run

    out = result_console(json)
    url = run(checkpoint_path(path), repo, lambda text: show(out, text))
    show(out, f"Pushed: {url}")
    return {"url": url}


def pull(
    repo: Repo,
    path: Annotated[Path, Argument(help="a new or an empty directory", metavar="DIR")],
    json: PlainJson = False,
) -> Any:
    """Fetch a model from the Hugging Face Hub to a directory, and check it.

    The directory can be given to --pretrained-path and --vintix-path.
    """
    from vintix_fast.service.extras import need

    need("hub", "pull")
    from vintix_fast.sharing.hub import pull as run

    run(repo, path)
    show(result_console(json), f"Pulled: {path}")
    return {"path": path}
