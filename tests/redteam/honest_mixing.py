"""Honest ways to mix tokens: attention of many kinds, recurrences by scan and by associative scan, convolutions."""

from redteam.honest_small import ATTENTION, BFLOAT16, model

_DELTA_RULE = """
    q, k, v = (x @ params[name] for name in "qkv")
    k = k * jax.lax.rsqrt(jnp.square(k).sum(-1, keepdims=True) + 1e-6)
    write = jax.nn.sigmoid(x @ params["write"])
    decay = jax.nn.sigmoid(x @ params["decay"] + 3.0)
"""
_DELTA_PARAMETERS = ATTENTION + "\nparams |= {'write': normal(D, 1), 'decay': normal(D, 1)}"


ATTENTIONS = [
    model(
        "rotary positions, normalized heads, shared keys",
        """
            def rotate(x_BxTxHxK):
                half = x_BxTxHxK.shape[-1] // 2
                angle = jnp.arange(length)[:, None, None] * 100.0 ** (-jnp.arange(half) / half)
                a, b = jnp.split(x_BxTxHxK * jax.lax.rsqrt(jnp.square(x_BxTxHxK).mean(-1, keepdims=True) + 1e-6), 2, -1)
                cos, sin = jnp.cos(angle), jnp.sin(angle)
                return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

            q = rotate((x @ params["q"]).reshape(*x.shape[:2], H, D // H))
            k, v = ((x @ params[name]).reshape(*x.shape[:2], 2, D // H) for name in ("k", "v"))
            x += jax.nn.dot_product_attention(q, rotate(k), v, is_causal=True).reshape(x.shape)
        """,
        'params |= {"q": normal(D, D), "k": normal(D, D // 2), "v": normal(D, D // 2)}',
    ),
    model(
        "latent keys and values",
        """
            latent = x @ params["down"]
            q, k, v = x @ params["q"], latent @ params["k"], latent @ params["v"]
            x += jax.nn.softmax(jnp.where(causal_TxT, q @ k.mT / D**0.5, -jnp.inf)) @ v
        """,
        'params |= {"q": normal(D, D), "down": normal(D, 4), "k": normal(4, D), "v": normal(4, D)}',
    ),
    model(
        "differential attention, scores capped",
        """
            def weights(name):
                scores = (x @ params["q"][name]) @ (x @ params["k"][name]).mT
                return jax.nn.softmax(jnp.where(causal_TxT, 20 * jnp.tanh(scores / 20), -1e30))

            x += (weights(0) - jax.nn.sigmoid(params["less"]) * weights(1)) @ (x @ params["v"])
        """,
        'params |= {"q": normal(2, D, D), "k": normal(2, D, D), "v": normal(D, D), "less": jnp.zeros(())}',
    ),
    model(
        "blocks of keys in a scan",
        """
            q, k, v = (x @ params[name] for name in "qkv")

            def attend(carry, start):
                best, total, mixed = carry
                k_BxSxD, v_BxSxD = (jax.lax.dynamic_slice_in_dim(array, start, 8, 1) for array in (k, v))
                seen = jnp.arange(length)[:, None] >= start + jnp.arange(8)
                scores = jnp.where(seen, q @ k_BxSxD.mT, -1e30)
                new_best = jnp.maximum(best, scores.max(-1, keepdims=True))
                weights, keep = jnp.exp(scores - new_best), jnp.exp(best - new_best)
                return (new_best, keep * total + weights.sum(-1, keepdims=True), keep * mixed + weights @ v_BxSxD), None

            begin = jnp.full_like(q[..., :1], -1e30), jnp.zeros_like(q[..., :1]), jnp.zeros_like(q)
            (_, total, mixed), _ = jax.lax.scan(jax.checkpoint(attend), begin, jnp.arange(0, length, 8))
            x += mixed / total
        """,
        ATTENTION,
    ),
    model(
        "the best blocks of the past",
        """
            q, k, v = (x @ params[name] for name in "qkv")
            block_T = jnp.arange(length) // 4
            means_BxNxD = k.reshape(len(k), -1, 4, D).mean(2)
            is_past = block_T[:, None] > jnp.arange(length // 4)
            _, best = jax.lax.top_k(jnp.where(is_past, q @ means_BxNxD.mT, -jnp.inf), 2)
            chosen = (best[..., None] == block_T).any(-2) | (block_T[:, None] == block_T)
            x += jax.nn.softmax(jnp.where(causal_TxT & chosen, q @ k.mT, -1e30)) @ v
        """,
        ATTENTION,
    ),
    model(
        "bfloat16 attention with a value residual",
        """
            first = x
            for layer in range(2):
                q, k, v = (x @ params[name][layer].astype(x.dtype) for name in "qkv")
                v += params["embed_v"].astype(x.dtype)[tokens]
                x += jax.nn.softmax(jnp.where(causal_TxT, q @ k.mT, -1e9)) @ v + 0.1 * first
        """,
        "params |= {name: normal(2, D, D) for name in 'qkv'} | {'embed_v': normal(V, D)}",
        *BFLOAT16,
    ),
]

