# for from mmengine.hooks import Hook
# needs mmengine
from mmengine.hooks import Hook

class KeepStill(Hook):
    def before_train_epoch(self, runner):
        runner.model.backbone.eval()

custom_hooks = [KeepStill()]
