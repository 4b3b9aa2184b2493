"""Bodies that differ between environments, given to a robot in a built Genesis scene.

Owns what Genesis must be told so that the physics really changes.  The friction of a contact is the larger one of its
two geoms: the ground's must fall with the robot's, or nothing changes.  Masses and gains are one for all environments
unless the scene was built with `scene_options`.  Imports nothing of Genesis: it is handed in.
"""

from __future__ import annotations

from typing import Any

import torch

from vintix_fast.world.drawn import Physics
from vintix_fast.world.robot import Robot
from vintix_fast.world.variation import Variation

OF_LINKS = {"payload_kg", "base_mass_kg", "com_x_m", "com_y_m", "com_z_m"}
OF_JOINTS = {"motor", "kp", "kd", "limp", "joint_range", "locked"}
OWN = Physics(*[None] * len(Physics._fields))


def scene_options(variation: Variation) -> dict[str, bool]:
    """Of ``RigidOptions``: whether masses, and whether gains and limits, are kept for each environment.

    What does not vary is kept once: reading it for each environment costs every step.
    """
    names = {entry.name for entry in variation.entries}
    return {"batch_links_info": bool(names & OF_LINKS), "batch_dofs_info": bool(names & OF_JOINTS)}


class BodyChanges:
    """Gives environments other bodies than the robot's own, which is that of the scene as it was built.

    Args:
        scene: built with `scene_options`.
        entity: the robot in it.
        joint_dofs: [J] integers, of the joints in the robot file's order, counted from the entity's first.
        robot: its default pose.
        variation: what `apply` may change.
    """

    def __init__(self, scene: Any, entity: Any, joint_dofs: torch.Tensor, robot: Robot, variation: Variation) -> None:
        self._solver, self._entity, self._dofs = scene.sim.rigid_solver, entity, joint_dofs
        self._all = torch.ones(scene.n_envs, dtype=torch.bool, device=joint_dofs.device)
        own = scene_options(variation)
        links = {link.name: link for link in entity.links}
        self._base = [links.get(robot.base_link, entity.base_link).idx]
        self._pose = torch.tensor(robot.default_pose_rad, device=joint_dofs.device)  # [J]
        # What the robot has by itself, [N, ...].
        if own["batch_links_info"]:
            self._mass = self._solver.get_links_mass(self._base)[:, 0]
            self._com, self._inertia = (
                read(self._base)[:, 0] for read in (self._solver.get_links_COM, self._solver.get_links_inertia)
            )
            self._frame = _rotation(torch.as_tensor(entity.solver.links[self._base[0]].desc.inertial_quat).float())
            self._frame = self._frame.to(joint_dofs.device)
        if own["batch_dofs_info"]:
            self._kp, self._kd = entity.get_dofs_kp(joint_dofs), entity.get_dofs_kv(joint_dofs)
            self._torque, self._limit = entity.get_dofs_force_range(joint_dofs), entity.get_dofs_limit(joint_dofs)
        self._friction = self._solver.get_geoms_friction().clamp_min(1e-6)  # [geoms], the ground's too
        self._changed: set[str] = set()

    def apply(self, mask: torch.Tensor, physics: Physics) -> None:
        """Give the environments in ``mask``, bool [N], the bodies of ``physics``, and their own where it is None.

        What an earlier call changed in environments outside the mask stays.
        """
        envs = mask.nonzero().squeeze(1)
        given = {name for name, value in physics._asdict().items() if value is not None}
        touched = given | self._changed
        if touched & {"payload", "base_mass_kg", "com_m"}:
            self._set_base(envs, physics)
        if "friction" in touched:
            # Of a reset scene it is the geoms' own again.
            ratio = torch.ones(len(envs), len(self._friction), device=envs.device)
            if physics.friction is not None:
                ratio = physics.friction[envs, None] / self._friction
            self._solver.set_geoms_friction_ratio(ratio, None, envs)
        if touched & {"kp", "kd", "torque"}:
            for own, factor, give in (
                (self._kp, physics.kp, self._entity.set_dofs_kp), (self._kd, physics.kd, self._entity.set_dofs_kv),
            ):  # fmt: skip
                give((own if factor is None else own * factor)[envs], self._dofs, envs)
            limits = [own if physics.torque is None else _times(own, physics.torque) for own in self._torque]
            self._entity.set_dofs_force_range(*(limit[envs] for limit in limits), self._dofs, envs)
        if touched & {"joint_range", "locked"}:
            limits = list(self._limit)
            if physics.joint_range is not None:
                limits = [self._pose + _times(limit - self._pose, physics.joint_range) for limit in limits]
            if physics.locked is not None:
                limits = [torch.where(physics.locked, self._pose, limit) for limit in limits]
            self._entity.set_dofs_limit(*(limit[envs] for limit in limits), self._dofs, envs)
        self._changed = given

    def restore(self) -> None:
        """Give all environments the robot's own body."""
        self.apply(self._all, OWN)

    def _set_base(self, envs: torch.Tensor, physics: Physics) -> None:
        """Mass, centre of mass and inertia of the base with its payload, which is a point."""
        mass, com = self._mass[envs].clone(), self._com[envs].clone()
        if physics.base_mass_kg is not None:
            mass = physics.base_mass_kg[envs]
        if physics.com_m is not None:
            com = com + physics.com_m[envs]
        inertia = self._inertia[envs]
        if physics.payload is not None:
            added, at = physics.payload[envs, 0], physics.payload[envs, 1:]
            whole = mass + added
            centre = (mass[:, None] * com + added[:, None] * at) / whole[:, None]
            # Of both about the common centre (Huygens and Steiner), in the frame that Genesis keeps inertias in.
            moved = _about(mass, com - centre) + _about(added, at - centre)  # [n, 3, 3]
            inertia = inertia + self._frame.T @ moved @ self._frame
            mass, com = whole, centre
        self._solver.set_links_mass(mass[:, None], self._base, envs)
        self._solver.set_links_COM(com[:, None], self._base, envs)
        self._solver.set_links_inertia(inertia[:, None], self._base, envs)


def _about(mass: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Inertia [n, 3, 3] of points of mass [n] at offsets [n, 3]: m (|r|^2 1 - r r^T)."""
    square = offset.square().sum(dim=1)[:, None, None] * torch.eye(3, device=offset.device)
    return mass[:, None, None] * (square - offset[:, :, None] * offset[:, None, :])


def _times(limit: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Infinite limits stay so, also times 0."""
    return torch.where(limit.isinf(), limit, limit * factor)


def _rotation(quat: torch.Tensor) -> torch.Tensor:
    """[3, 3] of a quaternion (w, x, y, z): from the inertial frame to the link's."""
    w, x, y, z = quat.tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
