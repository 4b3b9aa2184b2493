"""`vintix_fast.service.home`: users that the system does not know, without a home folder or with one closed to them."""

import json
import os
import stat
import subprocess
import sys

import pytest

from vintix_fast.service.home import CACHES, PARTS, choose_opengl
from vintix_fast.service.kernel_cache import KERNELS, kernel_cache_dir

VARIABLES, NAMED = ([variable for variable, _, _ in table] for table in (CACHES, PARTS))
REPORT = """
import json, os
import vintix_fast
print(json.dumps({name: os.environ.get(name) for name in %r}))
""" % ["HOME", "USER", *VARIABLES]
UNKNOWN = """
import pwd
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
"""
"""What the system says about a user id that /etc/passwd lacks."""


def python(code, folder, **environment):
    """Run code where ``folder`` is the temporary folder and the working directory; root may do everything elsewhere."""
    unset = ("HOME", "USER", "LOGNAME", *VARIABLES, *NAMED)
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"TMPDIR": str(folder)} | environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def report(folder, before=UNKNOWN, **environment):
    """The environment that the libraries get, and what was said."""
    done = python(before + REPORT, folder, **environment)
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def closed(tmp_path):
    """A folder that can neither be written nor made, not even by root."""
    (tmp_path / "file").touch(0o777)
    return tmp_path / "file" / "home"


@pytest.fixture
def own(tmp_path):
    return tmp_path / f"vintix-fast-{os.getuid()}"


def below(folder):
    return {variable: str(folder / default) for variable, default, _ in CACHES}


def test_a_home_that_can_be_written_is_left_alone(tmp_path):
    found, said = report(tmp_path, before="", HOME=str(tmp_path / "new"), USER="somebody")
    assert found == {"HOME": str(tmp_path / "new"), "USER": "somebody"} | dict.fromkeys(VARIABLES)
    assert said == "" and list(tmp_path.iterdir()) == []


def test_a_home_that_only_the_system_knows_is_told_the_libraries(tmp_path):
    home = str(tmp_path / "known")
    entry = ("somebody", "x", os.getuid(), 0, "", home, "")
    known = f"import pwd; pwd.getpwuid = lambda uid: pwd.struct_passwd({entry!r})\n"
    found, said = report(tmp_path, before=known)
    assert found["HOME"] == home and said == ""


def test_without_a_home_there_is_a_temporary_one(tmp_path, own):
    found, said = report(tmp_path)
    assert found == {"HOME": str(own), "USER": f"uid{os.getuid()}"} | dict.fromkeys(VARIABLES)
    assert said == f"vintix-fast: there is no home folder; caches go to {own}\n"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert report(tmp_path)[0] == found  # the next process finds the first one's kernels


def test_a_cache_that_was_named_is_home_enough(tmp_path):
    found, said = report(tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert found["HOME"] == found["XDG_CACHE_HOME"] == str(tmp_path / "cache") and said == ""


def test_a_closed_home_stays_home_and_the_caches_go_elsewhere(tmp_path, closed, own):
    found, said = report(tmp_path, HOME=str(closed))
    assert found == {"HOME": str(closed), "USER": f"uid{os.getuid()}"} | below(own)
    assert said == f"vintix-fast: {closed}/.cache cannot be written; caches go to {own}\n"


@pytest.mark.parametrize("name", ["quadrants", "genesis", "numba"])
def test_caches_of_another_user_in_a_home_are_not_taken(tmp_path, own, name):
    (tmp_path / "home/.cache").mkdir(parents=True)
    (tmp_path / "home/.cache" / name).touch()  # as closed to root as another user's folder is to others
    found, _ = report(tmp_path, HOME=str(tmp_path / "home"))
    assert found["XDG_CACHE_HOME"] == str(own / ".cache") and found["TRITON_CACHE_DIR"] is None


def test_a_cache_that_leads_nowhere_is_not_taken(tmp_path, own):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.cache").symlink_to("nowhere")
    assert report(tmp_path, HOME=str(tmp_path / "home"))[0]["XDG_CACHE_HOME"] == str(own / ".cache")


@pytest.mark.parametrize("named", ["", "{closed}/cache"])
def test_a_named_cache_of_no_use_gives_way_to_the_home(tmp_path, closed, named):
    named = named.format(closed=closed)
    found, said = report(tmp_path, HOME=str(tmp_path), **dict.fromkeys(VARIABLES, named))
    assert {name: found[name] for name in VARIABLES} == below(tmp_path) and said == ""


@pytest.mark.parametrize("named", NAMED)
def test_a_named_part_of_no_use_gives_way_to_the_usual_place(tmp_path, closed, own, named):
    ask = f"import vintix_fast, os; print(os.environ[{named!r}])"
    usual = {variable: default for variable, default, _ in PARTS}[named]
    home = python(ask, tmp_path, HOME=str(tmp_path), **{named: str(closed)})
    assert home.stdout.strip() == str(tmp_path / ".cache" / usual) and home.stderr == ""
    nowhere = python(ask, tmp_path, HOME=str(closed), **{named: str(closed)})
    assert nowhere.stdout.strip() == str(own / ".cache" / usual)


@pytest.mark.parametrize("shut", [KERNELS, "python_side_cache", "python_side_cache/another's.txt"])
def test_a_kernel_cache_that_can_only_be_read_is_copied(tmp_path, shut):
    baked = tmp_path / "baked"
    for name in (f"{KERNELS}/qdcache.qdb", f"{KERNELS}/qdcache.lock", f"{KERNELS}/T1.qdc", "python_side_cache/1.txt"):
        (baked / name).parent.mkdir(parents=True, exist_ok=True)
        (baked / name).touch()
    before = f"""
import os
access = os.access
def shut(path, mode): return access(path, mode) and not (os.fspath(path).endswith({shut!r}) and mode & os.W_OK)
os.access = shut
"""
    (baked / "python_side_cache/another's.txt").touch()
    found = python(f"{before}import vintix_fast; print(os.environ['QD_OFFLINE_CACHE_FILE_PATH'])", tmp_path,
                   HOME=str(tmp_path / "home"), QD_OFFLINE_CACHE_FILE_PATH=str(baked))  # fmt: skip
    cache = tmp_path / "home/.cache/quadrants/qdcache"
    assert found.stdout.strip() == str(cache)
    copied = {str(f.relative_to(cache)) for f in cache.glob("*/*")}
    assert copied == {str(f.relative_to(baked)) for f in baked.glob("*/*")} - {f"{KERNELS}/qdcache.lock"}


def test_a_way_to_draw_that_there_is_not_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    for variable, left in (("PYOPENGL_PLATFORM", ["egl"]), ("MUJOCO_GL", ["egl", "glfw", "off"])):
        for way in ("osmesa", "egl", "glfw", "off"):
            monkeypatch.setenv(variable, way)
            choose_opengl()
            assert os.environ.get(variable) == (way if way in left else None)
            assert (f"{variable}={way}" in capsys.readouterr().err) == (way not in left)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libOSMesa.so.8")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa")
    choose_opengl()
    assert os.environ["PYOPENGL_PLATFORM"] == "osmesa"


