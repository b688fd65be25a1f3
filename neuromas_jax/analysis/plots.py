"""Plots of an experiment as PNG files. Figures are made without pyplot, so nothing global changes."""

from pathlib import Path

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
import numpy as np

from neuromas_jax.analysis.pooling import SetResults
from neuromas_jax.files import written_whole
from neuromas_jax.graph import TextGraph
from neuromas_jax.train.evaluate import UNLABELLED

COLOURS = {
    "graph": "#0072B2", "graph_shared_adapter": "#009E73", "single_equal_parameters": "#E69F00", "single_equal_tokens": "#CC79A7",
    "chain_equal_calls": "#D55E00", "vote_equal_tokens": "#8C6D1F", "graph_untrained": "#999999", "graph_blanked": "#999999",
    "graph_shuffled": "#999999", "graph_other_episode": "#999999", "graph_random": "#666666",
    "grown": "#B2182B", "grown_anew": "#F4A582", "parent_trained_on": "#D9A441",
    "graph_mixed": "#56B4E9", "graph_schedule": "#7570B3", "graph_tied": "#1B7837",
    "malt": "#7F3C8D", "gptswarm": "#11A579", "roles_grpo": "#A6761D", "roles_dr_mas": "#E6AB02", "roles_critic": "#66A61E",
}
LABEL_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#F0E442", "#0072B2", "#A6761D", "#B2A1E0", "#7FC97F")
REST = "#BBBBBB"
MOST_PANELS, MOST_COLUMNS = 6, 9


def save(figure: Figure, path: Path) -> Path:
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=100, facecolor="white")
    return path


