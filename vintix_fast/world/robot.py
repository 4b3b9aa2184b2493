"""What is known about a robot before any simulator runs: its file, its URDF, and how its joints turn.

Owns the bundled robot files (`*.toml` beside this module), and whether a file and its URDF agree. Gives a `Robot` to
the simulator, the task and the adapter. Knows nothing of Genesis, policies or checkpoints, and imports no robot
package: those are only asked where their files are.

Legs come in the order FR, FL, RR, RL and joints within a leg from the base down, as hip, thigh, calf, everywhere. A
robot file whose URDF says otherwise is refused, because the numbers would silently go to the wrong legs. All legs have
as many joints; how many is the file's to say.
"""

import functools
import math
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast.service.errors import UsageError
from vintix_fast.world.body import check_body, check_motor
from vintix_fast.world.kinematics import is_mjcf
from vintix_fast.world.layout import ObservationLayout
from vintix_fast.world.mjcf import Mjcf
from vintix_fast.world.robot_file import DESCRIPTIONS, LIMITS, RobotFile
from vintix_fast.world.urdf import Urdf, end
from vintix_fast.world.urdf_text import held_joints, reshape

LEGS = ("FR", "FL", "RR", "RL")
LEG_SIDES = ((1, -1), (1, 1), (-1, -1), (-1, 1))  # signs of a hip's x (forward) and y (left) in the base frame
_JOINTS_OF_A_LEG = ("hip", "thigh", "calf")
PARALLEL_DOT = 0.9
"""Two joint axes with at least this |cosine| turn about the same line."""
FREE_RANGE_RAD = math.pi / 3
"""How far from the default pose the range of a joint without limits goes, either way."""
ROUNDING_RAD = 1e-3
"""How far beyond its limits a default pose may lie."""

MASS_TOLERANCE = 1 / 3
"""How far a URDF's mass may be from the file's: it may lack a battery, but not be another robot's, or in grams."""

ROBOTS = Path(__file__).parent / "robots"


@dataclass(frozen=True)
class Robot:
    """A quadruped. What its J joints have is in the order of `joints`: FR, FL, RR, RL, each from the base down."""

    name: str
    aliases: tuple[str, ...]
    task_names: tuple[str, ...]  # what checkpoints call its task; the first is used for new ones
    group_name: str  # encoder and decoder group of new checkpoints
    base_link: str
    start_height_m: float
    target_height_m: float
    joints: tuple[str, ...]  # [J] joint names in the URDF
    default_pose_rad: tuple[float, ...]  # [J]
    kp: float  # Nm/rad
    kd: float  # Nm s/rad
    mass_kg: float | None  # of the whole robot, to be checked; None: nothing is
    base_mass_kg: float | None  # of the base link; None, in this and the next three: the URDF's or the simulator's
    armature: float | None  # of every joint, kg m2
    friction: float | None  # of every joint, Nm
    damping: float | None  # of every joint, Nm s/rad
    feet: tuple[str, ...]  # [4] link names, or empty
    held_joints: tuple[tuple[str, float], ...]  # the URDF's other joints, and where they are held (rad, m)
    path: Path  # the robot file
    urdf_path: Path  # or an MJCF's
    joint_axes: np.ndarray = field(compare=False, repr=False)  # [J, 3] unit vectors, base frame, all joints at 0 rad
    joint_range_rad: np.ndarray = field(compare=False, repr=False)  # [J, 2] lowest and highest position, the URDF's

    @property
    def layout(self) -> ObservationLayout:
        """Of what it observes, and how many actions it takes."""
        return ObservationLayout(len(self.joints))

    @property
    def joints_of_a_leg(self) -> tuple[str, ...]:
        """What a leg's joints are called, from the base down."""
        return _joints_of_a_leg(len(self.joints))

    @property
    def legs(self) -> tuple[tuple[str, ...], ...]:
        """The joints of each leg, FR, FL, RR, RL."""
        per_leg = len(self.joints_of_a_leg)
        return tuple(self.joints[i : i + per_leg] for i in range(0, len(self.joints), per_leg))

    @property
    def last_joints(self) -> tuple[str, ...]:
        """Each leg's joint that is farthest from the base."""
        return tuple(leg[-1] for leg in self.legs)


