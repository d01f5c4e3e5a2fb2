"""SIGReg: streamed against the formulation that holds the batch x slices x knots tensor. Time, memory, equality, and scaling.

    python benchmarks/sigreg.py [--batch 1024] [--dim 256] [--slices 4096] [--knots 17] [--threads 1] [--rounds 4] [--table] [--json FILE]

Each contestant runs forward and backward in its own process, so that peak memory is its own; they take turns for some rounds, each
round gives a ratio of their best times, and the interval is over rounds. Seconds are CPU seconds of the process where one
thread is used, else wall seconds: a busy machine then disturbs a ratio less.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

T_MAX = 3.0


def plain(z, a, knots):
    """SIGReg (docs/paper.md) written down: cos and sin of a tensor [batch, slices, knots]."""
    import torch

    t = torch.linspace(0, T_MAX, knots, dtype=z.dtype)
    h = T_MAX / (knots - 1)
    weights = torch.full((knots,), 2 * h, dtype=z.dtype)
    weights[0] = weights[-1] = h
    window = torch.exp(-(t**2) / 2)
    x = (z @ a).unsqueeze(-1) * t
    distance = (x.cos().mean(0) - window) ** 2 + x.sin().mean(0) ** 2
    return ((distance @ (weights * window)) * len(z)).mean()


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _contestant(which: str, batch: int, dim: int, slices: int, knots: int, threads: int, repeats: int, folder: str) -> None:
    import torch

    from levl_eval.models.sigreg import SIGReg

    torch.set_num_threads(threads)
    g = torch.Generator().manual_seed(0)
    z = torch.randn(batch, dim, generator=g, requires_grad=True)
    a = torch.randn(dim, slices, generator=g)
    a /= a.norm(dim=0)
    statistic = (lambda z, a: plain(z, a, knots)) if which == "plain" else SIGReg(slices, knots, T_MAX)
    clock = time.process_time if threads == 1 else time.perf_counter
    warm = torch.randn(8, dim, generator=g, requires_grad=True)
    statistic(warm, a).backward()
    before = _peak_mb()
    seconds = []
    for _ in range(repeats):
        z.grad = None
        start = clock()
        loss = statistic(z, a)
        loss.backward()
        seconds.append(clock() - start)
    torch.save({"loss": loss.detach(), "gradient": z.grad}, f"{folder}/{which}.pt")
    Path(f"{folder}/{which}.json").write_text(json.dumps({"seconds": min(seconds), "extra_mb": _peak_mb() - before}))


def measure(which: str, batch: int, dim: int, slices: int, knots: int, threads: int, repeats: int, folder: str) -> dict:
    """{"seconds", "extra_mb"} of one contestant; its loss and gradient are left in folder/{which}.pt."""
    context = multiprocessing.get_context("spawn")
    p = context.Process(target=_contestant, args=(which, batch, dim, slices, knots, threads, repeats, folder))
    p.start()
    p.join()
    if p.exitcode:
        raise SystemExit(f"{which}: ended with exit code {p.exitcode} (out of memory?); try a smaller --batch or --slices")
    return json.loads(Path(f"{folder}/{which}.json").read_text())


def mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and the ends of Student's 95% interval; both NaN for one value."""
    from levl_eval.metrics.statistics import student_quantile

    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return mean, math.nan, math.nan
    half = student_quantile(n - 1) * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return mean, mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("batch", 1024),
        ("dim", 256),
        ("slices", 4096),
        ("knots", 17),
        ("threads", 1),
        ("repeats", 3),
        ("rounds", 4),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--table", action="store_true", help="also the cost at half and double of each size, each in turn with the base"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    o = parser.parse_args()
    import torch

    with tempfile.TemporaryDirectory() as folder:
        size = (o.batch, o.dim, o.slices, o.knots, o.threads)
        turns = [
            {w: measure(w, *size, 2 if w == "plain" else o.repeats, folder) for w in ("plain", "streamed")}
            for _ in range(o.rounds)
        ]
        figures = {w: {k: min(t[w][k] for t in turns) for k in ("seconds", "extra_mb")} for w in ("plain", "streamed")}
        ratios = [t["plain"]["seconds"] / t["streamed"]["seconds"] for t in turns]
        mean, low, high = mean_and_interval(ratios)
        one, two = (torch.load(f"{folder}/{w}.pt", weights_only=True) for w in ("plain", "streamed"))
        out = {
            "batch": o.batch, "dim": o.dim, "slices": o.slices, "knots": o.knots, "threads": o.threads, **figures,
            "times_faster": mean, "interval": [low, high], "ratios": ratios,
            "memory_share": figures["streamed"]["extra_mb"] / figures["plain"]["extra_mb"],
            "loss_difference": float((one["loss"] - two["loss"]).abs() / one["loss"].abs()),
            "gradient_difference": float((one["gradient"] - two["gradient"]).norm() / one["gradient"].norm()),
        }  # fmt: skip
        for which in ("plain", "streamed"):
            print(f"{which:9s} {figures[which]['seconds']:8.3f} s {figures[which]['extra_mb']:9.1f} MB more at its peak")
        print(f"streamed is {mean:.1f} times faster (95% interval {out['interval'][0]:.1f} to {out['interval'][1]:.1f}, "
              f"{o.rounds} rounds) with {out['memory_share']:.3f} of the memory")  # fmt: skip
        print(f"relative difference: loss {out['loss_difference']:.1e}, gradient {out['gradient_difference']:.1e}")
        if o.table:
            out["table"] = []
            print("batch   dim slices knots  time, as a multiple of the base's (95% interval over rounds)")
            for at, factor in ((i, f) for i in range(4) for f in (0.5, 2)):
                changed = [round(x * factor) if i == at else x for i, x in enumerate(size[:4])]
                times = [[measure("streamed", *s, o.threads, o.repeats, folder)["seconds"] for s in (changed, size[:4])]
                         for _ in range(o.rounds)]  # fmt: skip
                middle, low, high = mean_and_interval([ours / base for ours, base in times])
                out["table"].append({**dict(zip(("batch", "dim", "slices", "knots"), changed, strict=True)),
                                     "multiple": middle, "interval": [low, high]})  # fmt: skip
                print("{:5d} {:5d} {:6d} {:5d}".format(*changed), f"{middle:6.2f} [{low:.2f}, {high:.2f}]", flush=True)
    if o.json:
        o.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
