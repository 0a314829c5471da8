import subprocess
import sys
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_nb.data import load_images
from collapse_nb import exchange, farthest
from collapse_nb.entropy import kl_entropy
from collapse_nb.neighbors import nearest
from collapse_nb.selection import STRATEGIES, equal_shares, explain, greedy, guard_limit, guarded, max_entropy, options_for, select
from collapse_nb.selection import threshold_decay, vanilla


def distance(a, b):
    return float(np.sqrt(((np.asarray(a, float) - np.asarray(b, float)) ** 2).sum()))


def squares(x):
    return np.square(x[:, None].astype(float) - x[None].astype(float)).sum(2)


def naive_greedy(x, n, start, outside=None):
    "Algorithm 1 as it is written: all distances anew at every step. Lowest index at ties."
    d, chosen = squares(x), list(np.atleast_1d(start))
    far = np.full(len(x), np.inf) if outside is None else np.square(x[:, None].astype(float) - outside[None].astype(float)).sum(2).min(1)
    while len(chosen) < n:
        to_set = np.minimum(d[:, chosen].min(1) if chosen else np.inf, far)
        to_set[chosen] = -1
        chosen.append(int(to_set.argmax()))
    return [int(i) for i in chosen]


def naive_threshold_decay(x, n, tau, alpha, order):
    "Algorithm 2 as it is written: pass, and decay when a full pass adds nothing."
    d, chosen, passes = np.sqrt(squares(x)), [order[0]], 0
    tau = d[order[0]].max() if tau is None else tau
    while len(chosen) < n:
        passes, added = passes + 1, False
        for i in order:
            if len(chosen) < n and i not in chosen and (d[i, chosen] > tau).all():
                chosen.append(i); added = True
        if not added:
            tau *= alpha
    return chosen, passes, tau


def pool_of(seed, n, d, kind):
    rng = np.random.default_rng(seed)
    if kind == "integers": return rng.integers(0, 256, (n, d))
    if kind == "clustered": return rng.integers(0, 3, (n, 1)) * 100 + rng.integers(0, 4, (n, d))
    if kind == "collinear": return np.outer(rng.permutation(4 * n)[:n], np.arange(1, d + 1))
    if kind == "floats": return rng.normal(size=(n, d)).astype(np.float32)
    if kind == "far floats": return (rng.normal(size=(3, d))[rng.integers(3, size=n)] * 1e3 + rng.normal(size=(n, d)) * 1e-2).astype(np.float32)
    return rng.integers(0, 2, (n, d))  # copies and ties


kinds = st.sampled_from(["integers", "clustered", "collinear", "copies", "floats", "far floats"])
small_blocks = st.tuples(st.integers(1, 8), st.integers(1, 4))  # rows handled together, groups: so that a small pool takes every path


def in_blocks(sizes):
    return mock.patch.multiple(farthest, _BLOCK=sizes[0], _ANCHORS=sizes[1], _CALL=0)


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 4), kinds, small_blocks, st.data())
def test_greedy_is_algorithm_1(seed, size, d, kind, sizes, data):
    x, n, start = pool_of(seed, size, d, kind), data.draw(st.integers(1, size)), data.draw(st.integers(0, size - 1))
    with in_blocks(sizes):
        got, info = greedy(x, n, start=start, return_info=True)
    assert got.tolist() == naive_greedy(x, n, start) and got.dtype == np.int64
    assert (np.diff(info.distance) <= 0).all() and info.distance[0] == np.inf
    away = np.sqrt(squares(x))
    expected = [away[i, got[:j]].min() for j, i in enumerate(got) if j]
    np.testing.assert_allclose(info.distance[1:], expected, rtol=1e-12)
    assert info.rule == ("start",) + ("farthest",) * (n - 1)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 30), st.integers(1, 3), kinds, small_blocks, st.data())
