import pytest
from detectors import make_task

from configs import faster_rcnn_ipg, retinanet_ipg
from ipg_jax import build_task
from ipg_jax.training.build_fields import DTYPES


@pytest.mark.parametrize("stages", ["", "234"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("detector", ["retinanet", "faster_rcnn"])
def test_detectors_by_hand_are_those_of_the_configs(detector, dtype, stages):
    module = retinanet_ipg if detector == "retinanet" else faster_rcnn_ipg
    config = module.get_config(f"dtype={dtype},stages={stages}").unlock()
    config.model.num_classes = 91 if detector == "retinanet" else 90
    config.eval.max_detections = 300 if detector == "retinanet" else 100
    by_hand = make_task(detector, stages=tuple(map(int, stages)), dtype=DTYPES[dtype])
    assert by_hand == build_task(config)
    assert by_hand != make_task(detector, stages=(3,), dtype=DTYPES[dtype])
