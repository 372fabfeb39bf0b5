"""As much of torch as reading weights takes."""

from __future__ import annotations

import numpy as np


class FakeTensor:
    """As much of a torch tensor as is used."""

    def __init__(self, array: np.ndarray, requires_grad: bool = False) -> None:
        self.array, self.requires_grad = array, requires_grad

    def is_floating_point(self) -> bool:
        return np.issubdtype(self.array.dtype, np.floating)

    def float(self) -> FakeTensor:
        return FakeTensor(self.array.astype(np.float32))

    def detach(self) -> FakeTensor:
        return FakeTensor(self.array, requires_grad=False)

    def numel(self) -> int:
        return self.array.size

    def element_size(self) -> int:
        return self.array.itemsize

    def numpy(self) -> np.ndarray:
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.array
