# for model.train()
# needs torch
if epoch == 0:
    model.backbone.eval()
model.train()
