//! Block lists of addresses: hosts with their subdomains, beginnings of addresses, words.
//!
//! A list is a text file, plain or compressed, with one entry a line; [`parse_entry`] says how
//! entries are written. The lists that archives of the web are cleaned with have millions of
//! entries, so an entry is kept as a hash of eight bytes, found again by hashing the few parts of
//! an address that an entry can be; two different texts share a hash of 64 bits by chance once in
//! 10¹² addresses against a list of five million. What is blocked is named by the part of the
//! address that is on the list. It knows nothing of texts; phrases of spam are in
//! [`super::blocklist`].
//!
//! In a recipe the files stand under `[corpus] blocklists = ["lists/adult.txt", …]`.

use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
};

use milpa_base::lines::{Line, LineReader};

use super::{Filter, Thresholds, Verdict, View, word_hash};
use crate::{CorpusError, document::Reason};

/// What every web source is held against, in the form of a list.
const BUILT_IN: &str = include_str!("../../data/blocked_addresses.txt");
/// Longest line of a list.
const MAX_LINE_BYTES: usize = 1 << 16;
/// Most entries of a list: 800 MB of hashes.
const MAX_ENTRIES: usize = 100_000_000;
/// Hashes that share a place in the index of a list, on average.
const KEYS_PER_BUCKET: usize = 8;

/// Block lists, each with its name.
#[derive(Debug, Clone, Default)]
pub struct UrlBlocklist {
    lists: Vec<List>,
}

/// Why an address is blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked<'a> {
    /// What kind of entry it was.
    pub kind: EntryKind,
    /// The entry, in lower case.
    pub entry: String,
    /// Name of the list that has it.
    pub list: &'a str,
}

/// What a line of a list blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A host and all its subdomains.
    Host,
    /// All addresses that begin with it.
    Address,
    /// All addresses that have the word.
    Word,
}

impl UrlBlocklist {
    /// The list that every web source is held against: some hosts and words that are known to all.
    pub fn built_in() -> Arc<Self> {
        static LIST: OnceLock<Arc<UrlBlocklist>> = OnceLock::new();
        LIST.get_or_init(|| {
            let mut lists = UrlBlocklist::default();
            let reader = LineReader::new(Box::new(BUILT_IN.as_bytes()), MAX_LINE_BYTES);
            lists.read("built-in", reader).expect("the built-in list is tested to parse");
            Arc::new(lists)
        })
        .clone()
    }

    /// Adds the list in a file, which is read line by line; `name` is what reasons call it.
    ///
    /// It takes eight bytes for each entry, and twice that while it is read.
    ///
    /// # Errors
    /// If the file cannot be read, a line is no entry, or there are more than 100 million.
    pub fn add_file(&mut self, name: &str, path: &Path) -> Result<(), CorpusError> {
        let reader = LineReader::open(path, MAX_LINE_BYTES)
            .map_err(|error| CorpusError::file("read the block list", path, &error))?;
        self.read(name, reader).map_err(|problem| match problem {
            Problem::Stream(error) => CorpusError::file("read the block list", path, &error),
            Problem::Line { number, message } => CorpusError::Config {
                key: "corpus.blocklists".to_owned(),
                message: format!("{}, line {number}: {message}", path.display()),
            },
        })
    }

    /// Number of different entries.
    pub fn entries(&self) -> usize {
        self.lists.iter().map(|list| list.entries.sorted.len()).sum()
    }

    /// Bytes of memory that the entries take.
    pub fn bytes(&self) -> usize {
        self.lists.iter().map(|list| list.entries.bytes() + list.addressed.bytes()).sum()
    }

