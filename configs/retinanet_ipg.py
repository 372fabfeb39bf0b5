"""The paper's one-stage detector: RetinaNet on a guided ResNet-50, COCO, 1333x800, 12 epochs.

    python train.py --config=configs/retinanet_ipg.py:norm=frozen_batch_norm \
        --workdir=runs/retinanet_ipg --config.init_from=resnet50.pth \
        --config.data.train_images=... --config.data.train_annotations=... \
        --config.data.eval_images=... --config.data.eval_annotations=...

From ImageNet weights with frozen norms, as the paper (`docs/weights.md` says which files are read).
Variants by arguments: `configs/retinanet_ipg.py:fusion=product,depth=101,stages=3` (see
`configs/common.py`). The result on COCO has not been measured: it needs accelerators.
"""

from ml_collections import ConfigDict

from configs.common import default_config, model_arguments, parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = default_config()
    config.data.drop_empty = True  # as the code base of the paper's time
    parse_arguments(argument, model_arguments(config))
    return config.lock()
