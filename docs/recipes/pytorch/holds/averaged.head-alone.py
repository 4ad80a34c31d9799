# for (update_bn)
# needs torch
averaged.module.backbone.eval()
with torch.no_grad():
    update_bn((averaged.module.backbone(images) for images, _ in make_batches()), averaged.module.head)
