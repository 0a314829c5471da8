"""The report on 5,000 generated, 50,000 training and 5,000 unseen pictures of 3x32x32, against the machine's own matrix product: `make bench`."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import product_seconds, seconds

from collapse_nb.data import Images, load_images
from collapse_nb.metrics import NearestTraining

CODE = """
import resource, sys, time
import numpy as np
from collapse_nb.data import Images
sets = np.load(sys.argv[1])
sets = {name: Images(sets[name]) for name in ("generated", "train", "reference")}
from collapse_nb import report
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
health = report(**sets, n=None, transformations=sys.argv[2] == "True")
print(time.perf_counter() - start, before / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
print(health, file=sys.stderr)
"""


def pictures() -> dict[str, np.ndarray]:
    "CIFAR-10's JPEG copies where they are, else smooth noise: half of the generated ones are copies with noise."
    rng = np.random.default_rng(0)
    try:
        train, other = (load_images("folder:cifar10-jpeg", split=s).pixels for s in ("train", "heldout"))
    except FileNotFoundError:
        coarse = torch.from_numpy(rng.uniform(0, 255, (60_000, 3, 6, 6)).astype(np.float32))
        smooth = torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 255).byte().numpy()
        train, other = smooth[:50_000], smooth[50_000:]
    noisy = train[:2500] + rng.normal(0, 10, train[:2500].shape)
    generated = np.concatenate([np.clip(noisy, 0, 255).astype(np.uint8), other[:2500]])
    return dict(generated=generated, train=train, reference=other[5000:])


@pytest.mark.parametrize("transformations", [False, True])
def test_report_against_the_products_of_its_distances(tmp_path, transformations):
    """The limit: products for all distances to training images that are needed: of the generated and unseen ones, and of training images that
    are somebody's nearest. The goal: 4 times that and 1.5 GB; with transformations 8 times."""
    sets = pictures()
    np.savez(tmp_path / "sets.npz", **sets)
    needed = sum(len(sets[name]) for name in ("generated", "reference"))
    needed += sum(len(np.unique(NearestTraining(Images(sets[name]), Images(sets["train"])).first)) for name in ("generated", "reference"))
    limit = product_seconds(2 * needed * 50_000 * 3072, 3072)
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path / "sets.npz"), str(transformations)], capture_output=True, text=True, check=True)
    wall, before, peak = map(float, done.stdout.split())
    print(f"\nreport, transformations {transformations}: {wall:.0f} s, {wall / limit:.1f} times the products ({limit:.0f} s, {torch.get_num_threads()} "
          f"threads); peak {peak:.2f} GB, before {before:.2f} GB")


def test_transformations_against_one_product():
    "5,000 images among 50,000: candidates and exact distances, against one product of all pairs in pixels."
    from collapse_nb.copies import find_matches
    sets = {name: Images(x) for name, x in pictures().items()}
    near = np.zeros((5000, 2), np.int64)
    ours = seconds(lambda: find_matches(sets["generated"], sets["train"], near=near), 1)
    limit = product_seconds(2 * 5000 * 50_000 * 3072, 3072)
    print(f"\nfind_matches: {ours:.0f} s, {ours / limit:.1f} times one product of all pairs ({limit:.0f} s)")
