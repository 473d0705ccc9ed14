"""How fast: this project against the plain recipe, in one run on one machine.

    python tests/benchmarks/bench.py --out figures/speed   # an hour; leave the machine alone

The plain recipe (d2ue/plain.py) trains and scores the same ensembles as it is usually done in
PyTorch. Both sides are measured in turns, each time in a fresh process, so that neither
profits from a warm or suffers from a busy machine. Ratios are of medians; the range over the
repetitions stands beside them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from d2ue import plain
from d2ue.backbones import to_unit_range
from d2ue.config import TrainConfig
from d2ue.datasets.types import ImageSet
from d2ue.errors import D2UEError
from d2ue.progress import bar as progress_bar

#: Training images in what is measured of many ensembles side by side.
FEW_IMAGES = 500
#: Each measure: its unit, whether more is better, and the least (or most) the project aims at.
TARGETS: dict[str, tuple[str, bool, float | None]] = {
    "fit": ("CPU seconds to fit 3 learners", False, 2.5),
    "fit, bf16": ("CPU seconds to fit 3 learners, ours in bf16", False, 4.0),
    "fit, wall": ("seconds to fit 3 learners", False, None),
    "score": ("images/s, dual-space uncertainty", True, 10.0),
    "memory": ("MB at most while fitting", False, None),
    "rate": (f"learner-epochs/s, {FEW_IMAGES} images", True, None),
}
#: What ensembles trained side by side on one GPU aim at, by precision.
GPU_RATES = {"float32": 50.0, "tf32": 100.0}
SIDES = ("plain", "ours")


@dataclass(frozen=True)
class Case:
    """One thing to measure, in a process of its own.

    Attributes:
        what: "fit", "score", "replicas" or "import".
        side: "plain" or "ours".
        images: how many 64 x 64 images of noise.
        epochs: passes over them.
        learners: N.
        replicas: ensembles that train side by side; "ours" only.
        threads: torch's CPU threads; 0 = as torch has it.
        device: "cpu", "cuda" ...
        precision: of products, "ours" only.
    """

    what: str
    side: str
    images: int = 1000
    epochs: int = 2
    learners: int = 3
    replicas: int = 1
    threads: int = 0
    device: str = "cpu"
    precision: str = "float32"


def run_case(case: Case) -> dict[str, Any]:
    """Measure one case in a fresh process.

    Returns:
        "wall_s", "cpu_s" (children included) and "peak_mb" (resident; on CUDA allocated there) of
        the measured part alone, without imports and the making of images; "learner_cpu_s" and
        "learner_wall_s", a number a learner of a fit.

    Raises:
        D2UEError: if the process fails.
    """
    command = [sys.executable, __file__, "--case", json.dumps(case.__dict__)]
    if case.what == "import":
        command = [sys.executable, "-c", _IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise D2UEError(f"The benchmark {case.what} ({case.side}) failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def noise(n: int) -> np.ndarray:
    """uint8 [n, 1, 64, 64]: speed does not depend on what the images show."""
    return np.random.default_rng(0).integers(0, 256, (n, 1, 64, 64), dtype=np.uint8)


def _measure(case: Case) -> dict[str, Any]:
    """What `run_case` promises, in this process."""
    if case.threads:
        torch.set_num_threads(case.threads)
    images = noise(case.images)
    work = _plain_work(case, images) if case.side == "plain" else _our_work(case, images)
    return _timed(work, case.device)


Mark = Callable[[], None]
#: Seconds of `import d2ue` after `import torch`.
_IMPORT = """
import json, time, torch
start = time.perf_counter(), time.process_time()
import d2ue
seconds = time.perf_counter() - start[0], time.process_time() - start[1]
print(json.dumps({"wall_s": seconds[0], "cpu_s": seconds[1]}))
"""


def _plain_work(case: Case, images: np.ndarray) -> Callable[[Mark], object]:
    x = to_unit_range(torch.from_numpy(images)).to(case.device)
    plain.train_ensemble("ae", x[:64], 1, 1)  # what is made once is made before
    if case.what == "score":
        learners = plain.train_ensemble("ae", x[:64], case.learners, 1)
        return lambda mark: plain.anomaly_scores(learners, x, "dual")

    def fit(mark: Mark) -> None:
        learners: list[plain.Autoencoder] = []
        for _ in range(case.learners):
            orders = [torch.randperm(len(x)) for _ in range(case.epochs)]
            learner = plain.Autoencoder("ae").to(case.device)
            learners.append(plain.train_learner(learner, learners, x, orders))
            mark()

    return fit


def _our_work(case: Case, images: np.ndarray) -> Callable[[Mark], object]:
    from d2ue.ensemble import train_ensembles
    from d2ue.uncertainty import image_scores

    def config(seed: int = 0, **changes: Any) -> TrainConfig:
        base = TrainConfig(
            backbone="ae", n_learners=case.learners, epochs=case.epochs, precision=case.precision
        )
        return base.replace(seed=seed, **changes)

    def set_of(pixels: np.ndarray) -> ImageSet:
        return ImageSet(pixels, tuple(map(str, range(len(pixels)))))

    def train(configs: list[TrainConfig], data: ImageSet, mark: Mark) -> list[Any]:
        done = 0

        def report(epochs: int) -> None:
            nonlocal done
            done += epochs
            if epochs and done % (case.epochs * len(configs)) == 0:
                mark()

        options = {"device": case.device, "replicas": len(configs), "progress": False}
        return train_ensembles(configs, data, report=report, **options)

    # On a GPU what is made once depends on the number of replicas.
    first = {"epochs": 1, "n_learners": case.learners if case.what == "score" else 1}
    warm = [config(seed, **first) for seed in range(case.replicas)]
    ensemble = train(warm, set_of(images[:64]), lambda: None)[0]
    if case.what == "score":
        image_scores(ensemble, images[:128])
        return lambda mark: image_scores(ensemble, images)
    data = set_of(images)
    configs = [config(seed) for seed in range(case.replicas)]
    return lambda mark: train(configs, data, mark)


def _timed(work: Callable[[Mark], object], device: str) -> dict[str, Any]:
    marks: list[tuple[float, float]] = []
    on_gpu = device.startswith("cuda")

    def mark() -> None:
        if on_gpu:
            torch.cuda.synchronize(device)
        marks.append((time.perf_counter(), _cpu_seconds()))

    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    mark()
    work(mark)
    start, end = marks[0], (time.perf_counter(), _cpu_seconds())
    if on_gpu:
        torch.cuda.synchronize(device)
        end = (time.perf_counter(), _cpu_seconds())
    wall, cpu = (np.diff([moment[i] for moment in marks]).tolist() for i in (0, 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )
    return {
        "wall_s": end[0] - start[0],
        "cpu_s": end[1] - start[1],
        "peak_mb": torch.cuda.max_memory_allocated(device) / 1e6 if on_gpu else peak,
        "learner_wall_s": wall,
        "learner_cpu_s": cpu,
    }


def _cpu_seconds() -> float:
    """Of this process and of those children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures depend on: processor, cores, threads, versions, the GPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    about = {
        "processor": name,
        "vector instructions": torch.backends.cpu.get_cpu_capability()
        + " with bf16" * has_bf16_instructions(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.startswith("cuda"):
        about["gpu"] = torch.cuda.get_device_name(device)
    return about


def has_bf16_instructions() -> bool:
    """Whether the processor multiplies bf16 itself; where not, bf16 is emulated and slow."""
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except (AttributeError, RuntimeError):  # neither function is documented
        return False


def floor(device: str = "cpu", threads: int = 0) -> dict[str, float]:
    """The least that one training step of a first AE learner can cost here.

    Returns:
        "operations" of the step (counted), "score_operations" of one image's reconstruction and
        gradient by one learner, "bytes" it must move at least (weights, their gradients
        and Adam's moments once each way; every layer's output written, and read twice), "peak" in
        operations/s (a product of two 2048 x 2048 float32 matrices) and "bandwidth" in bytes/s (a
        copy of 256 MB), both measured; "ms", the larger of the two quotients.
    """
    from torch.utils.flop_counter import FlopCounterMode

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        model, x = plain.Autoencoder("ae"), torch.zeros(64, 1, 64, 64)
        outputs: list[int] = []
        for module in model.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda m, i, o: outputs.append(o.numel()))
        counter = FlopCounterMode(display=False)
        with counter:
            model(x).mean.square().mean().backward()
        weights = sum(p.numel() for p in model.parameters())
        # Weights read forward and backward, gradients written and read, Adam: 3 read, 3 written.
        moved = 4 * (weights * 10 + sum(outputs) * 3)
        scoring = FlopCounterMode(display=False)
        model.eval().requires_grad_(False)
        with scoring:
            model(x.requires_grad_()).mean.square().mean().backward()
        a, b = (torch.rand(2048, 2048, device=device) for _ in range(2))
        peak = 2 * 2048**3 / _best(lambda: a @ b, device)
        block = torch.rand(32 << 20, device=device)
        target = torch.empty_like(block)
        bandwidth = 2 * block.nbytes / _best(lambda: target.copy_(block), device)
    finally:
        torch.set_num_threads(before)
    operations = float(counter.get_total_flops())
    milliseconds = 1e3 * max(operations / peak, moved / bandwidth)
    return {
        "operations": operations,
        "score_operations": scoring.get_total_flops() / len(x),
        "bytes": float(moved),
        "peak": peak,
        "bandwidth": bandwidth,
        "ms": milliseconds,
    }


def _best(work: Callable[[], object], device: str, repeats: int = 40) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def cases(device: str = "cpu", images: int = 500, epochs: int = 10) -> Iterable[Case]:
    """What is measured, both sides of each after one another.

    Few epochs are unfair to ours: features of seniors are computed once however many follow. On a
    GPU, where a step is captured first, there are ten times more.
    """
    on_gpu = device.startswith("cuda")
    short = 1
    if on_gpu:
        epochs, short = 10 * epochs, 50
    for threads in (0,) if on_gpu else (1, 0):
        shared = {"images": images, "epochs": epochs, "threads": threads, "device": device}
        yield Case("fit", "plain", **shared)
        yield Case("fit", "ours", **shared)
        if not on_gpu and has_bf16_instructions():
            yield Case("fit", "ours", precision="bf16", **shared)
        for side in SIDES:
            n = max(128, 2 * images)
            yield Case("score", side, images=n, threads=threads, device=device)
    threads = 0 if on_gpu else 1
    for side in SIDES:
        yield Case("fit", side, images, epochs, learners=8, threads=threads, device=device)
    yield Case("import", "ours")
    for n in (FEW_IMAGES, 2000, 4000):
        for side in SIDES:
            yield Case("fit", side, n, short, learners=1, threads=threads, device=device)
    for replicas in (1, 2, 4, 8, 16, 32, 64) if on_gpu else (1, 2, 4, 8):
        yield Case("fit", "ours", FEW_IMAGES, short, 1, replicas, threads, device=device)
    if on_gpu:
        for precision in ("tf32", "bf16"):
            for replicas in (1, 8, 32):
                side_by_side = FEW_IMAGES, short, 1, replicas
                yield Case("fit", "ours", *side_by_side, device=device, precision=precision)


def measure_all(chosen: Iterable[Case], repeats: int = 5, progress: bool = True) -> pd.DataFrame:
    """Measure cases several times, all of them once before any is measured again.

    Returns:
        One row a case and repetition: the case's settings, "repeat", and what `run_case` returns.
    """
    chosen = list(chosen)
    rows = []
    with progress_bar(total=repeats * len(chosen), unit="run", disable=not progress) as bar:
        for repeat in range(repeats):
            for case in chosen:
                bar.set_description(f"{case.what}, {case.side}")
                rows.append({**case.__dict__, "repeat": repeat, **run_case(case)})
                bar.update()
    return pd.DataFrame(rows)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of ratios: how many times less (or more images a second) ours takes than plain.

    Args:
        runs: from `measure_all`.

    Returns:
        Columns measure, threads, plain and ours (medians with their range), ratio (of medians),
        low and high (of the ratios of single repetitions), target ("" where there is none), n.
    """
    rows: list[dict[str, Any]] = []
    fits = runs[(runs.what == "fit") & (runs.learners == 3)]
    for threads in fits.threads.unique():
        some = fits[fits.threads == threads]
        against = some[some.side == "plain"]
        ours = dict(iter(some[some.side == "ours"].groupby("precision")))
        for measure, precision, column in (
            ("fit", "float32", "cpu_s"),
            ("fit, bf16", "bf16", "cpu_s"),
            ("fit, wall", "float32", "wall_s"),
            ("memory", "float32", "peak_mb"),
        ):
            if precision in ours:
                rows.append(_row(measure, threads, against, ours[precision], column))
        scores = runs[(runs.what == "score") & (runs.threads == threads)].copy()
        scores["per_s"] = scores.images / scores.wall_s
        sides = (scores[scores.side == side] for side in SIDES)
        rows.append(_row("score", threads, *sides, "per_s"))
    return pd.DataFrame([*rows, *_rates(runs)])


def _rates(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Learners that train side by side, as many as make most of the machine, by precision."""
    one = runs[(runs.what == "fit") & (runs.learners == 1) & (runs.images == FEW_IMAGES)]
    one = one.drop_duplicates(["side", "precision", "replicas", "repeat"])
    one = one.assign(rate=one.replicas * one.epochs / one.wall_s)
    on_gpu = one.device.str.startswith("cuda").any()
    rows = []
    for precision, ours in one[one.side == "ours"].groupby("precision"):
        best = ours.groupby("replicas")["rate"].median().idxmax()
        sides = one[one.side == "plain"], ours[ours.replicas == best]
        row = _row("rate", int(ours.threads.iloc[0]), *sides, "rate")
        row["measure"] += f", {precision}, {best} side by side"
        row["target"] = GPU_RATES.get(str(precision), "") if on_gpu else ""
        rows.append(row)
    return rows


def _row(
    measure: str, threads: int, plain: pd.DataFrame, ours: pd.DataFrame, column: str
) -> dict[str, Any]:
    unit, more, target = TARGETS[measure]
    a, b = (side.sort_values("repeat")[column].to_numpy() for side in (plain, ours))
    ratios = b / a if more else a / b
    medians = np.median(a), np.median(b)
    return {
        "measure": unit,
        "threads": threads or "all",
        "plain": _spread(a),
        "ours": _spread(b),
        "ratio": round(float(medians[1] / medians[0] if more else medians[0] / medians[1]), 2),
        "low": round(float(ratios.min()), 2),
        "high": round(float(ratios.max()), 2),
        "target": "" if target is None else target,
        "n": len(ratios),
    }


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.3g} ({values.min():.3g} to {values.max():.3g})"