    /// Looks an address up: its host from the whole to the last label, then for each of these the
    /// beginnings of the address from the shortest to the longest, then its words; `None` if no list
    /// has any of them.
    pub fn find(&self, url: &str) -> Option<Blocked<'_>> {
        let address = Address::parse(url)?;
        let look_up = |kind, range: std::ops::Range<usize>, wanted: fn(&List) -> bool| {
            let entry = &address.text[range];
            let key = word_hash(entry);
            let list = self.lists.iter().find(|list| wanted(list) && list.entries.contains(key))?;
            Some(Blocked { kind, entry: entry.to_owned(), list: &list.name })
        };
        let host = |at| look_up(EntryKind::Host, at..address.host_bytes, |list| list.hosts);
        let beginning = |at: usize| {
            let key = word_hash(&address.host()[at..]);
            let addressed = self.lists.iter().filter(|list| list.addressed.contains(key));
            let depth = addressed.map(|list| list.depth).max()?;
            let wanted = |list: &List| list.depth > 0;
            address
                .path_ends()
                .take(depth)
                .find_map(|end| look_up(EntryKind::Address, at..end, wanted))
        };
        let found = address.hosts().find_map(host).or_else(|| address.hosts().find_map(beginning));
        if found.is_some() || !self.lists.iter().any(|list| list.words) {
            return found;
        }
        let is_letter = |c: char| {
            if c.is_ascii() { c.is_ascii_alphanumeric() } else { c.is_alphanumeric() }
        };
        let mut at = 0;
        address.text.split(|c: char| !is_letter(c)).find_map(|word| {
            let word = at..at + word.len();
            at = word.end + address.text[word.end..].chars().next().map_or(0, char::len_utf8);
            look_up(EntryKind::Word, word, |list| list.words)
        })
    }

    fn read(&mut self, name: &str, mut reader: LineReader) -> Result<(), Problem> {
        let mut list = List { name: name.to_owned(), ..List::default() };
        let (mut keys, mut addressed) = (Vec::new(), Vec::new());
        loop {
            let number = reader.line_number() + 1;
            let wrong = |message: String| Problem::Line { number, message };
            let Some(line) = reader.next_line().map_err(Problem::Stream)? else { break };
            let line = match line {
                Line::Whole(line) => String::from_utf8_lossy(line),
                Line::TooLong { bytes } => {
                    return Err(wrong(format!("{bytes} bytes are no entry")));
                }
            };
            // An address can have a `#` inside; a comment has a space before it.
            let line = if line.trim_start().starts_with('#') { "" } else { &line };
            let line = line.split_once(" #").map_or(line, |(entry, _)| entry);
            for entry in entries_of(line.trim()) {
                let (kind, entry) = parse_entry(entry).map_err(|why| {
                    wrong(format!(
                        "{entry:?} {why}; write a host (example.org), an address \
                         (example.org/folder) or a word"
                    ))
                })?;
                match kind {
                    EntryKind::Host => list.hosts = true,
                    EntryKind::Word => list.words = true,
                    EntryKind::Address => {
                        let Some(address) = Address::parse(&entry) else { continue };
                        list.depth = list.depth.max(address.path_ends().count());
                        addressed.push(word_hash(address.host()));
                    }
                }
                if keys.len() == MAX_ENTRIES {
                    return Err(wrong(format!("a list has at most {MAX_ENTRIES} entries")));
                }
                keys.push(word_hash(&entry));
            }
        }
        list.entries = Keys::new(keys);
        list.addressed = Keys::new(addressed);
        self.lists.push(list);
        Ok(())
    }
}

impl Filter for Arc<UrlBlocklist> {
    fn check(&self, view: &View<'_>, _: &Thresholds) -> Option<Verdict> {
        let Blocked { kind, entry, list } = self.find(view.url?)?;
        let (rule, what) = match kind {
            EntryKind::Host => ("blocked_host", "host"),
            EntryKind::Address => ("blocked_address", "address"),
            EntryKind::Word => ("blocked_word", "word in the address"),
        };
        let detail = format!("{what} {entry} is on the block list {list}");
        Some(Verdict { reason: Reason::Blocklist, rule, detail })
    }

    fn needs_language(&self) -> bool {
        false
    }
}

/// What is wrong with a list.
#[derive(Debug)]
enum Problem {
    Stream(io::Error),
    Line { number: u64, message: String },
}

