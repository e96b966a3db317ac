"""The header of every benchmark: date, machine, versions."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe() -> str:
    """Date, processor, cores, memory and the versions that matter, as a few lines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("drexcache", "torch", "openvino", "timm", "numpy", "h5py", "scikit-learn", "pillow")
    return "\n".join(
        (
            f"date: {datetime.date.today()}",
            f"machine: {processor}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
            f"versions: python {platform.python_version()}, " + ", ".join(map(_installed, packages)),
        )
    )


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"
