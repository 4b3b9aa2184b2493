"""Genesis' own arrays of one robot as torch tensors that share their memory, bound once.

The public getters and setters of Genesis look their arrays up, check indices and copy in every call, which at some tens
of environments costs more than the numbers are worth.  These views reach into parts of Genesis that are not its public
interface: `bind` gives None where they are not as known here, and `simulator.py` then uses the public calls.  The
numbers are the same, on a CPU bit for bit; a test holds the two together.  Imports nothing of Genesis: it is handed in.
"""

from __future__ import annotations

from typing import Any

import torch


class StateViews:
    """Reads the state of ``entity``, writes its joints' targets and places it, for all environments at once.

    Valid as long as the scene: its arrays never move, not when it is reset either.
    """

    def __init__(self, gs: Any, scene: Any, entity: Any, joint_dofs: torch.Tensor) -> None:
        solver, base = scene.sim.rigid_solver, entity.base_link_idx
        if not (solver._links_offset_pos_is_identity[base].all() and solver._links_offset_quat_is_identity[base].all()):
            raise ValueError("the base link is moved against the robot's file")

        def view(array: Any) -> torch.Tensor:
            return gs.utils.misc.qd_to_torch(array, transpose=True, copy=False)  # [N, ...]

        self._solver, self._collider = solver, solver.collider
        # Kernels remember how they were called last while their arguments are the same objects, which a caller's tensor
        # is not: calling with one costs several times what the kernel does.
        self._mask_array = gs.qd.ndarray(gs.qd_bool, shape=(scene.n_envs,))
        self._mask = self._mask_array.to_torch(copy=False)
        self._update_links = gs.engine.solvers.rigid.abd.forward_kinematics.kernel_masked_forward_kinematics_links_geoms
        self._clear_contacts = gs.engine.solvers.rigid.collider.collider.kernel_masked_collider_clear

        links, dofs = solver.dyn_state.links, solver.dyn_state.dofs
        self._pos, self._quat = view(links.pos)[:, base], view(links.quat)[:, base]
        self._lin_vel, self._ang_vel = view(links.cd_vel)[:, base], view(links.cd_ang)[:, base]
        self._lin_vel_at = view(links.root_COM)[:, base]
        # [dofs, N], as they lie in memory: rows are picked, not columns.
        self._dof_pos, self._dof_vel, self._target = view(dofs.pos).T, view(dofs.vel).T, view(dofs.ctrl_pos).T
        self._qpos = view(solver.rigid_info.qpos)[:, entity.q_start : entity.q_start + entity.n_qs]
        self._all_vel = view(dofs.vel)[:, entity.dof_start : entity.dof_start + entity.n_dofs]
        self._error_code = view(solver._errno)
        self._dofs = joint_dofs + entity.dof_start

    def read(self) -> tuple[torch.Tensor, ...]:
        """What `vintix_fast.world.simulator.RobotState` holds, in its order; copies."""
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

    def place(self, mask: torch.Tensor, qpos: torch.Tensor) -> None:
        """Set the generalised positions of the environments in ``mask``, at rest: Genesis' ``set_qpos``.

        Args:
            mask: bool [N].
            qpos: [N, positions]; other rows are ignored.
        """
        solver, collider, rows = self._solver, self._collider, mask[:, None]
        solver.constraint_solver.reset(mask)
        self._all_vel.masked_fill_(rows, 0.0)
        torch.where(rows, qpos, self._qpos, out=self._qpos)
        self._error_code.masked_fill_(mask, 0)
        self._mask.copy_(mask)
        model = (solver.dyn_info, solver.rigid_info, solver.rigid_config)
        self._update_links(self._mask_array, solver.dyn_state, *model)
        solver._is_forward_pos_updated = solver._is_forward_vel_updated = True
        collider._contact_data_cache.clear()
        self._clear_contacts(
            self._mask_array, solver.dyn_state, collider.collider_state, *model, collider.collider_config
        )

    def solver_failed(self) -> torch.Tensor:
        """bool [N]."""
        return self._error_code > 0


def bind(gs: Any, scene: Any, entity: Any, joint_dofs: torch.Tensor) -> StateViews | None:
    """Views of a built scene; None where this Genesis keeps its state in another way, or not in memory to share.

    Tries them against the public calls, and moves the robots for that: best called in motion, and reset afterwards.

    Args:
        joint_dofs: [J] integers, of the joints in the robot file's order, counted from the entity's first.
    """
    if not getattr(gs, "use_zerocopy", False):
        return None
    try:
        views = StateViews(gs, scene, entity, joint_dofs)
        moving = _read_alike(views, entity, joint_dofs)
        qpos = entity.get_qpos()
        qpos = qpos + torch.tensor([0.1] * 3 + [0.0] * (entity.n_qs - 3), device=qpos.device)
        views.place(torch.ones(scene.n_envs, dtype=torch.bool, device=qpos.device), qpos)
        placed = torch.equal(entity.get_pos(), qpos[:, :3]) and not entity.get_vel().any()
        return views if moving and placed and _read_alike(views, entity, joint_dofs) else None
    except Exception:  # not as known here: also whatever another Genesis says to names that it does not have
        return None


def read_publicly(entity: Any, joint_dofs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What `StateViews.read` gives, through Genesis' public getters: the reference, and the way without views."""
    joints = entity.get_dofs_position(joint_dofs), entity.get_dofs_velocity(joint_dofs)
    return entity.get_pos(), entity.get_quat(), entity.get_vel(), entity.get_ang(), *joints


def _read_alike(views: StateViews, entity: Any, joint_dofs: torch.Tensor) -> bool:
    # A GPU rounds the base's velocity in another way.
    tolerance = 1e-5 if joint_dofs.is_cuda else 0.0
    pairs = zip(views.read(), read_publicly(entity, joint_dofs), strict=True)
    return all(torch.allclose(seen, public, rtol=tolerance, atol=tolerance) for seen, public in pairs)
