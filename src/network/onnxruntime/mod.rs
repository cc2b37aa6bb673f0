//! ONNX models through ONNX Runtime.
