"""Suites and the tests of claims: on hand-made results whose verdict is known, and whole on a few steps of real training."""

import dataclasses
import json
from pathlib import Path
import re
import runpy
import shutil

import numpy as np
import pytest

from neuromas_jax.analysis import ahead, files, growing, health, shapes
from neuromas_jax.analysis.claims import TESTS, Claim
from neuromas_jax.analysis.outcomes import Outcome, Trained
from neuromas_jax.config import training_steps
from neuromas_jax.experiments import training
from neuromas_jax.experiments.publish import publish
from neuromas_jax.experiments.suite import check_suite, parse_shard, parse_suite, run_shard, time_left, units

CONFIGS = Path(__file__).parents[1] / "configs"
SMOKE = runpy.run_path(str(CONFIGS / "claims_smoke.py"))["get_config"]
N = 60


def smoke():
    return parse_suite(SMOKE())


def outcome(name: str, workdir, shares: dict, family="listops", methods=None, **spent) -> Outcome:
    """An experiment of the smoke suite with made-up answers: shares[method] = accuracy of each seed."""
    config = smoke().experiments[name]
    seeds = tuple(range(max(map(len, shares.values()))))
    config = dataclasses.replace(config, methods=methods or tuple(shares), seeds=seeds)
    found = Outcome(name, config, workdir / name)
    found.__dict__["records"] = [answer(family, method, seed, share, **spent)
                                 for method, values in shares.items() for seed, share in enumerate(values)]
    return found


def answer(family, method, seed, share, depth=2, **spent):
    correct = "".join("01"[number < round(share * N)] for number in range(N))
    return {"family": family, "set": family, "depth": depth, "method": method, "seed": seed, "accuracy": share,
            "correct": correct, "calls": 3, "rounds": 2, "tokens": 6.0, "trainable_parameters": 100, "learning_rate": 2e-3,
            "entropy_floor": 0.0, "samples": 64, **spent}


