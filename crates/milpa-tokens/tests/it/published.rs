//! Published tokenizers and chat templates against golden values of Hugging Face's own code
//! (`reference/tokenizer_golden.py`).

use std::{collections::BTreeMap, fs, path::Path};

use milpa_tokens::{
    ChatTemplate, Conversation, Message, Moment, PreSplit, RenderOptions, Tokenizer,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{data, train};

#[derive(Deserialize)]
struct GoldenIds {
    texts: Vec<String>,
    #[serde(flatten)]
    tokenizers: BTreeMap<String, BTreeMap<String, Vec<Vec<u32>>>>,
}

fn check_ids(name: &str, path: &Path, pre_split: PreSplit) {
    let golden: GoldenIds = serde_json::from_str(include_str!("golden/ids.json")).unwrap();
    let tokenizer = Tokenizer::open(path).unwrap();
    assert_eq!(tokenizer.pre_split(), Some(pre_split));
    let expected = &golden.tokenizers[name];
    for (index, text) in golden.texts.iter().enumerate() {
        let plain = tokenizer.encode(text);
        assert_eq!(plain, expected["plain"][index], "{name} {text:?}");
        assert_eq!(
            tokenizer.encode_with_special(text),
            expected["special"][index],
            "{name} {text:?}"
        );
        if name != "neox" {
            // GPT-NeoX normalises to NFC, so texts do not come back as they were.
            assert_eq!(tokenizer.decode(&plain), *text);
        }
    }
    let texts: Vec<&str> = golden.texts.iter().map(String::as_str).collect();
    assert_eq!(tokenizer.encode_batch(&texts, 3), expected["plain"]);
    let again = Tokenizer::from_parts(&tokenizer.to_parts().unwrap()).unwrap();
    if name != "neox" {
        assert_eq!(again.encode_batch(&texts, 1), expected["plain"]);
    }
}

#[test]
fn published_tokenizers_give_their_published_ids() {
    let Some(data) = data() else { return };
    let folder = data.join("tokenizers");
    check_ids("gpt2", &folder.join("gpt2"), PreSplit::Gpt2);
    check_ids("dolma2", &folder.join("olmo/allenai_dolma2.json"), PreSplit::Llama3);
    check_ids(
        "neox",
        &folder.join("olmo/allenai_eleuther-ai-gpt-neox-20b-pii-special.json"),
        PreSplit::Gpt2,
    );
}

#[test]
fn gpt2_gives_the_ids_of_an_independent_fixture() {
    let Some(data) = data() else { return };
    let folder = data.join("tokenizers");
    let tokenizer = Tokenizer::open(&folder.join("gpt2")).unwrap();
    assert_eq!(tokenizer.eos_id(), Some(50256));
    let fixture = folder.join("expected_encodings/gpt2_encoded_tokens.json");
    let fixture: Value = serde_json::from_slice(&fs::read(fixture).unwrap()).unwrap();
    let ids: Vec<u32> = serde_json::from_value(fixture["token_ids"].clone()).unwrap();
    assert_eq!(tokenizer.encode(fixture["text"].as_str().unwrap()), ids);
}

#[test]
fn published_chat_templates_render_as_transformers_renders_them() {
    let Some(data) = data() else { return };
    let golden: BTreeMap<String, Vec<Option<String>>> =
        serde_json::from_str(include_str!("golden/chat_templates.json")).unwrap();
    assert_eq!(golden.len(), 18);
    let words = BTreeMap::from([
        ("system", "Eres breve. "),
        ("user", "  ¿Mba’éichapa\r\n\n reime?\n"),
        ("assistant", "Iporã, «aguyje».\n"),
    ]);
    let conversations: [&[&str]; 3] =
        [&["system", "user", "assistant", "user"], &["user", "assistant"], &["user"]];
    for (name, expected) in golden {
        let path = data.join(format!("tokenizers/chat_templates/chat_templates/{name}.jinja"));
        let template = ChatTemplate::new(&fs::read_to_string(path).unwrap()).unwrap();
        for (roles, expected) in conversations.iter().zip(expected) {
            let messages: Vec<Message> =
                roles.iter().map(|role| Message::new(*role, words[role])).collect();
            let options = RenderOptions {
                add_generation_prompt: roles.last() == Some(&"user"),
                bos_token: "<s>".to_owned(),
                eos_token: "</s>".to_owned(),
                guarded: Vec::new(),
            };
            assert_eq!(template.render(&messages, &options).ok(), expected, "{name} {roles:?}");
        }
    }
}

#[derive(Deserialize)]
struct ChatCase {
    name: String,
    template: String,
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    add_generation_prompt: bool,
    now: (u16, u8, u8, u8, u8, u8),
    expect: Expected,
}

/// What transformers made of it; nothing where it raises.
#[derive(Deserialize)]
struct Expected {
    text: Option<String>,
    #[serde(default)]
    spans: Vec<(usize, usize)>,
}

#[test]
fn extensions_of_transformers_render_as_there_with_the_assistants_spans() {
    let cases: Vec<ChatCase> =
        serde_json::from_str(include_str!("golden/chat_cases.json")).unwrap();
    assert!(cases.iter().filter(|case| !case.expect.spans.is_empty()).count() >= 6);
    for case in cases {
        let (year, month, day, hour, minute, second) = case.now;
        let conversation = Conversation {
            messages: case.messages,
            tools: case.tools,
            now: Some(Moment { year, month, day, hour, minute, second }),
            ..Conversation::default()
        };
        let options = RenderOptions {
            add_generation_prompt: case.add_generation_prompt,
            bos_token: "<s>".to_owned(),
            eos_token: "</s>".to_owned(),
            guarded: Vec::new(),
        };
        let rendered = ChatTemplate::new(&case.template)
            .and_then(|template| template.render_conversation(&conversation, &options))
            .ok();
        let spans: Vec<_> = rendered
            .iter()
            .flat_map(|rendered| rendered.assistant.iter().map(|range| (range.start, range.end)))
            .collect();
        assert_eq!(rendered.map(|rendered| rendered.text), case.expect.text, "{}", case.name);
        assert_eq!(spans, case.expect.spans, "{}", case.name);
    }
}

#[test]
fn the_assistants_tokens_are_told() {
    let tokenizer = train(300).tokenizer;
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}\
                    {% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}\
                    {{ m.content }}<|im_end|>{% endif %}{% endfor %}";
    let messages = [Message::new("user", "¿Qué?"), Message::new("assistant", "Ag\u{303}uyje 日")];
    let rendered = ChatTemplate::new(template)
        .unwrap()
        .render_conversation(&Conversation::new(&messages), &RenderOptions::default())
        .unwrap();
    let (ids, mask) = rendered.encode(&tokenizer).unwrap();
    let marked: Vec<u32> =
        ids.iter().zip(&mask).filter(|(_, marked)| **marked).map(|(id, _)| *id).collect();
    assert_eq!(tokenizer.decode(&marked), "Ag\u{303}uyje 日<|im_end|>");
}

#[test]
fn a_message_cannot_write_the_marks_of_the_assistants_parts() {
    let template = "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ tools }}";
    let messages = [Message::new("assistant", "a\u{FDD0}\u{FDD1}b")];
    let rendered = ChatTemplate::new(template)
        .unwrap()
        .render_conversation(&Conversation::new(&messages), &RenderOptions::default())
        .unwrap();
    assert_eq!(rendered.text, "a\u{FDD0}\u{FDD1}bNone");
    assert_eq!(rendered.assistant.len(), 1);
    assert_eq!(rendered.assistant[0], 0.."a\u{FDD0}\u{FDD1}b".len());
}
