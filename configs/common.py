"""What every config starts from: all fields, with their defaults and meanings.

A config file changes what it needs and documents the command and the result to expect. Fields can
be overridden on the command line (`--config.batch_size=16`); the config is locked, so a misspelt
name is an error.
"""

import difflib
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict, config_dict


def default_config() -> ConfigDict:
    """Returns the defaults: the paper's recipe for COCO with a ResNet-50."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32  # of all devices together
    config.num_epochs = 12.0
    config.num_steps = 0  # if not 0, instead of num_epochs
    config.image_size = (800, 1333)  # short side at least this, long side at most that, in pixels
    # To start from: a workdir or checkpoints/<step> of another run, or a file of weights
    config.init_from = ""
    config.init_missing = ""  # arrays it may lack: regular expression of whole paths
    config.init_unexpected = ""  # arrays it may have for nothing: the same

    config.log_every = 50  # in steps, as the next two
    config.eval_every = 0  # 0: after each epoch; -1: only at the end
    config.checkpoint_every = 1000
    config.keep_checkpoints = 3  # the newest, besides the best

    config.data = ConfigDict()
    config.data.source = "coco"  # tfds | coco | voc | digits
    # coco: folders with the images, JSON files with the annotations
    config.data.train_images = "data/coco/train2017"
    config.data.train_annotations = "data/coco/annotations/instances_train2017.json"
    config.data.eval_images = "data/coco/val2017"
    config.data.eval_annotations = "data/coco/annotations/instances_val2017.json"
    # voc: a folder with JPEGImages, Annotations and ImageSets/Main, or a folder of such folders
    config.data.root = ""
    # tfds: name of a prepared data set, and where it lies (local or gs://; empty: TFDS's default)
    config.data.name = ""
    config.data.data_dir = ""
    # voc, tfds and digits (train | eval): which splits; voc and tfds join them by "+"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    # digits: how many scenes, and their side in pixels
    config.data.train_scenes = 4000
    config.data.eval_scenes = 200
    config.data.scene_size = 192
    config.data.class_names = ()  # empty: read from the data
    config.data.drop_empty = False  # leave images without objects out of training
    config.data.max_boxes = 0  # objects per image; 0: as many as the data has
    config.data.flip = 0.5  # probability of a horizontal flip
    # Deliver images in blocks of 4x4 pixels, which TPUs read faster; None: on TPUs
    config.data.space_to_depth = config_dict.placeholder(bool)
    config.data.verify = "headers"  # at start-up: headers | decode | none

    config.model = ConfigDict()
    config.model.detector = "retinanet"  # retinanet | faster_rcnn | cascade_rcnn
    config.model.num_classes = 80
    config.model.depth = 50  # 18 | 34 | 50 | 101
    config.model.base_channels = 64  # of the stem, doubled at each stage; fewer: a narrow ResNet
    config.model.num_stages = 4  # 4 to 7
    config.model.keep = False  # stages beyond the fourth keep the resolution
    config.model.dilation = 1  # of the stages beyond the fourth
    config.model.norm = "batch_norm"  # frozen_batch_norm | batch_norm | group_norm
    config.model.fusion = "sum"  # sum | product | concat | attention
    config.model.fusion_stages = (2, 3, 4)  # () for the plain ResNet
    config.model.fusion_init = "default"  # default | identity
    config.model.guidance_channels = 0  # C1; 0: the width of stage 1
    config.model.fpn_levels = (3, 7)  # first and last, P2 to P8
    config.model.fpn_channels = 256
    config.model.fpn_extra = "c"  # coarser levels from: c (backbone) | p (last output) | pool
    config.model.fpn_norm = "none"  # none, or one of those of model.norm
    config.model.head_convs = 4
    config.model.head_channels = 256
    config.model.head_norm = "none"  # none; retinanet: group_norm; the others: batch_norm
    config.model.anchor_scale = 4.0  # side of a level's smallest anchor, in strides
    config.model.anchor_octaves = 3  # sizes per level, 2^(i / octaves) apart
    config.model.anchor_ratios = (0.5, 1.0, 2.0)  # height / width
    config.model.box_loss = "l1"  # of retinanet: l1 | smooth_l1 | giou
    # Two-stage detectors only: the box head's fully connected layers, the proposal network, how
    # many of a level's anchors and then of an image's proposals it keeps (training, prediction),
    # and how many of them the box head is trained on
    config.model.head_fcs = 2
    config.model.head_fc_channels = 1024
    config.model.rpn_convs = 1
    config.model.rpn_candidates = (2000, 1000)
    config.model.rpn_proposals = (2000, 1000)
    config.model.rois_per_image = 512
    config.model.dtype = "bfloat16"  # of the computation: bfloat16 | float32
    config.model.param_dtype = "float32"
    # Activations to compute again in the backward pass, for less memory: none | stages (keep what
    # leaves a stage) | full (also go block by block, and compute RetinaNet's towers again)
    config.model.remat = "none"

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd | adamw
    config.optimizer.learning_rate = 0.01
    config.optimizer.batch_size = 32  # the learning rate is for this batch, and scaled linearly
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.no_decay = ""  # parameters without decay: regular expression of whole paths
    config.optimizer.frozen = ""  # parameters that are not trained: the same
    config.optimizer.clip_norm = 0.0  # 0: no clipping
    config.optimizer.schedule = "step"  # step | cosine
    config.optimizer.milestones = (7.0, 11.0)  # epochs at which the rate is multiplied by 0.1
    config.optimizer.warmup_steps = 500
    config.optimizer.warmup_factor = 1 / 3
    config.optimizer.accumulation = 1  # micro-batches per step
    config.optimizer.ema_decay = 0.0  # of an average of the parameters to evaluate with; 0: none

    config.eval = ConfigDict()
    config.eval.batch_size = 0  # 0: that of training
    config.eval.metric = "coco"  # coco | voc: which table is printed; AP is always COCO's
    config.eval.score_threshold = 0.05
    config.eval.nms = "greedy"  # greedy | soft_linear | soft_gaussian
    config.eval.nms_iou = 0.5  # of greedy and soft_linear
    config.eval.nms_sigma = 0.5  # of soft_gaussian
    config.eval.max_detections = 100
    # Test-time augmentation: ((500, 800), (600, 1000)), say, in the place of image_size; and
    # whether every image is looked at mirrored as well
    config.eval.scales = ()
    config.eval.flips = False
    config.eval.samples = 4  # pictures of predictions beside the ground truth

    config.mesh = ConfigDict()
    config.mesh.data = -1  # groups of devices that divide the batch; -1: all the rest
    config.mesh.fsdp = 1  # devices of such a group, which hold one copy of the state; -1: all
    config.mesh.space = 1  # devices along the image height
    return config


def two_stage(config: ConfigDict, detector: str) -> None:
    """Sets the model of Faster or Cascade R-CNN with an FPN: P2 to P5, and P6 for proposals."""
    config.model.detector = detector
    config.model.fpn_levels = (2, config.model.num_stages + 2)
    config.model.fpn_extra = "pool"
    config.model.head_convs = 0
    config.model.anchor_scale = 8.0
    config.model.anchor_octaves = 1


def small_from_scratch(config: ConfigDict) -> None:
    """Sets a narrow ResNet-18 detector and a recipe that trains it from scratch in minutes."""
    config.model.depth = 18
    config.model.fpn_channels = 64
    config.model.head_convs = 2
    config.model.head_channels = 64
    config.model.head_norm = "group_norm"
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


def parse_arguments(argument: str | None, setters: dict[str, Callable[[str], None]]) -> None:
    """Applies the part of `--config=file.py:k=v,k=v` behind the colon.

    Args:
      argument: that part, or None.
      setters: for each name, what sets it from its text.

    Raises:
      ValueError: an unknown name, with the nearest known one; or an argument without `=`.
    """
    for item in filter(None, (argument or "").split(",")):
        name, equals, value = item.partition("=")
        if name not in setters or not equals:
            near = difflib.get_close_matches(name, setters, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near and near[0] != name else ""
            raise ValueError(
                f"config arguments are k=v with k in {sorted(setters)}, not {item!r}{hint}"
            )
        setters[name](value)


def model_arguments(config: ConfigDict) -> dict[str, Callable[[str], None]]:
    """Returns setters for the model variants of the paper: `fusion=product,depth=101,stages=3`.

    `stages` names the guided stages by their digits: `stages=234`, `stages=` for none. `keep=1` is
    the "keep" of Table 3.
    """

    def set_field(name: str, kind: Callable[[str], Any]) -> Callable[[str], None]:
        return lambda text: config.model.__setitem__(name, kind(text))

    return {
        "depth": set_field("depth", int),
        "num_stages": set_field("num_stages", int),
        "keep": set_field("keep", lambda text: bool(int(text))),
        "fusion": set_field("fusion", str),
        "stages": set_field("fusion_stages", lambda text: tuple(map(int, text))),
        "fusion_init": set_field("fusion_init", str),
        "norm": set_field("norm", str),
        "dtype": set_field("dtype", str),
    }
