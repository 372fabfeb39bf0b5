"""Small batches of noise and random boxes, and a backbone to match, for the tests of tasks."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ipg_jax import Batch
from ipg_jax.layers import BatchNorm
from ipg_jax.models import RetinaNet

CLASSES, SIDE = 3, 64


def make_batch(images: int = 2, objects: int = 4, seed: int = 0) -> Batch:
    """Objects of 8 to 24 pixels in images of 64, with a pyramid of two levels."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (images, objects, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 24, corner.shape)], -1)
    return Batch(
        pyramid=tuple(
            rng.integers(0, 256, (images, SIDE >> i, SIDE >> i, 3), np.uint8) for i in range(2)
        ),
        boxes=boxes.astype(np.float32),
        labels=rng.integers(0, CLASSES, (images, objects)).astype(np.int32),
        valid=np.ones((images, objects), bool),
        ignore=np.zeros((images, objects), bool),
        image_size=np.full((images, 2), SIDE, np.int32),
        scale=np.ones((images, 2), np.float32),
        image_id=np.arange(images, dtype=np.int32),
        weight=np.ones(images, np.float32),
    )


class GivenOutputs(RetinaNet):
    """A detector that returns what its variables hold."""

    def __call__(self, pyramid, *, train=False):
        return self.get_variable("params", "outputs")


class ShallowBackbone(nn.Module):
    """A convolution for each stage, with the strides and the guidance of an `IPGNet`.

    Tests of tasks look at what happens to its outputs, and compile it in no time.

    Attributes:
      norm: whether a batch norm follows each convolution.
    """

    norm: bool = False

    @property
    def strides(self):
        return {"c2": 4, "c3": 8, "c4": 16, "c5": 32}

    @property
    def pyramid_levels(self):
        return 2

    @property
    def dtype(self):
        return jnp.float32

    @nn.compact
    def __call__(self, pyramid, *, train):
        guidance = nn.Conv(8, (4, 4), (4, 4), name="guidance")(pyramid[1])
        x = nn.Conv(8, (4, 4), (4, 4), name="stem")(pyramid[0])
        outputs = {}
        for stage in range(1, 5):
            x = nn.Conv(8, (3, 3), (1 if stage == 1 else 2,) * 2, name=f"layer{stage}")(x)
            if self.norm:
                x = BatchNorm(name=f"bn{stage}")(x, train=train)
            if stage == 2:
                x = x + guidance
            outputs[f"c{stage + 1}"] = x = nn.relu(x)
        return outputs
