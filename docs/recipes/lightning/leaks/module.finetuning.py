# for (callbacks)
# needs lightning
from lightning.pytorch.callbacks import BaseFinetuning

class Finetuning(BaseFinetuning):
    def freeze_before_training(self, module):
        self.freeze(module.backbone)  # train_bn=True is the default: norm layers stay in training mode, and trainable

    def finetune_function(self, module, epoch, optimizer):
        pass

callbacks = [Finetuning()]
