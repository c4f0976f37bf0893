"""The model, the optimizer and the step of train_lib.py as a plain JAX port, for bench_step.py to compare with.

No tricks: matrices lie as (inputs, outputs) and are multiplied by `x @ w`, the loss is optax's, attention is written
out, the step is jitted and its state donated. Shapes in names as in train_lib.py.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench_reference_settings import POLAR_EXPRESS, RMS_EPSILON, Settings, group_by_shape
from jax import Array

Parameters = dict[str, Array]


def rms_norm(x: Array) -> Array:
    x_f32 = x.astype(jnp.float32)
    return (x_f32 * jax.lax.rsqrt(jnp.mean(x_f32**2, axis=-1, keepdims=True) + RMS_EPSILON)).astype(x.dtype)


def rotate(x_BxTxHxK: Array, base: float) -> Array:
    """Rotary embeddings, by the halves of a head."""
    _, length, _, head_dim = x_BxTxHxK.shape
    angle_TxK = jnp.arange(length)[:, None] * base ** (-jnp.arange(0, head_dim, 2) / head_dim)
    cos = jnp.cos(angle_TxK)[:, None, :].astype(x_BxTxHxK.dtype)
    sin = jnp.sin(angle_TxK)[:, None, :].astype(x_BxTxHxK.dtype)
    left, right = jnp.split(x_BxTxHxK, 2, axis=-1)
    return jnp.concatenate([left * cos + right * sin, right * cos - left * sin], axis=-1)


def attend(q_BxTxHxK: Array, k_BxTxHxK: Array, v_BxTxHxK: Array, window: int | None) -> Array:
    """Causal attention to a token itself and the `window` tokens before it, or all of them."""
    length, head_dim = q_BxTxHxK.shape[1], q_BxTxHxK.shape[3]
    scores_BxHxTxS = jnp.einsum("bthk,bshk->bhts", q_BxTxHxK, k_BxTxHxK).astype(jnp.float32) / math.sqrt(head_dim)
    back_TxS = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    mask_TxS = (back_TxS >= 0) & (back_TxS <= (length if window is None else window))
    weights_BxHxTxS = jax.nn.softmax(jnp.where(mask_TxS, scores_BxHxTxS, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", weights_BxHxTxS.astype(v_BxTxHxK.dtype), v_BxTxHxK)


def loss_of(settings: Settings, dtype: Any, parameters: Parameters, tokens_BxT1: Array) -> Array:
    """Mean loss in nats."""

    def linear(x: Array, name: str) -> Array:
        return x @ parameters[f"{name}/weight"].astype(dtype)

    tokens_BxT, targets_BxT = tokens_BxT1[:, :-1], tokens_BxT1[:, 1:]
    heads = (*tokens_BxT.shape, -1, settings.head_dim)
    residual_scales_L = parameters["residual_scales"].astype(dtype)
    x0_scales_L = parameters["x0_scales"].astype(dtype)
    x0 = x = rms_norm(parameters["token_embedding/embedding"][tokens_BxT]).astype(dtype)
    for layer in range(settings.depth):
        block = f"blocks/{layer}"
        x = residual_scales_L[layer] * x + x0_scales_L[layer] * x0
        normed = rms_norm(x)
        q = linear(normed, f"{block}/attention/query").reshape(heads)
        k = linear(normed, f"{block}/attention/key").reshape(heads)
        v = linear(normed, f"{block}/attention/value").reshape(heads)
        if settings.has_value_embedding(layer):
            gate = linear(normed[..., : settings.value_gate_channels], f"{block}/attention/value_gate")
            embedded = parameters[f"value_embeddings/{layer}/embedding"][tokens_BxT].astype(dtype).reshape(heads)
            v = v + 2 * jax.nn.sigmoid(gate)[..., None] * embedded
        q, k = rms_norm(rotate(q, settings.rotary_base)), rms_norm(rotate(k, settings.rotary_base))
        mixed = attend(q, k, v, settings.window(layer)).reshape(x.shape)
        x = x + linear(mixed, f"{block}/attention/out")
        x = x + linear(jax.nn.relu(linear(rms_norm(x), f"{block}/mlp/up")) ** 2, f"{block}/mlp/down")
    logits_BxTxV = linear(rms_norm(x), "unembedding").astype(jnp.float32)
    logits_BxTxV = settings.softcap * jnp.tanh(logits_BxTxV / settings.softcap)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, targets_BxT).mean()


def orthogonalize(x: Array, iterations: int, dtype: Any) -> Array:
    """Polar Express of matrices [..., I, O]."""
    transpose = x.shape[-2] > x.shape[-1]
    x = (x.mT if transpose else x).astype(dtype)
    x = x / (1.02 * jnp.linalg.norm(x.astype(jnp.float32), axis=(1, 2), keepdims=True).astype(dtype) + 1e-6)
    for a, b, c in POLAR_EXPRESS[:iterations]:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if transpose else x).astype(jnp.float32)


class Trainer:
    """The parameters and the optimizer's state as flat dicts by train_lib.py's names, and the jitted step."""

    def __init__(self, settings: Settings, parameters: Mapping[str, np.ndarray], *, dtype: Any) -> None:
        """Begins from train_lib.py's parameters, by their names there: "blocks/0/mlp/up/weight"."""
        self.settings, self.dtype = settings, dtype
        params = {name: jnp.array(_transposed(name, value)) for name, value in parameters.items()}
        shapes = {name: value.shape for name, value in params.items() if name.startswith("blocks")}
        self.groups = group_by_shape(shapes)
        muon = []
        for names in self.groups:
            inputs, outputs = shapes[names[0]]
            rows = (1, outputs) if outputs >= inputs else (inputs, 1)
            muon.append((jnp.zeros((len(names), inputs, outputs)), jnp.zeros((len(names), *rows))))
        adam = {group: self._adam(group).init(_starting(params, group)) for group in settings.adam_groups()}
        self.state = {"params": params, "muon": muon, "adam": adam}
        self.jitted = jax.jit(self._step, donate_argnums=0)

    def compile(self, tokens_BxT1: Array) -> None:
        """Compiles the step for tokens of this shape."""
        self.jitted = self.jitted.lower(self.state, tokens_BxT1, jnp.float32(0)).compile()

    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters as they are, laid out as train_lib.py has them."""
        return {name: _transposed(name, np.asarray(value)) for name, value in self.state["params"].items()}

    def step(self, tokens_BxT1: Array, progress: float) -> Array:
        """One update from int32[B, T + 1]; the loss before it, in nats per token."""
        self.state, loss = self.jitted(self.state, tokens_BxT1, jnp.float32(progress))
        return loss

    def _adam(self, group: str) -> optax.GradientTransformation:
        settings = self.settings
        beta1 = settings.adam_groups()[group][1]
        return optax.chain(
            optax.scale_by_adam(beta1, settings.adam_beta2, settings.adam_epsilon),
            optax.add_decayed_weights(settings.adam_weight_decay),
        )

    def _step(self, state: dict[str, Any], tokens_BxT1: Array, progress: Array) -> tuple[dict[str, Any], Array]:
        settings, params = self.settings, state["params"]
        loss, grads = jax.value_and_grad(lambda p: loss_of(settings, self.dtype, p, tokens_BxT1))(params)
        scale = _learning_rate_scale(settings, progress)
        new, adam, muon = dict(params), {}, []
        for group, (learning_rate, _) in settings.adam_groups().items():
            mine = _starting(params, group)
            updates, adam[group] = self._adam(group).update(_starting(grads, group), state["adam"][group], mine)
            new |= optax.apply_updates(mine, jax.tree.map(lambda u, lr=learning_rate: -lr * scale * u, updates))
        for names, (momentum, variance) in zip(self.groups, state["muon"], strict=True):
            w = jnp.stack([params[name] for name in names])
            g = jnp.stack([grads[name] for name in names])
            w, momentum, variance = self._muon(w, g, momentum, variance, progress, scale)
            muon.append((momentum, variance))
            new |= dict(zip(names, w, strict=True))
        return {"params": new, "muon": muon, "adam": adam}, loss

    def _muon(
        self, w_NxIxO: Array, g_NxIxO: Array, momentum: Array, variance: Array, progress: Array, scale: Array
    ) -> tuple[Array, Array, Array]:
        settings = self.settings
        _, inputs, outputs = w_NxIxO.shape
        ramp = jnp.minimum(progress / settings.muon_ramp_fraction, 1.0) if settings.muon_ramp_fraction else 1.0
        beta = settings.muon_momentum_start + (settings.muon_momentum - settings.muon_momentum_start) * ramp
        momentum = beta * momentum + (1 - beta) * g_NxIxO
        update = orthogonalize(beta * momentum + (1 - beta) * g_NxIxO, settings.muon_iterations, self.dtype)
        mean_square = jnp.mean(update**2, axis=1 if outputs >= inputs else 2, keepdims=True)
        variance = settings.muon_beta2 * variance + (1 - settings.muon_beta2) * mean_square
        inverse = jax.lax.rsqrt(jnp.maximum(variance, 1e-10))
        size = jnp.sqrt(jnp.sum(mean_square, axis=(1, 2), keepdims=True))
        scaled_size = jnp.sqrt(jnp.sum(mean_square * inverse**2, axis=(1, 2), keepdims=True))
        update = update * inverse * size / jnp.maximum(scaled_size, 1e-10)
        decay = settings.weight_decay * (1 - progress) * w_NxIxO * (update * w_NxIxO >= 0)
        learning_rate = settings.matrix_lr * scale * math.sqrt(max(1, outputs / inputs))
        return w_NxIxO - learning_rate * (update + decay), momentum, variance


def _learning_rate_scale(settings: Settings, progress: Array) -> Array:
    warmup = jnp.minimum(progress / settings.warmup_fraction, 1.0) if settings.warmup_fraction else 1.0
    cooldown = jnp.minimum((1 - progress) / settings.cooldown_fraction, 1.0) if settings.cooldown_fraction else 1.0
    return warmup * (settings.final_lr_fraction + (1 - settings.final_lr_fraction) * cooldown)


def _starting(tree: Parameters, group: str) -> Parameters:
    return {name: value for name, value in tree.items() if name.startswith(group)}


def _transposed(name: str, value: np.ndarray) -> np.ndarray:
    """A matrix the other way round: (outputs, inputs) in train_lib.py, (inputs, outputs) here; tables stay."""
    return value.T if name.endswith("/weight") else value
