"""From detectors' raw outputs to boxes, scores and labels, the same for PyTorch's and ONNX Runtime's arrays.

`fcos` and `deformable_detr` decode whole batches: `gn-onnx parity --torch models.fcos:build --decode
models.detections:fcos` compares what they return.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from models.fcos import STRIDES


@dataclasses.dataclass(frozen=True)
class Detections:
    """What the detector found in one image, best first.

    Attributes:
        boxes: [n, 4] left, top, right, bottom in pixels.
        scores: [n], sqrt(class probability * centre-ness).
        labels: [n].
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def decode(
    class_logits: np.ndarray,
    distances: np.ndarray,
    centreness: np.ndarray,
    *,
    size: int,
    candidates: int = 1000,
    max_overlap: float = 0.6,
    keep: int = 100,
) -> Detections:
    """The detections of one image.

    Args:
        class_logits: [positions, classes].
        distances: [positions, 4], from the position to left, top, right, bottom.
        centreness: [positions, 1], logits.
        size: Side of the image in pixels.
        candidates: Best scores that go into the suppression.
        max_overlap: Intersection over union above which the lower score goes.
        keep: Most detections.
    """
    probability = np.sqrt(_sigmoid(class_logits) * _sigmoid(centreness))
    order = np.argsort(-probability, axis=None, kind="stable")[:candidates]
    position, label = np.unravel_index(order, probability.shape)
    centre = _positions(size)[position]
    distance = distances.astype(np.float64)[position]
    boxes = np.concatenate([centre - distance[:, :2], centre + distance[:, 2:]], axis=1).clip(0, size)
    chosen = _suppress(boxes, label, max_overlap)[:keep]
    return Detections(boxes[chosen], probability[position, label][chosen], label[chosen])


def fcos(class_logits: np.ndarray, distances: np.ndarray, centreness: np.ndarray) -> dict[str, np.ndarray]:
    """Detections of all images of `models.fcos`, one after the other, as named arrays."""
    return dataclasses.asdict(_fcos(class_logits, distances, centreness))


def deformable_detr(logits: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
    """The same of `models.deformable_detr`; boxes in parts of the image."""
    return dataclasses.asdict(_deformable_detr(logits, boxes))


def _fcos(class_logits: np.ndarray, distances: np.ndarray, centreness: np.ndarray) -> Detections:
    size = next(side for side in range(32, 4096, 32) if len(_positions(side)) == class_logits.shape[1])
    images = zip(class_logits, distances, centreness, strict=True)
    return _joined([decode(*image, size=size) for image in images])


def _deformable_detr(logits: np.ndarray, boxes: np.ndarray, *, keep: int = 20) -> Detections:
    """The best of [images, queries, classes] and [images, queries, 4], as transformers' post-processing has them.

    Boxes are centre and size in parts of the image; they become left, top, right, bottom.
    """
    found = []
    for scores, places in zip(_sigmoid(logits), boxes.astype(np.float64), strict=True):
        order = np.argsort(-scores, axis=None, kind="stable")[:keep]
        query, label = np.unravel_index(order, scores.shape)
        centre, half = places[query, :2], places[query, 2:] / 2
        found.append(Detections(np.concatenate([centre - half, centre + half], axis=1), scores[query, label], label))
    return _joined(found)


def _joined(found: list[Detections]) -> Detections:
    fields = [field.name for field in dataclasses.fields(Detections)]
    return Detections(**{name: np.concatenate([getattr(one, name) for one in found]) for name in fields})


DECODERS = {"fcos": _fcos, "deformable_detr": _deformable_detr}
"""Model -> from its outputs to all detections of the batch."""


def _positions(size: int) -> np.ndarray:
    """[positions, 2]: x and y of the middle of every cell of every level."""
    levels = []
    for stride in STRIDES:
        side = -(-size // stride)
        y, x = np.mgrid[:side, :side]
        levels.append(np.stack([x, y], axis=-1).reshape(-1, 2) * stride + stride / 2)
    return np.concatenate(levels)


def _suppress(boxes: np.ndarray, labels: np.ndarray, max_overlap: float) -> list[int]:
    """Indices that stay, in order: none overlaps a better one of its own label too much."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    chosen: list[int] = []
    for index in range(len(boxes)):
        rivals = [other for other in chosen if labels[other] == labels[index]]
        if rivals:
            low = np.maximum(boxes[rivals, :2], boxes[index, :2])
            high = np.minimum(boxes[rivals, 2:], boxes[index, 2:])
            shared = np.prod((high - low).clip(0), axis=1)
            union = area[rivals] + area[index] - shared
            if np.any(shared > max_overlap * np.maximum(union, 1e-9)):
                continue
        chosen.append(index)
    return chosen


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x.astype(np.float64)))


def differences(mine: Detections, theirs: Detections) -> dict[str, float]:
    """Largest difference of boxes in pixels and of scores, and how many labels differ; detections pair up by order."""
    if len(mine.labels) != len(theirs.labels):
        return {"boxes": float("inf"), "scores": float("inf"), "labels": abs(len(mine.labels) - len(theirs.labels))}
    return {
        "boxes": float(np.abs(mine.boxes - theirs.boxes).max(initial=0.0)),
        "scores": float(np.abs(mine.scores - theirs.scores).max(initial=0.0)),
        "labels": float(np.count_nonzero(mine.labels != theirs.labels)),
    }
