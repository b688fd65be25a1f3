"""Families of models: how `config.json` of each reads and writes, and what its tensors are called.

A family is an entry of `FAMILIES`. What it has and another has not ends up in `DecoderConfig`; nothing else asks which it is.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from neuromas_jax.backbone.architecture import LINEAR_SITES, DecoderConfig, RopeScaling

EMBED, FINAL_NORM, LM_HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
SLIDING, FULL = "sliding_attention", "full_attention"
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "head_dim")


@dataclasses.dataclass(frozen=True)
class Family:
    """What models of one kind have in common. Values of absent fields are those of the kind's class in `transformers`.

    Attributes:
      architecture: name of that class.
      biases: sites that always have a bias.
      bias_options: fields of `config.json` that switch biases on, and the sites of each.
      qk_norm: whether queries and keys are normed per head.
      gemma: norms stored as distances from one, norms behind attention and MLP, scaled embeddings, tanh GELU, and layers with a
        window that have a rotary base of their own.
      window: what says which layers have a window: "switch" (`use_sliding_window` and `max_window_layers`), "all" (every layer
        as soon as `sliding_window` is a number), "pattern" (all but every n-th layer), or "none".
      head_dim: where the file does not name it; None for `hidden_size / num_attention_heads`.
      theta: rotary base where the file names none; None where it must.
      tied: whether the head is the embedding, where the file does not say.
    """

    architecture: str
    biases: tuple[str, ...] = ()
    bias_options: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    qk_norm: bool = False
    gemma: bool = False
    window: str = "none"
    head_dim: int | None = None
    theta: float | None = None
    tied: bool = False


FAMILIES: dict[str, Family] = {
    "qwen2": Family("Qwen2ForCausalLM", biases=("q", "k", "v"), window="switch"),
    "qwen3": Family("Qwen3ForCausalLM", bias_options={"attention_bias": ATTENTION}, qk_norm=True, window="switch", head_dim=128),
    "llama": Family("LlamaForCausalLM", bias_options={"attention_bias": ATTENTION, "mlp_bias": MLP}, theta=1e4),
    "mistral": Family("MistralForCausalLM", window="all", theta=1e4),
    "gemma3_text": Family("Gemma3ForCausalLM", bias_options={"attention_bias": ATTENTION}, qk_norm=True, gemma=True,
                          window="pattern", head_dim=256, theta=1e6, tied=True),
}


def family_of(model_type: Any, where: Any) -> Family:
    """Raises ValueError, naming `where`, for a model of another family."""
    if model_type == "gemma3":
        raise ValueError(f"{where}: model_type is 'gemma3', a model that also reads images; its text part is 'gemma3_text'. "
                         "Choose a text model such as google/gemma-3-1b-it, or export the text part with transformers.")
    if model_type not in FAMILIES:
        raise ValueError(f"{where}: model_type is {model_type!r}, must be one of {', '.join(FAMILIES)}. Choose a model of such a "
                         "family, for example Qwen/Qwen3-0.6B, or the embedded backbone.")
    return FAMILIES[model_type]


def read_fields(fields: Mapping[str, Any], where: str) -> DecoderConfig:
    """The fields of a `config.json` as a float32 decoder.

    Raises:
      ValueError: a family that is not supported, a field that is missing or makes no sense, or an option that the decoder does
        not have.
    """
    family = family_of(fields.get("model_type"), where)
    sizes = {name: _whole(fields, name, where) for name in SIZES[:-2]}
    heads = sizes["num_attention_heads"]
    sizes["num_key_value_heads"] = _whole(fields, "num_key_value_heads", where, default=heads)
    if heads % sizes["num_key_value_heads"]:
        raise ValueError(f"{where}: num_attention_heads is {heads}, must be a multiple of num_key_value_heads "
                         f"({sizes['num_key_value_heads']}). Correct the file.")
    sizes["head_dim"] = _whole(fields, "head_dim", where, default=family.head_dim or sizes["hidden_size"] // heads)
    if sizes["head_dim"] % 2:
        raise ValueError(f"{where}: head_dim is {sizes['head_dim']}, must be even: rotary embedding turns pairs. "
                         "Correct the file.")
    activation = "gelu_pytorch_tanh" if family.gemma else "silu"
    name = "hidden_activation" if family.gemma and "hidden_activation" in fields else "hidden_act"
    for name, allowed in ((name, activation), ("attn_logit_softcapping", None), ("final_logit_softcapping", None),
                          ("use_bidirectional_attention", False)):
        if (fields.get(name) or allowed) != allowed:
            raise ValueError(f"{where}: {name} is {fields[name]!r}, this decoder only has {allowed!r}. "
                             "Choose a model without it.")
    extra = {}
    if family.gemma:
        extra = dict(norm_from_one=True, post_norms=True, embed_scale=sizes["hidden_size"] ** 0.5,
                     query_scale=float(_whole(fields, "query_pre_attn_scalar", where, default=256)) ** -0.5)
    if fields.get("max_position_embeddings") is not None:
        extra["max_position_embeddings"] = _whole(fields, "max_position_embeddings", where)
    switched = [site for option, sites in family.bias_options.items() if fields.get(option) for site in sites]
    return DecoderConfig(
        **sizes, **extra, **_rotary(family, fields, where), rms_norm_eps=float(fields.get("rms_norm_eps", 1e-6)),
        tie_word_embeddings=bool(fields.get("tie_word_embeddings", family.tied)), model_type=fields["model_type"],
        qk_norm=family.qk_norm, biases=(*family.biases, *switched), activation=activation,
        windows=_windows(family, fields, sizes["num_hidden_layers"], where))


def write_fields(config: DecoderConfig) -> dict[str, Any]:
    """What `read_fields` reads, as a `config.json` that `transformers` of versions 4 and 5 read."""
    family = family_of(config.model_type, "backbone")
    fields: dict[str, Any] = {name: getattr(config, name) for name in SIZES}
    fields |= {"architectures": [family.architecture], "model_type": config.model_type, "rms_norm_eps": config.rms_norm_eps,
               "tie_word_embeddings": config.tie_word_embeddings, "dtype": config.dtype,
               "hidden_activation" if family.gemma else "hidden_act": config.activation}
    fields |= {option: set(sites) <= set(config.biases) for option, sites in family.bias_options.items()}
    if config.max_position_embeddings:
        fields["max_position_embeddings"] = config.max_position_embeddings
    fields["rope_theta"] = config.rope_theta  # version 4; version 5 reads rope_parameters
    far = {"rope_type": "default", "rope_theta": config.rope_theta, **_written(config.rope_scaling)}
    fields["rope_parameters"] = far
    if config.rope_scaling:
        fields["rope_scaling"] = {"rope_type": "default", **_written(config.rope_scaling)}
    if family.gemma:
        near = config.window_theta or config.rope_theta
        fields["rope_parameters"] = {FULL: far, SLIDING: {"rope_type": "default", "rope_theta": near}}
        fields |= {"rope_local_base_freq": near, "query_pre_attn_scalar": round(config.query_scale**-2)}
    widest = max(config.windows, default=0)
    if family.window == "switch":
        fields["use_sliding_window"] = widest > 0
    if family.window in ("all", "pattern") or widest:
        fields["sliding_window"] = widest or (4096 if family.window == "pattern" else None)
    if family.window in ("switch", "pattern") and (widest or family.window == "pattern"):
        windows = config.windows or (0,) * config.num_hidden_layers
        fields["layer_types"] = [SLIDING if window else FULL for window in windows]
    return fields


def tensor_names(config: DecoderConfig) -> dict[str, str]:
    """Parameter of a decoder layer -> its tensor's name, with `{}` for the number of the layer."""
    places = {site: f"{'self_attn' if site in ATTENTION else 'mlp'}.{site}_proj" for site in LINEAR_SITES}
    places |= {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm", "attn_norm": "input_layernorm",
               "mlp_norm": "post_attention_layernorm"}
    if config.post_norms:
        places |= {"attn_post_norm": "post_attention_layernorm", "mlp_norm": "pre_feedforward_layernorm",
                   "mlp_post_norm": "post_feedforward_layernorm"}
    names = {name: f"model.layers.{{}}.{places[name]}.weight" for name in (*LINEAR_SITES, *config.vectors) if name in places}
    return names | {f"{site}_bias": f"model.layers.{{}}.{places[site]}.bias" for site in config.biases}


