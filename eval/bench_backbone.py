"""The `embedded` backbone beside its teachers: size, speed, separability of defects, and detection on unseen products.

python eval/bench_backbone.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import median_seconds, resnet18, save, shared
from torch import nn

from anomalyhub import Inspector, create_backbone, evaluate, load_dataset
from anomalyhub.nn.mgvit import MaskGuidedViT
from anomalyhub.regions import sub_images
from anomalyhub.types import GOOD

COMMAND = "python eval/bench_backbone.py"
SHOTS, DRAWS = 5, 20


def vit_tiny() -> str:
    return f"vit_tiny_patch16_224@{shared() / 'weights' / 'vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors'}"


def run() -> dict[str, Any]:
    return {
        "parameters": {name: parameters(spec) for name, spec in networks().items()},
        "passes": passes(),
        "start": start_up(),
        "separability": separability(),
        "depths": depths(),
        "bundled_sample": bundled_sample(),
    }


def networks() -> dict[str, str]:
    return {"embedded": "embedded", "resnet18": resnet18(), "vit_tiny": vit_tiny()}


def parameters(spec: str) -> int:
    return sum(p.numel() for p in create_backbone(spec).module.parameters())


def passes(rounds: int = 5) -> dict[str, dict[str, float]]:
    """Milliseconds (batch 1, float32) and multiply-adds of one 224 px image; the networks take turns, medians count."""
    backbones = {
        "resnet18 maps": create_backbone(resnet18(), layers=(2, 3)),
        "embedded maps": create_backbone("embedded"),
        "vit_tiny blocks": create_backbone(vit_tiny()),
        "embedded blocks": create_backbone("embedded", layers=(3, 4, 5, 6)),
        "embedded all": create_backbone("embedded", layers=(1, 2, 3, 4, 5, 6)),
    }
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in backbones}
    for _ in range(rounds):
        for name, backbone in backbones.items():
            call = lambda backbone=backbone: backbone.feature_maps(image)  # noqa: E731
            times[name].append(1e3 * median_seconds(call, 40, warm_up=10))
    return {
        name: {"ms": float(np.median(times[name])), "gmac": multiply_adds(backbone, image) / 1e9}
        for name, backbone in backbones.items()
    }


def multiply_adds(backbone, image: torch.Tensor) -> int:
    """Of convolutions, linear layers and the two products of attention."""
    counted = []

    def count(layer: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        weights = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_features
        counted.append(output.numel() * weights)
        if names[layer].endswith("qkv"):
            tokens, dim = args[0].shape[1:]
            counted.append(2 * tokens * tokens * dim)

    names = {layer: name for name, layer in backbone.module.named_modules()}
    hooks = [layer.register_forward_hook(count) for layer in names if isinstance(layer, nn.Conv2d | nn.Linear)]
    backbone.feature_maps(image)
    for hook in hooks:
        hook.remove()
    return sum(counted)


def start_up() -> dict[str, float]:
    """Seconds to import torch, then to import anomalyhub and load the backbone; median of 5 processes."""
    code = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter();"
        "from anomalyhub import create_backbone; create_backbone('embedded'); print(b - a, time.perf_counter() - b)"
    )
    runs = [
        [float(x) for x in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()]
        for _ in range(5)
    ]
    torch_seconds, own = np.median(runs, axis=0)
    return {"torch_seconds": float(torch_seconds), "import_and_load_seconds": float(own)}


def separability() -> dict[str, Any]:
    """Share of defects named right by the nearest class mean of 5 shots, 20 draws: mean, and deviation over draws.

    A defect is the largest anomaly-centred crop of its ground-truth mask, seen through mask-guided attention; the
    masks serve as an oracle here, nothing is trained.
    """
    result: dict[str, Any] = {}
    for name in ("leather", "mtd"):
        crops, labels = defects(name)
        result[name] = {"defects": len(crops), "classes": len(set(labels))}
        for network, spec in {"vit_tiny": vit_tiny(), "embedded": "embedded"}.items():
            result[name][network] = nearest_mean(class_tokens(spec, crops)["last"], labels)
    return result


def depths() -> dict[str, Any]:
    """The same for the class token after each second block of ViT-Tiny, and after each block of ours."""
    result: dict[str, Any] = {}
    for name in ("leather", "mtd"):
        crops, labels = defects(name)
        for network, spec in {"vit_tiny": vit_tiny(), "embedded": "embedded"}.items():
            tapped = class_tokens(spec, crops, every=2 if network == "vit_tiny" else 1)
            result[f"{name}_{network}"] = {block: nearest_mean(x, labels)["accuracy"] for block, x in tapped.items()}
    return result


def defects(name: str) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Squares (image, mask) around the defects that have a ground-truth mask, and their classes."""
    test = load_dataset(shared() / "data" / name).test
    samples = [s for s in test if s.label != GOOD and s.mask is not None and s.mask.any()]
    largest = [sub_images(s.image, s.mask)[0] for s in samples]
    return [(sub.image, sub.mask) for sub in largest], np.array([s.label for s in samples])


