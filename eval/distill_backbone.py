"""Train the `embedded` backbone: distil an ImageNet ResNet-18 and a ViT-Tiny into one small network.

    accelerate launch --num_processes 1 --mixed_precision bf16 --cpu eval/distill_backbone.py \
        --data ../shared/data/{natural,textures,mtd,leather} \
        --teachers ../shared/weights/resnet18_imagenet_l3.safetensors \
                   ../shared/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors --out runs/embedded

No label and no test image of a data set with normals is read: of such a set the training normals are taken, of any
other folder all images. The student's maps learn the ResNet's layers 2 and 3, its tokens the ViT's after block 2, its
four blocks what the ViT's blocks 3 to 6 do, half of the time under mask-guided attention: at first each from the
teacher's own input, then end to end. Every 20th image is held out for the validation loss. The run may be stopped at
any time; started again with the same arguments it goes on from its last checkpoint.
Leaves in --out: embedded.safetensors (float16, batch norm folded), history.json, loss.png, checkpoint.safetensors.
"""

from __future__ import annotations

import argparse
import copy
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
from safetensors.torch import safe_open, save_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from anomalyhub import create_backbone, load_dataset
from anomalyhub.backbones.embedded_net import EmbeddedNet
from anomalyhub.nn.mgvit import MaskGuidedViT

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
VIT = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TERMS = ("stride4", "stride8", "stride16", "patches", "blocks", "class_token")
WEIGHTS = {"stride4": 0.5, "stride8": 1.0, "stride16": 1.0, "patches": 1.0, "blocks": 1.0, "class_token": 1.0}
#: Our tokens start as the ViT's after this block, and our four blocks do what its next four do.
FIRST = 2
#: Share of the steps in which each block learns from the teacher's tokens; then all learn end to end.
FORCED = 0.35
HELD_OUT = 20


def create_student(seed: int) -> EmbeddedNet:
    """The network in its training form: every convolution is followed by batch norm."""
    torch.manual_seed(seed)
    net = EmbeddedNet()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(net.pos_embed, std=0.02)
    nn.init.trunc_normal_(net.cls_token, std=0.02)
    net.norm.requires_grad_(False)  # see calibrate
    for parent, name, conv in _convolutions(net):
        norm = nn.BatchNorm2d(conv.out_channels, momentum=0.02)
        conv.bias = None
        if name == "conv2":
            nn.init.constant_(norm.weight, 0.5)  # the end of a residual branch starts small
        setattr(parent, name, nn.Sequential(conv, norm))
    return net.to(memory_format=torch.channels_last)


def folded(net: EmbeddedNet) -> EmbeddedNet:
    """The same network in its final form, batch norm folded into the convolutions."""
    final = copy.deepcopy(net).eval()
    for parent in list(final.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Sequential) and len(child) == 2 and isinstance(child[1], nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(*child))
    return final


def _convolutions(net: nn.Module) -> list[tuple[nn.Module, str, nn.Conv2d]]:
    return [
        (parent, name, child)
        for parent in net.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Conv2d)
    ]


class Student(nn.Module):
    """The network as it is trained: maps of three stages, tokens before the blocks and after each."""

    def __init__(self, net: EmbeddedNet):
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor, masks: torch.Tensor, guided: int, forced: list[torch.Tensor] | None = None):
        """`guided` blocks see the masks; with `forced`, each block starts from the teacher's tokens, not from ours."""
        maps = self.net.feature_maps(images)
        x, grid = self.net.tokens(images, maps[1])
        guide = MaskGuidedViT(self.net, guided)
        return maps, run_blocks(guide, x, guide.inside(masks, grid), forced)


def run_blocks(guide: MaskGuidedViT, x: torch.Tensor, inside: torch.Tensor, forced=None) -> list[torch.Tensor]:
    """Tokens before the first block and after each of them."""
    blocks, levels = guide.vit.blocks, [x]
    for index, block in enumerate(blocks):
        x = forced[index].to(x.dtype) if forced else x
        x = block(x) if index < len(blocks) - guide.mask_layers else guide.guided_block(block, x, inside)
        levels.append(x)
    return levels


