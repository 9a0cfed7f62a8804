//! How a conversation becomes the text that the model continues: a chat template and what it is
//! told of the tokenizer.

use milpa_base::Prompt;
use milpa_tokens::{ChatTemplate, Message, RenderOptions, Tokenizer};

/// A chat template with the special tokens of the model it is used for.
#[derive(Debug, Clone)]
pub struct ChatFormat {
    template: ChatTemplate,
    options: RenderOptions,
    name: &'static str,
}

impl ChatFormat {
    /// Makes the format; `options` is usually [`RenderOptions::for_reply`] of the model's
    /// tokenizer, which keeps messages from speaking special tokens.
    pub fn new(template: ChatTemplate, options: RenderOptions) -> Self {
        let is = |name| ChatTemplate::named(name).is_some_and(|named| named == template);
        let name = ["continuation", "chatml"].into_iter().find(|name| is(name)).unwrap_or("custom");
        Self { template, options, name }
    }

    /// The format of a model with this tokenizer: the chat template given, else the one beside the
    /// tokenizer, else plain continuation.
    pub fn for_model(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Self {
        let template = template.or_else(|| tokenizer.chat_template()).cloned();
        let template = template.unwrap_or_else(ChatTemplate::continuation);
        Self::new(template, RenderOptions::for_reply(tokenizer))
    }

    /// The format's name as shown in `/v1/models`: `chatml`, `custom`, or `continuation` for a
    /// base model that has not learnt to answer and only continues what is written.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Renders the conversation up to where the model's next message begins. The error is what
    /// the template says against the conversation.
    pub(crate) fn render(&self, messages: &[Message]) -> Result<Prompt, String> {
        let text =
            self.template.render(messages, &self.options).map_err(|error| error.to_string())?;
        Ok(Prompt::Text { text, parse_special: self.name != "continuation" })
    }
}
