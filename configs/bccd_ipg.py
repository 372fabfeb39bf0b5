"""Blood cells (the BCCD data set, VOC format, 205 training images), small and from scratch.

    python train.py --config=configs/bccd_ipg.py --workdir=runs/bccd --config.data.root=BCCD

`BCCD` is the data set's folder with JPEGImages, Annotations and ImageSets.
"""

from ml_collections import ConfigDict

from configs.common import default_config, model_arguments, parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = default_config()
    config.batch_size = 8
    config.num_steps = 600
    config.image_size = (240, 320)
    config.log_every = 20
    config.eval_every = 200
    config.checkpoint_every = 100

    config.data.source = "voc"
    config.data.root = "data/BCCD"
    config.data.eval_split = "test"

    config.model.num_classes = 3
    config.model.depth = 18
    config.model.fpn_levels = (3, 6)
    config.model.fpn_channels = 64
    config.model.head_convs = 2
    config.model.head_channels = 64
    config.model.head_norm = "group_norm"
    config.model.anchor_scale = 2.0
    config.model.dtype = "float32"

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.batch_size = 8
    config.optimizer.weight_decay = 1e-2
    config.optimizer.no_decay = ".*/(bias|scale)"
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.warmup_factor = 0.1
    config.eval.metric = "voc"
    parse_arguments(argument, model_arguments(config))
    return config.lock()
