"""What frozen transformers say of a masked region, without any training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.mgvit import MaskGuidedViT
from anomalyhub.nn.views import View

#: Normalised images (B, 3, S, S) and masks (B, 1, S, S) to embeddings (B, D).
Embedder = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: Fewer patches outside of the mask cannot tell what is usual there.
_FEW = 5
#: A distance by rounding alone.
_ALIKE = 1e-5
#: What shrinks the covariance of views, in shares of its mean eigenvalue; views of a sub-image at most.
_RIDGE, _MOST_VIEWS = 0.3, 8


def tensors(backbone: Any, views: Sequence[View]) -> tuple[torch.Tensor, torch.Tensor]:
    """Views to normalised images (B, 3, S, S) and masks (B, 1, S, S), float32 on the backbone's device."""
    images = backbone.preprocess([image for image, _ in views])
    masks = torch.from_numpy(np.stack([mask for _, mask in views])[:, None])
    return images, masks.to(images)


class Descriptor:
    """Unit vectors (B, D) of images and masks, by the fields of a ClusteringConfig.

    references  unit patch tokens (blocks, R, P, D) of other images for the weights by distance, see `collect`

    Raises InvalidArgumentError for a block that does not exist.
    """

    def __init__(self, guided: MaskGuidedViT, config: Any, references: torch.Tensor | None = None):
        self.guided, self.config, self.references = guided, config, references
        depth = len(guided.vit.blocks)
        self.class_blocks = config.class_blocks or ()
        self.patch_blocks = config.patch_blocks or (() if self.class_blocks else (depth // 2 or 1,))
        self.weighting = config.weights
        if config.descriptor == "salient":
            self.class_blocks, self.patch_blocks = (round(2 * depth / 3) or 1,), (depth // 2 or 1,)
            self.weighting = "salience"
        self.taps = {*self.class_blocks, *self.patch_blocks}
        if max(self.taps) > depth:
            raise InvalidArgumentError(
                f"block {max(self.taps)} does not exist: this transformer has blocks 1 to {depth}"
            )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, S, S) and masks (B, 1, S, S) to (B, D); zeros where nothing is averaged."""
        x, grid = self.guided.embed(images)
        coverage = self.guided.coverage(masks, grid)
        inside = coverage >= self.guided.threshold
        if self.config.descriptor == "class_token":
            return F.normalize(self.guided.guided(x, inside)[:, 0].float(), dim=-1)
        tokens = self.guided.tapped(x, inside, self.taps)
        parts = [tokens[block][:, 0] for block in self.class_blocks]
        for number, block in enumerate(self.patch_blocks):
            patches = tokens[block][:, -coverage.shape[1] :]
            parts.append((self._weights(patches, coverage, number)[..., None] * patches).sum(1))
        return F.normalize(torch.cat([F.normalize(part.float(), dim=-1) for part in parts], -1), dim=-1)

    @property
    def needs_references(self) -> bool:
        return self.weighting == "distance" and bool(self.patch_blocks) and self.config.descriptor == "tokens"

    @torch.no_grad()
    def collect(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
        """References from images and masks: unit patch tokens (blocks, R, P, D) float16."""
        found = []
        for images, masks in batches:
            x, grid = self.guided.embed(images)
            tokens = self.guided.tapped(x, self.guided.inside(masks, grid), self.taps)
            patches = torch.stack([tokens[block][:, -grid[0] * grid[1] :] for block in self.patch_blocks])
            found.append(F.normalize(patches.float(), dim=-1).half().cpu().numpy())
        return np.concatenate(found, axis=1)

    def _weights(self, patches: torch.Tensor, coverage: torch.Tensor, number: int) -> torch.Tensor:
        """Weights (B, P) of patch tokens (B, P, D); they sum to 1, or to 0 for an empty mask."""
        if self.weighting in ("mask", "salience"):
            weights = coverage if self.weighting == "mask" else salience(patches, coverage, self.config.salience)
            return weights / weights.sum(1, keepdim=True).clamp_min(1e-9)
        novelty = coverage if self.references is None else patch_novelty(patches, self.references[number])
        return (novelty / self.config.weight_temperature).softmax(-1)


def salience(patches: torch.Tensor, coverage: torch.Tensor, power: float = 3.0) -> torch.Tensor:
    """How much (B, P) each patch that a mask touches differs from everything outside of the mask; 0 where it does not.

    patches  (B, P, D) tokens       coverage  (B, P) share of each patch that the mask covers

    It is 1 minus the cosine to the most similar patch outside, to a power: a detector's mask holds much that is normal,
    which this leaves out. With fewer than 5 patches outside, or if nothing differs, it is the coverage.
    """
    unit = F.normalize(patches.float(), dim=-1)
    outside = coverage <= 0
    similar = (unit @ unit.transpose(1, 2)).masked_fill(~outside[:, None], -1.0).amax(-1)
    distances = (1 - similar).clamp_min(0) * ~outside
    usable = (outside.sum(1, keepdim=True) >= _FEW) & (distances.amax(1, keepdim=True) > _ALIKE)
    return torch.where(usable, distances**power, coverage.to(distances))


def patch_novelty(patches: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """(B, P, D) patch tokens and unit tokens (R, P', D) to (B, P): mean over references of the nearest one's distance.

    Distances are between unit vectors, in [0, 2]. Where an image is its own reference, all its patches lose the same.
    """
    unit = F.normalize(patches.float(), dim=-1).flatten(0, 1)
    nearest = [(unit @ reference.T).amax(-1) for reference in references]
    distances = (2 - 2 * torch.stack(nearest)).clamp_min(0).sqrt()
    return distances.mean(0).reshape(patches.shape[:2])


def views_to_compare(count: int, total: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """`total` views spread evenly over `count` sub-images, at most 8 of each: their indices, and a key for each view.

    Keys are at least `count`: below it they are the calibration's.
    """
    order = np.random.default_rng(seed).permutation(count)
    places = np.arange(min(total, _MOST_VIEWS * count))
    rows = order[places % count]
    return rows, (count * (1 + places // count) + rows).tolist()


def whitening(embeddings: np.ndarray, rows: np.ndarray, views: np.ndarray) -> torch.nn.Linear:
    """A frozen linear map (D to D) after which embeddings change alike in all directions from view to view.

    embeddings  (N, D) of the plain sub-images; their mean maps to 0
    rows        (M,) which of them each augmented view shows     views  (M, D) embeddings of the augmented views

    What differs between views of one defect is no difference between kinds: the covariance of the differences, shrunk
    towards a multiple of the identity, is made the identity (within-class covariance normalisation: Hatch et al.,
    Interspeech 2006; here each sub-image is a class). It is the linear solution of what contrastive learning seeks.
    """
    differences = (views - embeddings[rows]).astype(np.float64)
    covariance = differences.T @ differences / max(1, len(differences))
    mean = np.trace(covariance) / len(covariance) or 1.0
    values, axes = np.linalg.eigh(covariance / mean + _RIDGE * np.eye(len(covariance)))
    matrix = (axes / np.sqrt(values)) @ axes.T
    linear = torch.nn.Linear(*matrix.shape)
    linear.weight.data = torch.from_numpy(matrix.astype(np.float32))
    linear.bias.data = torch.from_numpy(-(matrix @ embeddings.mean(axis=0, dtype=np.float64)).astype(np.float32))
    return linear.requires_grad_(False)


def mapped(embedder: Embedder, linear: torch.nn.Linear) -> Embedder:
    """`embedder` and then `linear`, as unit vectors."""

    @torch.no_grad()
    def embed(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return F.normalize(linear(embedder(images, masks).float()), dim=-1)

    return embed


def after(linear: torch.nn.Linear, embeddings: np.ndarray) -> np.ndarray:
    """What `mapped` gives for embeddings (N, D) that are already there."""
    with torch.no_grad():
        return F.normalize(linear(torch.from_numpy(embeddings).to(linear.weight)), dim=-1).cpu().numpy()


def linear_arrays(name: str, linear: torch.nn.Linear | None) -> dict[str, np.ndarray]:
    """A linear map as arrays to save; none for None."""
    if linear is None:
        return {}
    return {f"{name}.{key}": value.cpu().numpy() for key, value in linear.state_dict().items()}


def linear_from(name: str, arrays: Mapping[str, np.ndarray], device: torch.device) -> torch.nn.Linear | None:
    """The linear map that `linear_arrays` gave; None if it gave none."""
    if f"{name}.weight" not in arrays:
        return None
    linear = torch.nn.Linear(*arrays[f"{name}.weight"].shape[::-1])
    linear.load_state_dict({key: torch.from_numpy(arrays[f"{name}.{key}"]) for key in ("weight", "bias")})
    return linear.requires_grad_(False).to(device)
