"""Metrics against stated baselines, in one run: `make bench`; `THREADS=1` for another number of threads than two. Nothing here asserts a time."""

import contextlib
import io
import os
import time

import numpy as np
import pytest
from test_speed import ratio

from collapse_nb.data import load_images
from collapse_nb.features import embed, torch_threads
from collapse_nb.metrics import measure, measure_space, prdc

THREADS = int(os.environ.get("THREADS", 2))


@pytest.mark.parametrize("kind", ["Gaussian", "clustered", "collapsed"])
def test_prdc_against_the_package(benchmark, kind):
    "Baseline: the authors' package on the same float32 features; it keeps whole matrices of distances, and starts up to 8 threads of its own."
    compute_prdc = pytest.importorskip("prdc").compute_prdc
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, 384)) * 5
    real, generated = (rng.normal(size=(10_000, 384)) + (kind == "clustered") * centres[rng.integers(100, size=10_000)] for _ in range(2))
    real, generated = real.astype(np.float32), (generated * (.5 if kind == "collapsed" else 1)).astype(np.float32)

    def baseline():
        with contextlib.redirect_stdout(io.StringIO()): compute_prdc(real, generated, 5)

    with torch_threads(THREADS):
        ratio(benchmark, lambda: prdc(real, generated), baseline, f"prdc, 10,000 x 384, {kind}, threads = {THREADS}", rounds=1)
        print(f"ours: {benchmark.stats.stats.median:.2f} s")


def test_all_metrics_of_one_iteration(benchmark):
    "N = 1,000 digits, pixel and classifier space, unseen and real images given, one thread. Baseline: embedding them, which is not a metric."
    d, g, u, r = (load_images("digits", n=1000, seed=seed) for seed in range(4))
    heldout, spaces = load_images("digits", split="heldout"), ("pixel", "classifier")
    sets = (d, g, heldout, u, r)
    with torch_threads(1):
        ratio(benchmark, lambda: measure(d, g, heldout, spaces, u, r), lambda: [embed(x, "classifier") for x in sets],
              "all metrics of an iteration, N = 1,000, one thread")
        start = time.perf_counter()
        for space in spaces: measure_space(*(x if space == "pixel" else embed(x, space) for x in sets))
        print(f"measure: {benchmark.stats.stats.median:.2f} s; with the features of both spaces at hand or made: {time.perf_counter() - start:.2f} s")