def test_greedy_from_several_starts_and_points_already_kept(seed, size, d, kind, sizes, data):
    x, outside = pool_of(seed, size, d, kind), pool_of(seed + 1, data.draw(st.integers(1, 5)), d, kind)
    start = data.draw(st.lists(st.integers(0, size - 1), max_size=4, unique=True))
    n = data.draw(st.integers(max(1, len(start)), size))
    with in_blocks(sizes):
        assert greedy(x, n, start=start, chosen=outside).tolist() == naive_greedy(x, n, start, outside)
        if start: assert greedy(x, n, start=start).tolist() == naive_greedy(x, n, start)


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 24), st.integers(1, 4), st.sampled_from(["integers", "clustered", "collinear", "floats", "far floats"]),
       st.sampled_from([0.3, 0.8, 0.95]), st.sampled_from([None, 5.0, 300.0]), small_blocks, st.data())
def test_threshold_decay_is_algorithm_2(seed, size, d, kind, alpha, tau, sizes, data):
    x = np.unique(pool_of(seed, size, d, kind), axis=0)  # the paper's loop never ends on copies
    n, order = data.draw(st.integers(1, len(x))), np.random.default_rng(seed).permutation(len(x))
    if len(x) == 1: tau = tau or 5.0
    with in_blocks(sizes):
        got, info = threshold_decay(x, n, tau=tau, alpha=alpha, order=order, return_info=True)
    for i, rule in zip(range(1, n), info.rule[1:]):  # every accepted point was farther than tau at its time
        assert info.distance[i] > float(rule.split("=")[1]) * (1 - 1e-3) and info.rule[0] == "start"
    chosen, passes, last = naive_threshold_decay(x, n, tau, alpha, order.tolist())
    assert got.tolist() == chosen and info.passes == passes and info.tau == pytest.approx(last, rel=1e-9)


def test_threshold_decay_warns_on_copies_and_still_returns_n():
    x = np.array([[0], [0], [9], [9], [4]])
    with pytest.warns(UserWarning, match="exact copies"):
        got, info = threshold_decay(x, 5, seed=0, return_info=True)
    assert sorted(got.tolist()) == [0, 1, 2, 3, 4] and info.tau == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(set(x[threshold_decay(x, 3, seed=0)].ravel())) == 3


def test_alpha_towards_one_approaches_greedy():
    x = load_images("digits", n=200).flat()
    order = np.random.default_rng(0).permutation(200)
    slow = threshold_decay(x, 60, alpha=0.9999, order=order)
    assert slow.tolist() == greedy(x, 60, start=order[0]).tolist()


def test_greedy_keeps_away_from_points_already_kept():
    x = np.array([[0.0], [1.0], [10.0]])
    assert greedy(x, 1, chosen=[[10.1]]).tolist() == [0]
    assert greedy(x, 2, start=[1], chosen=[[10.1]]).tolist() == [1, 0]
    assert greedy(x, 3, start=[2, 0]).tolist() == [2, 0, 1]


@pytest.mark.parametrize("d, kind", [(384, "gaussian"), (24, "clusters"), (2, "plane"), (64, "pixels")])
def test_larger_pools_agree_with_one_step_at_a_time(d, kind):
    "Several blocks and groups, in their real sizes."
    rng, n, size = np.random.default_rng(0), *((700, 2000) if d > 100 else (1500, 4000))
    x = rng.normal(size=(size, d)).astype(np.float32)
    if kind == "clusters": x += 40 * rng.normal(size=(12, d)).astype(np.float32)[rng.integers(12, size=size)]
    if kind == "pixels": x = rng.integers(0, 256, (size, d), dtype=np.uint8)
    wide, far, expected, i = x.astype(float), np.full(size, np.inf), [], 7
    for _ in range(n):
        expected.append(i)
        far = np.minimum(far, np.einsum("nd,nd->n", wide - wide[i], wide - wide[i])); far[expected] = -1
        i = int(far.argmax())
    assert greedy(x, n, start=7).tolist() == expected
    order, taus = rng.permutation(size), []
    got, info = threshold_decay(x, n, order=order, return_info=True)
    far, chosen = np.sqrt(np.einsum("nd,nd->n", wide - wide[order[0]], wide - wide[order[0]])), [int(order[0])]
    tau = far.max()
    while len(chosen) < n:
        for j in order:
            if far[j] > tau and len(chosen) < n:
                chosen.append(int(j)); taus.append(tau)
                far = np.minimum(far, np.sqrt(np.einsum("nd,nd->n", wide - wide[j], wide - wide[j]))); far[chosen] = -1
        tau *= 0.95
    assert got.tolist() == chosen and (info.distance[1:] > taus).all()


