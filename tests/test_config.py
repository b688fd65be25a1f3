"""Configs: unknown keys, wrong types and bad values are named; every file in `configs/` parses and runs a step (claim 12)."""

import dataclasses
import importlib.util
from pathlib import Path

import ml_collections
import pytest

from neuromas_jax.config import Config, parse

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "embedded_backbone")


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def small(**changes):
    return {"families": {"listops": {}}, **changes}


def test_what_is_left_out_has_its_default():
    config = parse(small())
    assert config == dataclasses.replace(Config(), families=config.families, order=config.order)
    assert config.families["listops"].task == "listops"
    assert parse(ml_collections.ConfigDict(small())) == config


def test_lists_become_tuples_and_sections_dataclasses():
    config = parse(small(seeds=[3, 4], graph=dict(topology="2-1"), rollout=dict(group=4)))
    assert config.seeds == (3, 4) and config.graph.topology == "2-1" and config.rollout.group == 4
    hash(config.seeds), hash(config.rollout)


@pytest.mark.parametrize("changes, message", [
    (dict(nope=1), "unknown config key 'nope'; allowed here are backbone"),
    (dict(sedes=(1,)), "unknown config key 'sedes'.*did you mean 'seeds'"),
    (dict(graph=dict(topolgy="1")),
     "unknown config key 'graph.topolgy'; allowed here are topology, reads, edges, slots; did you mean 'topology'"),
    (dict(rollout=dict(questoins=1)), "'rollout.questoins'.*did you mean 'questions'"),
    (dict(families=dict(listops=dict(bucket=(1,)))), "'families.listops.bucket'.*did you mean 'buckets'"),
    (dict(graph="4-2-1"), "config.graph is '4-2-1'; give a dict with keys among topology"),
    (dict(workers="2"), "config key 'workers' is '2'; it must be of type int"),
    (dict(workers=True), "config key 'workers' is True; it must be of type int"),
    (dict(rollout=dict(temperature="hot")), "'rollout.temperature' is 'hot'; it must be of type float"),
    (dict(graph=dict(topology=421)), "'graph.topology' is 421; it must be of type str"),
    (dict(rollout=dict(group=0)), "'rollout.group' is 0; it must be 1 or more"),
    (dict(training=dict(steps=0)), "'training.steps' is 0"),
    (dict(rollout=dict(too_long="cut")), "'rollout.too_long' is 'cut'; allowed are error, skip"),
    (dict(learning_rate=dict(default=-1.0)), "learning rates .*above 0"),
    (dict(seeds=()), "'seeds' is .*one or more different seeds"),
    (dict(seeds=(1, 1)), "'seeds' is .*different seeds"),
    (dict(sweep=dict(learning_rates=(1e-3,), seed=0)), "'sweep.seed' is 0, which is also reported"),
    (dict(families={}), "name at least one family"),
    (dict(order=("boolean",)), "config.order is .*name each of the families listops once"),
    (dict(families=dict(listops=dict(buckets=(8, 4)))), "'families.listops.buckets' is .*increasing"),
])
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        parse({**small(), **changes})


def test_there_are_configs():
    assert {"quickstart", "reference"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_config_parses_and_all_its_cells_are_built(name, tmp_path):
    """As it stands: its data, backbone and published adapters are there and fit each other."""
    from neuromas_jax.experiments.run import check, make_run

    config = parse(load(name))
    check(config, tmp_path)
    for family in config.families:
        for method in config.methods:
            run = make_run(config, family, method)
            assert run.trainable_parameters > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_config_runs_a_step(name, tmp_path):
    """One family, one step, the cheapest trained method; the config's own settings otherwise. Two configs share programs."""
    from neuromas_jax.experiments.run import check, collect, run_experiment

    values = load(name).to_dict()
    family = next(f for f in values.get("order") or sorted(values["families"]) if not values["families"][f].get("adapters"))
    values.update(
        families={family: {**values["families"][family], "files": (), "buckets": values["families"][family]["buckets"][-1:]}},
        order=(), methods=("single_equal_parameters",), seeds=values["seeds"][:1], test_questions=4, workers=1,
        rollout={**values.get("rollout", {}), "questions": 2, "group": 2}, sweep={},
        training={**values.get("training", {}), "steps": 1, "validation_questions": 2},
    )
    config = parse(values)
    check(config, tmp_path)
    run_experiment(config, tmp_path)
    records = collect(config, tmp_path)
    assert records and all(record["n"] > 0 and 0 <= record["accuracy"] <= 1 for record in records)
    assert (tmp_path / "train" / family / f"single_equal_parameters_seed{config.seeds[0]}" / "adapters.safetensors").exists()
