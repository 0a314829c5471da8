import importlib
import subprocess
import sys
import textwrap
import types
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from collapse_nb import config as C, names
from collapse_nb import project as P

DEMO = "19c66521"  # the digest of preset demo: a new one means that every recorded run has to be run again


def settings(tmp_path, text):
    path = tmp_path / "settings.ini"
    path.write_text(textwrap.dedent(text))
    return path


def test_every_preset_and_study_loads():
    assert {"smoke", "demo", "ddpm-digits"} <= set(C.preset_names())
    for name in C.preset_names():
        assert C.load_preset(name).preset == name
    for section in C.read_settings():
        if section.startswith("study:"):
            assert C.load_study(section.removeprefix("study:"))


@pytest.mark.parametrize("change, words", [
    (dict(strategy="entorpy"), ["entorpy", "vanilla", "threshold_decay"]),
    (dict(paradigm="swap"), ["swap", "replace", "accumulate"]),
    (dict(dataset="digit"), ["digit", "digits"]),
    (dict(space="pixels"), ["pixels", "classifier"]),
    (dict(spaces="pixel, inceptoin"), ["inceptoin", "pixel"]),
    (dict(n_train=1), ["n_train = 1", "at least 2"]),
    (dict(iterations=0), ["iterations = 0", "at least 1"]),
    (dict(seed=-1), ["seed = -1", "at least 0"]),
    (dict(seed=1.5), ["seed = 1.5", "whole number"]),
    (dict(seed=True), ["seed = True", "whole number"]),
    (dict(seed="three"), ["seed = 'three'", "whole number"]),
    (dict(alpha=1.0), ["alpha = 1.0", "less than 1", "auto"]),
    (dict(alpha="automatic"), ["alpha = 'automatic'", "a number (or auto)"]),
    (dict(pool_factor=0), ["pool_factor = 0", "at least 1", "auto"]),
    (dict(pool_factor=1.5), ["pool_factor = 1.5", "a whole number (or auto)"]),
    (dict(pool_factor="many"), ["pool_factor = 'many'", "a whole number (or auto)"]),
    (dict(alpha=float("nan")), ["alpha = nan", "more than 0"]),
    (dict(tau=0), ["tau = 0", "more than 0"]),
    (dict(tau=float("inf")), ["tau = inf"]),
    (dict(learning_rate="inf"), ["learning_rate = inf"]),
    (dict(beta1=1.0), ["beta1 = 1.0", "less than 1"]),
    (dict(strategy=3), ["strategy = 3", "text"]),
    (dict(spaces=5), ["spaces = 5", "list"]),
    (dict(spaces="classifier"), ["spaces = 'classifier'", "pixel"]),
    (dict(train_steps=40), ["warmup_steps = 100", "train_steps = 40"]),
    (dict(objective="ddpm", sample_steps=1001), ["sample_steps = 1001", "1000"]),
    (dict(guidance=-1), ["guidance = -1", "at least 0"]),
    (dict(guidance=2, label_dropout=0), ["label_dropout = 0", "guidance = 2"]),
    (dict(label_dropout=1), ["label_dropout = 1", "less than 1"]),
    (dict(precision="fp8"), ["fp8", "float32", "bf16", "fp16"]),
    (dict(flip="perhaps"), ["flip = 'perhaps'", "true or false"]),
    (dict(compile=1), ["compile = 1", "true or false"]),
    (dict(accumulate_steps=129), ["accumulate_steps = 129", "batch_size = 128"]),
    (dict(retries=2), ["retries = 2", "no such parameter"]),
    (dict(checkpoint_steps=-1), ["checkpoint_steps = -1", "at least 0"]),
    (dict(surplus=5), ["surplus = 5", "no such parameter", "eval_samples"]),
    (dict(eval_samples=6), ["eval_samples = 6", "at least 7"]),
    (dict(eval_samples=7.5), ["eval_samples = 7.5", "whole number"]),
    (dict(eval_samples="none"), ["eval_samples = 'none'", "whole number"]),
    (dict(stratgy="entropy"), ["stratgy = 'entropy'", "no such parameter", "strategy"]),
])
def test_a_wrong_value_is_named_with_what_is_allowed(change, words):
    with pytest.raises(ValueError) as error:
        C.load_preset("demo", **change)
    for word in words:
        assert word in str(error.value)


