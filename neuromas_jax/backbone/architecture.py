"""What decoders differ in, as data: sizes, and what one family of models has and another has not."""

import dataclasses
import functools

LINEAR_SITES = ("q", "k", "v", "o", "gate", "up", "down")
SAME_INPUT = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies stretched for longer contexts.

    Attributes:
      factor: by which low frequencies are divided.
      low, high: with both 0 ("linear") all frequencies are divided. Else ("llama3") those whose wavelength is longer than
        `original / low` are, those shorter than `original / high` are not, and between them the two are mixed (Llama 3.1).
      original: positions that the model was first trained on.
    """

    factor: float
    low: float = 0.0
    high: float = 0.0
    original: int = 0


@dataclasses.dataclass(frozen=True)
class Kind:
    """What decoder layers of one model may differ in: their sliding window (0 for none) and their rotary embedding."""

    window: int
    theta: float
    scaling: RopeScaling | None


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder, with the names of a Hugging Face `config.json`, and the choices of its family; the defaults are
    Qwen3's.

    Attributes:
      qk_norm: whether queries and keys are normed per head.
      biases: sites whose linear map has a bias.
      activation: of the gate, one of `decoder.ACTIVATIONS`.
      windows: per decoder layer how many positions back it looks, its own included; 0 for all. Empty: all look at all.
      window_theta: rotary base of layers with a window, where it is another one; those are not scaled.
      rope_scaling: of the other layers.
      norm_from_one: norms hold their distance from one and are applied in float32 (Gemma).
      post_norms: what attention and MLP give is normed too, before it is added (Gemma 3).
      embed_scale: what embeddings are multiplied by.
      query_scale: what scores are multiplied by; `head_dim ** -0.5` by default.
      max_position_embeddings: tokens that prompt and message may have together; None where the model names no limit. It changes
        nothing that is computed.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    tie_word_embeddings: bool = True
    model_type: str = "qwen3"
    dtype: str = "float32"
    qk_norm: bool = dataclasses.field(default=True, repr=False)
    biases: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    activation: str = dataclasses.field(default="silu", repr=False)
    windows: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    window_theta: float | None = dataclasses.field(default=None, repr=False)
    rope_scaling: RopeScaling | None = dataclasses.field(default=None, repr=False)
    norm_from_one: bool = dataclasses.field(default=False, repr=False)
    post_norms: bool = dataclasses.field(default=False, repr=False)
    embed_scale: float = dataclasses.field(default=1.0, repr=False)
    query_scale: float | None = dataclasses.field(default=None, repr=False)
    max_position_embeddings: int | None = dataclasses.field(default=None, repr=False)

    def __repr__(self) -> str:
        """Sizes, and the choices that are not Qwen3's. Checkpoints know a backbone by it: a new choice leaves old ones valid."""
        shown = [field for field in dataclasses.fields(self) if field.name != "max_position_embeddings" and (
            field.repr or getattr(self, field.name) != field.default)]
        return f"DecoderConfig({', '.join(f'{field.name}={getattr(self, field.name)!r}' for field in shown)})"

    def site_shape(self, site: str) -> tuple[int, int]:
        """(in, out) of a linear site, one of `LINEAR_SITES`."""
        width, queries = self.hidden_size, self.num_attention_heads * self.head_dim
        keys, inner = self.num_key_value_heads * self.head_dim, self.intermediate_size
        return {
            "q": (width, queries), "k": (width, keys), "v": (width, keys), "o": (queries, width),
            "gate": (width, inner), "up": (width, inner), "down": (inner, width),
        }[site]

    @functools.cached_property
    def vectors(self) -> dict[str, int]:
        """Norms and biases of a decoder layer with their lengths."""
        found = {"q_norm": self.head_dim, "k_norm": self.head_dim} if self.qk_norm else {}
        found |= dict.fromkeys(("attn_norm", "mlp_norm"), self.hidden_size)
        found |= dict.fromkeys(("attn_post_norm", "mlp_post_norm"), self.hidden_size) if self.post_norms else {}
        return found | {f"{site}_bias": self.site_shape(site)[1] for site in self.biases}

    @functools.cached_property
    def layer_kinds(self) -> tuple[int, ...]:
        """Per decoder layer the number of its kind in `kinds`."""
        return tuple(self.kinds.index(kind) for kind in self._kinds_of_layers)

    @functools.cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of layers that there are, in the order in which they appear."""
        return tuple(dict.fromkeys(self._kinds_of_layers))

    @property
    def _kinds_of_layers(self) -> list[Kind]:
        far = Kind(0, self.rope_theta, self.rope_scaling)
        return [
            Kind(window, self.window_theta, None) if window and self.window_theta else dataclasses.replace(far, window=window)
            for window in self.windows or (0,) * self.num_hidden_layers]

    def training_flops(self, read: int, written: int) -> float:
        """Floating point operations of sampling and one policy gradient step: linear maps and vocabulary head alone.

        Two per weight and token for the sampler, two for the learner's pass and two for its way back, since frozen weights need
        no gradient of their own. Attention, adapters and norms are left out: a few percent where messages are short.

        Args:
          read: prompt tokens; a block that a group shares counts once.
          written: message tokens, the only ones that meet the head.
        """
        linear = self.num_hidden_layers * sum(fan_in * fan_out for fan_in, fan_out in map(self.site_shape, LINEAR_SITES))
        return 6.0 * (linear * (read + written) + self.vocab_size * self.hidden_size * written)
