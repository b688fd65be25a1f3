"""A verifier process of a `judge.Judge`: a job a line in, a verdict a line out."""

import dataclasses
import json
import resource
import signal
import sys

from neuromas_jax.processes import end_with_parent
from neuromas_jax.tasks.verifiers import verify

MEMORY = 4 * 2**30  # bytes of address space: a formula may ask for more numbers than there is room for


def main() -> None:
    end_with_parent(signal.SIGKILL)
    if sys.platform == "linux":
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    answers, sys.stdout = sys.stdout, sys.stderr  # what a verifier prints is no verdict
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        try:
            found = dataclasses.asdict(verify(**json.loads(line)))
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
