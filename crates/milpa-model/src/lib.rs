//! Decoder definition, Hugging Face and GGUF weights in and out, KV cache, sampling, the local TextModel
