"""torchvision's side of `train_step.py`: RetinaNet ResNet-50 FPN, one image."""

import time

import torch
from torch_side import serve
from torchvision.models.detection import retinanet_resnet50_fpn

side = 640
model = retinanet_resnet50_fpn(
    weights=None, weights_backbone=None, num_classes=91, min_size=side, max_size=side
).to(memory_format=torch.channels_last)
torch.manual_seed(0)
image = torch.rand(3, side, side)
boxes = torch.rand(8, 2) * 400
target = {"boxes": torch.cat([boxes, boxes + 100], 1), "labels": torch.arange(8)}
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)


def train() -> float:
    """Returns the seconds of one training step."""
    model.train()
    begin = time.perf_counter()
    loss = sum(model([image], [target]).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - begin


def predict() -> float:
    """Returns the seconds of one inference, NMS included."""
    model.eval()
    begin = time.perf_counter()
    with torch.inference_mode():
        model([image])
    return time.perf_counter() - begin


serve(train=train, predict=predict)
