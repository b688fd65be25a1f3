"""The README's table from a `results.jsonl`.

    python -m neuromas_jax.analysis.table results/reference/results.jsonl [--readme=README.md]
"""

from pathlib import Path

from absl import app, flags

from neuromas_jax.analysis.pooling import Pool, SetResults, between, gather, headline, percent, read_records
from neuromas_jax.analysis.report import table

COLUMNS = (
    "graph", "graph_untrained", "graph_shared_adapter", "single_equal_parameters", "single_equal_tokens", "chain_equal_calls",
    "vote_equal_tokens", "graph_blanked", "graph_shuffled",
)
START, END = "<!-- results -->", "<!-- /results -->"

_README = flags.DEFINE_string("readme", "", "File whose table is replaced, between its two marks; none by default.")


def readme_table(records: list[dict]) -> str:
    """Markdown: the deepest trained depth of each family and each BBH file, a column per method."""
    sets = headline(gather(records))
    if not sets:
        raise ValueError("the results hold no trained depth and no BBH file; run the experiment first")
    rows = []
    for one in sets:
        best = one.best_rival()
        seeds = max(len(pool.records) for pool in one.pools.values())
        values = [cell(one, name, name in ("graph", best.method if best else None)) for name in COLUMNS]
        name = f"{one.title} (n {one.facts['n']}, {seeds} seed{'s' * (seeds > 1)})"
        rows.append([name, *values, percent(one.facts["majority"]), percent(one.facts["shallow"])])
    header = ["accuracy, %", *COLUMNS, "majority", "shallow"]
    note = ("Mean over seeds. In brackets, for the graph and its best rival: "
            "95 % interval of that mean over questions and seeds (`analysis/pooling.py`), for this backbone.")
    return "\n".join([*table(header, rows), note])


def cell(one: SetResults, method: str, interval: bool) -> str:
    pool: Pool | None = one.pools.get(method)
    if pool is None:
        return "–"
    return f"{percent(pool.mean())} {between(*pool.interval)}" if interval else percent(pool.mean())


def insert(readme_path: Path | str, text: str) -> None:
    """Replaces what stands between the two marks of a file.

    Raises:
      ValueError: a mark is missing, doubled, or they stand in the wrong order.
    """
    path = Path(readme_path)
    old = path.read_text(encoding="utf-8")
    if old.count(START) != 1 or old.count(END) != 1 or old.index(START) > old.index(END):
        raise ValueError(f"{path} needs one {START} and, after it, one {END}; put both where the table belongs")
    before, after = old.split(START)[0], old.split(END)[1]
    path.write_text(f"{before}{START}\n{text.strip()}\n{END}{after}", encoding="utf-8")


def main(arguments):
    if len(arguments) != 2:
        raise app.UsageError("give one results.jsonl, such as results/reference/results.jsonl")
    try:
        text = readme_table(read_records(Path(arguments[1])))
        if _README.value:
            insert(_README.value, text)
    except (ValueError, OSError) as error:
        raise app.UsageError(str(error)) from error
    print(text)


if __name__ == "__main__":
    app.run(main)
