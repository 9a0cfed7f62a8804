//! The chat page, embedded: HTML, style, script and icon, with headers that let nothing else run.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};

const INDEX: &str = include_str!("../page/index.html");
const STYLE: &str = include_str!("../page/style.css");
const SCRIPT: &str = include_str!("../page/chat.js");
const STRINGS: &str = include_str!("../page/strings.js");
const ICON: &str = include_str!("../page/icon.svg");

/// Only this server's own files may be loaded, only this server may be asked, and no other page
/// may frame this one.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// The file of the page that lies at `path`, if any.
pub(crate) fn file(path: &str) -> Option<Response> {
    let (content_type, text) = match path {
        "/" => ("text/html; charset=utf-8", INDEX),
        "/style.css" => ("text/css; charset=utf-8", STYLE),
        "/chat.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "/strings.js" => ("text/javascript; charset=utf-8", STRINGS),
        "/icon.svg" => ("image/svg+xml", ICON),
        _ => return None,
    };
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Some(response)
}

/// Adds the headers that every answer carries.
pub(crate) fn secure(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
