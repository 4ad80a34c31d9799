# for (call)
# needs keras
features = self.backbone(images, training=False)
