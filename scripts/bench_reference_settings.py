"""What train_lib.py's constants say, for the models that its step is compared with. Loads neither JAX nor PyTorch."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# Polar Express (arXiv 2505.16932), written down once more: the references share no text with train_lib.py.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
RMS_EPSILON = 2.0**-23  # float32's epsilon


@dataclasses.dataclass(frozen=True)
class Settings:
    """A model, its batch and its optimizer; each field but the first is train_lib.py's constant of that name."""

    sequence_length: int
    depth: int
    aspect_ratio: int
    head_dim: int
    vocab_size: int
    window_pattern: str
    value_gate_channels: int
    rotary_base: float
    softcap: float
    batch_size: int
    reference_width: int
    embedding_lr: float
    unembedding_lr: float
    scalar_lr: float
    matrix_lr: float
    warmup_fraction: float
    cooldown_fraction: float
    final_lr_fraction: float
    adam_beta1: float
    adam_beta2: float
    x0_beta1: float
    adam_epsilon: float
    adam_weight_decay: float
    weight_decay: float
    muon_momentum: float
    muon_momentum_start: float
    muon_ramp_fraction: float
    muon_beta2: float
    muon_iterations: int

    @property
    def width(self) -> int:
        """D, in whole heads."""
        return math.ceil(self.depth * self.aspect_ratio / self.head_dim) * self.head_dim

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    def window(self, layer: int) -> int | None:
        """How many tokens back a layer attends, None where that is all of them."""
        kind = self.window_pattern[layer % len(self.window_pattern)]
        return self.sequence_length // 2 if kind == "S" and layer < self.depth - 1 else None

    def has_value_embedding(self, layer: int) -> bool:
        return (self.depth - 1 - layer) % 2 == 0

    def adam_groups(self) -> dict[str, tuple[float, float]]:
        """Learning rate and first beta of what AdamW trains, by the beginning of the parameter's name."""
        by_width = math.sqrt(self.reference_width / self.width)
        return {
            "token_embedding": (self.embedding_lr * by_width, self.adam_beta1),
            "value_embeddings": (self.embedding_lr * by_width, self.adam_beta1),
            "unembedding": (self.unembedding_lr * by_width, self.adam_beta1),
            "residual_scales": (self.scalar_lr * 0.01, self.adam_beta1),
            "x0_scales": (self.scalar_lr, self.x0_beta1),
        }

    def learning_rate_scale(self, progress: float) -> float:
        """What every learning rate is multiplied by."""
        warmup = min(progress / self.warmup_fraction, 1.0) if self.warmup_fraction else 1.0
        cooldown = min((1 - progress) / self.cooldown_fraction, 1.0) if self.cooldown_fraction else 1.0
        return warmup * (self.final_lr_fraction + (1 - self.final_lr_fraction) * cooldown)

    def momentum(self, progress: float) -> float:
        """Muon's decay of the mean of gradients."""
        ramp = min(progress / self.muon_ramp_fraction, 1.0) if self.muon_ramp_fraction else 1.0
        return self.muon_momentum_start + (self.muon_momentum - self.muon_momentum_start) * ramp


def read_settings(constants: Mapping[str, Any], sequence_length: int) -> Settings:
    """Settings from the values of train_lib.py's constants.

    Raises:
      KeyError: one is missing.
      ValueError: the references do not know what they ask for.
    """
    if constants["GRADIENT_ACCUMULATION"] != 1:
        raise ValueError("GRADIENT_ACCUMULATION is not 1: the references take a batch as a whole")
    if (constants["BIGRAM_BITS"], constants["KEY_SHIFT"], constants["VALUE_EMBEDDING_EVERY"]) != (0, 0, 2):
        raise ValueError("the references have no bigrams, no shifted keys and value embeddings on every second layer")
    names = [field.name for field in dataclasses.fields(Settings) if field.name != "sequence_length"]
    return Settings(sequence_length, **{name: constants[name.upper()] for name in names})


def group_by_shape(shapes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """Names of the matrices of each shape, which Muon stacks and updates at once."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, shape in shapes.items():
        groups.setdefault(shape, []).append(name)
    return list(groups.values())