def panels(count: int, columns: int, size: tuple[float, float], **options) -> tuple[Figure, list]:
    """A figure with that many axes in rows of `columns`."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def plain(axis) -> None:
    axis.spines[["top", "right"]].set_visible(False)


def draw_curves(path: Path, family: str, metrics: dict[tuple[str, int], list[dict]]) -> Path:
    """Validation accuracy against step: a thin line per seed, a thick one for the mean of the seeds."""
    figure, (axis,) = panels(1, 1, (6.4, 4.0))
    for method in dict.fromkeys(name for name, _ in metrics):
        colour = COLOURS.get(method, REST)
        at_step: dict[int, list[float]] = {}
        runs = [records for (name, _), records in metrics.items() if name == method]
        for records in runs:
            if len(runs) > 1:
                axis.plot([r["step"] for r in records], [100 * r["accuracy"] for r in records],
                          color=colour, linewidth=0.7, alpha=0.6)
            for record in records:
                at_step.setdefault(record["step"], []).append(100 * record["accuracy"])
        steps = sorted(step for step, values in at_step.items() if len(values) == max(map(len, at_step.values())))
        axis.plot(steps, [np.mean(at_step[step]) for step in steps], color=colour, linewidth=2.2, marker="o", markersize=3.5,
                  label=f"{method} ({len(runs)} seed{'s' * (len(runs) > 1)})")
    axis.set(xlabel="training step", ylabel="validation accuracy, %", ylim=(-3, 103), title=f"{family}: learning curves")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    figure.set_size_inches(8.6, 4.0)
    plain(axis)
    return save(figure, path)


def draw_results(path: Path, sets: list[SetResults]) -> Path:
    """Accuracy of every method as bars with 95 % intervals, a dot per seed; lines for chance, majority and the shallow rule."""
    methods = list(dict.fromkeys(method for one in sets for method in one.pools))
    figure, axes = panels(len(sets), 3, (3.3, 0.9 + 0.3 * len(methods)), sharey=True)
    for axis, one in zip(axes, sets):
        for row, method in enumerate(methods):
            if method not in one.pools:
                continue
            pool = one.pools[method]
            mean, (low, high) = 100 * pool.mean(), (100 * bound for bound in pool.interval)
            axis.barh(row, mean, height=0.68, color=COLOURS.get(method, REST), alpha=0.85)
            axis.plot([low, high], [row, row], color="black", linewidth=1.3)
            axis.plot([100 * value for value in pool.seeds().values()], [row] * len(pool.records), "o", color="white",
                      markeredgecolor="black", markersize=3.2, markeredgewidth=0.7)
            axis.text(104, row, f"{mean:.0f}", va="center", fontsize=8)
        lines = ((one.facts["chance"], "chance", ":"), (one.facts["majority"], "majority", "--"),
                 (one.facts["shallow"], "shallow rule", "-."))
        for value, name, style in lines:
            axis.axvline(100 * value, color="black", linestyle=style, linewidth=1.0, label=name)
        axis.set(xlim=(0, 115), xticks=(0, 25, 50, 75, 100), yticks=range(len(methods)))
        axis.set_yticklabels(methods, fontsize=8)
        axis.set_title(f"{one.title} (n {one.facts['n']})", fontsize=9)
        plain(axis)
    axes[0].invert_yaxis()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False, title_fontsize=8,
                  title="accuracy, %: bars are means of seeds, dots seeds, black bars 95 % intervals")
    return save(figure, path)


def label_palette(runs: list[list[dict]]) -> dict[str, str]:
    """A colour for every label, the commonest first; what is rare, or no label, is grey."""
    counts: dict[str, int] = {}
    for record in (record for records in reversed(runs) for record in reversed(records)):
        for label in record["nodes"]["label"]:
            counts[label] = counts.get(label, 0) + 1
    ranked = sorted(counts, key=lambda label: -counts[label])
    ranked = [label for label in ranked if label not in UNLABELLED]
    return dict.fromkeys(counts, REST) | dict(zip(ranked, LABEL_COLOURS))


def tint(colour: str, share: float) -> tuple:
    """The colour, the paler the smaller the share."""
    weight = 0.12 + 0.73 * share
    return tuple(1 - weight * (1 - part) for part in to_rgb(colour))


def short(label: str, length: int = 9) -> str:
    label = UNLABELLED.get(label, label)
    return label if len(label) <= length else label[: length - 1] + "…"


def points(share: float) -> str:
    """A change in whole percentage points, with its sign."""
    return f"{round(100 * share):+d}" if round(100 * share) else "0"


def node_name(graph: TextGraph, node: int) -> str:
    layer, index = graph.place(node)
    return "readout" if node == graph.size - 1 else f"{layer + 1}.{index + 1}"


def draw_labels(path: Path, family: str, graph: TextGraph, runs: dict[int, list[dict]]) -> Path:
    """What each node writes about, over training.

    Rows are nodes, columns evaluation steps; in the cell stand the commonest label and its share.
    """
    runs = dict(list(runs.items())[:MOST_PANELS])
    palette = label_palette(list(runs.values()))
    longest = min(max(map(len, runs.values())), MOST_COLUMNS)
    figure, axes = panels(len(runs), 3, (1.0 + 0.75 * max(longest, 3), 1.0 + 0.42 * graph.size))
    for axis, (seed, records) in zip(axes, runs.items()):
        chosen = sorted({round(x) for x in np.linspace(0, len(records) - 1, min(len(records), MOST_COLUMNS))})
        shown = [records[i] for i in chosen]
        for column, record in enumerate(shown):
            for node, (label, share) in enumerate(zip(record["nodes"]["label"], record["nodes"]["label_share"])):
                axis.add_patch(Rectangle((column, node), 1, 1, facecolor=tint(palette[label], share), edgecolor="white"))
                axis.text(column + 0.5, node + 0.4, short(label), ha="center", va="center", fontsize=9, parse_math=False)
                axis.text(column + 0.5, node + 0.77, f"{100 * share:.0f} %", ha="center", va="center",
                          fontsize=6, color="#333333")
        for layer in range(1, graph.rounds):
            axis.axhline(graph.nodes(layer).start, color="black", linewidth=1.0)
        axis.set(xlim=(0, len(shown)), ylim=(graph.size, 0),
                 xticks=np.arange(len(shown)) + 0.5, yticks=np.arange(graph.size) + 0.5)
        axis.set_xticklabels([str(record["step"]) for record in shown], fontsize=8)
        axis.set_yticklabels([node_name(graph, node) for node in range(graph.size)], fontsize=8)
        axis.set_title(f"seed {seed}", fontsize=9)
        axis.set_xlabel("training step", fontsize=8)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    figure.suptitle(f"{family}: label that each node writes (commonest on validation, and its share)", fontsize=10)
    return save(figure, path)


def positions(graph: TextGraph) -> list[tuple[float, float]]:
    """A column for each layer, left to right; nodes of a layer spread evenly."""
    tallest = max(layer.width for layer in graph.layers)
    places = []
    for number, layer in enumerate(graph.layers):
        gap = tallest / layer.width
        places += [(float(number), -(index + 0.5) * gap) for index in range(layer.width)]
    return places


def draw_graph(path: Path, family: str, graph: TextGraph, runs: dict[int, list[dict]]) -> Path:
    """The trained graph of the first seed.

    Per node its commonest label and share, entropy, and what accuracy loses when it is blanked.
    """
    seed, records = next(iter(runs.items()))
    nodes, step = records[-1]["nodes"], records[-1]["step"]
    palette, places = label_palette(list(runs.values())), positions(graph)
    tallest = max(layer.width for layer in graph.layers)
    across, up, radius = 2.2, 1.25, 0.3
    figure = Figure(figsize=(min(across * graph.rounds + 1.0, 24), min(up * tallest + 1.1, 24)), layout="constrained")
    axis = figure.subplots()
    places = [(across * x, up * y) for x, y in places]
    for number in range(1, graph.rounds):
        for reader, row in zip(graph.nodes(number), graph.edge_mask(number)):
            for sender, kept in zip(graph.senders(number), row):
                if kept:
                    weight = max(nodes["blanked_loss"][sender] or 0.0, 0.0)
                    skip = number - graph.place(sender)[0] - 1
                    axis.annotate("", places[reader], places[sender], zorder=1, arrowprops=dict(
                        arrowstyle="-", color="#555555", alpha=0.35 + 0.5 * min(weight, 1.0), linewidth=0.8 + 4 * weight,
                        connectionstyle=f"arc3,rad={0.25 * skip}", shrinkA=0, shrinkB=0))
    for node, (x, y) in enumerate(places):
        label, share, loss = nodes["label"][node], nodes["label_share"][node], nodes["blanked_loss"][node]
        axis.add_patch(Circle((x, y), radius, facecolor=tint(palette[label], share), edgecolor="black", linewidth=1.0, zorder=2))
        axis.text(x, y, short(label, 6), ha="center", va="center", fontsize=10, weight="bold", zorder=3, parse_math=False)
        lines = [f"{node_name(graph, node)}: {100 * share:.0f} %, {nodes['entropy'][node]:.2f} nats"]
        lines += [f"blanked: {points(-loss)} points"] if loss is not None else []
        axis.text(x, y - radius - 0.05, "\n".join(lines), ha="center", va="top", fontsize=7, zorder=4,
                  bbox=dict(facecolor="white", alpha=0.85, edgecolor="none", pad=0.6))
    for number, layer in enumerate(graph.layers):
        name = "readout" if number == graph.rounds - 1 else f"layer {number + 1}"
        axis.text(across * number, 0.12, f"{name}, {layer.message_tokens} tokens", ha="center", fontsize=8, color="#333333")
    xs, ys = zip(*places)
    axis.set(xlim=(min(xs) - 0.95, max(xs) + 0.95), ylim=(min(ys) - 0.85, 0.35), aspect="equal")
    axis.axis("off")
    figure.suptitle(f"{family}: {graph}, seed {seed}, step {step}", fontsize=10)
    return save(figure, path)
