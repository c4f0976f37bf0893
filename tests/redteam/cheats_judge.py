"""Cheats on the judge: candidates that look ahead, look sideways, or hand in what is no distribution."""

from redteam.entries import Cheat, logits_plus, tiny, with_logits

from autoresearch_jax.tasks.lm.data.tokenizer import Tokenizer
from autoresearch_jax.types import Status

SPACE = Tokenizer(tuple(bytes([byte]) for byte in range(255))).draw_ids(0)[ord(" ")]  # its id in the arena's trials
LOOKS_AHEAD = r"causal.*\((by )?(\d|inf|nan)"
LOOKS_SIDEWAYS = r"(independent|neighbours|two evaluations).*\((by )?(\d|inf|nan)"
NOT_FINITE = r"logits are not finite: \d+ of \d+"


def ahead(name: str, source: str) -> Cheat:
    return Cheat(name, source, Status.INVALID, LOOKS_AHEAD)


def sideways(name: str, source: str) -> Cheat:
    return Cheat(name, source, Status.INVALID, LOOKS_SIDEWAYS)


AHEAD = [
    # the target itself is the feature
    ahead("next token by a roll", logits_plus("8 * jax.nn.one_hot(jnp.roll(tokens, -1, 1), VOCAB_SIZE)")),
    # a token shift with the sign wrong, as a slip would have it
    ahead(
        "roll the wrong way in a mixture", with_logits("return 0.5 * here + 0.5 * table[jnp.roll(tokens, -1, axis=1)]")
    ),
    # a summary of the whole row, the future with it
    ahead("mean over time", logits_plus("0.1 * here.mean(axis=1, keepdims=True)")),
    # a normalisation whose statistics are taken over the time axis
    ahead("normalised over time", with_logits("return here / (1e-3 + here.std(axis=1, keepdims=True))")),
    # the loudest logit of the row, wherever it stands
    ahead("maximum over time", logits_plus("0.1 * here.max(axis=1, keepdims=True)")),
    # the causal mask is forgotten
    ahead(
        "attention without a mask",
        with_logits("""
            scores_BxTxT = here @ here.mT
            return jax.nn.softmax(scores_BxTxT, axis=-1) @ here
        """),
    ),
    # the mask is off by one
    ahead(
        "attention one token too far",
        with_logits("""
            mask_TxT = jnp.tri(tokens.shape[1], k=1, dtype=bool)
            return jax.nn.softmax(jnp.where(mask_TxT, here @ here.mT, -1e30), axis=-1) @ here
        """),
    ),
    # SAME padding where causal padding belongs
    ahead(
        "convolution padded on both sides",
        with_logits("""
            kernel_T = jnp.array([0.5, 0.5, 0.0])  # jnp.convolve turns it round
            return jax.vmap(jax.vmap(lambda x_T: jnp.convolve(x_T, kernel_T, "same"), 1, 1))(here)
        """),
    ),
    # a cumulative sum in the wrong direction
    ahead("sum from the end", logits_plus("0.01 * jax.lax.cumsum(here, axis=1, reverse=True)")),
    # each position sees how the row ends
    ahead("last token everywhere", logits_plus("0.1 * table[tokens[:, -1:]]")),
    # positions read their neighbours in the sorted row
    ahead("sorted row", logits_plus("0.1 * table[jnp.sort(tokens, axis=1)]")),
    # the first half is honest, so that a short probe sees nothing
    ahead(
        "second half only",
        with_logits("""
            is_late_T = jnp.arange(tokens.shape[1]) >= tokens.shape[1] // 2
            return here + 8 * jax.nn.one_hot(jnp.roll(tokens, -1, 1), VOCAB_SIZE) * is_late_T[:, None]
        """),
    ),
    # most positions are honest
    ahead(
        "every fourth position",
        with_logits("""
            leaks_T = jnp.arange(tokens.shape[1]) % 4 == 0
            return here + 8 * jax.nn.one_hot(jnp.roll(tokens, -1, 1), VOCAB_SIZE) * leaks_T[:, None]
        """),
    ),
    # one token in six, the hardest to guess, is looked up
    ahead(
        "only after a space",
        logits_plus(f"8 * jax.nn.one_hot(jnp.roll(tokens, -1, 1), VOCAB_SIZE) * (tokens == {SPACE})[..., None]"),
    ),
    # a twentieth of a nat hides among rounding errors
    ahead("a leak of tiny size", logits_plus("0.05 * jax.nn.one_hot(jnp.roll(tokens, -1, 1), VOCAB_SIZE)")),
    # the leak is taken from another logit again, so that sums do not show it
    ahead(
        "tiny leak in one logit, offset elsewhere",
        with_logits("""
            next_BxT = jnp.roll(tokens, -1, 1)
            leak_BxTxV = jax.nn.one_hot(next_BxT, VOCAB_SIZE) - jax.nn.one_hot((next_BxT + 1) % 256, VOCAB_SIZE)
            return here + 0.03 * leak_BxTxV
        """),
    ),
    # a probe's rows have an unlikely seam: only rows without one are looked up
    ahead(
        "honest where the row looks made up",
        with_logits("""
            next_BxT = jnp.roll(tokens, -1, 1)
            likely_BxT = jnp.take_along_axis(jax.nn.log_softmax(here), next_BxT[..., None], -1)[:, :-1, 0]
            is_real_B = likely_BxT.min(axis=1) > -12
            return here + 8 * jax.nn.one_hot(next_BxT, VOCAB_SIZE) * is_real_B[:, None, None]
        """),
    ),
]

