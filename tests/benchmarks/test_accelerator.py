"""The programs for accelerators, on the CPU at toy sizes."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from cards import peak_flops

from ipg_jax import kernels

ROOT = pathlib.Path(__file__).parents[2]


def dry_run(script: str, folder: pathlib.Path, *flags: str) -> tuple[dict, str]:
    """Returns the JSON file and the tables of a script."""
    file = folder / "found.json"
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, "--dry-run", f"--json={file}", *flags],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(file.read_text()), result.stdout


def test_every_comparison_runs(tmp_path):
    # The plain two-stage detector's programs are parts of the guided one's.
    only = "retinanet*,faster_rcnn guided*,torchvision*,kernel*"
    found, tables = dry_run("accelerator.py", tmp_path, f"--only={only}")
    assert found["dry_run"]
    parts = {part["name"]: part for part in found["parts"]}
    for name, part in parts.items():
        if name.startswith("torchvision") and not importlib.util.find_spec("torch"):
            assert part["status"] == "not run"
            assert "torch is not installed" in part["error"]
            continue
        assert part["status"] == "done", part
        assert part["figures"]["train"]["seconds"] > 0
        if not name.startswith("torchvision"):
            assert part["figures"]["train"]["flops"] > 1e6
        if not name.startswith("kernel"):
            assert part["figures"]["predict"]["seconds"] > 0
    plain = parts["retinanet plain 800x1344x8"]["figures"]
    assert plain["train"]["platform"] == "cpu"
    assert plain["train"]["share_of_peak"] is None
    guided = parts["retinanet guided 800x1344x8"]["figures"]
    assert guided["train"]["flops"] > plain["train"]["flops"]
    for name in kernels.KERNELS:
        assert parts[f"kernel {name} 640x640x16"]["figures"]["train"]["ratio"] > 0
    assert "faster_rcnn plain 800x1344x8" not in parts
    assert "train: retinanet guided / retinanet plain" in tables


def test_every_test_runs(tmp_path):
    # All but the second comparison of the two types, which the first one's function makes.
    only = "operators,parity*,overfit*,bfloat16 of retinanet,timings,two runs*"
    found, tables = dry_run("accelerator_tests.py", tmp_path, f"--only={only}")
    for part in found["parts"]:
        assert part["status"] == "done", part
        assert part["figures"]
        assert all(row["ok"] for row in part["figures"].values()), part
    assert "FAILED" not in tables


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_peaks_are_those_of_the_named_cards(device, peak):
    assert peak_flops(device) == peak
