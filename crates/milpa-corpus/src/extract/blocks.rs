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

/// Open elements that are tracked; deeper ones count as part of the last tracked one.
const MAX_DEPTH: usize = 256;
/// Bytes of `class` and `id` that are looked at.
const MAX_HINT_BYTES: usize = 400;

/// Index of the root element, which has no tag.
pub const ROOT: usize = 0;

/// A page as blocks and elements.
#[derive(Debug, Default)]
pub struct Page {
    /// Content of `<title>`.
    pub title: String,
    /// Elements in order of their start tags; a parent comes before its children.
    pub elements: Vec<Element>,
    /// Text blocks in order.
    pub blocks: Vec<Block>,
}

/// An element that can hold blocks.
#[derive(Debug, Clone, Default)]
pub struct Element {
    /// Index of the parent; the root is its own.
    pub parent: usize,
    /// Name of the tag.
    pub tag: ElementTag,
    /// What its tag, class, id and role say of it.
    pub hint: Hint,
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

/// What an element's own tag and attributes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hint {
    /// Nothing.
    #[default]
    None,
    /// Navigation, footer or aside by its tag or role.
    Boilerplate,
    /// Not shown, at least until a script runs.
    Hidden,
    /// Named like navigation, advertisement and so on by class or id.
    Named,
    /// Comments on the text.
    Comments,
    /// Likely holds the main text.
    Content,
    /// Is declared to be the main text (`main`, `article`, `role=main`, `itemprop=articleBody`).
    Main,
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
}

/// What a block is rendered as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockKind {
    /// A paragraph or loose text.
    #[default]
    Text,
    /// A heading of level 1–6.
    Heading(u8),
    /// An item of a list, with its nesting level from 0.
    Item(u8),
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
            Token::TagToken(tag) if tag.kind == TagKind::StartTag => return builder.open(&tag),
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
    preformatted: usize,
    lists: u8,
    in_title: bool,
    /// Words seen so far end in a space.
    at_space: bool,
    noscript: Noscript,
}

