"""Mutations of a file's bytes and of what they mean: JSON, TOML, URDF, HDF5, torch's archives.

Each takes a random generator and a sound file, and changes the file in place.  Knows nothing about who reads it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import re
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

Mutation = Callable[[random.Random, Path], None]

RAW = {
    "null": "null", "nan": "NaN", "infinity": "-Infinity", "beyond-float": "1e999", "deep": "[" * 100_000,
    "beyond-int64": "9223372036854775808", "beyond-float-int": "1" + "0" * 400, "many-digits": "7" * 5000,
    "nested": "[" * 60 + "]" * 60,
    "objects": '{"a":' * 500 + "1" + "}" * 500, "long": json.dumps("x" * 200_000), "surrogate": '"\\ud800"',
}  # fmt: skip
"""JSON texts that Python's own values do not write."""
EXTREMES = (
    True, False, 0, 1, -1, 2, 3.5, 1e-320, 1e7, -1e7, 1e30, 1e308, 2**31, 2**62, 2**63 - 1, 10**9, "", "x", "nan", "1",
    "../../x", "\0", "ü", [], {}, [0], [[]], [None] * 3, {"a": 1}, [1] * 1000, *(f"@@{name}" for name in RAW),
)  # fmt: skip
TOML_TEXTS = (
    "nan", "-inf", "true", "0", "-1", "1e308", "1e30", "1e-320", "1" + "0" * 400, "7" * 5000, '""', '"x"', '"\\u0000"',
    "[]", "[[]]", "{}", "{a = 1}", "[" * 60 + "]" * 60, "[" * 5000, "1979-05-27", "0x10", "'../x'", "[nan]", "9" * 19,
)  # fmt: skip
XML_TEXTS = (
    "", "x", "nan", "inf", "-inf", "-1", "0", "1e308", "1e-320", "1" + "0" * 400, "0 0", "0 0 0", "nan nan nan",
    "1 2 3 4", "1e9 1e9 1e9", "../../x", "x" * 100_000, "fixed", "revolute", "floating", "0x10", "1_000", "ü",
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- bytes


def mutate_bytes(random: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        size = len(content)
        at, length = random.randrange(size + 1), min(random.choice((1, 2, 8, 64, 512, 4096)), size)
        other = random.randrange(size - length + 1)
        part, noise = content[other : other + length], random.randbytes(length)
        match random.choice(("flip", "flip", "set", "cut", "delete", "insert", "zero", "copy", "splice", "repeat")):
            case "flip":
                for _ in range(random.choice((1, 1, 4))):
                    if content:
                        content[random.randrange(size)] ^= 1 << random.randrange(8)
            case "set":
                content[at : at + 1] = random.choice((b"\0", b"\xff", b"\x7f", b"\x80", noise[:1]))
            case "cut":
                del content[at:]
            case "delete":
                del content[at : at + length]
            case "insert":
                content[at:at] = noise
            case "zero":
                content[at : at + length] = bytes(length)
            case "copy":
                content[at : at + length] = part
            case "splice":
                content[at : at + length] = noise
            case "repeat":
                content[at:at] = part * random.choice((1, 2, 50))
    path.write_bytes(content)


# -------------------------------------------------------------------------------------------------------- JSON and TOML


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Every container and key below it."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [place for key in keys for place in ((content, key), *_places(content[key]))]


def mutate_json(random: random.Random, path: Path) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    at = random.randrange(len(lines))
    content, prefix = json.loads(lines[at]), ""
    for _ in range(random.choice((1, 1, 2, 4))):
        places = _places(content)
        if not places:
            break
        inside, key = random.choice(places)
        match random.choice(("replace", "replace", "replace", "remove", "rename", "double", "swap", "top")):
            case "replace":
                inside[key] = copy.deepcopy(random.choice(EXTREMES))
            case "remove":
                del inside[key]
            case "rename" if isinstance(inside, dict):
                inside[random.choice(("x", "", key.upper(), "training"))] = inside.pop(key)
            case "double" if isinstance(inside, dict):
                prefix = f'"{next(iter(content), "a") if isinstance(content, dict) else "a"}": 1, '
            case "double":
                inside.append(copy.deepcopy(inside[key]))
            case "swap":
                other, name = random.choice(places)
                inside[key] = (
                    json.loads(json.dumps(other[name]))
                    if name in other or isinstance(other, list) and name < len(other)
                    else 0
                )
            case "top" if random.random() < 0.2:
                content = copy.deepcopy(random.choice(EXTREMES))
    text = json.dumps(content, indent=None if path.suffix == ".jsonl" else 1)
    for name, raw in RAW.items():
        text = text.replace(f'"@@{name}"', raw)
    lines[at] = text.replace("{", "{" + prefix, 1)
    path.write_text("\n".join(lines))


def mutate_toml(random: random.Random, path: Path) -> None:
    text = path.read_text()
    for _ in range(random.choice((1, 1, 2))):
        lines = text.splitlines()
        given = [index for index, line in enumerate(lines) if " = " in line]
        values = list(re.finditer(r'-?\d+(\.\d+)?|"[^"\n]*"', text))
        match random.choice(("value", "value", "whole", "whole", "remove", "double", "rename", "table")):
            case "value" if values:
                value = random.choice(values)
                text = text[: value.start()] + random.choice(TOML_TEXTS) + text[value.end() :]
            case "whole" if given:
                index = random.choice(given)
                lines[index] = f"{lines[index].split(' = ')[0]} = {random.choice(TOML_TEXTS)}"
                text = "\n".join(lines)
            case "remove" if lines:
                del lines[random.randrange(len(lines))]
                text = "\n".join(lines)
            case "double" if lines:
                text += "\n" + random.choice(lines)
            case "rename" if given:
                index = random.choice(given)
                lines[index] = "x" + lines[index]
                text = "\n".join(lines)
            case "table":
                text += random.choice(("\n[x]", "\n[[joints]]", "\na.b.c = 1", "\n[" + ".".join("a" * 3000) + "]"))
    path.write_text(text)


# ---------------------------------------------------------------------------------------------------------------- URDF


def mutate_urdf(random: random.Random, path: Path) -> None:
    root = ElementTree.fromstring(path.read_text())
    for _ in range(random.choice((1, 1, 2, 4))):
        parents = [(parent, child) for parent in root.iter() for child in parent]
        element = random.choice([child for _, child in parents] or [root])
        attribute = random.choice(list(element.keys()) or ["name"])
        match random.choice(
            ("value", "value", "value", "borrow", "remove", "rename", "drop", "double", "tag", "inside")
        ):
            case "value":
                element.set(attribute, random.choice(XML_TEXTS))
            case "borrow":  # a link's name for another's, a cycle of joints
                others = [e.get(attribute) for e in root.iter() if e.get(attribute) is not None]
                element.set(attribute, random.choice(others or [""]))
            case "remove":
                element.attrib.pop(attribute, None)
            case "rename":
                element.attrib["x"] = element.attrib.pop(attribute, "")
            case "drop" if parents:
                parent, child = random.choice(parents)
                parent.remove(child)
            case "double" if parents:
                parent, child = random.choice(parents)
                parent.append(child)
            case "tag":
                element.tag = random.choice(("x", "joint", "link", "mimic"))
            case "inside" if parents:
                _, child = random.choice(parents)
                child.append(ElementTree.Element(random.choice(("link", "joint", "limit")), {"name": "x"}))
    text = ElementTree.tostring(root, encoding="unicode")
    if random.random() < 0.05:  # entities that grow tenfold eight times
        entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 10}">' for i in range(9))
        text = f"<!DOCTYPE robot [{entities}]>" + text.replace('name="', 'name="&e8;', 1)
    path.write_text(text)


# ---------------------------------------------------------------------------------------------------------------- HDF5


def mutate_hdf5(random: random.Random, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for _ in range(random.choice((1, 1, 2, 3))):
            with contextlib.suppress(Exception):  # HDF5 refuses some changes of what was changed before
                names = [name for name in file if isinstance(file.get(name), h5py.Group)]
                _mutate_group(random, file, file[random.choice(names)])
            if random.random() < 0.3:
                _mutate_attribute(random, file)


def _mutate_group(random: random.Random, file: h5py.File, group: h5py.Group) -> None:
    datasets = [name for name in group if isinstance(group[name], h5py.Dataset)]
    if not datasets:
        return
    name = random.choice(datasets)
    values = np.asarray(group[name][:])
    what = random.choice(
        ("delete", "rename", "type", "shape", "values", "soft", "external-link", "hard", "storage", "virtual",
         "unwritten", "group", "scalar", "bomb", "name", "empty", "top")
    )  # fmt: skip
    if what == "rename":
        group.move(name, random.choice(("x", "noise", "mean_action")) + name)
    elif what == "name":
        new = random.choice(
            ("0-0", "0-99999999999999999999", "x", "1-5", "0--1", "env_0_block_0", "env_9999999_block_1")
        )
        if new not in file:
            file.move(group.name, new)
    elif what == "top":
        file[random.choice(("x", "5-9", "env_0001_block_0001"))] = random.choice(
            (group, np.zeros(3), h5py.SoftLink("/"))
        )
    elif what == "values":
        values = values.astype("f4") if random.random() < 0.5 else values
        for _ in range(random.choice((1, 5))):
            values.flat[random.randrange(max(values.size, 1)) if values.size else slice(0)] = random.choice(
                (0, 1, 100, 127)
            )
            if values.dtype.kind == "f" and values.size:
                values.flat[random.randrange(values.size)] = random.choice((np.nan, np.inf, 1e38, -1e30, 1e16))
        del group[name]
        group[name] = values
    else:
        del group[name]
        _put(random, file, group, name, values, what)


def _put(random: random.Random, file: h5py.File, group: h5py.Group, name: str, values: np.ndarray, what: str) -> None:
    rows = random.choice((0, 1, len(values), 10**6, 10**9, 2**40, 2**62 // max(values[:1].nbytes, 1)))
    shape = (rows, *values.shape[1:])
    if what == "type":
        kinds = ("f8", "f2", ">f4", "i1", "u8", "S4", "c8", "?", h5py.string_dtype(), [("a", "f4")], h5py.ref_dtype)
        group.create_dataset(name, values.shape, random.choice(kinds))
    elif what == "shape":
        shapes = (values.T, values[:-1], values[..., None], values.reshape(-1), np.concatenate([values, values]))
        group[name] = random.choice(shapes)
    elif what == "soft":
        group[name] = h5py.SoftLink(random.choice(("/", "/nowhere", group.name, f"{group.name}/{name}")))
    elif what == "external-link":
        group[name] = h5py.ExternalLink(random.choice(("other.h5", "/dev/zero", file.filename)), "/x")
    elif what == "hard":
        group[name] = random.choice((file, group, *(found for found in group.values())))
    elif what == "storage":
        group.create_dataset(name, values.shape, values.dtype, external=[("/dev/zero", 0, values.nbytes)])
    elif what == "virtual":
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:] = h5py.VirtualSource("other.h5", "x", values.shape)
        group.create_virtual_dataset(name, layout)
    elif what == "unwritten":
        chunks = random.choice((None, (min(1000, rows), *values.shape[1:]))) if rows and values.size else None
        group.create_dataset(name, shape, values.dtype, chunks=chunks)
    elif what == "group":
        group.create_group(name)
    elif what == "scalar":
        group[name] = random.choice((1.0, "text", h5py.Empty("f4")))
    elif what == "bomb":
        packed = group.create_dataset(name, (20 * 10**6, *values.shape[1:]), values.dtype, chunks=True, compression=1)
        packed[:10] = 0
    elif what == "empty":
        group[name] = values[:0]


def _mutate_attribute(random: random.Random, file: h5py.File) -> None:
    name = random.choice(("stream_env", "stream_length", "closed_cleanly", "robot", "task_name", "x"))
    numbers = np.array([random.choice((-1, 0, 1, 5, 2**31, 2**62)) for _ in range(random.randrange(5))], np.int64)
    choices = (numbers, numbers.astype("f8") * np.nan, "text", h5py.Empty("f4"), numbers[None], 2**63 - 1, -1, np.inf)
    if random.random() < 0.2:
        file.attrs.pop(name, None)
    else:
        file.attrs[name] = random.choice(choices)


# ---------------------------------------------------------------------------------------------------- torch's archives


def mutate_archive(random: random.Random, path: Path) -> None:
    """Of the zip archive: its parts, under right checksums."""
    with zipfile.ZipFile(path) as archive:
        parts = [(part.filename, archive.read(part)) for part in archive.infolist()]
    kind = zipfile.ZIP_STORED
    for _ in range(random.choice((1, 1, 2))):
        index, other = random.randrange(len(parts)), random.randrange(len(parts))
        name, content = parts[index]
        pickled = next(i for i, (name, _) in enumerate(parts) if name.endswith("data.pkl")) if len(parts) > 1 else 0
        match random.choice(
            ("drop", "double", "swap", "cut", "grow", "pickle", "pickle", "pickle", "deflate", "rename")
        ):
            case "drop" if len(parts) > 2 and index != pickled:
                del parts[index]
            case "double":
                parts.append(parts[index])
            case "swap":
                parts[index], parts[other] = (name, parts[other][1]), (parts[other][0], content)
            case "cut":
                parts[index] = name, content[: random.randrange(len(content) + 1)]
            case "grow":
                parts[index], kind = (name, content + bytes(random.choice((4, 10**5, 5 * 10**7)))), zipfile.ZIP_DEFLATED
            case "pickle":
                changed = bytearray(parts[pickled][1])
                for _ in range(random.choice((1, 1, 3))):
                    changed[random.randrange(len(changed))] = random.choice(
                        (0, 255, 127, 46, 40, 82, random.randrange(256))
                    )
                parts[pickled] = parts[pickled][0], bytes(changed)
            case "deflate":
                kind = zipfile.ZIP_DEFLATED
            case "rename" if index != pickled:
                parts[index] = random.choice(("x", "../x", name + "0", "archive/data/1")), content
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", kind) as archive:
        warnings.simplefilter("ignore")  # of a part that is there twice, as is meant
        for name, content in parts:
            archive.writestr(name, content)


def mutate_state(random: random.Random, path: Path) -> None:
    """Of the tensors."""
    state = torch.load(path, weights_only=True)
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(list(state))
        value = state[name]
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.numel() > 10**7:
            continue
        changed: Any = value.clone().float()
        match random.choice(("values", "type", "shape", "view", "remove", "rename", "other", "all")):
            case "values" if changed.numel():
                extreme = random.choice((np.nan, np.inf, 1e30, 9e5, -1e6, 1e-40, 0.0))
                changed.view(-1)[random.randrange(changed.numel())] = extreme
            case "all":
                changed.fill_(random.choice((0.0, 9e5, -9e5, 1e-40)))
            case "type":
                kinds = (torch.int64, torch.bool, torch.complex64, torch.float16, torch.float64, torch.bfloat16)
                changed = value.to(random.choice(kinds))
            case "shape":
                changed = random.choice(
                    (
                        changed.reshape(-1),
                        changed[:-1],
                        changed[None],
                        changed.mT if changed.ndim > 1 else changed,
                        changed[:0],
                    )
                )
            case "view":
                changed = torch.zeros(1).expand(random.choice((value.numel() or 1, 10**5, 2**40)), *value.shape[1:])
            case "remove":
                del state[name]
                continue
            case "rename":
                state[random.choice(("x", "module." + name, name.replace("0", "7"), ""))] = state.pop(name)
                continue
            case "other":
                changed = random.choice((1, "x", None, [value], {"a": value}, value.to_sparse(), torch.empty(0)))
        state[name] = changed
    torch.save(state, path)


def mutate_safetensors(random: random.Random, path: Path) -> None:
    """Of the header, whose length then fits, or of a value."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size], bytearray(content[8 + size :])
    if random.random() < 0.7:
        beside = path.with_suffix(".json")
        beside.write_bytes(header.rstrip())
        mutate_json(random, beside)
        header = beside.read_bytes()
        beside.unlink()
    else:
        at = 4 * random.randrange(len(data) // 4)
        data[at : at + 4] = np.float32(random.choice((np.nan, np.inf, 1e30, 9e5, -1e6, 1e-40))).tobytes()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