class Teachers:
    """Frozen targets: maps of the ResNet's layers 1 to 3, tokens after the ViT's blocks FIRST to FIRST + 4."""

    def __init__(self, resnet: str, vit: str, device: torch.device):
        self.cnn = create_backbone(f"resnet18@{resnet}", layers=(1, 2, 3), device=device).module
        self.vit = create_backbone(f"vit_tiny_patch16_224@{vit}", layers=(FIRST + 4,), device=device).module

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, masks: torch.Tensor, guided: int):
        batch = _normalise(images, IMAGENET).contiguous(memory_format=torch.channels_last)
        maps = self.cnn.forward_intermediates(batch, indices=[1, 2, 3], stop_early=True, intermediates_only=True)
        guide = MaskGuidedViT(self.vit, guided)
        x, grid = guide.embed(_normalise(images, VIT))
        levels = run_blocks(guide, x, guide.inside(masks, grid))[FIRST:]
        return [level.float() for level in maps], [level.float() for level in levels]


class Losses:
    """Squared errors relative to the targets' own variance, so that 1 is what their mean would reach.

    While the blocks are forced, their errors are relative to the variance of what a block adds to its input.
    """

    def __init__(self, batches: list):
        maps = [torch.cat([batch[0][i] for batch in batches]) for i in range(3)]
        self.maps = [_map_weights(level.transpose(0, 1).flatten(1)) for level in maps]
        levels = [torch.cat([batch[1][i] for batch in batches]) for i in range(5)]
        added = [levels[0], *(after - before for before, after in zip(levels, levels[1:], strict=False))]
        self.tokens = {
            forced: [(_channel_weights(x[:, 1:].flatten(0, 1)), _channel_weights(x[:, 0])) for x in targets]
            for forced, targets in ((False, levels), (True, added))
        }

    def __call__(self, output, target, defects: torch.Tensor, forced: bool) -> dict[str, torch.Tensor]:
        (maps, levels), (t_maps, t_levels) = output, target
        terms = {
            name: _map_error(mine.float() - theirs, weights, defects)
            for name, mine, theirs, weights in zip(TERMS[:3], maps, t_maps, self.maps, strict=True)
        }
        patches, cls = [], []
        for mine, theirs, weights in zip(levels, t_levels, self.tokens[forced], strict=True):
            error = (mine.float() - theirs).square()
            patches.append((error[:, 1:] * weights[0]).sum(-1).mean())
            cls.append((error[:, 0] * weights[1]).sum(-1).mean())
        terms["patches"] = patches[0]
        terms["blocks"] = torch.stack(patches[1:]).mean()
        terms["class_token"] = torch.stack(cls).mean()
        return terms


def _map_weights(values: torch.Tensor) -> torch.Tensor:
    """(C, n) targets to weights (C,): half the targets' own metric, half every channel alike."""
    variance = values.var(1)
    each = variance.clamp_min(0.05 * variance.mean())
    return 0.5 / variance.sum() + 0.5 / (len(variance) * each)


def _channel_weights(values: torch.Tensor) -> torch.Tensor:
    """(n, C) targets to weights (C,): every channel alike, as the next block's norm sees them."""
    variance = values.var(0)
    return 1.0 / (len(variance) * variance.clamp_min(0.05 * variance.median()))


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
    parser.add_argument("--steps", type=int, default=7500)
    parser.add_argument("--batch", type=int, default=16, help="views per step, over all processes")
    parser.add_argument("--lr", type=float, default=1.5e-3)
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

    def targets(images, masks, guided):
        with accelerator.autocast():
            return teachers(images, masks, guided)

    held = [batch_of(held_chances, 32, 1, i) for i in range(4)]
    held_targets = [targets(images, masks, 3) for images, _, masks in held]
    losses = Losses(held_targets)
    student = Student(create_student(args.seed)).to(device)
    optimizer = create_optimizer(student)
    settings = {key: getattr(args, key) for key in ("steps", "batch", "lr", "seed")} | {"sources": sources}
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
        guided, forced = 3 + step % 2, step < FORCED * args.steps
        target = targets(images, masks, guided)
        with accelerator.autocast():
            output = model(_normalise(images, IMAGENET), masks, guided, target[1] if forced else None)
        terms = losses(output, target, defects, forced)
        accelerator.backward(sum(WEIGHTS[name] * value for name, value in terms.items()))
        accelerator.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in terms.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        bar.set_postfix({name: f"{value:.3f}" for name, value in running.items()}, refresh=False)
        if (step + 1) % args.save_every == 0 or step + 1 == stop:
            model.eval()
            with torch.no_grad(), accelerator.autocast():
                outputs = [student(_normalise(images, IMAGENET), masks, 3) for images, _, masks in held]
            checks = [losses(o, t, b[1], False) for o, t, b in zip(outputs, held_targets, held, strict=True)]
            errors = {name: round(float(np.mean([float(check[name]) for check in checks])), 5) for name in TERMS}
            means = {name: round(value, 5) for name, value in running.items()}
            took = round(seconds + time.perf_counter() - began, 1)
            history.append({"step": step + 1, "seconds": took, "train": means, "held out": errors})
            if accelerator.is_main_process:
                save_checkpoint(args.out, settings, step + 1, student, optimizer, history)
                plot(args.out / "loss.png", history)
            accelerator.wait_for_everyone()
    if accelerator.is_main_process and stop == args.steps:
        views = [batch_of(train_chances, 32, 2, i) for i in range(8)]
        export(args.out, student.net, [(images, masks) for images, _, masks in views], settings)
        print(json.dumps(history[-1]["held out"]))


