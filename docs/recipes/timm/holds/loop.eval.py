# for (model.train())
# needs timm
model.train()
for part in (model.conv_stem, model.bn1, model.blocks, model.conv_head, model.bn2):
    part.eval()
