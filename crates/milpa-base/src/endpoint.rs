//! What a report says of a model that answered from elsewhere.
//!
//! Plain data: `milpa-client` fills it, reports keep it. It knows no protocol, and never a key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was sent to an endpoint and what came back, over one command.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRecord {
    /// Where the endpoint is, up to and with `/v1`.
    pub url: String,
    /// The model that was asked for.
    pub model: String,
    /// The names under which models answered, with how many answers each.
    pub reported_models: BTreeMap<String, u64>,
    /// The `system_fingerprint`s of answers, with how many each; most endpoints tell none.
    pub fingerprints: BTreeMap<String, u64>,
    /// Seeds sent, where generation was asked for (the first 16 that differ).
    pub seeds: Vec<u64>,
    /// Temperatures sent, where generation was asked for (the first 16 that differ).
    pub temperatures: Vec<f32>,
    /// Requests answered now.
    pub requests: u64,
    /// Requests that an earlier run had answered.
    pub remembered: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Tokens of prompts as the endpoint counts them, or as they were estimated.
    pub prompt_tokens: u64,
    /// Tokens of completions.
    pub completion_tokens: u64,
    /// Answers that did not say what they used; their tokens are estimates.
    pub estimated: u64,
    /// What it cost by the prices given, in their currency; none without prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// What went wrong, by kind, whether a later attempt mended it or not.
    pub problems: BTreeMap<String, u64>,
}

/// An amount of money.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// How much.
    pub amount: f64,
    /// Of which currency, as the prices name it.
    pub currency: String,
}

impl EndpointRecord {
    /// One line for people.
    pub fn to_line(&self) -> String {
        let counted = |counts: &BTreeMap<String, u64>| {
            let parts: Vec<String> =
                counts.iter().map(|(name, count)| format!("{name} ({count})")).collect();
            parts.join(", ")
        };
        let mut line = format!(
            "endpoint {}: {} requests asked now, {} remembered, {} attempts repeated, {} + {} tokens",
            self.url,
            self.requests,
            self.remembered,
            self.retries,
            self.prompt_tokens,
            self.completion_tokens
        );
        if self.estimated > 0 {
            line += &format!(" ({} answers did not count theirs: estimated)", self.estimated);
        }
        if let Some(cost) = &self.cost {
            line += &format!(", {:.4} {}", cost.amount, cost.currency);
        }
        if !self.reported_models.is_empty() {
            line += &format!("; answered as {}", counted(&self.reported_models));
        }
        if !self.fingerprints.is_empty() {
            line += &format!("; fingerprints {}", counted(&self.fingerprints));
        }
        if !self.problems.is_empty() {
            line += &format!("; problems: {}", counted(&self.problems));
        }
        line
    }
}
