"""Runs of many processes on CPU devices: own processes, joined over the loopback, that write what one process with as many
devices writes."""

import dataclasses
import json
import os
from pathlib import Path
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from neuromas_jax.backbone import init_backbone, save_backbone
from neuromas_jax.backbone.hub import EMBEDDED
from neuromas_jax.parallel import distributed
from neuromas_jax.train import checkpoint
from tests.test_checkpoint import BELONGS, same, state
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[1]
CONFIG = """import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.backbone, config.mesh = {backbone!r}, {mesh!r}
    config.families = dict(listops=dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(32,)))
    config.graph = dict(topology="2-1")
    config.rollout = dict(questions=4, group=4, temperature=2.0)
    config.objective = dict(entropy_bonus=0.1)  # a random backbone earns nothing, and would learn nothing
    config.training = dict(steps={steps}, evaluate_every=2, checkpoint_every=2, validation_questions=4)
    config.test_questions = 4
    return config
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(folder, workdir, mesh, processes, devices, steps=4):
    """Starts the command in so many processes with so many devices each."""
    config = folder / f"config_{steps}_{mesh}.py"
    config.write_text(CONFIG.format(backbone=str(folder / "model"), mesh=mesh, steps=steps))
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if processes > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
    command = [sys.executable, "-m", "neuromas_jax.main", f"--config={config}", f"--workdir={workdir}",
               "--compilation_cache=~/.cache/neuromas_jax/tests"]
    started = []
    for number in range(processes):
        words = tempfile.TemporaryFile("w+")  # no pipe: it would fill up, and what writes to it would wait for its reader
        started.append(subprocess.Popen(command, cwd=ROOT, env={**environment, "JAX_PROCESS_ID": str(number)}, stdout=words,
                                        stderr=subprocess.STDOUT))
        started[-1].words = words
    return started


def ended(process, seconds=60):
    """Waits until a process of `start` has ended; what it said."""
    process.wait(seconds)
    with process.words as words:
        words.seek(0)
        return words.read()


def run(*arguments, **options):
    """Starts the processes and waits for all; what they said."""
    started = start(*arguments, **options)
    said = [ended(process, 550) for process in started]
    assert all(process.returncode == 0 for process in started), said[0][-3000:]
    return said


JUDGING = """
from neuromas_jax.parallel import distributed
distributed.start()
import jax
from neuromas_jax.tasks import make_task
from neuromas_jax.train.verdicts import start_verdicts

task, seen = make_task("listops"), []
class Counted:
    def start_all(self, messages, questions):
        seen.extend(messages)
        return task.start_all(messages, questions)

questions = [task.generate("test", index) for index in range(7)]
messages = ["answer " + (question.answer if index % 2 else "\\ud800 -1") for index, question in enumerate(questions)]
first, second = start_verdicts(Counted(), messages, questions), start_verdicts(Counted(), messages[:1], questions[:1])
assert first() == task.verify_all(messages, questions) and second() == task.verify_all(messages[:1], questions[:1])
print(jax.process_index(), len(seen), distributed.gathered({"own": jax.process_index()}), flush=True)
"""


RESTORING = """
import sys
from pathlib import Path
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
from neuromas_jax.parallel.mesh import MeshShape, make_mesh
from neuromas_jax.parallel.place import put
from neuromas_jax.train import checkpoint
from tests.test_checkpoint import BELONGS, plain, state

folder, mesh, wanted = Path(sys.argv[1]), make_mesh(MeshShape(1, 3, 1), jax.devices()), plain(state(2))
rows = NamedSharding(mesh, PartitionSpec("data"))
like = put(state(0), {name: NamedSharding(mesh, PartitionSpec()) for name in wanted})
like["bank"] = jax.make_array_from_callback((3, 2, 64, 8), rows, lambda index: 0 * wanted["bank"][index])
found = checkpoint.restore(folder, like, BELONGS, 5)
for name, array in found.items():
    for part in (jax.random.key_data(array) if name == "key" else array).addressable_shards:
        assert (np.asarray(part.data) == wanted[name][part.index]).all(), name
        print(name, part.data.shape, "as saved", flush=True)
checkpoint.save(folder, 4, found, BELONGS)
"""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """What each of three processes said, and the checkpoints: this process saved step 2, and they together step 4."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    checkpoint.save(checkpoints, 2, state(2), BELONGS)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
                   "JAX_NUM_PROCESSES": "3"}
    started = [subprocess.Popen([sys.executable, "-c", JUDGING + RESTORING, str(checkpoints)], cwd=ROOT, text=True,
                                env={**environment, "JAX_PROCESS_ID": str(number)}, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT) for number in range(3)]
    said = [process.communicate(timeout=200)[0] for process in started]
    assert all(process.returncode == 0 for process in started), said
    return said, checkpoints


def test_each_process_judges_its_share_and_all_have_all_verdicts(three):
    """Of seven rows and of one, more than the first process has any of; a text that is none in UTF-8 is carried as well."""
    for number, (text, count) in enumerate(zip(three[0], (4, 2, 2))):
        assert f"{number} {count} [{{'own': 0}}, {{'own': 1}}, {{'own': 2}}]" in text


