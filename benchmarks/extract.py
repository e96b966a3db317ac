"""Extraction, ours beside the plain loop in the same run: the drex recipe's two arms with random weights.

    python benchmarks/extract.py > benchmarks/results/extract.md          on drawn pictures
    python benchmarks/extract.py --images FOLDER                          on your own

The plain loop opens each picture with Pillow, sends it through two torchvision transforms and both models with forward
hooks, one picture at a time, fp32. Each measurement is a process of its own, plain and ours in turns; model loading
and compilation are not in the rates and are shown beside them. Some eight minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from machine import describe
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from drexcache import open_cache, read_images, recipe
from drexcache.devices import resolve_device
from drexcache.features import extract
from drexcache.features.backbone import Backbone, bf16_is_slow
from drexcache.features.demo_pictures import draw_set
from drexcache.features.memory import keep_freed_memory
from drexcache.features.reading import default_workers, read_ahead

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ("layer1", "layer2", "layer3", "layer4")
GOALS = {"fp32": 1.3, "bf16": 2.7}  # on two CPU cores
GOAL_CUDA = 30.0


def plain(folder: Path, out: Path, count: int) -> dict[str, Any]:
    """The paper's features as their reader would compute them."""
    device = resolve_device("auto")
    resnet = timm.create_model("resnet50", num_classes=0).eval().to(device)
    dino = timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0, img_size=224).eval().to(device)
    stages: dict[str, torch.Tensor] = {}
    for name in STAGES:
        getattr(resnet, name).register_forward_hook(lambda _m, _i, o, name=name: stages.update({name: o}))
    normalise = transforms.Normalize(MEAN, STD)
    for_resnet = transforms.Compose([transforms.Resize((512, 512)), transforms.ToTensor(), normalise])
    for_dino = transforms.Compose([transforms.ToTensor(), transforms.Resize((224, 224), antialias=True), normalise])
    rows, paths = [], [folder / name for name in read_images(folder, ratings=False).ids[:count]]
    with torch.no_grad():
        for path in [paths[0], *paths]:
            if len(rows) == 1:
                started = time.perf_counter()  # the first picture warms up
            picture = Image.open(path).convert("RGB")
            resnet(for_resnet(picture)[None].to(device))
            cls = dino.forward_features(for_dino(picture)[None].to(device))[0, 0]
            rows.append(torch.cat([cls, *(stages[name].mean((2, 3))[0] for name in STAGES)]).cpu().numpy())
    return {"seconds": (time.perf_counter() - started) / len(paths), "ready": 0.0, "shares": {}}


