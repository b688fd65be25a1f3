"""The launch scripts, with a stand-in for the environment's Python that writes down its calls: nothing is installed."""

import contextlib
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = Path(__file__).parents[1]
CONFIG, WORKDIR = "--config=configs/quickstart.py", "--workdir=runs/quickstart"


def python(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def launch(tmp_path):
    """`launch(*flags, **environment)` runs launch/local.sh; it returns the calls of Python, or the error where it fails."""
    calls = tmp_path / "calls"
    python(tmp_path / "venv/bin/python", f'printf "%s|" "$@" >> {calls}; echo >> {calls}')

    def call(*flags, script="launch/local.sh", **environment):
        calls.write_text("")
        ended = subprocess.run(
            ["bash", ROOT / script, *flags], capture_output=True, text=True, timeout=120, cwd=tmp_path,
            env={**os.environ, "VENV": str(tmp_path / "venv"), **environment})
        return ended.stderr if ended.returncode else [line.rstrip("|").split("|") for line in calls.read_text().splitlines()]

    return call


def test_help_of_the_program(tmp_path):
    """The one call of the real program; the stamp says that everything is installed."""
    python(tmp_path / "venv/bin/python", f'exec {sys.executable} "$@"')
    shutil.copy(ROOT / "setup.py", tmp_path / "venv/.installed-cpu")
    ended = subprocess.run(["bash", ROOT / "launch/local.sh", "--help"], capture_output=True, text=True, timeout=300,
                           env={**os.environ, "VENV": str(tmp_path / "venv"), "JAX_PLATFORMS": "cpu"})
    assert "--config:" in ended.stdout and "--workdir:" in ended.stdout and "configs/quickstart.py" in ended.stdout
    assert not ended.stderr


def test_a_second_call_installs_nothing(launch, tmp_path):
    install, main = launch()
    assert install[:3] == ["-m", "pip", "install"] and install[-2:] == ["-e", ".[cpu]"]
    assert main == ["-m", "neuromas_jax.main", CONFIG, WORKDIR]
    assert launch() == [main]
    (tmp_path / "venv/.installed-cpu").write_text("another setup.py")
    assert launch() == [install, main] and launch() == [main]


TESTS = ["-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]


def test_the_tests_have_an_environment_of_their_own(launch):
    launch()
    install, main = launch("-k", "graph", script="tests/run.sh")
    assert install[-1] == ".[cpu,test]" and main == [*TESTS, "-k", "graph"]
    assert launch("-x", script="tests/run.sh") == [[*TESTS, "-x"]]


def test_an_installation_that_fails_is_tried_again(launch, tmp_path):
    python(tmp_path / "venv/bin/python", 'echo "no network" >&2; exit 1')
    assert "no network" in launch()
    assert not (tmp_path / "venv/.installed-cpu").exists()


def test_an_accelerator_is_an_extra_of_its_own(launch):
    launch()
    assert launch(EXTRA="tpu")[0][-1] == ".[tpu]"
    assert len(launch(EXTRA="tpu")) == 1 and launch(EXTRA="cuda")[0][-1] == ".[cuda]"
    assert "EXTRA=gpu is not known; allowed are cpu, tpu, cuda: EXTRA=tpu bash" in launch(EXTRA="gpu")


@pytest.mark.parametrize("flags, passed", [
    (["--config=mine.py"], [WORKDIR, "--config=mine.py"]),
    (["--config", "mine.py"], [WORKDIR, "--config", "mine.py"]),
    (["--workdir=a folder"], [CONFIG, "--workdir=a folder"]),
    (["--workdir", "a folder"], [CONFIG, "--workdir", "a folder"]),
    (["--config", "mine.py", "--workdir=there"], ["--config", "mine.py", "--workdir=there"]),
    (["--config.training.steps=50", "--config.workers=1"], [CONFIG, WORKDIR, "--config.training.steps=50", "--config.workers=1"]),
])
def test_a_flag_given_by_hand_takes_the_place_of_its_default(launch, flags, passed):
    assert launch(*flags)[-1] == ["-m", "neuromas_jax.main", *passed]


@pytest.mark.parametrize("flags, passed", [
    ([], ["--workdir=runs/smoke"]),
    (["--config=configs/pod.py", "--workdir", "a folder"], ["--workdir=a folder/smoke"]),
    (["--workdir=there", "--compilation_cache="], ["--workdir=there/smoke", "--compilation_cache="]),
    (["--compilation_cache", "/programs"], ["--workdir=runs/smoke", "--compilation_cache=/programs"]),
])
def test_the_smoke_job_in_place_of_the_experiment(launch, flags, passed):
    assert launch("--smoke", *flags)[-1] == ["-m", "neuromas_jax.smoke", *passed] == launch(*flags, "--smoke")[-1]


def test_the_smoke_job_takes_no_settings(launch, tmp_path):
    said = launch("--smoke", "--config.seeds=(1,)", "--workdir=there")
    assert "--smoke takes no other settings, and there is --config.seeds=(1,); leave it out, or leave --smoke out" in said
    assert not (tmp_path / "calls").read_text()  # nothing was installed either


@pytest.mark.parametrize("flags, wanted", [
    (["--config.seeds=(1,)"], f"-m neuromas_jax.main {CONFIG} {WORKDIR} --config.seeds=(1,) --dry_run"),
    (["--smoke", "--workdir=there"], "-m neuromas_jax.smoke --workdir=there/smoke"),
])
def test_a_dry_run_installs_nothing_and_writes_nothing(launch, tmp_path, flags, wanted):
    venv, work = tmp_path / "none/venv", tmp_path / "work"
    work.mkdir()
    ended = subprocess.run(["bash", ROOT / "launch/local.sh", *flags, "--dry_run"], capture_output=True, text=True, cwd=work,
                           env={**os.environ, "VENV": str(venv), "HOME": str(tmp_path / "none")})
    assert not ended.returncode, ended.stderr
    made, installed, run = ended.stdout.splitlines()
    assert made.endswith(f" -m venv {venv}") and installed == f"{venv}/bin/python -m pip install -e .[cpu]"
    assert run == f"{venv}/bin/python {wanted}" and not list(work.iterdir()) and not (tmp_path / "none").exists()
    assert launch(*flags, "--dry_run") == [] and not (tmp_path / "venv/.installed-cpu").exists()
    shutil.copy(ROOT / "setup.py", tmp_path / "venv/.installed-cpu")  # the environment is there: the program says more
    assert launch(*flags, "--dry_run") == ([] if "--smoke" in flags else [wanted.split()])


def test_the_form_with_a_blank_reaches_the_program(tmp_path):
    experiment = tmp_path / "mine.py"
    experiment.write_text("import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict(dict(mine=1))\n")
    ended = subprocess.run([sys.executable, "-m", "neuromas_jax.main", "--config", experiment, "--config.workers=2",
                            "--workdir", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=300,
                           env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert ended.returncode == 2 and ended.stderr.startswith("error: unknown config key 'mine'"), ended.stderr


def test_a_config_that_is_not_there(tmp_path):
    ended = subprocess.run([sys.executable, "-m", "neuromas_jax.main", "--config=typo.py", "--config.training.steps=3"],
                           cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "error: the config cannot be read: " in ended.stderr and "typo.py" in ended.stderr


def test_a_mistake_in_the_config_file_is_shown_where_it_stands(tmp_path):
    (tmp_path / "mine.py").write_text("import os\n\nDATA = os.environ['MY_DATA_DIR']\n")
    ended = subprocess.run([sys.executable, "-m", "neuromas_jax.main", f"--config={tmp_path / 'mine.py'}"],
                           cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert ended.returncode and "names the section" not in ended.stderr and "mine.py\", line 3" in ended.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how, code", [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_that_is_stopped_takes_its_workers_along(tmp_path, how, code):
    experiment = tmp_path / "mine.py"
    experiment.write_text(
        "import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict(dict(\n"
        "        families=dict(listops=dict(buckets=(24, 48))), graph=dict(topology='1'), workers=2,\n"
        "        methods=('graph', 'single_equal_parameters'), seeds=(0, 1), training=dict(steps=9999)))\n")
    command = [sys.executable, "-m", "neuromas_jax.main", f"--config={experiment}", f"--workdir={tmp_path / 'work'}"]

    def workers():
        found = []
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = line.read_bytes().decode().split("\0")
                found += [line.parent.name] * (f"--workdir={tmp_path / 'work'}" in words and "--worker=1" in words)
        return found

    def wait(condition):
        deadline = time.monotonic() + 240
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert condition()

    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, stderr=subprocess.DEVNULL) as process:
        wait(lambda: process.poll() is not None or workers() and len(list((tmp_path / "work").glob("train/listops/*/lock"))) >= 2)
        process.send_signal(how)
        assert process.wait(240) == code
    wait(lambda: not workers())


def test_the_environment_is_made_with_a_python_that_will_do(launch, tmp_path):
    shutil.rmtree(tmp_path / "venv")
    said = launch(PYTHON="/nowhere/python")
    assert "no Python 3.11 or newer among: /nowhere/python; install one, or name it: PYTHON=/path/to/python3.12 bash" in said
    python(tmp_path / "old", "exit 1")  # its answer to the question whether it is new enough
    assert f"among: {tmp_path / 'old'};" in launch(PYTHON=str(tmp_path / "old"))
    assert not (tmp_path / "venv").exists()
    made = tmp_path / "venv/bin/python"
    python(tmp_path / "new", f'[ "$2" = venv ] && mkdir -p "$(dirname {made})" && cp "$0" {made} || true')
    launch(PYTHON=str(tmp_path / "new"))
    assert (tmp_path / "venv/.installed-cpu").exists()
