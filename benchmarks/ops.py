"""Speed of non-maximum suppression, beside torchvision's on the same boxes and machine.

    python benchmarks/ops.py --torch-python=PATH

PATH is a Python that has torch and torchvision; it runs in a process of its own, one after the
other with JAX. Prints one JSON object per case: median milliseconds of each, and their ratio
(below 1: faster than torchvision). torchvision has no limit on the boxes it keeps, so the case
`max_output_size = boxes` compares like with like; 100 is what a detector asks for.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import jax
import numpy as np

from ipg_jax import ops

IOU_THRESHOLD = 0.5
NUM_CLASSES = 80

TORCH_PROGRAM = """
import json, sys, time
import numpy as np, torch, torchvision
arrays = {key: torch.tensor(value) for key, value in np.load(sys.argv[1]).items()}
boxes, scores, labels = arrays["boxes"], arrays["scores"], arrays["labels"].long()
threshold, repeats = float(sys.argv[2]), int(sys.argv[3])
runs = {
    "nms": lambda: torchvision.ops.nms(boxes, scores, threshold),
    "batched_nms": lambda: torchvision.ops.batched_nms(boxes, scores, labels, threshold),
}
results = {}
for name, run in runs.items():
    kept, times = len(run()), []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    results[name] = {"milliseconds": 1e3 * float(np.median(times)), "kept": kept}
print(json.dumps(results))
"""


def clustered_boxes(rng, n):
    """Detector-like boxes: twenty guesses around each object, and scores without ties."""
    objects = max(1, n // 20)
    center, size = rng.uniform(0, 1000, (objects, 2)), rng.uniform(20, 200, (objects, 2))
    chosen = rng.integers(0, objects, n)
    center = center[chosen] + rng.normal(0, 0.1, (n, 2)) * size[chosen]
    half = size[chosen] * np.exp(rng.normal(0, 0.2, (n, 2))) / 2
    return {
        "boxes": np.concatenate([center - half, center + half], axis=1).astype(np.float32),
        "scores": (rng.permutation(n) / n).astype(np.float32),
        "labels": (chosen % NUM_CLASSES).astype(np.int32),
    }


def time_torch(arrays, torch_python, repeats):
    """Milliseconds of each of torchvision's operators, and the boxes it keeps."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "boxes.npz"
        np.savez(path, **arrays)
        command = [torch_python, "-c", TORCH_PROGRAM, path, str(IOU_THRESHOLD), str(repeats)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def time_jax(arrays, max_output_size, repeats):
    """Milliseconds of each operator, compiled, and the boxes it keeps."""
    boxes, scores, labels = jax.device_put((arrays["boxes"], arrays["scores"], arrays["labels"]))
    runs = {
        "nms": lambda: ops.nms(boxes, scores, IOU_THRESHOLD, max_output_size),
        "batched_nms": lambda: ops.batched_nms(
            boxes, scores, labels, IOU_THRESHOLD, max_output_size
        ),
    }
    results = {}
    for name, run in runs.items():
        _, valid = run()  # compiles
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(run())
            times.append(time.perf_counter() - start)
        results[name] = {"milliseconds": 1e3 * float(np.median(times)), "kept": int(valid.sum())}
    return results


def main():
    """Runs every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", required=True, help="a Python with torchvision")
    parser.add_argument("--repeats", type=int, default=50)
    args = parser.parse_args()
    for n in (1000, 5000):
        arrays = clustered_boxes(np.random.default_rng(n), n)
        reference = time_torch(arrays, args.torch_python, args.repeats)
        for max_output_size in (100, n):
            measured = time_jax(arrays, max_output_size, args.repeats)
            for name, ours in measured.items():
                theirs = reference[name]
                record = {
                    "operator": name,
                    "device": jax.devices()[0].platform,
                    "boxes": n,
                    "max_output_size": max_output_size,
                    "kept": ours["kept"],
                    "torchvision_kept": theirs["kept"],
                    "milliseconds": round(ours["milliseconds"], 3),
                    "torchvision_milliseconds": round(theirs["milliseconds"], 3),
                    "ratio": round(ours["milliseconds"] / theirs["milliseconds"], 2),
                }
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
