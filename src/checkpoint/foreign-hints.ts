/** How to bring the weights of a Keras model along, by names that audits know; more of it in docs/formats.md. */
export const SAVE_KERAS_WEIGHTS =
  "Load the model and save its weights as safetensors: save_file({v.path: keras.ops.convert_to_numpy(v) for v in model.variables}, 'model.safetensors')";

/** The same for a SavedModel of TensorFlow. */
export const SAVE_TENSORFLOW_WEIGHTS =
  "Save its weights as safetensors: save_file({v.name: v.numpy() for v in tf.saved_model.load(DIRECTORY).signatures['serving_default'].variables}, 'model.safetensors')";
