"""The published rules of the matchers, object by object in float64.

Each takes anchors `[kinds, positions, 4]` of each level and boxes, and returns for every anchor its
object, -1 without one, and its state.
"""

import numpy as np

from ipg_jax.ops import MatchState


def slow_claims(claims, anchors):
    """From `(quality, anchor, box)`, by growing quality."""
    owner = np.full(anchors, -1)
    for _, a, box in sorted(claims):
        owner[a] = box
    return owner


def slow_atss(levels, boxes, k):
    claims, start = [], 0
    candidates = [[] for _ in boxes]
    for level in levels:
        kinds, positions = level.shape[:2]
        center = (level[0, :, :2] + level[0, :, 2:]) / 2
        for i, box in enumerate(boxes):
            order = np.argsort(np.hypot(*(center - (box[:2] + box[2:]) / 2).T))[:k]
            candidates[i] += [start + kind * positions + p for p in order for kind in range(kinds)]
        start += kinds * positions
    every = np.concatenate([level.reshape(-1, 4) for level in levels])
    for i, box in enumerate(boxes):
        chosen = every[candidates[i]]
        sides = np.minimum(chosen[:, 2:], box[2:]) - np.maximum(chosen[:, :2], box[:2])
        shared = np.maximum(sides, 0).prod(1)
        iou = shared / (
            (chosen[:, 2:] - chosen[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared
        )
        center = (chosen[:, :2] + chosen[:, 2:]) / 2
        inside = ((center > box[:2]) & (center < box[2:])).all(1)
        good = inside & (iou >= iou.mean() + iou.std(ddof=1))
        claims += [(iou[j], candidates[i][j], i) for j in np.flatnonzero(good)]
    owner = slow_claims(claims, start)
    return owner, np.where(owner >= 0, MatchState.POSITIVE, MatchState.NEGATIVE)


def slow_ranks(similarity, k):
    """Owners by each object's `k` best of `[objects, anchors]`."""
    claims = []
    for i, row in enumerate(similarity):
        claims += [(row[a], a, i) for a in np.argsort(-row)[:k]]
    return slow_claims(claims, similarity.shape[1])


def center_size(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def slow_nwd(levels, boxes, k, constant, ignore_from):
    (ca, sa), (cb, sb) = map(
        center_size, (np.concatenate([x.reshape(-1, 4) for x in levels])[None], boxes[:, None])
    )
    distance = np.sqrt(((ca - cb) ** 2).sum(-1) + ((sa - sb) ** 2).sum(-1) / 4)
    similarity = np.exp(-distance / constant)
    owner = slow_ranks(similarity, k)
    state = np.where(similarity.max(0) >= ignore_from, MatchState.IGNORE, MatchState.NEGATIVE)
    return owner, np.where(owner >= 0, MatchState.POSITIVE, state)


def slow_rfla(levels, boxes, fields, k, decay, ignore_from):
    center = np.concatenate([center_size(level[0])[0] for level in levels])
    deviation = np.concatenate(
        [np.full(level.shape[1], side / 4) for level, side in zip(levels, fields, strict=True)]
    )
    mean, side = center_size(boxes)
    variance = (side[:, None] / 2) ** 2

    def similarity(deviation):
        offset = (center - mean[:, None]) ** 2 / variance
        ratio = deviation[:, None] ** 2 / variance
        return 1 / (1 + (ratio + offset - 1 - np.log(ratio)).sum(-1) / 2)

    first, shrunk = slow_ranks(similarity(deviation), k), similarity(decay * deviation)
    owner = np.where(first >= 0, first, slow_ranks(shrunk, 1))
    state = np.where(shrunk.max(0) >= ignore_from, MatchState.IGNORE, MatchState.NEGATIVE)
    state = np.where(owner >= 0, MatchState.POSITIVE, state)
    parts = np.cumsum([level.shape[1] for level in levels])[:-1]
    return tuple(
        np.concatenate(
            [
                np.tile(part, level.shape[0])
                for part, level in zip(np.split(x, parts), levels, strict=True)
            ]
        )
        for x in (owner, state)
    )