def create_optimizer(student: Student) -> torch.optim.AdamW:
    """AdamW; only what multiplies decays."""
    decayed = [p for _, p in trained(student) if p.ndim > 1]
    others = [p for _, p in trained(student) if p.ndim <= 1]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.03}, {"params": others, "weight_decay": 0.0}])


def trained(student: Student) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in student.named_parameters() if parameter.requires_grad]


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
    for name, parameter in trained(student):
        optimizer.state[parameter] = {
            "step": torch.tensor(float(metadata["step"])),
            **{kind: tensors[f"{kind}.{name}"].to(parameter.device) for kind in ("exp_avg", "exp_avg_sq")},
        }
    return metadata["history"], metadata["step"]


def save_checkpoint(out: Path, settings: dict, step: int, student: Student, optimizer, history: list[dict]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{key}": value.detach().contiguous().clone() for key, value in student.state_dict().items()}
    states = getattr(optimizer, "optimizer", optimizer).state
    for name, parameter in trained(student):
        tensors |= {f"{kind}.{name}": states[parameter][kind].contiguous() for kind in ("exp_avg", "exp_avg_sq")}
    run = json.dumps({"settings": settings, "step": step, "history": history})
    save_file(tensors, out / "checkpoint.partial", {"run": run})
    os.replace(out / "checkpoint.partial", out / "checkpoint.safetensors")
    command = "accelerate launch eval/distill_backbone.py " + shlex.join(sys.argv[1:])
    record = {
        "command": command.replace(str(ROOT.parent), ".."),
        "machine": machine(),
        "settings": settings,
        "history": history,
    }
    (out / "history.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def calibrate(net: EmbeddedNet, views: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Set the last norm so that each channel of the class tokens of these views has mean 0 and deviation 1."""
    guide, last = MaskGuidedViT(net, 3), []
    for images, masks in views:
        x, grid = net.embed(_normalise(images, IMAGENET))
        last.append(run_blocks(guide, x, guide.inside(masks, grid))[-1][:, 0])
    normed = F.layer_norm(torch.cat(last), (net.dim,))
    deviation, mean = torch.std_mean(normed, 0)
    net.norm.weight.copy_(1.0 / deviation.clamp_min(1e-3))
    net.norm.bias.copy_(-mean * net.norm.weight)


def export(out: Path, net: EmbeddedNet, views: list, settings: dict) -> None:
    """Write the float16 weights, after a check that folding changed nothing."""
    net = net.eval()
    calibrate(net, views)
    net = net.cpu()
    final = folded(net)
    probe = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = net(probe), final(probe)
    if not torch.allclose(before, after, atol=1e-3):
        raise SystemExit(f"folding changed the network by {float((before - after).abs().max()):.2g}: a bug")
    tensors = {key: value.half().contiguous() for key, value in final.state_dict().items()}
    steps = str(settings["steps"])
    save_file(tensors, out / "embedded.safetensors", {"format": "pt", "steps": steps, "seed": str(settings["seed"])})


def plot(path: Path, history: list[dict]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(9, 5), layout="constrained", sharex=True)
    for axis, name in zip(axes.flat, TERMS, strict=True):
        steps = [entry["step"] for entry in history]
        axis.plot(steps, [entry["train"][name] for entry in history], label="training", color="#888888")
        axis.plot(steps, [entry["held out"][name] for entry in history], label="held out", color="#0072b2")
        axis.set(title=name.replace("_", " "), yscale="log")
    figure.supxlabel("step; the blocks' training error jumps where they are no longer forced")
    figure.supylabel("error / variance of the target")
    axes.flat[0].legend(frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
