"""A run of seconds for tests, as a config and as command-line flags."""

import os
import socket
from collections.abc import Sequence

from ml_collections import ConfigDict

from configs import digits_ipg


def make_tiny_config() -> ConfigDict:
    """A run of seconds: scenes of 64 pixels, a narrow ResNet-10 guided at stage 2."""
    config = digits_ipg.get_config("stages=2").unlock()
    config.batch_size = 8
    config.num_steps = 6
    config.image_size = (64, 64)
    config.log_every = 1
    config.eval_only_at_end = True
    config.checkpoint_every = 2
    config.data.scene_size = 64
    config.data.train_scenes = 20
    config.data.eval_scenes = 10
    config.model.backbone = "resnet10"
    config.model.base_channels = 16
    config.model.fpn_levels = (3, 4)
    config.model.fpn_channels = 32
    config.model.retinanet_head.convs = 1
    config.model.retinanet_head.channels = 32
    # Adam's first steps are sign(gradient), which turns rounding into differences of order one.
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup_steps = 2
    config.eval.samples = 2
    config.eval.score_threshold = 0.0  # six steps teach little: compare what there is
    return config.lock()


def as_flags(config: ConfigDict) -> list[str]:
    """Command-line overrides that turn `configs/digits_ipg.py` into `config`."""
    base = digits_ipg.get_config()

    def walk(new: ConfigDict, old: ConfigDict, prefix: str) -> list[str]:
        flags = []
        for name, value in new.items():
            if isinstance(value, ConfigDict):
                flags += walk(value, old[name], f"{prefix}.{name}")
            elif value != old[name]:
                flags.append(f"{prefix}.{name}={value}")
        return flags

    return walk(config, base, "--config")


def process_environments(devices: Sequence[int]) -> list[dict[str, str]]:
    """Environments of processes on this machine that make up one run, with so many devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        os.environ
        | {
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", f"count={count}"),
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(len(devices)),
            "JAX_PROCESS_ID": str(index),
        }
        for index, count in enumerate(devices)
    ]