def test_unknown_preset_and_study_list_what_exists():
    with pytest.raises(ValueError, match="dmeo.*demo"):
        C.load_preset("dmeo")
    with pytest.raises(ValueError, match="dmeo.*demo"):
        C.load_study("dmeo")


def test_unknown_key_in_the_file_is_refused(tmp_path):
    path = settings(tmp_path, """
        [DEFAULT]
        seed = 0
        [p]
        n_trian = 3
        """)
    with pytest.raises(ValueError, match=r"\[p\].*n_trian.*n_train"):
        C.load_preset("p", path=path)


def test_missing_key_is_named(tmp_path):
    path = settings(tmp_path, "[DEFAULT]\nseed = 0\n[p]\nn_train = 3\n")
    with pytest.raises(ValueError, match="does not say.*iterations"):
        C.load_preset("p", path=path)


def test_text_and_python_values_give_the_same_config():
    text = C.load_preset("demo", seed="3", alpha="0.8", tau="none", spaces="pixel", n_train="64")
    assert text == C.load_preset("demo", seed=3, alpha=0.8, spaces=("pixel",), n_train=64)


def test_entropy_is_greedy_and_shares_its_run():
    greedy, entropy = (C.load_preset("demo", strategy=s) for s in ("greedy", "entropy"))
    assert greedy == entropy and greedy.name == entropy.name and entropy.strategy == "greedy"


@pytest.mark.parametrize("paradigm, space, offers, decay", [
    ("replace", "pixel", 2, 0.95), ("replace", "dinov2", 2, 0.95), ("accumulate", "pixel", 1, 0.95), ("accumulate", "classifier", 1, 0.8)])
def test_auto_is_as_the_authors_and_a_number_means_itself(paradigm, space, offers, decay):
    about = dict(paradigm=paradigm, space=space, n_train=10)
    auto, typed = (C.load_preset("smoke", strategy="greedy", pool_factor=v, alpha=v, **about) for v in ("auto", " AUTO"))
    assert auto == typed and (auto.pool_factor, auto.alpha) == ("auto", "auto")
    assert (auto.offers, auto.decay, auto.n_generate) == (offers, decay, 10 * offers)
    assert C.load_preset("smoke", strategy="vanilla", **about).n_generate == 10
    for given in (dict(pool_factor=3, alpha=0.5), dict(pool_factor="3", alpha="0.5")):
        number = C.load_preset("smoke", strategy="greedy", **about, **given)
        assert (number.offers, number.decay, number.n_generate) == (3, 0.5, 30) and number.digest != auto.digest


def test_names_tell_every_difference_but_length_apart():
    demo = C.load_preset("demo")
    others = [replace(demo, **c) for c in (dict(alpha=0.5), dict(seed=1), dict(threads=2), dict(learning_rate=1e-3), dict(tau=3.0),
                                           dict(eval_samples=7), dict(pool_factor=2))]
    assert len({c.name for c in [demo, *others]}) == len(others) + 1
    assert replace(demo, iterations=9).name == demo.name


def test_a_younger_field_left_neutral_changes_no_identity():
    demo, neutral = C.load_preset("demo"), C.neutral_values()
    assert demo.digest == DEMO
    assert {"guidance", "label_dropout", "flip", "precision", "channels_last", "compile", "accumulate_steps", "checkpoint_steps"} <= set(neutral)
    assert "eval_samples" in demo.identity  # every run says how many
    assert all(getattr(demo, k) == v for k, v in neutral.items()) and not set(neutral) & set(demo.identity)
    old = {k: v for k, v in asdict(demo).items() if k not in neutral}  # a config.json written before
    assert C.LoopConfig(**old) == demo
    for change in (dict(flip=True), dict(guidance=1), dict(label_dropout=0.2), dict(precision="bf16"), dict(accumulate_steps=2)):
        assert replace(demo, **change).digest != demo.digest
    assert replace(demo, checkpoint_steps=5).digest == demo.digest  # no result depends on it


