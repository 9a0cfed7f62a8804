//! E-mail and IP addresses.

use std::{net::Ipv6Addr, ops::Range};

use super::candidates::{Context, length, length_back};

/// Words before an IP address.
const IP_NAMES: &[&str] = &["ip", "ipv4", "ipv6"];
/// Numbers from here on stand in addresses and hardly in the sections of a law.
const LEAST_ADDRESS_PART: u8 = 32;

/// The e-mail address around the `@` at `at` in a run of signs.
pub(super) fn email(text: &str, run: Range<usize>, at: usize) -> Option<Range<usize>> {
    let is_user = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '%');
    let user = text[run.start..at].len() - length_back(&text[run.start..at], is_user);
    let start = run.start + user;
    // Marks around an address are none of its own.
    let start = start + length(&text[start..at], |c| matches!(c, '.' | '-' | '+' | '%'));
    let host = length(&text[at + 1..run.end], |c| c.is_alphanumeric() || matches!(c, '.' | '-'));
    let host = text[at + 1..at + 1 + host].trim_end_matches(['.', '-']);
    let (domain, top) = host.rsplit_once('.')?;
    let valid = start < at
        && !text[..at].ends_with('.')
        && domain.split('.').all(|label| !label.is_empty() && !label.starts_with('-'))
        && top.chars().count() >= 2
        && top.chars().all(char::is_alphabetic);
    valid.then_some(start..at + 1 + host.len())
}

/// Whether a number has the form of an IPv4 address.
pub(super) fn may_be_ipv4(piece: &str) -> bool {
    ipv4(piece).is_some()
}

fn ipv4(piece: &str) -> Option<[u8; 4]> {
    let mut parts = piece.split('.');
    let mut numbers = [0u8; 4];
    for number in &mut numbers {
        let part = parts.next()?;
        // Article 1.02.3.4 has a zero in front, an address does not.
        if part.len() > 3 || (part.len() > 1 && part.starts_with('0')) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Whether it is an IPv4 address that can be reached from outside, and no section of a law: two
/// large numbers are in it, or it is called an address.
pub(super) fn is_public_ipv4(piece: &str, context: &Context) -> bool {
    let Some(numbers) = ipv4(piece) else { return false };
    let [a, b, ..] = numbers;
    let private = matches!(a, 0 | 10 | 127 | 224..)
        || (a == 100 && (64..128).contains(&b))
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168);
    let large = numbers.iter().filter(|&&number| number >= LEAST_ADDRESS_PART).count();
    !private && (large >= 2 || context.names(IP_NAMES))
}

/// Whether it is an IPv6 address that can be reached from outside: all eight groups, or some of a
/// global address.
pub(super) fn is_ipv6(piece: &str) -> bool {
    let Ok(address) = piece.parse::<Ipv6Addr>() else { return false };
    let global = (0x2000..0x4000).contains(&address.segments()[0]);
    let whole = !piece.contains("::");
    let private = address.is_loopback()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.is_multicast();
    !private && (whole || global)
}
