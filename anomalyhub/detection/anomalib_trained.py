"""A model of anomalib's own classes: trained by anomalib, kept as tensors, class name and arguments."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from anomalyhub.detection.anomalib_exported import MISSING
from anomalyhub.errors import AnomalyHubError, BackboneError, InvalidArgumentError, InvalidModelError, UnknownNameError
from anomalyhub.protocols import Progress
from anomalyhub.types import Sample

#: What is computed by AnomalyHub, or only during anomalib's evaluation: raw scores come without them.
_PARTS = {"post_processor": False, "evaluator": False, "visualizer": False}
_PREFIX = "module."
_KEEPS_MORE = (
    "this {} of anomalib is more than its weights and plain arguments, and cannot be saved: "
    "export it with its to_openvino() and give the model.xml"
)


class TrainedModel:
    """An anomalib module with what its images go through before.

    module     an AnomalibModule in evaluation mode
    arguments  what its class was called with, None where it cannot be made again from that and its weights
    transform  size (h, w) that the whole image is resized to, interpolation, and mean and std or None
    """

    def __init__(self, module: Any, arguments: Mapping[str, Any] | None, transform: Mapping[str, Any]):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module, self.arguments, self.transform = module.eval().to(device), arguments, transform
        self.device = device

    @classmethod
    def train(
        cls,
        name: str,
        arguments: Mapping[str, Any],
        samples: Sequence[Sample],
        *,
        epochs: int,
        batch_size: int,
        seed: int,
        progress: Progress,
    ) -> TrainedModel:
        """Train anomalib's class `name` on normal images with its own training step and its own trainer arguments.

        epochs  unless the class asks for a number of its own, such as 1 for a memory bank
        Images are resized whole: a centre crop that the class would make is left out, so that maps cover the image.
        """
        with _quiet(), _seeded(seed):
            module = create(name, arguments)
            transform = _transform_of(module, drop_crops=True)
            module.pre_processor.transform = _torch_transform(transform)
            try:
                _run_trainer(module, samples, transform, epochs, batch_size, progress)
            except (AnomalyHubError, torch.cuda.OutOfMemoryError):  # cancelled, or an image that cannot be read
                raise
            except Exception as error:  # whatever its classes raise
                raise InvalidArgumentError(
                    f"anomalib could not train {name} on {len(samples)} images ({type(error).__name__}: {error}): "
                    "choose other arguments or another model"
                ) from error
        return cls(module, dict(arguments), transform).rebuilt()

    @classmethod
    def wrap(cls, module: Any) -> TrainedModel:
        """Around a trained module of the caller's. Raises InvalidArgumentError where it does not see whole images."""
        model = cls(module, _own_arguments(module), _transform_of(module, drop_crops=False))
        with contextlib.suppress(AnomalyHubError):
            return model.rebuilt()
        return cls(module, None, model.transform)

    def rebuilt(self) -> TrainedModel:
        """The very model that is loaded after saving. Raises InvalidArgumentError where that gives other maps."""
        image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        other = TrainedModel.restore(*self.state())
        if not np.allclose(self(image)[0], other(image)[0], rtol=1e-3, equal_nan=True):
            raise InvalidArgumentError(_KEEPS_MORE.format(type(self.module).__name__))
        return other

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """(H, W, 3) uint8 to an (h, w) float32 map of the whole image and its raw score."""
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(self.device).float() / 255
        name = type(self.module).__name__
        try:
            result = self.module.model(_torch_transform(self.transform)(tensor))
        except (RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            raise InvalidArgumentError(f"anomalib's {name} fails on an image ({error}): train it on more") from error
        scores = getattr(result, "anomaly_map", None)
        if scores is None:
            raise InvalidArgumentError(f"anomalib's {name} gives no anomaly map: choose a model that locates defects")
        scores = scores.float().cpu().numpy()
        scores = scores.reshape(scores.shape[-2:])
        score = getattr(result, "pred_score", None)
        return scores, float(scores.max() if score is None else score.float().cpu().ravel()[0])

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON values and arrays that `restore` takes. Raises InvalidArgumentError where these are not all it takes."""
        name = type(self.module).__name__
        if self.arguments is None:
            raise InvalidArgumentError(_KEEPS_MORE.format(name))
        config = {"model": name, "arguments": dict(self.arguments), "transform": dict(self.transform)}
        arrays = {_PREFIX + key: value.cpu().numpy() for key, value in _weights(self.module).items()}
        return config, arrays

    @classmethod
    def restore(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> TrainedModel:
        """The model that `state` described. Nothing is downloaded where the class can do without."""
        tensors = {k.removeprefix(_PREFIX): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(_PREFIX)}
        with _quiet(), _seeded(0):
            module = create(str(config["model"]), config["arguments"], blank=True)
            try:
                lost = module.load_state_dict(tensors, strict=False)
            except RuntimeError as error:
                raise InvalidModelError(f"the weights do not fit anomalib's {config['model']}: fit again") from error
        if lost.unexpected_keys or set(lost.missing_keys) & _weights(module).keys():
            raise InvalidModelError(
                f"this anomalib's {config['model']} has other weights than the one that was saved: "
                "install the version that it was fitted with, or fit again"
            )
        return cls(module, config["arguments"], config["transform"])


def create(name: str, arguments: Mapping[str, Any], *, blank: bool = False) -> Any:
    """An untrained anomalib module; `blank` leaves pretrained weights out where the class has an option for that.

    Raises UnknownNameError, InvalidArgumentError, BackboneError. Text arguments are names, never paths or addresses:
    a model folder from elsewhere must not make anomalib open files.
    """
    models = _import_models()
    classes = {key: getattr(models, key, None) for key in models.__all__}
    valid = [key for key, value in classes.items() if isinstance(value, type)]
    if name not in valid:
        raise UnknownNameError("anomalib model", name, valid)
    if bad := [text for text in _texts(arguments) if any(mark in text for mark in "/\\:")]:
        raise InvalidArgumentError(f"setting arguments has {bad[0]!r}, which is a path or an address: give a name")
    accepted = inspect.signature(classes[name].__init__).parameters
    without = {"pre_trained": False} if blank and "pre_trained" in accepted else {}
    try:
        return classes[name](**{**arguments, **without}, **_PARTS)
    except OSError as error:
        remedy = ', or give arguments={"pre_trained": false}' if "pre_trained" in accepted else ""
        raise BackboneError(
            f"anomalib could not get the weights of {name} ({error}): connect to the network{remedy}"
        ) from error
    except ImportError as error:
        raise InvalidArgumentError(f"anomalib's {name} needs what is not installed: {error}") from error
    except Exception as error:  # whatever its classes raise
        raise InvalidArgumentError(
            f"anomalib's {name} cannot be made with {json.dumps(dict(arguments))} ({error}): change setting arguments"
        ) from error


def _import_models() -> Any:
    try:
        with _quiet():
            import anomalib.models
    except ImportError as error:
        raise InvalidArgumentError(MISSING.format("anomalib")) from error
    return anomalib.models


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from itertools.chain.from_iterable(map(_texts, value.values()))
    elif isinstance(value, (list, tuple)):
        yield from itertools.chain.from_iterable(map(_texts, value))


def _weights(module: Any) -> dict[str, torch.Tensor]:
    """The state but for what belongs to the parts that are left out."""
    return {key: value for key, value in module.state_dict().items() if key.split(".")[0] not in _PARTS}


def _own_arguments(module: Any) -> dict[str, Any] | None:
    """What the module's class was called with, without defaults; None where that is no JSON."""
    accepted = inspect.signature(type(module).__init__).parameters
    given = {key: value for key, value in dict(module.hparams).items() if key in accepted and key not in _PARTS}
    try:
        return json.loads(json.dumps({k: v for k, v in given.items() if v != accepted[k].default}))
    except (TypeError, ValueError):
        return None


def _transform_of(module: Any, *, drop_crops: bool) -> dict[str, Any]:
    """Size, interpolation, mean and std of a module's pre-processor."""
    from torchvision.transforms import v2

    name, transform = type(module).__name__, getattr(module.pre_processor, "transform", None)
    if transform is None or module.input_size is None:
        raise InvalidArgumentError(f"anomalib's {name} has no pre-processor that resizes images: give it one")
    steps = list(getattr(transform, "transforms", [transform]))
    other = [type(step).__name__ for step in steps if not isinstance(step, (v2.Resize, v2.Normalize))]
    if other and not drop_crops:
        raise InvalidArgumentError(
            f"the pre-processor of this {name} has the step {other[0]}, so that its maps may not cover the image: "
            "train it with Resize and Normalize alone"
        )
    resize = next((step for step in steps if isinstance(step, v2.Resize)), None)
    normalize = next((step for step in steps if isinstance(step, v2.Normalize)), None)
    return {
        "size": [int(side) for side in module.input_size],
        "interpolation": v2.InterpolationMode(resize.interpolation).value if resize else "bilinear",
        "mean": [float(value) for value in normalize.mean] if normalize else None,
        "std": [float(value) for value in normalize.std] if normalize else None,
    }


def _torch_transform(transform: Mapping[str, Any]) -> Any:
    """What `_transform_of` describes, for tensors (…, 3, H, W) in [0, 1]."""
    from torchvision.transforms import v2

    mode = v2.InterpolationMode(transform["interpolation"])
    steps = [v2.Resize(tuple(transform["size"]), interpolation=mode, antialias=True)]
    if transform["mean"] is not None:
        steps.append(v2.Normalize(mean=transform["mean"], std=transform["std"]))
    return v2.Compose(steps)


def _run_trainer(
    module: Any,
    samples: Sequence[Sample],
    transform: Mapping[str, Any],
    epochs: int,
    batch_size: int,
    progress: Progress,
) -> None:
    from anomalib.data import ImageBatch, ImageItem
    from lightning.pytorch import Callback, LightningDataModule, Trainer

    resize = _torch_transform({**transform, "mean": None})
    count = len(samples)
    # batch normalisation cannot train on one image
    size = next(size for size in itertools.count(min(batch_size, count)) if count % size != 1 or count == 1)

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return count

        def __getitem__(self, index):
            image = resize(torch.from_numpy(np.array(samples[index].image)).permute(2, 0, 1).float() / 255)
            return ImageItem(image=image, gt_label=torch.tensor(0), gt_mask=torch.zeros(image.shape[1:]))

    class Data(LightningDataModule):
        def train_dataloader(self):
            return torch.utils.data.DataLoader(Images(), size, shuffle=True, collate_fn=ImageBatch.collate)

    class Report(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            done = trainer.current_epoch * trainer.num_training_batches + batch_idx + 1
            total = max(trainer.max_epochs, 1) * trainer.num_training_batches
            progress(min(done / total, 1.0), f"epoch {trainer.current_epoch + 1}, batch {batch_idx + 1}")

    trainer = Trainer(
        **{"max_epochs": epochs, **module.trainer_arguments, "devices": 1, "num_sanity_val_steps": 0},
        callbacks=[Report()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=Data())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """anomalib and Lightning tell much about themselves: only their errors get through."""
    loggers = [logging.getLogger(name) for name in ("anomalib", "lightning", "lightning.pytorch", "timm")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed every generator that anomalib's models draw from, and give the caller's states back."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
