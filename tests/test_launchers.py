"""Launchers: what they would run, without a cloud or a cluster; their shell scripts, linted and run."""

import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = Path(__file__).parents[1]
CLOUD = ["cloud_tpu", "--name=mine", "--project=p", "--zone=us-east5-b", "--accelerator=v6e-16", "--bucket=gs://b/runs", "--spot"]
GKE = ["gke", "--name=mine", "--cluster=c", "--project=p", "--zone=z", "--tpu_type=v6e-256", "--slices=2", "--storage=results",
       "--workdir=/results/mine"]
SLURM = ["slurm", "--name=mine", "--nodes=2", "--gpus=8", "--hours=2", "--workdir=/shared/mine", "--partition=gpu"]


def launch(name, *flags, path="/nowhere", check=0, **environment):
    done = subprocess.run([sys.executable, f"launch/{name}.py", *flags], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", **environment})
    assert done.returncode == check, done.stdout + done.stderr
    return done.stdout + done.stderr


def linted(*arguments, text=None):
    done = subprocess.run(["shellcheck", "--severity=style", "--external-sources", *arguments], capture_output=True, text=True,
                          cwd=ROOT, input=text, env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stdout + done.stderr


def program(folder, name, text):
    """A program of that name that writes its arguments to `calls` and goes on as `text` says."""
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "{folder}/calls"\n{text}\n')
    path.chmod(0o755)


def calls(folder):
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def test_shell_scripts_are_clean():
    linted(*sorted(str(path.relative_to(ROOT)) for path in [*(ROOT / "launch").glob("*.sh"), ROOT / "tests" / "run.sh"]))


@pytest.mark.parametrize("flags, wanted", [
    (CLOUD, ["queued-resources create mine --project=p --zone=us-east5-b --node-id=mine --spot --accelerator-type=v6e-16 "
             "--runtime-version=v2-alpha-tpuv6e", "--spot", "gs://b/runs/mine/source/", "--workdir=/mnt/neuromas_jax/runs/mine"]),
    ([*CLOUD, "--slices=2"], ["--node-count=2 --node-prefix=mine"]),
    (GKE, ["xpk workload create --workload=mine --cluster=c", "--tpu-type=v6e-256 --num-slices=2 --storage=results",
           "--restart-on-exit-codes=75", "--workdir=/results/mine"]),
    (SLURM, ["#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=8", "#SBATCH --time=120", "#SBATCH --partition=gpu",
             "--workdir=/shared/mine"]),
], ids=["cloud", "slices", "gke", "slurm"])
def test_a_dry_run_prints_what_would_be_run_and_runs_nothing(flags, wanted, tmp_path):
    for name in ("gcloud", "xpk", "sbatch", "kubectl"):
        program(tmp_path, name, "exit 0")
    (tmp_path / "temporary").mkdir()
    there = sorted(tmp_path.rglob("*"))
    said = launch(*flags, "--dry_run", "--config=configs/pod.py", "--compilation_cache=gs://b/cache", "--", "--config.seeds=(1,)",
                  path=str(tmp_path), HOME=str(tmp_path / "home"), VENV=str(tmp_path / "venv"),
                  TMPDIR=str(tmp_path / "temporary"))
    assert sorted(tmp_path.rglob("*")) == there and not any(map(os.path.exists, ("/shared/mine", "/results/mine")))
    passed_on = "-m neuromas_jax.main --config=configs/pod.py", "--compilation_cache=gs://b/cache", "--config.seeds=(1,)"
    for text in [*wanted, *passed_on]:
        assert text.replace("'", "") in said.replace("\"", "").replace("'", ""), (text, said)
    assert not calls(tmp_path) and "neuromas_jax.smoke" in launch(*flags, "--dry_run", "--smoke")


def test_generated_scripts_are_clean(tmp_path):
    said = launch(*CLOUD, "--dry_run", "--", "--config.prompt.slot=it's <from{place}>")
    linted("-", text=said[said.index("#!/usr/bin/env bash"): said.rindex("\ngit archive")])
    said = launch(*SLURM, "--dry_run", "--account=it's mine")
    linted("-", text=said[said.index("#!/usr/bin/env bash"): said.rindex("JOB")])


@pytest.mark.parametrize("flags, message", [
    ([*CLOUD, "--bucket=b/runs"], "--bucket is 'b/runs'; it must be gs://BUCKET/FOLDER"),
    ([*CLOUD, "--accelerator=tpu7x-8"], "its runtime is not known, only those of v4, v5litepod, v5p, v6e; give --runtime"),
    ([*CLOUD, "--name=Mine!"], "--name is 'Mine!'; it must be of small letters, digits and dashes"),
    ([*CLOUD, "--config=configs/not_there.py"], "the last commit has no file configs/not_there.py"),
    ([*SLURM, "--workdir=here"], "--workdir is 'here'; it must be a whole path"),
    ([*GKE, "--workdir=results"], "--workdir is 'results'; it must be a path within the storage 'results'"),
    ([*SLURM, "--smoke", "--", "--config.seed=1"], "--smoke takes no other settings, and there is --config.seed=1"),
])
def test_settings_that_cannot_work_are_refused(flags, message):
    assert message in launch(*flags, "--dry_run", check=2)


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_flags_are_those_of_gcloud():
    said = launch(*CLOUD, "--slices=2", "--dry_run") + launch(*CLOUD, "--dry_run")
    line = " ".join(line for line in said.splitlines() if "queued-resources create" in line)
    known = subprocess.run(["gcloud", "compute", "tpus", "queued-resources", "create", "--help"], capture_output=True, text=True)
    if known.returncode:
        pytest.skip("this gcloud has no TPU commands")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", known.stdout)
    for flag in set(re.findall(r"--[a-z-]+", line)) - {"--project"}:
        assert flag in plain, flag


def watched(folder):
    """The launcher with --watch, which does not wait between two looks."""
    (folder / "sitecustomize.py").write_text("import time; time.sleep = lambda seconds: None")
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, "launch/cloud_tpu.py", *CLOUD[1:], "--watch"], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=120)


