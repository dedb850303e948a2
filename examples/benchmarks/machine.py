"""What the numbers were measured on."""

from __future__ import annotations

import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import time

import numpy as np
from cases import cores


def describe() -> dict[str, str]:
    """Processor, memory and system."""
    return {
        "processor": processor(),
        "cores": str(cores()),
        "memory": memory(),
        "system": f"{platform.system()}, {' '.join(platform.libc_ver())}",
    }


def describe_copying() -> dict[str, str]:
    """How fast one core copies arrays that fit into its caches, and others."""
    facts = {}
    for mebibytes in (16, 256):
        rate = copy_bandwidth(mebibytes << 20)
        facts[f"NumPy copies {mebibytes} MiB at"] = f"{rate / 2**30:.1f} GiB/s (read + write)"
    return facts


def describe_gpu() -> dict[str, str]:
    """What `nvidia-smi` says, where there is one."""
    if not shutil.which("nvidia-smi"):
        return {}
    fields = {"GPU": "name", "GPU memory": "memory.total", "driver": "driver_version"}
    query = ["nvidia-smi", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    first = done.stdout.splitlines()[:1]
    return dict(zip(fields, first[0].split(", "), strict=False)) if first else {}


class Bystanders:
    """Processor time that others use while this process and its children measure."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), self._used()

    def cores(self) -> float | None:
        """How many cores they kept busy on average; children must have ended. None if unknown."""
        began, used = self.start
        now = self._used()
        if used is None or now is None:
            return None
        return max(0.0, (now - used) / (time.perf_counter() - began))

    def _used(self) -> float | None:
        """Seconds of the whole machine so far, but for those of this process and its children."""
        statistics_file = pathlib.Path("/proc/stat")
        if not statistics_file.exists():
            return None
        user, nice, system, _, _, *rest = map(int, statistics_file.read_text().split()[1:9])
        busy = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return busy - own.user - own.system - own.children_user - own.children_system


def processor() -> str:
    """Model name."""
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory() -> str:
    """Of the whole machine."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return "unknown"
    return f"{size / 2**30:.0f} GiB"


def copy_bandwidth(size: int, repeats: int = 15) -> float:
    """Bytes read and written per second when one core copies `size` bytes to where it has been."""
    source = np.ones(size // 4, np.float32)
    target = np.zeros_like(source)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * size / statistics.median(times)
