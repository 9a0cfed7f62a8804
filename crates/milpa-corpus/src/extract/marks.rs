//! What an element says of itself: its tag, role, class and id become a set of marks.
//!
//! Names are read as words (`ProductCard__title` is product, card, title), in English, Spanish and
//! Portuguese. A mark is a hint and no verdict: what it is worth, the model of [`super::trees`]
//! has learnt from pages.

use html5ever::tokenizer::Tag;

/// Characters of `class` and `id` that are looked at.
const MAX_NAME_CHARACTERS: usize = 400;

/// One thing that an element can say of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it; the words are in `mark_of_word`")]
pub enum Mark {
    Nav,
    Footer,
    Aside,
    Header,
    Main,
    Article,
    Hidden,
    Form,
    Button,
    Fold,
    Table,
    List,
    Definition,
    Quote,
    Figure,
    Section,
    Consent,
    Share,
    Advertisement,
    Subscribe,
    Related,
    Popup,
    Pages,
    Login,
    Breadcrumb,
    Byline,
    Date,
    Comment,
    Content,
    Post,
    Product,
    Description,
    Review,
    Price,
    Title,
    Questions,
    Tabs,
    Card,
    Tags,
    Author,
    Signature,
    Search,
    Legal,
    Banner,
    Widget,
    Caption,
    Contact,
    Toc,
    Code,
    Specification,
    Slider,
    Teaser,
    Meta,
    Answer,
}

/// How many marks there are.
pub const MARKS: usize = Mark::Answer as usize + 1;

/// A set of marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks(pub u64);

impl Marks {
    /// Whether the mark is in the set.
    pub fn has(self, mark: Mark) -> bool {
        self.0 & (1 << mark as u8) != 0
    }

    /// Adds a mark.
    pub fn add(&mut self, mark: Mark) {
        self.0 |= 1 << mark as u8;
    }
}

/// Reads the marks of a start tag.
pub fn marks_of(name: &str, tag: &Tag) -> Marks {
    let mut marks = Marks::default();
    if let Some(mark) = mark_of_tag(name) {
        marks.add(mark);
    }
    for attribute in &tag.attrs {
        let value: &str = &attribute.value;
        match &*attribute.name.local {
            "role" => {
                if let Some(mark) = mark_of_role(value) {
                    marks.add(mark);
                }
            }
            "itemprop" | "itemtype" => add_words(&mut marks, value),
            // What is around the whole page says nothing of its parts.
            "class" | "id" if name != "body" => add_words(&mut marks, value),
            "hidden" if !value.eq_ignore_ascii_case("until-found") => marks.add(Mark::Hidden),
            "aria-hidden" if value == "true" => marks.add(Mark::Hidden),
            "style" if hides(value) => marks.add(Mark::Hidden),
            _ => {}
        }
    }
    marks
}

/// Whether a style keeps an element from being shown.
pub fn hides(style: &str) -> bool {
    if !style.as_bytes().contains(&b':') {
        return false;
    }
    let style: String = style
        .chars()
        .take(300)
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    style.contains("display:none") || style.contains("visibility:hidden")
}

fn mark_of_tag(name: &str) -> Option<Mark> {
    Some(match name {
        "nav" | "menu" => Mark::Nav,
        "footer" => Mark::Footer,
        "aside" => Mark::Aside,
        "header" => Mark::Header,
        "main" => Mark::Main,
        "article" => Mark::Article,
        "form" | "label" | "fieldset" => Mark::Form,
        "button" => Mark::Button,
        "details" | "summary" => Mark::Fold,
        "table" => Mark::Table,
        "ul" | "ol" => Mark::List,
        "dl" => Mark::Definition,
        "blockquote" => Mark::Quote,
        "figure" => Mark::Figure,
        "figcaption" | "caption" => Mark::Caption,
        "section" => Mark::Section,
        "dialog" => Mark::Popup,
        "address" => Mark::Contact,
        "pre" => Mark::Code,
        "time" => Mark::Date,
        _ => return None,
    })
}

fn mark_of_role(role: &str) -> Option<Mark> {
    Some(match role {
        "main" => Mark::Main,
        "article" => Mark::Article,
        "navigation" | "menu" | "menubar" | "menuitem" => Mark::Nav,
        "banner" => Mark::Header,
        "contentinfo" => Mark::Footer,
        "complementary" | "note" => Mark::Aside,
        "search" => Mark::Search,
        "dialog" | "alertdialog" | "alert" => Mark::Popup,
        "button" => Mark::Button,
        "tabpanel" | "tab" | "tablist" => Mark::Tabs,
        "form" => Mark::Form,
        _ => return None,
    })
}

