"""The paper's best detector (Table 1): Cascade R-CNN on a ResNet-101 guided at stage 3.

    python train.py --config=configs/cascade_rcnn_ipg.py:norm=frozen_batch_norm \
        --workdir=runs/cascade_rcnn_ipg --config.init_from=resnet101.pth \
        --config.data.train_images=... --config.data.train_annotations=... \
        --config.data.eval_images=... --config.data.eval_annotations=...

COCO, 1333x800, from ImageNet weights with frozen norms, as the paper (`docs/weights.md` says which
files are read). The paper reports 45.7 AP on test-dev; the result has not been measured here: it
needs accelerators.
"""

from ml_collections import ConfigDict

from configs.common import default_config, model_arguments, parse_arguments, two_stage


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = default_config()
    config.data.drop_empty = True  # as the code base of the paper's time
    config.model.backbone = "resnet101"
    config.model.fusion_stages = (3,)
    parse_arguments(argument, model_arguments(config))
    two_stage(config, "cascade_rcnn")
    return config.lock()