def test_groups_are_used_where_they_pay(monkeypatch):
    rng, used = np.random.default_rng(0), []
    original = farthest.Chosen._by_group
    monkeypatch.setattr(farthest.Chosen, "_by_group", lambda self, rows: used.append(original(self, rows)) or used[-1])
    x = (rng.normal(size=(40, 128)) * 10)[rng.integers(40, size=30_000)] + rng.normal(size=(30_000, 128))
    greedy(x.astype(np.float32), 8_000, seed=0)
    assert any(used)


def test_every_kind_of_array_gives_the_same_choice(tmp_path):
    x = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    for select_ in (lambda y: greedy(y, 1200, seed=0), lambda y: threshold_decay(y, 1200, seed=0)):
        expected = select_(x.astype(np.float64)).tolist()
        for y in (x, np.load(tmp_path / "x.npy", mmap_mode="r"), torch.from_numpy(x), x.astype(np.float32)):
            assert select_(y).tolist() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_chooses_the_same():
    x = torch.randn(6000, 64, generator=torch.Generator().manual_seed(0))
    for f in (greedy, threshold_decay):
        assert f(x.cuda(), 3000, seed=0).tolist() == f(x, 3000, seed=0).tolist()
    real = torch.randn(500, 64, generator=torch.Generator().manual_seed(1))
    for n in (3000, 6000):
        assert guarded(x.cuda(), n, reference=real.cuda(), seed=0).tolist() == guarded(x, n, reference=real, seed=0).tolist()
    with pytest.raises(ValueError, match="same device"): guarded(x.cuda(), 9, reference=real)


PEAK = """
import sys
import numpy as np
from collapse_nb.selection import greedy, threshold_decay
import torch
peak = lambda: 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
x, before = np.load(sys.argv[1], mmap_mode="r"), peak()
for f in (greedy, threshold_decay): assert len(set(f(x, 60, seed=0).tolist())) == 60
print(peak() - before)
"""


@pytest.mark.slow
def test_a_large_file_is_never_copied(tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float16, (200_000, 384))
    rng = np.random.default_rng(0)
    for i in range(0, len(x), 20_000): x[i:i + 20_000] = rng.standard_normal((20_000, 384), dtype=np.float32)
    x.flush()
    out = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path / "x.npy")], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) < x.nbytes + 2**28  # its pages count when read; a copy in float32 would be another 2 * nbytes


def objective(x, chosen, floor):
    away = np.sqrt(squares(x[chosen])); np.fill_diagonal(away, np.inf)
    return np.log(np.maximum(away.min(1), floor)).sum()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 14), st.integers(1, 3), kinds)
def test_max_entropy_is_a_local_optimum_above_greedy(seed, size, d, kind):
    x, n = pool_of(seed, size, d, kind), int(np.random.default_rng(seed).integers(2, size))
    floor = 0.5 if x.dtype.kind == "i" else 1e-10
    got, info = max_entropy(x, n, seed=seed, return_info=True)
    start = greedy(x, n, seed=seed)
    reached = objective(x, got, floor)
    assert len(set(got.tolist())) == n and info.gained == pytest.approx(kl_entropy(x[got]) - kl_entropy(x[start]), abs=1e-6) and info.gained >= 0
    for out in got:  # no single exchange helps
        for new in set(range(size)) - set(got.tolist()):
            assert objective(x, np.array([i for i in got if i != out] + [new]), floor) <= reached + 1e-6


