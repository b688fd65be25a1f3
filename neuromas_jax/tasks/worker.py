"""A verifier process of a `judge.Judge`: a job a line in, a verdict a line out."""

import dataclasses
import json
import sys

from neuromas_jax.tasks.verifiers import verify


def main() -> None:
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
