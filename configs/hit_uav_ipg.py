"""People, cars and bicycles from a drone, in infrared (HIT-UAV), on crops and from scratch.

    python train.py --config=configs/hit_uav_ipg.py --workdir=runs/hit_uav \
        --config.data.root=hit_uav

`hit_uav` is the data set's folder in VOC's format, with JPEGImages, Annotations and ImageSets
(Suo et al., "HIT-UAV: A high-altitude infrared thermal dataset for Unmanned Aerial Vehicle-based
object detection", 2023, CC BY 4.0): 900 images of 640 x 512 for training, 250 to test on.
To expect: VOC mAP at 0.5 of 64.3 on the test split (people 81.6, cars 83.7, bicycles 66.2, other
vehicles 25.8, of which there are nine; COCO's AP 29.1, AP50 64.3, AP small 25.7), after 80 minutes
on two CPU cores, of one run.
"""

from ml_collections import ConfigDict

from configs.common import (
    default_config,
    model_arguments,
    parse_arguments,
    small_from_scratch,
)


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = default_config()
    small_from_scratch(config)
    config.batch_size = 8
    config.num_steps = 14_000
    config.image_size = (576, 720)  # larger than the images: people are small
    config.log_every = 100
    config.eval_every = 7000
    config.checkpoint_every = 500

    config.data.source = "voc"
    config.data.root = "data/hit_uav"
    config.data.eval_split = "test"
    config.data.ignore_classes = ("DontCare",)
    config.data.repeat_share = 0.3  # of other vehicles, which 4 % of the images have, and bicycles
    config.data.augmentations = (
        ("scale_jitter", {"factors": (0.8, 1.3)}),
        # One try: the best of several would be windows with few objects.
        (
            "random_crop",
            {
                "size": (192, 192),
                "min_visible": 0.3,
                "around_object": 0.9,
                "by_class": True,
                "tries": 1,
            },
        ),
        ("color_jitter", {"saturation": 0.0, "hue": 0.0}),
    )

    config.model.num_classes = 4
    config.model.backbone = "resnet10"
    config.model.base_channels = 32
    config.model.fpn_levels = (3, 5)
    config.model.fusion_stages = (2, 3, 4)
    config.model.anchor_scale = 2.0  # 16 pixels at stride 8
    config.model.anchor_octaves = 2
    config.model.matcher = "atss"
    config.model.retinanet_head.norm = "none"
    config.model.retinanet_head.box_loss = "giou"
    config.model.retinanet_head.average = "batch"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.ema_decay = 0.998
    config.eval.metric = "voc"
    parse_arguments(argument, model_arguments(config))
    return config.lock()