def ours(folder: Path, out: Path, count: int, precision: str, compile: str) -> dict[str, Any]:
    """`extract` as a user calls it."""
    said: list[str] = []
    table = read_images(folder, ratings=False)
    table = table.shard(1, max(1, len(table) // count))
    drex = recipe("drex").with_options(precision=precision)
    summary = extract(table, drex, out, weights="random", compile=compile, say=said.append)
    compiled = [line.partition("(")[0].strip() for line in said if "compiled in" in line]
    seconds = summary.computing / summary.computed
    return {
        "seconds": seconds,
        "ready": summary.seconds - summary.computing,
        "shares": summary.shares,
        "said": compiled,
    }


def decode_only(folder: Path, out: Path, count: int, workers: int) -> dict[str, Any]:
    """Reading, hashing, decoding and both resizes, without a model."""
    table = read_images(folder, ratings=False)
    files, rows = table.files, np.arange(min(count, len(table)))
    started = time.perf_counter()
    for _ in read_ahead(files, rows, recipe("drex").blocks, workers, 2 * workers + 8):
        pass
    return {"seconds": (time.perf_counter() - started) / len(rows)}


def model_only(folder: Path, out: Path, count: int, block: int) -> dict[str, Any]:
    """One arm on pixels that are there already, eager fp32, with its arithmetic per image."""
    keep_freed_memory()
    backbone = Backbone(recipe("drex").blocks[block], "random", resolve_device("auto"))
    pixels = torch.zeros(backbone.batch, 3, *backbone.block.size, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        backbone(pixels[:1])
    times = [_timed(lambda: backbone(pixels).cpu()) for _ in range(4)]
    return {"seconds": statistics.median(times[1:]) / len(pixels), "flop": counter.get_total_flops()}


def gemm_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product here, the best of five."""
    device = resolve_device("auto")
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(_timed(lambda: (a @ a)[0, 0].float().item()) for _ in range(6))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


MODES: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "plain": plain,
    "fp32 eager": lambda *a: ours(*a, "fp32", "never"),
    "fp32 compiled": lambda *a: ours(*a, "fp32", "always"),
    "bf16 eager": lambda *a: ours(*a, "bf16", "never"),
    "bf16 compiled": lambda *a: ours(*a, "bf16", "always"),
    "decode, 1 thread": lambda *a: decode_only(*a, 1),
    f"decode, {default_workers()} threads": lambda *a: decode_only(*a, default_workers()),
    "dino alone": lambda *a: model_only(*a, 0),
    "resnet alone": lambda *a: model_only(*a, 1),
}


def in_a_process(mode: str, folder: Path, out: Path, count: int) -> dict[str, Any]:
    """One measurement."""
    options = ["--child", mode, "--images", str(folder), "--out", str(out), "--count", str(count)]
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def rates(folder: Path, work: Path, count: int, repeats: int) -> None:
    """Plain and ours in turns, and the bounds."""
    slow = bf16_is_slow(resolve_device("auto"))
    modes = [mode for mode in MODES if not (slow and mode.startswith("bf16"))]
    runs = [mode for mode in modes if mode == "plain" or "eager" in mode or "compiled" in mode]
    found: dict[str, list[dict[str, Any]]] = {mode: [] for mode in modes}
    for turn in range(repeats):
        for mode in runs:
            found[mode].append(in_a_process(mode, folder, work / f"{mode} {turn}.h5", count))
    alone = [mode for mode in modes if mode not in runs]
    for mode in alone:
        found[mode].append(in_a_process(mode, folder, work / "none.h5", count))
    base = statistics.median(run["seconds"] for run in found["plain"])
    print(f"\n{'':16} {'s/image':>8} {'images/s':>9} {'ratio':>6}  time went to")
    for mode in runs:
        middle = statistics.median(run["seconds"] for run in found[mode])
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in found[mode][-1]["shares"].items())
        print(f"{mode:16} {middle:8.3f} {1 / middle:9.1f} {base / middle:6.2f}  {shares}")
    for mode in runs:
        if "compiled" in mode:
            print(f"{mode}, to get ready: {found[mode][0]['ready']:.0f} s ({'; '.join(found[mode][0]['said'])})")
    print("\none thing at a time:")
    for mode in alone:
        print(f"{mode:20} {found[mode][0]['seconds']:8.4f} s/image {1 / found[mode][0]['seconds']:8.1f} images/s")
    goals(base, found, slow)
    floor(sum(found[f"{arm} alone"][0]["flop"] for arm in ("dino", "resnet")), found)
    if not slow:
        cosines(work)


def goals(base: float, found: dict[str, list[dict[str, Any]]], slow: bool) -> None:
    """How the best of ours stands to the goal of each precision."""
    cuda = torch.cuda.is_available()
    for precision, goal in GOALS.items():
        middles = [statistics.median(r["seconds"] for r in runs) for mode, runs in found.items() if precision in mode]
        if middles:
            print(f"{precision}: {base / min(middles):.2f} times the plain loop (goal {GOAL_CUDA if cuda else goal})")
    if slow:
        print("bf16: not timed, this processor has no bf16 arithmetic and takes many times as long as for fp32")


def floor(flop: float, found: dict[str, list[dict[str, Any]]]) -> None:
    """Both arms' arithmetic at this machine's rate for large matrix products, beside what we take."""
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        middles = [statistics.median(r["seconds"] for r in runs) for mode, runs in found.items() if precision in mode]
        if middles:
            rate = gemm_rate(dtype)
            print(
                f"arithmetic floor {precision}: {flop / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s = {flop / rate:.4f} "
                f"s/image; the best of ours takes {min(middles) * rate / flop:.2f} times that"
            )


def cosines(work: Path) -> None:
    """How far bf16's features are from fp32's, for each block."""
    full, brain = (open_cache(work / f"{precision} eager 0.h5") for precision in ("fp32", "bf16"))
    for block in full.blocks:
        found = cosine(full.features(block), brain.features(block))
        print(f"bf16 against fp32, block {block} (random weights): cosine {found}")


def cosine(a: np.ndarray, b: np.ndarray) -> str:
    """Mean and lowest cosine of the rows."""
    found = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return f"{found.mean():.6f} on average, {found.min():.6f} at worst"


def main() -> None:
    """Print the header, the rates and the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of pictures [default: drawn ones]")
    count = 512 if torch.cuda.is_available() else 32
    parser.add_argument("--count", type=int, default=count, help="pictures per measurement [default: 32, on a GPU 512]")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--child", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(MODES[args.child](args.images, args.out, args.count)))
        return
    device = resolve_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"```\n{describe()}\nruns on: {device.type}, {name}; load {os.getloadavg()[0]:.1f}; {args.count} pictures")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.images is None:
            for kind in ("shapes", "leaves"):
                draw_set(kind, -(-args.count // 2), work / "pictures", seed=0)
        rates(args.images or work / "pictures", work, args.count, args.repeats)
    print("```")


if __name__ == "__main__":
    main()
