"""Neighbours and selectors against what people write, what they install, and the machine's own matrix product."""
import subprocess
import sys

import pytest
import torch

from collapse_nb.neighbors import nearest
from collapse_nb.selection import greedy, threshold_decay


def gaussian(n, d=384, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def clustered(n, d=384, clusters=64):
    g = torch.Generator().manual_seed(0)
    return 3 * torch.randn(clusters, d, generator=g)[torch.randint(clusters, (n,), generator=g)] + torch.randn(n, d, generator=g)


def cdist_greedy(x, n):
    "(a) at every step torch.cdist from the pool to the newest choice."
    far, i = torch.full((len(x),), float("inf")), 0
    for _ in range(n):
        far = torch.minimum(far, torch.cdist(x, x[i:i + 1])[:, 0])
        i = int(far.argmax())


def product_greedy(x, n):
    "(b) at every step one matrix-vector product, norms taken once."
    norms, far, i = (x * x).sum(1), torch.full((len(x),), float("inf")), 0
    for _ in range(n):
        far = torch.minimum(far, norms + norms[i] - 2 * (x @ x[i]))
        i = int(far.argmax())


def loop_decay(x, n, tau, far, alpha=0.95):
    "Algorithm 2 as a loop over candidates; far(candidate, chosen, tau) says whether it is farther than tau from all chosen."
    order, chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).tolist(), []
    kept = torch.empty(n, x.shape[1])
    while len(chosen) < n:
        before, taken = len(chosen), set(chosen)
        for i in order:
            if i not in taken and (not chosen or far(x[i:i + 1], kept[:len(chosen)], tau)):
                kept[len(chosen)] = x[i]; chosen.append(i)
                if len(chosen) == n: return
        if len(chosen) == before: tau *= alpha


def one_by_one(candidate, chosen, tau):
    "Quadratic Python: the distance to one chosen point after the other, until one is too close."
    return all(torch.dist(candidate, z) > tau for z in chosen)


def all_at_once(candidate, chosen, tau):
    "One torch.cdist a candidate."
    return bool(torch.cdist(candidate, chosen).min() > tau)


@pytest.mark.parametrize("size, n", [(4096, 1000), (16384, 4000)])
def test_greedy(compare, size, n):
    x = gaussian(size)
    baselines = {"(a) torch.cdist to the newest choice, every step": (lambda: cdist_greedy(x, n), "once" if n > 1000 else "median"),
                 "(b) matrix-vector product, every step": lambda: product_greedy(x, n)}
    try:
        import fpsample
        y = x.numpy()
        baselines["(c) fpsample.fps_sampling"] = (lambda: fpsample.fps_sampling(y, n, start_idx=0), "once" if n > 1000 else "median")
    except ImportError: print("fpsample is not installed")
    compare("greedy", f"{n} of {size} x 384, Gaussian", lambda: greedy(x, n, start=0), baselines, 2 * size * n * 384, 384)


@pytest.mark.parametrize("size, n", [(4096, 1000), (16384, 4000)])
def test_threshold_decay(compare, size, n):
    x, tau = gaussian(size), 30.0
    compare("threshold decay", f"{n} of {size} x 384, Gaussian", lambda: threshold_decay(x, n, tau=tau, seed=0),
            {"the filter in Python, pair by pair": (lambda: loop_decay(x, n, tau, one_by_one), "once"),
             "the filter in Python, torch.cdist a candidate": (lambda: loop_decay(x, n, tau, all_at_once), "once")}, 2 * size * n * 384, 384)


@pytest.mark.parametrize("points", [gaussian, clustered])
@pytest.mark.parametrize("select", [greedy, threshold_decay])
def test_the_papers_size(compare, select, points):
    x = points(65536)
    compare(select.__name__.replace("_", " "), f"32768 of 65536 x 384, {points.__name__.capitalize()}", lambda: select(x, 32768, seed=0), {},
            2 * 65536 * 32768 * 384, 384, rounds=2)


def flat_index(x, k):
    import faiss
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    return index.search(x, k + 1)


@pytest.mark.parametrize("size, d, k", [(16384, 384, 1), (16384, 384, 5), (32768, 3072, 1)])
def test_nearest(compare, size, d, k):
    x = gaussian(size, d).numpy()
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    baselines = {"(d) faiss IndexFlatL2": lambda: flat_index(x, k)}
    if d < 1000:
        from sklearn.neighbors import NearestNeighbors
        baselines["(d) scikit-learn, brute force"] = lambda: NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors()
    compare("nearest", f"k = {k}, {size} x {d} against itself", lambda: nearest(x, x, k, exclude_self=True), baselines, 2 * size**2 * d, d, rounds=3)


MEMORY = """
import sys
import numpy as np, torch
import faiss
from collapse_nb.neighbors import nearest
from collapse_nb.selection import greedy, threshold_decay
def peak(): return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before, n, d = peak(), int(sys.argv[2]), int(sys.argv[3])
x, rng = np.empty((n, d), np.float32), np.random.default_rng(0)
for i in range(0, n, 8192): x[i:i + 8192] = rng.standard_normal((min(8192, n - i), d), dtype=np.float32)
def flat():
    index = faiss.IndexFlatL2(d); index.add(x); index.search(x, 2)
dict(greedy=lambda: greedy(x, 10000, seed=0), threshold_decay=lambda: threshold_decay(x, 10000, seed=0),
     nearest=lambda: nearest(x, x, exclude_self=True), faiss=flat)[sys.argv[1]]()
print((peak() - before - x.nbytes) / 2**30)
"""


def above_the_data(what, n, d) -> float:
    "GiB of peak memory above the size after import and the data, in a process of its own."
    return float(subprocess.run([sys.executable, "-c", MEMORY, what, str(n), str(d)], capture_output=True, text=True, check=True).stdout.split()[-1])


def test_a_million_points(benchmark):
    for what in ("greedy", "threshold_decay"):
        gib = above_the_data(what, 10**6, 384)
        print(f"\n{what}, 10,000 of 1,000,000 x 384 float32: {gib:.2f} GiB above the data")
        assert gib < 1
    benchmark.pedantic(lambda: None, rounds=1)


def test_memory_of_nearest(benchmark):
    pytest.importorskip("faiss")
    ours, theirs = above_the_data("nearest", 32768, 3072), above_the_data("faiss", 32768, 3072)
    print(f"\nnearest, 32,768 x 3,072 float32 against itself: {ours:.2f} GiB above the data, faiss IndexFlatL2 {theirs:.2f}")
    assert ours <= theirs
    benchmark.pedantic(lambda: None, rounds=1)
