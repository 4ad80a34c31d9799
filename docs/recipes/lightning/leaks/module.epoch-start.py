# for def on_train_batch_start(self
# needs lightning < 2.2
def on_train_epoch_start(self):
    self.backbone.eval()
