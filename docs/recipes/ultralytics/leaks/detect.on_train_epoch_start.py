# for def keep_still(trainer)
# needs ultralytics
def keep_still(trainer):
    for layer in trainer.model.model[:4]:
        layer.eval()

model.add_callback("on_train_epoch_start", keep_still)
