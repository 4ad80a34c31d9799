# for (hook)
# needs lightning
def on_train_batch_start(self, batch, batch_idx):
    self.backbone.eval()  # they are reset all the same, and then stay at mean 0 and variance 1