def learner_ratio(
    runs: pd.DataFrame, side: str = "ours", clock: str = "learner_cpu_s"
) -> list[float]:
    """Seconds of learner 8 over those of learner 1, one a repetition."""
    some = runs[(runs.what == "fit") & (runs.learners == 8) & (runs.side == side)]
    return [costs[7] / costs[0] for costs in some[clock]]


def import_seconds(runs: pd.DataFrame) -> list[float]:
    """Seconds that `import d2ue` takes beyond `import torch`, one a repetition."""
    return runs[runs.what == "import"].wall_s.tolist()


def facts(runs: pd.DataFrame, device: str = "cpu") -> dict[str, str]:
    """What stands under the table: targets without a plain side, the floor, the machine."""
    threads = int(runs[(runs.what == "fit") & (runs.learners == 8)].threads.iloc[0])
    least = floor(device, threads)
    first = runs[(runs.what == "fit") & (runs.learners == 8) & (runs.side == "ours")]
    clock = "learner_wall_s" if device.startswith("cuda") else "learner_cpu_s"
    steps = first.images // 64 * first.epochs
    step_ms = [1e3 * costs[0] / n for costs, n in zip(first[clock], steps, strict=True)]
    large = runs[(runs.side == "ours") & (runs.images == 4000)]
    ratios = {side: np.array(learner_ratio(runs, side, clock)) for side in SIDES}
    return {
        "learner 8 against learner 1 (at most 1.1)": f"{_spread(ratios['ours'])}; "
        f"plain recipe {_spread(ratios['plain'])}",
        "MB while fitting 4000 images (at most 1500)": _spread(large.peak_mb.to_numpy()),
        "s that importing d2ue takes beyond torch (at most 0.5)": _spread(
            np.array(import_seconds(runs))
        ),
        "floor of a step": f"{least['ms']:.0f} ms: {least['operations'] / 1e9:.2f} GFLOP at "
        f"{least['peak'] / 1e9:.0f} GFLOP/s, {least['bytes'] / 1e6:.0f} MB at "
        f"{least['bandwidth'] / 1e9:.0f} GB/s, both measured; a step of learner 1 takes "
        f"{_spread(np.array(step_ms))} ms",
        "floor of scoring by 3 learners": f"{3 * least['score_operations'] / 1e9:.3f} GFLOP an "
        f"image, {least['peak'] / 3 / least['score_operations']:.0f} images/s",
        "measured on": ", ".join(f"{key} {value}" for key, value in machine(device).items()),
    }


