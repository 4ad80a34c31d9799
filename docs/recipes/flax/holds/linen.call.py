# for (call)
# needs flax
features = self.backbone(images, train=False)