def test_max_entropy_on_images_and_its_budget(monkeypatch):
    images = load_images("digits", n=400)
    best, info = max_entropy(images, 100, seed=0, return_info=True)
    assert kl_entropy(images[best]) > kl_entropy(images[greedy(images, 100, seed=0)]) and info.rule.count("exchanged") > 0 and info.swaps > 2
    two, some = max_entropy(images, 100, seed=0, budget=2, return_info=True)
    assert some.swaps == 2 and 0 < some.gained < info.gained and len(set(two.tolist())) == 100
    assert max_entropy(images, 100, seed=0, budget=0).tolist() == greedy(images, 100, seed=0).tolist()
    whole = exchange.Exchange.__init__
    monkeypatch.setattr(exchange.Exchange, "__init__", lambda self, *a: whole(self, *a) or setattr(self, "all", None))
    assert max_entropy(images, 100, seed=0).tolist() == best.tolist()  # without the matrix of all distances


FILL = "fill: nearest to the reference"


def naive_guarded(x, n, reference, quantile, start):
    "As an idea says it. A start among the admitted, or none where nothing is."
    between = np.sqrt(squares(reference)) + np.diag(np.full(len(reference), np.inf))
    limit = np.quantile(between.min(1), quantile)
    away = np.sqrt(np.square(x[:, None].astype(float) - reference[None].astype(float)).sum(2)).min(1)
    inside = [i for i in range(len(x)) if away[i] <= limit]
    rest = sorted(set(range(len(x))) - set(inside), key=lambda i: (away[i], i))
    picks = naive_greedy(x[inside], min(n, len(inside)), inside.index(start)) if inside else []
    return [inside[i] for i in picks] + rest[:n - len(picks)], limit, inside


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 20), st.integers(1, 4), kinds,
       st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]), small_blocks, st.data())
def test_guarded_is_greedy_among_the_admitted_then_the_nearest(seed, size, known, d, kind, quantile, sizes, data):
    x, reference = pool_of(seed, size, d, kind), pool_of(seed + data.draw(st.integers(0, 1)), known, d, kind)
    n = data.draw(st.integers(1, size))
    with in_blocks(sizes):
        got, info = guarded(x, n, reference=reference, quantile=quantile, seed=seed, return_info=True)
    chosen, limit, inside = naive_guarded(x, n, reference, quantile, int(got[0]))
    assert got.tolist() == chosen and got.dtype == np.int64
    assert info.limit == pytest.approx(limit, rel=1e-12) and info.admitted == len(inside)
    m = min(n, len(inside))
    assert info.rule == (("start",) + ("farthest",) * (m - 1) if m else ()) + (FILL,) * (n - m)
    away = np.sqrt(squares(x))
    expected = [away[i, got[:j]].min() if j else np.inf for j, i in enumerate(got)]
    np.testing.assert_allclose(info.distance, expected, rtol=1e-12)
    if inside:
        start = data.draw(st.sampled_from(inside))
        again = guarded(x, n, reference=reference, quantile=quantile, start=start)
        assert again.tolist() == naive_guarded(x, n, reference, quantile, start)[0]


def test_guarded_is_greedy_where_all_are_admitted():
    x = load_images("digits", n=300)
    for options in (dict(start=7), dict(start=[9, 4, 250]), dict(seed=3), dict(start=[])):
        got, info = guarded(x, 80, reference=x, return_info=True, **options)
        expected, plain = greedy(x, 80, return_info=True, **options)
        assert got.tolist() == expected.tolist() and info.admitted == 300
        assert info.rule == plain.rule and (info.distance == plain.distance).all()


