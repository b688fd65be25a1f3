"""A dataclass from a mapping: unknown keys are named with the nearest allowed one, wrong types with the form that is wanted.

`config.parse` reads configs with it. Values are checked against the fields' annotations; a list will do for a tuple.
"""

import ast
from collections.abc import Mapping
import contextlib
import dataclasses
import difflib
import math
import types
import typing
from typing import Any

ELSEWHERE = {  # fields that the package sets itself, and the key that decides them
    "optimizer.learning_rate": "config.learning_rate, such as dict(default=2e-3, graph=4e-3)",
    "prompt.tokens_per_fact": "families.<name>.tokens_per_fact",
    "objective.floor_nodes": "growth itself: the floor is for new nodes, and for all that are read where nothing is carried",
}
EXAMPLES = {
    "families": "dict(listops=dict())", "learning_rate": "dict(default=2e-3)",
    "graph.reads": "((), (0,), (0, 1))", "graph.edges": "(None, ((True, True), (True, False)))",
}


def section(kind, values: Mapping, where: str):
    """A dataclass from a mapping. Raises ValueError naming an unknown key, the allowed ones and the nearest, or a wrong type."""
    prefix = f"{where}." if where else ""
    fields = {field.name: field for field in dataclasses.fields(kind) if prefix + field.name not in ELSEWHERE}
    if not isinstance(values, Mapping):
        raise ValueError(f"config.{where} is {values!r}; give a dict with keys among {', '.join(fields)}")
    for key, value in values.items():
        place = f"{prefix}{key}"
        if place in ELSEWHERE:
            raise ValueError(f"config key {place!r} is {value!r} and would not be used; set {ELSEWHERE[place]} instead")
        if key not in fields:
            raise ValueError(f"unknown config key {place!r}; allowed here are {', '.join(fields)}{nearest(key, fields)}")
    return kind(**{key: value_of(value, fields[key].type, prefix + key) for key, value in values.items()})


def nearest(name, allowed) -> str:
    near = difflib.get_close_matches(str(name), allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def value_of(value, hint, place: str):
    """The value as its annotation says, lists turned to tuples. Raises ValueError with the key, the value and the form."""
    if dataclasses.is_dataclass(hint):
        return section(hint, value, place)
    entries = typing.get_args(hint)[:1] if typing.get_origin(hint) is tuple else ()
    if entries and dataclasses.is_dataclass(entries[0]) and isinstance(value, (list, tuple)):
        return tuple(section(entries[0], entry, f"{place}.{number}") for number, entry in enumerate(value))
    if typing.get_origin(hint) is dict and isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ValueError(f"config key {place!r} has the key {wrong[0]!r}; it must be a text, such as {str(wrong[0])!r}")
        return {key: value_of(entry, typing.get_args(hint)[1], f"{place}.{key}") for key, entry in value.items()}
    value = _without_lists(value)
    if isinstance(value, str) and value.startswith("("):  # a flag of a key that may be a text or a tuple comes as text
        with contextlib.suppress(ValueError, SyntaxError):
            written = _without_lists(ast.literal_eval(value))
            value = written if _fits(written, hint) else value
    if not _fits(value, hint):
        # A lone entry where several may stand is the likeliest slip.
        alone = typing.get_origin(hint) is tuple and _fits(value, typing.get_args(hint)[0])
        example = repr((value,)) if alone else EXAMPLES.get(place)
        such_as = f", such as {example}" if example else ""
        raise ValueError(f"config key {place!r} is {value!r}; it must be {_form(hint)}{such_as}")
    return value


def _without_lists(value):
    return tuple(map(_without_lists, value)) if isinstance(value, (list, tuple)) else value


def _fits(value, hint) -> bool:
    """Whether a value is of an annotated type: numbers, texts, None, tuples and unions of them; `Any` is any of these."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _fits(value, bool | float | str | None) or isinstance(value, tuple) and all(_fits(entry, Any) for entry in value)
    if kind is types.UnionType:
        return any(_fits(value, one) for one in inner)
    if kind is tuple:
        return isinstance(value, tuple) and all(_fits(entry, inner[0]) for entry in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
    return kind is None and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _form(hint, many: bool = False) -> str:
    """An annotated type in words."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is types.UnionType:
        return " or ".join(_form(one, many) for one in inner)
    if kind is tuple:
        return f"{'tuples' if many else 'a tuple'} of {_form(inner[0], True)}"
    if kind is dict:
        return f"a dict from names to {_form(inner[1], True)}"
    one, several = {
        int: ("a whole number", "whole numbers"), float: ("a finite number", "finite numbers"), str: ("a text", "texts"),
        bool: ("True or False",) * 2, types.NoneType: ("None",) * 2,
        Any: ("a number, a text, None, or a tuple of these", "numbers, texts, None, or tuples of these"),
    }.get(hint, ("a dict", "dicts"))
    return several if many else one
