"""N copies of one robot on a plane, side by side in one Genesis scene.

The only file that imports genesis.  It keeps here what that library does to its process: what it prints, the global
torch state that ``gs.init`` changes, the order in which it must be imported, and what drawing needs of the system.  It
turns joint targets into states; it knows nothing about observations, rewards or episodes.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import inspect
import os
import platform
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from vintix_fast.service.device import check_device
from vintix_fast.service.errors import VintixFastError
from vintix_fast.service.home import choose_opengl
from vintix_fast.service.kernel_cache import has_kernels, kernel_cache_dir, mend
from vintix_fast.world import views
from vintix_fast.world.drawn import Physics, check_joints
from vintix_fast.world.genesis_variation import BodyChanges, scene_options
from vintix_fast.world.robot import LEGS, Robot
from vintix_fast.world.scene import release, robot_file
from vintix_fast.world.variation import NO_VARIATION, Variation

DT_S = 0.02
SUBSTEPS = 2
MAX_JOINT_SPEED_RAD_S = 1000.0
MAX_BASE_SPEED_M_S = 100.0
"""Faster than any real robot: beyond either the simulation has failed."""
CONTACT_N = 1.0
"""A leg that pushes harder than this stands on something; resting ones carry tens of newtons."""
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
DRAWING_REMEDY = (
    "OpenGL without a display needs EGL and Mesa's software rasteriser; on Debian and Ubuntu: "
    "apt-get install libegl1 libgl1 libgl1-mesa-dri"
)


class RobotState(NamedTuple):
    """State of N robots.  Linear and angular velocities are in the world frame; quaternions are (w, x, y, z)."""

    base_pos_m: torch.Tensor  # [N, 3]
    base_quat: torch.Tensor  # [N, 4]
    base_lin_vel_m_s: torch.Tensor  # [N, 3]
    base_ang_vel_rad_s: torch.Tensor  # [N, 3]
    joint_pos_rad: torch.Tensor  # [N, J], in the robot file's order
    joint_vel_rad_s: torch.Tensor  # [N, J]


def _import_genesis() -> Any:
    """Import genesis after the modules that cannot be imported once it has built a scene.

    triton carries an LLVM of its own and crashes the process when it is loaded after Genesis has compiled kernels;
    torch's optimisers and compiler import it.  setuptools must come before genesis for torch.compile to find distutils.
    """
    for name in ("setuptools", "triton", "torch._dynamo"):
        if importlib.util.find_spec(name.split(".")[0]) is not None:
            importlib.import_module(name)
    # Nothing here opens a window, for which Genesis' viewer would want X11's libraries already when it is imported.
    if sys.platform == "linux":
        os.environ.setdefault("PYGLET_HEADLESS", "1")
    # For each of its kernels Quadrants asks who imports it, and inspect then searches all modules for this file that is
    # none: half of the import's time.  The answer stays the same: no module.
    inspect.modulesbyfile.setdefault("<frozen importlib._bootstrap>", "")
    return importlib.import_module("genesis")


def said(error: Exception) -> str:
    """An error's text on one line, with a remedy: OpenGL may be missing, which Genesis opens in every scene, or no room
    be left for what it compiles."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        return f"{text}; the kernel cache is {kernel_cache_dir()}, QD_OFFLINE_CACHE_FILE_PATH names another folder"
    return f"{text}; {DRAWING_REMEDY}" if "EGL" in text or "OpenGL" in text else text


def _genesis_started() -> bool:
    return getattr(sys.modules.get("genesis"), "_initialized", False)


def start_genesis(device: torch.device) -> Any:
    """Genesis, initialised; the first call in a process decides for all."""
    choose_opengl()
    try:
        gs = _import_genesis()
    except Exception as error:  # a library that is missing, of another version, or led astray by the environment
        raise VintixFastError(f"Genesis cannot be imported: {said(error)}") from error
    if not _genesis_started():
        with _processor_unasked():
            gs.init(backend=gs.cpu if device.type == "cpu" else gs.cuda, logging_level="error", precision="32")
    return gs


@contextlib.contextmanager
def _processor_unasked() -> Iterator[None]:
    """Genesis asks for the processor's name, for a message that is not shown here; the answer takes a second."""
    asked: Any = importlib.import_module("cpuinfo")
    ask, asked.get_cpu_info = asked.get_cpu_info, lambda: {"brand_raw": platform.machine()}
    try:
        yield
    finally:
        asked.get_cpu_info = ask


