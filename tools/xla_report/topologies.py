"""Chips that need not be there: their published figures, and devices to compile for.

XLA:TPU compiles for any slice on a machine that has none (`libtpu` is enough), and so does XLA:GPU
(the CUDA wheels are enough).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of an accelerator.

    Attributes:
      flops: bf16 operations a second.
      hbm: bytes of memory.
      bandwidth: bytes a second of that memory.
      clock: cycles a second in which the compiler estimates; 0 where it gives no estimates.
    """

    flops: float
    hbm: float
    bandwidth: float
    clock: float = 0.0


# Peak, memory and bandwidth of a chip: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. The clock is
# that at which its matrix units reach the peak, 2 operations a cycle and cell: 8 units of 128x128
# (v4, v5p; two cores together), 4 of 128x128 (v5e), 4 of 256x256 (v6e). Jouppi et al., "TPU v4",
# 2023, give the 1.05 GHz of v4. H100 SXM: NVIDIA's data sheet, dense.
CHIPS = {
    "v4": Chip(flops=275e12, hbm=32 * GIB, bandwidth=1228e9, clock=1.05e9),
    "v5e": Chip(flops=197e12, hbm=16 * GIB, bandwidth=819e9, clock=1.5e9),
    "v5p": Chip(flops=459e12, hbm=95 * GIB, bandwidth=2765e9, clock=1.75e9),
    "v6e": Chip(flops=918e12, hbm=32 * GIB, bandwidth=1640e9, clock=1.75e9),
    "h100": Chip(flops=989e12, hbm=80e9, bandwidth=3350e9),
}

# What XLA:GPU asks of a GPU (its `GpuTargetConfigProto`): CUDA's device properties of an H100 SXM.
GPU_TARGETS = {
    "h100": """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
""",
}


class TopologyError(ValueError):
    """A topology cannot be compiled for; the message says why and what to do."""


def topology_devices(name: str) -> tuple[Chip, Sequence[jax.Device]]:
    """Returns the chip and the devices of a topology that need not exist, one device a chip.

    Args:
      name: the kind of chip and the shape of the slice, as in `v5e:2x4` or `v5p:2x2x4`; or `h100:8`
        for eight GPUs of one host.

    Raises:
      TopologyError: the name is unknown or the compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    sides = shape.split("x")
    if kind not in CHIPS or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise TopologyError(
            f"--topology is KIND:SHAPE, as in v5e:2x4 or h100:8, with KIND one of {sorted(CHIPS)}, "
            f"not {name!r}"
        )
    if kind in GPU_TARGETS:
        return CHIPS[kind], _gpu_devices(kind, shape)
    options: dict[str, Any] = {}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as on a real slice
    if kind in ("v5e", "v6e") and min(map(int, sides)) < 2:
        options["chips_per_host_bounds"] = (*(min(2, int(side)) for side in sides), 1)
    # libtpu looks for a host's chips when it is loaded, holds a lock on them and complains aloud
    # if there are none. Nothing here touches a chip.
    os.environ |= {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError("libtpu is not installed: pip install 'ipg-jax[tpu-report]'")
    try:
        return CHIPS[kind], topologies.get_topology_desc(name, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(f"XLA:TPU refuses --topology={name}: {error}") from error


def _gpu_devices(kind: str, shape: str) -> Sequence[jax.Device]:
    """Returns the devices of one host with `shape` GPUs."""
    if not shape.isdigit():
        raise TopologyError(f"--topology={kind}:{shape}: GPUs are counted, as in {kind}:8")
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise TopologyError("XLA:GPU is not installed: pip install 'ipg-jax[gpu-report]'")
    # Otherwise the plugin asks the driver, which is not there, for its version.
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    try:
        return topologies.get_topology_desc(
            "", platform="cuda", target_config=GPU_TARGETS[kind], topology=f"1x1x{shape}"
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(f"XLA:GPU refuses --topology={kind}:{shape}: {error}") from error
