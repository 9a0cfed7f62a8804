//! Glyphs with places become text in reading order.
//!
//! Glyphs join into pieces of lines, pieces into columns (recursive cuts along white space, after
//! Nagy & Seth 1984, where lines that run across a gutter part the page into bands), lines into
//! paragraphs; words cut at the end of a line are joined again; what most pages repeat at their top
//! or bottom is left out. It knows nothing of PDF.

use std::collections::{HashMap, HashSet};

/// Cuts within cuts that are made.
const MAX_CUTS: usize = 12;
/// Lines at the top and at the bottom of a page that may be its header or footer.
const MARGIN_LINES: usize = 2;
/// Share of the text's height at its top and at its bottom where headers and footers stand.
const MARGIN_SHARE: f32 = 0.12;
/// Pages from which repeated lines count as headers.
const MIN_PAGES_OF_HEADERS: usize = 3;
/// Pieces that a side of a gutter must have to be a column.
const MIN_COLUMN_LINES: usize = 3;

/// A glyph, or a few that stand for one code.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Glyph {
    /// What it says.
    pub(super) text: String,
    /// Left end of its baseline, in points from the left.
    pub(super) x: f32,
    /// Its baseline, in points from the bottom.
    pub(super) y: f32,
    /// Advance in points.
    pub(super) width: f32,
    /// Size of the type in points.
    pub(super) size: f32,
}

/// A part of a line without wide gaps.
#[derive(Debug, Clone)]
struct Piece {
    text: String,
    left: f32,
    right: f32,
    y: f32,
    size: f32,
}

/// A page's lines, in reading order.
#[derive(Debug, Default)]
pub(super) struct PageLines(Vec<Piece>);

/// Puts the glyphs of one page into lines.
pub(super) fn lines(glyphs: Vec<Glyph>) -> PageLines {
    let mut ordered = Vec::new();
    read_region(pieces(glyphs), MAX_CUTS, &mut ordered);
    PageLines(ordered)
}

/// Joins pages into one text with an empty line between paragraphs.
pub(super) fn join(mut pages: Vec<PageLines>) -> String {
    drop_repeated(&mut pages);
    let compounds = compounds(&pages);
    let mut out = String::new();
    let mut before: Option<&Piece> = None;
    for page in &pages {
        let spacing = usual_spacing(&page.0);
        for (at, line) in page.0.iter().enumerate() {
            if let Some(before) = before {
                let new = if at == 0 {
                    // A paragraph goes on over the page if its last line is no end.
                    ends_paragraph(&before.text) || (before.size - line.size).abs() > 1.0
                } else {
                    begins_paragraph(before, line, spacing)
                };
                if new {
                    out.push_str("\n\n");
                } else {
                    join_line(&mut out, &line.text, &compounds);
                }
            }
            out.push_str(&line.text);
            before = Some(line);
        }
    }
    out
}

