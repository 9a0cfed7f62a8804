//! Tasks as data, metrics and statistics; knows a model only as TextModel
