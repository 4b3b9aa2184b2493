"""How a robot's joints answer to another robot's: a linear map of offsets from the default pose, speeds and actions.

A policy that was learned on the reference robot acts on another one through it: what the reference would do with its
joints is done with the target's, and what the target's joints do is seen as the reference's would.  Knows nothing of
robots; `transplant` makes the maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class JointMap:
    """Offsets from the default pose, speeds and actions of a reference robot's R joints as a target's J, and back."""

    to_target: np.ndarray  # [J, R]
    to_reference: np.ndarray  # [R, J]

    @staticmethod
    def of_signs(signs: np.ndarray) -> JointMap:
        """Joints that answer one to one, turned where ``signs`` [J] is -1."""
        both = np.diag(np.asarray(signs, dtype=np.float64))
        return JointMap(both, both)

    @property
    def is_identity(self) -> bool:
        return np.array_equal(self.to_target, np.eye(len(self.to_target)))

    def words(self) -> str:
        """What is done, for a person; nothing where nothing is."""
        if self.is_identity:
            return ""
        if set(np.unique(self.to_target)) <= {-1.0, 0.0, 1.0} and (np.abs(self.to_target).sum(axis=1) == 1).all():
            turned = int((self.to_target < 0).any(axis=1).sum())
            return f"{turned} of {len(self.to_target)} joints turned the other way"
        return "each leg's joints moving its foot as the reference's do"