/// Glyphs on one baseline without a wide gap are one piece; narrower gaps are spaces.
fn pieces(mut glyphs: Vec<Glyph>) -> Vec<Piece> {
    glyphs.retain(|g| [g.x, g.y, g.width, g.size].iter().all(|n| n.is_finite()) && g.size > 0.5);
    // Lines from the top; glyphs whose baselines differ by less than a third of their size are on
    // one line. Sorting is by whole steps so that it is an order.
    glyphs.sort_by(|a, b| b.y.total_cmp(&a.y).then(a.x.total_cmp(&b.x)));
    let mut out: Vec<Piece> = Vec::new();
    let mut at = 0;
    while at < glyphs.len() {
        let (top, size) = (glyphs[at].y, glyphs[at].size);
        let mut end = at + 1;
        while end < glyphs.len() && top - glyphs[end].y < size / 3.0 {
            end += 1;
        }
        let line = &mut glyphs[at..end];
        line.sort_by(|a, b| a.x.total_cmp(&b.x));
        let from = out.len();
        for glyph in line.iter() {
            let here = out.len() > from;
            let last = out.last_mut().filter(|_| here);
            if let Some(piece) = push_glyph(last, glyph) {
                out.push(piece);
            }
        }
        at = end;
    }
    for piece in &mut out {
        piece.text = piece.text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    out.retain(|piece| !piece.text.is_empty());
    out
}

/// Adds a glyph to the piece before it, or gives the piece that it begins.
fn push_glyph(last: Option<&mut Piece>, glyph: &Glyph) -> Option<Piece> {
    if let Some(piece) = last {
        let gap = glyph.x - piece.right;
        let size = piece.size.max(glyph.size);
        // Shadows and bold by overprinting draw a glyph twice at nearly one place.
        if gap < -0.7 * glyph.width && piece.text.ends_with(&glyph.text) && glyph.width > 0.0 {
            return None;
        }
        if gap < 1.0 * size {
            if gap > 0.17 * size && !piece.text.ends_with(' ') {
                piece.text.push(' ');
            }
            piece.text.push_str(&glyph.text);
            piece.right = piece.right.max(glyph.x + glyph.width);
            piece.size = size;
            return None;
        }
    }
    if glyph.text.trim().is_empty() {
        return None;
    }
    Some(Piece {
        text: glyph.text.clone(),
        left: glyph.x,
        right: glyph.x + glyph.width,
        y: glyph.y,
        size: glyph.size,
    })
}

/// Appends the pieces of a region in reading order. `pieces` come from the top.
fn read_region(pieces: Vec<Piece>, cuts: usize, out: &mut Vec<Piece>) {
    let gutter = if cuts == 0 { None } else { find_gutter(&pieces) };
    let Some(gutter) = gutter else {
        out.extend(join_rows(pieces));
        return;
    };
    // Lines across the gutter part the region into bands; a band is read column by column.
    let mut band = (Vec::new(), Vec::new());
    for piece in pieces {
        if piece.left < gutter && piece.right > gutter {
            flush_band(&mut band, cuts, out);
            out.push(piece);
        } else if piece.right <= gutter {
            band.0.push(piece);
        } else {
            band.1.push(piece);
        }
    }
    flush_band(&mut band, cuts, out);
}

fn flush_band(band: &mut (Vec<Piece>, Vec<Piece>), cuts: usize, out: &mut Vec<Piece>) {
    for side in [std::mem::take(&mut band.0), std::mem::take(&mut band.1)] {
        if !side.is_empty() {
            read_region(side, cuts - 1, out);
        }
    }
}

/// A place with white space between two columns, crossed by few lines.
fn find_gutter(pieces: &[Piece]) -> Option<f32> {
    if pieces.len() < 2 * MIN_COLUMN_LINES {
        return None;
    }
    let mut rights: Vec<f32> = pieces.iter().map(|piece| piece.right).collect();
    rights.sort_by(f32::total_cmp);
    rights.dedup_by(|a, b| (*a - *b).abs() < 2.0);
    // Where many lines end at nearly one place, few candidates are left; otherwise a sample.
    let step = rights.len().div_ceil(64);
    let mut best: Option<(usize, f32)> = None;
    for &right in rights.iter().step_by(step) {
        let at = right + 0.5;
        let (mut left, mut after, mut across) = (0, 0, 0);
        let (mut left_end, mut right_begin) = (f32::MIN, f32::MAX);
        for piece in pieces {
            if piece.right <= at {
                left += 1;
                left_end = left_end.max(piece.right);
            } else if piece.left >= at {
                after += 1;
                right_begin = right_begin.min(piece.left);
            } else {
                across += 1;
            }
        }
        let enough = left >= MIN_COLUMN_LINES && after >= MIN_COLUMN_LINES;
        let few = 2 * across <= left.min(after);
        let wide = right_begin - left_end >= 4.0;
        if enough && few && wide && side_by_side(pieces, at) {
            let middle = f32::midpoint(left_end, right_begin);
            if best.is_none_or(|(least, _)| across < least) {
                best = Some((across, middle));
            }
        }
    }
    best.map(|(_, gutter)| gutter)
}

/// Whether both sides of a gutter are running text: columns have long lines on both sides; a table
/// has short ones and is read row by row.
fn side_by_side(pieces: &[Piece], gutter: f32) -> bool {
    let mean = |is_left: bool| {
        let side = pieces
            .iter()
            .filter(|piece| if is_left { piece.right <= gutter } else { piece.left >= gutter });
        let (words, count) = side.fold((0, 0), |(words, count), piece| {
            (words + piece.text.split(' ').count(), count + 1)
        });
        words as f32 / (count as f32).max(1.0)
    };
    mean(true) >= 3.0 && mean(false) >= 3.0
}

/// Pieces on one baseline become one line with wide gaps as a tab.
fn join_rows(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    for piece in pieces {
        match out.last_mut() {
            Some(last) if (last.y - piece.y).abs() < last.size / 3.0 && piece.left > last.left => {
                last.text.push('\t');
                last.text.push_str(&piece.text);
                last.right = piece.right;
            }
            _ => out.push(piece),
        }
    }
    out
}

/// Leaves out lines at the top or bottom that at least half of the pages repeat, numbers aside.
fn drop_repeated(pages: &mut [PageLines]) {
    if pages.len() < MIN_PAGES_OF_HEADERS {
        return;
    }
    let heights = || pages.iter().flat_map(|page| &page.0).map(|line| line.y);
    let (low, high) = (heights().fold(f32::MAX, f32::min), heights().fold(f32::MIN, f32::max));
    let inside = (low + MARGIN_SHARE * (high - low), high - MARGIN_SHARE * (high - low));
    let mut counts: HashMap<(i32, String), usize> = HashMap::new();
    for page in pages.iter() {
        let mut seen = HashSet::new();
        for at in margins(&page.0, inside) {
            let key = margin_key(&page.0[at]);
            if seen.insert(key.clone()) {
                *counts.entry(key).or_default() += 1;
            }
        }
    }
    // Left and right pages often have headers of their own.
    let least = (pages.len() * 2 / 5).max(MIN_PAGES_OF_HEADERS - 1);
    for page in pages.iter_mut() {
        let drop: HashSet<usize> = margins(&page.0, inside)
            .filter(|&at| counts[&margin_key(&page.0[at])] >= least)
            .collect();
        let mut at = 0;
        page.0.retain(|_| {
            at += 1;
            !drop.contains(&(at - 1))
        });
    }
}

/// The highest and the lowest lines of a page, by place and not by order, outside of the range
/// `inside` of heights.
fn margins(lines: &[Piece], inside: (f32, f32)) -> impl Iterator<Item = usize> + use<> {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by(|&a, &b| lines[b].y.total_cmp(&lines[a].y));
    let low = order.iter().rev().take(MARGIN_LINES).copied().collect::<Vec<_>>();
    let mut found: Vec<usize> = order.into_iter().take(MARGIN_LINES).chain(low).collect();
    found.sort_unstable();
    found.dedup();
    found.retain(|&at| lines[at].y < inside.0 || lines[at].y > inside.1);
    found.into_iter()
}

fn margin_key(line: &Piece) -> (i32, String) {
    let text = line.text.chars().filter(|c| !c.is_ascii_digit()).collect();
    ((line.y / 4.0) as i32, text)
}

fn usual_spacing(lines: &[Piece]) -> f32 {
    let mut gaps: Vec<f32> =
        lines.windows(2).map(|pair| pair[0].y - pair[1].y).filter(|gap| *gap > 0.0).collect();
    gaps.sort_by(f32::total_cmp);
    gaps.get(gaps.len() / 2).copied().unwrap_or(12.0)
}

fn begins_paragraph(before: &Piece, line: &Piece, spacing: f32) -> bool {
    let gap = before.y - line.y;
    let tabular = before.text.contains('\t') || line.text.contains('\t');
    if gap < 0.0 {
        // The next column: as over a page.
        return ends_paragraph(&before.text) || (before.size - line.size).abs() > 1.0;
    }
    tabular
        || gap > 1.3 * spacing.max(line.size)
        || (before.size - line.size).abs() > 1.0
        || (line.left - before.left > 0.8 * line.size && ends_paragraph(&before.text))
}

fn ends_paragraph(text: &str) -> bool {
    text.trim_end_matches(['"', '”', '»', ')']).ends_with(['.', '!', '?', ':', ';'])
}

/// Prepares `out` for a further line of its paragraph: a space, or nothing where a word was cut.
fn join_line(out: &mut String, next: &str, compounds: &HashSet<String>) {
    let cut = out.ends_with(['-', '\u{2010}', '\u{AD}']);
    let begins = next.chars().next().is_some_and(char::is_lowercase);
    let stem = out.trim_end_matches(['-', '\u{2010}', '\u{AD}']);
    if !(cut && begins && stem.ends_with(char::is_alphabetic)) {
        out.push(' ');
        return;
    }
    let first = stem.rsplit(|c: char| c.is_whitespace()).next().unwrap_or_default();
    let second = next.split(|c: char| c.is_whitespace()).next().unwrap_or_default();
    let whole = bare(&format!("{first}-{second}"));
    if !compounds.contains(&whole) {
        out.truncate(stem.len());
    }
}

/// Words with a hyphen inside a line: these keep it when a line cuts them there.
fn compounds(pages: &[PageLines]) -> HashSet<String> {
    let words = pages.iter().flat_map(|page| &page.0).flat_map(|line| line.text.split(' '));
    words.map(bare).filter(|word| word.contains('-') && !word.ends_with('-')).collect()
}

fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric() && c != '-').to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of text as glyphs of half their size in width.
    fn line(text: &str, x: f32, y: f32, size: f32) -> Vec<Glyph> {
        let width = size / 2.0;
        text.chars()
            .enumerate()
            .map(|(at, c)| Glyph { text: c.to_string(), x: x + at as f32 * width, y, width, size })
            .collect()
    }

    fn check(page: &[Vec<Glyph>], expect: &str) {
        assert_eq!(join(vec![lines(page.concat())]), expect);
    }

    #[test]
    fn columns_are_read_one_after_the_other_under_a_common_title() {
        let mut page = vec![line("La milpa y sus tres hermanas en la historia", 50.0, 700.0, 14.0)];
        let left = [
            "El maiz crece alto y",
            "da sombra a los fri-",
            "joles que suben por",
            "su tallo firme",
        ];
        let right = [
            "mientras la calabaza",
            "cubre el suelo y lo",
            "guarda de la hierba",
            "y del sol fuerte.",
        ];
        for (at, (left, right)) in left.iter().zip(right).enumerate() {
            let y = 660.0 - 12.0 * at as f32;
            // Drawn row by row, as some programs write it.
            page.push(line(left, 50.0, y, 10.0));
            page.push(line(right, 300.0, y, 10.0));
        }
        check(
            &page,
            "La milpa y sus tres hermanas en la historia\n\nEl maiz crece alto y da sombra a los \
             frijoles que suben por su tallo firme mientras la calabaza cubre el suelo y lo guarda \
             de la hierba y del sol fuerte.",
        );
    }

    #[test]
    fn a_compound_keeps_its_hyphen() {
        check(
            &[
                line("un estudio socio-cultural del socio-", 50.0, 700.0, 10.0),
                line("cultural y del agro-", 50.0, 688.0, 10.0),
                line("negocio.", 50.0, 676.0, 10.0),
            ],
            "un estudio socio-cultural del socio-cultural y del agronegocio.",
        );
    }

    #[test]
    fn tables_are_read_by_rows() {
        let rows = [("Lima", "10"), ("Cusco", "20"), ("Puno", "30"), ("Tacna", "40")];
        let page: Vec<Vec<Glyph>> = rows
            .iter()
            .enumerate()
            .flat_map(|(at, (a, b))| {
                let y = 700.0 - 14.0 * at as f32;
                [line(a, 50.0, y, 10.0), line(b, 300.0, y, 10.0)]
            })
            .collect();
        check(&page, "Lima\t10\n\nCusco\t20\n\nPuno\t30\n\nTacna\t40");
    }

    #[test]
    fn running_heads_and_page_numbers_are_left_out() {
        let page = |number: usize| {
            let mut glyphs = line("Diario Oficial de la Nacion", 50.0, 800.0, 8.0);
            glyphs.extend(line(
                &format!("Texto propio {number} de la pagina que"),
                50.0,
                700.0,
                10.0,
            ));
            glyphs.extend(line("sigue en la otra linea sin", 50.0, 688.0, 10.0));
            glyphs.extend(line(&format!("Pagina {number}"), 280.0, 30.0, 8.0));
            lines(glyphs)
        };
        let text = join((1..=4).map(page).collect());
        assert!(!text.contains("Diario") && !text.contains("Pagina"), "{text}");
        assert_eq!(text.matches("Texto propio").count(), 4);
    }

    proptest::proptest! {
        #[test]
        fn any_places_end(glyphs in proptest::collection::vec(
            ("[a-z -]{1,2}", proptest::num::f32::ANY, proptest::num::f32::ANY,
             proptest::num::f32::ANY, proptest::num::f32::ANY), 0..60)) {
            let glyphs = glyphs
                .into_iter()
                .map(|(text, x, y, width, size)| Glyph { text, x, y, width, size })
                .collect();
            join(vec![lines(glyphs)]);
        }
    }
}