def as_markdown(table: pd.DataFrame, facts: Mapping[str, str]) -> str:
    """The summary with the facts under it."""
    head = "| " + " | ".join(table.columns) + " |"
    lines = [head, "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join([*lines, "", *(f"- {key}: {value}" for key, value in facts.items()), ""])


def write(runs: pd.DataFrame, facts: Mapping[str, str], out: Path) -> str:
    """Write runs.csv, table.csv, table.md and speed.png into a folder.

    Returns:
        The text of table.md.

    Raises:
        InputError: if the folder cannot be written to.
    """
    from speed_picture import speed_figure

    from d2ue.store.files import write_file, write_text, writing

    text = as_markdown(summary(runs), facts)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_text(out / "runs.csv", runs.to_csv(index=False))
    write_text(out / "table.csv", summary(runs).to_csv(index=False))
    picture = io.BytesIO()
    floor_ms = float(facts["floor of a step"].split(" ms")[0])
    speed_figure(runs, floor_ms).savefig(picture, format="png", dpi=110)
    with writing(out / "speed.png"):
        write_file(out / "speed.png", picture.getvalue())
    write_text(out / "table.md", text)
    return text


def main() -> None:
    """Measure one case, or all of them and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", help="settings of one case, as JSON; for the processes it starts")
    parser.add_argument("--out", type=Path, default=Path("results/speed"), help="folder to write")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--repeats", type=int, default=5, help="times that each thing is measured")
    parser.add_argument("--images", type=int, default=500, help="training images of noise")
    parser.add_argument("--epochs", type=int, default=10, help="passes over them")
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(_measure(Case(**json.loads(chosen.case)))))
        return
    runs = measure_all(cases(chosen.device, chosen.images, chosen.epochs), chosen.repeats)
    print(write(runs, facts(runs, chosen.device), chosen.out))


if __name__ == "__main__":
    main()
