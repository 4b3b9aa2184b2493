"""Robots, the task, and the simulator that both live in.  Knows nothing about policies or learning."""
