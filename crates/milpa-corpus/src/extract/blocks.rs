//! Tokens of a page become text blocks over a flat list of elements.
//!
//! Only html5ever's tokenizer is used: implied end tags are handled for the elements that matter
//! (p, li, dt, dd, cells, options), the stack of open elements is capped, and each token costs a
//! bounded amount of work.

use std::cell::RefCell;

use html5ever::{
    tendril::StrTendril,
    tokenizer::{
        BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
        states::RawKind,
    },
};

use super::{
    hints::{self, Hint},
    marks::{self, Marks},
};

/// Open elements that are tracked; deeper ones count as part of the last tracked one.
const MAX_DEPTH: usize = 256;
/// Start tags that are read; a page with more is no page for people.
pub const MAX_TAGS: usize = 1_000_000;
/// Bytes of structured data (JSON-LD) that are kept.
const MAX_DATA_BYTES: usize = 256 << 10;
/// Characters of the title and of the description that are kept.
const MAX_TITLE_CHARACTERS: usize = 1000;

/// Index of the root element, which has no tag.
pub const ROOT: usize = 0;

/// A page as blocks and elements.
#[derive(Debug, Default)]
pub struct Page {
    /// Content of `<title>`.
    pub title: String,
    /// Content of the `description` among the meta tags.
    pub description: String,
    /// Content of `og:type`.
    pub kind: String,
    /// Structured data: the page's JSON-LD scripts, one after the other.
    pub data: String,
    /// Elements in order of their start tags; a parent comes before its children.
    pub elements: Vec<Element>,
    /// Text blocks in order.
    pub blocks: Vec<Block>,
    /// Start tags that were read.
    pub tags: usize,
}

/// An element that can hold blocks.
#[derive(Debug, Clone, Default)]
pub struct Element {
    /// Index of the parent; the root is its own.
    pub parent: usize,
    /// Name of the tag.
    pub tag: ElementTag,
    /// What its tag, class, id and role say of it.
    pub marks: Marks,
    /// What is to be thought of it.
    pub hint: Hint,
    /// Equal for elements of one look: hash of tag and classes.
    pub look: u32,
    /// Number of ancestors.
    pub depth: u16,
}

/// Tags that the rest of extraction tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names of HTML")]
pub enum ElementTag {
    #[default]
    Other,
    Body,
    Main,
    Article,
    Section,
    Header,
    Div,
    P,
    Li,
    List,
    OrderedList,
    Table,
    Row,
    Cell,
    Heading(u8),
    Pre,
    Quote,
    Definition,
    A,
    Form,
}

/// A run of text without a block boundary inside.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// The text, spaces collapsed (line breaks kept in code).
    pub text: String,
    /// Innermost element.
    pub element: usize,
    /// What it is.
    pub kind: BlockKind,
    /// Words in it.
    pub words: u32,
    /// Words of it inside links.
    pub link_words: u32,
    /// Words of it in bold type.
    pub bold_words: u32,
}

/// What a block is rendered as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockKind {
    /// A paragraph or loose text.
    #[default]
    Text,
    /// A heading of level 1–6.
    Heading(u8),
    /// An item of a list.
    Item {
        /// Its nesting level from 0.
        depth: u8,
        /// Its number in an ordered list.
        number: Option<u32>,
    },
    /// A cell of the table row that is the element given.
    Cell {
        /// Index of the row's element.
        row: usize,
    },
    /// Preformatted text.
    Code,
}

/// Whether `<noscript>` is read: some sites put their whole text there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noscript {
    /// Pass it over, as a browser does.
    Skip,
    /// Read it like any other element.
    Read,
}

/// Parses a page.
pub fn parse(html: &str, noscript: Noscript) -> Page {
    let sink = Sink(RefCell::new(Builder::new(noscript)));
    let options = TokenizerOpts::default();
    let tokenizer = Tokenizer::new(sink, options);
    let input = BufferQueue::default();
    input.push_back(StrTendril::from(html));
    // `feed` returns early only for scripts, which this sink never reports.
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    tokenizer.sink.0.into_inner().finish()
}

