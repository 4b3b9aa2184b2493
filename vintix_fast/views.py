"""Genesis' own arrays of one robot as torch tensors that share their memory, bound once.

The public getters and setters of Genesis look their arrays up, check indices and copy in every call, which at some tens
of environments costs more than the numbers are worth.  These views reach into parts of Genesis that are not its public
interface: `bind` gives None where they are not as known here, and `vintix_fast.sim` then uses the public calls.
The numbers are the same, bit for bit; a test holds the two together.  Imports nothing of Genesis: it is handed in.
"""

from __future__ import annotations

from typing import Any

import torch


class StateViews:
    """Reads the state of ``entity`` and writes its joints' targets, for all environments at once.

    Valid as long as the scene: its arrays never move, not when it is reset either.
    """

    def __init__(self, gs: Any, scene: Any, entity: Any, joint_dofs: list[int]) -> None:
        solver, base = scene.sim.rigid_solver, entity.base_link_idx
        if not (solver._links_offset_pos_is_identity[base].all() and solver._links_offset_quat_is_identity[base].all()):
            raise NotImplementedError("the base link is moved against the robot's file")

        def view(array: Any) -> torch.Tensor:
            return gs.utils.misc.qd_to_torch(array, transpose=True, copy=False)  # [N, ...]

        links, dofs = solver.dyn_state.links, solver.dyn_state.dofs
        self._pos, self._quat = view(links.pos)[:, base], view(links.quat)[:, base]
        self._lin_vel, self._ang_vel = view(links.cd_vel)[:, base], view(links.cd_ang)[:, base]
        self._lin_vel_at = view(links.root_COM)[:, base]
        # [dofs, N], as they lie in memory: rows are picked, not columns.
        self._dof_pos, self._dof_vel, self._target = view(dofs.pos).T, view(dofs.vel).T, view(dofs.ctrl_pos).T
        self._error_code = view(solver._errno)
        self._dofs = torch.tensor(joint_dofs, device=self._pos.device) + entity.dof_start

    def read(self) -> tuple[torch.Tensor, ...]:
        """What `vintix_fast.sim.RobotState` holds, in its order; copies."""
        # The solver keeps the velocity at the centre of mass.
        lin_vel = self._lin_vel + self._ang_vel.cross(self._pos - self._lin_vel_at, dim=-1)
        return (
            self._pos.clone(),
            self._quat.clone(),
            lin_vel,
            self._ang_vel.clone(),
            self._dof_pos.index_select(0, self._dofs).T,
            self._dof_vel.index_select(0, self._dofs).T,
        )

    def aim(self, joint_target_rad: torch.Tensor) -> None:
        """Set the position targets [N, J] of joints that are under position control already."""
        self._target.index_copy_(0, self._dofs, joint_target_rad.T)

    def solver_failed(self) -> torch.Tensor:
        """bool [N]."""
        return self._error_code > 0


def bind(gs: Any, scene: Any, entity: Any, joint_dofs: list[int]) -> StateViews | None:
    """Views of a built scene; None where this Genesis keeps its state in another way, or not in memory to share.

    Args:
        joint_dofs: of the joints in the robot file's order, counted from the entity's first.
    """
    if not getattr(gs, "use_zerocopy", False):
        return None
    try:
        views = StateViews(gs, scene, entity, joint_dofs)
        base_pos, base_quat, lin_vel, ang_vel, joint_pos, joint_vel = views.read()
    except Exception:  # whatever another version of Genesis says to names that it does not have
        return None
    expected = (
        (base_pos, entity.get_pos()), (base_quat, entity.get_quat()), (lin_vel, entity.get_vel()),
        (ang_vel, entity.get_ang()), (joint_pos, entity.get_dofs_position(joint_dofs)),
        (joint_vel, entity.get_dofs_velocity(joint_dofs)),
    )  # fmt: skip
    return views if all(torch.equal(*pair) for pair in expected) else None