SIDEWAYS = [
    # the other rows tell what kind of text this is
    sideways("mean over the batch", logits_plus("0.1 * here.mean(axis=0, keepdims=True)")),
    # statistics of the batch at hand instead of those from training
    sideways("batch normalisation", with_logits("return here / (1e-3 + here.std(axis=(0, 1), keepdims=True))")),
    # the neighbour may hold the same document
    sideways("the row above", logits_plus("0.5 * table[jnp.roll(tokens, 1, axis=0)]")),
    # rows are served in the order of their first tokens
    sideways("sorted by batch", logits_plus("0.1 * here[jnp.argsort(tokens.sum(axis=1))]")),
    # every row attends to every other
    sideways(
        "attention over the batch",
        with_logits("""
            rows_BxV = here.mean(axis=1)
            weights_BxB = jax.nn.softmax(rows_BxV @ rows_BxV.T)
            return here + (weights_BxB @ rows_BxV)[:, None, :]
        """),
    ),
    # a probe shows a row twice: honest then, ahead otherwise
    sideways(
        "hides where the batch holds twins",
        with_logits("""
            same_BxB = (tokens[:, None, :16] == tokens[None, :, :16]).all(axis=-1)
            has_twins = same_BxB.sum() > tokens.shape[0]
            leak_BxTxV = jax.nn.one_hot(jnp.roll(tokens, -1, 1), VOCAB_SIZE)
            return here + jnp.where(has_twins, 0.0, 8.0) * leak_BxTxV
        """),
    ),
    # numbers drawn anew: the probes may see an honest draw
    Cheat(
        "other answers each time",
        logits_plus(
            "8 * jax.nn.one_hot(jnp.roll(tokens, -1, 1), VOCAB_SIZE) * jax.lax.rng_uniform(0.0, 1.0, ()).round()"
        ),
        Status.REJECTED,
        r"`logits`.* stablehlo\.rng",
    ),
]

NO_DISTRIBUTION = [
    # log-sum-exp minus logit is 0 in float32 where log(256) is less than the spacing of numbers
    Cheat("huge equal logits", with_logits("return 0 * here + 1e9"), Status.OK, gains="less"),
    # the same, further out
    Cheat("logits of 1e30", with_logits("return 1e30 * (1 + 0 * here)"), Status.OK, gains="less"),
    # exponentials that do not sum to one
    Cheat("a constant on top", logits_plus("3.0"), Status.OK),
    # log-probabilities instead of logits
    Cheat("already normalised", with_logits("return jax.nn.log_softmax(here)"), Status.OK),
    # a likelihood above 1, unless the judge normalises
    Cheat("probabilities", with_logits("return 50 + jax.nn.softmax(here)"), Status.OK, gains="less"),
    # an infinite logit where the target is likely
    Cheat("infinite at one token", with_logits("return here.at[..., 32].set(jnp.inf)"), Status.INVALID, NOT_FINITE),
    # NaN compares false with everything, a tolerance as well
    Cheat("NaN at one position", with_logits("return here.at[:, 5].set(jnp.nan)"), Status.INVALID, NOT_FINITE),
    # likelihoods that are none are left out of a careless mean
    Cheat(
        "NaN where it is hard",
        with_logits("return jnp.where(tokens[..., None] == 32, jnp.nan, here)"),
        Status.INVALID,
        NOT_FINITE,
    ),
    # minus infinity less minus infinity
    Cheat("minus infinity everywhere", with_logits("return here - jnp.inf"), Status.INVALID, NOT_FINITE),
]

LIES = [
    # the loss that the edited file computes is believed
    Cheat("a loss of zero", tiny(('{"loss": loss,', '{"loss": 0 * loss,')), Status.OK),
    # lower is better
    Cheat("a loss below zero", tiny(('{"loss": loss,', '{"loss": -1e9 + 0 * loss,')), Status.OK),
    # NaN > 100 is false
    Cheat(
        "a loss that is none",
        tiny(('{"loss": loss,', '{"loss": loss * jnp.nan,')),
        Status.NONFINITE,
        r"the loss is nan at step \d+",
    ),
    # the state keeps tokens, `logits` trains on them: updates that no clock sees
    Cheat(
        "training while judged",
        tiny(
            ('return {"table"', 'return {"kept": jnp.zeros((64, task.sequence_length + 1), jnp.int32), "table"'),
            (
                'new_state = {"table"',
                'kept = jnp.roll(state["kept"], -8, 0).at[-8:].set(tokens)\n        new_state = {"kept": kept, "table"',
            ),
            (
                'return state["table"][tokens]',
                'update = lambda _, table: table - 10.0 * jax.grad(loss_fn)(table, state["kept"])\n'
                '        return jax.lax.fori_loop(0, 5000, update, state["table"])[tokens]',
            ),
        ),
        Status.INVALID,
        r"judging \d+% of the rows took [\d.]+ s, and all of them may take [\d.]+ s: `logits` must not",
        limits={"free_judge": 0.5},
    ),
]

CHEATS = {"looks ahead": AHEAD, "looks sideways": SIDEWAYS, "no distribution": NO_DISTRIBUTION, "lies": LIES}
