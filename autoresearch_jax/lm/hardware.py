"""Peak speed of the accelerators we know, for model FLOP utilisation, and the name of this machine's processors."""

import hashlib
import os
import platform
import re
from pathlib import Path

# Dense bf16 TFLOP/s of one device as JAX counts devices, by a part of its name in lower case; the first match counts.
# From the vendors' data sheets. T4 has no bf16: fp16. TPU v2, v3 and 7x show two devices a chip, so half a chip's peak.
_PEAK_TFLOPS = (
    ("h100 pcie", 756.0),
    ("h100", 989.0),
    ("h200", 989.0),
    ("b200", 2250.0),
    ("a100", 312.0),
    ("l40s", 362.0),
    ("l4", 121.0),
    ("tesla t4", 65.0),
    ("rtx 4090", 165.0),
    ("rtx 5090", 210.0),
    ("tpu v4", 275.0),
    ("tpu v5 lite", 197.0),
    ("tpu v5e", 197.0),
    ("tpu v5", 459.0),
    ("tpu v6", 918.0),
    ("tpu7x", 2307.0 / 2),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak bf16 FLOP/s of one device, None for a device we do not know (and for a CPU, where it must be measured)."""
    name = device_kind.lower()
    for part, tflops in _PEAK_TFLOPS:
        if part in name and not (part == "l4" and "l40" in name):
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
