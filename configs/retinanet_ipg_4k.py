"""RetinaNet on a guided ResNet-50 for images of 4096x4096, each divided over eight chips.

    python train.py --config=configs/retinanet_ipg_4k.py --workdir=runs/retinanet_ipg_4k \
        --config.data.train_images=... --config.data.train_annotations=... \
        --config.data.eval_images=... --config.data.eval_annotations=...

For aerial or microscope pictures, whose objects vanish when the picture is made smaller. The eight
chips of a slice `v5e:2x4` hold one image, an eighth of its rows each (`mesh.space`); on larger
slices set `batch_size` to an eighth of the chips. What a step needs, and that a chip by itself is
too small for an image (the second command):

    python -m tools.xla_report --config=configs/retinanet_ipg_4k.py --topology=v5e:2x4 \
        --batch_per_device=1 --image_size=4096x4096
    python -m tools.xla_report --config=configs/retinanet_ipg_4k.py --topology=v5e:2x4 \
        --batch_per_device=1 --image_size=4096x4096 --config.mesh.space=1

The paper's recipe starts from ImageNet weights with frozen norms:
`configs/retinanet_ipg_4k.py:norm=frozen_batch_norm` and `--config.init_from=resnet50.pth`.
Variants by arguments as in `configs/retinanet_ipg.py`; `--config.model.remat=stages` saves more
memory. No result has been measured: it needs accelerators.
"""

from ml_collections import ConfigDict

from configs.common import default_config, model_arguments, parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the config; `argument` is what stands behind the colon."""
    config = default_config()
    config.batch_size = 1
    config.image_size = (4096, 4096)
    config.data.drop_empty = True
    config.mesh.space = 8
    parse_arguments(argument, model_arguments(config))
    return config.lock()
