"""Fine-tunes torchvision's RetinaNet, trained on COCO, on a small data set of one's own.

    python train.py --config=configs/finetune_retinanet.py --workdir=runs/mine \
        --config.init_from=retinanet_resnet50_fpn_coco-eeacb38b.pth \
        --config.model.num_classes=3 \
        --config.data.train_images=... --config.data.train_annotations=... \
        --config.data.eval_images=... --config.data.eval_annotations=...

`init_from` is torchvision's file (`docs/fine_tuning.md`). Guidance is added to stages 2 to 4 and
starts as the identity, so that the run begins as torchvision's detector; `:stages=` leaves it out.
Classes that COCO names keep their rows of the head. 1,000 steps of 8 images are a start, and were
not measured on any data.
"""

from ml_collections import ConfigDict

from configs.common import default_config, model_arguments, parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = default_config()
    config.batch_size = 8
    config.num_steps = 1000
    config.log_every = 20
    config.eval_every = 200
    config.checkpoint_every = 200
    config.init_from = "retinanet_resnet50_fpn_coco-eeacb38b.pth"
    config.init_missing = r"backbone/(ipg|fusion)\d/.*"

    config.model.norm = "frozen_batch_norm"  # as torchvision's, also the next
    config.model.fpn_extra = "p"
    config.optimizer.frozen = r"backbone/(conv1|layer1)/.*"
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    parse_arguments(argument, model_arguments(config))
    return config.lock()