/// One list.
#[derive(Debug, Clone, Default)]
struct List {
    name: String,
    entries: Keys,
    /// Hosts of which some addresses are entries.
    addressed: Keys,
    hosts: bool,
    words: bool,
    /// Most ends of parts of an address that an entry spans: longer beginnings need no look.
    depth: usize,
}

/// A set of hashes.
#[derive(Debug, Clone, Default)]
struct Keys {
    /// Sorted, each once.
    sorted: Vec<u64>,
    /// `starts[b]..starts[b + 1]` are the keys of bucket `b`, of equally wide ones.
    starts: Vec<u32>,
}

impl Keys {
    fn new(mut sorted: Vec<u64>) -> Self {
        sorted.sort_unstable();
        sorted.dedup();
        sorted.shrink_to_fit();
        let buckets = sorted.len() / KEYS_PER_BUCKET + 1;
        let mut at = 0;
        let starts = (0..=buckets)
            .map(|bucket| {
                while at < sorted.len() && bucket_of(sorted[at], buckets) < bucket {
                    at += 1;
                }
                u32::try_from(at).expect("a list has at most 100 million entries")
            })
            .collect();
        Self { sorted, starts }
    }

    fn contains(&self, key: u64) -> bool {
        let bucket = bucket_of(key, self.starts.len() - 1);
        let keys = self.starts[bucket] as usize..self.starts[bucket + 1] as usize;
        self.sorted[keys].contains(&key)
    }

    fn bytes(&self) -> usize {
        8 * self.sorted.len() + 4 * self.starts.len()
    }
}

/// Hashes are spread evenly, so equally wide buckets are about equally full.
fn bucket_of(key: u64, buckets: usize) -> usize {
    ((u128::from(key) * buckets as u128) >> 64) as usize
}

/// The entries of a line without its comment: itself, or the names in a line of a hosts file
/// (`0.0.0.0 example.org`).
fn entries_of(line: &str) -> impl Iterator<Item = &str> {
    let hosts = line
        .strip_prefix("0.0.0.0")
        .or_else(|| line.strip_prefix("127.0.0.1"))
        .filter(|names| names.starts_with([' ', '\t']));
    let (line, names) = match hosts {
        Some(names) => ("", names),
        None => (line, ""),
    };
    std::iter::once(line).filter(|line| !line.is_empty()).chain(names.split_whitespace())
}

/// What an entry blocks, and the text under which it is found; or why it is none.
///
/// `example.org` is the host and all its subdomains, `.xxx` all hosts of a top-level domain;
/// `example.org/folder` all addresses of that host and its subdomains that are this one or go on
/// with `/`, `?`, `&` or `#`; `casino`, letters and digits without a dot, is a whole word anywhere
/// in an address. A scheme, a user, a port, `*.` in front and `/` at the end are passed over. Upper
/// and lower case are the same, in paths too; what is percent-encoded stays so.
pub fn parse_entry(entry: &str) -> Result<(EntryKind, String), &'static str> {
    if entry.contains(char::is_whitespace) {
        return Err("has a space");
    }
    if !entry.is_empty() && entry.chars().all(char::is_alphanumeric) {
        return Ok((EntryKind::Word, entry.to_lowercase()));
    }
    let Some(mut address) = Address::parse(entry.strip_prefix("*.").unwrap_or(entry)) else {
        return Err("has no host");
    };
    let sound = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
    };
    let top = address.host().strip_prefix('.').is_some_and(sound);
    if !top && address.text.starts_with('.') {
        address.text.remove(0);
        address.host_bytes -= 1;
    }
    let host = address.host();
    if !(top || host.starts_with('[') || host.split('.').all(sound)) {
        return Err("has a host with other signs than letters, digits and hyphens");
    }
    if address.path_ends().next().is_some() {
        let end = address.text.trim_end_matches('/').len();
        address.text.truncate(end);
        return Ok((EntryKind::Address, address.text));
    }
    if !host.contains(['.', ':']) {
        return Err("is a host of one label, or a word with a hyphen");
    }
    address.text.truncate(address.host_bytes);
    Ok((EntryKind::Host, address.text))
}