@torch.inference_mode()
def class_tokens(
    spec: str, crops: list[tuple[np.ndarray, np.ndarray]], every: int | None = None
) -> dict[str, np.ndarray]:
    """L2-normalised class tokens (N, D) after the last norm, and after each `every`-th block.

    Three quarters of the blocks are mask-guided.
    """
    backbone = create_backbone(spec)
    depth = len(backbone.module.blocks)
    guide = MaskGuidedViT(backbone, mask_layers=depth * 3 // 4)
    blocks = tuple(range(every, depth + 1, every)) if every else (depth,)
    tokens: dict[str, list[torch.Tensor]] = {str(block): [] for block in blocks} | {"last": []}
    for i in range(0, len(crops), 32):
        part = crops[i : i + 32]
        masks = [cv2.resize(mask.astype(np.float32), (224, 224), interpolation=cv2.INTER_NEAREST) for _, mask in part]
        x, grid = guide.embed(backbone.preprocess([image for image, _ in part]))
        inside = guide.inside(torch.from_numpy(np.stack(masks))[:, None].to(x.device), grid)
        last, tapped = guide.guided(x, inside, blocks)
        for block, level in zip(tokens, (*tapped, last), strict=True):
            tokens[block].append(level[:, 0])
    return {block: nn.functional.normalize(torch.cat(x), dim=1).cpu().numpy() for block, x in tokens.items()}


def nearest_mean(tokens: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean recall over classes and plain accuracy, in percent, over the draws."""
    classes = np.unique(labels)
    scores = []
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        shots = np.concatenate([rng.choice(np.flatnonzero(labels == c), SHOTS, replace=False) for c in classes])
        rest = np.setdiff1d(np.arange(len(labels)), shots)
        means = tokens[shots].reshape(len(classes), SHOTS, -1).mean(1)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        right = classes[(tokens[rest] @ means.T).argmax(1)] == labels[rest]
        scores.append([100 * right.mean(), 100 * np.mean([right[labels[rest] == c].mean() for c in classes])])
    accuracy, balanced = np.mean(scores, axis=0)
    return {"accuracy": accuracy, "balanced": balanced, "deviation": float(np.std(scores, axis=0)[0])}


def bundled_sample() -> dict[str, dict[str, float]]:
    """Image AUROC of PatchCore on the bundled sample's products, of which no network has seen an image."""
    from anomalyhub.data import list_products
    from anomalyhub.data.sample import write_sample

    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="anomalyhub-bench-") as folder:
        write_sample(Path(folder) / "sample")
        for product in list_products(Path(folder) / "sample"):
            data = load_dataset(Path(folder) / "sample", product)
            rows[product] = {}
            for name, spec in {"resnet18": resnet18(), "embedded": "embedded"}.items():
                inspector = Inspector.fit("patchcore", data.train, backbone=spec, seed=0)
                metrics = evaluate(inspector, data.test)
                rows[product][name] = {key: metrics[key] for key in ("image_auroc", "pixel_auroc", "aupro")}
    return rows


if __name__ == "__main__":
    print(save("backbone", COMMAND, run()).read_text())
