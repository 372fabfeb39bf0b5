"""The baseline of `faster_rcnn_ipg.py`: the same Faster R-CNN, recipe and code without guidance.

    python train.py --config=configs/faster_rcnn_resnet.py:norm=frozen_batch_norm \
        --workdir=runs/faster_rcnn_resnet --config.init_from=resnet50.pth \
        --config.data.train_images=... --config.data.train_annotations=... \
        --config.data.eval_images=... --config.data.eval_annotations=...

From ImageNet weights with frozen norms, as the paper. The result on COCO has not been measured: it
needs accelerators. Published figures for this model with ImageNet weights and this recipe: 36.4 AP
with ResNet-50, 38.5 with ResNet-101 (mmdetection's model zoo, version 1).
"""

from ml_collections import ConfigDict

from configs.faster_rcnn_ipg import get_config as get_guided_config


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = get_guided_config(argument).unlock()
    config.model.fusion_stages = ()
    return config.lock()