/// Adds the marks of the words of a class, an id or an itemprop.
fn add_words(marks: &mut Marks, names: &str) {
    let mut word = [0u8; 16];
    let (mut length, mut before_lower) = (0, false);
    let mut end_word = |word: &[u8]| {
        let singular = word.strip_suffix(b"s").filter(|stem| stem.len() > 2);
        let found = mark_of_word(word).or_else(|| mark_of_word(singular?));
        if let Some(mark) = found {
            marks.add(mark);
        }
    };
    // Longer words than the buffer are in no list; their length is still counted.
    for &byte in names.as_bytes().iter().take(MAX_NAME_CHARACTERS) {
        let starts_word = byte.is_ascii_uppercase() && before_lower;
        if (!byte.is_ascii_alphabetic() || starts_word) && length > 0 {
            if length <= word.len() {
                end_word(&word[..length]);
            }
            length = 0;
        }
        if byte.is_ascii_alphabetic() {
            if length < word.len() {
                word[length] = byte.to_ascii_lowercase();
            }
            length += 1;
        }
        before_lower = byte.is_ascii_lowercase();
    }
    if length > 0 && length <= word.len() {
        end_word(&word[..length]);
    }
}

fn mark_of_word(word: &[u8]) -> Option<Mark> {
    Some(match word {
        b"nav" | b"navbar" | b"navigation" | b"topnav" | b"subnav" | b"menu" | b"submenu"
        | b"megamenu" | b"dropdown" | b"navegacion" | b"navegacao" | b"sidenav" | b"topbar"
        | b"toolbar" | b"skip" | b"sitemap" | b"offcanvas" | b"flyout" => Mark::Nav,
        b"footer" | b"foot" | b"colophon" | b"pie" | b"rodape" | b"piepagina" => Mark::Footer,
        b"sidebar" | b"aside" | b"rail" | b"lateral" | b"siderail" => Mark::Aside,
        b"header" | b"masthead" | b"cabecera" | b"cabecalho" | b"logo" | b"brand" => Mark::Header,
        b"main" | b"maincontent" | b"principal" | b"primary" => Mark::Main,
        b"article" | b"articlebody" | b"newsarticle" | b"blogposting" | b"articulo" | b"artigo"
        | b"noticia" | b"materia" | b"nota" | b"story" | b"blog" => Mark::Article,
        b"hidden" | b"hide" | b"invisible" | b"sr" | b"visuallyhidden" | b"screen" | b"noprint"
        | b"printonly" | b"offscreen" => Mark::Hidden,
        b"form" | b"field" | b"input" | b"label" | b"filter" | b"facet" | b"sort" | b"refine"
        | b"formulario" | b"select" | b"option" | b"swatch" | b"variant" => Mark::Form,
        b"button" | b"btn" | b"cta" | b"action" | b"boton" | b"botao" => Mark::Button,
        b"collapse" | b"accordion" | b"toggle" | b"expand" | b"collapsible" | b"panel" => {
            Mark::Fold
        }
        b"cookie" | b"consent" | b"gdpr" | b"onetrust" | b"privacy" | b"ccpa" | b"truste" => {
            Mark::Consent
        }
        b"share" | b"sharing" | b"social" | b"sharedaddy" | b"addtoany" | b"addthis"
        | b"compartir" | b"compartilhar" | b"facebook" | b"twitter" | b"whatsapp" | b"follow" => {
            Mark::Share
        }
        b"ad" | b"advert" | b"advertisement" | b"adsbygoogle" | b"sponsor" | b"sponsored"
        | b"promo" | b"promotion" | b"publicidad" | b"publicidade" | b"anuncio" | b"outbrain"
        | b"taboola" | b"dfp" | b"gpt" => Mark::Advertisement,
        b"newsletter" | b"subscribe" | b"subscription" | b"signup" | b"boletin"
        | b"suscripcion" | b"suscribete" | b"mailchimp" | b"optin" | b"klaviyo" | b"hsform" => {
            Mark::Subscribe
        }
        b"related" | b"recommended" | b"recommendation" | b"recommend" | b"relacionado"
        | b"relacionada" | b"similar" | b"more" | b"upsell" | b"crosssell" | b"also" | b"read"
        | b"latest" | b"trending" | b"popular" | b"recent" | b"suggested" | b"next" | b"prev"
        | b"previous" => Mark::Related,
        b"popup" | b"modal" | b"overlay" | b"lightbox" | b"dialog" | b"tooltip" | b"toast"
        | b"drawer" | b"notification" | b"alert" | b"notice" | b"minicart" | b"cart" => Mark::Popup,
        b"pagination" | b"pager" | b"paginator" | b"page" | b"paging" | b"paginacion" => {
            Mark::Pages
        }
        b"login" | b"signin" | b"account" | b"register" | b"user" | b"usuario" | b"member" => {
            Mark::Login
        }
        b"breadcrumb" | b"crumb" | b"miga" | b"breadcrumblist" => Mark::Breadcrumb,
        b"byline" | b"dateline" | b"credit" => Mark::Byline,
        b"date" | b"time" | b"datetime" | b"published" | b"timestamp" | b"fecha"
        | b"datepublished" | b"posted" => Mark::Date,
        b"comment" | b"comentario" | b"disqus" | b"respond" | b"commentlist" => Mark::Comment,
        b"content" | b"contenido" | b"conteudo" | b"body" | b"text" | b"entry" | b"markdown"
        | b"prose" | b"richtext" | b"wysiwyg" | b"cuerpo" | b"corpo" | b"texto" | b"copy"
        | b"rte" | b"paragraph" | b"document" | b"doc" => Mark::Content,
        b"post" | b"message" | b"thread" | b"topic" | b"reply" | b"postbody" | b"cooked"
        | b"discussion" | b"forum" | b"msg" | b"bbcode" | b"conversation" | b"hilo" | b"tema" => {
            Mark::Post
        }
        b"product" | b"producto" | b"produto" | b"sku" | b"pdp" => Mark::Product,
        b"description" | b"descripcion" | b"descricao" | b"desc" | b"summary" | b"excerpt"
        | b"intro" | b"lead" | b"detail" | b"about" | b"overview" | b"resumen" => Mark::Description,
        b"review" | b"rating" | b"testimonial" | b"star" | b"resena" | b"avaliacao" | b"ugc"
        | b"feedback" => Mark::Review,
        b"price" | b"precio" | b"preco" | b"stock" | b"shipping" | b"delivery" | b"buy"
        | b"checkout" | b"quantity" | b"qty" | b"offer" | b"availability" => Mark::Price,
        b"title" | b"headline" | b"heading" | b"titulo" | b"subtitle" | b"name" => Mark::Title,
        b"faq" | b"question" | b"qa" | b"pregunta" | b"pergunta" => Mark::Questions,
        b"answer" | b"solution" | b"acceptedanswer" | b"suggestedanswer" | b"respuesta" => {
            Mark::Answer
        }
        b"tab" | b"tabs" | b"tabpanel" | b"tablist" => Mark::Tabs,
        b"card" | b"grid" | b"tile" | b"item" | b"listing" | b"collection" | b"result"
        | b"feed" | b"archive" | b"category" | b"cell" => Mark::Card,
        b"tag" | b"tagcloud" | b"badge" | b"chip" | b"etiqueta" | b"topics" => Mark::Tags,
        b"author" | b"autor" | b"avatar" | b"username" | b"profile" | b"poster" | b"bio"
        | b"nickname" | b"creator" => Mark::Author,
        b"signature" | b"sig" | b"firma" => Mark::Signature,
        b"search" | b"searchform" | b"buscar" | b"busqueda" | b"busca" => Mark::Search,
        b"copyright" | b"legal" | b"disclaimer" | b"legalnotice" | b"terms" | b"policy" => {
            Mark::Legal
        }
        b"banner" | b"hero" | b"jumbotron" | b"announcement" | b"announce" | b"ticker" => {
            Mark::Banner
        }
        b"widget" | b"module" | b"block" | b"gadget" | b"plugin" | b"component" => Mark::Widget,
        b"caption" | b"figure" | b"image" | b"gallery" | b"photo" | b"img" | b"media"
        | b"video" => Mark::Caption,
        b"contact" | b"phone" | b"email" | b"address" | b"location" | b"map" | b"contacto"
        | b"contato" => Mark::Contact,
        b"toc" | b"tableofcontents" | b"outline" | b"contents" | b"indice" | b"anchor" => Mark::Toc,
        b"code" | b"highlight" | b"codeblock" | b"snippet" | b"hljs" | b"prism" => Mark::Code,
        b"spec" | b"specification" | b"attribute" | b"feature" | b"especificacion" | b"ficha" => {
            Mark::Specification
        }
        b"slider" | b"carousel" | b"swiper" | b"slick" | b"slide" | b"owl" | b"splide"
        | b"marquee" => Mark::Slider,
        b"teaser" | b"preview" | b"thumbnail" | b"thumb" | b"highlights" | b"featured" => {
            Mark::Teaser
        }
        b"meta" | b"info" | b"metadata" | b"stat" | b"count" | b"view" | b"vote" | b"like"
        | b"score" => Mark::Meta,
        _ => return None,
    })
}