def test_what_the_guard_admits_and_how_it_fills_up():
    x, reference = np.array([[0.0], [9], [1], [5], [-5], [2], [7]]), np.array([[0.0], [1], [3]])  # apart: 1, 1, 2
    assert guard_limit(reference, 1) == 2 and guard_limit(reference, 0.5) == 1 and guard_limit(reference, 0.75) == 1.5
    got, info = guarded(x, 7, reference=reference, quantile=1, start=3, return_info=True)
    assert got.tolist() == [3, 0, 5, 2, 6, 4, 1]  # the limit itself is inside; 4 and 5 away from 3 and 0; then 9
    assert info.rule == ("start",) + ("farthest",) * 3 + (FILL,) * 3 and info.distance.tolist() == [np.inf, 5, 2, 1, 2, 5, 2]
    assert guarded(x, 2, reference=reference, quantile=1, start=[5, 2]).tolist() == [5, 2]
    for seed in range(20): assert guarded(x, 1, reference=reference, seed=seed)[0] in (0, 2, 3, 5)
    got, info = guarded(x + 100, 3, reference=reference, return_info=True)  # nothing is inside
    assert got.tolist() == [4, 0, 2] and info.rule == (FILL,) * 3 and info.admitted == 0
    assert info.distance.tolist() == [np.inf, 5, 1]
    same = np.full((4, 1), 5.0)  # the limit is 0: only copies are admitted
    got, info = guarded(np.array([[5.0], [6], [5], [3]]), 3, reference=same, start=2, return_info=True)
    assert got.tolist() == [2, 0, 1] and info.limit == 0 and info.admitted == 2


def test_guarded_keeps_noise_out_which_greedy_prefers():
    real, unseen = load_images("digits", n=256), load_images("digits", split="heldout", n=300).flat()
    noise = np.random.default_rng(0).integers(0, 256, (30, 64), dtype=np.uint8)
    pool = np.concatenate([unseen, noise])
    assert (greedy(pool, 90, seed=0) >= 300).sum() == 30 and (guarded(pool, 90, reference=real, seed=0) < 300).all()
    filled, info = guarded(pool, 330, reference=real, seed=0, return_info=True)
    assert sorted(filled.tolist()) == list(range(330)) and 0.95 * 300 < info.admitted <= 300
    away = nearest(pool[filled[info.admitted:]], real)[0][:, 0]
    assert (np.diff(away) >= 0).all() and (away > info.limit).all()
    table = explain(pool, filled, info)
    assert (table.loc[300:, "rule"] == FILL).all()


