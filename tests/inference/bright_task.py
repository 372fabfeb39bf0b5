"""A task that sees bright rectangles, and pictures of these."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np

from ipg_jax.inference.detector import Detector
from ipg_jax.tasks import DetectionTask
from ipg_jax.types import Detections

TRACED: list[tuple[int, ...]] = []
"""The shapes of images that programs were made for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrightTask(DetectionTask):
    """Finds the rectangle around all bright pixels, with their brightness as its score.

    A second box of score 0.1 has the label 1.
    """

    num_classes = 2
    pyramid_levels = 2

    def __post_init__(self):
        pass

    @property
    def _anchors_per_position(self):
        return 1

    def _loss_and_updates(self, variables, batch, rng):
        raise NotImplementedError

    def _predict(self, variables, pyramid, image_size):
        TRACED.append(pyramid[0].shape)
        bright = pyramid[0].max(-1) > variables["params"]["limit"]
        rows, columns = bright.any(2), bright.any(1)

        def ends(x):
            return jnp.argmax(x, 1), x.shape[1] - jnp.argmax(x[:, ::-1], 1)

        (y0, y1), (x0, x1) = ends(rows), ends(columns)
        box = jnp.stack([x0, y0, x1, y1], -1).astype(jnp.float32)
        score = pyramid[0].max((1, 2, 3)).astype(jnp.float32) / 255
        n = len(score)
        return Detections(
            boxes=jnp.stack([box, box, box], 1),
            scores=jnp.stack([score, jnp.full(n, 0.1), jnp.ones(n)], 1),
            labels=jnp.tile(jnp.array([0, 1, 0]), (n, 1)),
            valid=jnp.stack([score > 0, score > 0, jnp.zeros(n, bool)], 1),
        )


TASK = BrightTask(model=types.SimpleNamespace(), anchor_sizes=())
VARIABLES = {"params": {"limit": np.uint8(50)}, "batch_stats": {}}


def make(**options):
    settings = {"class_names": ["bright", "dim"], "image_size": (32, 64), **options}
    return Detector(TASK, VARIABLES, **settings)


def picture(height, width, box, value=204):
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = value
    return image
