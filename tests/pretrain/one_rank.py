"""One rank of a small training: python one_rank.py OUT KILLED DATA...; rank 1 is killed in that step; 0: never."""

import itertools
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from histories_on_disk import NO_DROPOUT, TINY_MODEL, config  # noqa: E402

from vintix_fast.pretrain import pretrain as module  # noqa: E402
from vintix_fast.service.errors import VintixFastError  # noqa: E402

OUT, KILLED, *DATA = sys.argv[1:]
OPTIONS = {"bf16": False, "batch_size": 5, "model": TINY_MODEL | NO_DROPOUT, "reward_dropout": 0.5}
"""Five windows for two ranks: their parts are of different size."""


def main() -> int:
    steps = itertools.count(1)

    def die() -> None:
        if next(steps) == int(KILLED) and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    module.check_interrupt = die
    try:
        module.pretrain(config(Path(OUT), tuple(map(Path, DATA)), **OPTIONS))
    except VintixFastError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
