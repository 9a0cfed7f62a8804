//! HTML becomes the main text of the page, in Markdown.
//!
//! [`blocks`] turns the tokens of html5ever's tokenizer into a flat list of text blocks over a
//! flat list of elements (no tree, no recursion, linear time), [`marks`] reads what elements say of
//! themselves; `rules` give a first opinion, [`features`] measures each block, [`trees`] scores it,
//! [`main_content`] chooses and [`render`] writes. It knows nothing of charsets or URLs. Work is bounded by counts (depth, tags,
//! attributes), never by a clock: a page gives the same text on every machine.

pub mod blocks;
pub mod features;
pub mod hints;
pub mod main_content;
pub mod marks;
pub mod render;
mod rules;
pub mod trees;

use blocks::{MAX_TAGS, Noscript, Page};
use main_content::Strictness;

/// Most attributes that a tag may have. The tokenizer compares each new attribute with those
/// before it, so a tag of a million attributes would take minutes.
const MAX_ATTRIBUTES: usize = 1000;

/// With fewer words nothing was found.
const MIN_WORDS: u32 = 8;
/// Bytes in parts for browsers without scripts from which these may hold the page's text.
const MIN_NOSCRIPT_BYTES: usize = 1000;
/// Words of running text that parts for browsers without scripts must have.
const FEW_WORDS: u32 = 30;

/// The text of a page.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extracted {
    /// Content of `<title>`.
    pub title: String,
    /// The main text: paragraphs, `# ` headings, `- ` and `1. ` lists, tables, fenced code.
    pub text: String,
}

/// A page that is not taken apart because its markup is made to be slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostileMarkup {
    /// A tag with countless attributes.
    #[error("a tag has more than {MAX_ATTRIBUTES} attributes")]
    Attributes,
    /// Countless tags.
    #[error("the page has more than {MAX_TAGS} tags")]
    Tags,
}

/// Extracts the main text of a page. The text is empty if the page has none.
pub fn extract(html: &str) -> Result<Extracted, HostileMarkup> {
    if has_hostile_tag(html.as_bytes()) {
        return Err(HostileMarkup::Attributes);
    }
    let page = read(html)?;
    let likelihoods = main_content::likelihoods(&page);
    let mut chosen = main_content::choose(&page, &likelihoods, Strictness::Normal);
    if words(&page, &chosen) < MIN_WORDS {
        chosen = main_content::choose(&page, &likelihoods, Strictness::Loose);
    }
    if words(&page, &chosen) < MIN_WORDS {
        chosen.clear();
    }
    Ok(Extracted { text: render::render(&page, &chosen), title: page.title })
}

/// Takes a page apart: as a browser sees it, or with the parts for browsers without scripts where
/// these hold most of the text.
pub fn read(html: &str) -> Result<Page, HostileMarkup> {
    let page = parse(html, Noscript::Skip)?;
    let noscript: usize = html
        .split("<noscript")
        .skip(1)
        .map(|part| part.find("</noscript").unwrap_or(part.len()))
        .sum();
    if noscript < MIN_NOSCRIPT_BYTES {
        return Ok(page);
    }
    let other = parse(html, Noscript::Read)?;
    let (shown, all) = (features::running_words(&page), features::running_words(&other));
    Ok(if all > 2 * shown + FEW_WORDS { other } else { page })
}

fn parse(html: &str, noscript: Noscript) -> Result<Page, HostileMarkup> {
    let page = blocks::parse(html, noscript);
    if page.tags > MAX_TAGS { Err(HostileMarkup::Tags) } else { Ok(page) }
}

fn words(page: &Page, chosen: &[usize]) -> u32 {
    chosen.iter().map(|&at| page.blocks[at].words).sum()
}

/// Looks for a tag with too many attributes by counting what separates them.
fn has_hostile_tag(html: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = html[at..].iter().position(|&byte| byte == b'<') {
        at += found + 1;
        let rest = &html[at..];
        if rest.starts_with(b"!--") {
            // `<!-->` and `<!--->` are whole comments.
            let end = find(&html[at + 1..], b"-->").map_or(html.len(), |end| at + 1 + end + 3);
            at = end;
            continue;
        }
        let name_at = usize::from(rest.first() == Some(&b'/'));
        if !rest.get(name_at).is_some_and(u8::is_ascii_alphabetic) {
            continue;
        }
        let (length, separators) = tag_extent(rest);
        if separators > MAX_ATTRIBUTES {
            return true;
        }
        // What is in scripts and styles only looks like tags.
        let raw = [(&b"script"[..], &b"</script"[..]), (b"style", b"</style")].into_iter().find(
            |(name, _)| {
                rest.len() > name.len()
                    && rest[..name.len()].eq_ignore_ascii_case(name)
                    && !rest[name.len()].is_ascii_alphanumeric()
            },
        );
        at += length;
        if let Some((_, end)) = raw {
            at += find_ignore_case(&html[at..], end).unwrap_or(html.len() - at);
        }
    }
    false
}

