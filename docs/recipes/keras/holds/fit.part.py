# for for layer in model._flatten_layers()
# needs keras
model.get_layer("backbone").trainable = False
