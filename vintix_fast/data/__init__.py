"""Trajectories on disk and what is made of them."""

from vintix_fast.data.schema import open_writer
from vintix_fast.data.trajectories import History, ShapeError, Trajectories, joined, read_trajectories
from vintix_fast.data.windows import Batch, Targets, Windows
