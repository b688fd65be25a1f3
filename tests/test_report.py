"""The report and the README's table, on made-up results."""

import json

import numpy as np
import pytest

from neuromas_jax.analysis.pooling import Pool, difference, gather, headline, read_records
from neuromas_jax.analysis.report import write_report
from neuromas_jax.analysis.table import insert, readme_table
from neuromas_jax.config import parse
from neuromas_jax.train.evaluate import wilson
from tests.tiny import PLAIN

COST = {"steps": 50, "run_seconds": 40.2, "compile_seconds": 2.0, "peak_memory_gib": 1.25}
ACCURACY = {"graph": 0.95, "graph_untrained": 0.1, "graph_shared_adapter": 0.3, "chain_equal_calls": 0.9}


def configure(**changes):
    families = dict(listops=dict(), boolean=dict(files=("boolean_expressions",), adapters="elsewhere"))
    return parse(dict(families=families, methods=PLAIN, seeds=(0, 1, 2),
                      sweep=dict(learning_rates=(1e-3, 3e-3, 6e-3)), **changes))


def record(method="graph", seed=0, family="listops", name=None, depth=3, n=100, **changes):
    accuracy = ACCURACY.get(method, 0.25) - 0.01 * seed * (method != "graph_untrained")
    low, high = wilson(round(accuracy * n), n)
    return {
        "method": method, "topology": "4-2-1", "family": family, "set": name or family, "depth": depth, "seed": seed, "n": n,
        "accuracy": accuracy, "low": low, "high": high,
        "chance": 0.1, "majority": 0.15, "shallow": 0.2, "shallow_rule": "last | word",
        "format_rate": 1.0, "truncated": 1.0, "top_answer_share": 0.14, "too_long": 0, "calls": 7,
        "rounds": 7 if method == "chain_equal_calls" else 3, "tokens": 14.0,
        "trainable_parameters": 0 if method == "graph_untrained" else 1000,
        "learning_rate": None if method == "graph_untrained" else 3e-3, **changes,
    }


def everything(seeds=(0, 1, 2)):
    places = [("listops", None, 2), ("listops", None, 3), ("listops", "listops_held_out", 4),
              ("boolean", "bbh_boolean_expressions", None)]
    return [record(method, seed, family, name, depth) for method in PLAIN for seed in seeds for family, name, depth in places]


def metric(step, labels):
    nodes = {"label": labels, "label_share": [0.5] * 7, "entropy": [0.3] * 7, "blanked_loss": [0.2] * 6 + [None]}
    return {"step": step, "accuracy": step / 100, "nodes": nodes}


def write_cell(folder, records, done=None, episodes=""):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (folder / "episodes.txt").write_text(episodes)
    if done:
        (folder / "done.json").write_text(json.dumps(done))


@pytest.fixture
def workdir(tmp_path):
    episodes = "".join(
        f"== step {step}, question 7, episode 0\n  node 0 (layer 1): ...A -> A {step}\n\n" for step in (1, 50, 100))
    for seed in (0, 1):
        folder = tmp_path / "train/listops" / f"graph_seed{seed}"
        write_cell(folder, [metric(1, ["A"] * 7), metric(100, ["A", "B", "-", "", "E", "F", "X Y Z W V U"])],
                   {"validation": 0.9, "learning_rate": 3e-3, **COST}, episodes)
    write_cell(tmp_path / "train/listops/chain_equal_calls_seed0", [metric(1, ["A"] * 7)])
    write_cell(tmp_path / "train/listops/single_equal_tokens_seed0", [])  # begun, nothing written yet
    for rate, validation in ((1e-3, 0.5), (3e-3, 0.8), (6e-3, 0.8)):
        write_cell(tmp_path / "sweep/listops" / f"graph_seed100_lr{rate:g}", [],
                   {"validation": validation, "learning_rate": rate, **COST})
    write_cell(tmp_path / "sweep/listops/chain_equal_calls_seed100_lr0.001", [],
               {"validation": 0.4, "learning_rate": 1e-3, **COST})
    return tmp_path


def test_report(workdir):
    shown = write_report(configure(), workdir, everything())
    report = (workdir / "report.md").read_text()
    assert "| graph | 4-2-1 | 7 | 3 | 14.0 | 1,000 | 0.003 | 94.0 | 95.0, 94.0, 93.0 |" in report
    assert "n 100 per seed · chance 10.0 % · majority 15.0 % · best shallow rule 20.0 % (last | word)" in report
    assert "| graph − chain_equal_calls | +5.0 | [-3.3, +13.5] | +5.0, +5.0, +5.0 | 3 against 7 |" in report
    assert "| graph | 50.0 | **80.0** | 80.0 |  |" in report  # the lower rate of equals
    assert "| chain_equal_calls | 40.0 | – | – | unfinished |" in report
    assert "| graph | 5 | 250 | 201 | 10 | 1.25 |" in report
    assert "seed 0: 1 → 2" in report and "`elsewhere`" in report and "Partial" not in report
    assert "A 50" in report and "A 100" in report and "A 1\n" not in report
    assert "listops (held out), depth 4" in shown and "BBH boolean_expressions" in shown
    pictures = {path.name for path in workdir.glob("*.png")}
    assert pictures == {
        "results_listops.png", "results_boolean.png", "curves_listops.png", "labels_listops.png", "graph_listops.png"}
    assert all(path.stat().st_size < 200_000 and path.name in report for path in workdir.glob("*.png"))


