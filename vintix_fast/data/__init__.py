"""Trajectories on disk and what is made of them."""

from vintix_fast.data.trajectories import History, ShapeError, Trajectories, joined, read_trajectories
from vintix_fast.data.windows import Batch, Targets, Windows
from vintix_fast.data.writer import open_writer
