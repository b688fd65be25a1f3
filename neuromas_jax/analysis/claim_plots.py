"""Plots for the claims: accuracy against samples, tokens, rounds, parameters and shapes of graphs, and signals of health.

Bands, bars and numbers after ± are Student's 95 % intervals over runs.
"""

from collections.abc import Sequence
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


def budgets(path: Path, family: str, found: Sequence, methods: Sequence[str]) -> list[str]:
    """Draws what has been trained against samples and against tokens, beside `path`; the lines that show both pictures.

    Args:
      path: start of the pictures' names.
      family: of questions.
      found: `Outcome`s whose runs count together.
      methods: those that are not trained are left out.
    """
    lines = []
    for against, words in (("samples", "episodes, parents' included"), ("tokens", "message tokens written in training")):
        curves = {method: [cell.curve(outcome.config, against) for outcome in found
                           for cell in outcome.trained(family, method).values()] for method in methods}
        curves = {method: runs for method, runs in curves.items() if runs}
        if curves:
            picture = draw_budget(path.with_name(f"{path.name}_{against}.png"),
                                  f"{family}: validation accuracy, mean and 95 %", curves, words)
            lines += [f"![accuracy against {against}]({picture.name})", ""]
    return lines


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


def draw_rounds(path: Path, title: str, points: list[tuple[str, int, list[float]]]) -> Path:
    """Accuracy against calls that must wait for each other: mean and interval of a method's runs, beside each other where
    several methods have as many rounds."""
    figure, (axis,) = panels(1, 1, (8.6, 4.4))
    alike = {rounds: [method for method, other, _ in points if other == rounds] for _, rounds, _ in points}
    for method, rounds, shares in points:
        place = rounds + 0.09 * (alike[rounds].index(method) - (len(alike[rounds]) - 1) / 2)
        _bar(axis, place, shares, "o", color=COLOURS.get(method, REST), markersize=6, label=method)
    _percent_axis(axis, title)
    axis.set_xlabel("sequential rounds")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return save(figure, path)


def _bar(axis, x: float, shares: Sequence[float], form: str, **options) -> None:
    mean, low, high = (100 * value for value in mean_interval(shares))
    axis.errorbar([x], [mean], yerr=[[mean - low], [high - mean]], fmt=form, elinewidth=1, capsize=2, **options)


def draw_parameters(path: Path, title: str, curves: dict[str, list[tuple[int, list[float]]]]) -> Path:
    """Accuracy against trainable parameters, a line per method through the means of its runs."""
    figure, (axis,) = panels(1, 1, (7.6, 4.0))
    for number, (method, points) in enumerate(curves.items()):
        colour, aside = COLOURS.get(method, REST), 1.05 ** (number - (len(curves) - 1) / 2)
        xs, runs = zip(*sorted(points))
        axis.plot([x * aside for x in xs], [100 * np.mean(shares) for shares in runs], "-", color=colour, label=method)
        for x, shares in zip(xs, runs):
            _bar(axis, x * aside, shares, "o", color=colour, markersize=5)
    _percent_axis(axis, title)
    axis.set(xlabel="trainable parameters", xscale="log")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return save(figure, path)


def draw_grid(path: Path, title: str, graphs: list[str], sets: list[str], shares: list[list[list[float]]]) -> Path:
    """Accuracy as a table of colours: a row per graph, a column per depth, in each the accuracies of its runs."""
    figure, (axis,) = panels(1, 1, (2.6 + 1.25 * len(sets), 1.0 + 0.42 * len(graphs)))
    values = np.asarray([[100 * np.mean(runs) if runs else np.nan for runs in row] for row in shares])
    axis.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    for row, column in np.ndindex(values.shape):
        if not np.isnan(values[row, column]):
            mean, low, _ = (100 * value for value in mean_interval(shares[row][column]))
            axis.text(column, row, f"{mean:.0f} ± {mean - low:.0f}", ha="center", va="center", fontsize=8,
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
