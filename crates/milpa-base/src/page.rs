//! Self-contained HTML pages in one style: reports and whatever else people look at.
//!
//! A page loads nothing from anywhere, and follows the reader's light or dark setting. It knows
//! nothing of what it shows.

use std::fmt::Write as _;

use crate::plot::escape;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1d2a22;--soft:#5b6a60;--line:#d9dfd8;--paper:#fbfcf9;--accent:#2f6b3c}
@media(prefers-color-scheme:dark){:root{--ink:#e3e9e2;--soft:#9aa79d;--line:#334038;--paper:#141a16;--accent:#8fc79b}}
body{margin:0 auto;max-width:52rem;padding:2rem 1.2rem 4rem;font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
body.broad{max-width:76rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.15rem;margin:2.4rem 0 .6rem;color:var(--accent)}
h3{font-size:1rem;margin:1.6rem 0 .4rem}
p.sub{color:var(--soft);margin:.2rem 0 1.4rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem}
.card{border:1px solid var(--line);border-radius:.5rem;padding:.7rem .9rem}
.card b{display:block;font-size:1.35rem}.card span{color:var(--soft);font-size:.85rem}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(18rem,1fr));gap:.7rem;margin:.5rem 0 1.4rem}
.answer{border:1px solid var(--line);border-radius:.5rem;padding:.6rem .9rem;overflow-wrap:anywhere;white-space:pre-wrap}
.answer small,.prompt small{display:block;color:var(--soft);font-size:.8rem;white-space:normal}
.prompt{border-left:3px solid var(--accent);padding-left:.8rem;overflow-wrap:anywhere;white-space:pre-wrap}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;width:100%}
th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
svg{max-width:100%;height:auto;color:inherit}
pre,code{font:.86rem/1.5 ui-monospace,monospace}pre{white-space:pre;overflow-x:auto;border-left:3px solid var(--line);padding-left:.8rem;margin:.4rem 0}
blockquote{margin:.5rem 0 1rem;padding-left:.9rem;border-left:3px solid var(--accent)}
";

/// How wide the text of a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// For reading.
    Text,
    /// For things side by side.
    Broad,
}

/// The beginning of a page, up to and with its title; texts are escaped.
pub fn begin(title: &str, subtitle: &str, width: Width) -> String {
    let (title, subtitle) = (escape(title), escape(subtitle));
    let class = if width == Width::Broad { " class='broad'" } else { "" };
    format!(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width,initial-scale=1'>\
         <title>{title} · milpa</title><style>{STYLE}</style></head><body{class}>\
         <h1>{title}</h1><p class='sub'>{subtitle}</p>"
    )
}

/// The end of a page.
pub const END: &str = "</body></html>\n";

/// Appends a table; cells are escaped, those of `numbers` stand on the right.
pub fn table(page: &mut String, head: &[&str], numbers: &[usize], rows: &[Vec<String>]) {
    let class = |index: usize| if numbers.contains(&index) { " class='n'" } else { "" };
    page.push_str("<div class='wide'><table><tr>");
    for (index, name) in head.iter().enumerate() {
        let _ = write!(page, "<th{}>{}</th>", class(index), escape(name));
    }
    page.push_str("</tr>");
    for row in rows {
        page.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let _ = write!(page, "<td{}>{}</td>", class(index), escape(cell));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_cannot_become_markup() {
        let mut page = begin("<b>", "\"&'", Width::Text);
        table(&mut page, &["<i>"], &[0], &[vec!["</td><script>".to_owned()]]);
        page += END;
        assert!(!page.contains("<b>") && !page.contains("<i>") && !page.contains("<script>"));
        assert!(page.contains("<th class='n'>&lt;i&gt;</th>"), "{page}");
    }
}
