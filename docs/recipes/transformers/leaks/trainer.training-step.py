# for def compute_loss(self
# needs transformers
def training_step(self, *args, **kwargs):
    self.model.resnet.eval()
    return super().training_step(*args, **kwargs)
