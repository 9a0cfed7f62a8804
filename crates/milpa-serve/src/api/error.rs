//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use milpa_base::ModelError;
use serde_json::{Value, json};

use crate::engine::Refusal;

/// An answer that says why there is no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) kind: &'static str,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
    /// Seconds after which trying again makes sense.
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind, param: None, code: None, retry_after: None }
    }

    /// A request that has to be changed before it can be answered.
    pub(crate) fn bad_request(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message).param(param)
    }

    /// A request for something that this server does not do.
    pub(crate) fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self::bad_request(param, message).code("unsupported_parameter")
    }

    pub(crate) fn param(mut self, param: &str) -> Self {
        self.param = (!param.is_empty()).then(|| param.to_owned());
        self
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn timed_out() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "server_error",
            "the request took longer than this server allows; ask for fewer tokens, or try again \
             when the server is less busy",
        )
        .code("timeout")
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "the server is shutting down")
            .code("shutting_down")
    }

    pub(crate) fn model_failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message).code("model_failed")
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        let message = error.to_string();
        match error {
            ModelError::TooLong { .. } => {
                Self::bad_request("", message).code("context_length_exceeded")
            }
            ModelError::BadRequest(_) => Self::bad_request("", message),
            ModelError::Unavailable { .. } => Self::unsupported("", message),
            ModelError::Failed(_) => Self::model_failed(message),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy { retry_after } => {
                let message =
                    format!("all places in the queue are taken; try again in {retry_after} s");
                let mut error =
                    Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
                        .code("queue_full");
                error.retry_after = Some(retry_after);
                error
            }
            Refusal::TimedOut => Self::timed_out(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::GATEWAY_TIMEOUT {
            // OpenAI's clients repeat a request after a 5xx unless told otherwise; the same
            // request would only take as long again.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}
