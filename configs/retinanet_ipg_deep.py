"""Table 5 of the paper: a backbone of 7 stages of which RetinaNet sees only the last four.

    python train.py --config=configs/retinanet_ipg_deep.py:norm=frozen_batch_norm \
        --workdir=runs/retinanet_ipg_deep --config.init_from=resnet50.pth \
        --config.data.train_images=... --config.data.train_annotations=... \
        --config.data.eval_images=... --config.data.eval_annotations=...

From ImageNet weights with frozen norms, as the paper; the added stages start fresh. With
`:norm=frozen_batch_norm,stages=` it is the table's plain ResNet. The paper reports 23.9 AP against
23.6 (4.0 against 3.9 for small objects). Not measured here: it needs accelerators.
"""

from ml_collections import ConfigDict

from configs.common import model_arguments, parse_arguments
from configs.retinanet_ipg import get_config as get_guided_config


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = get_guided_config().unlock()
    config.model.num_stages = 7
    config.model.fpn_levels = (5, 8)
    parse_arguments(argument, model_arguments(config))
    return config.lock()