def test_child_processes_say_nothing(tmp_path, closed):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import vintix_fast'], check=True)"
    for home in ({}, {"HOME": str(closed)}):
        said = python(f"{UNKNOWN}import vintix_fast\n{child}", tmp_path, **home).stderr
        assert said.count("\n") == 1 and "caches go to" in said


@pytest.mark.parametrize("trap", ["open", "link", "file", "another's"])
def test_a_temporary_folder_that_others_could_write_is_not_trusted(tmp_path, own, trap):
    before = UNKNOWN
    if trap == "open":
        own.mkdir()
        own.chmod(0o777)
    elif trap == "link":
        (tmp_path / "target").mkdir(mode=0o700)
        own.symlink_to(tmp_path / "target")
    elif trap == "file":
        own.touch(0o700)
    else:
        before += f"import os; os.getuid = lambda: {os.getuid() + 1}\n"
        own = own.with_name(f"vintix-fast-{os.getuid() + 1}")
        own.mkdir(mode=0o700)
    found, said = report(tmp_path, before)
    home = tmp_path / found["HOME"]
    assert home != own and home.parent == tmp_path and stat.S_IMODE(home.stat().st_mode) == 0o700
    assert f"caches go to {home}\n" in said


def test_the_libraries_take_the_temporary_home(tmp_path, own):
    code = """
import vintix_fast
from vintix_fast.service.kernel_cache import kernel_cache_dir
from vintix_fast.world.simulator import _import_genesis
_import_genesis()
import matplotlib, quadrants, triton
from genesis.utils.cache import get_cache_dir
quadrants.init(arch=quadrants.cpu)
kernels = quadrants.lang.impl.get_runtime().prog.config().offline_cache_file_path
assert kernels == str(kernel_cache_dir()), kernels
for folder in (kernels, get_cache_dir(), triton.knobs.cache.dir, matplotlib.get_cachedir()):
    assert folder.startswith(OWN), folder
"""
    python(UNKNOWN + f"OWN = {str(own)!r}\n" + code, tmp_path)
    assert not (tmp_path / "~").exists()


def test_the_kernel_cache_is_where_quadrants_keeps_it(tmp_path, monkeypatch):
    monkeypatch.delenv("QD_OFFLINE_CACHE_FILE_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert kernel_cache_dir() == tmp_path / ".cache/quadrants/qdcache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert kernel_cache_dir() == tmp_path / "elsewhere/quadrants/qdcache"
    monkeypatch.setenv("QD_OFFLINE_CACHE_FILE_PATH", str(tmp_path / "named"))
    assert kernel_cache_dir() == tmp_path / "named"


def test_experts_need_no_git(tmp_path):
    """rsl_rl imports GitPython, which looks for the program."""
    plain = {name: value for name, value in os.environ.items() if name != "GIT_PYTHON_REFRESH"}
    command = [sys.executable, "-c", "import vintix_fast.pretrain.expert"]
    done = subprocess.run(command, env=plain | {"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