def robot_names() -> list[str]:
    """Names of the bundled robots, sorted, without aliases."""
    return sorted(_bundled())


def robots_of(task_names: Collection[str]) -> list[Robot]:
    """The bundled robots that call their task by one of these names, sorted."""
    files = sorted(_bundled().items())
    return [_read_robot(path) for _, (path, _, tasks) in files if not set(tasks).isdisjoint(task_names)]


def load_robot(name_or_path: str | os.PathLike) -> Robot:
    """Read and check a robot: a bundled one by name or alias (any case), or a file of the user's own.

    That is a robot file (`*.toml`), or a URDF or MJCF, of which one is made.

    Raises:
        UsageError: no bundled robot has this name.
        InputFileError: the robot file or its URDF is missing, broken or contradicts itself.
    """
    text = os.fspath(name_or_path)
    if text.lower().endswith(".toml"):
        return _read_robot(Path(text))
    if text.lower().endswith(DESCRIPTIONS):
        from vintix_fast.world.make_robot import robot_file_of  # which needs this file

        return _read_robot(robot_file_of(Path(text)))
    bundled = _bundled()
    for name, (path, aliases, _) in bundled.items():
        if text.lower() in (word.lower() for word in (name, *aliases)):
            return _read_robot(path)
    known = ", ".join(name + "".join(f" (= {alias})" for alias in bundled[name][1]) for name in sorted(bundled))
    raise UsageError(
        f"unknown robot {text!r}; known: {known}. For a robot of your own give its .toml, .urdf or .xml file"
    )


def joint_signs(target: Robot, reference: Robot) -> np.ndarray:
    """Which joints of `target` turn the other way than the same joints of `reference`.

    Multiplying the target's joint offsets, velocities and actions by these makes them mean what the reference's mean.
    float32 [J], each +1 or -1.

    Raises:
        UsageError: some axes are neither parallel nor opposite, so that no sign relates them; or one robot has more
            joints than the other.
    """
    counts = len(target.joints), len(reference.joints)
    if counts[0] != counts[1]:
        raise UsageError(
            f"{target.name} has {counts[0]} joints and {reference.name} {counts[1]}; choose another reference robot"
        )
    cosines = np.sum(target.joint_axes * reference.joint_axes, axis=1)  # [J, 3] -> [J]
    for i in np.flatnonzero(np.abs(cosines) < PARALLEL_DOT):
        raise UsageError(
            f"joint {target.joints[i]!r} of {target.name} turns about {_show(target.joint_axes[i])}, but "
            f"{reference.joints[i]!r} of {reference.name} about {_show(reference.joint_axes[i])}: neither parallel nor "
            f"opposite. Check the order of joints in {target.path}, or choose another reference robot"
        )
    return np.where(cosines > 0, 1, -1).astype(np.float32)


def find_task(robot: Robot, task_names_in_checkpoint: Iterable[str]) -> str | None:
    """The first of the robot's task names that a checkpoint holds, or None."""
    held = set(task_names_in_checkpoint)
    return next((task for task in robot.task_names if task in held), None)


@functools.cache
def _bundled() -> dict[str, tuple[Path, tuple[str, ...], tuple[str, ...]]]:
    """Name -> (file, aliases, names of its task) of every robot file beside this module."""
    files = [RobotFile(path) for path in sorted(ROBOTS.glob("*.toml"))]
    return {file.word("name"): (file.path, file.words("aliases"), file.words("task_names")) for file in files}


