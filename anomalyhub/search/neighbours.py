"""Nearest neighbours in a bank of patch features, with faiss."""

from __future__ import annotations

from typing import Literal

import faiss
import numpy as np

from anomalyhub.errors import InvalidArgumentError, NotFittedError

Kind = Literal["auto", "flat", "ivf"]

#: Banks of more rows than this are searched through an inverted file when kind is "auto".
FLAT_UP_TO = 4096


class NearestNeighbours:
    """Euclidean nearest neighbours of patches in a bank.

    kind     "flat" is exact; "ivf" looks into `n_probe` of about 4 sqrt(M) cells, and never understates a distance;
             "auto" is flat up to 4096 rows, ivf above
    n_probe  cells that are searched; None takes 1/64 of them, at least 4
    storage  "float32", or "float16", which halves the index and rounds the bank

    Fitted: bank_ (M, D) in the storage type, centroids_ (cells, D) float32 or None, index_ the faiss index.
    """

    def __init__(
        self,
        kind: Kind = "auto",
        *,
        n_probe: int | None = None,
        storage: Literal["float32", "float16"] = "float32",
        seed: int = 0,
    ):
        if kind not in ("auto", "flat", "ivf"):
            raise InvalidArgumentError(f"index must be auto, flat or ivf, got {kind!r}")
        if storage not in ("float32", "float16"):
            raise InvalidArgumentError(f"storage must be float32 or float16, got {storage!r}")
        if n_probe is not None and n_probe < 1:
            raise InvalidArgumentError(f"n_probe must be at least 1, got {n_probe}")
        self.kind, self.n_probe, self.storage, self.seed = kind, n_probe, storage, seed

    def fit(self, bank: np.ndarray, centroids: np.ndarray | None = None) -> NearestNeighbours:
        """Index (M, D) float32 rows. `centroids` of an earlier fit give the same cells again, without k-means."""
        bank = np.ascontiguousarray(bank, np.float32)
        if bank.ndim != 2 or 0 in bank.shape:
            raise InvalidArgumentError(f"bank must have shape (M, D) with M and D at least 1, got {bank.shape}")
        if centroids is not None and (centroids.ndim != 2 or centroids.shape[1] != bank.shape[1]):
            raise InvalidArgumentError(f"centroids must have shape (cells, {bank.shape[1]}), got {centroids.shape}")
        self.bank_ = bank
        if self.storage == "float16":
            self.bank_ = bank.astype(np.float16)
            bank = self.bank_.astype(np.float32)  # cells by the rounded rows, as a later fit from bank_ will find them
        flat = self.kind == "flat" or (self.kind == "auto" and len(bank) <= FLAT_UP_TO)
        self.centroids_ = None if flat else (centroids if centroids is not None else self._k_means(bank))
        self.index_ = self._flat(bank.shape[1]) if self.centroids_ is None else self._inverted_file(self.centroids_)
        self.index_.add(bank)
        return self

    def query(self, patches: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(P, D) patches to ((P, k) float32 Euclidean distances, (P, k) int64 bank rows), nearest first.

        k is cut to the size of the bank; where an inverted file finds fewer than k, the row is searched exactly.
        """
        k = min(k, len(self._fitted().bank_))
        patches = self._as_patches(patches)
        squared, rows = self.index_.search(patches, k)
        missed = np.flatnonzero(rows[:, -1] < 0)
        if len(missed):
            squared[missed], rows[missed] = self._exact(patches[missed], k)
        return np.sqrt(np.maximum(squared, 0.0)), rows

    def query_exact(self, patches: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """`query`, but every cell is searched."""
        squared, rows = self._exact(self._as_patches(patches), min(k, len(self._fitted().bank_)))
        return np.sqrt(np.maximum(squared, 0.0)), rows

    def farthest(self, patches: np.ndarray, distances: np.ndarray) -> tuple[int, float]:
        """The patch of an image farthest from the bank, and its exact distance.

        patches (P, D) and their distances (P,) from `query`, corrected in place where they are searched again.
        An inverted file only overstates distances, so the farthest patches are searched exactly, a few at a time, until
        the best exact distance is at least every remaining approximate one: the result is that of exact search.
        """
        if self._fitted().centroids_ is not None:
            done = np.zeros(len(distances), bool)
            step = 8
            while not done.all():
                top = int(distances.argmax())
                if done[top]:
                    break
                left = np.flatnonzero(~done)
                chunk = left[np.argsort(-distances[left], kind="stable")[:step]]
                distances[chunk] = self.query_exact(patches[chunk])[0][:, 0]
                done[chunk] = True
                step *= 2
        best = int(distances.argmax())
        return best, float(distances[best])

    def nbytes(self) -> int:
        """Bytes of the bank and of its copy in the index."""
        return 2 * self._fitted().bank_.nbytes + (0 if self.centroids_ is None else self.centroids_.nbytes)

    def _fitted(self) -> NearestNeighbours:
        if not hasattr(self, "index_"):
            raise NotFittedError("NearestNeighbours is not fitted: call fit() first")
        return self

    def _as_patches(self, patches: np.ndarray) -> np.ndarray:
        dim = self._fitted().bank_.shape[1]
        if np.ndim(patches) != 2 or np.shape(patches)[1] != dim:
            raise InvalidArgumentError(f"patches must have shape (P, {dim}), got {np.shape(patches)}")
        return np.ascontiguousarray(patches, np.float32)

    def _exact(self, patches: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.centroids_ is None:
            return self.index_.search(patches, k)
        return self.index_.search(patches, k, params=faiss.SearchParametersIVF(nprobe=self.index_.nlist))

    def _k_means(self, bank: np.ndarray) -> np.ndarray:
        cells = int(np.clip(2 ** round(np.log2(4 * np.sqrt(len(bank)))), 1, max(1, len(bank) // 8)))
        k_means = faiss.Kmeans(
            bank.shape[1], cells, niter=8, seed=self.seed, min_points_per_centroid=1, max_points_per_centroid=64
        )
        k_means.train(bank)
        return np.ascontiguousarray(k_means.centroids, np.float32)

    def _flat(self, dim: int) -> faiss.Index:
        if self.storage == "float16":
            return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2)
        return faiss.IndexFlatL2(dim)

    def _inverted_file(self, centroids: np.ndarray) -> faiss.IndexIVF:
        cells, dim = centroids.shape
        quantizer = faiss.IndexFlatL2(dim)
        quantizer.add(np.ascontiguousarray(centroids, np.float32))
        if self.storage == "float16":
            index = faiss.IndexIVFScalarQuantizer(
                quantizer, dim, cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2, False
            )
        else:
            index = faiss.IndexIVFFlat(quantizer, dim, cells)
        index.is_trained = True
        index.nprobe = min(cells, self.n_probe or max(4, cells // 64))
        self._quantizer = quantizer  # faiss does not keep it alive
        return index
