"""docs/extend.md: what it says is what works, each block as it stands."""

import configparser
import os
import re
import subprocess

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "extend.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_each_thing_takes_about_ten_lines():
    assert len(BLOCKS) == 4 and all(len(b.strip().splitlines()) <= 13 for b in BLOCKS)


@pytest.mark.slow
def test_selector_sampler_dataset_and_study_of_ones_own(tmp_path, warm):
    "One loop with all three, as the page names them; the study's grid is read with them."
    (tmp_path / "mine.py").write_text("\n".join(BLOCKS))
    study = configparser.ConfigParser()
    study.read_string(re.search(r"```ini\n(.*?)```", PAGE, re.S)[1])
    lists = {k: [v.strip() for v in value.split(",")] for k, value in study["study:stripes"].items() if k != "preset"}
    code = f"""
import itertools
from collapse_nb.config import load_preset
from collapse_nb.cost import placeholder_images
from collapse_nb.loop import run_loop
lists = {lists!r}
configs = [load_preset("smoke", **dict(zip(lists, values))) for values in itertools.product(*lists.values())]
assert len(configs) == 6 and {{c.strategy for c in configs}} == {{"vanilla", "greedy", "loners"}}
config = load_preset("smoke", strategy="loners", dataset="stripes", sampler="euler", train_steps=8, iterations=2, spaces="pixel")
assert placeholder_images(config, 2).shape == (1, 8, 8)
path = {str(tmp_path / 'run')!r}
generations = list(run_loop(config, path, progress=False))
assert generations[1].metrics["reach[pixel]"] > 0

from collapse_nb.loop import remeasure
from collapse_nb.metrics import METRICS, metric
from collapse_nb.records import records
assert remeasure(path) == []
metric("later", of="D_n", title="size of $D_n$", unit="images", direction="higher")(lambda train, **sets: len(train))
assert METRICS["later"].title == "size of $D_n$ (images)" and METRICS["reach"].direction == "lower"
before = records(path)
assert remeasure(path) == ["later"]
after = records(path)
assert before.equals(after[after.metric != "later"].reset_index(drop=True))
assert after[after.metric == "later"][["set", "space", "value"]].values.tolist() == [["D_n", "pixel", 32.0]] * 2
print(len(generations), config.name)
"""
    done = subprocess.run([warm, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"COLLAPSE_NB_PLUGINS": "mine.py"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0] == "2" and "stripes" in done.stdout and "loners" in done.stdout
