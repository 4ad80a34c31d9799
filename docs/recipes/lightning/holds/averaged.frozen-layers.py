# for (backbone)
# needs lightning, timm
from timm.layers import freeze_batch_norm_2d  # puts layers in place that are no BatchNorm2d

self.backbone = freeze_batch_norm_2d(self.backbone)
