//! What counts as an address, which is not cut: `scheme://user@host.domain:port/path`, where only
//! the host is needed. Private and local IP addresses do not count.

use super::classes::is_lower;

/// Places of `@` after which a host is looked for.
const MAX_USERS: usize = 16;

/// Whether `text`, which has no spaces, is an address as a whole.
pub(super) fn is_address(text: &str) -> bool {
    if !text.contains('.') {
        return false;
    }
    let after_scheme = text.split_once("://").filter(|(scheme, _)| {
        scheme.chars().nth(1).is_some()
            && scheme.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '+' | '-' | '.'))
    });
    [Some(text), after_scheme.map(|(_, rest)| rest)].into_iter().flatten().any(|rest| {
        let users = rest.match_indices('@').take(MAX_USERS).filter(|(at, _)| *at > 0);
        has_host(rest) || users.into_iter().any(|(at, _)| has_host(&rest[at + 1..]))
    })
}

/// A host or an IP address, then a port and a path or nothing.
fn has_host(text: &str) -> bool {
    let end = text.find([':', '/', '?', '#']).unwrap_or(text.len());
    let (host, mut rest) = text.split_at(end);
    if let Some(port) = rest.strip_prefix(':') {
        let digits = port.bytes().take_while(u8::is_ascii_digit).count();
        if !(2..=5).contains(&digits) {
            return false;
        }
        rest = &port[digits..];
    }
    (rest.is_empty() || rest.starts_with(['/', '?', '#']))
        && (is_domain(host) || is_public_ip(host))
}

fn is_domain(host: &str) -> bool {
    let Some((labels, top)) = host.rsplit_once('.') else { return false };
    let inner = |c: char| {
        c.is_ascii_alphanumeric() || ('\u{A1}'..='\u{FFFF}').contains(&c) || matches!(c, '_' | '-')
    };
    let outer = |c: Option<char>| c.is_some_and(|c| inner(c) && !matches!(c, '_' | '-'));
    (2..=63).contains(&top.chars().count())
        && top.chars().all(is_lower)
        && labels.split('.').all(|label| {
            label.chars().all(inner)
                && label.chars().count() <= 64
                && outer(label.chars().next())
                && outer(label.chars().next_back())
        })
}

fn is_public_ip(host: &str) -> bool {
    let mut numbers = [0u16; 4];
    let mut parts = host.split('.');
    for number in &mut numbers {
        match parts.next().filter(|part| part.len() <= 3).and_then(|part| part.parse().ok()) {
            Some(value) => *number = value,
            None => return false,
        }
    }
    let [a, b, c, d] = numbers;
    let private = a == 10
        || a == 127
        || (a == 169 && b == 254)
        || (a == 192 && b == 168)
        || (a == 172 && (16..32).contains(&b));
    parts.next().is_none()
        && !private
        && (1..=223).contains(&a)
        && b < 256
        && c < 256
        && (1..=254).contains(&d)
}
