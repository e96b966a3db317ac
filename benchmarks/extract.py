"""Extraction, ours beside the plain loop in the same run: the drex recipe's two arms with random weights.

    python benchmarks/extract.py > benchmarks/results/extract.md          on drawn pictures
    python benchmarks/extract.py --images FOLDER                          on your own

The plain loop opens each picture with Pillow, sends it through two torchvision transforms and both models with forward
hooks, one picture at a time, fp32. Each measurement is a process of its own, plain and ours in turns, the best of the
repeats; loading and converting the models is not in the rates. On a CPU ours runs on torch and on OpenVINO, one picture
and eight at a time, alone and beside one and two programs that want a core each. Some seven minutes on two quiet cores.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
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
from drexcache.datasets import Target
from drexcache.devices import resolve_device
from drexcache.features import draw_set, extract
from drexcache.features.engines import keep_freed_memory
from drexcache.features.loading import bf16_is_slow, load_backbone, load_extractors
from drexcache.features.pipeline import default_workers, read_ahead
from drexcache.regressors import train_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ("layer1", "layer2", "layer3", "layer4")
GOALS = {"fp32": 1.9, "bf16": 3.3}  # on two CPU cores with AVX-512 and bf16
GOAL_AVX2 = 1.6
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


def ours(folder: Path, out: Path, count: int, precision: str, batch: int | None, **engine: str) -> dict[str, Any]:
    """`extract` as a user calls it."""
    table = read_images(folder, ratings=False)
    table = table.shard(1, max(1, len(table) // count))
    drex = recipe("drex").with_options(precision=precision)
    summary = extract(table, drex, out, weights="random", batch_size=batch, say=said, **engine)
    seconds = summary.computing / summary.computed
    return {"seconds": seconds, "ready": summary.seconds - summary.computing, "shares": summary.shares}


def said(line: str) -> None:
    """What extraction says goes to the terminal, not into the result."""
    print(line, file=sys.stderr)


def settle_ways(folder: Path, out: Path, count: int) -> dict[str, Any]:
    """Convert every backbone and find the fastest way of running it, as the first 128 pictures of a run do."""
    lines: list[str] = []
    for precision in precisions():
        for batch in BATCHES:
            blocks = recipe("drex").with_options(precision=precision).blocks
            options = {"batch": batch, "engine_cpu": "openvino"}
            for name, extractor in load_extractors(
                blocks, "random", torch.device("cpu"), lines.append, **options
            ).items():
                size = blocks[[block.name for block in blocks].index(name)].size
                extractor.get_ready(1_000)
                for _ in range(10):
                    extractor(list(torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)))
    kept = [line for line in lines if "converted" in line or "runs" in line]
    return {"seconds": 0.0, "said": kept}


def start_up(folder: Path, out: Path, count: int, engine: str) -> dict[str, Any]:
    """`drexcache predict` of one picture, in seconds, the better of two."""
    model, picture = out.with_name("model.drex"), folder / read_images(folder, ratings=False).ids[0]
    command = [sys.executable, "-m", "drexcache.cli", "predict", str(model), str(picture), "--engine-cpu", engine]
    command += ["-o", str(out.with_suffix(".csv"))]
    work = partial(subprocess.run, command, check=True, stderr=subprocess.DEVNULL)
    return {"seconds": min(_timed(work) for _ in range(2))}


def make_model(folder: Path, out: Path, count: int) -> dict[str, Any]:
    """A ridge on a few of the pictures, for `start_up`."""
    table = read_images(folder, ratings=False)
    table = replace(table, targets={"rating": Target("rating", np.linspace(0, 1, len(table)), 0.0, 1.0)})
    drex = recipe("drex")
    extract(table.shard(1, max(1, len(table) // 4)), drex, out, weights="random", say=said)
    cache = open_cache(out)
    train_model("ridge", cache.matrix(), cache, tuple(cache.blocks), seed=0).save(out.with_name("model.drex"))
    return {"seconds": 0.0}


def decode_only(folder: Path, out: Path, count: int, workers: int) -> dict[str, Any]:
    """Reading, hashing, decoding and both resizes, without a model."""
    table = read_images(folder, ratings=False)
    rows = np.arange(min(count, len(table)))
    extractors = load_extractors(recipe("drex").blocks, "random", torch.device("cpu"), said, engine_cpu="torch")
    started = time.perf_counter()
    for _ in read_ahead(table, rows, list(extractors.values()), workers, 2 * workers + 8):
        pass
    return {"seconds": (time.perf_counter() - started) / len(rows)}


def model_only(folder: Path, out: Path, count: int, block: int) -> dict[str, Any]:
    """One arm on pixels that are there already, eager fp32, with its arithmetic per image."""
    keep_freed_memory()
    backbone = load_backbone(recipe("drex").blocks[block], "random", resolve_device("auto"))
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


CUDA = torch.cuda.is_available()
BATCHES = (1, 8)


def precisions() -> list[str]:
    """Those that this processor has arithmetic for."""
    return ["fp32"] if bf16_is_slow(resolve_device("auto")) else ["fp32", "bf16"]


def modes() -> dict[str, Callable[[Path, Path, int], dict[str, Any]]]:
    """Name -> measurement, each made in a process of its own."""
    found: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {"plain": plain}
    for precision in precisions():
        if CUDA:
            found[f"{precision} eager"] = partial(ours, precision=precision, batch=None, compile="never")
            found[f"{precision} compiled"] = partial(ours, precision=precision, batch=None, compile="always")
        for batch in () if CUDA else BATCHES:
            for engine in ("torch", "openvino"):
                found[f"{precision} {engine} {batch}"] = partial(
                    ours, precision=precision, batch=batch, engine_cpu=engine
                )
    return found


OTHERS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "settle ways": settle_ways,
    "make model": make_model,
    "predict one picture, torch": partial(start_up, engine="torch"),
    "predict one picture, openvino": partial(start_up, engine="openvino"),
    "decode, 1 thread": partial(decode_only, workers=1),
    f"decode, {default_workers()} threads": partial(decode_only, workers=default_workers()),
    "dino alone": partial(model_only, block=0),
    "resnet alone": partial(model_only, block=1),
}


def in_a_process(mode: str, folder: Path, out: Path, count: int) -> dict[str, Any]:
    """One measurement."""
    options = ["--child", mode, "--images", str(folder), "--out", str(out), "--count", str(count)]
    environment = dict(os.environ) if mode == "plain" else {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as drexcache
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def beside(load: int) -> Iterator[None]:
    """So many other programs that want a whole core each."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def rates(folder: Path, work: Path, count: int, repeats: int) -> dict[str, float]:
    """Plain and ours in turns, alone and beside other programs; the best seconds per image of each, alone."""
    if not CUDA:
        for line in in_a_process("settle ways", folder, work / "none.h5", count)["said"]:
            print(line)
    quiet: dict[str, float] = {}
    for load in (0,) if CUDA else (0, 1, 2):
        names = [name for name in modes() if load == 0 or name == "plain" or name.endswith(" 8")]
        times: dict[str, list[float]] = {name: [] for name in names}
        shares: dict[str, str] = {}
        with beside(load):
            for turn in range(repeats if load == 0 else 1):
                for name in names:
                    out = work / f"{name} {load} {turn}.h5"
                    run = in_a_process(name, folder, out, count if load == 0 else count // 2)
                    times[name].append(run["seconds"])
                    shares[name] = ", ".join(f"{stage} {share:.0%}" for stage, share in run["shares"].items())
        best = {name: min(seconds) for name, seconds in times.items()}
        quiet = quiet or best
        beside_what = f"beside {load} busy (share {1 / (1 + load):.2f})" if load else "alone"
        print(f"\n{beside_what:26} {'s/image':>8} {'images/s':>9} {'ratio':>6} {'of alone':>9}  time went to")
        for name, seconds in best.items():
            ratio, kept = best["plain"] / seconds, quiet[name] / seconds
            print(f"{name:26} {seconds:8.3f} {1 / seconds:9.1f} {ratio:6.2f} {kept:9.2f}  {shares[name]}", flush=True)
    return quiet


def alone(folder: Path, work: Path, count: int) -> int:
    """One thing at a time; the arithmetic of both arms, in FLOP an image."""
    print("\none thing at a time:")
    flop = 0
    for name in [name for name in OTHERS if not (CUDA and "predict" in name)]:
        if name == "settle ways":
            continue
        found = in_a_process(name, folder, work / "alone.h5", count)
        flop += found.get("flop", 0)
        if name.startswith("predict"):
            print(f"{name:30} {found['seconds']:6.1f} s from start to end")
        elif name != "make model":
            print(f"{name:30} {found['seconds']:8.4f} s/image {1 / found['seconds']:8.1f} images/s")
    return flop


def goals(quiet: dict[str, float], flop: int) -> None:
    """How the best of ours stands to the goal of each precision, and to this machine's rate for matrix products."""
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        mine = {name: seconds for name, seconds in quiet.items() if precision in name}
        if not mine:
            print(f"{precision}: not timed, this processor emulates it")
            continue
        best, rate = min(mine, key=lambda name: mine[name]), gemm_rate(dtype)
        goal = GOAL_CUDA if CUDA else GOALS[precision] if len(precisions()) == 2 else GOAL_AVX2
        floor = flop / rate
        print(
            f"{best}: {quiet['plain'] / mine[best]:.2f} times the plain loop (goal {goal}); arithmetic floor: "
            f"{flop / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s = {floor:.4f} s/image, of which we take "
            f"{mine[best] / floor:.2f} times as long; the floor is {quiet['plain'] / floor:.2f} times the plain loop"
        )


def same_numbers(work: Path) -> None:
    """How far OpenVINO's features are from torch's, and bf16's from fp32's, for each block."""
    names = [f"{precision} {engine} 8" for precision in precisions() for engine in ("torch", "openvino")]
    base = open_cache(work / f"{names[0]} 0 0.h5")
    for name in names[1:]:
        other = open_cache(work / f"{name} 0 0.h5")
        for block in base.blocks:
            a, b = base.features(block), other.features(block)
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            far = np.abs(a - b).max() / np.abs(a).max()
            print(
                f"{name} beside {names[0]}, block {block}: {far:.1e} of the largest, cosine {cosine.min():.6f} at worst"
            )


def main() -> None:
    """Print the header, the rates and the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of pictures [default: drawn ones]")
    count = 512 if CUDA else 24
    parser.add_argument("--count", type=int, default=count, help="pictures per measurement [default: 24, on a GPU 512]")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--child", choices=[*modes(), *OTHERS], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps({**modes(), **OTHERS}[args.child](args.images, args.out, args.count)))
        return
    device = resolve_device("auto")
    name = torch.cuda.get_device_name() if CUDA else f"{torch.get_num_threads()} threads"
    print(f"```\n{describe()}\nruns on: {device.type}, {name}; load {os.getloadavg()[0]:.1f}; {args.count} pictures")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(work / "kept")
        if args.images is None:
            for kind in ("shapes", "leaves"):
                draw_set(kind, -(-args.count // 2), work / "pictures", seed=0)
        images = args.images or work / "pictures"
        quiet = rates(images, work, args.count, args.repeats)
        flop = alone(images, work, args.count)
        goals(quiet, flop)
        if not CUDA:
            same_numbers(work)
    print("```")


if __name__ == "__main__":
    main()
