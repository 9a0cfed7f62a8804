//! Classes of characters and the cutting of lines, as Python and datatrove have them.

/// Sentence ends of all scripts, sorted.
const TERMINALS: &str = "!.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡𐩖𐩗𐽕𐽖𐽗𐽘𐽙𐾆𐾇𐾈𐾉𑁇𑁈𑂾𑂿𑃀𑃁𑅁𑅂𑅃𑇅𑇆𑇍𑇞𑇟𑈸𑈹𑈻𑈼𑊩𑑋𑑌𑗂𑗃𑗉𑗊𑗋𑗌𑗍𑗎𑗏𑗐𑗑𑗒𑗓𑗔𑗕𑗖𑗗𑙁𑙂𑜼𑜽𑜾𑥄𑥆𑩂𑩃𑪛𑪜𑱁𑱂𑻷𑻸\u{11F43}\u{11F44}𖩮𖩯𖫵𖬷𖬸𖭄𖺘𛲟𝪈";

/// Marks besides [`TERMINALS`] and control characters of which words that are no words consist.
const MARKS: &str =
    "\"#$%&'()*+,-/:;<=>@[\\]^_`{|}~«´»–—’“”„…∶━►、〈〉《》「」【】％（），１：；～";

/// Whether `c` ends a sentence.
pub(super) fn is_terminal(c: char) -> bool {
    if c.is_ascii() { matches!(c, '.' | '!' | '?') } else { TERMINALS.contains(c) }
}

/// Whether `c` makes no word: marks, sentence ends and control characters.
pub(super) fn is_mark(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_punctuation() || (c.is_ascii_control() && c != '\t' && c != '\n');
    }
    let letter = matches!(c, '\u{C0}'..='\u{58F}' | '\u{1E00}'..='\u{1FFF}');
    !letter && (matches!(c, '\u{80}'..='\u{9F}') || MARKS.contains(c) || is_terminal(c))
}

/// Space as Python's `str.isspace` has it: Unicode's, and the separators U+001C to U+001F.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1C}'..='\u{1F}')
}

/// `text` without the spaces around it.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Runs of what is no space.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Lines as Python's `str.splitlines` cuts them; an end of line at the very end adds none.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(at) = rest.find(is_line_end) else { return Some(std::mem::take(&mut rest)) };
        let (line, tail) = rest.split_at(at);
        let end = if tail.starts_with("\r\n") {
            2
        } else {
            tail.chars().next().map_or(0, char::len_utf8)
        };
        rest = &tail[end..];
        Some(line)
    })
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\u{1C}'..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_as_python_cuts_them() {
        let cut = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(cut("a\r\nb\rc\n\nd\u{2028}e\u{85}"), ["a", "b", "c", "", "d", "e"]);
        assert_eq!(cut("\n"), [""]);
        assert!(cut("").is_empty());
        assert_eq!(strip("\u{1C} a\u{A0}"), "a");
        assert_eq!(words(" a\tb ").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn marks_are_told_from_letters() {
        assert!("\"'»—…。?\u{1}".chars().all(is_mark));
        assert!(!"añ9•€\t".chars().any(is_mark));
        assert!(".?!。。".chars().all(is_terminal) && !"\":;…".chars().any(is_terminal));
    }
}
