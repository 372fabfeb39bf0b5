"""Image-pyramid guidance of a backbone."""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import flax.linen as nn
from jaxtyping import Float

from ipg_jax.layers import NormKind, Remat, maybe_remat, norm_layer
from ipg_jax.models.backbones.base import Backbone
from ipg_jax.models.ipg.fusion import FUSIONS
from ipg_jax.models.ipg.transform import IPGTransform
from ipg_jax.types import Array, PackedPyramid, Pyramid


class IPGNet(nn.Module):
    """A backbone whose stages are fused with features of the image pyramid (paper, Eq. 1).

    Stage `s` is followed by `O = fusion(f(I_i), R)` for every `s` in `fusion_stages`, with the
    pyramid level `i` that matches its stride. `O` takes the place of the stage's output for the
    next stage and for whatever reads the backbone. Without `fusion_stages` it is the backbone.

    Its parameters are the backbone's, and beside them `ipg{s}` and `fusion{s}`.

    Attributes:
      backbone: what is guided.
      fusion: a name of `FUSIONS`; or one for each of `fusion_stages`, in that order.
      fusion_stages: which stages are guided, counted from 1.
      fusion_init: `default`, or `identity` to start as exactly the backbone.
      guidance_channels: `C1`, the width of the pyramid feature of level 0, doubled at each level;
        by default the width of stage 1.
      norm: kind of norm of the transformations.
      remat: what the backward pass computes again to save memory. With `stages` or `full`, only
        what leaves a stage, a transformation or a fusion is kept.

    Raises:
      ValueError: an attribute is out of range, or (when called) the pyramid has too few levels for
        the guided stages.
    """

    backbone: Backbone
    fusion: str | tuple[str, ...] = "sum"
    fusion_stages: tuple[int, ...] = (2, 3, 4)
    fusion_init: Literal["default", "identity"] = "default"
    guidance_channels: int | None = None
    norm: NormKind = "batch_norm"
    remat: Remat = "none"

    def __post_init__(self) -> None:
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
        stages = range(1, len(self.backbone.strides) + 1)
        if not set(self.fusion_stages) <= set(stages):
            raise ValueError(
                f"fusion_stages is a subset of 1..{len(stages)} (num_stages), "
                f"not {self.fusion_stages}"
            )
        norm_layer(self.norm)
        super().__post_init__()

    @property
    def strides(self) -> dict[str, int]:
        """Stride of each output, `{"c2": 4, "c3": 8, ...}`."""
        return self.backbone.strides

    @property
    def dtype(self) -> Any:
        """Type of the computation."""
        return self.backbone.dtype

    @property
    def pyramid_levels(self) -> int:
        """How many levels of the image pyramid are read: 1 without guidance."""
        return 1 + max((self.level(s) for s in self.fusion_stages), default=0)

    def level(self, stage: int) -> int:
        """Returns the pyramid level whose feature has the size of this stage's output."""
        return self.strides[f"c{stage + 1}"].bit_length() - 3

    def setup(self) -> None:
        """Makes a transformation and a fusion for each guided stage."""
        nn.share_scope(self, self.backbone)  # type: ignore[arg-type]
        types = {"dtype": self.dtype, "param_dtype": self.backbone.param_dtype}
        first = self.guidance_channels or self.backbone.channels["c2"]
        names = self.fusion
        if isinstance(names, str):
            names = (names,) * len(self.fusion_stages)
        for s, name in zip(self.fusion_stages, names, strict=True):
            transform = IPGTransform(first * 2 ** self.level(s), norm=self.norm, **types)
            fusion = FUSIONS[name](identity_init=self.fusion_init == "identity", **types)
            setattr(self, f"ipg{s}", transform)
            setattr(self, f"fusion{s}", fusion)

    def __call__(
        self, pyramid: Pyramid | PackedPyramid, *, train: bool
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Returns the output of every stage, `{"c2": stride 4, "c3": stride 8, ...}`.

        `F_i`, `R_i` and `O_i` of each guided stage are sown into `intermediates` under
        `guidance{s}`, `main{s}` and `fused{s}`.

        Args:
          pyramid: normalised images, level `i` at `1 / 2^i` of the size; levels that no stage needs
            are not read.
          train: whether norms use and update statistics of the batch.
        """
        if len(pyramid) < self.pyramid_levels:
            raise ValueError(
                f"fusion_stages {self.fusion_stages} need {self.pyramid_levels} pyramid levels, "
                f"got {len(pyramid)}"
            )
        run = functools.partial(maybe_remat, enabled=self.remat != "none")
        x = run(lambda net, image: net.backbone.stem(image, train=train), self, pyramid[0])
        outputs = {}
        for s in range(1, len(self.strides) + 1):
            x = run(lambda net, x, s=s: net.backbone.stage(s, x, train=train), self, x)
            if s in self.fusion_stages:
                transform, fusion = getattr(self, f"ipg{s}"), getattr(self, f"fusion{s}")
                image = pyramid[self.level(s)]
                guidance = run(lambda f, image: f(image, train=train), transform, image)
                self.sow("intermediates", f"guidance{s}", guidance)
                self.sow("intermediates", f"main{s}", x)
                x = run(lambda beta, f, r: beta(f, r), fusion, guidance, x)
                self.sow("intermediates", f"fused{s}", x)
            outputs[f"c{s + 1}"] = x
        return outputs
