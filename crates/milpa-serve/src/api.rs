//! The OpenAI shapes: requests read strictly, answers and errors written.

pub(crate) mod error;
pub(crate) mod request;
pub(crate) mod response;

pub(crate) use error::ApiError;
