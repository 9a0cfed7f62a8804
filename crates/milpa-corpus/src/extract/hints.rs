//! A verdict on each element from its own tag, role, class and id: what the rules of
//! `rules` go by. Narrower than the marks, which only describe.

use html5ever::tokenizer::Tag;

/// Bytes of `class` and `id` that are looked at.
const MAX_HINT_BYTES: usize = 400;

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

pub(super) fn hint_of(name: &str, tag: &Tag, inside_main: bool) -> Hint {
    match name {
        "nav" | "footer" | "aside" | "button" | "dialog" | "menu" => return Hint::Boilerplate,
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
