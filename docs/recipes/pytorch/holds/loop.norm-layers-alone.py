# for model.train()
# needs torch
from torch.nn.modules.batchnorm import _NormBase

model.train()
for module in model.backbone.modules():
    if isinstance(module, _NormBase):
        module.eval()
