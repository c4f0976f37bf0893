"""No false alarm on other platforms: honest candidates are traced for a GPU and a TPU, and their programs checked."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from redteam import honest_layers
from redteam.entries import Variant, by_kind
from redteam.test_honest import MODERN
from tracing import traced

from autoresearch_jax.tasks.lm.config import Caps
from autoresearch_jax.tasks.lm.programs import BadProgramError, load_programs
from autoresearch_jax.tasks.lm.trace import ContractError

CUDA, TPU = ("cuda", "NVIDIA H100 80GB HBM3"), ("tpu", "TPU v5 lite")
WITHOUT_KERNELS = {kind: variants for kind, variants in MODERN.items() if variants is not honest_layers.KERNELS}
FAST_ON_GPU = [*WITHOUT_KERNELS][::2]  # and the other kinds on a TPU


def fast_for(kinds: Collection[str], variants: Mapping[str, Sequence[Variant]]) -> list[ParameterSet]:
    """Parameters for a test: in the fast suite one of each of these kinds."""
    chosen = by_kind({kind: found for kind, found in variants.items() if kind in kinds})
    return [*chosen, *by_kind({kind: found for kind, found in variants.items() if kind not in kinds}, fast=0)]


def check(programs_dir: Path) -> None:
    assert load_programs(programs_dir).constant_bytes <= Caps().constant_bytes


@pytest.mark.parametrize("variant", fast_for(FAST_ON_GPU, WITHOUT_KERNELS))
def test_an_honest_candidate_for_a_gpu_passes_the_checks(variant: Variant, tmp_path: Path) -> None:
    check(traced(variant.source(), tmp_path / "traced", *CUDA))


@pytest.mark.parametrize("variant", fast_for(MODERN.keys() - FAST_ON_GPU, MODERN))
def test_an_honest_candidate_for_a_tpu_passes_the_checks(variant: Variant, tmp_path: Path) -> None:
    check(traced(variant.source(), tmp_path / "traced", *TPU))


def test_a_kernel_by_pallas_for_a_gpu_is_refused(tmp_path: Path) -> None:
    """Nothing keeps its instructions within its arrays; those of a kernel for a TPU XLA checks.

    It is refused while it is traced, or, where Pallas writes it without a GPU at hand, when its programs are read.
    """
    (kernel,) = honest_layers.KERNELS
    with pytest.raises((ContractError, BadProgramError), match=r"Pallas kernel|cuda: .mosaic_gpu"):
        check(traced(kernel.source(), tmp_path / "traced", *CUDA))