struct Sink(RefCell<Builder>);

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut builder = self.0.borrow_mut();
        match token {
            Token::TagToken(tag) if tag.kind == TagKind::StartTag => {
                builder.page.tags += 1;
                if builder.page.tags > MAX_TAGS {
                    return TokenSinkResult::Continue;
                }
                return builder.open(&tag);
            }
            Token::TagToken(tag) => builder.close(&tag.name),
            Token::CharacterTokens(text) => builder.text(&text),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

struct Open {
    name: String,
    element: usize,
    skipped: bool,
}

struct Builder {
    page: Page,
    stack: Vec<Open>,
    /// Start tags beyond [`MAX_DEPTH`] that are still open.
    overflow: usize,
    block: Block,
    links: usize,
    bold: usize,
    preformatted: usize,
    /// For each open list: the number of its next item if it is ordered.
    lists: Vec<Option<u32>>,
    /// Number of the item that is open, until its first block took it.
    number: Option<u32>,
    in_title: bool,
    title_characters: usize,
    in_data: bool,
    /// Words seen so far end in a space.
    at_space: bool,
    noscript: Noscript,
}

impl Builder {
    fn new(noscript: Noscript) -> Self {
        let root = Element { tag: ElementTag::Body, ..Element::default() };
        Self {
            page: Page { elements: vec![root], ..Page::default() },
            stack: Vec::new(),
            overflow: 0,
            block: Block::default(),
            links: 0,
            bold: 0,
            preformatted: 0,
            lists: Vec::new(),
            number: None,
            in_title: false,
            title_characters: 0,
            in_data: false,
            at_space: true,
            noscript,
        }
    }

    fn element(&self) -> usize {
        self.stack.last().map_or(ROOT, |open| open.element)
    }

    fn skipping(&self) -> bool {
        self.stack.last().is_some_and(|open| open.skipped)
    }

    fn open(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name: &str = &tag.name;
        match name {
            "br" => {
                if self.preformatted > 0 {
                    self.text("\n");
                } else if self.block.text.ends_with('\n') {
                    self.flush();
                } else if !self.block.text.is_empty() && !self.skipping() {
                    while self.block.text.ends_with(' ') {
                        self.block.text.pop();
                    }
                    self.block.text.push('\n');
                    self.at_space = true;
                }
                return TokenSinkResult::Continue;
            }
            "hr" => {
                self.flush();
                return TokenSinkResult::Continue;
            }
            "meta" => {
                self.meta(tag);
                return TokenSinkResult::Continue;
            }
            "area" | "base" | "col" | "embed" | "img" | "input" | "link" | "source" | "track"
            | "wbr" | "param" | "html" => return TokenSinkResult::Continue,
            // A second body is an error of the page and changes nothing.
            "body" => {
                self.stack.clear();
                (self.overflow, self.links, self.bold, self.preformatted) = (0, 0, 0, 0);
                self.lists.clear();
            }
            _ => {}
        }
        self.close_implied(name);
        let inline = is_inline(name);
        if !inline {
            self.flush();
        }
        let raw = match name {
            "script" => Some(RawKind::ScriptData),
            "noscript" if self.noscript == Noscript::Skip => Some(RawKind::Rawtext),
            "style" | "xmp" | "iframe" | "noembed" | "noframes" => Some(RawKind::Rawtext),
            "title" | "textarea" => Some(RawKind::Rcdata),
            _ => None,
        };
        // In foreign content a self-closing tag has no end tag.
        if tag.self_closing && raw.is_none() && (self.skipping() || matches!(name, "svg" | "math"))
        {
            return TokenSinkResult::Continue;
        }
        if name == "title" && !self.stack.iter().any(|open| open.name == "svg") {
            self.in_title = self.page.title.is_empty();
        }
        if self.stack.len() >= MAX_DEPTH {
            self.overflow += 1;
            // Raw text must still not be taken for content; its own end tag pops nothing.
            return raw.map_or(TokenSinkResult::Continue, TokenSinkResult::RawData);
        }
        self.in_data = name == "script"
            && tag.attrs.iter().any(|a| &*a.name.local == "type" && &*a.value == JSON_LD);
        let noscript = name == "noscript" && self.noscript == Noscript::Skip;
        let skipped = self.skipping() || noscript || is_skipped(name);
        let element = if skipped || (inline && !hides_itself(tag)) {
            self.element()
        } else {
            self.add_element(name, tag)
        };
        match name {
            "a" => self.links += 1,
            "b" | "strong" => self.bold += 1,
            "pre" => self.preformatted += 1,
            "ul" | "menu" => self.lists.push(None),
            "ol" => self.lists.push(Some(first_number(tag))),
            "li" => {
                self.number = self.lists.last().copied().flatten();
                if let Some(Some(next)) = self.lists.last_mut() {
                    *next = next.saturating_add(1);
                }
            }
            _ => {}
        }
        self.stack.push(Open { name: name.to_owned(), element, skipped });
        if !inline {
            self.begin_block();
        }
        raw.map_or(TokenSinkResult::Continue, TokenSinkResult::RawData)
    }

    fn add_element(&mut self, name: &str, tag: &Tag) -> usize {
        let parent = self.element();
        // Some pages are hidden until their scripts have run.
        let hint = if hides_itself(tag) {
            Hint::Hidden
        } else {
            hints::hint_of(name, tag, self.inside_main(parent))
        };
        self.page.elements.push(Element {
            parent,
            tag: tag_of(name),
            marks: marks::marks_of(name, tag),
            hint,
            look: look_of(name, tag),
            depth: self.page.elements[parent].depth + 1,
        });
        self.page.elements.len() - 1
    }

    /// Whether `element` or one of its near ancestors is declared to be the main text.
    fn inside_main(&self, mut element: usize) -> bool {
        for _ in 0..MAX_DEPTH {
            if self.page.elements[element].hint == Hint::Main {
                return true;
            }
            if element == ROOT {
                return false;
            }
            element = self.page.elements[element].parent;
        }
        false
    }

    /// Keeps what the page says of itself in its head.
    fn meta(&mut self, tag: &Tag) {
        let get = |wanted: &[&str]| {
            let found = tag.attrs.iter().find(|a| wanted.contains(&&*a.name.local))?;
            Some(&*found.value)
        };
        let Some(content) = get(&["content"]) else { return };
        let target = match get(&["name", "property"]) {
            Some("description" | "og:description") => &mut self.page.description,
            Some("og:type") => &mut self.page.kind,
            _ => return,
        };
        if target.len() < content.len() {
            *target = content.chars().take(MAX_TITLE_CHARACTERS).collect();
        }
    }

    fn close(&mut self, name: &str) {
        if name == "title" {
            self.in_title = false;
        }
        if name == "script" {
            self.in_data = false;
        }
        if self.overflow > 0 {
            self.overflow -= 1;
            if !is_inline(name) {
                self.flush();
            }
            return;
        }
        // Cells keep stray end tags from closing what is around the table.
        let in_table = matches!(name, "td" | "th" | "tr" | "table" | "tbody" | "thead" | "tfoot");
        let found = self
            .stack
            .iter()
            .rposition(|open| open.name == name || (!in_table && is_cell(&open.name)))
            .filter(|&at| self.stack[at].name == name);
        if !is_inline(name) || matches!(name, "p") {
            self.flush();
        }
        if let Some(at) = found {
            // An inline end tag never closes a block.
            if is_inline(name) && self.stack[at + 1..].iter().any(|open| !is_inline(&open.name)) {
                if name == "a" {
                    self.links = self.links.saturating_sub(1);
                    self.stack[at].name = "span".to_owned();
                }
                return;
            }
            self.pop_to(at);
        }
        self.begin_block();
    }

    fn pop_to(&mut self, length: usize) {
        while self.stack.len() > length {
            let Some(open) = self.stack.pop() else { return };
            match open.name.as_str() {
                "a" => self.links = self.links.saturating_sub(1),
                "b" | "strong" => self.bold = self.bold.saturating_sub(1),
                "pre" => self.preformatted = self.preformatted.saturating_sub(1),
                "ul" | "ol" | "menu" => {
                    self.lists.pop();
                    self.number = None;
                }
                _ => {}
            }
        }
    }

    /// Closes elements whose end tag is left out before a start tag `name`.
    fn close_implied(&mut self, name: &str) {
        let (closes, barriers): (&[&str], &[&str]) = match name {
            "li" => (&["li"], &["ul", "ol", "menu"]),
            "dt" | "dd" => (&["dt", "dd"], &["dl"]),
            "tr" => (&["tr"], &["table"]),
            "td" | "th" => (&["td", "th"], &["tr", "table"]),
            "tbody" | "thead" | "tfoot" => (&["tbody", "thead", "tfoot"], &["table"]),
            "option" => (&["option"], &["select"]),
            "a" => (&["a"], &["td", "th", "li", "div", "p"]),
            _ if !is_inline(name) => (&["p"], &["button", "td", "th", "div", "li", "object"]),
            _ => return,
        };
        let found = self
            .stack
            .iter()
            .rposition(|open| {
                closes.contains(&open.name.as_str()) || barriers.contains(&open.name.as_str())
            })
            .filter(|&at| closes.contains(&self.stack[at].name.as_str()));
        if let Some(at) = found {
            if name != "a" {
                self.flush();
            }
            self.pop_to(at);
        }
    }

    fn text(&mut self, text: &str) {
        if self.in_title {
            // It comes in many pieces, and every short block is sought in it.
            let left = MAX_TITLE_CHARACTERS.saturating_sub(self.title_characters);
            let before = self.page.title.len();
            self.page.title.extend(text.chars().take(left));
            self.title_characters += self.page.title[before..].chars().count();
            return;
        }
        if self.in_data && self.page.data.len() + text.len() <= MAX_DATA_BYTES {
            self.page.data.push_str(text);
        }
        if self.skipping() {
            return;
        }
        if self.preformatted > 0 {
            self.count_words(text);
            self.block.text.push_str(text);
            return;
        }
        if self.block.text.is_empty() {
            self.begin_block();
        }
        self.count_words(text);
        for c in text.chars() {
            if c.is_whitespace() || c == '\u{200B}' {
                if !self.at_space {
                    self.block.text.push(' ');
                    self.at_space = true;
                }
            } else {
                self.block.text.push(c);
                self.at_space = false;
            }
        }
    }

    fn count_words(&mut self, text: &str) {
        let words =
            text.split_whitespace().filter(|w| w.chars().any(char::is_alphanumeric)).count();
        self.block.words += words as u32;
        if self.links > 0 {
            self.block.link_words += words as u32;
        }
        if self.bold > 0 {
            self.block.bold_words += words as u32;
        }
    }

    /// The next block belongs to the element that is open now.
    fn begin_block(&mut self) {
        if self.block.text.is_empty() {
            self.block.element = self.element();
            self.at_space = true;
        }
    }

    fn flush(&mut self) {
        let mut block = std::mem::take(&mut self.block);
        self.at_space = true;
        let code = self.page.elements[block.element].tag == ElementTag::Pre;
        let trimmed =
            if code { block.text.trim_matches('\n').trim_end() } else { block.text.trim() };
        if trimmed.is_empty() {
            return;
        }
        if trimmed.len() != block.text.len() {
            block.text = trimmed.to_owned();
        }
        block.kind = self.kind_of(block.element);
        self.page.blocks.push(block);
    }

    fn kind_of(&mut self, element: usize) -> BlockKind {
        let mut at = element;
        // The nearest telling ancestor; a few levels of div and section may lie between.
        for _ in 0..8 {
            match self.page.elements[at].tag {
                ElementTag::Heading(level) => return BlockKind::Heading(level),
                ElementTag::Pre => return BlockKind::Code,
                ElementTag::Li => {
                    let depth = self.lists.len().saturating_sub(1).min(6) as u8;
                    return BlockKind::Item { depth, number: self.number.take() };
                }
                ElementTag::Cell => {
                    let row = self.page.elements[at].parent;
                    // A cell with several paragraphs is layout, not a table.
                    let paragraph = self.page.elements[element].tag == ElementTag::P;
                    return if paragraph { BlockKind::Text } else { BlockKind::Cell { row } };
                }
                ElementTag::P if at != element => return BlockKind::Text,
                ElementTag::Table | ElementTag::Body | ElementTag::Main | ElementTag::Article => {
                    return BlockKind::Text;
                }
                _ => at = self.page.elements[at].parent,
            }
        }
        BlockKind::Text
    }

    fn finish(mut self) -> Page {
        self.flush();
        self.page.title = self.page.title.split_whitespace().collect::<Vec<_>>().join(" ");
        self.page
    }
}

fn is_cell(name: &str) -> bool {
    matches!(name, "td" | "th")
}

fn is_inline(name: &str) -> bool {
    matches!(
        name,
        "a" | "abbr"
            | "acronym"
            | "b"
            | "bdi"
            | "bdo"
            | "big"
            | "cite"
            | "code"
            | "data"
            | "del"
            | "dfn"
            | "em"
            | "font"
            | "i"
            | "ins"
            | "kbd"
            | "label"
            | "mark"
            | "nobr"
            | "q"
            | "s"
            | "samp"
            | "small"
            | "span"
            | "strike"
            | "strong"
            | "sub"
            | "sup"
            | "time"
            | "tt"
            | "u"
            | "var"
            | "ruby"
            | "rb"
            | "rt"
            | "rp"
            | "picture"
            | "svg"
            | "math"
            | "script"
            | "style"
    )
}

/// Elements whose text is never the page's.
fn is_skipped(name: &str) -> bool {
    matches!(
        name,
        "script"
            | "style"
            | "template"
            | "svg"
            | "math"
            | "iframe"
            | "object"
            | "canvas"
            | "audio"
            | "video"
            | "select"
            | "option"
            | "datalist"
            | "textarea"
            | "head"
            | "title"
            | "map"
            | "applet"
            | "xmp"
            | "noembed"
            | "noframes"
            | "rp"
            | "rt"
    )
}

/// Media type of structured data in a page.
const JSON_LD: &str = "application/ld+json";

/// Whether an inline element is one of its own because its text is not shown.
fn hides_itself(tag: &Tag) -> bool {
    tag.attrs.iter().any(|attribute| match &*attribute.name.local {
        "hidden" => !attribute.value.eq_ignore_ascii_case("until-found"),
        "style" => marks::hides(&attribute.value),
        _ => false,
    })
}

fn first_number(tag: &Tag) -> u32 {
    let start = tag.attrs.iter().find(|attribute| &*attribute.name.local == "start");
    start.and_then(|attribute| attribute.value.trim().parse().ok()).unwrap_or(1)
}

/// FNV-1a hash of tag and classes, digits left out: `post-12` looks like `post-13`.
fn look_of(name: &str, tag: &Tag) -> u32 {
    let classes = tag.attrs.iter().find(|attribute| &*attribute.name.local == "class");
    let classes = classes.map_or(&b""[..], |attribute| attribute.value.as_bytes());
    name.bytes()
        .chain(classes.iter().copied().take(200).filter(|byte| !byte.is_ascii_digit()))
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn tag_of(name: &str) -> ElementTag {
    match name {
        "body" => ElementTag::Body,
        "main" => ElementTag::Main,
        "article" => ElementTag::Article,
        "section" => ElementTag::Section,
        "header" => ElementTag::Header,
        "div" => ElementTag::Div,
        "p" => ElementTag::P,
        "li" => ElementTag::Li,
        "ul" | "menu" => ElementTag::List,
        "ol" => ElementTag::OrderedList,
        "table" => ElementTag::Table,
        "tr" => ElementTag::Row,
        "td" | "th" => ElementTag::Cell,
        "h1" => ElementTag::Heading(1),
        "h2" => ElementTag::Heading(2),
        "h3" => ElementTag::Heading(3),
        "h4" => ElementTag::Heading(4),
        "h5" => ElementTag::Heading(5),
        "h6" => ElementTag::Heading(6),
        "pre" => ElementTag::Pre,
        "blockquote" => ElementTag::Quote,
        "dt" | "dd" => ElementTag::Definition,
        "form" => ElementTag::Form,
        _ => ElementTag::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the work on a page is a multiple of: elements; blocks, with the elements around each; and
    /// blocks times the length of what they are sought in.
    fn work(html: &str) -> usize {
        let page = parse(html, Noscript::Read);
        let sought_in = page.title.len() + page.description.len() + page.data.len();
        assert!(page.title.chars().count() <= MAX_TITLE_CHARACTERS);
        assert!(page.description.chars().count() <= MAX_TITLE_CHARACTERS);
        assert!(page.data.len() <= MAX_DATA_BYTES);
        let around = |block: &Block| usize::from(page.elements[block.element].depth);
        assert!(page.blocks.iter().all(|block| around(block) <= MAX_DEPTH));
        let blocks: usize = page.blocks.iter().map(|block| block.text.len() + around(block)).sum();
        page.elements.len() + blocks + page.title.len() * page.blocks.len() + sought_in
    }

    fn check(name: &str, page: fn(usize) -> String) {
        // Caps are met at both sizes, so that what grows without one is seen.
        let (small, large) = (work(&page(4_000)), work(&page(32_000)));
        assert!(large <= 9 * small + 10_000, "{name}: eight times the page, {small} to {large}");
    }

    #[test]
    fn work_grows_with_the_page_and_no_faster() {
        check("paragraphs", |n| "<p>a".repeat(n));
        check("nested divisions", |n| format!("{}x", "<div>a".repeat(n)));
        check("nested formatting", |n| "<b><i>a<p>".repeat(n));
        check("deep paragraphs", |n| format!("{}{}", "<section>".repeat(250), "<p>a".repeat(n)));
        check("end tags", |n| format!("{}{}", "<div>".repeat(255), "a</b></td>".repeat(n)));
        check("tables", |n| format!("<table>{}", "<tr><td>a<td>b".repeat(n)));
        check("nested tables", |n| "<table><tr><td>a".repeat(n));
        check("nested lists", |n| "<ul><li>a".repeat(n));
        check("definitions", |n| "<dl><dt>a<dd>b".repeat(n));
        check("entities", |n| format!("<p>{}", "&amp;&zz&#65;".repeat(n)));
        check("attributes", |n| "<p a b c d e f g h=1 class='x y z'>a".repeat(n));
        check("titles", |n| format!("<title>{}</title>{}", "a&amp;".repeat(n), "<p>a".repeat(n)));
        check("many titles", |n| "<title> </title><p>a<title>b</title>".repeat(n));
        check("descriptions", |n| "<meta name=description content=abc><p>a".repeat(n));
        check("data", |n| "<script type='application/ld+json'>{}</script><p>a".repeat(n));
        check("open angles", |n| "<a<p>".repeat(n));
        check("comments", |n| "<!--a--><p>a".repeat(n));
    }
}