def _read_robot(path: Path) -> Robot:
    file = RobotFile(path)
    file.check_keys()
    joints = file.texts("joints")
    if not joints or len(joints) % len(LEGS):
        raise file.error("joints", f"must have as many entries for each of the legs FR, FL, RR, RL, got {len(joints)}")
    order = f"legs FR, FL, RR, RL, each {', '.join(_joints_of_a_leg(len(joints)))}"
    values: dict[str, Any] = dict(
        name=file.word("name"),
        aliases=file.words("aliases"),
        task_names=file.words("task_names"),
        group_name=file.word("group_name"),
        base_link=file.text("base_link"),
        joints=joints,
        default_pose_rad=file.numbers("default_pose_rad", len(joints), order),
        feet=file.texts("feet", len(LEGS)) if "feet" in file.table else (),
        **{key: file.number(key) for key in LIMITS},
    )
    if not values["task_names"]:
        raise file.error("task_names", "is empty; name at least one task")
    urdf_path = _find_urdf(file)
    urdf: Urdf | Mjcf = Mjcf(urdf_path) if is_mjcf(urdf_path) else Urdf(urdf_path)
    axes, ranges = _joint_axes(file, urdf, values), _joint_ranges(file, urdf, values)
    if isinstance(urdf, Mjcf):
        urdf.check_body(values["base_link"], joints, values["feet"])
        held, total_kg = urdf.held(joints), urdf.mass_kg()
    else:
        per_leg = len(joints) // len(LEGS)
        last_joints = joints[per_leg - 1 :: per_leg]
        _check_feet(file, urdf, values["feet"], last_joints)
        held = tuple(held_joints(urdf, joints).items())
        reshape(urdf, values["base_link"], joints)
        total_kg = check_body(urdf, values["base_link"], values["base_mass_kg"], last_joints)
    said_kg = values["mass_kg"]
    if said_kg is not None and abs(total_kg - said_kg) > MASS_TOLERANCE * said_kg:
        raise file.error("mass_kg", f"is {said_kg:g}, but {urdf_path} weighs {total_kg:.4g} kg; correct the wrong one")
    paths: dict[str, Any] = dict(path=file.path, urdf_path=urdf_path)
    return Robot(**values, **paths, held_joints=held, joint_axes=axes, joint_range_rad=ranges)


def _find_urdf(file: RobotFile) -> Path:
    """The URDF's path: inside an installed distribution when `urdf_package` names one, else beside the robot file."""
    urdf = file.text("urdf")
    if "urdf_package" not in file.table:
        path, remedy = file.path.parent / urdf, "a relative path starts at the robot file's folder"
    else:
        package = file.text("urdf_package")
        remedy = f"another version of {package} may keep it elsewhere: pip install --upgrade {package}"
        try:
            path = Path(str(metadata.distribution(package).locate_file(urdf)))
        except metadata.PackageNotFoundError as error:
            hint = f"names {package!r}, which is not installed: pip install {package}"
            raise file.error("urdf_package", hint) from error
    try:
        if path.is_file():
            return path.resolve()
    except (OSError, ValueError) as error:  # too long, or with a zero byte
        raise file.error("urdf", f"is no path: {error}") from error
    raise file.error("urdf", f"points to {path}, where there is no file; {remedy}")


def _joint_axes(file: RobotFile, urdf: Urdf | Mjcf, values: dict) -> np.ndarray:
    """Check that base, joints and feet are in the URDF and the legs in order; the joints' axes [J, 3]."""
    joints, base_link = values["joints"], values["base_link"]
    for key, names in (("base_link", (base_link,)), ("feet", values["feet"])):
        for name in names:
            if name not in urdf.links:
                links = ", ".join(urdf.links)
                raise file.error(key, f"names {name!r}, which is no link of {urdf.path}; its links are {links}")
    frames = []
    for name in joints:
        if name not in urdf.turning:
            kind = f"which is {urdf.joints[name].get('type')} in" if name in urdf.joints else "which is no joint of"
            known = ", ".join(urdf.turning)
            raise file.error("joints", f"names {name!r}, {kind} {urdf.path}; the joints that turn are {known}")
        if isinstance(urdf, Urdf):
            check_motor(urdf, name)
        frame = urdf.axis_and_origin(name, base_link)
        if frame is None:
            raise file.error("base_link", f"is {base_link!r}, but joint {name!r} is not below it in {urdf.path}")
        frames.append(frame)
    axes, origins = (np.stack(part) for part in zip(*frames, strict=True))  # [J, 3] each
    _check_order(file, urdf, joints, origins)
    axes.setflags(write=False)
    return axes