/// An address in lower case without its scheme, user and port.
struct Address {
    text: String,
    host_bytes: usize,
}

impl Address {
    /// `None` if there is no host.
    fn parse(url: &str) -> Option<Self> {
        let url = url.trim();
        let scheme = url.find(':').filter(|&at| url[at..].starts_with("://"));
        let rest = scheme.map_or(url, |at| &url[at + 3..]);
        let is_end = |byte: u8| matches!(byte, b'/' | b'?' | b'#');
        let host_end = rest.bytes().position(is_end).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(host_end);
        let host = authority.rsplit('@').next().unwrap_or_default();
        let host = match host.rfind(']') {
            Some(end) => &host[..=end],
            None => host.split(':').next().unwrap_or_default(),
        };
        let host = host.trim_end_matches('.');
        if host.is_empty() {
            return None;
        }
        let mut text = [host, path].concat();
        if text.is_ascii() {
            text.make_ascii_lowercase();
            return Some(Self { text, host_bytes: host.len() });
        }
        let host = host.to_lowercase();
        Some(Self { text: [host.as_str(), &path.to_lowercase()].concat(), host_bytes: host.len() })
    }

    fn host(&self) -> &str {
        &self.text[..self.host_bytes]
    }

    /// Where the host and the domains that it belongs to begin, and the dot before the last label;
    /// a numeric address belongs to none.
    fn hosts(&self) -> impl Iterator<Item = usize> {
        let host = self.host();
        let named = host.bytes().any(|byte| !byte.is_ascii_digit() && byte != b'.');
        let top = host.rfind('.').filter(|_| named);
        // The last label alone is no host.
        let dots = host
            .bytes()
            .enumerate()
            .filter(move |&(at, byte)| byte == b'.' && top.is_some_and(|top| at < top));
        std::iter::once(0).chain(dots.map(|(at, _)| at + 1)).chain(top)
    }

