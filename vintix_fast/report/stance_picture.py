"""A picture of a robot's stance: legs from the side and from above, feet, support polygon, centre of mass."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vintix_fast.report.plots import LEG_COLORS, RED
from vintix_fast.service.metrics import new_figure, save_figure
from vintix_fast.world.robot import LEGS, Robot
from vintix_fast.world.stance import Stance


def draw_stance(path: Path, robot: Robot, stance: Stance) -> None:
    """Write the picture, a PNG, to ``path``."""
    figure, _ = new_figure(size_in=(10, 5))
    figure.clear()
    side, above = figure.subplots(1, 2)
    soles = float(stance.feet[:, 2].min())
    for leg, color, joints, foot in zip(LEGS, LEG_COLORS, stance.joints, stance.feet, strict=True):
        chain = np.vstack([joints, foot])
        for axes, v in ((side, 2), (above, 1)):
            axes.plot(chain[:, 0], chain[:, v], "-", color=color, linewidth=2.5, label=leg)
            axes.plot(joints[:, 0], joints[:, v], "o", color=color, markersize=5)
            axes.plot(foot[0], foot[v], "s", color=color, markersize=8)
    # The base is drawn as the box between the first joints.
    hips = stance.joints[:, 0]
    outline = hips[[0, 1, 3, 2, 0]]
    above.plot(outline[:, 0], outline[:, 1], color="black", linewidth=1)
    side.plot(outline[:, 0], outline[:, 2], color="black", linewidth=3)
    above.fill(*stance.support.T, color="#dddddd", zorder=0, label="support polygon")
    side.axhline(soles, color="black", linewidth=0.8)
    for axes, v in ((side, 2), (above, 1)):
        axes.plot(
            stance.centre_of_mass[0], stance.centre_of_mass[v], "X", color=RED, markersize=11, label="centre of mass"
        )
        axes.set_aspect("equal")
        axes.set_xlabel("forward, m")
        axes.grid(alpha=0.3)
    side.set_ylabel("up, m")
    above.set_ylabel("left, m")
    side.set_title(f"{robot.name} from its right side: o joints, squares feet")
    above.set_title("from above")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    save_figure(figure, path)
