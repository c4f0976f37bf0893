"""Peak speed of the accelerators we know, for model FLOP utilisation, and the name of this machine's processors."""

import hashlib
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

# Among a trial's metrics: `reference_machine` where its "reference_seconds" were measured.
REFERENCE_OF = "reference_of"

# Dense bf16 TFLOP/s of one device as JAX counts devices, by its name without the vendor, from the vendors' data sheets.
# T4 has no bf16: fp16. A TPU 7x shows two devices a chip, so half a chip's peak; so do v2 and v3, but sources differ on
# their peaks. A name must fit as a whole: an H100 NVL, the GeForce of a laptop and a slice of a GPU (MIG) are not what
# their names begin with.
_MEMORY = r"(?: \d+GB)?(?: HBM\d\w*)?"
_PEAK_TFLOPS = (
    (r"B200", 2250.0),
    (rf"G?H200{_MEMORY}", 989.0),
    (rf"H100{_MEMORY}", 989.0),
    (r"H100 PCIe", 756.0),
    (r"A100[- ](?:SXM4|PCIE|80GB)(?:[- ](?:\d+GB|PCIe))?", 312.0),
    (r"L40S", 362.0),
    (r"L4", 121.0),
    (r"T4", 65.0),
    (r"GeForce RTX 4090", 165.0),
    (r"GeForce RTX 5090", 210.0),
    (r"TPU v4", 275.0),
    (r"TPU v5e|TPU v5 lite", 197.0),
    (r"TPU v5p?", 459.0),
    (r"TPU v6e|TPU v6 lite", 918.0),
    (r"TPU ?7x", 2307.0 / 2),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak bf16 FLOP/s of one device, None for a device we do not know (and for a CPU, where it must be measured)."""
    name = re.sub(r"^(NVIDIA|Tesla) ", "", device_kind)
    for pattern, tflops in _PEAK_TFLOPS:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return tflops * 1e12
    return None


def host_processors() -> str:
    """Number and model of the processors this process may use: XLA divides work by the one, compiles for the other."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    features = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.processor() or platform.machine()
    if features:  # a virtual machine's model name does not tell which instructions there are
        name += f" with features {hashlib.sha256(features[1].encode()).hexdigest()[:8]}"
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{count} x {name}"


def reference_machine() -> str:
    """What the time of the reference program depends on: the processors, and the JAX that compiles it."""
    return f"{host_processors()}, jax {version('jax')}"
