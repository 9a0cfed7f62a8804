//! Reused working memory: each thread keeps its buffers between calls.
//!
//! A kernel borrows a buffer for the length of a closure; nothing is allocated once the largest
//! size has been seen. Contents are whatever the last user left.

use crate::memory::{LINE, Line};
use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `length` floats, aligned to 64 bytes and with unspecified (but initialised) content.
pub(crate) fn with_scratch<R>(length: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut lines = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let needed = length.div_ceil(LINE);
    if lines.len() < needed {
        lines.resize(needed, Line::ZERO);
    }
    // SAFETY: `Line` is 16 floats without padding, so `needed` lines are at least `length`
    // initialised floats; the vector is borrowed for as long as the slice lives.
    let floats = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), length) };
    let result = body(floats);
    FREE.with_borrow_mut(|free| free.push(lines));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_buffers_do_not_alias_and_are_reused() {
        with_scratch(100, |outer| {
            outer.fill(1.0);
            with_scratch(50, |inner| inner.fill(2.0));
            assert!(outer.iter().all(|&value| value == 1.0));
            assert_eq!(outer.as_ptr().align_offset(64), 0);
        });
        let first = with_scratch(64, |buffer| buffer.as_ptr());
        let second = with_scratch(64, |buffer| buffer.as_ptr());
        assert_eq!(first, second);
    }
}
