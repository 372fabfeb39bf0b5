"""What is computed in float32 when the model computes in bfloat16."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from noise_batch import CLASSES, make_batch

from configs.common import default_config, two_stage
from ipg_jax import build_task

# Of losses, box coding, IoU, scores and NMS. The model itself has none of them: its norms are
# computed in float32 too.
FLOAT32_ALWAYS = {"div", "exp", "log", "log1p", "logistic", "rsqrt", "sort", "sqrt", "tanh"}


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Yields all equations, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            tuple(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(value, ClosedJaxpr | Jaxpr):
                yield from equations(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


@pytest.mark.parametrize("box_loss", ["l1", "giou", "faster_rcnn"])
def test_only_the_model_computes_in_bfloat16(box_loss: str):
    config = default_config()
    config.model.update(
        backbone="resnet10", num_classes=CLASSES, fusion_stages=(2,), fpn_channels=32
    )
    if box_loss == "faster_rcnn":
        two_stage(config, box_loss)
        config.model.rpn.proposals = (20, 20)
        config.model.box_head.update(rois_per_image=16, fc_channels=32)
    else:
        class_loss = "focal" if box_loss == "l1" else "varifocal"
        config.model.retinanet_head.update(box_loss=box_loss, class_loss=class_loss, channels=32)
    assert config.model.dtype == "bfloat16"
    task = build_task(config)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    batch, key = make_batch(), jax.random.key(0)

    def loss(variables, batch):
        return task.loss(variables, batch, rng=key)

    def predict(variables, batch):
        return task.predict(variables, batch.pyramid, batch.image_size)

    for function in (loss, predict):
        program, results = jax.make_jaxpr(function, return_shape=True)(variables, batch)
        found = list(equations(program.jaxpr))
        types = {
            equation.primitive.name
            for equation in found
            if any(getattr(x.aval, "dtype", None) == jnp.bfloat16 for x in equation.invars)
        }
        assert "conv_general_dilated" in types  # the model's, inside inner programs
        assert not types & FLOAT32_ALWAYS
        assert FLOAT32_ALWAYS & {equation.primitive.name for equation in found} >= {"div", "exp"}
        floats = [x for x in jax.tree.leaves(results) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert all(x.dtype == jnp.float32 for x in floats)
