"""The machine a figure was measured on, and which core a process may use."""

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ("aiohttp", "uvloop", "msgspec", "pycasbin", "psycopg")


def about() -> dict[str, str]:
    """Return what a reader needs to judge the figures; the load average tells whether the machine was quiet."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": f"{_cpu_name()} ({len(cores())} cores)",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "load average": f"{os.getloadavg()[0]:.2f}",
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def cores() -> list[int]:
    """Return the cores this process may use, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(processes: Iterable[int], core: int) -> None:
    """Bind processes, with all their threads, to one core. Does nothing where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for pid in processes:
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, {core})


def cpu_seconds(processes: Iterable[int]) -> float:
    """Return the processor time, user and system, that processes have used so far."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in processes)
