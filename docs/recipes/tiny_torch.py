"""What the PyTorch recipes share: a backbone with three norm layers and a head with one, and synthetic images."""

import torch
from torch import nn


def make_backbone():
    """Convolutions and norm layers, whose statistics have seen data, as those of a pre-trained backbone have."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
    for images, _ in make_batches(seed=1, mean=0.0):
        backbone(images)
    return backbone


def make_head():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def make_data(seed=3, mean=1.0):
    """64 images of three classes; another mean is another domain, whose statistics differ."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(64, 3, 12, 12, generator=generator) * 2 + mean
    return torch.utils.data.TensorDataset(images, torch.arange(64) % 3)


def make_batches(seed=3, mean=1.0):
    return torch.utils.data.DataLoader(make_data(seed, mean), batch_size=8)