def test_partial_results(tmp_path):
    assert "No results yet" in write_report(configure(), tmp_path, [])
    write_report(configure(), tmp_path, [record("chain_equal_calls", seed=2)])  # no graph to compare with
    report = (tmp_path / "report.md").read_text()
    assert "**Partial: 1 of 60 evaluations are done.**" in report and "## boolean" not in report and "graph −" not in report


def test_the_opening_tells_what_families_have_of_their_own(tmp_path):
    config = parse(dict(families=dict(listops=dict(), strings=dict(steps=9), modular=dict(topology="2-1", steps=8)),
                        training=dict(steps=7)))
    write_report(config, tmp_path, [])
    assert "Graph `4-2-1 (2-1 for modular)` on" in (text := (tmp_path / "report.md").read_text())
    assert "7 (8 for modular, 9 for strings) training steps" in text


def test_edges_that_skip_layers(workdir):
    write_report(configure(graph=dict(topology="4-2-1", reads="all")), workdir, [record()])
    assert (workdir / "graph_listops.png").exists()


def test_seeds_of_an_untrained_graph_count_once():
    pool = Pool("graph_untrained", tuple(record("graph_untrained", seed) for seed in range(3)))
    assert pool.questions == 100 and pool.interval == pytest.approx(wilson(10, 100))


def test_intervals_cover_the_draw_of_seeds_too():
    """Three equal seeds are worth the questions of one; seeds at .4, .5, .6 add a variance of .01 / 3 to .25 / 100.

    Satterthwaite's degrees of freedom are then (.0025 + .0033)^2 / (.0033^2 / 2) = 6.125, where Student's t is 2.435.
    """
    equal, spread = (Pool("graph", tuple(record(seed=seed, accuracy=share) for seed, share in enumerate(shares)))
                     for shares in ((0.5, 0.5, 0.5), (0.4, 0.5, 0.6)))
    assert equal.questions == 100 and equal.interval == pytest.approx(wilson(50, 100))
    assert spread.questions == pytest.approx(0.25 / (0.0025 + 0.01 / 3) * (1.95996 / 2.4349) ** 2, rel=1e-3)
    assert spread.interval[0] < equal.interval[0] and spread.interval[1] > equal.interval[1]
    assert Pool("graph", tuple(record(seed=seed, accuracy=1.0) for seed in range(3))).interval == wilson(100, 100)


@pytest.mark.parametrize("share, spread", [(0.6, 0.0), (0.6, 0.02), (0.6, 0.1), (0.5, 0.2), (0.9, 0.05)])
def test_intervals_hold_the_truth_as_often_as_they_say(share, spread):
    """Three seeds of 256 questions, drawn 600 times; seeds' own accuracies spread around the true mean."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(600):
        seeds = np.clip(rng.normal(share, spread, 3), 0, 1)
        right = rng.binomial(256, seeds) / 256
        low, high = Pool("graph", tuple(record(seed=seed, n=256, accuracy=one) for seed, one in enumerate(right))).interval
        held += low <= share <= high
    assert held / 600 >= 0.93


def test_difference_is_newcombes():
    """The worked example of Newcombe (1998), his method 10: 56/70 against 48/80."""
    first, second = (Pool("graph", (record(n=n, accuracy=right / n),)) for right, n in ((56, 70), (48, 80)))
    assert difference(first, second) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_readme_table(tmp_path):
    assert [one.title for one in headline(gather(everything()))] == ["listops, depth 3", "BBH boolean_expressions"]
    text = readme_table(everything())
    row = next(line for line in text.splitlines() if "depth 3" in line)
    assert row.startswith("| listops, depth 3 (n 100, 3 seeds) | 94.0 [87.3, 97.3] | 10.0 | 29.0 |")
    assert "89.0 [81.2, 93.8]" in row
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    for _ in range(2):
        insert(readme, text)
        assert readme.read_text() == f"before\n<!-- results -->\n{text}\n<!-- /results -->\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="needs one <!-- results -->"):
        insert(readme, text)
    assert readme.read_text() == "no marks"


def test_damaged_results_are_named(tmp_path):
    path = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="is missing"):
        read_records(path)
    path.write_text(json.dumps(record()) + "\n{\"method\":")
    with pytest.raises(ValueError, match="line 2"):
        read_records(path)
