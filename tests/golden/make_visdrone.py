"""Figures of the VisDrone-DET toolkit itself: writes `visdrone.json` beside this file.

    python tests/golden/make_visdrone.py TOOLKIT

`TOOLKIT` is a copy of https://github.com/VisDrone/VisDrone2018-DET-toolkit, whose Matlab functions
are run by GNU Octave (7.3). The tests read the file alone.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HEIGHT, WIDTH = 180, 190
CLASSES = 10  # of VisDrone; four of them occur

PROGRAM = """
addpath('{toolkit}/utils'); addpath('{folder}');
allgt = cell(1, {n}); alldet = cell(1, {n});
for i = 1:{n}
  [gt, det] = dropObjectsInIgr(dlmread(['gt' num2str(i)]), dlmread(['det' num2str(i)]), {h}, {w});
  gt(:, 5) = 1 - gt(:, 5);
  allgt{{i}} = gt; alldet{{i}} = det;
end
[a, b, c, d, e, f, g] = calcAccuracy({n}, allgt, alldet);
printf('RESULT %.15g %.15g %.15g %.15g %.15g %.15g %.15g\\n', a, b, c, d, e, f, g);
"""
MEAN2 = "function m = mean2(x)\n  m = mean(x(:));\nend\n"  # of Matlab's image toolbox


def scene(rng: np.random.Generator) -> dict[str, list]:
    """Objects, ignored regions and detections of one image, each with x, y, width and height."""

    def box(least: int, most: int) -> list[int]:
        corner, sides = rng.integers(0, 150, 2), rng.integers(least, most, 2)
        sides = np.minimum(corner + sides, [WIDTH, HEIGHT]) - corner
        return [*corner.tolist(), *sides.tolist()]

    objects = [[*box(3, 40), int(rng.integers(4))] for _ in range(rng.integers(5, 20))]
    found = []
    for x, y, width, height, label in objects:
        for _ in range(rng.integers(0, 4)):
            corner = np.maximum(np.array([x, y]) + rng.normal(0, 2, 2), 0)
            sides = np.maximum(np.array([width, height]) + rng.normal(0, 2, 2), 1.5)
            label = label if rng.random() < 0.9 else int(rng.integers(4))
            found.append([*corner.round(2).tolist(), *sides.round(2).tolist(), label])
    scores = rng.permutation(1000)[: len(found)] / 1000
    found = [[*row, score] for row, score in zip(found, scores.tolist(), strict=True)]
    found.sort(key=lambda row: -row[-1])  # the toolkit takes the first of a file
    regions = [box(5, 90) for _ in range(rng.integers(0, 3))]
    return {"objects": objects, "regions": regions, "found": found}


def figures(toolkit: pathlib.Path, images: list[dict[str, list]]) -> dict[str, float]:
    """What the toolkit says."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for i, image in enumerate(images, start=1):
            truth = [[*row[:4], 1, row[4] + 1, 0, 0] for row in image["objects"]]
            truth += [[*row, 0, 0, 0, 0] for row in image["regions"]]
            found = [[*row[:4], row[5], row[4] + 1, -1, -1] for row in image["found"]]
            np.savetxt(folder / f"gt{i}", truth, fmt="%g", delimiter=",")
            np.savetxt(folder / f"det{i}", found, fmt="%.15g", delimiter=",")
        (folder / "mean2.m").write_text(MEAN2)
        program = PROGRAM.format(
            toolkit=toolkit.resolve(), folder=folder, n=len(images), h=HEIGHT, w=WIDTH
        )
        (folder / "program.m").write_text(program)
        command = ["octave-cli", "--norc", "--no-site-file", "program.m"]
        out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in out.splitlines() if line.startswith("RESULT"))
    names = ("AP", "AP50", "AP75", "AR1", "AR10", "AR100", "AR500")
    return {name: float(value) / 100 for name, value in zip(names, line.split()[1:], strict=True)}


def main() -> None:
    """Writes the file."""
    cases = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        images = [scene(rng) for _ in range(3)]
        cases.append({"images": images, "figures": figures(pathlib.Path(sys.argv[1]), images)})
    content = {"size": [HEIGHT, WIDTH], "classes": CLASSES, "cases": cases}
    path = pathlib.Path(__file__).parent / "visdrone.json"
    path.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
