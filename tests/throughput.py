#!/usr/bin/env python3
"""Compares the speed of training with PyTorch's on the CPU, on the same networks.

    cargo build --release -p niwaki
    pip install torch
    python3 tests/throughput.py --data ../shared/data > docs/results/throughput.md

Every network is trained dense for one epoch by `niwaki train`, which describes it in `run.json`; the same
layers are then built in PyTorch from that description and trained on tensors of the same shape. The two take
turns, several times, and the medians count, because machines are seldom quiet. The steps are whole: a batch
is gathered, forward, backward, and SGD with momentum and weight decay. PyTorch is warm before it is timed.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Network, data below --data (or a name), images of an epoch.
CASES = [
    ("lenet", "fashion-mnist", 6400),
    ("resnet8:width=16", "cifar10-jpeg", 1280),
    ("ds-cnn:width=64", "arabic-speech", 1280),
]
BATCH = 64


def pair(value):
    return tuple(value) if isinstance(value, list) else (value, value)


def network(spec):
    """The network of a run's description as a PyTorch module over inputs in the order NCHW."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Same(nn.Module):
        """A convolution with as much padding as keeps the size, less the stride."""

        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            padding = []
            for axis in (1, 0):
                size, kernel, stride = x.shape[2 + axis], self.conv.kernel_size[axis], self.conv.stride[axis]
                total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
                padding += [total // 2, total - total // 2]
            return self.conv(F.pad(x, padding) if any(padding) else x)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            height, width, channels = spec["input"]
            shapes = {"": (channels, height, width)}
            self.steps, last, modules = [], "", {}
            for layer in spec["layers"]:
                kind, name = layer["kind"], layer["name"]
                inputs = layer.get("inputs") or [last]
                (c, h, w), module, shape = shapes[inputs[0]], None, None
                if kind in ("conv", "depthwise", "pointwise"):
                    stride = pair(layer["stride"])
                    kernel = pair(layer.get("kernel", 1))
                    out = layer.get("out") or c * layer["multiplier"]
                    groups = c if kind == "depthwise" else layer.get("groups", 1)
                    assert layer.get("padding", "same") == "same", layer
                    module = Same(nn.Conv2d(c, out, kernel, stride, groups=groups, bias=layer["bias"]))
                    shape = (out, math.ceil(h / stride[0]), math.ceil(w / stride[1]))
                elif kind == "batch-norm":
                    module = nn.BatchNorm1d(c) if h is None else nn.BatchNorm2d(c)
                elif kind == "relu":
                    module = nn.ReLU()
                elif kind == "max-pool":
                    kernel = pair(layer["kernel"])
                    module, shape = nn.MaxPool2d(kernel), (c, h // kernel[0], w // kernel[1])
                elif kind == "global-avg-pool":
                    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
                    shape = (c, None, None)
                elif kind == "flatten":
                    module, shape = nn.Flatten(), (c * h * w, None, None)
                elif kind == "linear":
                    module = nn.Linear(c, layer["out"], bias=layer["bias"])
                    shape = (layer["out"], None, None)
                elif kind == "softmax":
                    continue  # Part of the loss.
                elif kind != "add":
                    raise ValueError(f"no counterpart for {layer}")
                if module is not None:
                    modules[name.replace("-", "_")] = module
                self.steps.append((module, inputs, name))
                shapes[name], last = shape or (c, h, w), name
            self.layers, self.last = nn.ModuleDict(modules), last

        def forward(self, x):
            values = {"": x}
            for module, inputs, name in self.steps:
                given = [values[i] for i in inputs]
                values[name] = given[0] + given[1] if module is None else module(given[0])
            return values[self.last]

    return Network(), torch


def pytorch(run, images, channels_last):
    """Images per second of one epoch."""
    spec = json.loads(Path(run, "run.json").read_text())["net"]
    net, torch = network(spec)
    height, width, channels = spec["input"]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    data = torch.randn(images, channels, height, width).to(memory_format=layout)
    labels = torch.randint(0, 10, (images,))
    net = net.to(memory_format=layout).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loss = torch.nn.CrossEntropyLoss()

    def step(batch):
        optimiser.zero_grad()
        loss(net(data[batch]), labels[batch]).backward()
        optimiser.step()

    order = torch.randperm(images).split(BATCH)
    for batch in order[:3]:
        step(batch)
    start = time.perf_counter()
    for batch in order:
        step(batch)
    return images / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--niwaki", default="target/release/niwaki", help="the command [default: %(default)s]")
    parser.add_argument("--data", default="../shared/data", help="folder of the data sets [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each takes [default: %(default)s]")
    parser.add_argument("--pytorch", nargs=3, metavar=("RUN", "IMAGES", "LAYOUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pytorch:
        run, images, layout = options.pytorch
        print(pytorch(run, int(images), layout == "channels-last"))
        return

    def out(command):
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    rows = []
    for net, name, images in CASES:
        data = Path(options.data, name)
        with tempfile.TemporaryDirectory() as folder:
            train = [options.niwaki, "train", "--net", net, "--data", str(data if data.exists() else name)]
            train += ["--method", "dense", "--epochs", "1", "--qat-epochs", "0", "--train-limit", str(images)]
            train += ["--batch", str(BATCH), "--out", f"{folder}/run", "--force", "--format", "json"]
            torch = [sys.executable, __file__, "--pytorch", f"{folder}/run", str(images)]
            speeds = {"niwaki": [], "nchw": [], "channels-last": []}
            for turn in range(options.rounds):
                print(f"{net}: turn {turn + 1} of {options.rounds}", file=sys.stderr)
                speeds["niwaki"].append(json.loads(out(train))["images_per_s"])
                for layout in ("nchw", "channels-last"):
                    speeds[layout].append(float(out(torch + [layout])))
        own, nchw, last = (statistics.median(speeds[key]) for key in speeds)
        rows.append((net, own, nchw, last, nchw / own, last / own))
    version = out([sys.executable, "-c", "import torch; print(torch.__version__, torch.get_num_threads())"]).split()
    print("# Training beside PyTorch\n\n```sh")
    print("python3 tests/throughput.py --data ../shared/data > docs/results/throughput.md\n```\n")
    print(f"Images per second of whole training steps, dense, batches of {BATCH}: medians of {options.rounds} turns")
    print(f"of each on one machine. PyTorch {version[0]} on the CPU with {version[1]} threads.\n")
    print("| network | niwaki | PyTorch, NCHW | PyTorch, channels last | NCHW / niwaki | channels last / niwaki |")
    print("|---|---:|---:|---:|---:|---:|")
    for net, own, nchw, last, *ratios in rows:
        print(f"| {net} | {own:.0f} | {nchw:.0f} | {last:.0f} | {ratios[0]:.1f} | {ratios[1]:.1f} |")


if __name__ == "__main__":
    main()
