"""Free memory: the bytes that training may use on a device, within the limits of containers and processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePosixPath

import psutil  # type: ignore[import-untyped]
import torch


if sys.platform != "win32":
    import resource

_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_NAMES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""For versions 2 and 1: the files of a group's limit and usage, and the name of cached files in `memory.stat`."""


def free_memory(device: torch.device, weights: int) -> int | None:
    """
    Returns the bytes that training may use on a device: what is free, and what holds the weights already.

    Args:
        device (`torch.device`):
            The device.
        weights (`int`):
            Bytes that this process holds for weights.

    Returns:
        `int`, *optional*: the bytes for this process; `None` if they are not known.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type != "cpu":
        return None
    free = min(psutil.virtual_memory().available, _free_in_container(_CGROUPS, _own_cgroups()))
    free = free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return int(min(free, _free_addresses())) + weights


def _own_cgroups() -> str:
    """Returns the lines that name the control groups of this process; nothing on systems without them."""
    path = Path("/proc/self/cgroup")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _free_in_container(root: Path, own_groups: str) -> float:
    """
    Returns the bytes that the limits of control groups leave, as containers, batch systems and systemd set them;
    infinity without a limit. `own_groups` holds lines such as `0::/path` (version 2) and `5:memory:/path` (version 1).
    """
    free = float("inf")
    for line in own_groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        group = PurePosixPath(path.lstrip("/"))
        for level in (group, *group.parents):  # a limit also holds for all groups below
            free = min(free, _free_in_group(root / controllers / level, *_CGROUP_NAMES[controllers]))
    return free


def _free_in_group(group: Path, limit_name: str, usage_name: str, cache_name: str) -> float:
    """Returns the bytes that the limit of one control group leaves; infinity without a limit."""
    limit, usage, statistics = group / limit_name, group / usage_name, group / "memory.stat"
    if not (limit.is_file() and usage.is_file()) or limit.read_text().strip() == "max":
        return float("inf")
    counts = dict(line.split() for line in statistics.read_text().splitlines()) if statistics.is_file() else {}
    # The usage counts files that the system has cached. It drops those that were not read lately.
    used = int(usage.read_text()) - int(counts.get(cache_name, 0))
    return max(int(limit.read_text()) - used, 0)


def _free_addresses() -> float:
    """Returns the bytes that `ulimit -v` leaves to this process; infinity without a limit."""
    if sys.platform == "win32":
        return float("inf")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    return max(limit - psutil.Process().memory_info().vms, 0)
