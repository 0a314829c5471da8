"""FID and KID of arrays against clean-fid, torch-fidelity and pytorch-fid, and what those tools read of our files."""

import warnings

import numpy as np
import pytest
import torch

from collapse_nb.data import Images, load_images
from collapse_nb.features import embed
from collapse_nb.fid import export_images, export_npz, fid, subset_kernel_distance, kid
from collapse_nb.metrics import frechet_distance
from collapse_nb.inception import load_inception
from collapse_nb.networks import random_weights

cleanfid = pytest.importorskip("cleanfid.fid")
A, B = load_images("digits", n=40), load_images("digits", split="heldout")[:30]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return random_weights("inception", tmp_path_factory.mktemp("weights") / "inception-2015-12-05.pt")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [str(export_images(x, tmp_path_factory.mktemp(n) / "png")) for n, x in (("a", A), ("b", B))]


def folder_features(folder, net, mode):
    network = load_inception(mode, net)[0]
    return cleanfid.get_folder_features(folder, network, num_workers=0, batch_size=32, device=torch.device("cpu"), mode=mode, verbose=False)


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_kid_equals_clean_fids_from_folders(net, folders, mode):
    theirs = [folder_features(f, net, mode) for f in folders]
    np.random.seed(7)  # noqa: NPY002
    expected = cleanfid.kernel_distance(*theirs, num_subsets=20, max_subset_size=25)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert kid(A, B, mode, seed=7, subsets=20, subset_size=25, weights=net, cache=False) == expected
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert kid(A, B, mode, seed=8, subsets=20, subset_size=25, weights=net, cache=False) != expected


def test_fid_equals_clean_fids_from_folders(net, folders, monkeypatch):
    "Features to the last bit; the distance by clean-fid's own function on 24 of the 2048, where its covariances have full rank."
    theirs = [folder_features(f, net, "clean") for f in folders]
    ours = [embed(x, "inception", weights=net, cache=False) for x in (A, B)]
    assert all((t == o).all() for t, o in zip(theirs, ours))
    assert fid(A, B, weights=net, cache=False) == pytest.approx(frechet_distance(*theirs), rel=1e-9)
    few = [t[:, t.std(0).argsort()[-24:]].astype(np.float64) for t in theirs]
    assert frechet_distance(*few) == pytest.approx(cleanfid.fid_from_feats(*few), rel=1e-6)


@pytest.mark.slow
def test_fid_of_all_2048_features_is_near_clean_fids(net, folders):
    "Below 2049 images clean-fid takes the root of a singular matrix, which is only as exact as that."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = cleanfid.compare_folders(*folders, load_inception("clean", net)[0], "clean", num_workers=0, batch_size=32,
                                          device=torch.device("cpu"), verbose=False)
    assert fid(A, B, weights=net, cache=False) == pytest.approx(theirs, rel=1e-3)


def test_arrays_in_any_layout_and_symmetry(net):
    expected = fid(A, B, weights=net, cache=False)
    for a in (A.pixels, A.pixels[:, 0], A.pixels.transpose(0, 2, 3, 1), np.repeat(A.pixels, 3, 1)):
        assert fid(a, B, weights=net, cache=False) == pytest.approx(expected, rel=1e-9)
    assert fid(B, A, weights=net, cache=False) == pytest.approx(expected, rel=1e-9)
    assert fid(A, A, weights=net, cache=False) == pytest.approx(0, abs=1e-9 * expected)


def test_images_of_two_sides_are_compared_at_299(net):
    small = load_images("digits", n=12, side=6)
    assert np.isfinite(fid(small, B, weights=net, cache=False))


@pytest.mark.parametrize("a, words", [(A[:1], "generated: 1 image"), (A.unit(), "generated: float32"), (A.pixels[:, :, :0], "generated"),
                                      (np.zeros((2, 5, 5, 5), np.uint8), "generated")])
def test_sets_that_are_refused(net, a, words):
    for distance in (fid, kid):
        with pytest.raises(ValueError, match=words): distance(a, B, weights=net, cache=False)
        with pytest.raises(ValueError, match=words.replace("generated", "reference")): distance(B, a, weights=net, cache=False)


@pytest.mark.parametrize("bad, words", [(dict(mode="clean "), "mode = 'clean '.*legacy_pytorch"), (dict(subsets=0), "subsets = 0"),
                                        (dict(subset_size=1), "subset_size = 1"), (dict(batch_size=0), "batch_size = 0")])
def test_options_that_are_refused(net, bad, words):
    with pytest.raises(ValueError, match=words): kid(A, B, weights=net, **bad)


