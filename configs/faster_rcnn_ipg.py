"""The paper's two-stage detector, IPG RCNN: Faster R-CNN on a guided ResNet-50 with an FPN.

    python train.py --config=configs/faster_rcnn_ipg.py:norm=frozen_batch_norm \
        --workdir=runs/faster_rcnn_ipg --config.init_from=resnet50.pth \
        --config.data.train_images=... --config.data.train_annotations=... \
        --config.data.eval_images=... --config.data.eval_annotations=...

COCO, 1333x800, 12 epochs, from ImageNet weights with frozen norms, as the paper (`docs/weights.md`
says which files are read). Arguments give the rows of Tables 2 to 4: `fusion=product`,
`num_stages=5`, `num_stages=7,keep=1`, `stages=3` (see `configs/common.py`). The paper reports 36.5
AP with this model (Table 4). The result has not been measured here: it needs accelerators.
"""

from ml_collections import ConfigDict

from configs.common import default_config, model_arguments, parse_arguments, two_stage


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = default_config()
    config.data.drop_empty = True  # as the code base of the paper's time
    parse_arguments(argument, model_arguments(config))
    two_stage(config, "faster_rcnn")
    return config.lock()
