"""Train the `embedded` backbone: distil an ImageNet ResNet-18 and a ViT-Tiny into one small network.

    accelerate launch eval/distill_backbone.py --data ../shared/data/{natural,textures,mtd,leather} \
        --teachers ../shared/weights/resnet18_imagenet_l3.safetensors \
                   ../shared/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors --out runs/embedded

No label and no test image of a data set with normals is read: of such a set the training normals are taken, of any
other folder all images. The student's maps learn the ResNet's layers 2 and 3, its transformer the ViT's blocks, its
class token the ViT's, half of the time under mask-guided attention. Every 20th image is held out for the validation
loss. The run stops at any time and goes on from its last checkpoint when it is started again with the same arguments.
Leaves in --out: embedded.safetensors (float16, convolutions and batch norm folded), history.json, loss.png, checkpoint.safetensors.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from common import ROOT, machine
from distill_views import POOL_SIDE, draw_views
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file
from torch import nn
from tqdm import tqdm

from anomalyhub import create_backbone, load_dataset
from anomalyhub.backbones.embedded_net import EmbeddedNet, ResidualBlock
from anomalyhub.nn.mgvit import MaskGuidedViT

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
VIT = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TERMS = ("stride8", "stride16", "tokens", "class_token", "logits")
HELD_OUT = 20


class InvertedBlock(nn.Module):
    """A bottleneck turned inside out (Sandler et al., CVPR 2018), an alternative block for the trunk."""

    def __init__(self, width: int, expand: int = 3):
        super().__init__()
        hidden = width * expand
        self.conv1, self.conv3 = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))) + x


def _mixed(width: int) -> nn.Module:
    return ResidualBlock(width) if width == 128 else InvertedBlock(width)


#: Networks of about the same speed that were compared; the first is the one that ships.
DESIGNS = {
    "residual": {},
    "mixed": {"depths": (1, 1, 1), "mlp_ratio": 3.0, "block": _mixed},
}


def create_student(design: str, seed: int) -> EmbeddedNet:
    """The network in its training form: every convolution is followed by batch norm."""
    torch.manual_seed(seed)
    net = EmbeddedNet(**DESIGNS[design])
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(net.pos_embed, std=0.02)
    nn.init.trunc_normal_(net.cls_token, std=0.02)
    for parent, name, conv in _convolutions(net):
        norm = nn.BatchNorm2d(conv.out_channels, momentum=0.02)
        conv.bias = None
        if name in ("conv2", "conv3") and parent is not net:
            nn.init.constant_(norm.weight, 0.5)  # the end of a residual branch starts small
        setattr(parent, name, nn.Sequential(conv, norm))
    return net.to(memory_format=torch.channels_last)


def folded(net: EmbeddedNet, design: str) -> EmbeddedNet:
    """The same network in its final form, batch norm folded into the convolutions."""
    final = EmbeddedNet(**DESIGNS[design])
    state = {}
    for key, value in net.state_dict().items():
        if ".0.weight" not in key or key.replace(".0.weight", ".1.running_mean") not in net.state_dict():
            state[key] = value
    own = final.state_dict()
    for key in own:
        stem, _, kind = key.rpartition(".")
        if f"{stem}.1.running_mean" in state:
            part = {name: net.state_dict()[f"{stem}.1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
            scale = part["weight"] / (part["running_var"] + 1e-5).sqrt()
            if kind == "weight":
                own[key] = net.state_dict()[f"{stem}.0.weight"] * scale[:, None, None, None]
            else:
                own[key] = part["bias"] - part["running_mean"] * scale
        else:
            own[key] = state[key]
    final.load_state_dict(own)
    return final.eval()


def _convolutions(net: nn.Module) -> list[tuple[nn.Module, str, nn.Conv2d]]:
    return [
        (parent, name, child)
        for parent in net.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Conv2d)
    ]


class Student(nn.Module):
    """The network with the linear heads that map its inner tokens to the teacher's; the heads are thrown away."""

    def __init__(self, net: EmbeddedNet):
        super().__init__()
        self.net = net
        self.guided = MaskGuidedViT(net, mask_layers=len(net.blocks) - 1)
        self.taps = tuple(range(1, len(net.blocks)))
        self.heads = nn.ModuleList(nn.Linear(net.dim, net.dim) for _ in self.taps)

    def forward(self, images: torch.Tensor, masks: torch.Tensor):
        maps = self.net.feature_maps(images)
        inside = self.guided.inside(masks, tuple(maps[-1].shape[-2:]))
        last, inner = self.guided.guided(self.net.tokens(maps[-1]), inside, self.taps)
        return maps, [head(x) for head, x in zip(self.heads, inner, strict=True)], last


