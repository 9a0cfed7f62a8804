//! What a chat template can be told besides roles and texts: tools, tool calls, documents, thinking,
//! the time; and what comes back: the text with the assistant's parts in it.
//!
//! Messages are JSON as Hugging Face has them. It knows nothing of Jinja.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::{chat::Message, error::TokensError, tokenizer::Tokenizer};

/// Names of a message's thinking, in the order in which they are looked for.
const THINKING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A conversation as a chat template sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// The messages: JSON objects with `role` and mostly `content`, `tool_calls` and the like.
    pub messages: Vec<Value>,
    /// JSON schemas of the tools that the model may call.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from, with `title` and `text`.
    pub documents: Option<Vec<Value>>,
    /// Further variables, as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// The time that `strftime_now` tells; without it there is no such function, so that the same
    /// conversation always renders to the same text.
    pub now: Option<Moment>,
}

impl Conversation {
    /// A conversation of plain messages.
    pub fn new(messages: &[Message]) -> Self {
        let messages = messages
            .iter()
            .map(|message| {
                let fields = [("role", &message.role), ("content", &message.content)];
                fields
                    .into_iter()
                    .map(|(key, text)| (key.to_owned(), text.as_str().into()))
                    .collect()
            })
            .map(Value::Object)
            .collect();
        Self { messages, ..Self::default() }
    }

    /// The messages as transformers gives them to templates: without fields that are null, and with
    /// their thinking under every name that templates read.
    pub(crate) fn prepared_messages(&self) -> Vec<Value> {
        self.messages
            .iter()
            .map(|message| {
                let Some(fields) = message.as_object() else { return message.clone() };
                let given = fields.iter().filter(|(_, value)| !value.is_null());
                let given = given.map(|(name, value)| (name.clone(), value.clone()));
                let Some(thinking) =
                    THINKING.iter().map(|name| &message[*name]).find(|value| !value.is_null())
                else {
                    return Value::Object(given.collect());
                };
                let mut named = Map::new();
                named.insert("thinking".to_owned(), thinking.clone());
                named.extend(given);
                named.insert("reasoning_content".to_owned(), thinking.clone());
                Value::Object(named)
            })
            .collect()
    }
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Byte ranges of `text` that the template marks as the assistant's by
    /// `{% generation %}…{% endgeneration %}`; none if it marks nothing.
    pub assistant: Vec<Range<usize>>,
}

impl Rendered {
    /// Encodes the text, special tokens read as such, and tells of each token whether it is the
    /// assistant's: transformers' `return_assistant_tokens_mask`.
    ///
    /// As there, a range covers the tokens from that of its first character to the one in which its
    /// last character begins, and an empty range covers the token that it lies inside of.
    ///
    /// # Errors
    /// A tokenizer whose tokens do not spell the text byte for byte: other kinds than byte-level
    /// BPE, and texts that its normaliser changes.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<bool>), TokensError> {
        let ids = tokenizer.encode_with_special(&self.text);
        if tokenizer.pre_split().is_none() {
            return Err(TokensError::NotByteLevel(tokenizer.kind().name()));
        }
        if tokenizer.decode_bytes(&ids) != self.text.as_bytes() {
            return Err(TokensError::Template(
                "the tokenizer changes the text (it normalises), so the assistant's tokens cannot \
                 be told"
                    .to_owned(),
            ));
        }
        let ends: Vec<usize> = ids
            .iter()
            .scan(0, |end, &id| {
                *end += tokenizer.token_bytes(id).map_or(0, <[u8]>::len);
                Some(*end)
            })
            .collect();
        let token_at = |byte: usize| ends.partition_point(|&end| end <= byte);
        let mut mask = vec![false; ids.len()];
        for range in self.assistant.iter().filter(|range| range.end > 0) {
            let last_character = self.text.floor_char_boundary(range.end - 1);
            let (first, last) = (token_at(range.start), token_at(last_character));
            if first <= last && last < mask.len() {
                mask[first..=last].fill(true);
            }
        }
        Ok((ids, mask))
    }
}

/// A time of the calendar, without a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Year of the Gregorian calendar.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
/// Days of a common year before each month.
const DAYS_BEFORE: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

