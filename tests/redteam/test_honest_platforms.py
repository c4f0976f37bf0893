"""No false alarm on other platforms: honest candidates are traced for a GPU and a TPU, and their programs checked."""

from pathlib import Path

import pytest
from redteam import honest_layers
from redteam.entries import Variant, by_kind
from redteam.test_honest import MODERN
from tracing import traced

from autoresearch_jax.tasks.lm.config import Caps
from autoresearch_jax.tasks.lm.programs import load_programs
from autoresearch_jax.tasks.lm.trace import ContractError

CUDA, TPU = ("cuda", "NVIDIA H100 80GB HBM3"), ("tpu", "TPU v5 lite")
WITHOUT_KERNELS = {kind: variants for kind, variants in MODERN.items() if variants is not honest_layers.KERNELS}


def check(programs_dir: Path) -> None:
    assert load_programs(programs_dir).constant_bytes <= Caps().constant_bytes


@pytest.mark.parametrize("variant", by_kind(WITHOUT_KERNELS))
def test_an_honest_candidate_for_a_gpu_passes_the_checks(variant: Variant, tmp_path: Path) -> None:
    check(traced(variant.source(), tmp_path / "traced", *CUDA))


@pytest.mark.parametrize("variant", by_kind(MODERN))
def test_an_honest_candidate_for_a_tpu_passes_the_checks(variant: Variant, tmp_path: Path) -> None:
    check(traced(variant.source(), tmp_path / "traced", *TPU))


def test_a_kernel_by_pallas_for_a_gpu_is_refused(tmp_path: Path) -> None:
    """Nothing keeps its instructions within its arrays; those of a kernel for a TPU XLA checks."""
    (kernel,) = honest_layers.KERNELS
    with pytest.raises(ContractError, match="Pallas kernel"):
        traced(kernel.source(), tmp_path / "traced", *CUDA)
