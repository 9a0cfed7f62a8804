//! Born-digital PDF becomes its text in reading order.
//!
//! lopdf reads the file's objects; the codes of its fonts become text in `font`, the operators of
//! a page become glyphs with places here (ISO 32000-1, 9.4), and `layout` puts them in order.
//! Pages that are pictures give no text: recognising it is another stage's. Pages, operators,
//! glyphs, forms and decompressed bytes are bounded (lopdf bounds nesting itself), and a panic inside
//! lopdf costs this document only.

use std::{
    collections::{BTreeMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use lopdf::{
    DecompressError, Dictionary, Document, Error, LoadOptions, Object, ObjectId, Stream,
    content::Content,
};

use crate::document::Reason;

mod font;
mod layout;

use font::{Font, get, number};
use layout::Glyph;

/// Most pages of a document that are read.
const MAX_PAGES: usize = 5_000;
/// Most operators of one document that are carried out.
const MAX_OPERATIONS: usize = 20_000_000;
/// Most glyphs of one page.
const MAX_GLYPHS: usize = 500_000;
/// Longest content of one page, decompressed.
const MAX_CONTENT_BYTES: usize = 32 << 20;
/// Forms within forms.
const MAX_FORM_DEPTH: usize = 6;
/// Nodes of the pages' tree that are gone up for what a page inherits.
const MAX_ANCESTORS: usize = 64;
/// Most graphics states that are kept.
const MAX_STATES: usize = 64;

/// The text of a document.
///
/// # Errors
/// The reason and its detail.
pub fn text(bytes: &[u8], max: u64) -> Result<String, (Reason, String)> {
    let malformed = |detail: String| (Reason::MalformedRecord, detail);
    let read = catch_unwind(AssertUnwindSafe(|| read(bytes, max)));
    read.unwrap_or_else(|_| Err(malformed("the decoder of PDF gave up on it".to_owned())))
}

fn read(bytes: &[u8], max: u64) -> Result<String, (Reason, String)> {
    let options = LoadOptions {
        max_decompressed_size: Some(usize::try_from(max).unwrap_or(usize::MAX)),
        ..LoadOptions::default()
    };
    let document = Document::load_mem_with_options(bytes, options)
        .map_err(|error| (Reason::MalformedRecord, format!("no PDF that can be read: {error}")))?;
    if document.is_encrypted() {
        let detail = "the document is encrypted".to_owned();
        return Err((Reason::ContentEncoding, detail));
    }
    let (mut pages, mut page_count, mut passed_over) = (Vec::new(), 0, 0);
    let mut budget = MAX_OPERATIONS;
    for id in document.get_pages().into_values() {
        page_count += 1;
        if page_count > MAX_PAGES {
            let detail = format!("more than {MAX_PAGES} pages");
            return Err((Reason::TooLarge, detail));
        }
        let mut page = PageReader::new(&document, budget);
        page.page(id);
        budget = page.budget;
        passed_over += page.passed_over;
        pages.push(layout::lines(page.glyphs));
    }
    let text = layout::join(pages);
    if text.trim().is_empty() {
        if passed_over > 0 {
            let most = MAX_CONTENT_BYTES >> 20;
            let detail =
                format!("contents of pages inflate to more than {most} MiB: {passed_over}");
            return Err((Reason::TooLarge, detail));
        }
        let detail = format!("no text in {page_count} pages: scanned, or fonts without a map");
        return Err((Reason::NoMainText, detail));
    }
    if text.len() as u64 > max {
        return Err((Reason::TooLarge, format!("{} bytes of text", text.len())));
    }
    Ok(text)
}

/// An affine map as `[a b c d e f]`.
#[derive(Debug, Clone, Copy)]
struct Matrix([f32; 6]);

impl Matrix {
    const IDENTITY: Self = Self([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);

    /// First `self`, then `other`.
    fn then(self, other: Self) -> Self {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (self.0, other.0);
        Self([
            a * g + b * i,
            a * h + b * j,
            c * g + d * i,
            c * h + d * j,
            e * g + f * i + k,
            e * h + f * j + l,
        ])
    }

    fn translation(x: f32, y: f32) -> Self {
        Self([1.0, 0.0, 0.0, 1.0, x, y])
    }

    fn of(operands: &[Object]) -> Option<Self> {
        let mut numbers = [0.0; 6];
        if operands.len() != 6 {
            return None;
        }
        for (to, from) in numbers.iter_mut().zip(operands) {
            *to = number(from)?;
        }
        Some(Self(numbers))
    }
}

/// The parameters of text (9.3.1) and the place of the page's space.
#[derive(Debug, Clone)]
struct State {
    place: Matrix,
    font: Option<Vec<u8>>,
    size: f32,
    character_spacing: f32,
    word_spacing: f32,
    scale: f32,
    leading: f32,
    rise: f32,
    /// Text of this mode is not shown (9.3.6).
    mode: i64,
}

impl State {
    fn new() -> Self {
        Self {
            place: Matrix::IDENTITY,
            font: None,
            size: 0.0,
            character_spacing: 0.0,
            word_spacing: 0.0,
            scale: 1.0,
            leading: 0.0,
            rise: 0.0,
            mode: 0,
        }
    }
}

/// Carries out the operators of a page as far as they place text.
struct PageReader<'a> {
    document: &'a Document,
    glyphs: Vec<Glyph>,
    budget: usize,
    state: State,
    saved: Vec<State>,
    text: Matrix,
    line: Matrix,
    /// Forms that are open, against forms that draw themselves.
    open_forms: HashSet<ObjectId>,
    /// Contents beyond [`MAX_CONTENT_BYTES`]: the rest of the document is read without them.
    passed_over: usize,
}

type Fonts = BTreeMap<Vec<u8>, Font>;

impl<'a> PageReader<'a> {
    fn new(document: &'a Document, budget: usize) -> Self {
        Self {
            document,
            glyphs: Vec::new(),
            budget,
            state: State::new(),
            saved: Vec::new(),
            text: Matrix::IDENTITY,
            line: Matrix::IDENTITY,
            open_forms: HashSet::new(),
            passed_over: 0,
        }
    }

    fn page(&mut self, id: ObjectId) {
        let Ok(page) = self.document.get_dictionary(id) else { return };
        let mut content = Vec::new();
        let parts: Vec<&Stream> = match get(self.document, page, b"Contents") {
            Some(Object::Stream(stream)) => vec![stream],
            Some(Object::Array(parts)) => parts
                .iter()
                .filter_map(|part| self.document.dereference(part).ok()?.1.as_stream().ok())
                .collect(),
            _ => return,
        };
        for part in parts {
            let room = MAX_CONTENT_BYTES.saturating_sub(content.len());
            content.extend_from_slice(&self.decoded(part, room));
            content.push(b'\n');
        }
        let Some(resources) = self.resources_of_page(page) else { return };
        self.state.place = self.rotation(page);
        self.content(&content, resources, 0);
    }

    /// Resources are inherited from the pages' tree.
    fn resources_of_page(&self, page: &'a Dictionary) -> Option<&'a Dictionary> {
        self.inherited(page, b"Resources")?.as_dict().ok()
    }

    fn inherited(&self, page: &'a Dictionary, key: &[u8]) -> Option<&'a Object> {
        let mut node = page;
        for _ in 0..MAX_ANCESTORS {
            if let Some(found) = get(self.document, node, key) {
                return Some(found);
            }
            node = get(self.document, node, b"Parent")?.as_dict().ok()?;
        }
        None
    }

    /// Turns a page that is shown turned.
    fn rotation(&self, page: &'a Dictionary) -> Matrix {
        let degrees = self.inherited(page, b"Rotate").and_then(number).unwrap_or(0.0) as i32;
        match degrees.rem_euclid(360) {
            90 => Matrix([0.0, -1.0, 1.0, 0.0, 0.0, 0.0]),
            180 => Matrix([-1.0, 0.0, 0.0, -1.0, 0.0, 0.0]),
            270 => Matrix([0.0, 1.0, -1.0, 0.0, 0.0, 0.0]),
            _ => Matrix::IDENTITY,
        }
    }

    fn content(&mut self, content: &[u8], resources: &'a Dictionary, depth: usize) {
        let Ok(content) = Content::decode(content) else { return };
        let fonts = self.fonts(resources);
        for operation in &content.operations {
            if self.budget == 0 || self.glyphs.len() >= MAX_GLYPHS {
                return;
            }
            self.budget -= 1;
            self.operation(&operation.operator, &operation.operands, &fonts);
            if operation.operator == "Do"
                && depth < MAX_FORM_DEPTH
                && let Some(Object::Name(name)) = operation.operands.first()
            {
                self.form(name, resources, depth);
            }
        }
    }

    fn fonts(&self, resources: &'a Dictionary) -> Fonts {
        let Some(Object::Dictionary(fonts)) = get(self.document, resources, b"Font") else {
            return Fonts::new();
        };
        let mut out = Fonts::new();
        for (name, font) in fonts.iter().take(1000) {
            let font = self.document.dereference(font).ok().map(|(_, font)| font);
            if let Some(font) = font.and_then(|font| font.as_dict().ok()) {
                out.insert(name.clone(), Font::new(self.document, font));
            }
        }
        out
    }

    fn form(&mut self, name: &[u8], resources: &'a Dictionary, depth: usize) {
        let objects = get(self.document, resources, b"XObject").and_then(|o| o.as_dict().ok());
        let Some(reference) = objects.and_then(|objects| objects.get(name).ok()) else { return };
        let Ok((Some(id), Object::Stream(form))) = self.document.dereference(reference) else {
            return;
        };
        let subtype = form.dict.get(b"Subtype").and_then(Object::as_name).ok();
        if subtype != Some(b"Form") || !self.open_forms.insert(id) {
            return;
        }
        let own = get(self.document, &form.dict, b"Resources").and_then(|o| o.as_dict().ok());
        let matrix = get(self.document, &form.dict, b"Matrix")
            .and_then(|matrix| Matrix::of(matrix.as_array().ok()?))
            .unwrap_or(Matrix::IDENTITY);
        let (state, saved) = (self.state.clone(), std::mem::take(&mut self.saved));
        self.state.place = matrix.then(self.state.place);
        let content = self.decoded(form, MAX_CONTENT_BYTES);
        self.content(&content, own.unwrap_or(resources), depth + 1);
        (self.state, self.saved) = (state, saved);
        self.open_forms.remove(&id);
    }

    fn operation(&mut self, operator: &str, operands: &[Object], fonts: &Fonts) {
        let first = operands.first().and_then(number);
        match operator {
            "q" if self.saved.len() < MAX_STATES => self.saved.push(self.state.clone()),
            "Q" => self.state = self.saved.pop().unwrap_or_else(|| self.state.clone()),
            "cm" => {
                if let Some(matrix) = Matrix::of(operands) {
                    self.state.place = matrix.then(self.state.place);
                }
            }
            "BT" => (self.text, self.line) = (Matrix::IDENTITY, Matrix::IDENTITY),
            "Tf" => {
                self.state.font =
                    operands.first().and_then(|name| name.as_name().ok()).map(<[u8]>::to_vec);
                self.state.size = operands.get(1).and_then(number).unwrap_or(0.0);
            }
            "Tc" => self.state.character_spacing = first.unwrap_or(0.0),
            "Tw" => self.state.word_spacing = first.unwrap_or(0.0),
            "Tz" => self.state.scale = first.unwrap_or(100.0) / 100.0,
            "TL" => self.state.leading = first.unwrap_or(0.0),
            "Ts" => self.state.rise = first.unwrap_or(0.0),
            "Tr" => self.state.mode = first.unwrap_or(0.0) as i64,
            "Td" | "TD" => {
                let (x, y) =
                    (first.unwrap_or(0.0), operands.get(1).and_then(number).unwrap_or(0.0));
                if operator == "TD" {
                    self.state.leading = -y;
                }
                self.next_line(x, y);
            }
            "Tm" => {
                if let Some(matrix) = Matrix::of(operands) {
                    (self.text, self.line) = (matrix, matrix);
                }
            }
            "T*" => self.next_line(0.0, -self.state.leading),
            "Tj" => self.show(operands.first(), fonts),
            "'" => {
                self.next_line(0.0, -self.state.leading);
                self.show(operands.first(), fonts);
            }
            "\"" => {
                self.state.word_spacing = first.unwrap_or(0.0);
                self.state.character_spacing = operands.get(1).and_then(number).unwrap_or(0.0);
                self.next_line(0.0, -self.state.leading);
                self.show(operands.get(2), fonts);
            }
            "TJ" => {
                let Some(Object::Array(parts)) = operands.first() else { return };
                for part in parts {
                    match number(part) {
                        Some(back) => self.advance(-back / 1000.0 * self.state.size),
                        None => self.show(Some(part), fonts),
                    }
                }
            }
            _ => {}
        }
    }

    fn next_line(&mut self, x: f32, y: f32) {
        self.line = Matrix::translation(x, y).then(self.line);
        self.text = self.line;
    }

    /// Moves along the line by a width in unscaled text space.
    fn advance(&mut self, width: f32) {
        self.text = Matrix::translation(width * self.state.scale, 0.0).then(self.text);
    }

    fn show(&mut self, string: Option<&Object>, fonts: &Fonts) {
        let Some(Object::String(string, _)) = string else { return };
        let Some(font) = self.state.font.as_ref().and_then(|name| fonts.get(name)) else { return };
        for code in font.codes(string) {
            let size = self.state.size;
            let width = code.width / 1000.0 * size;
            let place = self.text.then(self.state.place);
            let [a, b, c, d, ..] = place.0;
            // Text that does not run to the right (turned labels, stamps) is no running text.
            let upright = a > 0.0 && b.abs() < 0.2 * a;
            if let Some(text) = code.text.filter(|_| upright && self.state.mode != 3)
                && self.glyphs.len() < MAX_GLYPHS
            {
                let across = (a * a + b * b).sqrt();
                let origin = Matrix::translation(0.0, self.state.rise).then(place);
                self.glyphs.push(Glyph {
                    text: text.to_owned(),
                    x: origin.0[4],
                    y: origin.0[5],
                    width: width * self.state.scale * across,
                    size: size.abs() * (c * c + d * d).sqrt(),
                });
            }
            let word = if code.space { self.state.word_spacing } else { 0.0 };
            self.advance(width + self.state.character_spacing + word);
        }
    }

    /// The content of a stream; nothing of one that cannot be read or is longer than `room`.
    fn decoded(&mut self, stream: &Stream, room: usize) -> Vec<u8> {
        let content = stream.get_plain_content_with_limit(room);
        if let Err(Error::Decompress(DecompressError::MemoryLimitExceeded { .. })) = content {
            self.passed_over += 1;
        }
        content.unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::format_collect, reason = "tests")]
mod tests {
    use super::*;

    /// A document of pages with these contents in Helvetica, whose letters are half an em wide.
    fn document(pages: &[String]) -> Vec<u8> {
        let widths = "500 ".repeat(224);
        let mut objects = vec![
            "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
            format!(
                "<< /Type /Pages /Count {} /Kids [{}] /Resources << /Font << /F 3 0 R >> >> \
                 /MediaBox [0 0 600 800] >>",
                pages.len(),
                (0..pages.len()).map(|at| format!("{} 0 R ", 4 + 2 * at)).collect::<String>()
            ),
            format!(
                "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /FirstChar 32 /LastChar 255 \
                 /Widths [{widths}] /Encoding << /BaseEncoding /WinAnsiEncoding \
                 /Differences [1 /fi /ntilde /Aacute] >> >>"
            ),
        ];
        for (at, page) in pages.iter().enumerate() {
            objects.push(format!("<< /Type /Page /Parent 2 0 R /Contents {} 0 R >>", 5 + 2 * at));
            objects.push(format!("<< /Length {} >>\nstream\n{page}\nendstream", page.len()));
        }
        let mut out = b"%PDF-1.4\n".to_vec();
        let mut places = Vec::new();
        for (at, object) in objects.iter().enumerate() {
            places.push(out.len());
            out.extend_from_slice(format!("{} 0 obj\n{object}\nendobj\n", at + 1).as_bytes());
        }
        let start = out.len();
        out.extend_from_slice(
            format!("xref\n0 {}\n0000000000 65535 f \n", places.len() + 1).as_bytes(),
        );
        for place in &places {
            out.extend_from_slice(format!("{place:010} 00000 n \n").as_bytes());
        }
        let size = places.len() + 1;
        let end = format!("trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n");
        out.extend_from_slice(end.as_bytes());
        out
    }

    /// Operators that show lines at places in 10-point type.
    fn show(lines: &[(f32, f32, &str)]) -> String {
        lines
            .iter()
            .map(|(x, y, line)| format!("BT /F 10 Tf 1 0 0 1 {x} {y} Tm ({line}) Tj ET\n"))
            .collect()
    }

    fn check(pages: &[String], expect: &str) {
        assert_eq!(text(&document(pages), 1 << 20).unwrap(), expect);
    }

    #[test]
    fn two_columns_are_read_in_order_and_cut_words_joined() {
        let page = show(&[
            (50.0, 700.0, "La oficina del registro da"),
            (320.0, 700.0, "Cada persona puede pedir"),
            (50.0, 688.0, "fe de los actos de la admi-"),
            (320.0, 688.0, "copia de los documentos que"),
            (50.0, 676.0, "nistracion y del \\001n del a\\002o."),
            (320.0, 676.0, "le tocan en todo momento."),
        ]);
        check(
            &[page],
            "La oficina del registro da fe de los actos de la administracion y del fin del año.\
             \n\nCada persona puede pedir copia de los documentos que le tocan en todo momento.",
        );
    }

    #[test]
    fn spacing_inside_strings_becomes_spaces() {
        let kerned = "BT /F 10 Tf 50 700 Td [(El) -400 (ma) 20 (iz) -400 (crece)] TJ 0 -12 Td \
                      (y da sombra) Tj ET";
        check(&[kerned.to_owned()], "El maiz crece y da sombra");
    }

    #[test]
    fn hidden_and_turned_text_is_left_out() {
        let page = "BT /F 10 Tf 50 700 Td (visible) Tj 3 Tr 0 -12 Td (capa oculta) Tj ET \
                    BT 0 Tr 0 1 -1 0 20 400 Tm (margen) Tj ET";
        check(&[page.to_owned()], "visible");
    }

    #[test]
    fn what_is_no_text_is_told_with_its_reason() {
        let reason = |bytes: &[u8]| text(bytes, 1 << 20).unwrap_err().0;
        assert_eq!(reason(&document(&["0 0 100 100 re f".to_owned()])), Reason::NoMainText);
        assert_eq!(reason(b"%PDF-1.4\nnothing"), Reason::MalformedRecord);
        let deep = format!("%PDF-1.4\n1 0 obj\n{}", "[ ".repeat(100_000));
        assert_eq!(reason(deep.as_bytes()), Reason::MalformedRecord);
    }

    #[test]
    fn contents_beyond_the_limit_are_too_large_unless_other_pages_hold_text() {
        let long = "q Q\n".repeat(MAX_CONTENT_BYTES / 4 + 1);
        let reason = |pages: &[String]| text(&document(pages), 64 << 20).map_err(|error| error.0);
        assert_eq!(reason(std::slice::from_ref(&long)), Err(Reason::TooLarge));
        let page = show(&[(50.0, 700.0, "Un texto de una pagina")]);
        assert_eq!(reason(&[long, page]).unwrap(), "Un texto de una pagina");
    }

    #[test]
    fn cut_and_damaged_files_end() {
        let page = show(&[(50.0, 700.0, "Un texto de una pagina")]);
        let whole = document(&[page]);
        for end in (0..whole.len()).step_by(37) {
            let _ = text(&whole[..end], 1 << 20);
            let mut damaged = whole.clone();
            damaged[end] ^= 0x15;
            let _ = text(&damaged, 1 << 20);
        }
    }
}