def test_guarded_takes_every_kind_of_array(tmp_path):
    rng = np.random.default_rng(0)
    x, reference = rng.normal(size=(2000, 16)).astype(np.float16), rng.normal(size=(300, 16)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    expected = guarded(x.astype(float), 500, reference=reference.astype(float), quantile=0.5, seed=0).tolist()
    for y in (x, np.load(tmp_path / "x.npy", mmap_mode="r"), torch.from_numpy(x), x.reshape(2000, 4, 4)):
        for known in (reference, torch.from_numpy(reference)):
            assert guarded(y, 500, reference=known, quantile=0.5, seed=0).tolist() == expected
    images = load_images("digits", n=200)
    for known in (images[:50], images[:50].flat(), images[:50].flat().astype(float)):
        assert guarded(images, 60, reference=known, seed=1).tolist() == guarded(images.flat(), 60, reference=images[:50], seed=1).tolist()


def test_a_strategy_that_needs_an_option_says_so():
    x = np.random.default_rng(0).normal(size=(40, 3))
    index, info = select("guarded", x, 10, reference=x[:20], seed=0, alpha=0.9, tau=None, source=None)
    assert index.tolist() == guarded(x, 10, reference=x[:20], seed=0).tolist() and info.limit == guard_limit(x[:20])
    for options in (dict(), dict(reference=None)):
        with pytest.raises(ValueError, match="strategy 'guarded' needs a reference.*allowed: reference="): select("guarded", x, 10, seed=0, **options)
    assert options_for("vanilla", seed=1, reference=x, tau=2) == dict(seed=1)
    assert options_for("greedy", seed=None, reference=None) == dict(seed=None)
    with pytest.raises(ValueError, match="gredy.*guarded"): options_for("gredy")


def test_explain_says_why():
    images = load_images("digits", n=60)
    for strategy, rule in (("greedy", "farthest"), ("threshold_decay", "farther than tau"), ("vanilla", "equal share"), ("max_entropy", "")):
        index, info = select(strategy, images, 20, seed=0, alpha=0.9, tau=None)
        table = explain(images, index, info)
        assert len(table) == 60 and table.chosen.sum() == 20 and table[table.chosen].sort_values("rank").index.tolist() == index.tolist()
        assert table.loc[index[-1], "rule"].startswith(rule) and (table[~table.chosen].rule == "").all()
        assert (table.label == images.labels).all() and (table.source == 0).all()
        rest = np.flatnonzero(~table.chosen)
        assert (table.distance[rest] == nearest(images[rest], images[index])[0][:, 0]).all()
        near = table.loc[index[3], "nearest"]
        assert table.loc[index[3], "distance"] == np.sqrt(((images.flat()[index[3]].astype(float) - images.flat()[near]) ** 2).sum()) > 0
    with pytest.raises(ValueError, match="different integers, 0 to 59"): explain(images, [3, 3])


def test_permuting_the_pool_permutes_the_choice():
    x, p = np.random.default_rng(0).normal(size=(80, 5)), np.random.default_rng(1).permutation(80)
    assert p[greedy(x[p], 30, start=int(np.argsort(p)[7]))].tolist() == greedy(x, 30, start=7).tolist()
    order = np.random.default_rng(2).permutation(80)
    assert p[threshold_decay(x[p], 30, order=np.argsort(p)[order])].tolist() == threshold_decay(x, 30, order=order).tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.data())
def test_shares_are_equal_as_far_as_the_sources_allow(sizes, data):
    n = data.draw(st.integers(0, sum(sizes)))
    shares = equal_shares(sizes, n)
    assert shares.sum() == n and (shares <= sizes).all()
    short = [s for s, m in zip(shares, sizes) if s < m]
    assert not short or (max(shares) - min(short) <= 1 and short == sorted(short, reverse=True))


def test_vanilla_takes_equal_shares_without_replacement():
    source = np.repeat([0, 1, 2], 100)
    i = vanilla(np.zeros((300, 1)), 100, source=source, seed=0)
    assert np.bincount(source[i]).tolist() == [34, 33, 33] and len(set(i.tolist())) == 100
    assert i.tolist() == vanilla(np.zeros((300, 1)), 100, source=source, seed=0).tolist()


