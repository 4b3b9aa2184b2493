"""What the tests of `play` share."""

import pytest

from vintix_fast.world.robot import load_robot


@pytest.fixture(scope="session")
def minicheetah():
    return load_robot("minicheetah")