def test_identical_images_have_a_value(net):
    one = Images(np.repeat(A.pixels[:1], 20, 0))
    assert fid(one, one, weights=net, cache=False) == pytest.approx(0, abs=1e-9) and fid(one, B, weights=net, cache=False) > 0
    assert np.isfinite(kid(one, B, weights=net, cache=False))


# torch-fidelity and pytorch-fid


def test_torch_fidelity_on_shared_features():
    "Its two functions on random features of full rank, its kernel on all of them at once."
    f, k = pytest.importorskip("torch_fidelity.metric_fid"), pytest.importorskip("torch_fidelity.metric_kid")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 20)) @ rng.normal(size=(20, 20)), rng.normal(size=(300, 20)) + 0.3
    theirs = f.fid_statistics_to_metric(*(f.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)), verbose=False)
    assert frechet_distance(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    theirs = k.kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), kid_subsets=1, kid_subset_size=300, verbose=False)
    assert subset_kernel_distance(a, b, subsets=1, subset_size=300) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


@pytest.mark.parametrize("images", [A[:9], Images(np.random.default_rng(0).integers(0, 256, (9, 3, 5, 7), dtype=np.uint8))], ids=["grey", "rgb"])
def test_the_tools_read_our_png(tmp_path, images):
    from PIL import Image
    folder = export_images(images, tmp_path / "new" / "png")
    expected = np.broadcast_to(images.pixels, (9, 3, *images.shape[1:]))
    assert [p.name for p in sorted(folder.iterdir())] == [f"{i:05d}.png" for i in range(9)]
    assert Image.open(folder / "00000.png").mode == ("L" if images.shape[0] == 1 else "RGB")
    read = cleanfid.get_folder_features(str(folder), lambda x: x, num_workers=0, batch_size=4, device=torch.device("cpu"), mode="legacy_tensorflow",
                                        verbose=False)
    assert (np.rint(read) == expected).all()
    again = load_images(f"folder:{folder}", split="train"), load_images(f"folder:{folder}", split="heldout")
    assert {p.tobytes() for s in again for p in s.pixels} == {p.tobytes() for p in images.pixels}


@pytest.mark.parametrize("images", [A[:9], Images(np.random.default_rng(0).integers(0, 256, (9, 3, 5, 7), dtype=np.uint8))], ids=["grey", "rgb"])
def test_torch_fidelity_reads_our_png(tmp_path, images):
    utils = pytest.importorskip("torch_fidelity.utils")
    folder = export_images(images, tmp_path / "png")
    read = utils.prepare_input_from_descriptor({"input": str(folder)}, verbose=False)
    assert (torch.stack([read[i] for i in range(len(read))]).numpy() == np.broadcast_to(images.pixels, (9, 3, *images.shape[1:]))).all()


@pytest.mark.parametrize("images", [A[:9], Images(np.random.default_rng(0).integers(0, 256, (9, 3, 5, 7), dtype=np.uint8))], ids=["grey", "rgb"])
def test_pytorch_fid_reads_our_png(tmp_path, images):
    score = pytest.importorskip("pytorch_fid.fid_score")
    folder = export_images(images, tmp_path / "png")
    net = torch.nn.Module()
    net.forward = lambda x: [x.flatten(1)[:, :, None, None]]
    mu, sigma = score.compute_statistics_of_path(str(folder), net, 4, 3 * images.shape[1] * images.shape[2], "cpu", 0)
    flat = np.broadcast_to(images.pixels, (9, 3, *images.shape[1:])).reshape(9, -1) / 255
    assert np.allclose(mu, flat.mean(0)) and np.allclose(sigma, np.cov(flat, rowvar=False))


def test_npz_as_guided_diffusion_reads_it(tmp_path):
    rgb = Images(np.random.default_rng(0).integers(0, 256, (9, 3, 5, 7), dtype=np.uint8))
    for images in (A[:9], rgb):
        with np.load(export_npz(images, tmp_path / "sub" / "a.npz"), allow_pickle=False) as z:
            assert z.files == ["arr_0"] and z["arr_0"].dtype == np.uint8
            assert (z["arr_0"] == np.broadcast_to(images.pixels, (9, 3, *images.shape[1:])).transpose(0, 2, 3, 1)).all()
    with pytest.raises(ValueError, match=r"a.npy.*ends in .npz"): export_npz(rgb, tmp_path / "a.npy")


def test_no_old_pictures_are_counted(tmp_path):
    export_images(A[:3], tmp_path / "png")
    with pytest.raises(ValueError, match="is not empty"): export_images(A[:2], tmp_path / "png")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not empty"): export_images(A[:2], tmp_path / "file")
