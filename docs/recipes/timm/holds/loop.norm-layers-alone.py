# for from timm.utils import freeze
# needs timm
from timm.layers import freeze_batch_norm_2d

model = freeze_batch_norm_2d(model)