/// Length of a tag up to its `>` and the number of places where an attribute may begin.
fn tag_extent(tag: &[u8]) -> (usize, usize) {
    let (mut quote, mut after_equals, mut separators) = (None, false, 0);
    for (at, &byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (Some(open), _) if byte == open => {
                quote = None;
                separators += 1;
            }
            (Some(_), _) => {}
            (None, b'>') => return (at + 1, separators),
            (None, b'"' | b'\'') if after_equals => quote = Some(byte),
            (None, _) => {
                let space = byte.is_ascii_whitespace();
                separators += usize::from(
                    (space || byte == b'/')
                        && tag.get(at + 1).is_some_and(|next| !next.is_ascii_whitespace()),
                );
                after_equals = byte == b'=' || (after_equals && space);
            }
        }
    }
    (tag.len(), separators)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn find_ignore_case(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window.eq_ignore_ascii_case(needle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(html: &str, expect: &str) {
        assert_eq!(extract(html).unwrap().text, expect, "{html}");
    }

    const LONG: &str = "La yuca se siembra en las tierras bajas y da harina, pan y una bebida que se \
                        toma en las fiestas de cada pueblo.";

    #[test]
    fn menus_and_footers_are_left_out() {
        check(
            &format!(
                "<html><head><title>Yuca</title><script>var a='<p>no</p>';</script></head><body>\
                 <nav><ul><li><a href=/>Inicio</a><li><a href=/b>Blog</a></ul></nav>\
                 <main><h1>La yuca</h1><p>{LONG}<p>{LONG} <a href=x>Más</a> datos.\
                 <ul><li>harina de la raíz<li>pan de las fiestas</ul></main>\
                 <footer><p>Todos los derechos reservados de esta página de ejemplo, 2026.</p></footer>"
            ),
            &format!(
                "# La yuca\n\n{LONG}\n\n{LONG} Más datos.\n\n- harina de la raíz\n- pan de las fiestas"
            ),
        );
    }

    #[test]
    fn entities_code_and_tables_are_kept() {
        check(
            &format!(
                "<article><p>{LONG}</p><pre>let x = 1;\n  y &amp;&amp; z</pre>\
                 <table><tr><th>Raíz<th>Kilos<tr><td>yuca<td>12</table><p>{LONG}</p></article>"
            ),
            &format!(
                "{LONG}\n\n```\nlet x = 1;\n  y && z\n```\n\n| Raíz | Kilos |\n| --- | --- |\n| yuca | 12 |\
                 \n\n{LONG}"
            ),
        );
    }

    #[test]
    fn deep_nesting_is_linear_and_safe() {
        let deep = 100_000;
        let html = format!("{}<p>{LONG}</p>{}", "<div>".repeat(deep), "</div>".repeat(deep));
        let start = std::time::Instant::now();
        check(&html, LONG);
        check(&format!("{}{LONG}", "<b><i>".repeat(deep)), LONG);
        check(&format!("{LONG}{}", "</p>".repeat(deep)), LONG);
        let lists = format!("{}{LONG}", "<ul><li>".repeat(deep));
        assert!(extract(&lists).unwrap().text.contains(LONG));
        // Quadratic work would take minutes.
        assert!(start.elapsed().as_secs() < 20);
    }

    #[test]
    fn a_tag_with_countless_attributes_is_refused() {
        let many = |f: fn(usize) -> String| (0..100_000).map(f).collect::<Vec<_>>().concat();
        let attributes = many(|i| format!(" a{i}"));
        assert_eq!(extract(&format!("<div{attributes}>x</div>")), Err(HostileMarkup::Attributes));
        let slashes = many(|i| format!("/a{i}"));
        assert_eq!(extract(&format!("<!--><p {slashes}")), Err(HostileMarkup::Attributes));
        let quoted = many(|i| format!("a{i}='x'"));
        assert_eq!(extract(&format!("<p {quoted}>")), Err(HostileMarkup::Attributes));
        // Neither scripts nor comments nor long values are tags with attributes.
        let code = "if (a<b && c ".repeat(2000);
        check(&format!("<script>{code}</script><!-- <a {attributes} --><p>{LONG}"), LONG);
        check(&format!("<img alt=\"{}\"><p>{LONG}", "a b ".repeat(9000)), LONG);
    }

    proptest::proptest! {
        #[test]
        fn any_markup_ends(parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "<p>", "</p>", "<div class=nav>", "</div>", "<li>", "<ul>", "</ul>", "<table>",
                "<td>", "<tr>", "</table>", "<pre>", "</pre>", "<script>", "</script>", "<!--",
                "-->", "texto de ejemplo. ", "<a href=x>", "</a>", "<h2>", "</h2>", "&amp;", "<",
                ">", "<title>", "</title>", "<br>", "<article>", "</article>", "\0", "<textarea>",
                "<plaintext>", "<svg>", "</svg>", "<main>", "</body>", "<body>",
            ]), 0..60)) {
            let _ = extract(&parts.concat());
        }
    }
}