def test_true_and_false_are_read_from_text():
    assert [C.load_preset("demo", flip=v).flip for v in ("true", "False", True, False)] == [True, False, True, False]
    assert C.load_preset("demo", guidance="2").conditional and not C.load_preset("demo", guidance="none").conditional


def test_an_out_dir_that_is_no_path():
    with pytest.raises(ValueError, match="out_dir = 5"):
        C.run_dir(C.load_preset("demo"), 5)


def test_a_study_is_the_product_of_its_lists(tmp_path):
    cells = C.load_study("smoke", seed="0, 1, 2", n_train=[16, 32])
    assert len(cells) == 12 and len({c.name for c in cells}) == 12
    assert {(c.seed, c.n_train, c.strategy) for c in cells} == {(s, n, x) for s in range(3) for n in (16, 32) for x in ("vanilla", "greedy")}


def test_more_is_parsed_or_refused():
    assert C.parse_more("alpha=0.8; spaces=pixel, classifier;") == {"alpha": "0.8", "spaces": "pixel, classifier"}
    assert C.parse_more(None) == C.parse_more("") == C.parse_more([]) == {}
    assert C.parse_more(["alpha=0.8", "spaces=pixel; tau=2"]) == dict(alpha="0.8", spaces="pixel", tau="2")
    assert C.parse_more(dict(alpha=0.8, spaces=["pixel"])) == dict(alpha=0.8, spaces=["pixel"])
    for wrong in (0.8, [0.8], ["alpha"], {"alhpa": 1}, {1: 2}):
        with pytest.raises(ValueError, match="more = "):
            C.parse_more(wrong)
    with pytest.raises(ValueError, match=r"alpha 0.8.*key=value"):
        C.parse_more("alpha 0.8")
    for key in ("name", "path", "preset", "alhpa"):
        with pytest.raises(ValueError, match=f"no such field '{key}'.*alpha"):
            C.parse_more(f"{key}=x")


def test_seeds_differ_by_every_argument():
    seeds = {C.derive_seed(s, n, stage, step) for s in range(4) for n in range(4) for stage in ("train", "init") for step in range(4)}
    assert len(seeds) == 128 and all(0 <= s < 2**63 for s in seeds)


def test_differences_from_the_preset_count_a_neutral_value_too():
    assert C.differences(C.load_preset("demo")) == {}
    assert C.differences(C.load_preset("paper-mnist-cfg", guidance="none", seed=3)) == {"guidance": None, "seed": 3}


def test_config_needs_no_torch_and_imports_quickly():
    code = "import sys, collapse_nb.config as c; c.load_preset('demo'); print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


def test_every_name_has_a_function():
    from collapse_nb import data, denoiser, diffusion, features, pools, sampling, selection
    modules = [importlib.import_module(m) for provided in names.PROVIDERS.values() for m in provided.values()]
    tables = [selection.STRATEGIES, pools.PARADIGMS, data.DATASETS, features.SPACES, denoiser.NETWORKS, diffusion.OBJECTIVES,
              diffusion.PRECISIONS, sampling.SAMPLERS]
    assert all(getattr(m, "SPACES", features.SPACES) is features.SPACES for m in modules)
    assert {t.kind: sorted(t) for t in tables} == {k: sorted(v) for k, v in names.NAMES.items()}


