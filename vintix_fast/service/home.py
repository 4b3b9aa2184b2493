"""A home folder, caches and a user name for the libraries, where the system gives none.

Containers run with a user id that the system does not know, and with HOME unset or closed to that user.  Quadrants then
ends the process, Genesis and triton make a folder named "~", and matplotlib collects its fonts anew in every process.
A cache that was named is as often one that can only be read, which Quadrants, too, takes badly.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys

from vintix_fast.service.kernel_cache import KERNELS, copy_kernels, kernel_cache_dir

SOURCES = "python_side_cache"
"""Beside the kernels; Quadrants opens its files for writing where it reads them."""
CACHES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("XDG_CACHE_HOME", ".cache", ("quadrants", "genesis", "numba")),
    ("MPLCONFIGDIR", ".config/matplotlib", ("",)),
    ("TRITON_CACHE_DIR", ".triton/cache", ("",)),
    ("CUDA_CACHE_PATH", ".nv/ComputeCache", ("",)),
)
"""Variable, its default below the home folder, and what is made in it, which may be another user's already."""
KERNELS_OF_TORCH, KERNELS_BELOW = "TORCHINDUCTOR_CACHE_DIR", "vintix-fast/inductor"
PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("QD_OFFLINE_CACHE_FILE_PATH", "quadrants/qdcache", (KERNELS, SOURCES)),
    ("GS_CACHE_FILE_PATH", "genesis", ("",)),
    ("NUMBA_CACHE_DIR", "numba", ("",)),
    (KERNELS_OF_TORCH, KERNELS_BELOW, ("",)),
)
"""The same, of folders that by default lie below XDG_CACHE_HOME."""


def ensure_home() -> None:
    """Set HOME, the caches' variables and USER in the environment, each where what holds now is of no use; and make do
    without git.

    To be called before the libraries are imported.  Says on standard error if caches go to a temporary folder; child
    processes inherit the variables and say nothing.
    """
    temporary = ""

    def elsewhere(reason: str) -> str:
        nonlocal temporary
        if not temporary:
            temporary = _temporary_folder()
            print(f"vintix-fast: {reason}; caches go to {temporary}", file=sys.stderr)
        return temporary

    # rsl_rl imports GitPython, which otherwise refuses to be imported where no git is installed.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    home = os.path.expanduser("~")
    if home == "~":
        given = os.environ.get("XDG_CACHE_HOME")
        home = given if given and _can_write(given) else elsewhere("there is no home folder")
        os.environ["HOME"] = home
    os.environ.setdefault("HOME", home)  # Quadrants asks for nothing else, and ends the process without it
    kernels = kernel_cache_dir()

    def settle(variable: str, usual: str, default: str, made: tuple[str, ...]) -> None:
        now = os.environ.get(variable, usual)  # may be empty, which libraries take for a path
        for folder in (now, usual):
            if folder and all(_can_write(os.path.join(folder, name)) for name in made):
                break
        else:
            folder = os.path.join(elsewhere(f"{now or usual} cannot be written"), default)
        if folder != now:
            os.environ[variable] = folder

    for variable, default, made in CACHES:
        settle(variable, os.path.join(home, default), default, made)
    caches = os.environ.get("XDG_CACHE_HOME", os.path.join(home, ".cache"))
    os.environ.setdefault(KERNELS_OF_TORCH, os.path.join(caches, KERNELS_BELOW))  # torch's own default is temporary
    for variable, default, made in PARTS:
        settle(variable, os.path.join(caches, default), os.path.join(".cache", default), made)
    if kernel_cache_dir() != kernels:
        copy_kernels(kernels, kernel_cache_dir())
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        os.environ["USER"] = f"uid{os.getuid()}"


def choose_opengl() -> None:
    """Drop what the environment says of OpenGL where it names a way to draw that there is not.

    To be called before Genesis is imported, which then draws through EGL.  Says so on standard error.  MuJoCo's users
    set these; Genesis imports it, for its file format alone.
    """
    for variable in ("PYOPENGL_PLATFORM", "MUJOCO_GL"):
        way = os.environ.get(variable)
        if sys.platform != "linux" or way is None:
            continue
        if way.lower() == "osmesa":
            import ctypes.util

            usable = ctypes.util.find_library("OSMesa") is not None
        else:
            usable = variable == "MUJOCO_GL" or way == "egl"
        if not usable:
            print(f"vintix-fast: {variable}={way} cannot draw here; it is left out", file=sys.stderr)
            del os.environ[variable]


def _can_write(path: str) -> bool:
    """Whether this folder can be written, or else made."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path) or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return False
    if os.path.basename(path) != SOURCES:
        return True
    kept = (f for f in os.scandir(path) if f.name.endswith(".txt"))  # others are about to be renamed
    return all(os.access(f, os.R_OK | os.W_OK) for f in kept)


def _temporary_folder() -> str:
    """The same one in every process, unless somebody else made it or may write to it: caches hold programs."""
    import tempfile

    folder = os.path.join(tempfile.gettempdir(), f"vintix-fast-{os.getuid()}")
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if not (stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700):
            return tempfile.mkdtemp(prefix="vintix-fast-")
    return folder
