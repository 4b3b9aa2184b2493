"""Models to the Hugging Face Hub and from it, with its own library: `push` and `pull`.

Who the user is, which endpoint, and whether to stay offline are that library's matters: ``hf auth login``, HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE.  What comes from there is a stranger's: only a checkpoint's files are fetched, and read
before they are put in place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from vintix_fast.model import load_checkpoint
from vintix_fast.model.checkpoint import CONFIG_FILE, METADATA_FILE, WEIGHTS_FILES, weights_file
from vintix_fast.outdir import OPTIONS_FILE
from vintix_fast.report.record import read_run
from vintix_fast.service.bundled import CARD_FILE
from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError, cause
from vintix_fast.service.files import check_free, read_json, whole_directory, write_text
from vintix_fast.sharing.card import card_of_model, card_of_run
from vintix_fast.world.robot import load_robot

CARD = "README.md"
FETCHED = (*WEIGHTS_FILES.values(), METADATA_FILE, CONFIG_FILE, CARD, CARD_FILE)


def push(path: Path, repo: str, say: Callable[[str], None] = lambda text: None) -> str:
    """Put a model on the Hub, with a card; a repository that is not there is made, a private one.

    Args:
        path: a checkpoint directory, or the output directory of an `adapt` run, of which the best model is taken.
        repo: OWNER/NAME.
        say: told what happens.

    Returns:
        The model's address.

    Raises:
        InputFileError: there is no model, or it is broken; before anything is sent.
        UsageError: ``repo`` is no repository's name.
        VintixFastError: the Hub cannot be reached, or refuses.
    """
    with _reported(repo, "pushed"):
        validate_repo_id(repo)
    with tempfile.TemporaryDirectory(prefix="vintix-fast-push-") as folder:
        _lay_out(path, repo, Path(folder))
        say(f"Pushing {', '.join(sorted(os.listdir(folder)))} to {repo}")
        with _reported(repo, "pushed"):
            api = HfApi(library_name="vintix-fast")
            api.create_repo(repo, private=True, exist_ok=True)
            done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Push with vintix-fast")
    return str(done.repo_url)


def _lay_out(path: Path, repo: str, folder: Path) -> None:
    """Copy what is to be pushed, a sound model and its card, to ``folder``."""
    options = path / OPTIONS_FILE  # a checkpoint's own has no options
    is_run = options.is_file() and "options" in read_json(options, "restore it from the original")
    run = read_run(path) if is_run else None
    model_dir = path if run is None else run.final_model or run.initial_model
    if model_dir is None:
        raise InputFileError(f"{path} holds no model yet; wait for its first loop")
    model = load_checkpoint(model_dir)  # which says what is missing
    weights = weights_file(model_dir)
    assert weights is not None
    for file in (weights, model_dir / METADATA_FILE, model_dir / CONFIG_FILE, model_dir / CARD_FILE):
        if file.is_file():
            shutil.copy(file, folder)
    if run is not None:
        card = card_of_run(run, load_robot(run.robot_type).name, model, repo)
    else:
        card = card_of_model(model_dir, model, repo)
    write_text(folder / CARD, card)


def pull(repo: str, out: Path) -> None:
    """Fetch a model from the Hub to ``out``, which must not exist or be empty.

    Raises:
        UsageError: ``out`` is in use, or ``repo`` is no repository's name; before anything is fetched.
        InputFileError: what is there is no model, or a broken one; nothing is put in place then.
        VintixFastError: the Hub cannot be reached, or refuses.
    """
    check_free(out)
    with whole_directory(Path(os.path.abspath(out))) as made:
        with _reported(repo, "pulled"):
            snapshot_download(repo, local_dir=made, allow_patterns=list(FETCHED), library_name="vintix-fast")
        shutil.rmtree(made / ".cache", ignore_errors=True)  # the library's notes
        try:
            load_checkpoint(made)
        except InputFileError as error:
            text = str(error).replace(str(made), repo)
            raise InputFileError(f"{repo} on the Hub is no sound model: {text}") from None


@contextlib.contextmanager
def _reported(repo: str, done: str) -> Iterator[None]:
    """What can go wrong with the Hub, as errors of this package."""
    endpoint = constants.ENDPOINT
    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"{repo!r} is no repository's name ({cause(error)}); give OWNER/NAME") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        remedy = "log in with `hf auth login`, or set HF_TOKEN" if status in (401, 403) else "check the name"
        raise VintixFastError(f"{endpoint} refused {repo} (HTTP {status}: {cause(error)}); {remedy}") from error
    except (HTTPError, OSError) as error:  # offline, no such host, a connection that breaks
        if isinstance(error.__cause__, HfHubHTTPError):  # of a download that looked into the cache for want of a Hub
            with _reported(repo, done):
                raise error.__cause__ from None
        raise VintixFastError(
            f"offline: {endpoint} cannot be reached ({cause(error)}), so {repo} was not {done}; check the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error
