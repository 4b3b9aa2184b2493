"""The robots that can be adapted: one small file each, and the code that reads and checks it."""

from vintix_fast.robots.robot import LEGS, Robot, find_task, joint_signs, load_robot, robot_names

__all__ = ["LEGS", "Robot", "find_task", "joint_signs", "load_robot", "robot_names"]
