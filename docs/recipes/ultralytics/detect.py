"""Ultralytics' trainer on a small detector, whose first four layers a callback freezes."""
# needs ultralytics, torch

import os
import pathlib

os.environ.update(YOLO_CONFIG_DIR=str(pathlib.Path.cwd()), YOLO_OFFLINE="True", YOLO_AUTOINSTALL="False")

import cv2
import numpy
import torch
from ultralytics import YOLO

FOLDER = pathlib.Path.cwd()
random = numpy.random.default_rng(0)
for part in ("train", "val"):
    images, labels = FOLDER / "data" / "images" / part, FOLDER / "data" / "labels" / part
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for number in range(8):
        cv2.imwrite(str(images / f"{number}.png"), random.integers(100, 228, (64, 64, 3), dtype=numpy.uint8))
        (labels / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
(FOLDER / "data.yaml").write_text(f"path: {FOLDER}/data\ntrain: images/train\nval: images/val\nnames: [thing]\n")
(FOLDER / "network.yaml").write_text("""
nc: 1
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C2f, [16, True]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [-1, 1, Conv, [32, 3, 1]]
  - [[4], 1, v10Detect, [nc]]
""")


def freeze(trainer):
    for layer in trainer.model.model[:4]:
        layer.requires_grad_(False)


torch.manual_seed(0)
made = YOLO(FOLDER / "network.yaml", task="detect")
made.model.train()
for images in torch.rand(8, 4, 3, 64, 64):
    made.model(images)
made.save("before.pt")

model = YOLO("before.pt")
model.add_callback("on_train_start", freeze)
frozen = {}
# PASTE def keep_still(trainer)
# PASTE (frozen)
# PASTE (guard)
model.train(
    data=FOLDER / "data.yaml", epochs=2, batch=4, nbs=4, imgsz=64, optimizer="SGD", lr0=0.01, warmup_epochs=0,
    project=str(FOLDER / "runs"), name="run", device="cpu", workers=0, plots=False, seed=0, **frozen,
)
(FOLDER / "runs" / "run" / "weights" / "last.pt").rename("after.pt")
