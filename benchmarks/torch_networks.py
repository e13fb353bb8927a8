"""The networks of four recipes in PyTorch, with their optimizers and losses, for against_peers.py.

They take PyTorch's image layout, float [N, C, H, W], and have neither augmentation nor dropout, which only
our side pays for.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def tutorial() -> nn.Module:
    """The network of TensorFlow's CNN tutorial."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Any) -> Any:
        return x * self.factor


def fast94() -> nn.Module:
    """airbench94's network (Jordan 2024, section 3.1)."""

    def convolution(inputs: int, filters: int) -> nn.Module:
        return nn.Conv2d(inputs, filters, 3, padding="same", bias=False)

    def normalization(filters: int) -> nn.Module:
        layer = nn.BatchNorm2d(filters, eps=1e-12, momentum=0.4)
        layer.weight.requires_grad = False
        return layer

    def block(inputs: int, filters: int) -> list[nn.Module]:
        return [
            convolution(inputs, filters), nn.MaxPool2d(2), normalization(filters), nn.GELU(),
            convolution(filters, filters), normalization(filters), nn.GELU(),
        ]  # fmt: skip

    whiten = nn.Conv2d(3, 24, 2, bias=False)
    whiten.weight.requires_grad = False
    return nn.Sequential(
        whiten, nn.GELU(), *block(24, 64), *block(64, 256), *block(256, 256),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 10, bias=False), Scale(1 / 9),
    )  # fmt: skip


class Residual(nn.Module):
    """A basic block of ResNet (He et al. 2016, figure 5)."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters), nn.ReLU(),
            nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            convolution = nn.Conv2d(inputs, filters, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(filters))

    def forward(self, x: Any) -> Any:
        return functional.relu(self.branch(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 with a first layer for small images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for filters in (64, 128, 256, 512):
        layers += [Residual(inputs, filters, 1 if filters == 64 else 2), Residual(filters, filters, 1)]
        inputs = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Transformer(nn.Module):
    """CCT-2/3×2 (Hassani et al. 2021) with max-pooling of 2×2."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.positions = nn.Parameter(torch.randn(1, 64, 128) * 0.2)
        blocks = [
            nn.TransformerEncoderLayer(
                128, 2, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(2)
        ]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(128))
        self.importance = nn.Linear(128, 1)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Any) -> Any:
        tokens = self.tokenizer(x).flatten(2).transpose(1, 2) + self.positions
        tokens = self.blocks(tokens)
        weights = functional.softmax(self.importance(tokens), dim=1)
        return self.head((weights.transpose(1, 2) @ tokens).squeeze(1))


#: A function of the weights and of further arguments, such as `fused`.
Optimizer = Callable[..., torch.optim.Optimizer]


class Muon(torch.optim.SGD):
    """Muon for convolutions (Jordan et al. 2024), as in airbench94_muon; Nesterov momentum for the rest."""

    def __init__(self, weights: list[Any], *, lr: float, kernel_momentum: float, **settings: Any) -> None:
        kernels = [each for each in weights if each.ndim == 4]
        rest = [each for each in weights if each.ndim != 4]
        groups = [{"params": kernels, "momentum": 0.0, "nesterov": False}, {"params": rest}]
        super().__init__(groups, lr, nesterov=True, **settings)
        self.kernel_momentum = kernel_momentum
        self.velocities = [(each, torch.zeros_like(each)) for each in kernels]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for kernel, velocity in self.velocities:
            velocity.mul_(self.kernel_momentum).add_(kernel.grad)
            moved = kernel.grad.add(velocity, alpha=self.kernel_momentum)
            kernel.grad.copy_(orthogonalized(moved.flatten(1)).view_as(moved))
            kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
        return super().step(closure)


def orthogonalized(matrix: Any) -> Any:
    """A semi-orthogonal matrix near a wide one, by three Newton-Schulz steps."""
    matrix = matrix / (matrix.norm() + 1e-7)
    for _ in range(3):
        gram = matrix @ matrix.T
        matrix = 3.4445 * matrix + (2.0315 * gram @ gram - 4.7750 * gram) @ matrix
    return matrix


#: By recipe: the network, its optimizer, label smoothing, and the number of trained parameters.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Optimizer, float, int]] = {
    "tutorial": (tutorial, functools.partial(torch.optim.Adam, lr=1e-3, eps=1e-7), 0.0, 122_570),
    "fast94": (fast94, functools.partial(Muon, lr=0.01, kernel_momentum=0.6, momentum=0.85), 0.2, 1_971_328),
    "resnet18": (
        resnet18,
        functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
        0.0,
        11_173_962,
    ),
    "vit": (Transformer, functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.06), 0.1, 284_491),
}
