"""Decoders shared by all nodes, and their Hugging Face folders. A name is imported when it is first used."""

import importlib

_PLACES = {
    "Backbone": "decoder", "Decoder": "decoder", "DecoderConfig": "architecture", "KV": "decoder", "init_backbone": "decoder",
    "check_vocabulary": "huggingface", "load_backbone": "huggingface", "load_config": "huggingface",
    "save_backbone": "huggingface",
}
__all__ = list(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}, it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__():
    return __all__
