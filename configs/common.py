"""What every config starts from: all fields, with their defaults and meanings.

A config file changes what it needs and documents the command and the result to expect. Fields can
be overridden on the command line (`--config.batch_size=16`); the config is locked, so a misspelt
name is an error. A field of `placeholder(type)` is None, not set, until it gets a value. What each
field may hold, its limits for instance, is in `ipg_jax/training/build_fields.py`.
"""

import difflib
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

MOVED = {
    "depth": "backbone, such as resnet50",
    "head_convs": "retinanet_head.convs or config.model.box_head.convs",
    "head_channels": "retinanet_head.channels or config.model.box_head.conv_channels",
    "head_norm": "retinanet_head.norm or config.model.box_head.norm",
    "box_loss": "retinanet_head.box_loss",
    "head_fcs": "box_head.fcs",
    "head_fc_channels": "box_head.fc_channels",
    "rois_per_image": "box_head.rois_per_image",
    "rpn_convs": "rpn.convs",
    "rpn_candidates": "rpn.candidates",
    "rpn_proposals": "rpn.proposals",
}
"""Fields of `config.model` in version 0.1, and what they are called now."""


class ModelConfig(ConfigDict):
    """`config.model`, in which a name of version 0.1 is an error that says the new one."""

    def __getitem__(self, key: str) -> Any:
        _check_name(key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        _check_name(key)
        super().__setitem__(key, value)


def _check_name(key: str) -> None:
    if key in MOVED:
        raise KeyError(f"config.model.{key} is now config.model.{MOVED[key]}")


def default_config() -> ConfigDict:
    """Returns the defaults: the paper's recipe for COCO with a ResNet-50."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32  # of all devices together; one beyond the data repeats images
    config.num_epochs = 12.0
    config.num_steps = placeholder(int)  # if set, instead of num_epochs
    config.image_size = (800, 1333)  # short side at least this, long side at most that, in pixels
    # To start from: a workdir or checkpoints/<step> of another run, or a file of weights
    config.init_from = placeholder(str)
    config.init_missing = placeholder(str)  # arrays it may lack: regular expression of whole paths
    config.init_unexpected = placeholder(str)  # arrays of it to ignore: the same

    # Where metrics and pictures are shown, besides metrics.jsonl and samples/: any of tensorboard,
    # wandb and mlflow, of which the last two are extras (docs/trackers.md)
    config.trackers = ("tensorboard",)
    config.log_every = 50  # in steps, as the next two
    config.checkpoint_every = 1000
    # Not set: after each epoch, or never if there are no evaluation data
    config.eval_every = placeholder(int)
    config.eval_only_at_end = False  # whatever eval_every is
    config.keep_checkpoints = 3  # the newest, besides the best
    config.verify_checkpoints = True  # write and compare checksums of their files

    config.data = ConfigDict()
    config.data.source = "coco"  # tfds | coco | voc | yolo | huggingface | digits
    # coco: folders with the images, JSON files with the annotations; without eval_annotations (an
    # empty text) a run is not evaluated, as without eval_split or eval_scenes of the others
    config.data.train_images = "data/coco/train2017"
    config.data.train_annotations = "data/coco/annotations/instances_train2017.json"
    config.data.eval_images = "data/coco/val2017"
    config.data.eval_annotations = "data/coco/annotations/instances_val2017.json"
    # voc: a folder with JPEGImages, Annotations and ImageSets/Main, a folder of such folders, or a
    # folder with a flat one, of images and XML files, for each split; "." is all, without lists
    # yolo: data.yaml, or the folder that it lies in
    # huggingface: what save_to_disk of datasets wrote, or parquet files
    config.data.root = placeholder(str)
    # tfds: name of a prepared data set, and where it lies (local or gs://; not set: TFDS's default)
    config.data.name = placeholder(str)
    config.data.data_dir = placeholder(str)
    # tfds: corners are VOC's, first and last pixel counted from 1; not set: of voc and bccd
    config.data.one_based = placeholder(bool)
    # voc, yolo, huggingface, tfds and digits (train | eval): which splits; voc and tfds join them
    # by "+"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    # coco, voc, yolo and huggingface: evaluate on about this share of the training data and train
    # on the rest, whatever the fields of the evaluation data say; by a hash of the seed and each
    # image's id
    config.data.eval_share = 0.0
    config.data.split_seed = 0
    # digits: how many scenes, and their side in pixels
    config.data.train_scenes = 4000
    config.data.eval_scenes = 200
    config.data.scene_size = 192
    # Classes to learn, in the order of the labels; not set: those of the data. Others that have
    # objects are an error, unless the next field names them
    config.data.class_names = placeholder(tuple)
    # Classes of the data whose objects are regions to ignore, of no class: ("DontCare",), say
    config.data.ignore_classes = ()
    # Images come more often that hold a class which less than this share of them has (LVIS's rule);
    # not set: all come equally often
    config.data.repeat_share = placeholder(float)
    config.data.repeat_small = 1.0  # how often images come with an object below 32 x 32 pixels
    config.data.drop_empty = False  # leave images without objects out of training
    config.data.max_boxes = placeholder(int)  # objects per image at most; not set: no limit
    # Train on tiles of (height, width) pixels of the images, each resized as an image would be; not
    # set: on whole images
    config.data.tile = placeholder(tuple)
    config.data.tile_overlap = 0.2  # share of a tile's sides that neighbours have in common
    # Objects of which a tile's border leaves a smaller share are regions to ignore; crops and
    # mosaics have an option of that name, with the same default
    config.data.min_visible = 0.5
    config.data.empty_tiles = 1.0  # share that is kept of the tiles without objects to learn from
    # MiB of decoded images that are kept to cut tiles from, for training and for evaluation each
    config.data.tile_cache = 1024
    config.data.flip = 0.5  # probability of a horizontal flip
    # Further random changes of training images, in their order (docs/augmentation.md): names of
    # ipg_jax.data.AUGMENTATIONS, or pairs ("random_crop", {"size": (512, 512)}) with options
    config.data.augmentations = ()
    # Multi-scale training: ((480, 800), (640, 1066)), say, of which each batch has one at random
    # in the place of image_size; evaluation keeps that
    config.data.train_sizes = placeholder(tuple)
    # Deliver images in blocks of 4x4 pixels, which TPUs read faster; not set: on TPUs
    config.data.space_to_depth = placeholder(bool)
    config.data.verify = "headers"  # at start-up: headers | decode | none
    # Share of images that may be missing or unreadable: of those that the annotations list, of the
    # last 1000 in training, and of an evaluation's
    config.data.max_unreadable = 0.1
    config.data.max_image_pixels = 89_478_485  # larger images are not read
    # Bits that are used in PNG and TIFF files of 16 or 32 bits a value, such as 12 or 16; not set:
    # these are not read
    config.data.sample_bits = placeholder(int)
    # EXIF orientations: auto (apply unless the annotated size says not to) | apply | ignore
    config.data.exif = "auto"

    config.model = ModelConfig()
    config.model.detector = "retinanet"  # retinanet | faster_rcnn | cascade_rcnn
    config.model.num_classes = 80
    # resnet10 | resnet18 | resnet34 | resnet50 | resnet101 | convnext_tiny | convnext_small
    config.model.backbone = "resnet50"
    # Channels of stage 1 (within its blocks), doubled at each stage; not set: the standard ones
    config.model.base_channels = placeholder(int)
    config.model.num_stages = 4  # 4 to 7; ResNets only, as the next two
    config.model.keep = False  # stages beyond the fourth keep the resolution
    config.model.dilation = 1  # of the stages beyond the fourth
    config.model.norm = "batch_norm"  # of a ResNet: frozen_batch_norm | batch_norm | group_norm
    # Of what is added to it, the transformations and the stages beyond the fourth: the same; not
    # set: group_norm where model.norm is frozen, and else model.norm
    config.model.new_norm = placeholder(str)
    config.model.fusion = "sum"  # sum | product | concat | attention
    config.model.fusion_stages = (2, 3, 4)  # () for the plain ResNet
    # default | identity; not set: with init_from the identity, except for product, else the default
    config.model.fusion_init = placeholder(str)
    config.model.guidance_channels = placeholder(int)  # C1; not set: the width of stage 1
    config.model.neck = "fpn"
    # First and last level; not set: P3 to P(num_stages + 3) for retinanet, for the others P2 to
    # P(num_stages + 2)
    config.model.fpn_levels = placeholder(tuple)
    config.model.fpn_channels = 256
    config.model.fpn_extra = "c"  # coarser levels from: c (backbone) | p (last output) | pool
    config.model.fpn_norm = "none"  # none, or one of those of model.norm
    # Side of a level's smallest anchor, in units of 2^level: its stride, unless `keep` holds that
    config.model.anchor_scale = 4.0
    config.model.anchor_octaves = 3  # sizes per level, 2^(i / octaves) apart
    config.model.anchor_ratios = (0.5, 1.0, 2.0)  # height / width
    # Which anchors learn to find which object, of retinanet and of the others' proposals:
    # iou | atss | nwd | rfla
    config.model.matcher = "iou"
    # Of iou: IoU from which an anchor is positive and below which it is negative; not set: 0.5 and
    # 0.4 for retinanet, 0.7 and 0.3 for proposals
    config.model.foreground_iou = placeholder(float)
    config.model.background_iou = placeholder(float)
    # Anchors and rois of whose area so much lies in an object to ignore are no background; not set:
    # such objects are only no targets
    config.model.ignore_overlap = placeholder(float)
    config.model.ignore_overlap = 0.5
    # Of the matcher and the box loss nwd: a length in pixels, about the objects' mean side
    config.model.nwd_constant = 12.7
    # Form of the kernels: reference | fast; not set: what is faster on the platform
    config.model.kernels = placeholder(str)
    config.model.dtype = "bfloat16"  # of the computation: bfloat16 | float32
    config.model.param_dtype = "float32"
    # Activations to compute again in the backward pass, for less memory: none | stages (keep what
    # leaves a stage) | full (also go block by block, and compute RetinaNet's towers again)
    config.model.remat = "none"

    config.model.retinanet_head = ConfigDict()  # of retinanet
    config.model.retinanet_head.convs = 4  # of each of the two towers
    config.model.retinanet_head.channels = 256
    config.model.retinanet_head.norm = "none"  # none | group_norm
    # l1 | smooth_l1 (of encoded boxes) | giou | diou | ciou | nwd (of decoded ones)
    config.model.retinanet_head.box_loss = "l1"
    config.model.retinanet_head.class_loss = "focal"  # focal | quality_focal | varifocal
    # Losses are divided by the number of positive anchors of each image, or of the batch, where an
    # object counts as much among many as alone: image | batch
    config.model.retinanet_head.average = "image"
    config.model.retinanet_head.candidates_per_level = 1000  # (box, class) pairs that enter NMS

    config.model.rpn = ConfigDict()  # of faster_rcnn and cascade_rcnn, as the next
    config.model.rpn.convs = 1
    config.model.rpn.candidates = (2000, 1000)  # of a level, in training and in prediction
    config.model.rpn.proposals = (2000, 1000)  # of an image, after NMS: the same

    config.model.box_head = ConfigDict()
    config.model.box_head.convs = 0  # before the fully connected layers
    config.model.box_head.conv_channels = 256
    config.model.box_head.fcs = 2
    config.model.box_head.fc_channels = 1024
    config.model.box_head.norm = "none"  # of its convolutions: none | batch_norm
    config.model.box_head.rois_per_image = 512  # proposals that it is trained on

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd | adamw
    config.optimizer.learning_rate = 0.01
    config.optimizer.batch_size = 32  # the learning rate is for this batch, and scaled linearly
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    # Parameters without decay, and those that are not trained: regular expressions of whole paths
    config.optimizer.no_decay = placeholder(str)
    config.optimizer.frozen = placeholder(str)
    config.optimizer.clip_norm = placeholder(float)  # largest norm of the gradient
    config.optimizer.schedule = "step"  # step | cosine
    config.optimizer.milestones = (7.0, 11.0)  # epochs at which the rate is multiplied by 0.1
    config.optimizer.warmup_steps = 500
    config.optimizer.warmup_factor = 1 / 3
    config.optimizer.accumulation = 1  # micro-batches per step
    # If set, the decay of an average of parameters and norms' statistics that is evaluated in
    # their place; less in the first steps
    config.optimizer.ema_decay = placeholder(float)

    config.eval = ConfigDict()
    config.eval.batch_size = placeholder(int)  # not set: that of training
    # Which table is printed: coco | voc | aitod | visdrone. COCO's and VOC's figures are always
    # computed, and COCO's AP decides which checkpoint is the best
    config.eval.metric = "coco"
    config.eval.score_threshold = 0.05
    config.eval.nms = "greedy"  # greedy | soft_linear | soft_gaussian
    config.eval.nms_iou = 0.5  # of greedy and soft_linear
    config.eval.nms_sigma = 0.5  # of soft_gaussian
    # Boxes kept per image, and how many COCO's, AI-TOD's and VisDrone's figures count; not set: as
    # eval.metric wants, 100, of aitod 1500, of visdrone 500
    config.eval.max_detections = placeholder(int)
    # Size classes of coco and aitod, (name, from, to) by the square root of an object's area, in
    # pixels of the original image: (("tiny", 0, 16), ("small", 16, 32)), say; not set: their own
    config.eval.area_ranges = placeholder(tuple)
    # Test-time augmentation: ((500, 800), (600, 1000)), say, in the place of image_size; and
    # whether every image is looked at mirrored as well
    config.eval.scales = placeholder(tuple)
    config.eval.flips = False
    # What is scored, each by itself: whole (images) | tiled (their tiles, merged) | both (tiles and
    # the whole image, merged). The first decides which checkpoint is the best
    config.eval.detected = ("whole",)
    config.eval.tile = placeholder(tuple)  # (height, width); not set: data.tile
    config.eval.tile_overlap = 0.2
    config.eval.merge = "nms"  # of the boxes of tiles: nms | greedy_nmm
    config.eval.merge_metric = "iou"  # overlap of boxes: iou | ios (over the smaller box)
    config.eval.merge_threshold = 0.5  # boxes of one class that overlap by that much are one
    config.eval.samples = 4  # pictures of predictions beside the ground truth

    config.mesh = ConfigDict()
    # Groups of devices, each with a copy of the state, and devices of such a group, which hold one
    # together; both divide the batch. One that is not set takes all the other leaves; if neither
    # is set, every device has a copy
    config.mesh.data = placeholder(int)
    config.mesh.fsdp = placeholder(int)
    config.mesh.space = 1  # devices along the image height
    return config


def two_stage(config: ConfigDict, detector: str) -> None:
    """Sets the model of Faster or Cascade R-CNN with an FPN: P2 to P5, and P6 for proposals."""
    config.model.detector = detector
    config.model.fpn_levels = None
    config.model.fpn_extra = "pool"
    config.model.anchor_scale = 8.0
    config.model.anchor_octaves = 1


def small_from_scratch(config: ConfigDict) -> None:
    """Sets a narrow ResNet-18 detector and a recipe that trains it from scratch in minutes."""
    config.model.backbone = "resnet18"
    config.model.fpn_channels = 64
    config.model.retinanet_head.convs = 2
    config.model.retinanet_head.channels = 64
    config.model.retinanet_head.norm = "group_norm"
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
        try:
            setters[name](value)
        except ValueError as error:
            raise ValueError(f"config argument {item!r}: {error}") from error


def model_arguments(config: ConfigDict) -> dict[str, Callable[[str], None]]:
    """Returns setters for the model variants of the paper: `fusion=product,depth=101,stages=3`.

    `stages` names the guided stages by their digits: `stages=234`, `stages=` for none. `keep=1` is
    the "keep" of Table 3.
    """

    def set_field(name: str, kind: Callable[[str], Any]) -> Callable[[str], None]:
        return lambda text: config.model.__setitem__(name, kind(text))

    return {
        "backbone": set_field("backbone", str),
        "depth": set_field("backbone", lambda text: f"resnet{int(text)}"),
        "num_stages": set_field("num_stages", int),
        "keep": set_field("keep", lambda text: bool(int(text))),
        "fusion": set_field("fusion", str),
        "stages": set_field("fusion_stages", lambda text: tuple(map(int, text))),
        "fusion_init": set_field("fusion_init", str),
        "norm": set_field("norm", str),
        "dtype": set_field("dtype", str),
    }
