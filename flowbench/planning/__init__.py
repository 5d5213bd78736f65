"""What a training will cost, before it is paid: parameters, FLOPs, memory, hours, disk."""

from flowbench.planning.estimate import Plan, plan, stored_speed

__all__ = ["Plan", "plan", "stored_speed"]
