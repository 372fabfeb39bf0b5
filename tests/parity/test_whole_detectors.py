import json
import pathlib

import jax
import numpy as np
import pytest
import whole_detectors
from detector_weights import make_batch, make_state
from whole_detectors import compare

from ipg_jax import ops
from ipg_jax.models import BACKBONES, IPGNet
from ipg_jax.tasks.base import IMAGENET_MEAN, IMAGENET_STD
from ipg_jax.weights import convert, initialize

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "detectors.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN))


def golden_of(name: str, golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): x for key, x in golden.items() if key.startswith(prefix)}


@pytest.mark.parametrize("name", whole_detectors.DETECTORS)
def test_losses_and_detections_are_torchvisions(name: str, golden):
    task = whole_detectors.make_task(name)
    variables = whole_detectors.make_variables(task, json.loads(str(golden["shapes"]))[name])
    have = whole_detectors.run(task, variables, whole_detectors.make_batch(make_batch()))
    want = golden_of(name, golden)
    assert len(set(want["category_ids"][want["scores"] > 0])) >= 5
    rows = compare(want, have)
    assert len(rows) == 3 + (2 if name.startswith("retinanet") else 4)
    assert all(row.ok for row in rows), rows


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny"])
def test_features_of_a_backbone_are_torchvisions(name: str, golden):
    model = IPGNet(BACKBONES[name](), fusion_stages=())
    batch = make_batch()
    (image,) = ops.normalize_pyramid(
        (batch["images"][:1],), batch["image_size"][:1], mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    apply = jax.jit(lambda variables: model.apply(variables, (image,), train=False))
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), (image,), train=False))
    fresh = jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract))
    state = make_state(json.loads(str(golden["shapes"]))[name])
    variables = initialize({k: {"backbone": v} for k, v in fresh.items()}, convert(state))
    features = apply({k: v["backbone"] for k, v in variables.items()})
    want = golden_of(name, golden)
    assert want.keys() == features.keys()
    for level, values in want.items():
        np.testing.assert_allclose(features[level][0, ..., ::64], values, rtol=1e-4, atol=1e-4)


def test_the_comparison_sees_every_kind_of_difference(golden):
    want = golden_of("retinanet_resnet50_fpn", golden)

    def wrong(**changes):
        return {row.quantity for row in compare(want, want | changes) if not row.ok}

    assert wrong() == set()
    order = np.roll(np.arange(300), 7)
    assert wrong(**{k: want[k][:, order] for k in ("boxes", "scores", "category_ids")}) == set()
    assert wrong(classification=want["classification"] * 1.001) == {"classification"}
    for key, first in (
        ("boxes", want["boxes"][0, 0] + 0.02),
        ("scores", want["scores"][0, 0] + 2e-4),
        ("category_ids", want["category_ids"][0, 0] + 1),
    ):
        changed = want[key].copy()
        changed[0, 0] = first
        assert wrong(**{key: changed}) == {key.replace("category_ids", "labels")}
