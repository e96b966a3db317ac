"""The gain from keeping freed memory on a CPU: EfficientNet-Lite0 at 512 px, without and with it, in fresh processes.

python benchmarks/allocator.py > benchmarks/results/allocator.txt
"""

from __future__ import annotations

import subprocess
import sys

from machine import describe

CODE = """
import sys, time, torch
from drexcache.features.engines import keep_freed_memory
from drexcache.features.loading import load_backbone
from drexcache.recipes import recipe
if sys.argv[1] == "kept":
    assert keep_freed_memory()
model = load_backbone(recipe("offline").blocks[1], "packaged", torch.device("cpu"))
pixels = torch.randint(0, 255, (8, 3, 512, 512), dtype=torch.uint8)
model(pixels)
started = time.perf_counter()
for _ in range(6):
    model(pixels)
print((time.perf_counter() - started) / 48)
"""


def seconds(mode: str) -> float:
    """Seconds per image, measured in a separate process; mode "kept" or "returned"."""
    command = [sys.executable, "-c", CODE, mode]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    print(describe())
    for _ in range(2):
        plain, kept = seconds("returned"), seconds("kept")
        print(f"freed memory returned {plain:.3f} s, kept {kept:.3f} s per image; ratio {kept / plain:.2f}", flush=True)
