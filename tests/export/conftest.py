"""The runner, built once and kept in build/runner, as `make runner` does."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def built(name: str, *options: str) -> Path:
    """The build directory of this name, up to date; skips where there is no CMake."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    folder = ROOT / "build" / "runner" / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # tests run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (["cmake", "-S", ROOT / "csrc/runner", "-B", folder, *options], ["cmake", "--build", folder]):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def native() -> Path:
    return built("native")


@pytest.fixture(scope="session")
def sanitized() -> Path:
    return built("sanitized", "-DVINTIX_SANITIZE=ON")


@pytest.fixture(scope="session")
def aarch64() -> Path:
    for program in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install g++-aarch64-linux-gnu qemu-user")
    return built("aarch64", f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'csrc/runner/aarch64.cmake'}")