impl Builder {
    fn new(noscript: Noscript) -> Self {
        let root = Element { parent: ROOT, tag: ElementTag::Body, hint: Hint::None };
        Self {
            page: Page { elements: vec![root], ..Page::default() },
            stack: Vec::new(),
            overflow: 0,
            block: Block::default(),
            links: 0,
            preformatted: 0,
            lists: 0,
            in_title: false,
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
            "area" | "base" | "col" | "embed" | "img" | "input" | "link" | "meta" | "source"
            | "track" | "wbr" | "param" | "html" => return TokenSinkResult::Continue,
            // A second body is an error of the page and changes nothing.
            "body" => {
                self.stack.clear();
                (self.overflow, self.links, self.preformatted, self.lists) = (0, 0, 0, 0);
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
        let noscript = name == "noscript" && self.noscript == Noscript::Skip;
        let skipped = self.skipping() || noscript || is_skipped(name);
        let hidden = is_hidden(tag);
        let element = if (inline && !hidden) || skipped {
            self.element()
        } else {
            let parent = self.element();
            // Some pages are hidden until their scripts have run.
            let hint =
                if hidden { Hint::Hidden } else { hint_of(name, tag, self.inside_main(parent)) };
            self.page.elements.push(Element { parent, tag: tag_of(name), hint });
            self.page.elements.len() - 1
        };
        match name {
            "a" => self.links += 1,
            "pre" => self.preformatted += 1,
            "ul" | "ol" => self.lists = self.lists.saturating_add(1),
            _ => {}
        }
        self.stack.push(Open { name: name.to_owned(), element, skipped });
        if !inline {
            self.begin_block();
        }
        raw.map_or(TokenSinkResult::Continue, TokenSinkResult::RawData)
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

    fn close(&mut self, name: &str) {
        if name == "title" {
            self.in_title = false;
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
                "pre" => self.preformatted = self.preformatted.saturating_sub(1),
                "ul" | "ol" => self.lists = self.lists.saturating_sub(1),
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
            self.page.title.extend(text.chars().take(1000));
            return;
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

    fn kind_of(&self, element: usize) -> BlockKind {
        let mut at = element;
        // The nearest telling ancestor; a few levels of div and section may lie between.
        for _ in 0..8 {
            match self.page.elements[at].tag {
                ElementTag::Heading(level) => return BlockKind::Heading(level),
                ElementTag::Pre => return BlockKind::Code,
                ElementTag::Li => return BlockKind::Item(self.lists.saturating_sub(1).min(6)),
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
            | "button"
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
            | "button"
            | "textarea"
            | "head"
            | "title"
            | "dialog"
            | "map"
            | "applet"
            | "xmp"
            | "noembed"
            | "noframes"
            | "menu"
            | "rp"
            | "rt"
    )
}

fn is_hidden(tag: &Tag) -> bool {
    tag.attrs.iter().any(|attribute| {
        let value: &str = &attribute.value;
        match &*attribute.name.local {
            "hidden" => !value.eq_ignore_ascii_case("until-found"),
            "style" => {
                let style: String = value
                    .chars()
                    .take(300)
                    .filter(|c| !c.is_whitespace())
                    .map(|c| c.to_ascii_lowercase())
                    .collect();
                style.contains("display:none") || style.contains("visibility:hidden")
            }
            _ => false,
        }
    })
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
        "ul" | "ol" => ElementTag::List,
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

/// Words of class and id that name what is not the page's text (English, Spanish, Portuguese).
const BOILERPLATE_WORDS: &[&str] = &[
    "nav",
    "navbar",
    "navigation",
    "navigator",
    "topnav",
    "subnav",
    "menu",
    "submenu",
    "megamenu",
    "dropdown",
    "footer",
    "colophon",
    "sidebar",
    "sidenav",
    "breadcrumb",
    "breadcrumbs",
    "cookie",
    "cookies",
    "consent",
    "gdpr",
    "share",
    "sharing",
    "sharedaddy",
    "social",
    "addtoany",
    "advert",
    "advertisement",
    "ads",
    "adsbygoogle",
    "sponsor",
    "sponsored",
    "promo",
    "newsletter",
    "subscribe",
    "subscription",
    "signup",
    "popup",
    "modal",
    "overlay",
    "lightbox",
    "pagination",
    "pager",
    "paginator",
    "login",
    "toolbar",
    "related",
    "recommended",
    "recommendations",
    "outbrain",
    "taboola",
    "skip",
    "sitemap",
    "masthead",
    "copyright",
    "legalnotice",
    "byline",
    "tagcloud",
    "printonly",
    "noprint",
    "banner",
    "offcanvas",
    "searchform",
    "pie",
    "rodape",
    "navegacion",
    "navegacao",
    "migas",
    "compartir",
    "compartilhar",
    "relacionados",
    "relacionadas",
    "publicidad",
    "publicidade",
    "boletin",
    "anuncio",
    "anuncios",
    "suscripcion",
    "suscribete",
    "cabecera",
    "cabecalho",
    "piepagina",
];

/// Words of class and id that name the page's text.
const CONTENT_WORDS: &[&str] = &[
    "article",
    "articlebody",
    "content",
    "contents",
    "post",
    "entry",
    "story",
    "body",
    "text",
    "main",
    "markdown",
    "prose",
    "contenido",
    "conteudo",
    "noticia",
    "materia",
    "nota",
    "cuerpo",
    "corpo",
    "texto",
    "articulo",
    "artigo",
];

fn hint_of(name: &str, tag: &Tag, inside_main: bool) -> Hint {
    match name {
        "nav" | "footer" | "aside" => return Hint::Boilerplate,
        "header" if !inside_main => return Hint::Boilerplate,
        "main" | "article" => return Hint::Main,
        // What is around the whole page says nothing of its parts.
        "body" => return Hint::None,
        _ => {}
    }
    let mut hint = Hint::None;
    for attribute in &tag.attrs {
        let value: &str = &attribute.value;
        match &*attribute.name.local {
            "role" => match value {
                "main" | "article" => return Hint::Main,
                "navigation" | "banner" | "contentinfo" | "complementary" | "search" | "menu"
                | "menubar" | "dialog" | "alert" => return Hint::Boilerplate,
                _ => {}
            },
            "itemprop" if value == "articleBody" => return Hint::Main,
            "class" | "id" => hint = stronger(hint, hint_of_names(value)),
            _ => {}
        }
    }
    hint
}

fn stronger(a: Hint, b: Hint) -> Hint {
    match (a, b) {
        (Hint::Named, _) | (_, Hint::Named) => Hint::Named,
        (Hint::Comments, _) | (_, Hint::Comments) => Hint::Comments,
        (Hint::Content, _) | (_, Hint::Content) => Hint::Content,
        _ => Hint::None,
    }
}

fn hint_of_names(names: &str) -> Hint {
    let end = names.char_indices().nth(MAX_HINT_BYTES).map_or(names.len(), |(at, _)| at);
    let mut hint = Hint::None;
    for name in names[..end].split_ascii_whitespace() {
        for word in name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            let word = word.to_ascii_lowercase();
            let word = word.as_str();
            let found = if BOILERPLATE_WORDS.contains(&word) {
                Hint::Named
            } else if word.starts_with("comment") || word.starts_with("comentario") {
                Hint::Comments
            } else if CONTENT_WORDS.contains(&word) {
                Hint::Content
            } else {
                continue;
            };
            hint = stronger(hint, found);
        }
    }
    hint
}
