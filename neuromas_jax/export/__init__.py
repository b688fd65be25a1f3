"""Trained graphs out, to plain `transformers` + `peft`."""

from neuromas_jax.export.graph import export_graph

__all__ = ["export_graph"]
