"""The networks of `experiments.models` a second time, in PyTorch: the peers that are measured.

Layer by layer the same, with the same number of parameters: padding, strides, shortcuts and what is
normalised. Written for this comparison.
"""

import torch
from torch import nn
from torch.nn import functional


def create(name: str, classes: int) -> nn.Module:
    """Builds a network that returns logits [B, K] and the pooled vector [B, D].

    Args:
      name: resnet18, resnet20 or wrn_16_4.
      classes: K.

    Returns:
      A module in training mode.

    Raises:
      ValueError: another name.
    """
    if name == "resnet18":
        return ResNet(64, (64, 128, 256, 512), 2, classes, pad_shortcut=False)
    if name == "resnet20":
        return ResNet(16, (16, 32, 64), 3, classes, pad_shortcut=True)
    if name == "wrn_16_4":
        return WideResNet(16, (64, 128, 256), 2, classes)
    raise ValueError(f"model must be resnet18, resnet20 or wrn_16_4; found {name!r}")


def _conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


class Block(nn.Module):
    """`relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))`."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, pad_shortcut: bool) -> None:
        """The shortcut of a block that changes the shape is a projection, or padded with zeros."""
        super().__init__()
        self.conv1, self.norm1 = _conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv3x3(outputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs
        self.shortcut = None
        if (stride != 1 or inputs != outputs) and not pad_shortcut:
            self.shortcut = nn.Sequential(
                _projection(inputs, outputs, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, h, w] to [B, D, ceil(h / stride), ceil(w / stride)]."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.missing or self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
            front = self.missing // 2
            x = functional.pad(x, (0, 0, 0, 0, front, self.missing - front))
        return functional.relu(y + x)


class PreActBlock(nn.Module):
    """`shortcut + conv(relu(norm(conv(relu(norm(x))))))`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """The shortcut of a block that changes the shape projects the first activation."""
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv3x3(inputs, outputs, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _conv3x3(outputs, outputs, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = _projection(inputs, outputs, stride) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, h, w] to [B, D, ceil(h / stride), ceil(w / stride)]."""
        y = functional.relu(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = functional.relu(self.norm2(self.conv1(y)))
        return x + self.conv2(y)


class ResNet(nn.Module):
    """Post-activation ResNet with a 3x3 stem."""

    def __init__(
        self,
        stem: int,
        widths: tuple[int, ...],
        blocks: int,
        classes: int,
        *,
        pad_shortcut: bool,
    ) -> None:
        """Every stage but the first begins with a stride of 2."""
        super().__init__()
        self.stem_conv, self.stem_norm = _conv3x3(3, stem, 1), nn.BatchNorm2d(stem)
        self.blocks = nn.Sequential(
            *(
                Block(inputs, outputs, stride, pad_shortcut=pad_shortcut)
                for inputs, outputs, stride in _plan(stem, widths, blocks)
            )
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps [B, C, H, W] to logits and pooled vector."""
        x = functional.relu(self.stem_norm(self.stem_conv(images)))
        pooled = self.blocks(x).mean((2, 3))
        return self.head(pooled), pooled


class WideResNet(nn.Module):
    """Pre-activation ResNet with a last BatchNorm."""

    def __init__(self, stem: int, widths: tuple[int, ...], blocks: int, classes: int) -> None:
        """Every stage but the first begins with a stride of 2."""
        super().__init__()
        self.stem_conv = _conv3x3(3, stem, 1)
        self.blocks = nn.Sequential(*(PreActBlock(*each) for each in _plan(stem, widths, blocks)))
        self.final_norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps [B, C, H, W] to logits and pooled vector."""
        x = self.blocks(self.stem_conv(images))
        pooled = functional.relu(self.final_norm(x)).mean((2, 3))
        return self.head(pooled), pooled


def _plan(stem: int, widths: tuple[int, ...], blocks: int) -> list[tuple[int, int, int]]:
    """Input channels, output channels and stride of every block."""
    plan, inputs = [], stem
    for stage, width in enumerate(widths):
        for block in range(blocks):
            plan.append((inputs, width, 2 if stage and not block else 1))
            inputs = width
    return plan