def cell(found: Outcome, method: str, seed: int, accuracies, lineage=(), family="listops"):
    folder = found.folder / "train" / family / f"{method}_seed{seed}"
    folder.mkdir(parents=True)
    nodes = {"gradient_norm": [0.1, 0.2, 0.3], "entropy": [1.0, 0.5, 0.1], "label": ["A", "B", "C"]}
    records = [{"step": step, "accuracy": share, "tokens": 10, "nodes": nodes} for step, share in enumerate(accuracies, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "done.json").write_text(json.dumps({
        "validation": accuracies[-1], "lineage": list(lineage), "seconds_of_last_process": 5.0,
        "steps": training_steps(found.config, found.config.families[family])}))


def test_units_cover_every_cell_once_and_shards_share_them():
    suite = smoke()
    names = [str(unit) for unit in units(suite)]
    assert sorted(names) == sorted([
        "growth/listops/grown", "growth/listops/graph_mixed", "rank2/listops/graph", "rank2/listops/single_equal_parameters",
        "rivals/listops/graph", "rivals/listops/single_equal_parameters", "rivals/listops/untrained",
        "searched/listops/searched", "shapes/large/graph", "shapes/small/graph"])
    assert {claim.test for claim in suite.claims.values()} == set(TESTS)  # as its first line says
    shards = [[str(unit) for unit in units(suite)[i::4]] for i in range(4)]
    assert sorted(sum(shards, [])) == sorted(names)
    judged = {str(unit): unit.config.methods for unit in units(suite)}
    assert judged["rivals/listops/untrained"] == ("direct",) and judged["growth/listops/grown"] == ("grown",)
    assert [unit.cells() for unit in units(suite) if unit.experiment == "growth"] == [(2, 1)] * 2


def test_shards_are_read():
    assert parse_shard("1/4") == (1, 4)
    for wrong in ("4/4", "1", "a/b", "-1/2", "0/0"):
        with pytest.raises(ValueError, match="write i/n with i from 0 to n - 1"):
            parse_shard(wrong)


@pytest.mark.parametrize("change, message", [
    (dict(experiments={}), "a suite has the keys experiments and claims"),
    (dict(families={}), "a suite has the keys experiments and claims"),
    (dict(claims=dict(C1=dict(test="forward", experiments=("rivals",)))), "claims.C1.test is 'forward'; allowed are ahead"),
    (dict(claims=dict(C1=dict(experiments=("rival",), over=("direct",)))),
     "claims.C1.experiments is .*name one or more of growth, rank2"),
    (dict(claims=dict(C1=dict(experiments=(), over=("direct",)))), "claims.C1.experiments is .*name one or more"),
    (dict(claims=dict(C1=dict(experiments=("growth",), over=("graph_mixed",)))),
     "C1 is about 'graph', which experiment 'growth' does not have"),
    (dict(claims=dict(C1=dict(experiments=("rivals",), families=1, over=("debate",)))),
     "compares with 'debate', which none of its"),
    (dict(claims=dict(C1=dict(experiments=("rivals",), over=("grph",)))), "unknown method 'grph'"),
    (dict(claims=dict(C1=dict(experiments=("rivals",), thresholds=dict(chess=0.5), families=1, over=("direct",)))),
     "names the family 'chess'"),
    (dict(claims=dict(C1=dict(sayz="x"))), "sayz"),
    (dict(claims=dict(C1=dict(experiments=("rivals",)))), "claims.C1.over is empty, so there is nothing to beat"),
    (dict(claims=dict(C1=dict(experiments=("rivals",), families=0, over=("direct",)))), "claims.C1.families is 0"),
    (dict(claims=dict(C1=dict(experiments=("rivals",), families=3, over=("direct",)))),
     "families is 3, and its experiments have 1"),
    (dict(claims=dict(C6=dict(experiments=("shapes", "growth"), test="search", method="searched", families=1))),
     "its first experiment 'shapes' does not have"),
    (dict(claims=dict(C4=dict(experiments=("shapes",), test="shapes", families=1))),
     "claims.C4.pairs is .*name one pair or more"),
    (dict(claims=dict(C4=dict(experiments=("shapes",), test="shapes", families=1, pairs=(("large", "huge"),)))),
     "names the family 'huge'"),
])
def test_suites_that_cannot_be_are_named(change, message):
    values = SMOKE().to_dict() | change
    with pytest.raises(ValueError, match=message):
        parse_suite(values)


def test_bad_input_names_the_experiment(tmp_path):
    values = SMOKE().to_dict()
    values["experiments"]["rank2"]["sedes"] = (1,)
    with pytest.raises(ValueError, match="experiment 'rank2': .*sedes"):
        parse_suite(values)
    values = SMOKE().to_dict()
    values["experiments"]["rank2"]["workers"] = 2
    with pytest.raises(ValueError, match="experiment 'rank2': config key 'workers' is 2 and would not be used"):
        parse_suite(values)
    values = SMOKE().to_dict()
    values["experiments"]["rank2"]["families"]["listops"]["buckets"] = (4,)
    with pytest.raises(ValueError, match="experiment 'rank2': .*bucket"):
        check_suite(parse_suite(values), tmp_path)


def test_ahead_needs_every_rival_beaten(tmp_path):
    claim = Claim(says="", experiments=("rivals",), families=1, over=("single_equal_parameters", "direct"))
    won = outcome("rivals", tmp_path, dict(graph=[0.9, 0.8], single_equal_parameters=[0.5, 0.4], direct=[0.3, 0.3]))
    verdict = ahead.test("C1", claim, [won], tmp_path)
    assert verdict.word == "holds" and "+40.0" in "\n".join(verdict.lines)
    lost = outcome("rivals", tmp_path, dict(graph=[0.9, 0.8], single_equal_parameters=[0.5, 0.4], direct=[0.9, 0.8]))
    assert ahead.test("C1", claim, [lost], tmp_path).word == "does not hold"
    missing = outcome("rivals", tmp_path, dict(graph=[0.9, 0.8], single_equal_parameters=[0.5], direct=[0.3, 0.3]))
    assert ahead.test("C1", claim, [missing], tmp_path).word == "unfinished"
    other = Outcome("other", dataclasses.replace(lost.config, backbone="other"), tmp_path)
    other.__dict__["records"] = lost.records
    verdict = ahead.test("C2", claim, [won, other], tmp_path)  # one family: it must win in both experiments
    assert verdict.word == "does not hold" and verdict.why.endswith("alone: rivals listops; other none.")


def test_experiments_that_differ_in_seeds_are_one(tmp_path):
    claim = Claim(says="", experiments=("rivals", "more"), families=1, over=("single_equal_parameters", "direct"))
    few = outcome("rivals", tmp_path, dict(graph=[0.9, 0.8], single_equal_parameters=[0.85, 0.3], direct=[0.3, 0.3]))
    pair = ("graph", "single_equal_parameters")
    more = Outcome("more", dataclasses.replace(few.config, methods=pair, seeds=(2, 3, 4)), tmp_path)
    more.__dict__["records"] = [answer("listops", method, seed, share) for seed in (2, 3, 4)
                                for method, share in (("graph", 0.9), ("single_equal_parameters", 0.3))]
    assert ahead.test("C1", claim, [few], tmp_path).word == "does not hold"
    verdict = ahead.test("C1", claim, [few, more], tmp_path)
    rows = [line for line in verdict.lines if line.startswith("| graph")]
    assert verdict.word == "holds" and len(rows) == 1 and "90.0, 80.0, 90.0, 90.0, 90.0" in rows[0]
    more.records.pop()
    assert ahead.test("C1", claim, [few, more], tmp_path).word == "unfinished"
    with pytest.raises(ValueError, match="experiments rivals, rivals all have 'graph' on 'listops' with seed 0"):
        ahead.test("C1", claim, [few, few], tmp_path)


LINEAGE = [{"graph": "2-1", "before": 0.3, "after": 0.35}]


def grow(workdir, ours, theirs, final, name="growth"):
    """An experiment in which `grown` and `graph_mixed` had these validation curves and these final accuracies."""
    found = outcome(name, workdir, dict(grown=[final[0]] * 3, graph_mixed=[final[1]] * 3))
    for seed in range(3):
        cell(found, "grown", seed, ours, LINEAGE)
        cell(found, "graph_mixed", seed, theirs)
    return found


GROWING = Claim(experiments=("growth",), method="grown", over=("graph_mixed",), families=1, thresholds=dict(listops=0.8))


def test_growing_holds_by_ten_points_or_by_half_of_the_samples(tmp_path):
    def verdict(name, *curves):
        return growing.test("C3", GROWING, [grow(tmp_path / name, *curves)], tmp_path)

    ahead_by_points = verdict("points", [0.1, 0.9, 0.9, 0.9], [0.1, 0.9, 0.7, 0.7], (0.9, 0.7))
    assert ahead_by_points.word == "holds"
    text = "\n".join(ahead_by_points.lines)
    assert "30.0 → 35.0" in text and "Gap +20.0" in text and "| 64, 64, 64 |" in text and "never, never, never" in text
    sooner = verdict("sooner", [0.9, 0.9, 0.9, 0.9], [0.1, 0.1, 0.9, 0.9], (0.9, 0.9))
    assert sooner.word == "holds" and "0.33 [0.33, 0.33]" in "\n".join(sooner.lines)
    a_bit_sooner = verdict("bit", [0.1, 0.9, 0.9, 0.9], [0.1, 0.1, 0.9, 0.9], (0.9, 0.85))
    assert a_bit_sooner.word == "does not hold"


def test_a_rival_that_never_arrives_counts_with_the_whole_budget():
    spans = dict(grown=[32, 32, 32], graph=[None, None, 64])
    good, text = growing.ratio(spans, "grown", ["graph"], 128)
    assert good and "2 of its 3 runs never got there" in text  # 1/4, 1/4, 1/2
    assert growing.ratio(dict(spans, grown=[32, None, 32]), "grown", ["graph"], 128) == (
        False, "It did not reach the threshold with every seed.")


def test_growing_looks_at_all_backbones_together(tmp_path):
    """Won on one backbone by 40 points and lost on the other by 20: the mean is 10, and its interval is what decides."""
    one = grow(tmp_path / "a", [0.1, 0.9], [0.1, 0.5], (0.9, 0.5))
    two = grow(tmp_path / "b", [0.1, 0.5], [0.1, 0.7], (0.5, 0.7), "growth")
    verdict = growing.test("C3", GROWING, [one, two], tmp_path)
    two.records.clear()
    assert growing.test("C3", GROWING, [one, two], tmp_path).word == "unfinished"  # the other backbone is not there yet
    assert "+10.0" in "\n".join(verdict.lines) and "90.0, 90.0, 90.0, 50.0, 50.0, 50.0" in "\n".join(verdict.lines)


def test_shapes_are_judged_in_pairs(tmp_path):
    config = smoke().experiments["shapes"]
    found = Outcome("shapes", config, tmp_path)
    found.__dict__["records"] = [answer(family, "graph", seed, share) for family, share in (("small", 0.2), ("large", 0.9))
                                 for seed in config.seeds]
    claim = Claim(experiments=("shapes",), families=1, pairs=(("large", "small"),))
    verdict = shapes.test("C4", claim, [found], tmp_path)
    assert verdict.word == "holds" and "| large | small | +70.0" in "\n".join(verdict.lines)
    for record in found.records:
        record.update(answer(record["family"], "graph", record["seed"], 0.9 if record["family"] == "small" else 0.2))
    verdict = shapes.test("C4", claim, [found], tmp_path)
    assert verdict.word == "does not hold" and "hurts" in "\n".join(verdict.lines)
    del found.records[-1:]
    assert shapes.test("C4", claim, [found], tmp_path).word == "unfinished"


def test_a_search_is_judged_against_the_best_hand_set_graph_of_as_many_calls(tmp_path):
    config = smoke().experiments["shapes"]  # "large" is 2-1, which makes three calls; "small" makes one
    hands = Outcome("shapes", config, tmp_path / "shapes")
    claim = Claim(test="search", experiments=("growth", "shapes"), method="searched", families=1)
    for share, word in ((0.8, "holds"), (0.7, "holds"), (0.6, "does not hold")):
        found = outcome("growth", tmp_path, dict(searched=[share] * 2), topology="2-1")
        hands.__dict__["records"] = [answer(family, "graph", seed, accuracy) for seed in config.seeds
                                     for family, accuracy in (("small", 0.9), ("large", 0.7))]
        verdict = shapes.test_search("C6", claim, [found, hands], tmp_path)
        text = "\n".join(verdict.lines)
        assert verdict.word == word and "| shapes/large | 70.0 |" in text and "small" not in text
    hands.__dict__["records"] = []
    assert shapes.test_search("C6", claim, [found, hands], tmp_path).word == "unfinished"


def test_files_are_shown_beside_the_sets_that_a_claim_is_judged_on(tmp_path):
    """A file's rows are those of the methods, over all experiments together, and of searched and hand-set graphs."""
    def with_file(found, family="listops"):
        families = {family: dataclasses.replace(found.config.families[family], files=("web",))}
        found = Outcome(found.name, dataclasses.replace(found.config, families=families), found.folder)
        found.__dict__["records"] = [{**answer(family, "graph", seed, 0.5 + 0.1 * seed), "set": "bbh_web", "depth": None}
                                     for seed in range(2)]
        found.records.extend(answer(family, "graph", seed, 0.8) for seed in range(2))
        return found

    claim = Claim(experiments=("rivals",), over=("single_equal_parameters",))
    found = with_file(outcome("rivals", tmp_path, dict(graph=[0.8, 0.8])))
    text = "\n".join(files.on_files(claim, [found, found], "listops", ", twice"))
    assert "The file bbh_web, twice, which" in text and "| graph | 55.0 | 50.0, 60.0, 50.0, 60.0 | – |" in text
    lines = shapes.test_parameters("C5", claim, [found], tmp_path).lines
    assert "\n".join(files.on_files(claim, [found], "listops", ", at rank 4")) in "\n".join(lines)


def test_parameters_are_compared_rank_by_rank(tmp_path):
    claim = Claim(experiments=("rank2", "rivals"), families=1, over=("single_equal_parameters",))
    low = outcome("rank2", tmp_path, dict(graph=[0.8, 0.9], single_equal_parameters=[0.2, 0.3]), trainable_parameters=50)
    high = outcome("rivals", tmp_path, dict(graph=[0.8, 0.9], single_equal_parameters=[0.2, 0.3]))
    assert shapes.test_parameters("C5", claim, [low, high], tmp_path).word == "holds"
    even = outcome("rivals", tmp_path, dict(graph=[0.8, 0.9], single_equal_parameters=[0.8, 0.9]))
    assert shapes.test_parameters("C5", claim, [low, even], tmp_path).word == "does not hold"
    high.__dict__["records"] = []
    assert shapes.test_parameters("C5", claim, [low, high], tmp_path).word == "unfinished"


def test_health_finds_the_signal_that_tells_the_end(tmp_path):
    found = outcome("rivals", tmp_path, dict(graph=[0.5] * 9))
    for seed in range(9):
        cell(found, "graph", seed, [0.1, 0.1 + 0.05 * seed, 0.2, 0.1 * seed])
    lines = "\n".join(health.section([found], tmp_path))
    assert "| rivals/listops | 9 | – | – | – | – | +1.00 |" in lines  # only the accuracy itself varies
    record = {"accuracy": 0.5, "nodes": {"gradient_norm": [1.0, np.e], "entropy": [2.0, 9.0], "label": ["A", "-"]}}
    assert health.signals(record) == pytest.approx(
        {"entropy": 2.0, "diversity": 0.5, "gradient": np.e**0.5, "gradient spread": 1.0, "accuracy": 0.5})
    assert "2 of 9 runs; 1 families have both kinds" in lines  # they end at 0.0 and at 0.1
    assert "told them apart" in lines and "accuracy (lower in runs that collapse)" in lines


def test_collapse_is_to_end_as_one_began_or_far_below_the_best():
    def run(*shares):
        return Trained({"validation": shares[-1]}, [{"accuracy": share} for share in shares])

    assert health.collapsed(run(0.2, 0.5, 0.2)) and health.collapsed(run(0.2, 0.9, 0.75))
    assert not health.collapsed(run(0.2, 0.9, 0.85))


def test_signals_are_compared_within_families():
    """One family has higher signals throughout: between families the pairs would say something else."""
    values, fell = [np.asarray([1.0, 2.0, 2.0]), np.asarray([9.0, 8.0]), np.asarray([0.0])], [
        np.asarray([True, False, True]), np.asarray([True, False]), np.asarray([True])]
    assert health.tells(values, fell)[0] == (1 + 0.5 + 0) / 3
    assert health.tells(values[:1], [np.asarray([True, False, False])]) == (1.0, 1.0, 1.0)


def test_time_left_goes_by_what_is_done(tmp_path):
    suite = smoke()
    mine = [unit for unit in units(suite) if unit.experiment == "rivals"]
    assert time_left(mine, tmp_path) == "0 of 4 cells are done"
    found = Outcome("rivals", suite.experiments["rivals"], tmp_path / "rivals")
    cell(found, "graph", 0, [0.1])
    assert time_left(mine, tmp_path) == "1 of 4 cells are done, about 00 h 00 min left for one process"
    done = tmp_path / "rivals/train/listops/graph_seed0/done.json"
    done.write_text(json.dumps({"steps": 1, "seconds_of_last_process": 3600.0}))
    assert time_left(mine, tmp_path).endswith("03 h 00 min left for one process")


def test_a_whole_suite_in_shards_and_again(tmp_path, monkeypatch):
    """Two shards after each other; the claims are judged when all is there, and a second call trains nothing."""
    values = SMOKE().to_dict()
    values["experiments"] = {name: values["experiments"][name] for name in ("rivals", "growth")}
    values["claims"] = {name: values["claims"][name] for name in ("C1", "C3")}
    suite = parse_suite(values)
    first = run_shard(suite, tmp_path, (0, 2))
    assert "unfinished" in first
    second = run_shard(suite, tmp_path, (1, 2))
    assert "unfinished" not in second
    text = (tmp_path / "claims.md").read_text()
    for picture in ("C1_rounds_rivals_listops.png", "C3_listops_samples.png", "C3_listops_tokens.png"):
        assert f"({picture})" in text and (tmp_path / picture).stat().st_size > 5000
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {record["experiment"] for record in records} == {"rivals", "growth"}
    trained = [record for record in records if record["method"] == "grown"]
    assert all(record["samples"] == 6 * 32 and record["generated_tokens"] > 0 and record["flops"] > 1e9 for record in trained)
    frozen = [record for record in records if record["method"] == "direct"]
    assert all(record["samples"] is None for record in frozen) and not any("correct" in record for record in records)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/*/*/done.json")}
    assert run_shard(suite, tmp_path, (0, 1)) == second
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/*/*/done.json")}
    (tmp_path / "health_earlier_listops.png").write_bytes(b"of an experiment that is no longer in the suite")
    publish(tmp_path, tmp_path / "kept" / "claims")  # without adapters it goes on all the same, and says the same
    assert not list((tmp_path / "kept").rglob("adapters.safetensors"))
    assert {path.name for path in (tmp_path / "kept/claims").glob("*.png")} == set(re.findall(r"\(([^(]*\.png)\)", text))
    assert (tmp_path / "kept" / "claims" / "claims.md").read_text() == text
    monkeypatch.setattr(training, "do_cell", lambda *_: pytest.fail("trained again"))
    shutil.copytree(tmp_path / "kept" / "claims", tmp_path / "again")
    run_shard(suite, tmp_path / "again", (0, 1))
    assert (tmp_path / "again" / "claims.md").read_text() == text
    publish(tmp_path, tmp_path / "kept" / "claims")  # over what was published before
