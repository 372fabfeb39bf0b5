"""RetinaNet on a guided ConvNeXt-T, COCO, 1333x800, 12 epochs: another backbone than the paper's.

    python train.py --config=configs/retinanet_convnext_ipg.py \
        --workdir=runs/retinanet_convnext_ipg --config.init_from=convnext_tiny.pth \
        --config.data.train_images=... --config.data.train_annotations=... \
        --config.data.eval_images=... --config.data.eval_annotations=...

From torchvision's ImageNet weights, with AdamW as in the ConvNeXt paper's detectors (their rate and
decay for 16 images; no multi-scale training, no stochastic depth). `backbone=convnext_small` takes
the larger one, `stages=` none of the guidance. The result on COCO has not been measured: it needs
accelerators.
"""

from ml_collections import ConfigDict

from configs.common import default_config, model_arguments, parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = default_config()
    config.batch_size = 16
    config.data.drop_empty = True
    config.model.backbone = "convnext_tiny"
    config.model.new_norm = "group_norm"  # of the transformations; the backbone has layer norms

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.batch_size = 16
    config.optimizer.weight_decay = 0.05
    config.optimizer.no_decay = ".*/(bias|scale|layer_scale)"
    parse_arguments(argument, model_arguments(config))
    return config.lock()