class Teachers:
    """Frozen targets: the ResNet's maps, the ViT's tokens after a quarter, a half, three quarters and all of its blocks."""

    def __init__(self, resnet: str, vit: str, device: torch.device):
        self.cnn = create_backbone(f"resnet18@{resnet}", layers=(2, 3), device=device).module
        self.vit = create_backbone(f"vit_tiny_patch16_224@{vit}", device=device).module
        state = load_file(vit)
        self.head = (state["head.weight"].to(device), state["head.bias"].to(device))
        depth = len(self.vit.blocks)
        self.taps = tuple(depth * part // 4 for part in (1, 2, 3))
        self.guided = MaskGuidedViT(self.vit, mask_layers=depth - depth // 4)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, masks: torch.Tensor):
        batch = _normalise(images, IMAGENET).contiguous(memory_format=torch.channels_last)
        maps = self.cnn.forward_intermediates(batch, indices=[2, 3], stop_early=True, intermediates_only=True)
        x, grid = self.guided.embed(_normalise(images, VIT))
        last, inner = self.guided.guided(x, self.guided.inside(masks, grid), self.taps)
        inner = [F.layer_norm(x.float(), x.shape[-1:]) for x in inner]
        return [level.float() for level in maps], inner, last.float()


class Losses:
    """Squared errors relative to the targets' own variance, so that 1 is what their mean would reach."""

    def __init__(self, batches: list, head: tuple[torch.Tensor, torch.Tensor]):
        self.head = head
        self.maps = [_channel_weights(torch.cat([b[0][i] for b in batches]).transpose(0, 1).flatten(1)) for i in (0, 1)]
        inner = [torch.cat([b[1][i] for b in batches]) for i in range(3)]
        last = torch.cat([b[2] for b in batches])
        self.tokens = [_channel_weights(x.flatten(0, 1).T) for x in (*inner, last[:, 1:])]
        self.cls = _channel_weights(last[:, 0].T)

    def __call__(self, output, target, defects: torch.Tensor) -> dict[str, torch.Tensor]:
        (maps, inner, last), (t_maps, t_inner, t_last) = output, target
        terms = {}
        for name, mine, theirs, weights in zip(TERMS[:2], maps, t_maps, self.maps, strict=True):
            terms[name] = _map_error(mine.float() - theirs, weights, defects)
        last = last.float()
        errors = [
            ((mine.float() - theirs).square() * weights).sum(-1).mean()
            for mine, theirs, weights in zip((*inner, last[:, 1:]), (*t_inner, t_last[:, 1:]), self.tokens, strict=True)
        ]
        terms["tokens"] = torch.stack(errors).mean()
        terms["class_token"] = ((last[:, 0] - t_last[:, 0]).square() * self.cls).sum(-1).mean()
        mine, theirs = F.linear(last[:, 0], *self.head), F.linear(t_last[:, 0], *self.head)
        terms["logits"] = F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean")
        return terms


WEIGHTS = {"stride8": 1.0, "stride16": 1.0, "tokens": 1.0, "class_token": 2.0, "logits": 0.1}


def _channel_weights(values: torch.Tensor) -> torch.Tensor:
    """(C, n) targets to weights (C,): half the targets' own metric, half every channel alike."""
    variance = values.var(1)
    each = variance.clamp_min(0.05 * variance.mean())
    return 0.5 / variance.sum() + 0.5 / (len(variance) * each)


def _map_error(difference: torch.Tensor, weights: torch.Tensor, defects: torch.Tensor) -> torch.Tensor:
    """Error per position and of 3x3 means, as detectors pool them; threefold where a defect was drawn."""
    where = 1.0 + 2.0 * F.adaptive_max_pool2d(defects, difference.shape[-2:])
    where = 0.5 * where / where.sum()
    difference = difference * weights.sqrt()[:, None, None]
    parts = (difference, F.avg_pool2d(difference, 3, 1, 1))
    return sum((part.square().sum(1, keepdim=True) * where).sum() for part in parts)


def _normalise(images: torch.Tensor, stats) -> torch.Tensor:
    mean, std = (images.new_tensor(values)[:, None, None] for values in stats)
    return (images - mean) / std


def read_pool(paths: list[str]) -> tuple[torch.Tensor, np.ndarray, list[dict]]:
    """All images at 256 x 256 (N, 3, 256, 256) uint8, the chance of each, and what was read from where.

    A folder's chance goes with the square root of its number of images, so that a small one is not forgotten.
    """
    images, chances, sources = [], [], []
    for path in paths:
        dataset = load_dataset(path)
        split = dataset.train if len(dataset.train) else dataset.test
        for index in tqdm(range(len(split)), desc=Path(path).name, disable=None):
            picture = Image.fromarray(split[index].image).resize((POOL_SIDE, POOL_SIDE), Image.Resampling.BILINEAR)
            images.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
            chances.append(1.0 / math.sqrt(len(split)))
        sources.append({"data": Path(path).name, "images": len(split), "normals only": len(dataset.train) > 0})
    chances = np.asarray(chances)
    return torch.stack(images), chances / chances.sum(), sources


def learning_rate(step: int, steps: int, peak: float) -> float:
    warm_up = min(200, steps // 10)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="data sets or folders of images")
    parser.add_argument("--teachers", nargs=2, required=True, metavar=("RESNET18", "VIT_TINY"), help="safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; goes on from its checkpoint")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32, help="views per step, over all processes")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--design", choices=list(DESIGNS), default="residual")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--stop-after", type=int, help="stop at this step, to go on later")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    accelerator = Accelerator(mixed_precision="bf16")
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    pool, chances, sources = read_pool(args.data)
    held_out = np.arange(len(pool)) % HELD_OUT == 0
    train_chances = np.where(held_out, 0, chances) / chances[~held_out].sum()
    held_chances = np.where(held_out, chances, 0) / chances[held_out].sum()
    teachers = Teachers(*args.teachers, device)

    def batch_of(probability, count, *key):
        views = draw_views(pool, probability, count, (args.seed, *key))
        return tuple(x.to(device) for x in (views.images, views.defects, views.masks))

    def targets(images, masks):
        with accelerator.autocast():
            return teachers(images, masks)

    held = [batch_of(held_chances, 32, 1, i) for i in range(4)]
    held_targets = [targets(images, masks) for images, _, masks in held]
    losses = Losses(held_targets, teachers.head)
    student = Student(create_student(args.design, args.seed)).to(device)
    decayed = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.03}, {"params": others, "weight_decay": 0.0}])
    settings = {key: getattr(args, key) for key in ("steps", "batch", "lr", "design", "seed")} | {"sources": sources}
    history, start = resume(args.out, settings, student, optimizer)
    model, optimizer = accelerator.prepare(student, optimizer)
    stop = min(args.steps, args.stop_after or args.steps)
    running: dict[str, float] = {}
    began, seconds = time.perf_counter(), history[-1]["seconds"] if history else 0.0
    bar = tqdm(range(start, stop), initial=start, total=args.steps, disable=not accelerator.is_main_process)
    for step in bar:
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        images, defects, masks = batch_of(train_chances, args.batch // world, 0, step, rank)
        target = targets(images, masks)
        with accelerator.autocast():
            output = model(_normalise(images, IMAGENET), masks)
        terms = losses(output, target, defects)
        accelerator.backward(sum(WEIGHTS[name] * value for name, value in terms.items()))
        accelerator.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in terms.items():
            running[name] = 0.98 * running.get(name, float(value)) + 0.02 * float(value)
        bar.set_postfix({name: f"{value:.3f}" for name, value in running.items()}, refresh=False)
        if (step + 1) % args.save_every == 0 or step + 1 == stop:
            model.eval()
            with torch.no_grad(), accelerator.autocast():
                outputs = [student(_normalise(images, IMAGENET), masks) for images, _, masks in held]
            checks = [losses(o, t, b[1]) for o, t, b in zip(outputs, held_targets, held, strict=True)]
            history.append(
                {
                    "step": step + 1,
                    "seconds": round(seconds + time.perf_counter() - began, 1),
                    "train": {name: round(value, 5) for name, value in running.items()},
                    "held out": {name: round(float(np.mean([float(c[name]) for c in checks])), 5) for name in TERMS},
                }
            )
            if accelerator.is_main_process:
                save_checkpoint(args.out, settings, step + 1, student, optimizer, history)
                plot(args.out / "loss.png", history)
            accelerator.wait_for_everyone()
    if accelerator.is_main_process and stop == args.steps:
        export(args.out, student.net, settings, history)
        print(json.dumps(history[-1]["held out"]))


def resume(out: Path, settings: dict, student: Student, optimizer) -> tuple[list[dict], int]:
    """Load the checkpoint of the same run, if there is one; another run's is refused."""
    file = out / "checkpoint.safetensors"
    if not file.exists():
        return [], 0
    with safe_open(file, "pt") as opened:
        metadata = json.loads(opened.metadata()["run"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    if metadata["settings"] != settings:
        raise SystemExit(f"{file} belongs to a run with other arguments: give them again, or another --out")
    student.load_state_dict({key[6:]: value for key, value in tensors.items() if key.startswith("model.")})
    for name, parameter in student.named_parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(metadata["step"])),
            **{kind: tensors[f"{kind}.{name}"].to(parameter.device) for kind in ("exp_avg", "exp_avg_sq")},
        }
    return metadata["history"], metadata["step"]


def save_checkpoint(out: Path, settings: dict, step: int, student: Student, optimizer, history: list[dict]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{key}": value.detach().contiguous().clone() for key, value in student.state_dict().items()}
    states = getattr(optimizer, "optimizer", optimizer).state
    for name, parameter in student.named_parameters():
        tensors |= {f"{kind}.{name}": states[parameter][kind].contiguous() for kind in ("exp_avg", "exp_avg_sq")}
    run = json.dumps({"settings": settings, "step": step, "history": history})
    save_file(tensors, out / "checkpoint.partial", {"run": run})
    os.replace(out / "checkpoint.partial", out / "checkpoint.safetensors")
    command = "accelerate launch eval/distill_backbone.py " + shlex.join(sys.argv[1:])
    record = {"command": command.replace(str(ROOT.parent), ".."), "machine": machine(), "settings": settings, "history": history}
    (out / "history.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def export(out: Path, net: EmbeddedNet, settings: dict, history: list[dict]) -> None:
    """Write the float16 weights, after a check that folding changed nothing."""
    final = folded(net.cpu(), settings["design"])
    probe = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = net.eval()(probe), final(probe)
    if not torch.allclose(before, after, atol=1e-3):
        raise SystemExit(f"folding changed the network by {float((before - after).abs().max()):.2g}: a bug")
    tensors = {key: value.half().contiguous() for key, value in final.state_dict().items()}
    steps = str(settings["steps"])
    save_file(tensors, out / "embedded.safetensors", {"format": "pt", "steps": steps, "seed": str(settings["seed"])})


def plot(path: Path, history: list[dict]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(TERMS), figsize=(3 * len(TERMS), 2.6), layout="constrained")
    for axis, name in zip(axes, TERMS, strict=True):
        steps = [entry["step"] for entry in history]
        axis.plot(steps, [entry["train"][name] for entry in history], label="training", color="#888888")
        axis.plot(steps, [entry["held out"][name] for entry in history], label="held out", color="#0072b2")
        axis.set(title=name.replace("_", " "), xlabel="step", yscale="log")
    axes[0].set_ylabel("KL divergence (logits) or relative error")
    axes[-1].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
