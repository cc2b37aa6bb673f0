//! onnx (to come)
