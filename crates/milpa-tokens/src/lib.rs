//! Tokenizer training and encoding, chat templates, packing, token shards and the resumable loader