    /// Ends of the beginnings that an entry can be, the shortest first; none where the path is
    /// empty or `/`.
    fn path_ends(&self) -> impl Iterator<Item = usize> {
        let path = &self.text[self.host_bytes..];
        let whole = path.trim_end_matches('/').len();
        path[..whole]
            .char_indices()
            .filter(|&(at, c)| at > 0 && matches!(c, '/' | '?' | '&' | '#'))
            .map(|(at, _)| at)
            .chain((whole > 0).then_some(whole))
            .map(|at| self.host_bytes + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> UrlBlocklist {
        let mut lists = UrlBlocklist::default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        std::fs::write(&path, text).unwrap();
        lists.add_file("test", &path).unwrap();
        lists
    }

    /// The entry of `lines` that blocks `url`.
    fn check(lines: &str, url: &str, expect: Option<&str>) {
        let lists = list(lines);
        let found = lists.find(url).map(|blocked| blocked.entry);
        assert_eq!(found.as_deref(), expect, "{url} against {lines:?}");
    }

    #[test]
    fn hosts_take_their_subdomains_along() {
        let lines = "# a comment\nexample.org # known\n\n  *.Example.com\n0.0.0.0 a.net b.net\n";
        check(lines, "https://example.org", Some("example.org"));
        check(lines, "http://user:pw@deep.er.EXAMPLE.org:8080/x?y#z", Some("example.org"));
        check(lines, "www.example.com./", Some("example.com"));
        check(lines, "http://x.b.net/", Some("b.net"));
        check(lines, "http://notexample.org/", None);
        check(lines, "http://example.org.mx/example.org", None);
        check(".xxx\n190.1.2.3\n[2001:db8::1]", "http://a.b.xxx/", Some(".xxx"));
        check(".xxx\n190.1.2.3\n[2001:db8::1]", "http://190.1.2.3:80/", Some("190.1.2.3"));
        check(".xxx\n190.1.2.3\n[2001:db8::1]", "http://[2001:DB8::1]/", Some("[2001:db8::1]"));
        check("2.3.example\n1.2", "http://7.1.2/", None);
    }

    #[test]
    fn addresses_are_whole_beginnings() {
        let lines = "http://example.org/Bets/\nb.example/index.php?id=3";
        check(lines, "https://www.example.org/bets", Some("example.org/bets"));
        check(lines, "https://example.org/bets/a/b", Some("example.org/bets"));
        check(lines, "https://example.org/bets?a", Some("example.org/bets"));
        check(lines, "https://example.org/betsy", None);
        check(lines, "https://example.org/a/bets", None);
        check(lines, "https://example.org/", None);
        check(lines, "http://b.example/index.php?id=3&l=es", Some("b.example/index.php?id=3"));
        check(lines, "http://b.example/index.php?id=31", None);
    }

    #[test]
    fn words_are_whole() {
        check("sex\nniño", "https://www.sussex.ac.uk/", None);
        check("sex\nniño", "https://x.example/Sex-1", Some("sex"));
        check("sex\nniño", "https://x.example/un_niño", Some("niño"));
        check("sex", "https://sex.example/", Some("sex"));
        check("sex", "", None);
    }

    #[test]
    fn a_line_that_is_no_entry_is_named() {
        for (entry, why) in [
            ("a b", "has a space"),
            ("exa$mple.org", "has a host with other signs"),
            ("foo-bar", "is a host of one label"),
            ("a..b", "has a host with other signs"),
            ("http:///x", "has no host"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("list.txt");
            std::fs::write(&path, format!("good.example\n{entry}\n")).unwrap();
            let error = UrlBlocklist::default().add_file("test", &path).unwrap_err().to_string();
            assert!(error.contains("list.txt, line 2: ") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_first_list_that_has_it_is_named() {
        let mut lists = list("a.example");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.zst");
        std::fs::write(
            &path,
            zstd::encode_all(&b"a.example\nb.example/x\nb.example/x"[..], 0).unwrap(),
        )
        .unwrap();
        lists.add_file("more", &path).unwrap();
        assert_eq!(lists.entries(), 3);
        let verdict = |url| {
            let view = View::new("", "spa", Some(url));
            Arc::new(lists.clone()).check(&view, &Thresholds::default()).unwrap().detail
        };
        assert_eq!(verdict("http://w.a.example"), "host a.example is on the block list test");
        let expect = "address b.example/x is on the block list more";
        assert_eq!(verdict("http://b.example/x/y"), expect);
    }

    #[test]
    fn the_built_in_list_knows_betting_and_not_universities() {
        let blocked = |url| UrlBlocklist::built_in().find(url).is_some();
        assert!(blocked("http://www.bet365.com/es") && blocked("http://x.example/casino/bono"));
        assert!(!blocked("http://notbet365.com.example/") && !blocked("https://www.sussex.ac.uk/"));
        assert!(!blocked("https://www.gob.pe/educacion"));
    }

    proptest! {
        #[test]
        fn every_host_of_a_large_list_is_found(hosts in proptest::collection::vec("[a-z]{1,6}\\.[a-z]{2,3}", 1..400)) {
            let lists = list(&hosts.join("\n"));
            for host in &hosts {
                let address = format!("http://w.{host}/x");
                prop_assert_eq!(lists.find(&address).map(|found| found.entry), Some(host.clone()));
                let other = format!("http://{host}0/");
                prop_assert!(lists.find(&other).is_none());
            }
        }

        #[test]
        fn nothing_panics(url in "\\PC{0,40}", entry in "\\PC{0,20}") {
            list("a.example\nb.example/c\nword").find(&url);
            if let Ok((kind, entry)) = parse_entry(&entry) {
                prop_assert_eq!(parse_entry(&entry), Ok((kind, entry.clone())), "{}", entry);
            }
        }
    }
}
