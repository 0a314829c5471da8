"""Ratios against stated baselines in one run, printed and kept in runs/records/benchmarks.csv (the committed copy: figures/records)."""
import os
import platform
import time

import numpy as np
import pandas as pd
import pytest
import torch

from collapse_nb.project import project_root

ROWS = []
LIMIT = "the machine's matrix product, as many operations"


def seconds(function, rounds: int) -> float:
    "Median of `rounds` calls."
    times = []
    for _ in range(rounds):
        start = time.perf_counter(); function(); times.append(time.perf_counter() - start)
    return float(np.median(times))


def product_seconds(operations: float, d: int) -> float:
    "What this machine's float32 matrix product needs, now, for so many multiplications and additions of d-dimensional points: the limit."
    a, b = torch.randn(4096, d), torch.randn(1024, d)
    torch.mm(a, b.T)
    return seconds(lambda: torch.mm(a, b.T), 15) * operations / (2 * 4096 * 1024 * d)


@pytest.fixture
def compare(benchmark):
    "compare(task, size, ours, {name: baseline or (baseline, \"once\")}, operations, d): ours before, between and after the baselines."
    def run(task: str, size: str, ours, baselines: dict, operations: float | None = None, d: int = 0, rounds: int = 5):
        ours()
        benchmark.pedantic(ours, rounds=rounds)
        times = list(benchmark.stats.stats.data)
        limit = product_seconds(operations, d) if operations else None
        print(f"\n{task}, {size}")
        for name, baseline in baselines.items():
            function, how = baseline if isinstance(baseline, tuple) else (baseline, "median")
            theirs = seconds(function, 1 if how == "once" else 3)
            times.append(seconds(ours, 1))
            ROWS.append(dict(task=task, size=size, against=name, ours_seconds=np.median(times), theirs_seconds=theirs))
        if limit:
            ROWS.append(dict(task=task, size=size, against=LIMIT, ours_seconds=np.median(times), theirs_seconds=limit))
        for row in ROWS[-len(baselines) - bool(limit):]:
            row["ratio"] = row["theirs_seconds"] / row["ours_seconds"]
            print(f"  {row['ratio']:8.2f} times the speed of {row['against']} ({row['theirs_seconds']:.3g} s)")
        print(f"          ours {np.median(times):.3g} s, median of {len(times)}")
    return run


def pytest_sessionfinish(session):
    if ROWS:
        where = project_root() / "runs/records/benchmarks.csv"
        where.parent.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame(ROWS).assign(threads=torch.get_num_threads(), cores=os.cpu_count(), machine=platform.machine(), torch=torch.__version__)
        if where.exists():  # a part of the benchmarks replaces its own rows
            old = pd.read_csv(where)
            table = pd.concat([old[~old.task.isin(table.task.unique())], table])
        table.to_csv(where, index=False, float_format="%.4g")
        print(f"\nwritten: {where}")
