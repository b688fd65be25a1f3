"""The lineage of a grown graph: records that travel in its checkpoint, and how they print.

One record per growth, oldest first:

    graph, parent_graph   as written, "4-2-1"
    parent                the checkpoint that it grew from
    edits                 what was done to the graph, as text
    growth                the rules, see `rl.growth.Growth`
    anew                  whether all slots started anew, as a control
    before, after         accuracy of the parent, and of the grown graph before its first step of training, on `questions`
                          validation questions of the family
    samples               episodes spent so far by all ancestors, imitation included
"""


def lineage_tree(lineage: list, samples: int | None = None, accuracy: float | None = None) -> str:
    """A lineage as lines of text.

    >>> print(lineage_tree(checkpoint.describe(folder, step)["lineage"]))
    2-1  from stage0_2-1/step_000030
    └─ 4-2-1  Deepen; new zero_b, place front; after 7,680 samples; accuracy 22.7 % before, 23.4 % right after
    """
    if not lineage:
        return "grown from nothing"
    lines = [f"{lineage[0]['parent_graph']}  from {lineage[0]['parent']}"]
    for depth, one in enumerate(lineage):
        kinds = ", ".join(edit.split("(")[0] for edit in one["edits"]) or "no edit"
        plain = (0, 1, "carried")  # rules that change nothing
        rules = ", ".join(f"{name} {value}" for name, value in one["growth"].items() if value not in plain)
        rule = "all slots anew" if one["anew"] else rules
        lines.append(f"{'   ' * depth}└─ {one['graph']}  {kinds}; {rule}; after {one['samples']:,} samples; accuracy "
                     f"{100 * one['before']:.1f} % before, {100 * one['after']:.1f} % right after")
    if samples is not None:
        now = "" if accuracy is None else f", accuracy {100 * accuracy:.1f} %"
        lines.append(f"{'   ' * len(lineage)}   now {samples:,} samples{now}")
    return "\n".join(lines)
