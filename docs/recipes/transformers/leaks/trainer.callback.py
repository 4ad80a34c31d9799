# for (callbacks)
# needs transformers
class KeepStill(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, model, **kwargs):
        model.resnet.eval()

callbacks = [KeepStill()]