def _windows(family: Family, fields: Mapping[str, Any], depth: int, where: str) -> tuple[int, ...]:
    """The window of each decoder layer, 0 for none; empty where no layer has one."""
    kinds = fields.get("layer_types") if family.window in ("switch", "pattern") else None
    odd = [kind for kind in kinds or () if kind not in (SLIDING, FULL)]
    if odd or (kinds and len(kinds) != depth):
        raise ValueError(f"{where}: layer_types holds {repr(odd[0]) if odd else f'{len(kinds)} entries'}, must be {depth} of "
                         f"{FULL} and {SLIDING}. Choose a model without other layers, or correct the file.")
    if family.window == "switch":
        if not fields.get("use_sliding_window"):
            if SLIDING in (kinds or ()):
                raise ValueError(f"{where}: layer_types holds {SLIDING!r} and use_sliding_window is off. Correct the file.")
            return ()
        first = _whole(fields, "max_window_layers", where, default=28, least=0)
        kinds = kinds or [SLIDING if number >= first else FULL for number in range(depth)]
    elif family.window == "pattern":
        every = _whole(fields, "sliding_window_pattern", where, default=6)
        kinds = kinds or [SLIDING if (number + 1) % every else FULL for number in range(depth)]
    elif family.window == "all":
        kinds = [SLIDING if fields.get("sliding_window", 4096) else FULL] * depth
    if SLIDING not in (kinds or ()):
        return ()
    width = _whole(fields, "sliding_window", where, default=4096)
    return tuple(width if kind == SLIDING else 0 for kind in kinds)