@pytest.mark.parametrize("call, words", [
    (lambda x: greedy(x, 0), "n = 0.*1 to 10"),
    (lambda x: greedy(x, 11), "n = 11.*1 to 10"),
    (lambda x: greedy(x, 2.0), "n = 2.0"),
    (lambda x: greedy(x, 3, start=10), "start = .10"),
    (lambda x: greedy(x, 3, start=[1, 1]), r"start = \[1, 1\]"),
    (lambda x: greedy(x, 1, start=[1, 2]), "at most n = 1"),
    (lambda x: greedy(x, 3, chosen=x[:, :1]), "1 dimensions"),
    (lambda x: greedy(x, 3, chosen=x * np.inf), "chosen.*NaN or infinite"),
    (lambda x: greedy(x, 3, start=0.5), r"start = \[0.5\]"),
    (lambda x: greedy(x, True), "n = True"),
    (lambda x: greedy(x[:0], 1), "not empty"),
    (lambda x: threshold_decay(x / 0, 3), "NaN or infinite"),
    (lambda x: threshold_decay(x, 11), "n = 11.*1 to 10"),
    (lambda x: threshold_decay(x, 3, order=np.arange(10) * 1.0), "permutation"),
    (lambda x: threshold_decay(x, 3, tau=0), "tau = 0"),
    (lambda x: max_entropy(x, 3, floor=-1), "floor = -1"),
    (lambda x: max_entropy(x, 3, budget=-1), "budget = -1"),
    (lambda x: greedy(x * np.nan, 3), "NaN"),
    (lambda x: threshold_decay(x, 3, alpha=1.0), "alpha = 1.0"),
    (lambda x: threshold_decay(x, 3, alpha=0), "alpha = 0"),
    (lambda x: threshold_decay(x, 3, tau=-1), "tau = -1"),
    (lambda x: threshold_decay(x, 3, tau=float("inf")), "tau = inf"),
    (lambda x: threshold_decay(x, 3, order=[0, 0]), "permutation"),
    (lambda x: vanilla(x, 3, source=[1]), "source"),
    (lambda x: guarded(x, 3, reference=x[:1]), "reference of 1 point.*2 or more"),
    (lambda x: guarded(x, 3, reference=x[:0]), "reference of shape.*not empty"),
    (lambda x: guarded(x, 3, reference=None), "reference of shape"),
    (lambda x: guarded(x, 3, reference=x, quantile=0), "quantile = 0 .*more than 0, at most 1"),
    (lambda x: guarded(x, 3, reference=x, quantile=1.01), "quantile = 1.01"),
    (lambda x: guarded(x, 3, reference=x, quantile=float("nan")), "quantile = nan"),
    (lambda x: guarded(x, 3, reference=x[:, :1]), "reference has 1 dimensions, the pool 2"),
    (lambda x: guarded(x, 3, reference=x * np.nan), "reference: 20 of 20 values are NaN"),
    (lambda x: guarded(x * np.nan, 3, reference=x), "points: 20 of 20 values are NaN"),
    (lambda x: guarded(x, 11, reference=x), "n = 11.*1 to 10"),
    (lambda x: guarded(x, 3, reference=x, start=10), "start = .10.*0 to 9"),
    (lambda x: guarded(x, 3, reference=x, start=[1, 1]), r"start = \[1, 1\]"),
    (lambda x: guarded(np.vstack([x, [[99, 99]]]), 3, reference=x, start=[2, 10]), r"start = \[2, 10\]: 10 lies 13.* from the reference.*at most"),
    (lambda x: select("gredy", x, 3), "gredy.*greedy"),
])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.random.default_rng(0).normal(size=(10, 2)))


def test_a_strategy_of_ones_own_and_a_broken_one():
    x = np.arange(10.0)[:, None]
    try:
        STRATEGIES.register("largest")(lambda points, n: np.argsort(-points[:, 0])[:n])
        STRATEGIES.register("twice")(lambda points, n: np.zeros(n, int))
        assert select("largest", x, 3, seed=1, alpha=2)[0].tolist() == [9, 8, 7]
        with pytest.raises(ValueError, match="twice.*3 different"):
            select("twice", x, 3)
    finally:
        from collapse_nb.config import NAMES
        for name in ("largest", "twice"):
            STRATEGIES.pop(name); NAMES["strategy"].remove(name)


def test_the_word_on_the_cards_command_line_is_greedy():
    x = np.random.default_rng(0).normal(size=(30, 2))
    assert select("entropy", x, 9, seed=2)[0].tolist() == select("greedy", x, 9, seed=2)[0].tolist() == greedy(x, 9, seed=2).tolist()
    assert "entropy" not in STRATEGIES and STRATEGIES["entropy"] is greedy


def test_selectors_raise_the_entropy_of_real_images():
    from collapse_nb.entropy import kl_entropy
    images = load_images("digits")
    h = {s: kl_entropy(images[select(s, images, 128, seed=5, alpha=0.95, tau=None)[0]]) for s in ("vanilla", "greedy", "threshold_decay")}
    assert h["greedy"] > h["vanilla"] + 15 and h["threshold_decay"] > h["vanilla"] + 15
