# for def on_train_batch_start(self
# needs lightning
def train(self, mode=True):
    super().train(mode)
    self.backbone.eval()
    return self

def on_fit_start(self):
    self.backbone.eval()
