"""Graphs of language-model nodes."""

from neuromas_jax.graph.textgraph import Layer, TextGraph, node_slots, text_graph

__all__ = ["Layer", "TextGraph", "node_slots", "text_graph"]
