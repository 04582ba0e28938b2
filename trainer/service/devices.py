"""What the devices are doing."""

from __future__ import annotations

from trainer.execution.device_usage import GpuUsage, RunUsage, Usage
from trainer.service.lab import Lab

__all__ = ["GpuUsage", "RunUsage", "Usage", "usage"]


def usage(lab: Lab) -> Usage:
    """Utilization and memory of the devices, in all and by run, at most a moment old."""
    return lab.usage.read()
