"""Automated growth: what the signals allow, what a race decides, and a search that goes on where it was killed."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from neuromas_jax.backbone import init_backbone
from neuromas_jax.config import SearchConfig, parse
from neuromas_jax.experiments import training
from neuromas_jax.experiments.cells import Cell, identity, read_done
from neuromas_jax.experiments.evaluation import plan_evaluation
from neuromas_jax.experiments.run import run_experiment
from neuromas_jax.experiments.training import do_cell
from neuromas_jax.graph import graph_of, text_graph
from neuromas_jax.graph.growth import edit
from neuromas_jax.methods import make_method
from neuromas_jax.rl.growth import Growth
from neuromas_jax.tasks import Task, Verdict
from neuromas_jax.train import loop, run as train_run, search
from neuromas_jax.train.metrics import read_metrics
from neuromas_jax.train.run import Parts
from neuromas_jax.train.search import Arm, behind, plans, race, signals, train_arm, winner
from tests.tiny import tiny_config, tokenizer


STEPS = 12


@pytest.fixture(autouse=True)
def tiny_parts(monkeypatch):
    """A random backbone; half of its answers count as right, by the length of the message."""
    backbone = init_backbone(tiny_config(vocab_size=tokenizer().vocab_size, num_hidden_layers=1), jax.random.key(0))
    backbone = dataclasses.replace(backbone, params={**backbone.params, "embed": backbone.params["embed"] * 20})
    monkeypatch.setattr(train_run, "load_parts", lambda *_: Parts(backbone, tokenizer(), "tiny"))
    monkeypatch.setattr(Task, "verify", lambda self, message, question: Verdict(float(len(message) % 2), "right", "-"))


def configure(**rules):
    rules = dict(topology="1", trial=2, stall=1, growing=0.7, most=1) | rules
    return parse(dict(
        families=dict(listops=dict(
            buckets=(24,), topology="2-1", options=dict(depths=(1,), weights=(1.0,), held_out_depth=3), search=rules)),
        methods=("searched",), adapters=dict(rank=2), rollout=dict(questions=4, group=4),
        training=dict(steps=STEPS, evaluate_every=1, checkpoint_every=1, validation_questions=4), test_questions=2))


def measured(influence=0.1, diversity=1.0, layers=1):
    return [{"influence": influence, "diversity": diversity}] * layers


def names(graph, calls, *args, **options):
    return {one.name: str(edit(graph, *one.edits).graph) for one in plans(graph, calls, Growth(), measured(*args, **options))}


def test_plans_use_the_calls():
    graph = text_graph("2-1", 2)
    assert names(graph, 7) == {"deep": "2-2-2-1", "tree": "4-2-1", "wide 0": "6-1"}
    assert names(graph, 15) == names(graph, 7)  # no more than twice as many and one
    assert names(graph, 6) == {"deep": "1-2-2-1", "tree": "3-2-1", "wide 0": "5-1"}
    assert names(graph, 4) == {"deep": "1-2-1", "wide 0": "3-1"}
    assert names(graph, 3) == {}
    assert names(text_graph("1", 2), 7, layers=0) == {"deep": "1-1-1", "tree": "2-1"}
    assert names(text_graph("4-2-1", 2), 15, layers=2) == {"deep": "4-4-4-2-1", "tree": "8-4-2-1", "wide 1": "4-10-1"}


def test_edges_are_tried_where_no_call_is_left():
    deep = text_graph("2-2-1", 2)
    assert names(deep, 5) == {"stay": "2-2-1", "edges": "2-2-1"}
    _, dense = (edit(deep, *one.edits).graph for one in plans(deep, 5, Growth()))
    assert [layer.reads for layer in dense.layers] == [(), (0,), (0, 1)]
    assert names(dense, 5) == {}


def test_old_slots_are_slowed_only_beside_new_ones():
    rule = Growth("copy", hold=5, rate=0.2, hide=0.5, hide_steps=4)
    growths = {one.name: one.growth for graph, calls in ((text_graph("2-1"), 7), (text_graph("2-2-1"), 5))
               for one in plans(graph, calls, rule, measured())}
    assert growths == {"deep": dataclasses.replace(rule, place="front"), "tree": dataclasses.replace(rule, place="front"),
                       "wide 0": rule, "stay": Growth(), "edges": Growth(hide=0.5, hide_steps=4)}


def test_a_layer_is_widened_only_if_all_its_nodes_are_of_use():
    graph = text_graph("2-2-1", 2)
    for useless in (dict(influence=0.0), dict(diversity=0.5), dict(influence=None)):
        assert list(names(graph, 9, layers=2, **useless)) == ["deep", "tree"]
    some = [{"influence": 0.02, "diversity": 1.0}, {"influence": 0.3, "diversity": 1.0}]
    assert plans(graph, 7, Growth(), some)[-1].name == "wide 1" and plans(graph, 7, Growth(), some[::-1])[-1].name == "wide 0"


def curve(task, graph, seed):
    records = read_metrics(Path(__file__).parents[1] / f"results/pilots/search_plans/{task}_{graph}_seed{seed}")
    return {record["step"] - 10: record["accuracy"] for record in records if record["step"] % 5 == 0}


@pytest.mark.parametrize("seed", [100, 101, 102])
@pytest.mark.parametrize("task, better, worse", [("listops", "4-2-1", "2-2-2-1"), ("arithmetic", "2-2-2-1", "4-2-1")])
def test_a_race_finds_what_pilots_showed_to_be_better(task, better, worse, seed):
    """The recorded curves of two graphs that grew after ten steps: the one that is ahead at the end wins, in either order."""
    for order in ((better, worse), (worse, better)):
        curves = [curve(task, graph, seed) for graph in order]
        alive, found = race(2, 10, 80, 128, lambda arm, steps: (curves[arm][steps] + curves[arm][steps - 5]) / 2)
        assert order[max(alive, key=lambda arm: found[arm][1])] == better


def test_a_race_drops_what_is_behind_and_spends_no_more_than_it_may():
    ran = []

    def run(arm, steps):
        ran.append((arm, steps))
        return [0.5, 0.1, 0.52][arm]

    alive, found = race(3, 5, 33, 128, run)
    assert alive == [0, 2] and found == [(10, 0.5), (5, 0.1), (10, 0.52)]
    assert ran == [(0, 5), (1, 5), (2, 5), (0, 10), (2, 10)]  # 25 steps, and 10 more would be too many
    assert race(3, 5, 14, 128, run)[1] == [(5, 0.5), (5, 0.1)]  # no room for a third arm
    assert race(2, 5, 4, 128, run) == ([], []) and race(0, 5, 40, 128, run) == ([], [])
    assert race(1, 5, 40, 128, run) == ([0], [(5, 0.5)])  # nobody to race with
    assert race(2, 5, 40, 128, lambda *_: -1.0) == ([], [(5, -1.0)] * 2)  # all diverged


def test_behind_is_more_than_two_standard_errors():
    assert not behind(0.4, 0.5, 128) and behind(0.4, 0.5, 1000) and behind(0.4, 0.6, 128) and behind(-1, 0.2, 128)


def test_the_winner_gained_most_for_its_tokens():
    def best(accuracies, tokens=(10, 10, 10), before=0.5, names=("deep", "tree", "wide 0"), alive=(0, 1, 2), questions=128):
        return winner(names, alive, accuracies, tokens, before, questions)

    assert best((0.6, 0.7, 0.65)) == 1 and best((0.6, 0.7, 0.65), alive=(0, 2)) == 2
    assert best((0.6, 0.7, 0.65), (10, 30, 20)) == 0
    assert best((0.46, 0.48, 0.2), (30, 10, 1)) == 1  # all lost: the one that lost least, whatever it writes
    assert best((0.44, 0.4, 0.2)) is None and best((), alive=()) is None
    two = dict(names=("stay", "edges"), tokens=(10, 10), alive=(0, 1))
    assert best((0.5, 0.54), **two) == 0 and best((0.5, 0.54), questions=5000, **two) == 1
    assert best((0.5, 0.8), **two | dict(alive=(1,))) == 1


def test_an_arm_counts_by_the_last_validations_of_its_turn(tmp_path, monkeypatch):
    records = [{"step": step, "accuracy": step / 100} for step in (1, 5, 10, 15, 20, 25)]
    monkeypatch.setattr(search, "read_metrics", lambda _: records)
    monkeypatch.setattr(search.checkpoint, "steps", lambda _: [25])
    one = Arm(None, None, tmp_path, None)
    assert train_arm(one, 10, 10, 0, "") == pytest.approx(0.075) and train_arm(one, 20, 10, 0, "") == pytest.approx(0.175)
    assert train_arm(one, 5, 5, 0, "") == 0.05 and train_arm(one, 1, 1, 0, "") == 0.01  # step 1 only where there is no other


def test_signals_are_the_least_influence_and_the_share_of_own_labels():
    labels, losses = ["A", "A", "B", "-", "answer"], [0.2, 0.1, 0.05, 0.3, None]
    assert signals(text_graph("2-2-1"), labels, losses) == [
        {"influence": 0.1, "diversity": 0.5}, {"influence": 0.05, "diversity": 0.5}]


def test_graphs_travel_as_json():
    graph = text_graph("2-2-1", 2, ((), (0,), (0, 1)), "all", (None, ((True, False), (True, True)), None))
    assert graph_of(json.loads(json.dumps(dataclasses.asdict(graph)["layers"]))) == graph


def go(config, workdir):
    cell = Cell("listops", "searched", 0, 2e-3, STEPS)
    do_cell(cell, "train", config, workdir)
    return cell.folder(workdir, "train")


def accuracies(monkeypatch, found):
    """Validation accuracy by the name of the graph, whatever it says."""
    evaluate = loop.evaluate

    def told(compiled, *args, **options):
        return dataclasses.replace(evaluate(compiled, *args, **options), correct=tuple(
            i < 4 * found[str(compiled.run.method.graph)] for i in range(4)))

    monkeypatch.setattr(loop, "evaluate", told)


def test_a_search_spends_its_budget_and_keeps_what_helped(tmp_path, monkeypatch):
    accuracies(monkeypatch, {"1": 0.25, "1-1-1": 0.25, "2-1": 0.75})
    config = configure()
    run_experiment(config, tmp_path)
    folder = tmp_path / "train/listops/searched_seed0"
    done = read_done(folder)
    decision, = done["search"]
    assert decision["graph"] == "1" and decision["chosen"] == "tree" and decision["step"] == 2  # one validation without gain
    assert [(one["graph"], one["steps"]) for one in decision["trials"]] == [("1-1-1", 2), ("2-1", 2)]  # four questions: noise
    assert decision["trials"][1]["gain_per_token"] == pytest.approx(0.5 / 6)  # three messages of two tokens
    assert done["samples"] == STEPS * 16 and str(graph_of(done["graph"])) == "2-1"
    steps = [record["step"] for record in read_metrics(folder)]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS
    plan = plan_evaluation(config, tmp_path, "listops", "searched", 0)
    assert {record["topology"] for record in plan.records()} == {"2-1"} and plan.records()[0]["calls"] == 3


def test_growth_does_not_wait_for_a_stall_longer_than_it_is_told(tmp_path, monkeypatch):
    """A graph that gets better and better is left after `every` steps; one that has nothing to become trains on to the end."""
    accuracies(monkeypatch, {"1": 0.25, "1-1-1": 0.5, "2-1": 0.75})
    evaluate, risen = loop.evaluate, [0]

    def rising(*args, **options):
        risen[0] += 4
        scores = evaluate(*args, **options)
        return dataclasses.replace(scores, n=1000, correct=tuple(i < 1000 * scores.accuracy + risen[0] for i in range(1000)))

    monkeypatch.setattr(loop, "evaluate", rising)
    done = read_done(go(configure(every=3, stall=9, most=2), tmp_path))
    assert [(one["step"], one["chosen"]) for one in done["search"]] == [(3, "tree")]
    assert str(graph_of(done["graph"])) == "2-1" and done["samples"] == STEPS * 16


def test_a_search_that_finds_nothing_trains_on_what_it_has(tmp_path, monkeypatch):
    accuracies(monkeypatch, {"1": 0.75, "1-1-1": 0.25, "2-1": 0.25})
    done = read_done(go(configure(), tmp_path))
    assert done["search"][0]["chosen"] == "none" and str(graph_of(done["graph"])) == "1"
    assert done["samples"] == STEPS * 16 and [one["graph"] for one in done["lineage"]] == ["1"]


def test_a_graph_without_calls_left_races_against_itself_with_more_edges(tmp_path, monkeypatch):
    accuracies(monkeypatch, {"1-1-1": 0.5})
    done = read_done(go(configure(topology="1-1-1"), tmp_path))
    decision, = done["search"]
    assert [one["candidate"] for one in decision["trials"]] == ["stay", "edges"] and decision["chosen"] == "stay"  # no better
    assert done["samples"] == STEPS * 16 and graph_of(done["graph"]).layers[2].reads == (1,)


@pytest.mark.parametrize("helps, kills", [(True, (2, 6, 8)), (False, (11,))])
def test_a_killed_search_goes_on_to_the_same_end(tmp_path, monkeypatch, helps, kills):
    """Killed in the start, in both turns of the race, and after it."""
    accuracies(monkeypatch, {"1": 0.5, "1-1-1": 0.25, "2-1": 0.75 if helps else 0.25})
    config, check, left = configure(growing=1.0), loop.check_finite, [0]
    whole = go(config, tmp_path / "whole")
    decision, = read_done(whole)["search"]
    assert [one["steps"] for one in decision["trials"]] == [4, 4] and decision["chosen"] == ("tree" if helps else "none")

    def killed(*args):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        check(*args)

    for kill_after in kills:
        workdir, left[0] = tmp_path / f"killed{kill_after}", kill_after
        monkeypatch.setattr(loop, "check_finite", killed)
        with pytest.raises(KeyboardInterrupt):
            go(config, workdir)
        monkeypatch.setattr(loop, "check_finite", check)
        again = go(config, workdir)
        assert (again / "adapters.safetensors").read_bytes() == (whole / "adapters.safetensors").read_bytes()
        assert read_done(again)["search"] == read_done(whole)["search"]
    (whole / "done.json").unlink()
    assert (go(config, tmp_path / "whole") / "adapters.safetensors").read_bytes() == (
        again / "adapters.safetensors").read_bytes()  # a search that was over goes through all its folders again


@pytest.mark.parametrize("rules, searched", [
    (dict(most=0), []), (dict(growing=0.0), []), (dict(growing=1.0, stall=99, most=3), [(8, [2, 2])]),
    (dict(growing=0.5, stall=99), [(2, [2, 2])]), (dict(growing=0.3, stall=99), [])])
def test_a_race_has_room_for_all_its_arms_or_is_left_out(tmp_path, monkeypatch, rules, searched):
    """A start that never stalls leaves a turn for each arm; without room for them it trains to the end."""
    accuracies(monkeypatch, {"1": 0.25, "1-1-1": 0.5, "2-1": 0.75})
    done = read_done(go(configure(**rules), tmp_path))
    assert [(one["step"], [two["steps"] for two in one["trials"]]) for one in done["search"]] == searched
    assert done["samples"] == STEPS * 16


def test_a_search_is_not_made_longer(tmp_path):
    config = configure(most=0)
    folder = go(config, tmp_path)
    cell = Cell("listops", "searched", 0, 2e-3, STEPS + 4)
    assert read_done(folder) and training.finished(dataclasses.replace(cell, steps=STEPS), "train", config, tmp_path)
    with pytest.raises(ValueError, match="was searched in 12 steps, this config asks for 16"):
        training.finished(cell, "train", config, tmp_path)


def test_a_candidate_that_diverges_has_lost(tmp_path, monkeypatch):
    accuracies(monkeypatch, {"1": 0.25, "1-1-1": 0.25, "2-1": 0.75})
    check = loop.check_finite

    def diverges(run, numbers, step):
        if str(run.method.graph) == "2-1":
            raise loop.NonFinite("step 1")
        check(run, numbers, step)

    monkeypatch.setattr(loop, "check_finite", diverges)
    decision, = read_done(go(configure(), tmp_path))["search"]
    assert decision["chosen"] == "deep" and [one["accuracy"] for one in decision["trials"]] == [0.25, -1]


def test_rules_belong_to_the_cell_and_wrong_ones_are_named():
    assert identity(configure(), "listops", "searched", 0) != identity(configure(trial=3), "listops", "searched", 0)
    for change in (dict(topology="4-2-1"), dict(search=dict(calls=5, topology="1", trial=2, stall=1, most=1))):
        family = dataclasses.replace(configure().families["listops"], **{
            name: value if name == "topology" else SearchConfig(**value) for name, value in change.items()})
        other = dataclasses.replace(configure(), families=dict(listops=family))
        assert identity(configure(), "listops", "searched", 0) != identity(other, "listops", "searched", 0)
    config = configure(topology="4-2-1")
    with pytest.raises(ValueError, match="search starts with 4-2-1, which makes more calls than the 3 allowed"):
        make_method("searched", config, config.families["listops"])
    for rule, value in (("growing", 1.5), ("trial", 0), ("stall", 0), ("growth", dict(place="front")), ("every", -1)):
        with pytest.raises(ValueError, match=f"families.listops.search.{rule}' is"):
            configure(**{rule: value})
    for option, value in (("view", "share"), ("message_tokens", (2, 2))):
        family = dataclasses.replace(configure().families["listops"], **{option: value})
        with pytest.raises(ValueError, match=f"families..*{option} is .*, and a search changes a graph's layers"):
            make_method("searched", configure(), family)
