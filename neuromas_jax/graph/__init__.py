"""Graphs of language-model nodes."""

from neuromas_jax.graph.textgraph import Layer, TextGraph, graph_of, node_slots, text_graph

__all__ = ["Layer", "TextGraph", "graph_of", "node_slots", "text_graph"]