@contextlib.contextmanager
def torch_globals_restored() -> Iterator[None]:
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    rng, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        # Setting a default device installs a function mode that slows every torch call, so "cpu" is left as None.
        torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_rng_state(rng)
        torch.set_num_threads(threads)


class Simulator:
    """One scene with ``num_envs`` copies of ``robot``, stepped together at 50 Hz.

    Args:
        robot: the robot to load.
        num_envs: environments side by side.
        device: "cpu" or "cuda"; the tensors that come out live there.
        say: called with a line of text before and after the scene is built, which takes long the first time.
        vary: what will differ between environments; a scene in which nothing does is built without room for it.

    Raises:
        UsageError: CUDA was asked for and is absent, or ``vary`` names joints that the robot lacks.
        VintixFastError: Genesis refuses the robot's file.
    """

    def __init__(
        self,
        robot: Robot,
        num_envs: int,
        device: str = "cpu",
        say: Callable[[str], None] = print,
        vary: Variation = NO_VARIATION,
    ) -> None:
        check_device(device)
        check_joints(vary, robot)
        self._vary = vary
        self._locked: torch.Tensor | None = None
        self.robot, self.num_envs, self.device = robot, num_envs, torch.device(device)
        if robot.held_joints:
            held = ", ".join(f"{name} at {place:g}" for name, place in robot.held_joints)
            say(f"{robot.name}'s joints that are not in its robot file are held still (rad, m): {held}")
        cache = kernel_cache_dir()
        if not _genesis_started():
            mend(cache, say)
        expected = "about 10 s from the kernel cache"
        if not has_kernels(cache):
            expected = "1 to 3 minutes the first time, 10 s later"
        if _genesis_started():
            expected = "a second or so where the process has built this robot before"
        say(f"Building {num_envs} x {robot.name} in Genesis: {expected} (kernel cache: {cache})")
        started = time.perf_counter()
        with torch_globals_restored():
            self._gs = start_genesis(self.device)
            try:
                self._build()
            except Exception as error:
                raise VintixFastError(f"Genesis cannot build {robot.urdf_path}: {said(error)}") from error
        if self._views is None:
            say("This Genesis keeps its state in another way: reading it through its public calls, which is slower")
        say(f"Built in {time.perf_counter() - started:.0f} s")

    def _build(self) -> None:
        gs, robot = self._gs, self.robot
        self._scene = gs.Scene(
            sim_options=gs.options.SimOptions(dt=DT_S, substeps=SUBSTEPS),
            rigid_options=gs.options.RigidOptions(
                constraint_solver=gs.constraint_solver.Newton,
                enable_collision=True,
                enable_joint_limit=True,
                **scene_options(self._vary),
            ),  # fmt: skip
            profiling_options=gs.options.ProfilingOptions(show_FPS=False),
            show_viewer=False,
        )
        self._scene.add_entity(gs.morphs.Plane())
        weakref.finalize(self, release, self._scene).atexit = False
        with robot_file(gs, robot) as morph:
            self._entity = self._scene.add_entity(morph)
            self._scene.build(n_envs=self.num_envs)
        joints = [self._entity.get_joint(name) for name in robot.joints]
        # Tensors: of a list, every call of Genesis would make one, and a GPU would be waited for.
        self._dofs = torch.tensor([joint.dofs_idx_local[0] for joint in joints], device=self.device)
        self._qs = torch.tensor([joint.qs_idx_local[0] for joint in joints], device=self.device)
        # A foot that is fixed to its calf has become a part of it.
        links = {link.name: link for link in self._entity.links}
        feet = robot.feet or ("",) * len(LEGS)
        calves = [self._entity.get_joint(name).link for name in robot.last_joints]
        self._feet = [links.get(foot, calf).idx_local for foot, calf in zip(feet, calves, strict=True)]
        self._entity.set_dofs_kp([robot.kp] * len(joints), self._dofs)
        self._entity.set_dofs_kv([robot.kd] * len(joints), self._dofs)
        if robot.base_mass_kg is not None:  # a base that is fixed to the root link has become a part of it
            links.get(robot.base_link, self._entity.base_link).set_mass(robot.base_mass_kg)
        physics = {"armature": robot.armature, "frictionloss": robot.friction, "damping": robot.damping}
        for name, value in physics.items():
            if value is not None:
                getattr(self._entity, f"set_dofs_{name}")([value] * len(joints), self._dofs)
        self._bodies = BodyChanges(self._scene, self._entity, self._dofs, robot, self._vary) if self._vary else None
        self._take_control()
        self._scene.step()  # compiles what it needs, and gives the views something to be tried on
        self._views = views.bind(gs, self._scene, self._entity, self._dofs)
        self.reset_scene()

    def _take_control(self) -> None:
        """Put the joints under position control; a reset of the scene ends it."""
        pose = torch.tensor(self.robot.default_pose_rad, device=self.device)
        self._entity.control_dofs_position(pose.expand(self.num_envs, -1), self._dofs)

    def reset_scene(self) -> None:
        """Put every environment back to the state after the build, the solver's warm start included.

        What follows does not depend on what was simulated before.
        """
        self._scene.reset()
        self._locked = None
        if self._bodies is not None:
            self._bodies.restore()
        self._take_control()

    def place(
        self,
        mask: torch.Tensor,
        base_quat: torch.Tensor,
        joint_pos_rad: torch.Tensor,
        base_xy_m: torch.Tensor | float = 0.0,
    ) -> None:
        """Put robots at rest at their start height.

        Args:
            mask: bool [N], the environments to place.
            base_quat: [N, 4] (w, x, y, z); joint_pos_rad: [N, J]; base_xy_m: [N, 2].  Rows outside the mask are
                ignored.
        """
        qpos = torch.zeros(self.num_envs, self._entity.n_qs, device=self.device)
        qpos[:, :2] = base_xy_m
        qpos[:, 2] = self.robot.start_height_m
        qpos[:, 3:7] = base_quat
        qpos[:, self._qs] = joint_pos_rad
        if self._locked is not None:
            pose = torch.tensor(self.robot.default_pose_rad, device=self.device)
            qpos[:, self._qs] = torch.where(self._locked, pose, qpos[:, self._qs])
        if self._views is not None:
            self._views.place(mask, qpos)
        elif self._gs.use_zerocopy:
            self._entity.set_qpos(qpos, envs_idx=mask, zero_velocity=True)
        else:  # masks are for arrays in shared memory
            envs = mask.nonzero().squeeze(1)
            self._entity.set_qpos(qpos[envs], envs_idx=envs, zero_velocity=True)

    def vary(self, mask: torch.Tensor, physics: Physics) -> None:
        """Give the environments in ``mask``, bool [N], other bodies, until they get others or the scene is reset."""
        if self._bodies is None:
            raise ValueError("this scene was built for robots that are all alike")
        self._bodies.apply(mask, physics)
        self._locked = physics.locked

    def push(self, mask: torch.Tensor, speed_m_s: torch.Tensor) -> None:
        """Add [N, 2] to the speeds of the bases in ``mask``, bool [N]: x and y, in the world."""
        envs, xy = mask.nonzero().squeeze(1), torch.tensor([0, 1], device=self.device)
        if len(envs):
            moving = self._entity.get_dofs_velocity(xy, envs)
            self._entity.set_dofs_velocity(moving + speed_m_s[envs], xy, envs)

    def step(self, joint_target_rad: torch.Tensor) -> torch.Tensor:
        """Advance 0.02 s under PD control towards joint targets [N, J].

        Returns:
            bool [N], environments whose solver failed in this step; their state must be placed anew.
        """
        if self._views is None:
            self._entity.control_dofs_position(joint_target_rad, self._dofs)
        else:
            self._views.aim(joint_target_rad)
        self._scene.step(update_visualizer=False)
        if self._views is None:
            return self._scene.sim.rigid_solver.get_error_envs_mask().clone()
        return self._views.solver_failed()

    def state(self) -> RobotState:
        """The state after the last step or placement; the tensors are the caller's."""
        if self._views is None:
            return RobotState(*views.read_publicly(self._entity, self._dofs))
        return RobotState(*self._views.read())

    def foot_contact(self) -> torch.Tensor:
        """Which lower legs touched something in the last step: bool [N, 4], legs FR, FL, RR, RL."""
        return self.foot_force_n().norm(dim=2) > CONTACT_N

    def foot_force_n(self) -> torch.Tensor:
        """What lower legs were pushed with in the last step, [N, 4, 3] in the world frame, legs FR, FL, RR, RL."""
        return self._entity.get_links_net_contact_force()[:, self._feet]

    def joint_torque_nm(self) -> torch.Tensor:
        """The motors' torques after the last step: [N, J]."""
        return self._entity.get_dofs_control_force(self._dofs)
