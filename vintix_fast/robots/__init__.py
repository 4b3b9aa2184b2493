"""The robots that can be adapted: one small file each, and the code that reads and checks it."""

from vintix_fast.robots.robot import LEGS, N_JOINTS, Robot, find_task, joint_signs, load_robot, robot_names

__all__ = ["LEGS", "N_JOINTS", "Robot", "find_task", "joint_signs", "load_robot", "robot_names"]