def test_a_large_network_is_imported_when_its_space_is_asked_for():
    code = ("import sys; from collapse_nb.features import SPACES as s; "
            "print('collapse_nb.dinov2' in sys.modules, s['dinov2'].__name__, 'collapse_nb.inception' in sys.modules)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "embed_dinov2", "False"]


def test_the_root_is_found_from_anywhere(root, tmp_path, monkeypatch):
    for folder in (root, root / "nbs", root / "tests"):
        monkeypatch.chdir(folder)
        assert P.project_root() == root
    monkeypatch.chdir(tmp_path)
    assert P.project_root() == root  # this module's own checkout
    monkeypatch.setenv("COLLAPSE_NB_SETTINGS", str(tmp_path / "none.ini"))
    with pytest.raises(FileNotFoundError, match=r"none\.ini"):
        C.load_preset("demo")


def test_drive_is_used_on_colab_or_its_absence_is_said(tmp_path, monkeypatch):
    "google.colab is Google's; here it mounts, or refuses. That an installed package then works on Drive is seen in test_installed."
    monkeypatch.chdir(tmp_path)
    assert not P.on_colab() and P.work_on_drive() == tmp_path
    colab, mounted = types.ModuleType("google.colab"), []
    colab.drive = types.SimpleNamespace(mount=mounted.append)
    for name, module in {"google": types.ModuleType("google"), "google.colab": colab}.items(): monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(P, "DRIVE", tmp_path / "drive")
    assert P.on_colab()
    with pytest.raises(OSError, match=rf"installed from the checkout {P.project_root()}.*drive False"): P.work_on_drive()
    assert mounted == [str(tmp_path / "drive")] and Path.cwd() == tmp_path / "drive" / "MyDrive" / "collapse_nb"
    def refuse(path): raise ValueError("mount failed")
    colab.drive.mount = refuse
    with pytest.raises(OSError, match="no Google Drive: mount failed .*drive False"): P.work_on_drive()


def test_injected_typos_are_found():
    cells = ["", "strategy = None", "# Parameters\nstratgy = \"entropy\"\nseed = 3\n", "x = 1"]
    assert P.injected_names(cells) == {"stratgy", "seed"}
    with pytest.raises(ValueError, match=r"stratgy = 'entropy'.*allowed: strategy, seed"):
        P.check_parameters({"In": cells, "stratgy": "entropy"}, "strategy", "seed")
    P.check_parameters({"In": cells}, "stratgy", "seed")
    P.check_parameters({}, "anything")


def test_a_dataset_may_carry_a_path():
    assert C.load_preset("smoke", dataset="folder:/data/my pets").dataset == "folder:/data/my pets"
    for wrong in ("folder", "folder:", "npz: ", "zip:/x", "digits:/x"):
        with pytest.raises(ValueError, match=f"dataset = '{wrong}' is unknown.*ffhq, folder:PATH, npz:PATH"):
            C.load_preset("smoke", dataset=wrong)
    with pytest.raises(ValueError, match="strategy = 'folder:/x'"):
        C.load_preset("smoke", strategy="folder:/x")


def test_a_run_named_after_a_path_is_one_folder():
    paths = ("folder:/data/my pets/", "folder:/other/my pets", "npz:a/b:c*?.npz", "folder:/", f"folder:/{'x' * 300}")
    names = [C.load_preset("smoke", dataset=p).name for p in paths]
    assert len(set(names)) == 5 and names[0].startswith("smoke-folder-my-pets-accumulate")
    for name in names:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") and len(name) < 150


def test_a_younger_field_changes_a_run_only_where_it_says_something():
    smoke = C.load_preset("smoke")
    assert "side" not in smoke.identity and C.load_preset("demo").name == f"demo-digits-accumulate-vanilla-N128-s0-{DEMO}"
    small = replace(smoke, side=4)
    assert small.identity["side"] == 4 and small.digest != smoke.digest and "digits-4px" in small.name
    assert replace(smoke, data_root="/somewhere").name == smoke.name  # where files lie does not change a result
    old = {k: v for k, v in asdict(smoke).items() if k not in ("side", "data_root")}
    assert C.LoopConfig(**old) == smoke
    for wrong in (0, "big", 1.5, 10**6):
        with pytest.raises(ValueError, match=f"side = {wrong!r}"):
            C.load_preset("smoke", side=wrong)
