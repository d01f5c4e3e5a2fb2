"""The whole path of C at once against scikit-learn's LBFGS fitted value by value: time, and accuracy at every C.

    python benchmarks/linear_path.py [--features FILE.npz|TRAIN,TEST] [--rows 4000] [--dim 192] [--classes 10] [--values 45]
                                     [--tolerance 1e-7] [--repeats 3]

Both run in this process, in turn, in CPU seconds of one thread; the ratio is what counts, with Student's interval over repeats of
the pair (of the ratio's logarithm). scikit-learn starts every C afresh, to the same tolerance as the path. With its default of 1e-4
it is three times as quick and at large C not at the solution: look at the accuracies; so it is with --warm, which starts each C from
the one before. --features: arrays x [N, D], y [N], test_x, test_y; without it overlapping clouds whose spread falls fifty-fold over the
dimensions are drawn; with TRAIN.safetensors,TEST.safetensors as `levl-eval features export --task linear-path --part train|test`
writes them, e.g. of levljepa-nano on the demo's scenes. The default size takes some twenty minutes, nearly all of it scikit-learn's.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path


def clouds(rows: int, dim: int, classes: int, scale: float):
    import numpy as np

    rng = np.random.default_rng(0)
    centres, turn = rng.normal(size=(classes, dim)), rng.normal(size=(dim, dim)) / dim**0.5
    spread = np.exp(-np.linspace(0, 4, dim))
    out = []
    for n in (rows, 4000):
        y = rng.integers(0, classes, n)
        out += [(((scale * centres[y] + 1.5 * rng.normal(size=(n, dim))) * spread) @ turn).astype(np.float32), y]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", metavar="FILE")
    for name, default in (("rows", 4000), ("dim", 192), ("classes", 10), ("values", 45)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--apart", type=float, default=0.15, help="how far the clouds lie apart; from 0.6 on they can be separated"
    )
    parser.add_argument("--tolerance", type=float, default=1e-7, help="scikit-learn's tol (its default is 1e-4)")
    parser.add_argument("--own-tolerance", type=float, default=1e-7, help="the path's, the card's is 1e-7")
    parser.add_argument("--warm", action="store_true", help="scikit-learn's warm_start along the path")
    parser.add_argument("--repeats", type=int, default=3, help="pairs that are timed")
    parser.add_argument("--json", type=Path, help="write the figures here")
    o = parser.parse_args()
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    from levl_eval.engines.probes.common import Matrix
    from levl_eval.engines.probes.logistic import solve_path
    from levl_eval.metrics.statistics import student_quantile

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if o.features and "," in o.features:
        from safetensors.numpy import load_file

        (x, y), (tx, ty) = ((f["features"], f["labels"]) for f in map(load_file, o.features.split(",")))
    elif o.features:
        with np.load(o.features) as f:
            x, y, tx, ty = (f[k] for k in ("x", "y", "test_x", "test_y"))
        rows = np.random.default_rng(0).permutation(len(x))[: o.rows]
        x, y = x[rows], y[rows]
    else:
        x, y, tx, ty = clouds(o.rows, o.dim, o.classes, o.apart)
    train, test = Matrix(x), Matrix(tx)
    train.fit_scale()
    test.scale_like(train)
    strengths, device = 10.0 ** np.linspace(-6, 5, o.values), torch.device("cpu")
    a, b = (m.take(np.arange(len(m))).numpy().astype(np.float64) for m in (train, test))
    ratios: list[float] = []
    for repeat in range(o.repeats):
        start = time.process_time()
        fit = solve_path([(train, y)], int(y.max()) + 1, strengths, device, tolerance=o.own_tolerance)
        ours = time.process_time() - start
        mine = (fit.predictions(test, device) == ty[:, None]).mean(0)
        theirs, seconds = [], 0.0
        model = LogisticRegression(max_iter=10000, tol=o.tolerance, warm_start=o.warm)
        for c in strengths:
            model.C = float(c)
            start = time.process_time()
            model.fit(a, y)
            seconds += time.process_time() - start
            theirs.append(float(model.score(b, ty)))
            if repeat == 0:
                print(
                    f"C {c:9.2e}  scikit-learn {100 * theirs[-1]:6.2f}  path {100 * mine[len(theirs) - 1]:6.2f}  {seconds:7.1f} s so far",
                    flush=True,
                )
        ratios.append(seconds / ours)
        print(f"path {ours:.2f} s, scikit-learn {seconds:.2f} s: {ratios[-1]:.1f} times faster", flush=True)
    logs = np.log(ratios)
    middle = float(np.exp(logs.mean()))
    half = student_quantile(len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5 if len(logs) > 1 else float("nan")
    ends = [middle * float(np.exp(-half)), middle * float(np.exp(half))]
    difference = np.abs(mine - np.array(theirs))
    out = {
        "rows": len(x), "dim": x.shape[1], "classes": int(y.max()) + 1, "values": o.values,
        "tolerance_sklearn": o.tolerance, "tolerance_path": o.own_tolerance, "warm_start": o.warm,
        "times_faster": middle, "interval": ends, "ratios": ratios, "largest_accuracy_difference": float(difference.max()),
        "best_accuracy": {"path": float(mine.max()), "scikit-learn": max(theirs)},
    }  # fmt: skip
    print(f"{middle:.1f} times faster (95% interval {ends[0]:.1f} to {ends[1]:.1f}, {len(ratios)} pairs)")
    print(f"{int(fit.converged.sum())} of {o.values} values of C have converged")
    print(f"accuracies at the same C differ by at most {100 * difference.max():.3f} points")
    if o.json:
        o.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
