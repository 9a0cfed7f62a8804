//! Who may ask, and what the page may do.

use std::sync::Arc;

use milpa_serve::{ChatFormat, ServeConfig, ServeError, Server};
use milpa_tokens::{ChatTemplate, RenderOptions};

use crate::{
    client::{TestServer, post_text, test_config},
    model::Script,
};

const KEY: &str = "una-llave-de-prueba";

fn bind(config: ServeConfig) -> Result<Server, ServeError> {
    let format = ChatFormat::new(ChatTemplate::continuation(), RenderOptions::default());
    Server::bind(config, Arc::new(Script::new()), format)
}

#[test]
fn an_open_address_without_a_key_is_refused_before_listening() {
    let open = ServeConfig { bind: "0.0.0.0:0".parse().unwrap(), ..test_config() };
    let error = bind(open.clone()).err().expect("it is refused").to_string();
    assert!(error.contains("give a key") && error.contains("127.0.0.1"), "{error}");
    assert!(bind(ServeConfig { api_key: Some(KEY.parse().unwrap()), ..open }).is_ok());
}

#[test]
fn a_taken_address_is_told_with_the_next_step() {
    let server = TestServer::start(&Script::new());
    let error = bind(ServeConfig { bind: server.address, ..test_config() })
        .err()
        .expect("the address is taken")
        .to_string();
    assert!(error.contains("choose another port"), "{error}");
}

#[test]
fn a_key_is_needed_under_v1_and_only_there() {
    let config = ServeConfig { api_key: Some(KEY.parse().unwrap()), ..test_config() };
    let server = TestServer::with(&Script::new(), config);
    let missing = server.get("/v1/models");
    assert_eq!(missing.error(401)["code"], "missing_api_key");
    assert!(missing.head.contains("www-authenticate: bearer"), "{}", missing.head);
    let ask =
        |headers: &str| server.send(&post_text("/v1/completions", r#"{"prompt":"a"}"#, headers));
    assert_eq!(ask("").error(401)["type"], "authentication_error");
    assert_eq!(
        ask("Authorization: Bearer otra-llave-cualquiera\r\n").error(401)["code"],
        "invalid_api_key"
    );
    assert_eq!(
        ask(&format!("Authorization: Basic {KEY}\r\n")).error(401)["code"],
        "missing_api_key"
    );
    assert_eq!(ask(&format!("Authorization: Bearer {KEY}\r\n")).status, 200);
    assert_eq!(ask(&format!("authorization: bearer {KEY}\r\n")).status, 200);
    for path in ["/", "/health", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert_eq!(server.get("/health").json()["needs_key"], true);
}

#[test]
fn another_hosts_name_is_refused_on_loopback() {
    let config = ServeConfig { allowed_hosts: vec!["milpa.test".to_owned()], ..test_config() };
    let server = TestServer::with(&Script::new(), config);
    let ask = |host: &str| {
        server.send(&format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    for host in ["localhost", "LocalHost:99", "127.0.0.1:8080", "[::1]:8080", "milpa.test"] {
        assert_eq!(ask(host).status, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1", "[", ""]
    {
        assert_eq!(ask(host).error(403)["code"], "host_not_allowed", "{host}");
    }
}

#[test]
fn the_page_is_whole_and_locked_down() {
    let server = TestServer::start(&Script::new());
    let page = server.get("/");
    assert_eq!(page.status, 200);
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'self'",
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "referrer-policy: no-referrer",
    ] {
        assert!(page.head.contains(header), "{header} is not in {}", page.head);
    }
    assert!(!page.head.contains("access-control-"), "{}", page.head);
    // Everything the page loads is here, and nothing comes from elsewhere.
    for file in page.body.split("href=\"").chain(page.body.split("src=\"")).skip(1) {
        let Some(file) = file.split('"').next().filter(|file| file.contains('.')) else { continue };
        if !file.starts_with('<') {
            assert_eq!(server.get(&format!("/{file}")).status, 200, "{file}");
        }
    }
    for file in ["/", "/style.css", "/chat.js", "/strings.js"] {
        let text = server.get(file).body;
        assert!(!text.contains("http://") && !text.contains("https://"), "{file}");
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
    assert_eq!(server.get("/../Cargo.toml").status, 404);
}
