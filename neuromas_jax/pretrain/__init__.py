"""Trains the embedded backbone: tokenizer, documents, loop.

    python -m neuromas_jax.pretrain --config=configs/embedded_backbone.py
"""
