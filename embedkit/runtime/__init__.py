"""What answers without torch: tokenising, batching and pooling on numpy, tokenizers and onnxruntime alone."""
