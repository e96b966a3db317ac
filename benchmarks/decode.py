"""Images per second of reading, hashing, decoding and resizing alone, beside an earlier checkout, with equal pixels.

python benchmarks/decode.py IMAGES --before CHECKOUT

IMAGES: a folder. CHECKOUT: drexcache as it was, such as made by `git worktree add`. Both run in processes of their own,
in turns; the recipe is offline, whose arms take a float and an 8-bit resize of each image.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from machine import describe
from PIL import Image

ROOT = Path(__file__).parents[1]
TURNS = 3
LOADER = """
import importlib.util, sys
from pathlib import Path
root = Path(sys.argv[1])
for name, folder in {"drexcache": "drexcache", "drexcache.features": "features"}.items():
    home = root / folder
    spec = importlib.util.spec_from_file_location(name, home / "__init__.py", submodule_search_locations=[str(home)])
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
sys.argv = sys.argv[2:]
exec(compile(Path(sys.argv[0]).read_text(), sys.argv[0], "exec"), {"__name__": "__main__", "__file__": sys.argv[0]})
"""


def stages(paths: list[Path]) -> dict[str, float]:
    """Milliseconds an image of each stage, in one thread."""
    from drexcache.datasets import Decode, decoded
    from drexcache.features.pixels import to_pixels

    spent = dict.fromkeys(("read", "hash", "decode", "float resize to 224", "8-bit resize to 512"), 0.0)
    for path in paths:
        at = [time.thread_time()]
        data = path.read_bytes()
        at.append(time.thread_time())
        hashlib.sha256(data).digest()
        at.append(time.thread_time())
        with decoded(data, Decode()) as rgb:
            at.append(time.thread_time())
            to_pixels(rgb, (224, 224), "tensor-bilinear")
            at.append(time.thread_time())
            to_pixels(rgb, (512, 512), "pil-bilinear")
            at.append(time.thread_time())
        for name, seconds in zip(spent, np.diff(at), strict=True):
            spent[name] += 1000 * float(seconds) / len(paths)
    return spent


def child(paths: list[Path]) -> None:
    """Print seconds for all images with 1 and 2 threads, the stages, and a hash of all pixels."""
    import torch

    from drexcache.datasets import Decode, decoded
    from drexcache.features.fitting import to_size
    from drexcache.recipes import recipe

    torch.set_num_threads(1)
    blocks = recipe("offline").blocks

    def prepare(path: Path) -> bytes:
        data = path.read_bytes()
        hashlib.sha256(data).digest()
        with decoded(data, Decode()) as rgb:
            inputs = [np.asarray(to_size(rgb, block)) for block in blocks]
        return b"".join(hashlib.blake2b(np.ascontiguousarray(one)).digest() for one in inputs) if hashing else b""

    hashing, found = True, {}
    found["pixels"] = hashlib.sha256(b"".join(map(prepare, paths))).hexdigest()
    hashing = False
    for threads in (1, 2):
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            started = time.perf_counter()
            list(pool.map(prepare, paths))
            found[str(threads)] = time.perf_counter() - started
    print(json.dumps(found | {"stages": stages(paths)}))


def scaled(paths: list[Path]) -> tuple[int, int, int]:
    """JPEGs in which libjpeg decodes at a smaller scale, those whose pixels stay the same after the resize, and all."""
    from drexcache.features.pixels import to_pixels

    smaller = same = jpegs = 0
    for path in paths:
        data = path.read_bytes()
        if not data.startswith(b"\xff\xd8\xff"):
            continue
        jpegs += 1
        whole, draft = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(data))
        size = whole.size
        draft.draft(None, (224, 224))
        if draft.size == size:
            continue
        smaller += 1
        pairs = [to_pixels(one.convert("RGB"), (224, 224), "pil-bilinear") for one in (whole, draft)]
        same += bool(np.array_equal(*map(np.asarray, pairs)))
    return smaller, same, jpegs


def main() -> None:
    """Time both checkouts in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    paths = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if args.child:
        child(paths)
        return
    checkouts = {"before": args.before.resolve(), "now": ROOT}
    runs: dict[str, list[dict]] = {name: [] for name in checkouts}
    for _ in range(TURNS):
        for name, root in checkouts.items():
            line = [sys.executable, "-c", LOADER, str(root), __file__, str(args.images), "--child"]
            said = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT / "benchmarks").stdout
            runs[name].append(json.loads(said))
    print(f"{describe()}\nload {os.getloadavg()[0]:.1f}; {len(paths)} images, best of {TURNS} turns, recipe offline\n")
    print(f"{'':24} {'before':>10} {'now':>10} {'ratio':>7}")
    for threads in ("1", "2"):
        before, now = (len(paths) / min(run[threads] for run in runs[name]) for name in checkouts)
        print(f"{threads + ' threads, images/s':24} {before:10.1f} {now:10.1f} {now / before:7.2f}")
    for stage in runs["now"][0]["stages"]:
        before, now = (min(run["stages"][stage] for run in runs[name]) for name in checkouts)
        print(f"{stage + ', ms':24} {before:10.2f} {now:10.2f} {before / now:7.2f}")
    pixels = {run["pixels"] for name in checkouts for run in runs[name]}
    print(f"\npixels of both arms and checkouts: {'equal bit for bit' if len(pixels) == 1 else 'THEY DIFFER'}")
    smaller, same, jpegs = scaled(paths)
    print(f"decoded at a smaller scale for 224 pixels: {smaller} of {jpegs} JPEGs, {same} of them with the same pixels")


if __name__ == "__main__":
    main()
