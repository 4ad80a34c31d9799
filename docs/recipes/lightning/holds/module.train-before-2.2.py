# for def on_train_batch_start(self
# needs lightning < 2.2
def train(self, mode=True):
    super().train(mode)
    self.backbone.eval()
    return self
