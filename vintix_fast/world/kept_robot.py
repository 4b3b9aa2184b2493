"""The robot that a run was begun with: what identifies it, and a copy of its files that can lie anywhere.

Data flows robot file, URDF and the meshes it names -> a folder of the run, whose robot file is read like any other.
Knows nothing of a run's other files, and simulates nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError
from vintix_fast.service.files import write_bytes
from vintix_fast.world.kinematics import is_mjcf
from vintix_fast.world.mjcf import mjcf_tree
from vintix_fast.world.robot import ROBOTS, Robot, load_robot
from vintix_fast.world.robot_file import RobotFile
from vintix_fast.world.urdf_text import find_file

FOLDER = "robot"
"""What the copy is called in a run's directory."""
_WHERE_THE_URDF_IS = ("urdf", "urdf_package")
_NAMING = (".obj", ".mtl", ".dae", ".gltf")
"""Files of meshes and materials that name other files."""


def robot_record(robot: Robot) -> dict[str, Any]:
    """What a run notes of its robot: name, SHA-256 of its file and URDF, and where the copy is unless it is bundled.

    A hash is of what is said, not of bytes: neither comments nor where the files lie change it.  The URDF's covers its
    meshes.
    """
    table, root = RobotFile(robot.path).table, _root(robot.urdf_path)
    said = {key: value for key, value in table.items() if key not in _WHERE_THE_URDF_IS}
    for element, path in _named_files(root, robot.urdf_path):
        element.set(_file_key(element), _sha256(path.read_bytes()))
    urdf = ElementTree.canonicalize(ElementTree.tostring(root, encoding="unicode"), strip_text=True)
    hashes = {
        "robot file": _sha256(json.dumps(said, sort_keys=True, default=str).encode()),
        "URDF": _sha256(urdf.encode()),
    }
    file = {} if robot.path.parent == ROBOTS else {"file": f"{FOLDER}/{robot.path.name}"}
    return {"name": robot.name, **file, "sha256": hashes}


def is_robot_record(found: Any) -> bool:
    """Whether it is what `robot_record` gives, or may be."""
    texts = isinstance(found, dict) and isinstance(found.get("file", ""), str)
    return texts and isinstance(found.get("sha256"), dict) and all(isinstance(h, str) for h in found["sha256"].values())


def robot_begun_with(record: dict[str, Any], run: Path, word: str, same_words: bool) -> Robot:
    """The robot of a run to go on with: its copy's, or what ``word`` says where there is none.

    Args:
        record: see `robot_record`.
        run: the run's directory.
        word: the robot that is asked for now, by name or file.
        same_words: the run was begun with the same words, so that a file that is not there any more is the copy's.

    Raises:
        UsageError: ``word`` is another robot.
        InputFileError: the copy is damaged.
    """
    copy = run / record["file"] if "file" in record and (run / record["file"]).is_file() else None
    if copy is None or not same_words or Path(word).exists():
        given = load_robot(word)
        if differing := _differing(record, given):
            other = (
                f"give --robot-type {copy}, a copy of that" if copy else "give that, as config.json's versions have it"
            )
            raise UsageError(
                f"--resume: {run} was begun with another robot than --robot-type {word} ({differing}); {other}, or "
                "another --output-dir"
            )
        if copy is None:
            return given
    kept = load_robot(copy)
    if differing := _differing(record, kept):
        raise InputFileError(
            f"{copy} is not the robot any more that its run was begun with ({differing}); delete {copy.parent} and "
            "give that robot's own file by --robot-type"
        )
    return kept


def keep_robot(robot: Robot, folder: Path) -> None:
    """Copy a robot's file, its URDF and the meshes that it names into a new ``folder``: all of them or nothing.

    Raises:
        VintixFastError: the disk refuses.
    """
    table, root = RobotFile(robot.path).table, _root(robot.urdf_path)
    said = {"urdf": robot.urdf_path.name} | {k: v for k, v in table.items() if k not in _WHERE_THE_URDF_IS}
    staging = None
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
        staging.chmod(folder.parent.stat().st_mode & 0o777)
        sources: list[Path] = []
        for element, path in _named_files(root, robot.urdf_path):
            # Files of one folder stay side by side: a mesh names its materials, and they their pictures.
            if path.parent not in sources:
                sources.append(path.parent)
            beside = Path(f"meshes_{sources.index(path.parent)}")
            packaged = _in_package(element.get(_file_key(element), ""))
            # A package is found beside the URDF too; the simulator reads such names in another way than others.
            if packaged is not None:
                beside = packaged.parent
            (staging / beside).mkdir(parents=True, exist_ok=True)
            _copy_with_what_it_names(path, staging / beside)
            if packaged is None:
                element.set(_file_key(element), str(beside / path.name))
        write_bytes(staging / robot.urdf_path.name, ElementTree.tostring(root, encoding="utf-8"))
        # JSON's texts, numbers and lists are TOML's too.
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False, default=str)}\n" for key, value in said.items()]
        write_bytes(staging / robot.path.name, f"# A copy of {robot.path}\n{''.join(lines)}".encode())
        os.rename(staging, folder)
    except OSError as error:
        raise VintixFastError(f"cannot keep a copy of {robot.path} in {folder}: {error}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _copy_with_what_it_names(path: Path, folder: Path) -> None:
    """Copy a file, and those beside it whose names are in it, and what is named in those."""
    if (folder / path.name).exists():
        return
    content = path.read_bytes()
    write_bytes(folder / path.name, content)
    for other in path.parent.iterdir() if path.suffix.lower() in _NAMING else ():
        if other.is_file() and other != path and other.name.encode() in content:
            _copy_with_what_it_names(other, folder)


def _root(path: Path) -> ElementTree.Element:
    """A URDF's or MJCF's."""
    return mjcf_tree(path) if is_mjcf(path) else ElementTree.parse(path).getroot()


def _file_key(element: ElementTree.Element) -> str:
    """What holds a file's name: filename in a URDF, file in an MJCF."""
    return "filename" if "filename" in element.attrib else "file"


def _named_files(root: ElementTree.Element, description: Path) -> Iterator[tuple[ElementTree.Element, Path]]:
    """The meshes and textures that a URDF or MJCF names and that are there."""
    for element in root.iter():
        name = element.get(_file_key(element), "") if element.tag in ("mesh", "texture") else ""
        if name and (path := find_file(description, name)) is not None:
            yield element, path


def _in_package(name: str) -> Path | None:
    """A name's path from the folder that holds its ROS package, or None."""
    scheme, _, rest = name.rpartition("://")
    inside = Path(rest.lstrip("/"))
    return inside if scheme in ("package", "model") and inside.parts and ".." not in inside.parts else None


def _differing(record: dict[str, Any], robot: Robot) -> str:
    """Which of a robot's files are not what was recorded, with both hashes; empty where all are."""
    if robot.name != (name := record.get("name", robot.name)):
        return f"--robot-type was {name}, now {robot.name}"
    files = {"robot file": robot.path, "URDF": robot.urdf_path}
    return "; ".join(
        f"SHA-256 of its {part} was {record['sha256'].get(part, '?')[:12]}, that of {files[part]} is {now[:12]}"
        for part, now in robot_record(robot)["sha256"].items()
        if now != record["sha256"].get(part)
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
