import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_nb.data import load_images
from collapse_nb.selection import STRATEGIES, equal_shares, greedy, select, threshold_decay, vanilla


def distance(a, b):
    return float(np.sqrt(((np.asarray(a, float) - np.asarray(b, float)) ** 2).sum()))


def naive_greedy(x, n, start):
    "Algorithm 1 as it is written: all distances anew at every step."
    chosen = [start]
    while len(chosen) < n:
        rest = [i for i in range(len(x)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: (min(distance(x[i], x[j]) for j in chosen), -i)))
    return chosen


def naive_threshold_decay(x, n, tau, alpha, order):
    "Algorithm 2 as it is written: pass, and decay when a full pass adds nothing."
    chosen, passes = [order[0]], 0
    tau = max(distance(x[i], x[order[0]]) for i in order) if tau is None else tau
    while len(chosen) < n:
        passes, added = passes + 1, False
        for i in order:
            if len(chosen) < n and i not in chosen and all(distance(x[i], x[j]) > tau for j in chosen):
                chosen.append(i); added = True
        if not added:
            tau *= alpha
    return chosen, passes, tau


def pool_of(seed, n, d, kind):
    rng = np.random.default_rng(seed)
    if kind == "integers": return rng.integers(0, 256, (n, d))
    if kind == "clustered": return rng.integers(0, 3, (n, 1)) * 100 + rng.integers(0, 4, (n, d))
    if kind == "collinear": return np.outer(rng.permutation(4 * n)[:n], np.arange(1, d + 1))
    return rng.integers(0, 2, (n, d))  # copies and ties


kinds = st.sampled_from(["integers", "clustered", "collinear", "copies"])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 16), st.integers(1, 4), kinds, st.data())
def test_greedy_is_algorithm_1(seed, size, d, kind, data):
    x, n, start = pool_of(seed, size, d, kind), data.draw(st.integers(1, size)), data.draw(st.integers(0, size - 1))
    got, info = greedy(x, n, start=start, return_info=True)
    assert got.tolist() == naive_greedy(x, n, start) and got.dtype == np.int64
    assert (np.diff(info.distance) <= 0).all()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 14), st.integers(1, 4), st.sampled_from(["integers", "clustered", "collinear"]),
       st.sampled_from([0.3, 0.8, 0.95]), st.sampled_from([None, 5.0, 300.0]), st.data())
def test_threshold_decay_is_algorithm_2(seed, size, d, kind, alpha, tau, data):
    x = np.unique(pool_of(seed, size, d, kind), axis=0)  # the paper's loop never ends on copies
    n, order = data.draw(st.integers(1, len(x))), np.random.default_rng(seed).permutation(len(x))
    if len(x) == 1: tau = tau or 5.0
    got, info = threshold_decay(x, n, tau=tau, alpha=alpha, order=order, return_info=True)
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


def test_permuting_the_pool_permutes_the_choice():
    x, p = np.random.default_rng(0).normal(size=(80, 5)), np.random.default_rng(1).permutation(80)
    assert p[greedy(x[p], 30, start=int(np.argsort(p)[7]))].tolist() == greedy(x, 30, start=7).tolist()


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
    (lambda x: greedy(x * np.nan, 3), "NaN"),
    (lambda x: threshold_decay(x, 3, alpha=1.0), "alpha = 1.0"),
    (lambda x: threshold_decay(x, 3, alpha=0), "alpha = 0"),
    (lambda x: threshold_decay(x, 3, tau=-1), "tau = -1"),
    (lambda x: threshold_decay(x, 3, tau=float("inf")), "tau = inf"),
    (lambda x: threshold_decay(x, 3, order=[0, 0]), "permutation"),
    (lambda x: vanilla(x, 3, source=[1]), "source"),
    (lambda x: select("gredy", x, 3), "gredy.*entropy"),
])
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


def test_selectors_raise_the_entropy_of_real_images():
    from collapse_nb.entropy import kl_entropy
    images = load_images("digits")
    h = {s: kl_entropy(images[select(s, images, 128, seed=5, alpha=0.95, tau=None)[0]]) for s in ("vanilla", "entropy", "threshold_decay")}
    assert h["entropy"] > h["vanilla"] + 15 and h["threshold_decay"] > h["vanilla"] + 15
