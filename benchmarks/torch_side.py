"""torchvision's side of the comparisons on accelerators, with AMP in bfloat16, channels last.

Imported by an interpreter that may lack JAX.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
import torchvision
from torch_process import in_turns
from torchvision.models.detection import (
    FasterRCNN,
    RetinaNet,
    fasterrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

Compile = Literal["", "parts", "whole"]


def make_model(detector: str, *, height: int, width: int, toy: bool = False) -> Any:
    """Returns torchvision's detector for images of one size, with fresh weights.

    Args:
      detector: `retinanet` or `faster_rcnn`.
      height: of the images, as is `width`.
      width: the longer side.
      toy: a ResNet-18 in the place of the ResNet-50.
    """
    torch.manual_seed(0)
    options = {"num_classes": 91, "min_size": height, "max_size": width}
    retinanet = detector == "retinanet"
    if toy:
        backbone = resnet_fpn_backbone(
            backbone_name="resnet18",
            weights=None,
            returned_layers=[2, 3, 4] if retinanet else [1, 2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256) if retinanet else None,
        )
        return (RetinaNet if retinanet else FasterRCNN)(backbone, **options)
    make = retinanet_resnet50_fpn if retinanet else fasterrcnn_resnet50_fpn
    return make(weights=None, weights_backbone=None, **options)


def compile_parts(model: Any, how: Compile, *, backend: str) -> Any:
    """Returns the model with `torch.compile` on all of it, or on what has fixed shapes.

    The latter are the backbone and the heads; around them, lists of images and boxes whose number
    depends on the data break the graph.
    """
    if how == "whole":
        return torch.compile(model, backend=backend)
    if how == "parts":
        model.backbone.compile(backend=backend)
        heads = [model.head] if isinstance(model, RetinaNet) else [model.rpn.head]
        for head in heads:
            head.compile(backend=backend)
        if not isinstance(model, RetinaNet):  # the number of proposals may change
            model.roi_heads.box_head.compile(backend=backend, dynamic=True)
    return model


class Side:
    """A detector on one device, with a batch of noise whose images have eight objects.

    Attributes:
      device: where.
      images: of the batch.
    """

    def __init__(
        self,
        detector: str,
        shape: tuple[int, int, int],
        *,
        compiled: Compile = "",
        toy: bool = False,
    ) -> None:
        self.images, height, width = shape
        self.device = torch.device("cpu" if toy else "cuda")
        if toy:
            torch.set_num_threads(1)  # several wait for each other on a busy machine
        torch.backends.cudnn.benchmark = True  # XLA tries its convolutions out, too
        torch.set_float32_matmul_precision("high")
        module = make_model(detector, height=height, width=width, toy=toy)
        self._module = module.to(self.device, memory_format=torch.channels_last)
        backend = "eager" if toy else "inductor"
        self._model = compile_parts(self._module, compiled, backend=backend)
        self._optimizer = torch.optim.SGD(
            self._module.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4
        )
        self._batch = list(torch.rand(self.images, 3, height, width, device=self.device))
        sides = torch.tensor([width, height, width, height], device=self.device)
        self._targets = []
        for _ in range(self.images):
            corners = 0.7 * torch.rand(8, 2, device=self.device)
            boxes = torch.cat([corners, corners + 0.25], 1) * sides
            labels = torch.arange(1, 9, device=self.device)
            self._targets.append({"boxes": boxes, "labels": labels})

    def _amp(self) -> Any:
        # Many CPUs take minutes for a convolution in bfloat16.
        enabled = self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def train(self) -> Any:
        """Makes one training step."""
        self._module.train()
        with self._amp():
            loss = sum(self._model(self._batch, self._targets).values())
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss

    def predict(self) -> Any:
        """Finds objects in the batch."""
        self._module.eval()
        with torch.inference_mode(), self._amp():
            return self._model(self._batch)

    def make_busy(self) -> None:
        """Lets NMS have what `jax_side.Programs.make_busy` gives it."""
        with torch.no_grad():
            if isinstance(self._module, RetinaNet):
                self._module.head.classification_head.cls_logits.bias.zero_()
            else:
                self._module.roi_heads.box_predictor.cls_score.bias[1:4] = 3.0

    def figures(self, call: Callable[[], Any], *, seconds: float = 3.0) -> dict[str, Any]:
        """Returns time and memory of a call, and the time of the first one, which compiles.

        Args:
          call: `train` or `predict`.
          seconds: how long to measure.
        """
        on_gpu = self.device.type == "cuda"

        def wait(_: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()

        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        wait(call())
        first = time.perf_counter() - begin
        times = in_turns({"": call}, wait, seconds=seconds)[""]
        median = statistics.median(times)
        return {
            "seconds": median,
            "fastest_seconds": min(times),
            "samples": len(times),
            "images_per_second": self.images / median,
            "first_call_seconds": first,
            "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        }


def about() -> dict[str, Any]:
    """Returns the device and the versions."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
    }