def test_another_number_of_processes_restores_the_same_bits(three):
    """Three read what one saved, each its own row of an array that is spread over them, and one reads what the three saved."""
    said, checkpoints = three
    for text in said:
        assert all(f"{name} {shape} as saved" in text for name, shape in (
            ("bank", (1, 2, 64, 8)), ("half", (5,)), ("key", (2,)), ("step", ())))
    assert checkpoint.steps(checkpoints) == [2, 4]
    assert same(checkpoint.load(checkpoints, 4, state(0)), state(2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("processes")
    backbone = init_backbone(tiny_config(num_hidden_layers=1), jax.random.key(0))
    louder = {**backbone.params, "embed": 20 * backbone.params["embed"]}  # else every word is as likely: no entropy to gain
    save_backbone(dataclasses.replace(backbone, params=louder), place / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / name, place / "model")
    return place


def left(workdir):
    """What a run left: its metrics without times, its episodes, its adapters."""
    cell = workdir / "train" / "listops" / "graph_seed0"
    timed = {"seconds", "tokens_per_second", "compile_seconds"}
    metrics = [{name: value for name, value in json.loads(line).items() if name not in timed}
               for line in (cell / "metrics.jsonl").read_text().splitlines()]
    return metrics, (cell / "episodes.txt").read_text(), load_file(cell / "adapters.safetensors")


@pytest.mark.slow
def test_many_processes_do_what_one_does(folder, tmp_path, mesh="node=2,data=2", processes=4):
    """Same messages for the same keys, same update to rounding; the first process alone writes and prints. Two processes: below.
    """
    run(folder, tmp_path / "one", mesh, 1, processes)
    said = run(folder, tmp_path / "many", mesh, processes, 1)
    (metrics, episodes, bank), (wanted, texts, one) = left(tmp_path / "many"), left(tmp_path / "one")
    assert episodes == texts and [record["step"] for record in metrics] == [1, 2, 4]
    for mine, theirs in zip(metrics, wanted):
        assert (mine["reward"], mine["accuracy"], mine["tokens"]) == (theirs["reward"], theirs["accuracy"], theirs["tokens"])
    for name, array in one.items():
        np.testing.assert_allclose(bank[name], array, rtol=2e-3, atol=2e-5)
    assert "graph" in said[0] and all("accuracy" not in other.split("Unable")[-1] for other in said[1:])
    results = [[json.loads(line)["accuracy"] for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]
               for name in ("one", "many")]
    assert results[0] == results[1]
    assert not list(tmp_path.rglob(".[0-9]*"))  # nothing half written is left


def wait_for(checkpoints, step, processes):
    """Waits until a checkpoint of `step` or a later one is there."""
    until = time.monotonic() + 500
    while not checkpoint.steps(checkpoints) or checkpoint.steps(checkpoints)[-1] < step:
        assert all(process.poll() is None for process in processes) and time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_a_process_that_dies_or_is_told_to_end_ends_the_others_and_any_number_goes_on(folder, tmp_path):
    """One that is left by a kill says so at once, with a status that launchers start a run again on; first the second dies, then
    the first, which the others wait for. Then the newest checkpoint is damaged: both go on from the one before, until the second
    is told to end, which both do after the same step. One process goes on there, to the end of a run that nobody disturbed."""
    checkpoints, step = tmp_path / "many" / "train" / "listops" / "graph_seed0" / "checkpoints", 0
    for killed in (1, 0):
        processes = start(folder, tmp_path / "many", "data=2", 2, 1, steps=1000)
        wait_for(checkpoints, step + 2, processes)
        processes.pop(killed).kill()
        said = ended(processes[0])
        if processes[0].returncode != -signal.SIGABRT:  # JAX's own watch was quicker, and aborts
            assert processes[0].returncode == distributed.EXIT, said[-3000:]
            assert "another process of this run is gone, its own log says why" in said
        step = checkpoint.steps(checkpoints)[-1]
        assert 2 <= step < 1000
    damaged = max((checkpoints / f"step_{step:06d}").rglob("*"), key=lambda path: path.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    processes = start(folder, tmp_path / "many", "data=2", 2, 1, steps=1000)
    wait_for(checkpoints, step + 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    told = [ended(process) for process in processes]
    assert all(f"step_{step:06d} is damaged" in text and "an older one is looked for" in text for text in told)
    step = checkpoint.steps(checkpoints)[-1]
    for process, text in zip(processes, told):
        assert process.returncode == distributed.EXIT and f"told to end, and saved step {step} in" in text, text[-3000:]
    assert step < 1000
    run(folder, tmp_path / "many", "data=2", 1, 2, steps=step + 2)
    run(folder, tmp_path / "one", "data=2", 1, 2, steps=step + 2)
    (metrics, _, bank), (wanted, _, one) = left(tmp_path / "many"), left(tmp_path / "one")
    assert wanted[-1]["step"] == step + 2 and {line["step"] for line in wanted} <= {line["step"] for line in metrics}
    for name, array in one.items():
        np.testing.assert_allclose(bank[name], array, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("environment, message", [
    (dict(JAX_COORDINATOR_ADDRESS="127.0.0.1:1"), "JAX_NUM_PROCESSES and JAX_PROCESS_ID must be numbers"),
    (dict(JAX_COORDINATOR_ADDRESS="127.0.0.1:1", JAX_NUM_PROCESSES="two", JAX_PROCESS_ID="0"), "must be numbers"),
])
def test_an_environment_that_says_half_is_refused(environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        distributed.start()


def test_one_process_is_left_alone(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert not distributed.start() and distributed.is_first() and distributed.agreed([3, 1]) == [3, 1]
