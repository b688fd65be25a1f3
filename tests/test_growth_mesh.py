"""On a mesh a stored parent is read straight to where the bigger run has it, and grows to the bit as it does on one device.

In processes of their own, since JAX fixes the number of devices when it starts.
"""

import os
from pathlib import Path
import subprocess
import sys

from tests.test_processes import free_port
from tests.test_sharding import CACHED

FLAGS = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"


def grown(what, folder, processes):
    """What `tests.grown` says in each of so many processes with two devices each."""
    environment = {**os.environ, **CACHED, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}
    if processes > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
    command, root = [sys.executable, "-m", "tests.grown", what, str(folder)], Path(__file__).parents[1]
    started = [subprocess.Popen(command, cwd=root, env={**environment, "JAX_PROCESS_ID": str(number)}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for number in range(processes)]
    said = [process.communicate(timeout=500)[0] for process in started]
    assert not any(process.returncode for process in started), "\n".join(text[-3000:] for text in said)
    return said


def test_parents_are_read_and_grown_in_parts(tmp_path):
    assert all(said.count("grown") == 3 for said in grown("loading", tmp_path, 2))


def test_stages_grow_on_a_mesh(tmp_path):
    assert "trained" in grown("running", tmp_path, 1)[0]
