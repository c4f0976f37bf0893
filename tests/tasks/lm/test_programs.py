"""From a training file to checked programs: what passes, what equals what, and what is refused with which words."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tracing import JUDGE_BATCH_ROWS, edited, traced

from autoresearch_jax.tasks.lm.config import Caps
from autoresearch_jax.tasks.lm.programs import (
    BadProgramError,
    Programs,
    check_asked,
    compile_program,
    load_programs,
    make_mesh,
)
from autoresearch_jax.tasks.lm.trace import ContractError

REQUEST = {
    "task": {"platform": "cpu", "sequence_length": 16, "vocab_sizes": [256]},
    "mesh": {"data": 1, "model": 1},
    "judge_batch_sizes": [4, 2],
}


@pytest.fixture(scope="module")
def programs_dir(tiny_source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced(tiny_source, tmp_path_factory.mktemp("traced") / "tiny")


@pytest.fixture(scope="module")
def programs(programs_dir: Path) -> Programs:
    return load_programs(programs_dir)


def test_signature_tells_state_and_parameters(programs: Programs) -> None:
    assert programs.leaf_names == ("count", "key", "table")
    assert [programs.leaf_names[i] for i in programs.read_leaves] == ["table"]
    assert programs.num_params == 256 * 256
    assert programs.state_bytes == 256 * 256 * 4 + 4 + 8
    assert programs.steps[0].metrics == ("count", "loss")
    assert set(programs.logits) == set(JUDGE_BATCH_ROWS)


def test_compiled_programs_compute_what_the_file_says(programs: Programs) -> None:
    mesh = make_mesh({"data": 1, "model": 1})
    key_data = np.array([0, 7], np.uint32)
    leaves = compile_program(programs.init, mesh)(key_data)
    table = 0.01 * jax.random.normal(jax.random.key(7), (256, 256))
    np.testing.assert_allclose(leaves[2], table, rtol=1e-5, atol=1e-8)  # not fused as in the program

    tokens = np.random.default_rng(0).integers(0, 256, (8, 17)).astype(np.int32)
    step = compile_program(programs.steps[0].exported, mesh, donate=True)
    donated = leaves[2]
    leaves, (count, loss) = step(leaves, tokens, np.float32(0.5))
    log_probs = jax.nn.log_softmax(table[tokens[:, :-1]])
    expected_loss = -jnp.take_along_axis(log_probs, tokens[:, 1:, None], -1).mean()
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    assert (int(leaves[0]), float(count)) == (1, 0.0)
    assert donated.is_deleted()

    logits = compile_program(programs.logits[2], mesh)([leaves[2]], tokens[:2, :16])
    np.testing.assert_array_equal(logits, np.asarray(leaves[2])[tokens[:2, :16]])


def test_nothing_is_computed_from_constants_while_a_program_is_compiled() -> None:
    """Each kind of operation that does the work of a training step, written out so that no loop hides it."""
    table = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    ids = np.random.default_rng(1).integers(0, 16, 16)

    def init(key: jax.Array) -> tuple[jax.Array, ...]:
        start = jnp.asarray(table)
        x = start
        for _ in range(3):
            x = jnp.sort(x @ start, axis=0)[jnp.asarray(ids)]
            x = jax.lax.cond(ids[0] < 99, lambda x: x.at[jnp.asarray(ids)].add(x.cumsum(axis=1)), lambda x: x, x)
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (3, 1), (1, 1), "SAME")
        return x, key

    exported = export.export(jax.jit(init))(jax.ShapeDtypeStruct((2,), np.uint32))
    found = compile_program(exported, make_mesh({"data": 1, "model": 1})).as_text()
    for operation in ("dot", "sort", "gather", "scatter"):
        assert found.count(f" {operation}(") == 3, operation
    assert found.count(" reduce-window(") >= 3


def test_equal_programs_have_equal_hashes(tiny_source: str, programs: Programs, tmp_path: Path) -> None:
    head, rest = tiny_source.split("    def logits", 1)
    logits, rest = rest.split("    def loss_fn", 1)
    loss_fn, step = rest.split("    def step", 1)
    step, end = step.split("    return Experiment", 1)
    reordered = f"{head}    def loss_fn{loss_fn}    def step{step}    def logits{logits}    return Experiment{end}"
    same = edited(
        reordered,
        ("UNUSED = 1", "UNUSED = 2"),
        ("# of plain SGD", "# another comment"),
        ("10.0  #", "20.0 / 2  #"),
        *(("loss_fn", "objective"), ("LEARNING_RATE", "RATE"), ("gradient", "g")),
        ('"loss": loss, "count"', '"loss": loss, "done"'),
    )
    assert load_programs(traced(same, tmp_path / "same")).program_hash == programs.program_hash


@pytest.mark.parametrize(("old", "new"), [("10.0", "10.5"), ("BATCH_SIZE = 8", "BATCH_SIZE = 4"), ("0.01 *", "0.02 *")])
def test_other_programs_have_other_hashes(
    old: str, new: str, tiny_source: str, programs: Programs, tmp_path: Path
) -> None:
    other = load_programs(traced(edited(tiny_source, (old, new)), tmp_path / "other"))
    assert other.program_hash != programs.program_hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def build(", "def bild(", r"has no function `build\(task, mesh\)`"),
        ("VOCAB_SIZE = 256", "VOCAB_SIZE = 300", "vocab_size 300 is not offered by the dataset, which has 256"),
        ('"count": state["count"] + 1,', '"count": state["count"] + 1.0,', r"count: int32\[\] became float32\[\]"),
        ("return new_state, {", "return {", r"`step` must return \(state, metrics\)"),
        ('{"loss": loss, ', "{", 'returns no metric "loss"'),
        ('{"loss": loss, ', '{"loss": gradient, ', r"metric 'loss' of `step` has shape \(256, 256\)"),
        (
            "        loss, grad",
            "        jax.debug.print('{}', progress)\n        loss, grad",
            "`step` calls back to the host",
        ),
        (
            'return state["table"][tokens]',
            'return state["table"][tokens][:, :-1]',
            r"`logits` returns shape \(2, 15, 256\)",
        ),
        ("task.sequence_length + 1)", "task.sequence_length)", "a context that divides the sequence length 16"),
    ],
)
def test_a_broken_contract_is_refused(old: str, new: str, message: str, tiny_source: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=message):
        traced(edited(tiny_source, (old, new)), tmp_path / "broken")


def test_constants_are_counted(tiny_source: str, programs: Programs, tmp_path: Path) -> None:
    assert programs.constant_bytes < 1500
    table = "np.random.default_rng(0).random((VOCAB_SIZE, 512), np.float32)"  # half a mebibyte
    source = edited(
        tiny_source,
        ("import jax\n", "import jax\nimport numpy as np\n"),
        ("normal(key, (VOCAB_SIZE,", "normal(key, (512,"),
        ("0.01 * jax", f"{table} @ jax"),
        ('return state["table"][tokens]', 'return state["table"][tokens] + np.arange(256, dtype=np.float32) ** 0.5'),
    )
    large = load_programs(traced(source, tmp_path / "large"))
    assert 2**19 + 1024 < large.constant_bytes < 2**19 + 1024 + 1500  # in `init`, and once for all batches of `logits`
    check_asked(large, REQUEST, Caps(constant_bytes=2**20))
    with pytest.raises(BadProgramError, match=r"the programs embed 52\d,\d+ bytes of constants, more than 524,288 "):
        check_asked(large, REQUEST, Caps(constant_bytes=2**19))


def test_a_table_in_pieces_counts_too(tiny_source: str, programs: Programs, tmp_path: Path) -> None:
    rows = "jnp.stack([jnp.full(VOCAB_SIZE, 0.001 * row) for row in range(VOCAB_SIZE)])"  # 256 numbers of 4 bytes
    pieces = load_programs(traced(edited(tiny_source, ("0.01 * jax", f"{rows} + 0.01 * jax")), tmp_path / "pieces"))
    assert 1000 < pieces.constant_bytes - programs.constant_bytes < 2000


def test_a_custom_call_is_allowed_by_name(tiny_source: str, tmp_path: Path) -> None:
    factored = edited(tiny_source, ("0.01 * jax", "jnp.linalg.cholesky(jnp.eye(VOCAB_SIZE)) @ jax"))
    assert load_programs(traced(factored, tmp_path / "lapack")).num_params == 256 * 256
    call = "jax.ffi.ffi_call('evil', jax.ShapeDtypeStruct((), jnp.float32))()"
    foreign = edited(tiny_source, ("- LEARNING_RATE *", f"- {call} *"))
    with pytest.raises(ContractError, match="`step` uses custom calls that are not allowed: evil"):
        traced(foreign, tmp_path / "foreign")
    forced = edited(foreign, ("import jax\n", "import jax\nimport jax._src.export._export as e\n"))
    forced = edited(forced, ("def build", "e._CUSTOM_CALL_TARGETS_GUARANTEED_STABLE |= {'evil'}\n\n\ndef build"))
    with pytest.raises(BadProgramError, match='`step`: it uses custom calls not allowed on cpu: "evil"'):
        load_programs(traced(forced, tmp_path / "forced"))


def test_a_state_of_64_bits_is_refused(tiny_source: str, tmp_path: Path) -> None:
    wide = edited(
        tiny_source,
        ("jnp.zeros((), jnp.int32)", "jnp.zeros((), jnp.uint4)"),
        ('state["count"] + 1,', 'state["count"],'),
        ('"count": state["count"]}', '"count": 0.0}'),
    )
    with pytest.raises(BadProgramError, match=r'the state\'s "count" has dtype uint4: use one of bool, int4, '):
        load_programs(traced(wide, tmp_path / "wide"))


def test_complex_numbers_are_numbers(tiny_source: str, programs: Programs, tmp_path: Path) -> None:
    def of(name: str, number: str) -> Programs:
        source = edited(
            tiny_source,
            ("import jax\n", "import jax\nimport numpy as np\n"),
            ('return state["table"][tokens]', f'return (state["table"][tokens] * {number}).real'),
        )
        return load_programs(traced(source, tmp_path / name))

    one, other, table = of("one", "(1 + 2j)"), of("other", "(1 + 3j)"), of("table", "(np.arange(256) * 1j)")
    assert one.program_hash != other.program_hash
    assert one.constant_bytes < programs.constant_bytes + 256 * 4 < table.constant_bytes


def test_randomness_without_a_key_is_refused(tiny_source: str, tmp_path: Path) -> None:
    restless = edited(tiny_source, ("- LEARNING_RATE *", "- jax.lax.rng_uniform(0.0, 1.0, ()) *"))
    with pytest.raises(BadProgramError, match=r"`step`: it uses stablehlo\.rng: programs have no host"):
        load_programs(traced(restless, tmp_path / "restless"))


def test_tampered_files_are_refused(programs_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "swapped"
    shutil.copytree(programs_dir, copy)
    shutil.copyfile(copy / "logits_4.export", copy / "step_0.export")
    with pytest.raises(BadProgramError, match="`step` has not the signature"):
        load_programs(copy)

    copy = tmp_path / "cut"
    shutil.copytree(programs_dir, copy)
    data = (copy / "init.export").read_bytes()
    (copy / "init.export").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadProgramError, match=r"init\.export is damaged"):
        load_programs(copy)


PHASE = {"from_progress": 0.0, "batch_shape": [8, 17], "metrics": ["count", "loss"]}


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"vocab_size": 16}, "`logits` has not the signature"),
        ({"mesh": {"data": 8, "model": 1}}, "`init` is for 1 devices of cpu, not for 8 of cpu"),
        ({"phases": [PHASE, PHASE]}, r"the phases begin at \[0.0, 0.0\]"),
        ({"phases": [{**PHASE, "metrics": ["count", "lost"]}]}, 'no metric "loss"'),
        ({"model_flops_per_token": float("nan")}, "model_flops_per_token is nan"),
        ({"vocab_size": float("inf")}, "OverflowError"),
    ],
)
def test_a_signature_that_lies_is_refused(
    lie: dict[str, object], message: str, programs_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "lie"
    shutil.copytree(programs_dir, copy)
    signature = json.loads((copy / "signature.json").read_text())
    assert signature["phases"] == [PHASE]
    for index in range(1, len(lie.get("phases", []))):  # type: ignore[arg-type]
        shutil.copyfile(copy / "step_0.export", copy / f"step_{index}.export")
    (copy / "signature.json").write_text(json.dumps({**signature, **lie}))
    with pytest.raises(BadProgramError, match=message):
        load_programs(copy)


def test_programs_for_another_task_are_refused(programs: Programs) -> None:
    check_asked(programs, REQUEST, Caps())
    for other in (
        {"mesh": {"model": 1, "x": 1}},
        {"judge_batch_sizes": [4]},
        {"task": {**REQUEST["task"], "vocab_sizes": [320]}},
    ):
        with pytest.raises(BadProgramError):
            check_asked(programs, {**REQUEST, **other}, Caps())


def test_phases_are_traced_apart_and_numpy_numbers_are_numbers(tiny_source: str, tmp_path: Path) -> None:
    source = edited(
        tiny_source,
        ("import Experiment", "import Experiment, Phase"),
        ("import jax\n", "import jax\nimport numpy as np\n"),
        ("batch_shape=(BATCH_SIZE,", "model_flops_per_token=np.int64(6), batch_shape=(np.int32(BATCH_SIZE),"),
        ("vocab_size=VOCAB_SIZE", "later_phases=(Phase(0.5, step, (16, 9)),), vocab_size=np.uint16(VOCAB_SIZE)"),
    )
    programs = load_programs(traced(source, tmp_path / "phases"))
    assert (programs.vocab_size, programs.model_flops_per_token) == (256, 6.0)
    assert [(step.from_progress, step.batch_shape) for step in programs.steps] == [(0.0, (8, 17)), (0.5, (16, 9))]
