"""The guided ResNet: a ResNet whose stages may be fused with features of the image pyramid."""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.models.fusion import FUSIONS
from ipg_jax.models.ipg import IPGTransform
from ipg_jax.models.norm import NormKind, norm_factory
from ipg_jax.models.pairs import from_pairs
from ipg_jax.models.relu import relu
from ipg_jax.models.remat import Remat, recomputed
from ipg_jax.models.resnet import ARCHITECTURES, Stage, conv
from ipg_jax.models.stem import (
    StemConv,
    has_pairs_of_blocks,
    in_pixels,
    norm_halves,
    relu_max_pool_3x3,
)
from ipg_jax.types import Array


class GuidedResNet(nn.Module):
    """ResNet-18/34/50/101 with image-pyramid guidance; the plain ResNet with no `fusion_stages`.

    Stage `s` is followed by `O = fusion(f(I_i), R)` for every `s` in `fusion_stages`, with the
    pyramid level `i` that matches its stride (`i = s - 1`, unless `keep`). `O` takes the place of
    the stage's output for the next stage and for whatever reads the backbone (paper, Eq. 1).

    Attributes:
      depth: 18, 34, 50 or 101.
      base_channels: of the stem and within stage 1, doubled at each stage; 64 is the standard
        network, fewer make a narrow one (group norm needs a multiple of 32).
      num_stages: 4 to 7; each stage beyond the fourth is two bottlenecks of stage 4's width
        (section 3.4, Table 3).
      keep: the extra stages have stride 1 instead of 2 ("7(keep)" of Table 3).
      dilation: dilation of the extra stages.
      fusion: `sum`, `product`, `concat` or `attention`; or one of them for each of
        `fusion_stages`, in that order.
      fusion_stages: which stages are guided, counted from 1; empty for the plain ResNet.
      fusion_init: `default`, or `identity` to start as exactly the plain ResNet.
      guidance_channels: `C1`, the width of the pyramid feature of level 0, doubled at each level;
        0 takes the width of stage 1 (256 for ResNet-50 and 101, 64 for 18 and 34).
      norm: kind of norm, of the pyramid's transformations too.
      remat: what the backward pass computes again to save memory. `stages` keeps only what leaves
        a stage, a transformation or a fusion; `full` goes through a stage block by block, which
        needs the least memory and up to two more forward passes.

    Raises:
      ValueError: an attribute is out of range, or (when called) the pyramid has too few levels for
        the guided stages.
    """

    depth: int = 50
    base_channels: int = 64
    num_stages: int = 4
    keep: bool = False
    dilation: int = 1
    fusion: str | tuple[str, ...] = "sum"
    fusion_stages: tuple[int, ...] = (2, 3, 4)
    fusion_init: Literal["default", "identity"] = "default"
    guidance_channels: int = 0
    norm: NormKind = "batch_norm"
    remat: Remat = "none"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.depth not in ARCHITECTURES:
            raise ValueError(f"depth is one of {sorted(ARCHITECTURES)}, not {self.depth}")
        if self.base_channels < 1:
            raise ValueError(f"base_channels is positive, not {self.base_channels}")
        if not 4 <= self.num_stages <= 7:
            raise ValueError(f"num_stages is 4 to 7, not {self.num_stages}")
        names = (self.fusion,) if isinstance(self.fusion, str) else self.fusion
        if not set(names) <= set(FUSIONS):
            raise ValueError(f"fusion is one of {sorted(FUSIONS)}, not {self.fusion!r}")
        if not isinstance(self.fusion, str) and len(self.fusion) != len(self.fusion_stages):
            raise ValueError(
                f"fusion has {len(self.fusion)} names for the {len(self.fusion_stages)} "
                f"fusion_stages {self.fusion_stages}: give one name for all, or one for each"
            )
        if self.fusion_init not in ("default", "identity"):
            raise ValueError(f"fusion_init is default or identity, not {self.fusion_init!r}")
        if self.remat not in get_args(Remat):
            raise ValueError(f"remat is one of {get_args(Remat)}, not {self.remat!r}")
        if not set(self.fusion_stages) <= set(range(1, self.num_stages + 1)):
            raise ValueError(
                f"fusion_stages is a subset of 1..{self.num_stages} (num_stages), "
                f"not {self.fusion_stages}"
            )
        norm_factory(self.norm, train=False, dtype=self.dtype, param_dtype=self.param_dtype)
        super().__post_init__()

    @property
    def strides(self) -> dict[str, int]:
        """Stride of each output, `{"c2": 4, "c3": 8, ...}`."""
        return {
            f"c{s + 1}": 2 ** (1 + (min(s, 4) if self.keep else s))
            for s in range(1, self.num_stages + 1)
        }

    @property
    def pyramid_levels(self) -> int:
        """How many levels of the image pyramid are read: 1 without guidance."""
        return 1 + max((self._level(s) for s in self.fusion_stages), default=0)

    @property
    def _fusions(self) -> dict[int, str]:
        """The fusion of each guided stage."""
        if isinstance(self.fusion, str):
            return dict.fromkeys(self.fusion_stages, self.fusion)
        return dict(zip(self.fusion_stages, self.fusion, strict=True))

    def _level(self, stage: int) -> int:
        """The pyramid level whose feature has the size of this stage's output."""
        return self.strides[f"c{stage + 1}"].bit_length() - 3

    @nn.compact
    def __call__(
        self, pyramid: tuple[Float[Array, "b _ _ _"], ...], *, train: bool
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Returns the output of every stage, `{"c2": stride 4, "c3": stride 8, ...}`.

        `F_i`, `R_i` and `O_i` of each guided stage are sown into `intermediates` under
        `guidance{s}`, `main{s}` and `fused{s}`.

        Args:
          pyramid: normalised images, level `i` at `1 / 2^i` of the size, as they are or in blocks
            of 4x4 pixels (`ops.to_blocks`); levels that no stage needs are not read.
          train: whether batch norm uses and updates batch statistics.
        """
        if len(pyramid) < self.pyramid_levels:
            raise ValueError(
                f"fusion_stages {self.fusion_stages} need {self.pyramid_levels} pyramid levels, "
                f"got {len(pyramid)}"
            )
        architecture = ARCHITECTURES[self.depth]
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        first_features = self.base_channels * architecture.expansion
        first_guidance = self.guidance_channels or first_features

        again = functools.partial(recomputed, enabled=self.remat != "none")

        def with_mode(module: nn.Module, x: Array) -> Array:
            return module(x, train=train)

        def stem(_: nn.Module, image: Array) -> Array:
            channels = self.base_channels
            bn1 = norm_factory(self.norm, train=train, **types)(name="bn1")
            if has_pairs_of_blocks(image):
                conv1 = StemConv(channels, name="conv1", **types)
                halves = norm_halves(bn1, conv1.rows(image), channels)
                return from_pairs(relu_max_pool_3x3(*halves))
            x = bn1(conv(channels, 7, strides=2, name="conv1", **types)(in_pixels(image)))
            # The same as the maxima of ReLUs, for a quarter of them.
            return relu(nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))

        def transformed(stage: int) -> Array:
            level = self._level(stage)
            transform = IPGTransform(
                first_guidance * 2**level,
                norm=self.norm,
                name=f"ipg{stage}",
                **types,
            )
            return again(with_mode, transform, pyramid[level])

        x = again(stem, self, pyramid[0])
        outputs = {}
        for stage in range(1, self.num_stages + 1):
            extra = stage > 4
            layer = Stage(
                features=first_features * 2 ** (min(stage, 4) - 1),
                num_blocks=2 if extra else architecture.blocks[stage - 1],
                strides=1 if stage == 1 or (extra and self.keep) else 2,
                dilation=self.dilation if extra else 1,
                bottleneck=extra or architecture.bottleneck,
                norm=self.norm,
                remat=self.remat == "full",
                name=f"layer{stage}",
                **types,
            )
            x = again(with_mode, layer, x)
            if stage in self._fusions:
                guidance = transformed(stage)
                self.sow("intermediates", f"guidance{stage}", guidance)
                self.sow("intermediates", f"main{stage}", x)
                fusion = FUSIONS[self._fusions[stage]](
                    identity_init=self.fusion_init == "identity", name=f"fusion{stage}", **types
                )
                x = again(lambda fuse, *both: fuse(*both), fusion, guidance, x)
                self.sow("intermediates", f"fused{stage}", x)
            outputs[f"c{stage + 1}"] = x
        return outputs