impl Moment {
    /// Writes it as C's `strftime` does in the C locale.
    ///
    /// # Errors
    /// A directive that is not known here, or a month that there is not.
    pub(crate) fn format(self, format: &str) -> Result<String, String> {
        let month = usize::from(self.month).wrapping_sub(1);
        let Some(month_name) = MONTHS.get(month) else {
            return Err(format!("there is no month {}", self.month));
        };
        let hour = (u32::from(self.hour) + 11) % 12 + 1;
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            let mut directive = characters.next();
            let plain = directive == Some('-');
            if plain {
                directive = characters.next();
            }
            let mut number = |value: u32, width: usize| {
                let width = if plain { 0 } else { width };
                text.push_str(&format!("{value:0width$}"));
            };
            match directive {
                Some('Y') => number(self.year.into(), 4),
                Some('y') => number(u32::from(self.year) % 100, 2),
                Some('m') => number(self.month.into(), 2),
                Some('d') => number(self.day.into(), 2),
                Some('H') => number(self.hour.into(), 2),
                Some('I') => number(hour, 2),
                Some('M') => number(self.minute.into(), 2),
                Some('S') => number(self.second.into(), 2),
                Some('j') => number(self.day_of_year(), 3),
                Some('B') => text.push_str(month_name),
                Some('b' | 'h') => text.push_str(&month_name[..3]),
                Some('A') => text.push_str(self.weekday()),
                Some('a') => text.push_str(&self.weekday()[..3]),
                Some('p') => text.push_str(if self.hour < 12 { "AM" } else { "PM" }),
                Some('F') => text.push_str(&self.format("%Y-%m-%d")?),
                Some('T') => text.push_str(&self.format("%H:%M:%S")?),
                Some('%') => text.push('%'),
                other => {
                    return Err(format!("strftime_now does not know %{}", other.unwrap_or(' ')));
                }
            }
        }
        Ok(text)
    }

    fn is_leap_year(self) -> bool {
        self.year.is_multiple_of(4)
            && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    fn day_of_year(self) -> u32 {
        let before = DAYS_BEFORE[usize::from(self.month).clamp(1, 12) - 1];
        before + u32::from(self.day) + u32::from(self.is_leap_year() && self.month > 2)
    }

    fn weekday(self) -> &'static str {
        // 400 years are whole weeks, so this counts from the Sunday before the year 1.
        let years = u32::from(self.year) + 399;
        let leap_days = years / 4 - years / 100 + years / 400;
        DAYS[((years + leap_days + self.day_of_year()) % 7) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(year: u16, month: u8, day: u8) -> Moment {
        Moment { year, month, day, hour: 15, minute: 4, second: 9 }
    }

    #[test]
    fn times_are_written_as_strftime_writes_them() {
        let check = |moment: Moment, format: &str, expect: &str| {
            assert_eq!(moment.format(format).unwrap(), expect);
        };
        check(moment(2026, 11, 21), "%d %b %Y %A %j", "21 Nov 2026 Saturday 325");
        check(moment(2024, 2, 29), "%a %Y-%m-%d %-d %%", "Thu 2024-02-29 29 %");
        check(moment(2000, 1, 1), "%A", "Saturday");
        check(moment(2100, 3, 1), "%A %-j", "Monday 60");
        check(
            moment(2026, 1, 5),
            "%I:%M:%S %p %-d %B %y %F %T",
            "03:04:09 PM 5 January 26 2026-01-05 15:04:09",
        );
        moment(2026, 1, 5).format("%Q").unwrap_err();
        moment(2026, 13, 5).format("%B").unwrap_err();
        Moment { hour: 255, day: 255, ..moment(9999, 12, 1) }.format("%I %j %A").unwrap();
    }

    #[test]
    fn thinking_has_every_name_and_null_fields_go() {
        let messages =
            vec![serde_json::json!({ "role": "assistant", "content": null, "reasoning": "hm" })];
        let conversation = Conversation { messages, ..Conversation::default() };
        let named = serde_json::to_string(&conversation.prepared_messages()).unwrap();
        let expect =
            r#"[{"thinking":"hm","role":"assistant","reasoning":"hm","reasoning_content":"hm"}]"#;
        assert_eq!(named, expect);
    }
}
