"""A robot on a stage: put into poses and photographed.  Knows nothing about films, runs or what made the poses."""

from __future__ import annotations

from typing import Any

import torch

from vintix_fast.service.errors import VintixFastError
from vintix_fast.world.robot import Robot
from vintix_fast.world.scene import robot_file
from vintix_fast.world.simulator import said, start_genesis, torch_globals_restored


class Stage:
    """A robot that is not simulated but put into poses and photographed, without a display.

    Drivers can crash the process while it draws, which no exception reports: use a process of its own.

    Args:
        robot: the robot to show.
        size: width and height of a picture in pixels.

    Raises:
        VintixFastError: nothing can be drawn here; the message says what to install.
    """

    def __init__(self, robot: Robot, size: tuple[int, int]) -> None:
        with torch_globals_restored():
            gs = start_genesis(torch.device("cpu"))
            try:
                self._scene = gs.Scene(
                    vis_options=gs.options.VisOptions(
                        background_color=(0.87, 0.91, 0.95), ambient_light=(0.45, 0.45, 0.45)
                    ),
                    profiling_options=gs.options.ProfilingOptions(show_FPS=False),
                    show_viewer=False,
                )
                self._scene.add_entity(gs.morphs.Plane(tile_size=(0.5, 0.5)))
                with robot_file(gs, robot, drawn=True) as morph:
                    self._entity = self._scene.add_entity(morph)
                    self._camera = self._scene.add_camera(res=size, fov=30)
                    self._scene.build(n_envs=1)
                self._camera.render()
            except Exception as error:
                raise VintixFastError(f"Genesis cannot draw {robot.name}: {said(error)}") from error
        self._qs = [self._entity.get_joint(name).qs_idx_local[0] for name in robot.joints]

    def photograph(
        self,
        base_pos_m: torch.Tensor,
        base_quat: torch.Tensor,
        joint_pos_rad: torch.Tensor,
        camera_m: tuple[float, float, float],
        look_at_m: tuple[float, float, float],
    ) -> Any:
        """A picture of the robot in one pose of `RobotState`, from ``camera_m``: NumPy uint8 [height, width, 3]."""
        qpos = torch.zeros(1, self._entity.n_qs)
        qpos[0, :3], qpos[0, 3:7], qpos[0, self._qs] = base_pos_m, base_quat, joint_pos_rad
        self._entity.set_qpos(qpos, zero_velocity=True)
        # Without "up" the camera keeps the roll that it had in its last pose.
        self._camera.set_pose(pos=camera_m, lookat=look_at_m, up=(0.0, 0.0, 1.0))
        return self._camera.render(force_render=True)[0]
