"""`vintix_fast.service.kernel_cache`: what stopped runs and bad disks leave is removed, and nothing else."""

import errno
import hashlib
import os
import struct
import subprocess
import sys
import threading
import time

import pytest

from vintix_fast.service import kernel_cache
from vintix_fast.service.kernel_cache import FORMAT_OF, KERNELS, mend
from vintix_fast.world.simulator import said

TWO_KERNELS = """
import sys
import quadrants as qd
qd.init(arch=qd.cpu, log_level=qd.WARN)
x = qd.ndarray(qd.f32, (8,))
@qd.kernel
def one(x: qd.types.NDArray[qd.f32, 1]):
    for i in x: x[i] += 1.0
@qd.kernel
def two(x: qd.types.NDArray[qd.f32, 1]):
    for i in x: x[i] += 2.0
one(x), two(x)
"""
FAULTS = ["cut", "gone", "zeroed", "flipped", "sizes", "list cut", "list sizes", "list flipped"]
KEYS = [b"T" + hashlib.sha256(bytes([n])).hexdigest().encode() for n in range(3)]


def kernel_of(content: bytes) -> bytes:
    """A compiled kernel as the library writes it."""
    half = len(content) // 2
    head = struct.pack("<4sIQQ", b"QDC", 0, half, len(content) - half)
    return head + content + hashlib.sha256(content).hexdigest().encode()


def list_of(*keys: bytes, version=(*FORMAT_OF, 3)) -> bytes:
    entries = b"".join(struct.pack("<Q65sQ65s3Q", 65, key, 65, key, 100, 1, 1) for key in keys)
    return struct.pack("<Q3HQQ", 30 + len(entries), *version, 100 * len(keys), len(keys)) + entries


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_cache, "LOCK_WATCH_S", 0.3)
    folder = tmp_path / KERNELS
    folder.mkdir()
    (folder / "qdcache.qdb").write_bytes(list_of(*KEYS))
    for key in KEYS:
        (folder / f"{key.decode()}.qdc").write_bytes(kernel_of(key * 10))
    return tmp_path


def mended(cache) -> list[str]:
    lines: list[str] = []
    mend(cache, lines.append)
    return lines


def test_what_is_sound_is_left_alone(cache):
    before = {path: path.read_bytes() for path in cache.glob("*/*")}
    assert mended(cache) == [] and {path: path.read_bytes() for path in cache.glob("*/*")} == before
    assert mended(cache / "none") == []


def test_a_lock_without_owner_is_removed(cache):
    lock = cache / KERNELS / "qdcache.lock"
    lock.touch()
    (line,) = mended(cache)
    assert str(lock) in line and not lock.exists() and (cache / KERNELS / "qdcache.qdb").exists()


@pytest.mark.parametrize("ends", [True, False])
def test_a_lock_whose_owner_writes_is_waited_for(cache, ends):
    """Also where the owner takes far longer than an idle lock is watched; one that dies in the middle is noticed."""
    lock = cache / KERNELS / "qdcache.lock"
    lock.touch()
    written = []

    def write():
        for n in range(8):
            time.sleep(0.1)
            (cache / KERNELS / f"T{n}.qdc").write_bytes(b"part")
            written.append(lock.exists())
        if ends:
            lock.unlink()

    owner = threading.Thread(target=write)
    owner.start()
    lines = mended(cache)
    owner.join()
    assert all(written) and len(written) == 8 and not lock.exists() and len(lines) == (not ends)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_cache_is_compiled_anew(cache, fault):
    kernel, listing = cache / KERNELS / f"{KEYS[1].decode()}.qdc", cache / KERNELS / "qdcache.qdb"
    path = listing if fault.startswith("list") else kernel
    data = bytearray(path.read_bytes())
    if fault.endswith("cut"):
        del data[len(data) // 2 :]
    elif fault == "zeroed":
        data = bytearray(len(data))
    elif fault == "sizes":
        data[8:24] = b"\x7f" * 16
    elif fault == "list sizes":
        data[22:30] = b"\x7f" * 8
    else:
        data[-70] ^= 255
    path.write_bytes(data)
    if fault == "gone":
        path.unlink()
    (line,) = mended(cache)
    assert str(listing) in line and not listing.exists()


def test_what_another_version_of_the_library_wrote_is_left_to_it(cache):
    listing = cache / KERNELS / "qdcache.qdb"
    listing.write_bytes(list_of(*KEYS, version=(FORMAT_OF[0], FORMAT_OF[1] + 1, 0))[:-3])
    assert mended(cache) == [] and listing.exists()


def test_what_cannot_be_removed_is_said(cache, monkeypatch):
    (cache / KERNELS / "qdcache.lock").mkdir()  # which unlink refuses, to root too
    (line,) = mended(cache)
    assert "cannot be mended" in line and "QD_OFFLINE_CACHE_FILE_PATH" in line


def test_a_scene_that_cannot_write_kernels_names_their_place_and_no_other_does(monkeypatch, tmp_path):
    monkeypatch.setenv("QD_OFFLINE_CACHE_FILE_PATH", str(tmp_path))
    full = said(OSError(errno.ENOSPC, "No space left on device"))
    assert "No space left" in full and f"{tmp_path}, QD_OFFLINE_CACHE_FILE_PATH names another" in full
    assert "QD_OFFLINE" not in said(FileNotFoundError(errno.ENOENT, "No such file", "mesh.stl"))


def test_the_librarys_own_files_are_sound(tmp_path):
    """And those of a new version of it, whose number then belongs into ``FORMAT_OF``."""
    (tmp_path / "program.py").write_text(TWO_KERNELS)
    environment = os.environ | {"QD_OFFLINE_CACHE_FILE_PATH": str(tmp_path)}
    subprocess.run([sys.executable, tmp_path / "program.py"], env=environment, check=True, capture_output=True)
    listing = tmp_path / KERNELS / "qdcache.qdb"
    assert struct.unpack_from("<2H", listing.read_bytes(), 8) == FORMAT_OF
    assert len(list((tmp_path / KERNELS).glob("*.qdc"))) >= 2 and mended(tmp_path) == []
    next((tmp_path / KERNELS).glob("*.qdc")).write_bytes(b"QDC")
    assert len(mended(tmp_path)) == 1
