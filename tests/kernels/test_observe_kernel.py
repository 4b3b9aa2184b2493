"""The plain observation against rotation matrices, and the Triton kernel against the plain observation."""

import math

import pytest
import torch
from interpreter import Compiler, interpret, run_python

from vintix_fast.kernels import reference

SIZES = [(1, 12), (3, 12), (65, 12), (5, 1), (7, 17)]
TOLERANCE = 1e-6
"""A dozen products of numbers of about 1 in float32, rounded in another order."""


def make_inputs(num_envs, num_joints, device="cpu", layout="rows"):
    """The arguments of `observe`; ``layout`` of the states: "rows", "strided" ones, or "columns" one after another."""
    generator = torch.Generator().manual_seed(num_envs + num_joints)

    def state(columns):
        wide = torch.randn(num_envs, 2 * columns + 3, generator=generator).to(device)
        if layout == "columns":
            return wide.T.contiguous().T[:, :columns]
        return wide[:, 1 : columns + 1] if layout == "strided" else wide[:, :columns].contiguous()

    quat = state(4)
    quat /= quat.norm(dim=1, keepdim=True)
    default, command = torch.randn(num_joints, generator=generator), torch.randn(3, generator=generator)
    return quat, state(3), state(num_joints), state(num_joints), default.to(device), command.to(device)


def check_fused(device):
    """Compares the kernel with the plain version; also run in the interpreter, by the test below."""
    from vintix_fast.kernels import fused

    for num_envs, num_joints in SIZES:
        for layout in ("rows", "strided", "columns"):
            inputs = make_inputs(num_envs, num_joints, device, layout)
            out = fused.observe(*inputs)
            assert out.shape == (num_envs, 9 + 2 * num_joints)
            torch.testing.assert_close(out, reference.observe(*inputs), atol=TOLERANCE, rtol=TOLERANCE)
        mean, std = torch.randn(2, out.shape[1], generator=torch.Generator().manual_seed(0)).to(device)
        std = std.abs()
        std[6] = 0.0  # of a command that never varies
        for seen, expected in zip(
            fused.observe_and_normalise(*inputs, mean, std),
            reference.observe_and_normalise(*inputs, mean, std),
            strict=True,
        ):
            # Divided by standard deviations down to 1e-6, which magnify.
            torch.testing.assert_close(seen, expected, atol=100 * TOLERANCE, rtol=10 * TOLERANCE)


def check_compiles():
    from vintix_fast.kernels import fused

    compiler = fused._observe_kernel = Compiler(fused._observe_kernel)
    inputs = make_inputs(3, 12)
    fused.observe(*inputs)
    fused.observe_and_normalise(*inputs, torch.zeros(33), torch.ones(33))
    assert len(compiler.compiled) == 2


def rotation_z_y_x(roll, pitch, yaw):
    """Body to world, as the product of three elementary rotations, in float64."""
    c, s = math.cos, math.sin
    x = [[1, 0, 0], [0, c(roll), -s(roll)], [0, s(roll), c(roll)]]
    y = [[c(pitch), 0, s(pitch)], [0, 1, 0], [-s(pitch), 0, c(pitch)]]
    z = [[c(yaw), -s(yaw), 0], [s(yaw), c(yaw), 0], [0, 0, 1]]
    x, y, z = (torch.tensor(m, dtype=torch.float64) for m in (x, y, z))
    return z @ y @ x


def quaternion_z_y_x(roll, pitch, yaw):
    """The same rotation as a quaternion, multiplied out from the three half angles."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a / 2), math.sin(a / 2)) for a in (roll, pitch, yaw))
    return [
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    ]


ANGLES = [(0.3, -0.2, 1.1), (-1.0, 0.7, -2.5), (0.0, 0.0, math.pi / 2), (3.0, 0.1, 0.2)]


@pytest.mark.parametrize("angles", ANGLES)
def test_rotation_into_the_body_is_the_transposed_matrix(angles):
    vector = torch.tensor([0.7, -1.3, 2.0], dtype=torch.float64)
    quat = torch.tensor([quaternion_z_y_x(*angles)], dtype=torch.float64)
    expected = rotation_z_y_x(*angles).T @ vector
    torch.testing.assert_close(reference.rotate_into_body(quat, vector[None])[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("angles", ANGLES)
def test_gravity_and_turning_by_rotation_matrices(angles):
    quat = torch.tensor([quaternion_z_y_x(*angles)])
    turning = torch.tensor([0.4, -0.9, 1.7])
    zeros = torch.zeros(1, 12)
    seen = reference.observe(quat, turning[None], zeros, zeros, torch.zeros(12), torch.tensor([0.5, 0.1, 0.2]))[0]
    to_body = rotation_z_y_x(*angles).T.float()
    torch.testing.assert_close(seen[0:3], 0.25 * (to_body @ turning), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[3:6], -to_body[:, 2], atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[6:9], torch.tensor([1.0, 0.2, 0.05]))


def test_triton_kernel_in_the_interpreter():
    pytest.importorskip("triton", reason="triton is not installed")
    interpret("import test_observe_kernel; test_observe_kernel.check_fused('cpu')")


def test_triton_kernel_compiles_for_a_gpu():
    pytest.importorskip("triton", reason="triton is not installed")
    run_python("import test_observe_kernel; test_observe_kernel.check_compiles()")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_triton_kernel_on_the_gpu():
    check_fused("cuda")
