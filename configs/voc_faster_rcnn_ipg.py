"""The paper's Pascal VOC experiment (Table 6): IPG RCNN, VOC07+12 trainval -> VOC07 test.

    python train.py --config=configs/voc_faster_rcnn_ipg.py:norm=frozen_batch_norm \
        --workdir=runs/voc_faster_rcnn_ipg --config.init_from=resnet50.pth \
        --config.data.root=VOCdevkit

`VOCdevkit` holds the folders VOC2007 and VOC2012. 1000x600, guided at stage 3, from ImageNet
weights with frozen norms, as the paper. `stages=` is the table's baseline, `depth=101` its larger
model. The "++" rows are tests at three scales:

    python eval.py --workdir=runs/voc_faster_rcnn_ipg \
        --config.eval.scales="((500, 800), (600, 1000), (800, 1333))"

The paper reports AP50 80.5 and, with three scales, 81.6; with ResNet-101, fine-tuned from COCO,
84.8 and 85.9. The result has not been measured here: it needs accelerators.
"""

from ml_collections import ConfigDict

from configs.common import default_config, model_arguments, parse_arguments, two_stage

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = default_config()
    config.image_size = (600, 1000)
    config.data.source = "voc"
    config.data.root = "data/VOCdevkit"
    config.data.train_split = "VOC2007/trainval+VOC2012/trainval"
    config.data.eval_split = "VOC2007/test"
    config.data.class_names = CLASSES
    config.model.num_classes = len(CLASSES)
    config.model.fusion_stages = (3,)
    config.eval.metric = "voc"
    parse_arguments(argument, model_arguments(config))
    two_stage(config, "faster_rcnn")
    return config.lock()
