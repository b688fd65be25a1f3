"""Where numbers go: `metrics.jsonl`, TensorBoard events (without TensorFlow) and a progress bar."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from neuromas_jax.files import append_text, write_records
from neuromas_jax.parallel.distributed import is_first


class Metrics:
    """Writer of one run's metrics. Records after `step` are dropped: a resumed run writes them again."""

    def __init__(self, folder: Path, step: int, total: int, title: str):
        self.path = folder / "metrics.jsonl"
        cut_log(self.path, step)
        self._events = SummaryWriter(str(folder / "events"), purge_step=step + 1) if is_first() else None
        self._bar = tqdm(total=total, initial=step, desc=title, unit="step", dynamic_ncols=True, mininterval=0.5,
                         disable=not is_first())

    def write(self, record: dict) -> None:
        """One line of JSON; its numbers also become TensorBoard scalars."""
        append_text(self.path, json.dumps(record) + "\n")
        for name, value in _scalars(record) if self._events else ():
            self._events.add_scalar(name, value, record["step"])

    def progress(self, **shown) -> None:
        """Moves the bar one step; it shows these numbers beside the time left."""
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        if self._events:
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
    """The records of a run's `metrics.jsonl`, oldest first; see `read_log`."""
    return read_log(folder / "metrics.jsonl")


def read_log(path: Path) -> list[dict]:
    """The records of a JSONL log, oldest first. A last line that cannot be read is left out: a kill or a full disk cuts it off.

    Raises:
      ValueError: another line is damaged, with file and line.
    """
    records, lines = [], path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("no object with a step")
            records.append(record)
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: {line[:80]!r} is not a JSON record ({error}); "
                                 "remove that line and run again") from error
    return records


def cut_log(path: Path, step: int) -> None:
    """Drops the log's records after `step`, and a last line that was cut off. Raises ValueError as `read_log` does."""
    kept = [record for record in read_log(path) if record["step"] <= step] if path.exists() else []
    write_records(path, kept)


def whole(records: list[dict], field: str) -> list[float]:
    """A field that counts up over steps, such as tokens, of every record: what the steps since the record before it took.

    A record of a run that was killed and resumed counts the steps since the checkpoint alone, and a search's metrics leave out
    the plans that lost; both are made up for at the rate of the record's own steps.
    """
    found, before = [], 0
    for record in records:
        gap = record["step"] - before
        found.append(record.get(field, 0) * gap / record.get("steps", gap))
        before = record["step"]
    return found
