"""Plots for the claims: accuracy against samples, tokens, rounds, parameters and shapes of graphs, and signals of health."""

from pathlib import Path

from matplotlib.ticker import FuncFormatter
import numpy as np

from neuromas_jax.analysis.paired import mean_interval
from neuromas_jax.analysis.plots import COLOURS, REST, panels, plain, save

GRID_POINTS = 60


def _percent_axis(axis, title: str) -> None:
    axis.set(ylabel="accuracy, %", ylim=(-3, 103), title=title)
    axis.grid(alpha=0.25)
    plain(axis)


def draw_budget(path: Path, title: str, curves: dict[str, list[tuple[np.ndarray, np.ndarray]]], xlabel: str) -> Path:
    """Mean of a method's runs and its interval over runs, against what was spent; between evaluations in straight lines."""
    figure, (axis,) = panels(1, 1, (8.6, 4.2))
    for method, runs in curves.items():
        first, last = max(xs[0] for xs, _ in runs), min(xs[-1] for xs, _ in runs)
        grid = np.linspace(first, last, GRID_POINTS)
        values = 100 * np.stack([np.interp(grid, xs, ys) for xs, ys in runs])
        bands = np.asarray([mean_interval(column) for column in values.T])
        colour = COLOURS.get(method, REST)
        axis.plot(grid, bands[:, 0], color=colour, linewidth=2, label=f"{method} ({len(runs)})")
        axis.fill_between(grid, bands[:, 1], bands[:, 2], color=colour, alpha=0.15, linewidth=0)
    _percent_axis(axis, title)
    axis.set_xlabel(xlabel)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x else "0"))
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, title="(runs)", title_fontsize=8)
    return save(figure, path)


def draw_rounds(path: Path, title: str, points: list[tuple[str, int, float]]) -> Path:
    """Accuracy against calls that must wait for each other."""
    figure, (axis,) = panels(1, 1, (7.6, 4.0))
    for method, rounds, accuracy in points:
        axis.plot(rounds, 100 * accuracy, "o", color=COLOURS.get(method, REST), markersize=7, label=method)
    _percent_axis(axis, title)
    axis.set_xlabel("sequential rounds")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return save(figure, path)


def draw_parameters(path: Path, title: str, curves: dict[str, list[tuple[int, float]]]) -> Path:
    """Accuracy against trainable parameters, a line per method."""
    figure, (axis,) = panels(1, 1, (7.6, 4.0))
    for method, points in curves.items():
        xs, ys = zip(*sorted(points))
        axis.plot(xs, [100 * y for y in ys], "o-", color=COLOURS.get(method, REST), label=method)
    _percent_axis(axis, title)
    axis.set(xlabel="trainable parameters", xscale="log")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return save(figure, path)


def draw_grid(path: Path, title: str, graphs: list[str], sets: list[str], shares: list[list[float]]) -> Path:
    """Accuracy as a table of colours: a row per graph, a column per depth."""
    figure, (axis,) = panels(1, 1, (2.6 + 1.1 * len(sets), 1.0 + 0.42 * len(graphs)))
    values = 100 * np.asarray(shares, float)
    axis.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    for row, column in np.ndindex(values.shape):
        if not np.isnan(values[row, column]):
            axis.text(column, row, f"{values[row, column]:.0f}", ha="center", va="center", fontsize=9,
                      color="black" if values[row, column] > 55 else "white")
    axis.set(xticks=range(len(sets)), yticks=range(len(graphs)), title=title)
    axis.set_xticklabels(sets, fontsize=8)
    axis.set_yticklabels(graphs, fontsize=8)
    axis.title.set_fontsize(9)
    axis.tick_params(length=0)
    return save(figure, path)


def draw_health(path: Path, title: str, runs: list[tuple[list[int], list[dict], float]], names: tuple[str, ...]) -> Path:
    """Each signal over training, a line per run, the darker the better the run ended."""
    figure, axes = panels(len(names), 4, (3.4, 2.8))
    best = max(max(end for _, _, end in runs), 1e-9)
    for axis, name in zip(axes, names):
        for steps, records, end in sorted(runs, key=lambda run: run[2]):
            share = end / best
            axis.plot(steps, [record[name] for record in records], linewidth=0.8,
                      color=(0.85 * (1 - share), 0.85 * (1 - share) + 0.2 * share, 0.85 * (1 - share) + 0.45 * share))
        axis.set(xlabel="training step", title=name)
        axis.title.set_fontsize(9)
        plain(axis)
    figure.suptitle(f"{title}: dark runs end well", fontsize=10)
    return save(figure, path)
