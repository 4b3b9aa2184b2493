"""The runner for 64-bit Arm, under qemu: the same actions, whatever the processor has."""

import subprocess

import numpy as np
import pytest
from exports import contract_of, replay_rows, rounded, write
from fakes import tiny_model
from test_runner import OPTIONS, acted


@pytest.mark.parametrize(("options", "narrow"), [*((options, False) for options in OPTIONS), ({}, True)])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    ("cpu", "implementation"), [("max", "neon_dotprod"), ("cortex-a72", "neon"), ("cortex-a72", "portable")]
)
def test_it_acts_as_the_compiled_policy_here(cpu, implementation, dtype, options, narrow, aarch64, go2, tmp_path):
    model, rows = tiny_model(**options), replay_rows(80, resets=(50,))
    model = rounded(model) if narrow else model
    policy = write(tmp_path / "policy.bin", model, contract_of(model, go2, context_len=20, dtype=dtype))
    rows.tofile(tmp_path / "in")
    command = ["qemu-aarch64", "-cpu", cpu, aarch64 / "vintix_replay", policy, "replay", tmp_path / "in"]
    subprocess.run([*command, tmp_path / "out", implementation], check=True)
    found = np.fromfile(tmp_path / "out", np.float32).reshape(len(rows), 12)
    # Rounded otherwise, a number may fall to the next of 8-bit levels.
    np.testing.assert_allclose(found, acted(model, rows, 20, dtype), atol={"float32": 1e-5, "int8": 4e-3}[dtype])


def test_byte_products_are_used_only_where_the_processor_has_them(aarch64, go2, tmp_path):
    model = tiny_model()
    policy = write(tmp_path / "policy.bin", model, contract_of(model, go2, context_len=8))
    for cpu, expected in (("max", "neon_dotprod"), ("cortex-a72", "neon")):
        command = ["qemu-aarch64", "-cpu", cpu, aarch64 / "vintix_replay", policy, "time", "1"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert f'"implementation": "{expected}"' in said
