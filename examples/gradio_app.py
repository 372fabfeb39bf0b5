"""A page in the browser that detects objects in pictures that are dropped on it.

    pip install gradio -e .
    python examples/gradio_app.py runs/hit_uav

The argument is a workdir, the file of a whole detector, or the name of one (`ipg-jax weights` lists
them). This is an example, for one person at a time: it has no queue, no limit on what is sent to it
and no users.
"""

import sys

import gradio

import ipg_jax


def build_page(detector: ipg_jax.Detector) -> gradio.Interface:
    """Returns the page of a detector."""

    def detect(picture, threshold: float):
        if picture is None:
            raise gradio.Error("Choose a picture first.")
        found = detector.predict(picture, threshold=threshold)
        rows = [
            [name, round(float(score), 3), *(round(float(side), 1) for side in box)]
            for name, score, box in zip(found.names, found.scores, found.boxes, strict=True)
        ]
        return found.draw(picture), rows

    return gradio.Interface(
        detect,
        [
            gradio.Image(type="numpy", image_mode="RGB", label="Picture"),
            gradio.Slider(0.0, 1.0, value=float(detector.thresholds.mean()), label="Least score"),
        ],
        [
            gradio.Image(label="Found"),
            gradio.Dataframe(headers=["class", "score", "x0", "y0", "x1", "y1"]),
        ],
        title=f"Finds {', '.join(detector.class_names)}",
        flagging_mode="never",
    )


if __name__ == "__main__":
    build_page(ipg_jax.Detector.load(sys.argv[1])).launch()
