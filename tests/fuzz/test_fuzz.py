"""A few hundred mutants; `run.py` says what is tried, and is run by hand for thousands."""

import subprocess
import sys
from pathlib import Path


def test_every_mutant_is_read_soundly_or_refused():
    script = Path(__file__).with_name("run.py")
    done = subprocess.run([sys.executable, script, "--mutants", "300", "--seed", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