def _rotary(family: Family, fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Bases and scaling, from `rope_parameters` (transformers 5) or `rope_theta`, `rope_scaling` and their kin (4)."""
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    found, near = {}, {}
    if family.gemma:
        nested = fields.get("rope_parameters") or {}
        rope, near = nested.get(FULL) or fields.get("rope_scaling") or {}, nested.get(SLIDING) or {}
        if near.get("rope_type", "default") != "default":
            raise ValueError(f"{where}: rope_type of {SLIDING} is {near['rope_type']!r}, this decoder only has 'default' there. "
                             "Choose a model without it.")
        found["window_theta"] = _base(near.get("rope_theta", fields.get("rope_local_base_freq", 1e4)), where)
    kind = rope.get("rope_type", rope.get("type", "default"))
    names = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
    if kind not in names:
        raise ValueError(f"{where}: rope_type is {kind!r}, this decoder has {', '.join(map(repr, names))}. "
                         "Choose a model without such positions.")
    numbers = []
    for name in names[kind]:
        value = rope.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ValueError(f"{where}: {name} of the {kind} positions is {value!r}, must be a number above 0. Correct the file.")
        numbers.append(float(value))
    if kind == "llama3":
        original = rope.get("original_max_position_embeddings", fields.get("max_position_embeddings"))
        numbers.append(_whole({"original_max_position_embeddings": original}, "original_max_position_embeddings", where))
    theta = rope.get("rope_theta", fields.get("rope_theta", family.theta))
    return found | {"rope_theta": _base(theta, where), "rope_scaling": RopeScaling(*numbers) if numbers else None}


def _written(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {}
    if not scaling.high:
        return {"rope_type": "linear", "factor": scaling.factor}
    return {"rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low, "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.original}


def _base(theta: Any, where: str) -> float:
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or theta <= 1:
        raise ValueError(f"{where}: rope_theta is {theta!r}, must be a number above 1 (Qwen3 has 1000000). Add it to the file.")
    return float(theta)


def _whole(fields: Mapping[str, Any], name: str, where: str, default: int | None = None, least: int = 1) -> int:
    value = fields.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where}: {name} is {value!r}, must be a whole number of {least} or more. "
                         "Correct the file, or copy it again.")
    return value
