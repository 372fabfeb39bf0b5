"""Peaks of named accelerators, to say which share of one a program reaches."""

from __future__ import annotations

import re

# Dense bfloat16 operations a second with sums in float32, of NVIDIA's data sheets (those name twice
# as many for sparse matrices): H100 (SXM, NVL, PCIe), H200 (SXM, NVL), GH200, A100, L4, L40S and
# the HGX B200. The first name that is part of the device's counts; part of a card (MIG) has no peak
# here.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "GH200": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "B200": 2250e12,
}


def peak_flops(device: str) -> float | None:
    """Returns the peak of a device by the name that its driver gives it; None if not known."""
    if re.search(r"\bMIG\b", device):
        return None
    found = (peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", device))
    return next(found, None)