def test_a_tpu_that_is_taken_away_is_asked_for_again(tmp_path):
    """Active, taken away, active again, and the run ends: two are made, and the last one is given back."""
    program(tmp_path, "gcloud", f"""
case "$*" in
  *describe*) n=$(grep -c describe "{tmp_path}/calls"); if [ "$n" = 2 ]; then echo SUSPENDED; else echo ACTIVE; fi ;;
  *"storage cat"*) n=$(grep -c describe "{tmp_path}/calls"); if [ "$n" -ge 3 ]; then echo 0; else exit 1; fi ;;
esac""")
    done = watched(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [re.search("storage cp|create|describe|delete|storage cat", line)[0] for line in calls(tmp_path)]
    assert [kind for kind in kinds if kind in ("create", "delete", "storage cp")] == [
        "storage cp", "create", "delete", "create", "delete"]


def test_a_tpu_that_is_refused_again_and_again_is_given_up(tmp_path):
    program(tmp_path, "gcloud", 'case "$*" in *describe*) echo FAILED ;; *"storage cat"*) exit 1 ;; esac')
    done = watched(tmp_path)
    assert done.returncode == 2 and "was refused, or could not be looked at, 6 times" in done.stderr, done.stdout + done.stderr
    assert sum(" create " in line for line in calls(tmp_path)) == 6


def repeat(folder, text, **environment):
    program(folder, "command", text)
    return subprocess.Popen(["bash", "launch/repeat.sh", str(folder / "command")], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "WAIT": "0", **environment})


@pytest.mark.parametrize("text, restarts, status, times", [
    ('[ "$(wc -l < "$(dirname "$0")/calls")" -ge 3 ] || exit 75', "9", 0, 3),
    ('[ "$(wc -l < "$(dirname "$0")/calls")" -ge 2 ] || kill -9 $$', "9", 0, 2),
    ("exit 1", "9", 1, 1),
    ("exit 75", "2", 1, 3),
], ids=["told to end", "killed", "an error", "too often"])
def test_what_can_go_on_is_started_again(tmp_path, text, restarts, status, times):
    process = repeat(tmp_path, text, RESTARTS=restarts)
    assert process.wait(timeout=60) == status and len(calls(tmp_path)) == times


def test_being_told_to_end_between_two_starts(tmp_path):
    process = repeat(tmp_path, "exit 75", WAIT="30")
    while not calls(tmp_path):
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 75 and len(calls(tmp_path)) == 1


def test_being_told_to_end_tells_the_command_and_does_not_start_it_again(tmp_path):
    process = repeat(tmp_path, "trap 'exit 75' TERM; while true; do sleep 0.05; done")
    while not calls(tmp_path):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75 and len(calls(tmp_path)) == 1


@pytest.mark.parametrize("status, count, again", [(0, 0, False), (1, 0, False), (75, 0, True), (137, 3, True), (75, 100, False)])
def test_a_slurm_job_queues_itself_again(tmp_path, status, count, again):
    program(tmp_path, "srun", f"exit {status}")
    program(tmp_path, "scontrol", "exit 0")
    said = launch(*SLURM, "--dry_run")
    script = said[said.index("#!/usr/bin/env bash"): said.rindex("JOB")].replace("/shared/mine", str(tmp_path))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                   "SLURM_RESTART_COUNT": str(count)}
    assert subprocess.run(["bash", "-c", script], env=environment, cwd=ROOT).returncode == status
    assert ("scontrol requeue 7" in calls(tmp_path)) == again and calls(tmp_path)[0].startswith("srun --kill-on-bad-exit=1")


def test_a_slurm_job_with_an_error_in_one_process_is_not_queued_again(tmp_path):
    """Others, who miss the process that failed, end with 75, which srun passes on."""
    program(tmp_path, "srun", 'shift 2; "$1" "$2" bash -c "exit 2"; exit 75')
    program(tmp_path, "scontrol", "exit 0")
    said = launch(*SLURM, "--dry_run")
    script = said[said.index("#!/usr/bin/env bash"): said.rindex("JOB")].replace("/shared/mine", str(tmp_path))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash", "-c", script], env=environment, cwd=ROOT).returncode == 75
    assert (tmp_path / "failed.7.0").exists() and "scontrol requeue 7" not in calls(tmp_path)


@pytest.mark.slow
def test_the_smoke_job(tmp_path):
    """A second call says that it is done."""
    command = [sys.executable, "-m", "neuromas_jax.smoke", f"--workdir={tmp_path}/smoke",
               "--compilation_cache=~/.cache/neuromas_jax/tests"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for text in ("Python 3", "jax ", "flax ", "1 devices: cpu (cpu); process 1 of 1", "mesh: one device; graph 2-1",
                 "step  reward"):
        assert text in done.stdout, done.stdout
    assert [int(line.split()[0]) for line in done.stdout.split("tokens/s")[1].splitlines() if line] == [1, 4, 8, 12, 16, 20]
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 1 and "holds a smoke job that is done; remove it, or give another --workdir" in again.stderr
