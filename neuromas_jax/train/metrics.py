"""Where numbers go: `metrics.jsonl`, TensorBoard events (without TensorFlow) and a progress bar."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm


class Metrics:
    """Writer of one run's metrics. Records after `step` are dropped: a resumed run writes them again."""

    def __init__(self, folder: Path, step: int, total: int, title: str):
        self.path = folder / "metrics.jsonl"
        written = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in written if json.loads(line)["step"] <= step]
        self.path.write_text("".join(line + "\n" for line in kept))
        self._events = SummaryWriter(str(folder / "events"), purge_step=step or None)
        self._bar = tqdm(total=total, initial=step, desc=title, unit="step", dynamic_ncols=True, mininterval=0.5)

    def write(self, record: dict) -> None:
        """One line of JSON; its numbers also become TensorBoard scalars."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for name, value in _scalars(record):
            self._events.add_scalar(name, value, record["step"])

    def progress(self, **shown) -> None:
        """Moves the bar one step; it shows these numbers beside the time left."""
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._events.close()
        self._bar.close()


def _scalars(record: dict, prefix: str = ""):
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from _scalars({str(i): x for i, x in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + name, value


def read_metrics(folder: Path) -> list[dict]:
    """The records of a run's `metrics.jsonl`, oldest first."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
