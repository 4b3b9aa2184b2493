"""What is pushed comes out, in order, at once or one step late."""

import numpy as np
import pytest
import torch

from vintix_fast.rollout import HostCopies

CPU = torch.device("cpu")


def step(t, device="cpu"):
    return {
        "action": torch.full((5, 3), float(t), device=device).T.contiguous().T,  # not C-contiguous
        "step_num": torch.full((5,), t, dtype=torch.int32, device=device),
        "done": torch.full((5,), t % 2, dtype=torch.uint8, device=device),
    }


def push_all(copies, device="cpu"):
    """The step numbers that come out of each push, and at last of two flushes."""
    out = []
    for t in range(5):
        arrived = copies.push(step(t, device))
        for columns in arrived:
            assert all(array.flags.c_contiguous for array in columns.values())
            assert [array.dtype for array in columns.values()] == [np.float32, np.int32, np.uint8]
            number = int(columns["step_num"][0])
            for name, column in step(number).items():
                np.testing.assert_array_equal(columns[name], column)
        out.append([int(columns["step_num"][0]) for columns in arrived])
    return [*out, *([int(columns["step_num"][0]) for columns in copies.flush()] for _ in range(2))]


def test_on_a_cpu_a_step_comes_out_as_it_is_pushed():
    assert push_all(HostCopies(CPU)) == [[0], [1], [2], [3], [4], [], []]


def test_late_steps_come_out_at_the_next_push_and_the_last_one_at_a_flush():
    copies = HostCopies(CPU, late=True)
    for _ in range(2):  # it can be used again after a flush
        assert push_all(copies) == [[], [0], [1], [2], [3], [4], []]


def test_what_is_on_loan_stays_as_it_is_until_the_next_push():
    copies = HostCopies(CPU, late=True)
    source = step(0)
    copies.push(source)
    (loan,) = copies.push(step(1))
    source["action"].fill_(9.0)
    assert (loan["action"] == 0.0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_copies_from_a_gpu():
    copies = HostCopies(torch.device("cuda"))
    assert push_all(copies, "cuda") == [[], [0], [1], [2], [3], [4], []]
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert push_all(copies, "cuda") == [[], [0], [1], [2], [3], [4], []]
    finally:
        torch.cuda.set_sync_debug_mode("default")
