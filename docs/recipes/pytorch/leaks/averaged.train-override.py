# for (class)
# needs torch
def train(self, mode=True):
    super().train(mode)
    self.backbone.eval()  # update_bn() resets it all the same, and then it stays at mean 0 and variance 1
    return self