RECURRENCES = [
    model(
        "gated delta rule by associative scan",
        _DELTA_RULE
        + """
    keep = decay[..., None] * (jnp.eye(D) - write[..., None] * k[..., :, None] * k[..., None, :])
    new = write[..., None] * k[..., :, None] * v[..., None, :]

    def combine(left, right):
        return right[0] @ left[0], right[0] @ left[1] + right[1]

    memory_BxTxDxD = jax.lax.associative_scan(combine, (keep, new), axis=1)[1]
    x += jnp.einsum("btd,btde->bte", q, memory_BxTxDxD)
""",
        _DELTA_PARAMETERS,
    ),
    model(
        "gated delta rule by scan",
        _DELTA_RULE
        + """
    def cell(memory_BxDxD, inputs):
        q_BxD, k_BxD, v_BxD, write_Bx1, decay_Bx1 = inputs
        memory_BxDxD *= decay_Bx1[..., None]
        error_BxD = v_BxD - jnp.einsum("bd,bde->be", k_BxD, memory_BxDxD)
        memory_BxDxD += (write_Bx1 * k_BxD)[..., None] * error_BxD[:, None]
        return memory_BxDxD, jnp.einsum("bd,bde->be", q_BxD, memory_BxDxD)

    inputs = jax.tree.map(lambda a: a.swapaxes(0, 1), (q, k, v, write, decay))
    x += jax.lax.scan(cell, jnp.zeros((len(x), D, D)), inputs)[1].swapaxes(0, 1)
""",
        _DELTA_PARAMETERS,
    ),
    model(
        "delta rule in chunks, by a triangular solve",
        _DELTA_RULE
        + """
    q, k, v, write = (a.reshape(len(a), -1, 8, a.shape[-1]).swapaxes(0, 1) for a in (q, k, v, write))
    strictly, eye = jnp.tri(8, k=-1), jnp.eye(8)

    def chunk(memory_BxDxD, inputs):
        q_BxCxD, k_BxCxD, v_BxCxD, write_BxCx1 = inputs
        within = eye + strictly * (write_BxCx1 * k_BxCxD @ k_BxCxD.mT)
        error = write_BxCx1 * (v_BxCxD - k_BxCxD @ memory_BxDxD)
        new = jax.scipy.linalg.solve_triangular(within, error, lower=True, unit_diagonal=True)
        out = q_BxCxD @ memory_BxDxD + jnp.tri(8) * (q_BxCxD @ k_BxCxD.mT) @ new
        return memory_BxDxD + k_BxCxD.mT @ new, out

    x += jax.lax.scan(chunk, jnp.zeros((len(x), D, D)), (q, k, v, write))[1].swapaxes(0, 1).reshape(x.shape)
""",
        _DELTA_PARAMETERS,
    ),
    model(
        "linear attention by scan",
        """
            q, k, v = (x @ params[name] for name in "qkv")
            q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1

            def cell(carry, inputs):
                q_BxD, k_BxD, v_BxD = inputs
                memory, total = carry[0] + k_BxD[..., None] * v_BxD[:, None], carry[1] + k_BxD
                read = jnp.einsum("bd,bde->be", q_BxD, memory) / (q_BxD * total).sum(-1, keepdims=True)
                return (memory, total), read

            begin = jnp.zeros((len(x), D, D)), jnp.zeros((len(x), D))
            x += jax.lax.scan(cell, begin, tuple(a.swapaxes(0, 1) for a in (q, k, v)))[1].swapaxes(0, 1)
        """,
        ATTENTION,
    ),
    model(
        "linear attention by cumulative sums in bfloat16",
        """
            q, k, v = (x @ params[name].astype(x.dtype) for name in "qkv")
            q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
            memory = jax.lax.associative_scan(jnp.add, k[..., None] * v[..., None, :], axis=1)
            total = (q * jnp.cumsum(k, 1)).sum(-1, keepdims=True)
            x += jnp.einsum("btd,btde->bte", q, memory) / total
        """,
        ATTENTION,
        *BFLOAT16,
    ),
    model(
        "selective state space after a convolution",
        """
            h = sum(jnp.pad(x, ((0, 0), (n, 0), (0, 0)))[:, :length] * params["kernel"][n] for n in range(4))
            h = jax.nn.silu(h)
            delta = jax.nn.softplus(h @ params["delta"] - 2.0)
            decay = jnp.exp(-delta[..., None] * jnp.exp(params["a"]))
            new = (delta * h)[..., None] * (h @ params["b"])[..., None, :]

            def combine(left, right):
                return left[0] * right[0], right[0] * left[1] + right[1]

            states_BxTxDxN = jax.lax.associative_scan(combine, (decay, new), axis=1)[1]
            x += jnp.einsum("btdn,btn->btd", states_BxTxDxN, h @ params["c"]) * jax.nn.silu(x @ params["gate"])
        """,
        """
            params |= {"kernel": normal(4, D), "delta": normal(D, D), "a": normal(D, 4), "b": normal(D, 4)}
            params |= {"c": normal(D, 4), "gate": normal(D, D)}
        """,
    ),
    model(
        "selective state space in bfloat16",
        """
            gate = jax.nn.sigmoid(x @ params["decay"].astype(x.dtype) + 2)
            combine = lambda left, right: (left[0] * right[0], right[0] * left[1] + right[1])
            x += jax.lax.associative_scan(combine, (gate, (1 - gate) * x), axis=1)[1]
        """,
        'params["decay"] = normal(D, D)',
        *BFLOAT16,
    ),
    model(
        "receptance, weighted keys and values, shifted tokens",
        """
            before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :length]
            mixed = x + params["mix"] * (before - x)
            r, k, v = (mixed @ params[name] for name in "rkv")
            decay = jnp.exp(params["decay"])

            def cell(carry, inputs):
                top, bottom, most = carry
                k_BxD, v_BxD = inputs
                largest = jnp.maximum(most, k_BxD + params["first"])
                old, new = jnp.exp(most - largest), jnp.exp(k_BxD + params["first"] - largest)
                out = (old * top + new * v_BxD) / (old * bottom + new)
                largest = jnp.maximum(most - decay, k_BxD)
                old, new = jnp.exp(most - decay - largest), jnp.exp(k_BxD - largest)
                return (old * top + new * v_BxD, old * bottom + new, largest), out

            zeros = jnp.zeros_like(x[:, 0])
            _, out = jax.lax.scan(cell, (zeros, zeros, zeros - 1e9), (k.swapaxes(0, 1), v.swapaxes(0, 1)))
            x += jax.nn.sigmoid(r) * out.swapaxes(0, 1)
        """,
        """
            params |= {name: normal(D, D) for name in "rkv"}
            params |= {"mix": normal(D), "decay": normal(D), "first": normal(D)}
        """,
    ),
    model(
        "complex diagonal recurrence",
        """
            size = jnp.exp(-jnp.exp(params["size"]))
            turn = jax.lax.complex(size * jnp.cos(params["turn"]), size * jnp.sin(params["turn"]))
            turn = jnp.broadcast_to(turn, x.shape)
            combine = lambda left, right: (left[0] * right[0], right[0] * left[1] + right[1])
            x += jax.lax.associative_scan(combine, (turn, x.astype(jnp.complex64)), axis=1)[1].real @ params["mix"]
        """,
        'params |= {"size": normal(D), "turn": normal(D), "mix": normal(D, D)}',
    ),
    model(
        "gates in logarithms",
        """
            z = x @ params["z"]
            log_keep = jnp.cumsum(-jax.nn.softplus(z), 1)
            log_new = -jax.nn.softplus(-z) + jax.nn.log_sigmoid(x @ params["h"])
            x += jnp.exp(log_keep + jax.lax.cumlogsumexp(log_new - log_keep, axis=1))
        """,
        'params |= {"z": normal(D, D), "h": normal(D, D)}',
    ),
    model(
        "a memory trained while it reads",
        """
            q, k, v = (x @ params[name] for name in "qkv")

            def error(memory_DxD, k_D, v_D):
                return jnp.square(jnp.tanh(k_D @ memory_DxD) - v_D).sum()

            def cell(memory_DxD, inputs):
                q_D, k_D, v_D = inputs
                memory_DxD -= 0.1 * jax.grad(error)(memory_DxD, k_D, v_D)
                return memory_DxD, jnp.tanh(q_D @ memory_DxD)

            x += jax.vmap(lambda *rows: jax.lax.scan(cell, params["memory"], rows)[1])(q, k, v)
        """,
        ATTENTION + "\nparams['memory'] = normal(D, D)",
    ),
]

CONVOLUTIONS = [
    model(
        "depthwise convolution in front",
        """
            x += jax.lax.conv_general_dilated(
                x, params["kernel"], (1,), [(3, 0)], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=D
            )
        """,
        'params["kernel"] = normal(4, 1, D)',
    ),
    model(
        "a convolution as long as the context, by FFT",
        """
            kernel = params["size"] * jnp.exp(-jax.nn.softplus(params["decay"]) * jnp.arange(length)[:, None])
            spectrum = jnp.fft.rfft(x, 2 * length, axis=1) * jnp.fft.rfft(kernel, 2 * length, axis=0)
            x += jnp.fft.irfft(spectrum, 2 * length, axis=1)[:, :length] * jax.nn.silu(x @ params["gate"])
        """,
        'params |= {"size": normal(D), "decay": normal(D), "gate": normal(D, D)}',
    ),
]

VARIANTS = {"attention": ATTENTIONS, "recurrence": RECURRENCES, "convolution": CONVOLUTIONS}
