"""The model, the optimizer and the step of train_lib.py in PyTorch, for bench_step.py to compare with.

Written as one would for speed in PyTorch: fused norms and cross-entropy, AdamW fused, Muon on stacked matrices, fused
attention on a GPU. With `compiled`, torch.compile has the model and Muon. It was tuned on a CPU and never on a GPU:
a window's mask keeps flash attention out there, and no CUDA graphs are made. Shapes in names as in train_lib.py.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from bench_reference_settings import POLAR_EXPRESS, RMS_EPSILON, Settings, group_by_shape
from torch import Tensor, nn


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=RMS_EPSILON)


def rotate(x_BxTxHxK: Tensor, cos_TxK: Tensor, sin_TxK: Tensor) -> Tensor:
    """Rotary embeddings, by the halves of a head."""
    left, right = x_BxTxHxK.chunk(2, dim=-1)
    cos, sin = cos_TxK[:, None, :], sin_TxK[:, None, :]
    return torch.cat([left * cos + right * sin, right * cos - left * sin], dim=-1)


def attend(q_BxTxHxK: Tensor, k_BxTxHxK: Tensor, v_BxTxHxK: Tensor, mask_TxT: Tensor | None) -> Tensor:
    """Causal attention; a mask says where it has a window.

    On a CPU it is written out: at these sizes that takes two fifths of the time of scaled_dot_product_attention in
    bfloat16, forward and backward, and as long in float32.
    """
    q_BxHxTxK, k_BxHxTxK, v_BxHxTxK = (x.transpose(1, 2) for x in (q_BxTxHxK, k_BxTxHxK, v_BxTxHxK))
    if q_BxHxTxK.is_cuda:
        is_causal = mask_TxT is None
        mixed = F.scaled_dot_product_attention(q_BxHxTxK, k_BxHxTxK, v_BxHxTxK, attn_mask=mask_TxT, is_causal=is_causal)
        return mixed.transpose(1, 2)
    if mask_TxT is None:
        length = q_BxHxTxK.shape[2]
        mask_TxT = torch.ones(length, length, dtype=torch.bool).tril()
    bias_TxT = torch.zeros(mask_TxT.shape).masked_fill(~mask_TxT, float("-inf"))
    scores_BxHxTxT = (q_BxHxTxK * q_BxHxTxK.shape[-1] ** -0.5) @ k_BxHxTxK.mT
    weights_BxHxTxT = torch.softmax(scores_BxHxTxT.float() + bias_TxT, dim=-1).to(v_BxHxTxK.dtype)
    return (weights_BxHxTxT @ v_BxHxTxK).transpose(1, 2)


class Linear(nn.Linear):
    """A float32 matrix without bias, multiplied in the type of what comes in."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    def __init__(self, settings: Settings, layer: int) -> None:
        super().__init__()
        width = settings.width
        self.head_dim, self.gate_channels = settings.head_dim, settings.value_gate_channels
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.out = Linear(width, width)
        if settings.has_value_embedding(layer):
            self.value_gate = Linear(self.gate_channels, settings.heads)

    def forward(
        self, x_BxTxD: Tensor, value_embedding_BxTxD: Tensor | None, rotary: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        heads = (*x_BxTxD.shape[:2], -1, self.head_dim)
        q_BxTxHxK = self.query(x_BxTxD).view(heads)
        k_BxTxHxK = self.key(x_BxTxD).view(heads)
        v_BxTxHxK = self.value(x_BxTxD).view(heads)
        if value_embedding_BxTxD is not None:
            gate_BxTxH = 2 * torch.sigmoid(self.value_gate(x_BxTxD[..., : self.gate_channels]))
            v_BxTxHxK = v_BxTxHxK + gate_BxTxH[..., None] * value_embedding_BxTxD.view(heads)
        q_BxTxHxK, k_BxTxHxK = rms_norm(rotate(q_BxTxHxK, *rotary)), rms_norm(rotate(k_BxTxHxK, *rotary))
        mixed_BxTxHxK = attend(q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, mask)
        return self.out(mixed_BxTxHxK.reshape(x_BxTxD.shape))


class Block(nn.Module):
    def __init__(self, settings: Settings, layer: int) -> None:
        super().__init__()
        self.attention = Attention(settings, layer)
        self.mlp = nn.ModuleDict(
            {"up": Linear(settings.width, 4 * settings.width), "down": Linear(4 * settings.width, settings.width)}
        )

    def forward(
        self, x_BxTxD: Tensor, value_embedding_BxTxD: Tensor | None, rotary: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        x_BxTxD = x_BxTxD + self.attention(rms_norm(x_BxTxD), value_embedding_BxTxD, rotary, mask)
        return x_BxTxD + self.mlp["down"](F.relu(self.mlp["up"](rms_norm(x_BxTxD))).square())


class Model(nn.Module):
    """Tokens and targets to the mean loss in nats; its parameters are named as train_lib.py's are."""

    def __init__(self, settings: Settings, dtype: torch.dtype) -> None:
        super().__init__()
        self.settings, self.dtype = settings, dtype
        width, length = settings.width, settings.sequence_length
        self.token_embedding = nn.Embedding(settings.vocab_size, width)
        self.value_embeddings = nn.ModuleDict(
            {
                str(layer): nn.Embedding(settings.vocab_size, width)
                for layer in range(settings.depth)
                if settings.has_value_embedding(layer)
            }
        )
        self.blocks = nn.ModuleList(Block(settings, layer) for layer in range(settings.depth))
        self.residual_scales = nn.Parameter(torch.ones(settings.depth))
        self.x0_scales = nn.Parameter(torch.ones(settings.depth))
        self.unembedding = Linear(width, settings.vocab_size)

        position_T = torch.arange(length)
        half = torch.arange(0, settings.head_dim, 2) / settings.head_dim
        angle_TxK = position_T[:, None] * settings.rotary_base**-half
        self.register_buffer("cos_TxK", angle_TxK.cos().to(dtype))
        self.register_buffer("sin_TxK", angle_TxK.sin().to(dtype))
        back_TxT = position_T[:, None] - position_T[None, :]
        windows = {settings.window(layer) for layer in range(settings.depth)} - {None}
        for window in windows:
            self.register_buffer(f"mask_{window}", (back_TxT >= 0) & (back_TxT <= window))

    def forward(self, tokens_BxT: Tensor, targets_BxT: Tensor) -> Tensor:
        rotary = (self.cos_TxK, self.sin_TxK)
        residual_scales_L, x0_scales_L = self.residual_scales.to(self.dtype), self.x0_scales.to(self.dtype)
        x0_BxTxD = x_BxTxD = rms_norm(self.token_embedding(tokens_BxT)).to(self.dtype)
        for layer, block in enumerate(self.blocks):
            value_embedding = None
            if self.settings.has_value_embedding(layer):
                value_embedding = self.value_embeddings[str(layer)](tokens_BxT).to(self.dtype)
            window = self.settings.window(layer)
            mask = None if window is None else getattr(self, f"mask_{window}")
            x_BxTxD = residual_scales_L[layer] * x_BxTxD + x0_scales_L[layer] * x0_BxTxD
            x_BxTxD = block(x_BxTxD, value_embedding, rotary, mask)
        logits_BxTxV = self.unembedding(rms_norm(x_BxTxD)).float()
        logits_BxTxV = self.settings.softcap * torch.tanh(logits_BxTxV / self.settings.softcap)
        return F.cross_entropy(logits_BxTxV.flatten(0, 1), targets_BxT.flatten())


class Muon:
    """Muon of the matrices of one shape, with NorMuon's variance and cautious decay."""

    def __init__(self, parameters: Sequence[nn.Parameter], settings: Settings, dtype: torch.dtype) -> None:
        self.parameters, self.settings, self.dtype = list(parameters), settings, dtype
        outputs, inputs = self.parameters[0].shape
        device = self.parameters[0].device
        self.axis = 2 if outputs >= inputs else 1  # mean squares are taken along it
        count = len(self.parameters)
        self.momentum = torch.zeros(count, outputs, inputs, device=device)
        shape = (count, outputs, 1) if outputs >= inputs else (count, 1, inputs)
        self.variance = torch.zeros(shape, device=device)
        self.lr_scale = settings.matrix_lr * math.sqrt(max(1, outputs / inputs))

    def update(self, beta: Tensor, learning_rate: Tensor, weight_decay: Tensor) -> None:
        """One update; the arguments are 0-d tensors, so that a compiled one is made for all their values."""
        g_NxOxI = torch.stack([parameter.grad for parameter in self.parameters])
        self.momentum.lerp_(g_NxOxI, 1 - beta)
        update = self._orthogonalize(torch.lerp(g_NxOxI, self.momentum, beta))

        mean_square = update.square().mean(dim=self.axis, keepdim=True)
        self.variance.lerp_(mean_square, 1 - self.settings.muon_beta2)
        scale = self.variance.clamp_min(1e-10).rsqrt()
        size = mean_square.sum(dim=(1, 2), keepdim=True).sqrt()
        scaled_size = (mean_square * scale.square()).sum(dim=(1, 2), keepdim=True).sqrt()
        update = update * (scale * size / scaled_size.clamp_min(1e-10))

        w_NxOxI = torch.stack(self.parameters)
        decay = weight_decay * w_NxOxI * (update * w_NxOxI >= 0)
        w_NxOxI = w_NxOxI - self.lr_scale * learning_rate * (update + decay)
        torch._foreach_copy_(self.parameters, w_NxOxI.unbind())

    def _orthogonalize(self, g_NxOxI: Tensor) -> Tensor:
        transpose = g_NxOxI.shape[1] > g_NxOxI.shape[2]
        x = (g_NxOxI.mT if transpose else g_NxOxI).to(self.dtype)
        x = x / (1.02 * x.float().norm(dim=(1, 2), keepdim=True).to(x.dtype) + 1e-6)
        for a, b, c in POLAR_EXPRESS[: self.settings.muon_iterations]:
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return (x.mT if transpose else x).float()


class Trainer:
    """A model with its optimizers, to be stepped."""

    def __init__(
        self,
        settings: Settings,
        parameters: Mapping[str, np.ndarray],
        *,
        dtype: torch.dtype,
        compiled: bool,
        device: str = "cpu",
    ) -> None:
        """Begins from train_lib.py's parameters, by their names there: "blocks/0/mlp/up/weight"."""
        self.settings, self.device = settings, device
        self.model = Model(settings, dtype).to(device)
        state = {_name(name): torch.tensor(value) for name, value in parameters.items()}
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        if unexpected or any(name in dict(self.model.named_parameters()) for name in missing):
            raise ValueError(f"train_lib.py has other parameters: {missing} missing, {unexpected} unexpected")

        named = dict(self.model.named_parameters())
        groups = [
            {
                "params": [p for n, p in named.items() if n.startswith(group)],
                "lr": lr,
                "betas": (beta1, settings.adam_beta2),
            }
            for group, (lr, beta1) in settings.adam_groups().items()
        ]
        self.adam = torch.optim.AdamW(
            groups, eps=settings.adam_epsilon, weight_decay=settings.adam_weight_decay, fused=True
        )
        self.learning_rates = [group["lr"] for group in groups]
        shapes = {n: tuple(p.shape) for n, p in named.items() if n.startswith("blocks")}
        self.muons = [Muon([named[n] for n in names], settings, dtype) for names in group_by_shape(shapes)]
        self.loss = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.update_matrices = (
            torch.compile(self._update_matrices, dynamic=False) if compiled else self._update_matrices
        )

    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters as they are, by train_lib.py's names."""
        return {_name(name, back=True): p.detach().cpu().numpy() for name, p in self.model.named_parameters()}

    def step(self, tokens_BxT1: Tensor, progress: float) -> Tensor:
        """One update from int64[B, T + 1]; the loss before it, in nats per token."""
        loss = self.loss(tokens_BxT1[:, :-1], tokens_BxT1[:, 1:])
        loss.backward()
        scale = self.settings.learning_rate_scale(progress)
        for group, learning_rate in zip(self.adam.param_groups, self.learning_rates, strict=True):
            group["lr"] = learning_rate * scale
        self.adam.step()
        with torch.no_grad():
            self.update_matrices(
                torch.tensor(self.settings.momentum(progress), device=self.device),
                torch.tensor(scale, device=self.device),
                torch.tensor(self.settings.weight_decay * (1 - progress), device=self.device),
            )
        self.model.zero_grad(set_to_none=True)
        return loss.detach()

    def _update_matrices(self, beta: Tensor, learning_rate: Tensor, weight_decay: Tensor) -> None:
        for muon in self.muons:
            muon.update(beta, learning_rate, weight_decay)


def _name(name: str, *, back: bool = False) -> str:
    """A parameter's name here from that in train_lib.py, or `back`."""
    if not back:
        return name.replace("/embedding", "/weight").replace("/", ".")
    is_embedding = "embedding" in name.split(".")[0] and not name.startswith("unembedding")
    return name.replace(".weight", ".embedding" if is_embedding else ".weight").replace(".", "/")
