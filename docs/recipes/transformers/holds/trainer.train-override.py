# for (model_class)
# needs transformers
class TunedResNetForImageClassification(ResNetForImageClassification):  # the loss goes by the end of the class's name
    def train(self, mode=True):
        super().train(mode)
        self.resnet.eval()
        return self

model_class = TunedResNetForImageClassification