def _joint_ranges(file: RobotFile, urdf: Urdf | Mjcf, values: dict) -> np.ndarray:
    """Lowest and highest positions [J, 2] in rad: the URDF's limits, or `FREE_RANGE_RAD` around the default pose.

    The default pose must lie within.
    """
    ranges = []
    for name, default in zip(values["joints"], values["default_pose_rad"], strict=True):
        limits = urdf.limits(name)
        low, high = limits or (-2.0 * math.pi, 2.0 * math.pi)
        if not low - ROUNDING_RAD <= default <= high + ROUNDING_RAD:
            hint = "; it looks like degrees, write radians" if abs(default) > 2.0 * math.pi else ""
            problem = f"has {default:g} for joint {name!r}, which goes from {low:.4g} to {high:.4g} rad"
            raise file.error("default_pose_rad", problem + hint)
        ranges.append(limits or (default - FREE_RANGE_RAD, default + FREE_RANGE_RAD))
    array = np.array(ranges)
    array.setflags(write=False)
    return array


def _check_feet(file: RobotFile, urdf: Urdf, feet: tuple[str, ...], last_joints: tuple[str, ...]) -> None:
    """Each foot must hang from its leg."""
    for leg, foot, last in zip(LEGS, feet, last_joints, strict=bool(feet)):
        calf = end(urdf.joints[last], "child")
        if foot != calf and calf not in (end(joint, "parent") for joint in urdf.upwards(foot)):
            raise file.error("feet", f"names {foot!r} for {leg}, which does not hang from its joint {last!r}")


def _check_order(file: RobotFile, urdf: Urdf | Mjcf, joints: tuple[str, ...], origins: np.ndarray) -> None:
    """Each leg's joints must hang from one another, and its first one lie on its side of their centre."""
    names = _joints_of_a_leg(len(joints))
    hips = origins[:: len(names)] - origins[:: len(names)].mean(axis=0)  # [4, 3]
    for leg, sides, hip, at in zip(LEGS, LEG_SIDES, range(0, len(joints), len(names)), hips, strict=True):
        if tuple(np.sign(at[:2])) != sides:
            where = ("front" if at[0] > 0 else "rear") + (" left" if at[1] > 0 else " right")
            problem = f"has {joints[hip]!r} as {names[0]} of {leg}, but the URDF puts it {where} (x forward, y left)"
            raise file.error("joints", f"{problem}; legs come in the order {', '.join(LEGS)}")
        leg_joints = joints[hip : hip + len(names)]
        upwards = [joint.get("name") for joint in urdf.chain(leg_joints[-1])]
        if [name for name in upwards if name in joints] != list(leg_joints[::-1]):
            problem = (
                f"lists {', '.join(leg_joints)} for {leg}, but in the URDF they are not one leg's {', '.join(names)}"
            )
            raise file.error("joints", problem)


def _joints_of_a_leg(num_joints: int) -> tuple[str, ...]:
    """Names of a leg's joints where the robot has so many."""
    per_leg = num_joints // len(LEGS)
    known = per_leg == len(_JOINTS_OF_A_LEG)
    return _JOINTS_OF_A_LEG if known else tuple(f"joint {i + 1}" for i in range(per_leg))


def _show(vector: np.ndarray) -> str:
    return " ".join(f"{x + 0.0:.3g}" for x in vector)
